//! Ten thousand containers in a row: no hang, and nothing left behind.

use crate::bench::bundle;
use crate::shell::{self, Result};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A run that takes longer than this hangs: a no-op needs milliseconds.
const HANG: Duration = Duration::from_secs(20);

/// Runs a no-op container `rounds` times and compares the host before and after.
pub(crate) fn run(rounds: u32) -> Result<()> {
    let runtime = shell::bin_dir().join("shoal-runtime");
    let bundle = bundle::Bundle::make()?;
    let before = Census::take(bundle.root())?;
    let begun = Instant::now();
    for round in 0..rounds {
        let mut child = Command::new(&runtime)
            .args([
                "--root".as_ref(),
                bundle.root().as_os_str(),
                "run".as_ref(),
                "--bundle".as_ref(),
                bundle.path().as_os_str(),
            ])
            .arg(format!("soak-{}-{round}", std::process::id()))
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("start {}: {error}", runtime.display()))?;
        let deadline = Instant::now() + HANG;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(200)),
                Ok(None) => return Err(format!("round {round} hangs (pid {})", child.id())),
                Err(error) => return Err(format!("round {round}: {error}")),
            }
        };
        if !status.success() {
            return Err(format!("round {round}: {status}"));
        }
    }
    let after = Census::take(bundle.root())?;
    println!("soak runtime rounds={rounds} seconds={:.1}", begun.elapsed().as_secs_f64());
    println!("  before {before:?}\n  after  {after:?}");
    if before == after { Ok(()) } else { Err("something was left behind".into()) }
}

/// What a leak would show in.
#[derive(Debug, PartialEq, Eq)]
struct Census {
    mounts: usize,
    cgroups: usize,
    state_entries: usize,
    runtimes: usize,
    descriptors: usize,
}

impl Census {
    fn take(root: &std::path::Path) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| format!("read mountinfo: {error}"))?
            .lines()
            .count();
        let cgroups = shell::output("find", &["/sys/fs/cgroup", "-type", "d"])?.lines().count();
        let state_entries = fs::read_dir(root).map_or(0, Iterator::count);
        let runtimes = fs::read_dir("/proc")
            .map_err(|error| format!("read /proc: {error}"))?
            .flatten()
            .filter(|entry| fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe.ends_with("shoal-runtime")))
            .count();
        let descriptors = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Ok(Self { mounts, cgroups, state_entries, runtimes, descriptors })
    }
}
