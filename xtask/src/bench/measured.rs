//! One command measured: wall time, CPU of it and of all it waited for; and its peak memory in a run of its own.
//!
//! The command runs under a small process of ours, since the kernel adds up what children used per parent.

use crate::shell::Result;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The hidden verb under which the measuring process runs.
pub(crate) const MEASURED: &str = "__measured";

/// The word before the command when the orphans it leaves count too: monitors that end with their container.
const WHOLE: &str = "--whole";

/// How long orphans are waited for; what lives on then is a daemon and no cost of the command.
const ORPHANS: Duration = Duration::from_secs(2);

/// A command that takes longer hangs: none of those measured needs a second alone.
const HANG: Duration = Duration::from_secs(30);

/// What one run of a command cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Wall time, ms.
    pub(crate) wall_ms: f64,
    /// User and system time, ms.
    pub(crate) cpu_ms: f64,
    /// Whether it succeeded.
    pub(crate) ok: bool,
}

/// The measuring process: runs `args`, prints a [`Cost`] as JSON on its last line.
pub(crate) fn measured(args: &[String]) -> ExitCode {
    let whole = args.first().is_some_and(|word| word == WHOLE);
    let Some((program, rest)) = args[usize::from(whole)..].split_first() else { return ExitCode::from(2) };
    if whole && nix::sys::prctl::set_child_subreaper(true).is_err() {
        return ExitCode::FAILURE;
    }
    let (pid, pids) = mpsc::channel::<i32>();
    // Ends what hangs; a process that has ended in time takes this thread along.
    let _watchdog = std::thread::spawn(move || {
        let Ok(pid) = pids.recv() else { return };
        std::thread::sleep(HANG);
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    });
    let mut command = Command::new(program);
    command.args(rest).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let Ok(mut child) = command.spawn() else { return ExitCode::FAILURE };
    if let Ok(number) = i32::try_from(child.id()) {
        let _ = pid.send(number);
    }
    let status = child.wait();
    let wall_ms = begun.elapsed().as_secs_f64() * 1e3;
    let deadline = Instant::now() + ORPHANS;
    while whole && Instant::now() < deadline {
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(1)),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return ExitCode::FAILURE };
    let cost = Cost {
        wall_ms,
        cpu_ms: ms(usage.user_time()) + ms(usage.system_time()),
        ok: status.is_ok_and(|status| status.success()),
    };
    println!("{}", serde_json::json!(cost));
    ExitCode::SUCCESS
}

#[expect(clippy::cast_precision_loss, reason = "seconds of CPU lie far below 2^52")]
fn ms(time: TimeVal) -> f64 {
    time.tv_sec() as f64 * 1e3 + time.tv_usec() as f64 / 1e3
}

/// Runs `command` once, measured.
pub(crate) fn cost(command: &[OsString]) -> Result<Cost> {
    measure(command, &[])
}

/// The same, with the CPU of processes that the command leaves behind and that end by themselves.
pub(crate) fn whole_cost(command: &[OsString]) -> Result<Cost> {
    measure(command, &[WHOLE])
}

fn measure(command: &[OsString], how: &[&str]) -> Result<Cost> {
    let me = std::env::current_exe().map_err(|error| format!("find xtask itself: {error}"))?;
    let output =
        Command::new(me).arg(MEASURED).args(how).args(command).output().map_err(|error| format!("measure: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    let cost: Cost = serde_json::from_str(line).map_err(|error| format!("measure {command:?}: {error}"))?;
    if !cost.ok {
        return Err(format!("{command:?} fails"));
    }
    Ok(cost)
}

/// Largest resident set of any process of `command`, MB.
///
/// A child's peak counts what it was before it executed its program, so the parent must be small: busybox, below 1 MB.
pub(crate) fn rss_mb(command: &[OsString]) -> Result<f64> {
    // Some busybox take the kernel's kilobytes for pages; its own no-op, about 1 MB, shows which.
    let unit = if peak(&["busybox".into(), "true".into()])? > 2_500.0 { 4.0 } else { 1.0 };
    Ok(peak(command)? / unit / 1024.0)
}

fn peak(command: &[OsString]) -> Result<f64> {
    let output = Command::new("busybox").args(["time", "-v"]).args(command).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("busybox: {error}; run: apt-get install busybox-static"))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Maximum resident set size (kbytes): "));
    line.and_then(|text| text.parse().ok()).ok_or_else(|| "busybox time gives no peak".to_owned())
}

/// The last words a command has to say on standard error, one line.
pub(crate) fn words(command: &[OsString]) -> String {
    let Some((program, rest)) = command.split_first() else { return String::new() };
    let output = Command::new(program).args(rest).stdin(Stdio::null()).output();
    let text =
        output.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stderr).into_owned());
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no words").chars().take(160).collect()
}

/// Minimum and median of a list of values.
pub(crate) fn least_and_median(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted.first().copied().unwrap_or(f64::NAN), sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN))
}
