//! `shoal tag`.

use crate::commands::Global;
use crate::error::Error;
use oci::Reference;
use std::process::ExitCode;

/// Give an image another name
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A name or an id
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The new name
    #[arg(value_name = "TARGET[:TAG]")]
    target: Reference,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    if args.target.digest().is_some() {
        return Err(
            Error::new(format!("{} has a digest: a name for an image has a tag", args.target.familiar())).code(2)
        );
    }
    let store = super::open_store(global)?;
    let image = store.find(&args.source)?;
    store.tag(&args.target, &image.target)?;
    super::happened(global, "tag", image.id, args.target.familiar());
    Ok(ExitCode::SUCCESS)
}
