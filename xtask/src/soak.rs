//! The long counts: the same code as the tests, other numbers.

mod attacks;
mod census;
mod engine;
mod runtime;
mod sim;

use crate::counts::{self, COUNTS};
use crate::shell::{self, Result};
use crate::suite;
use std::process::Command;
use std::time::Duration;

/// Runs one soak by name.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let Some(name) = args.first() else {
        for count in COUNTS {
            println!("{:10} ci {:>6}  soak {:>6}  {}", count.name, count.ci, count.soak, count.round);
        }
        return Ok(());
    };
    let count = counts::of(name)?;
    let given = |option: &'static str| match crate::bench::value(args, option).map(str::parse::<u32>) {
        Some(Ok(number)) => Ok(Some(number)),
        None if !args.iter().any(|arg| arg == option) => Ok(None),
        _ => Err(format!("{option} takes a number")),
    };
    let usual = if args.iter().any(|arg| arg == "--ci") { count.ci } else { count.soak };
    let number = given("--count")?.unwrap_or(usual);
    let limit = given("--minutes")?.map(|minutes| Duration::from_secs(60 * u64::from(minutes)));
    match name.as_str() {
        "runtime" => runtime::run(number),
        "attacks" => attacks::run(number, limit, args.iter().any(|arg| arg == "--write")),
        "engine" => engine::run(number, args),
        "many" => case("many_runs_at_once", "SHOAL_AT_ONCE", number),
        "flood" => case("a_flood_of_output", "SHOAL_LOG_MB", number),
        "crash" => crash(number),
        "image" => image(number),
        "load" => load(number, counts::of("kills")?.soak),
        "kills" => load(0, number),
        "sim" => sim::run(number, args),
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

/// One case of the engine's suite with another count.
fn case(name: &str, variable: &str, number: u32) -> Result<()> {
    let mut command = Command::new(suite::binary("engine")?);
    command.args([name, "--nocapture"]).env(variable, number.to_string()).env("SHOAL_BIN_DIR", shell::bin_dir());
    shell::status(command)
}

/// Pushes, pulls, deletions and collections side by side, with kills.
fn image(operations: u32) -> Result<()> {
    let mut command = Command::new(suite::binary("registry")?);
    command.args(["random_pushes_pulls", "--nocapture"]);
    command.env("SHOAL_IMAGE_OPERATIONS", operations.to_string()).env("SHOAL_BIN_DIR", shell::bin_dir());
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
