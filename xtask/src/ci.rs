//! What must pass before a push, in the order in which it fails fastest.

use crate::shell::Result;
use crate::view::View;
use crate::{build, counts, shell, soak, suite};
use std::process::Command;
use std::time::Instant;

/// Every check, every test, the demo; each step with the time that it took.
pub(crate) fn run() -> Result<()> {
    step("fmt", || shell::cargo(&["fmt", "--all", "--check"], &[]))?;
    // Linking the lean binaries takes one core for minutes; they have a folder of cargo's to themselves.
    std::thread::scope(|scope| {
        let lean = scope.spawn(|| step("lean binaries", build::lean));
        step("clippy", || shell::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[]))?;
        lean.join().map_err(|_| "the build of the lean binaries panicked".to_owned())?
    })?;
    step("build", build::all)?;
    step("hermetic", || hermetic(&[]))?;
    step("oracle", oracle)?;
    step("integration", || integration(&[]))?;
    step("v1 view", v1_view)?;
    step("soak", || soak::run(&["runtime".to_owned(), "--ci".to_owned()]))?;
    step("demo", || shell::run::<&str>("./demo", &[]))
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    let result = work();
    println!("ci: {name}: {} after {} s", if result.is_ok() { "passed" } else { "failed" }, began.elapsed().as_secs());
    result
}

/// The tests alone: hermetic ones first.
pub(crate) fn test(filter: &[String]) -> Result<()> {
    hermetic(filter)?;
    build::all()?;
    integration(filter)
}

/// Unit tests of every crate and the suites of `tests/`.
///
/// Properties start from one seed here, so that two runs of one commit agree; `cargo test` by hand draws a new one each time.
fn hermetic(filter: &[String]) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(shell::top())
        .args(["test", "--workspace", "--exclude", "integration", "--exclude", "probe"])
        .args(filter);
    command.env("PROPTEST_RNG_SEED", PROPTEST_SEED);
    shell::status(command)
}

/// The seed of the properties in CI; any number will do.
const PROPTEST_SEED: &str = "20480";

/// The seccomp compiler against libseccomp, which only this step needs.
fn oracle() -> Result<()> {
    shell::cargo(&["test", "-p", "runtime", "--features", "oracle", "--test", "seccomp_oracle"], &[])
}

/// The runtime suite once more where the unified hierarchy is hidden: what a host without one sees.
fn v1_view() -> Result<()> {
    let hybrid = std::path::Path::new("/sys/fs/cgroup/unified/cgroup.controllers").exists();
    if !hybrid || View::V1.lacking().is_some() {
        return Ok(());
    }
    let mut command = View::V1.command();
    command.arg(suite::binary("runtime")?).args(["--test-threads", "2"]);
    command.env("SHOAL_BIN_DIR", shell::bin_dir());
    shell::status(command)
}

/// The suites of `integration/` on the built binaries.
fn integration(filter: &[String]) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(shell::top())
        // A suite that fails must not hide what the others would say: a round takes minutes.
        .args(["test", "-p", "integration", "--no-fail-fast"])
        .args(filter)
        .envs(counts::for_ci())
        .env("SHOAL_BIN_DIR", shell::bin_dir());
    shell::status(command)
}
