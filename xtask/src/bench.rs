//! Benchmarks: ours and the peer interleaved in one go, minimum, median and ratio. They assert nothing.

pub(crate) mod bundle;
mod figure;
mod measured;
mod runtime;

pub(crate) use measured::{MEASURED, measured};

use crate::shell::{self, Result};

/// Runs one benchmark by name; figures it prints go to the file of `--json` too.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let json = args.iter().position(|arg| arg == "--json").and_then(|at| args.get(at + 1));
    let mut figures = figure::Figures::default();
    match args.first().map(String::as_str) {
        Some("runtime") => runtime::run(&mut figures)?,
        Some(name @ ("image" | "engine" | "mesh")) => {
            let script = format!("xtask/bench/{name}");
            if !shell::top().join(&script).exists() {
                return Err(format!("there is no benchmark {name} yet"));
            }
            return shell::run(&format!("./{script}"), &args[1..]);
        }
        _ => return Err("bench takes one of: runtime image engine mesh".into()),
    }
    match json {
        Some(path) => figures.write(path),
        None => Ok(()),
    }
}
