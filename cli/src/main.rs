//! The command `shoal`: parses arguments, composes the crates, prints results.

#![recursion_limit = "256"]

mod commands;
mod error;
mod output;
mod progress;

use clap::Parser;
use std::process::ExitCode;

/// Containers on one host and on many: no daemon, no leader.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, disable_help_subcommand = true)]
struct Args {
    #[command(flatten)]
    global: commands::Global,
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match commands::run(&args.global, args.command) {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}
