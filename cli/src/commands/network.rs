//! The verbs of the network group.

use crate::commands::Global;
use crate::error::Error;
use clap::Subcommand;
use std::process::ExitCode;

/// The verbs of the network group.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// (being written)
    NetworkRoom,
}

/// Runs one verb.
pub(crate) fn run(_global: &Global, _command: Command) -> Result<ExitCode, Error> {
    Err(Error::new("this verb is being written"))
}
