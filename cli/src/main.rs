//! The command `shoal`: parses arguments, composes the crates, prints results.

#![recursion_limit = "256"]

mod commands;
mod error;
mod output;
mod progress;
mod usage;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
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

/// The definition of every command, with the overview as the first page of help.
fn definition() -> clap::Command {
    let command = Args::command();
    let overview = commands::about::overview(&command);
    command.override_help(overview)
}

fn main() -> ExitCode {
    let args = match definition().try_get_matches().and_then(|matches| Args::from_arg_matches(&matches)) {
        Ok(args) => args,
        Err(error) => {
            let code = usage_code(&error, std::env::args().skip(1));
            usage::report(&error);
            return ExitCode::from(code);
        }
    };
    match commands::run(&args.global, args.command) {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}

/// Exit code of a command line that cannot be read: 2, except for verbs whose other codes are the container's own: 125.
fn usage_code(error: &clap::Error, mut words: impl Iterator<Item = String>) -> u8 {
    if error.exit_code() == 0 {
        return 0;
    }
    let mut verb = words.find(|word| !word.starts_with('-'));
    if verb.as_deref() == Some("container") {
        verb = words.find(|word| !word.starts_with('-'));
    }
    if matches!(verb.as_deref(), Some("run" | "create" | "exec")) { 125 } else { 2 }
}
