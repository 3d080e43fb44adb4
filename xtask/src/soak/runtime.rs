//! Ten thousand containers in a row: no hang, and nothing left behind.

use super::census::{Census, Mounts, in_own_mounts};
use crate::bench::bundle;
use crate::shell::{self, Result};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A run that takes longer than this hangs: a no-op needs milliseconds.
const HANG: Duration = Duration::from_secs(20);

/// How long the kernel may take to forget what the last run used.
const SETTLE: Duration = Duration::from_secs(10);

/// Runs a no-op container `rounds` times and compares the host before and after.
pub(crate) fn run(rounds: u32) -> Result<()> {
    if !in_own_mounts()? {
        return Ok(());
    }
    let runtime = shell::bin_dir().join("shoal-runtime");
    let bundle = bundle::Bundle::make()?;
    let word = format!("soak-{}", std::process::id());
    // The first run may make what all later ones share (a cache of filters, a parent cgroup): it is no leak.
    once(&runtime, &bundle, &format!("{word}-first"))?;
    let known = Mounts::now()?;
    let take = || Census::take(bundle.path(), &word, &known);
    let before = take()?;
    let begun = Instant::now();
    let mut walls = Vec::new();
    for round in 0..rounds {
        let begun = Instant::now();
        let status =
            once(&runtime, &bundle, &format!("{word}-{round}")).map_err(|why| format!("round {round}: {why}"))?;
        walls.push(begun.elapsed());
        if !status.success() {
            return Err(format!("round {round}: {status}"));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let deadline = Instant::now() + SETTLE;
    let mut after = take()?;
    while after != before && Instant::now() < deadline {
        after = take()?;
    }
    walls.sort_unstable();
    let at = |part: usize| {
        walls.get(walls.len() * part / 1000).or_else(|| walls.last()).map_or(0.0, |wall| wall.as_secs_f64() * 1e3)
    };
    println!("soak runtime rounds={rounds} seconds={seconds:.1} failed=0 hangs=0");
    println!("  wall ms of a run: median {:.1}, 99.9 % {:.1}, longest {:.1}", at(500), at(999), at(1000));
    println!("  before {before:?}\n  after  {after:?}");
    if before == after { Ok(()) } else { Err("something was left behind".into()) }
}

fn once(runtime: &Path, bundle: &bundle::Bundle, id: &str) -> Result<ExitStatus> {
    let mut child = Command::new(runtime)
        .arg("--root")
        .arg(bundle.root())
        .args(["run", "--bundle"])
        .arg(bundle.path())
        .arg(id)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("start {}: {error}", runtime.display()))?;
    let deadline = Instant::now() + HANG;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(500)),
            Ok(None) => return Err(format!("hangs (pid {} is left for a look)", child.id())),
            Err(error) => return Err(error.to_string()),
        }
    }
}
