//! The OCI runtime as a lean static binary, a drop-in for runc.
//!
//! In: runc's command line. Out: runc's output, exit codes and log lines. Parses and composes; everything else is the
//! `runtime` crate's.

mod args;
mod commands;
mod log;

use std::process::ExitCode;

fn main() -> ExitCode {
    let (log, outcome) = match args::Global::read() {
        Ok((global, command, rest)) => {
            let log = log::Log::open(&global);
            let outcome = commands::dispatch(&global, &log, &command, rest);
            (log, outcome)
        }
        Err(failure) => (log::Log::default(), Err(failure)),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(commands::Failure { error, code, report }) => {
            log.error(&error, &report);
            ExitCode::from(code)
        }
    }
}
