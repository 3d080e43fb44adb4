//! `diff`.

use super::{explain, open};
use crate::commands::Global;
use crate::error::Error;
use std::process::ExitCode;

/// Show what a container has changed in its root file system
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// The container
    container: String,
}

pub(crate) fn diff(global: &Global, args: &DiffArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    for change in engine.diff(&args.container).map_err(explain)? {
        println!("{} {}", change.kind, change.path);
    }
    Ok(ExitCode::SUCCESS)
}
