//! `shoal rmi`, `shoal image rm`.

use crate::commands::Global;
use crate::error::Error;
use image::{ImageRecord, Store};
use oci::Reference;
use std::process::ExitCode;

/// Remove images by name or id
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove also what containers use or what has several names
    #[arg(short, long)]
    force: bool,
    /// Leave the content for a later `shoal image gc`
    #[arg(long)]
    no_prune: bool,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let mut code = ExitCode::SUCCESS;
    for text in &args.images {
        if let Err(error) = remove(global, &store, text, args.force) {
            code = error.report();
        }
    }
    if !args.no_prune {
        image::gc::run(&store, image::gc::Options::default())?;
    }
    Ok(code)
}

fn remove(global: &Global, store: &Store, text: &str, force: bool) -> Result<(), Error> {
    let image = store.find(text)?;
    let name = text.parse::<Reference>().ok().filter(|name| image.names.contains(name) || name.digest().is_some());
    match name {
        // One name of several: the image stays.
        Some(name) if image.names.len() > 1 && name.digest().is_none() => {
            store.untag(&name)?;
            super::happened(global, "untag", image.id, image.id);
            println!("Untagged: {}", name.familiar());
            Ok(())
        }
        None if image.names.len() > 1 && !force => {
            let names: Vec<String> = image.names.iter().map(Reference::familiar).collect();
            Err(Error::new(format!("image {} has several names: {}", image.id.short(), names.join(", ")))
                .hint(format!("shoal rmi {} removes one, shoal rmi -f {text} removes all", names[0]))
                .code(5))
        }
        name => remove_all(global, store, &image, name.is_none(), force),
    }
}

/// Removes the image, and with `by_id` everything else that holds it. An image that was named and has another name by
/// another manifest or index stays.
fn remove_all(global: &Global, store: &Store, image: &ImageRecord, by_id: bool, force: bool) -> Result<(), Error> {
    let same = |other: &ImageRecord| other.id == image.id && other.target.digest != image.target.digest;
    let others: Vec<ImageRecord> = store.images()?.into_iter().filter(same).collect();
    let has_name = |other: &ImageRecord| !other.names.is_empty() || !other.digests.is_empty();
    let named = |other: &ImageRecord| !by_id && has_name(other);
    let stays = others.iter().any(named);
    let users = if stays { Vec::new() } else { store.users(image)? };
    if !users.is_empty() && !force {
        let short: Vec<&str> = users.iter().map(|id| id.get(..12).unwrap_or(id)).collect();
        return Err(Error::new(format!("image {} is used by {}", image.display_name(), short.join(", ")))
            .hint("remove the containers first, or add -f: the image loses its name and goes with its last container")
            .code(5));
    }
    for name in &image.names {
        println!("Untagged: {}", name.familiar());
    }
    // As seen above: a name that comes later was given by somebody who wants it.
    for other in others.iter().filter(|other| !named(other)) {
        store.forget_seen(other)?;
    }
    store.forget_seen(image)?;
    image.names.iter().for_each(|_| super::happened(global, "untag", image.id, image.id));
    if users.is_empty() && !stays {
        super::happened(global, "delete", image.id, image.id);
        println!("Deleted: {}", image.id);
    }
    Ok(())
}
