//! Benchmarks: ours and the peer interleaved in one go, minimum, median and ratio. They assert nothing.

pub(crate) mod bundle;
mod engine;
mod figure;
mod image;
mod measured;
mod mesh;
mod runtime;
mod youki;

pub(crate) use measured::{MEASURED, measured};

use crate::shell::Result;

/// Runs one benchmark by name; figures it prints go to the file of `--json` too.
pub(crate) fn run(args: &[String]) -> Result<()> {
    match args.first().map(String::as_str) {
        Some("runtime") => runtime::run(&args[1..]),
        Some("image") => image::run(&args[1..]),
        Some("engine") => engine::run(&args[1..]),
        Some("mesh") => mesh::run(&args[1..]),
        _ => Err("bench takes one of: runtime image engine mesh".into()),
    }
}

/// The word after an option.
pub(crate) fn value<'a>(args: &'a [String], option: &str) -> Option<&'a str> {
    args.iter().position(|arg| arg == option).and_then(|at| args.get(at + 1)).map(String::as_str)
}
