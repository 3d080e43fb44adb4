//! `shoal push`.

use super::registry_args::{ProgressArgs, RegistryArgs, block_on};
use crate::commands::Global;
use crate::error::Error;
use crate::progress::Reporter;
use image::push::PushOptions;
use image::remote::transport::Limits;
use oci::Reference;
use std::process::ExitCode;

/// Upload an image to its registry
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An image of the store
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Push it under this name [default: its own]
    #[arg(value_name = "DESTINATION")]
    destination: Option<String>,
    /// Push every tag of the repository
    #[arg(short, long, conflicts_with = "destination")]
    all_tags: bool,
    /// Write the digest to this file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<std::path::PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let options =
        PushOptions { config: args.registry.config()?, identity: args.registry.identity(), limits: Limits::default() };
    let mut jobs = Vec::new();
    if args.all_tags {
        let wanted: Reference = args.image.parse()?;
        for image in store.images()? {
            jobs.extend(
                image
                    .names
                    .iter()
                    .filter(|name| name.name() == wanted.name())
                    .map(|name| (image.target.clone(), name.clone())),
            );
        }
        if jobs.is_empty() {
            return Err(Error::new(format!("no tag of {} is in the store", wanted.name())).hint("shoal images"));
        }
    } else {
        let image = store.find(&args.image)?;
        let destination = match &args.destination {
            Some(text) => text.strip_prefix("docker://").unwrap_or(text).parse()?,
            None => match args.image.parse::<Reference>() {
                Ok(reference) => reference,
                Err(_) => image
                    .names
                    .first()
                    .cloned()
                    .ok_or_else(|| Error::new(format!("{} has no name to push to", args.image)))?,
            },
        };
        jobs.push((image.target, destination));
    }
    let reporter = Reporter::new(args.progress.progress, args.progress.quiet, "Pushed");
    block_on(async {
        for (target, destination) in &jobs {
            if !args.progress.quiet {
                eprintln!("The push refers to repository [{}]", destination.name());
            }
            let pushed =
                image::push::push(&store, target, destination, &options, &reporter).await.map_err(|error| {
                    let hint = error.hint();
                    let error = Error::from(error);
                    match hint {
                        Some(hint) => error.hint(hint),
                        None => error,
                    }
                })?;
            super::happened(global, "push", destination.familiar(), destination.familiar_name());
            println!("{}: digest: {} size: {}", destination.identifier(), pushed.digest, pushed.size);
            if let Some(path) = &args.digestfile {
                std::fs::write(path, pushed.digest.to_string())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })?
}
