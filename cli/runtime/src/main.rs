//! The OCI runtime as a lean static binary, a drop-in for runc.
//!
//! In: runc's command line. Out: runc's output, exit codes and log lines. Parses and composes; everything else is the
//! `runtime` crate's.

#![cfg_attr(not(test), no_main)]

mod args;
mod commands;
mod log;
mod manual;
mod usage;

use std::ffi::OsString;
use std::io::Write as _;

#[cfg(not(test))]
use runtime::host::sys::{memory::OneThread, process::Words};

/// Every block is one of a short life in one thread.
#[cfg(not(test))]
#[global_allocator]
static MEMORY: OneThread = OneThread::new();

/// Where the C library enters: the language's own start-up reads procfs and sets handlers, twice because of the second
/// execution, and takes a tenth of all system calls of `run`.
#[cfg(not(test))]
#[expect(unsafe_code, reason = "the name by which the C library finds it; there is no other `main`")]
#[unsafe(no_mangle)]
extern "C" fn main(count: std::ffi::c_int, words: Words) -> std::ffi::c_int {
    runtime::host::sys::process::begin();
    std::panic::set_hook(Box::new(|defect| {
        // Nothing is unwound, and abort(3) ends the first process of a pid namespace only by a fault of its own.
        eprintln!("shoal-runtime: please report this defect: {defect}");
        runtime::host::sys::clone::exit_now(DEFECT)
    }));
    let code = command(words.read(count));
    // Nobody is left to be told when the output is gone.
    let _ = std::io::stdout().flush();
    code.into()
}

#[cfg(test)]
fn main() {
    let _ = (command(std::env::args_os().collect()), std::io::stdout().flush());
}

/// The exit code of a command, or of a container's first process before its program, that found itself broken.
#[cfg(not(test))]
const DEFECT: i32 = 101;

fn command(args: Vec<OsString>) -> u8 {
    let (log, outcome) = match args::Global::read(args) {
        Ok((global, command, rest)) => match log::Log::open(&global) {
            Ok(log) => {
                let outcome = commands::dispatch(&global, &log, &command, rest);
                (log, outcome)
            }
            Err(failure) => (log::Log::default(), Err(failure)),
        },
        Err(failure) => (log::Log::default(), Err(failure)),
    };
    match outcome {
        Ok(code) => code,
        Err(commands::Failure { error, code, report }) => {
            log.error(&error, &report);
            code
        }
    }
}
