//! `shoal image prune`, `gc`, `verify`: keeping the store small and sound.

use super::list::Filters;
use crate::commands::Global;
use crate::error::Error;
use crate::output::size::bytes;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Remove images that have no name, or that no container uses
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Remove every image that no container uses
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only these: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

pub(crate) fn prune(global: &Global, args: &PruneArgs) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let filters = Filters::parse(&store, &args.filter)?;
    if !args.force && std::io::stdin().is_terminal() {
        let what = if args.all { "all images without a container" } else { "all images without a name" };
        eprint!("This will remove {what}. Continue? [y/N] ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !answer.trim().eq_ignore_ascii_case("y") {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let freed = remove_unused(&store, args.all, &filters)?;
    println!("Total reclaimed space: {}", bytes(freed));
    Ok(ExitCode::SUCCESS)
}

/// Removes images that no container uses, the named ones too when `all`; prints docker's list and returns the freed bytes.
fn remove_unused(store: &image::Store, all: bool, filters: &Filters) -> Result<u64, Error> {
    let mut removed = Vec::new();
    for image in store.images()? {
        let unnamed = image.names.is_empty() && image.digests.is_empty();
        let takes = (all || unnamed) && store.users(&image)?.is_empty() && filters.keep(store, &image)?;
        if takes {
            store.forget_seen(&image)?;
            removed.push(image);
        }
    }
    let report = image::gc::run(store, image::gc::Options::default())?;
    if !removed.is_empty() {
        println!("Deleted Images:");
        for image in &removed {
            for name in &image.names {
                println!("untagged: {}", name.familiar());
            }
            println!("deleted: {}", image.id);
        }
        println!();
    }
    Ok(report.bytes)
}

/// What `system prune` does to images; `filters` are those of the command line.
pub(crate) fn prune_for_system(global: &Global, all: bool, filters: &[String]) -> Result<u64, Error> {
    let store = super::open_store(global)?;
    let filters = Filters::parse(&store, filters)?;
    remove_unused(&store, all, &filters)
}

/// Remove content that no image and no container needs
#[derive(Debug, clap::Args)]
pub(crate) struct GcArgs {
    /// Broken downloads and uploads too
    #[arg(long)]
    partial: bool,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn gc(global: &Global, args: &GcArgs) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let report = image::gc::run(&store, image::gc::Options { partial: args.partial, dry_run: args.dry_run })?;
    for digest in &report.blobs {
        println!("blob {digest}");
    }
    for layer in &report.layers {
        println!("layer {layer}");
    }
    let verb = if args.dry_run { "would free" } else { "freed" };
    println!(
        "{verb} {} in {} blobs, {} layers, {} leftovers",
        bytes(report.bytes),
        report.blobs.len(),
        report.layers.len(),
        report.leftovers
    );
    Ok(ExitCode::SUCCESS)
}

/// Read everything in the store and say what is wrong with it
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {}

pub(crate) fn verify(global: &Global, _args: &VerifyArgs) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let checked = store.check()?;
    for problem in &checked.problems {
        println!("{problem}");
    }
    println!("{} blobs, {} layers, {} problems", checked.blobs, checked.layers, checked.problems.len());
    Ok(if checked.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
