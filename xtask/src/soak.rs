//! The long counts: the same code as the tests, other numbers.

mod attacks;
mod census;
mod runtime;

use crate::counts::{self, COUNTS};
use crate::shell::{self, Result};
use crate::suite;
use std::process::Command;

/// Runs one soak by name.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let Some(name) = args.first() else {
        for count in COUNTS {
            println!("{:10} ci {:>6}  soak {:>6}  {}", count.name, count.ci, count.soak, count.round);
        }
        return Ok(());
    };
    let count = counts::of(name)?;
    let number = match args.get(1).map(String::as_str) {
        Some("--ci") => count.ci,
        Some("--count") => args.get(2).and_then(|text| text.parse().ok()).ok_or("--count takes a number")?,
        _ => count.soak,
    };
    match name.as_str() {
        "runtime" => runtime::run(number),
        "attacks" => attacks::run(number, args.iter().any(|arg| arg == "--write")),
        "crash" => crash(number),
        "load" => load(number, counts::of("kills")?.soak),
        "kills" => load(0, number),
        _ => Err(format!("{name} has no code here")),
    }
}

/// The runtime killed at every `stride`-th system call of every operation.
fn crash(stride: u32) -> Result<()> {
    let mut command = Command::new(suite::binary("crash")?);
    command.args(["killed_anywhere", "--nocapture", "--test-threads", "2"]);
    command.env("SHOAL_CRASH_STRIDE", stride.to_string()).env("SHOAL_BIN_DIR", shell::bin_dir());
    shell::status(command)
}

/// The mesh under load until `requests` were asked, then a node killed `kills` times; 0 leaves a part out.
fn load(requests: u32, kills: u32) -> Result<()> {
    for (count, test) in [(requests, "updates_drains"), (kills, "killed_nodes")] {
        if count == 0 {
            continue;
        }
        let mut command = Command::new(suite::binary("mesh")?);
        command.args([test, "--nocapture", "--include-ignored"]);
        command.env("SHOAL_LOAD_REQUESTS", requests.to_string()).env("SHOAL_LOAD_KILLS", kills.to_string());
        command.env("SHOAL_BIN_DIR", shell::bin_dir());
        shell::status(command)?;
    }
    Ok(())
}
