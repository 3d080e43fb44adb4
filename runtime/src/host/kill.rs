//! `kill`: a signal to the first process, or to all.

use std::os::fd::AsFd;

use oci::ContainerId;

use super::cgroup::Cgroup;
use super::state::{self, Record, Root};
use super::sys::clone::{pidfd_open, pidfd_send_signal};
use crate::error::{During, Error, Result};

/// Sends `signal` to the first process of a container.
pub fn kill(root: &Root, id: &ContainerId, signal: i32) -> Result<()> {
    let record = root.record(id)?;
    let gone = || Error::state("container not running");
    if !state::is_alive(&record) {
        return Err(gone());
    }
    let pidfd = pidfd_open(record.pid).map_err(|_| gone())?;
    // The descriptor is of the process that was looked at only if that one is still there.
    if !state::is_alive(&record) {
        return Err(gone());
    }
    match pidfd_send_signal(pidfd.as_fd(), signal) {
        Err(nix::Error::ESRCH) => return Err(gone()),
        sent => sent.during(|| format!("send signal {signal} to process {}", record.pid))?,
    }
    if signal == libc::SIGKILL { finish_off(&record) } else { Ok(()) }
}

/// Sees to it that a container that was killed is dead: without a pid namespace of its own the others live on, and what
/// is frozen (v1) does not die before it is thawed.
fn finish_off(record: &Record) -> Result<()> {
    let Some(cgroup) = record.cgroup.as_ref().map(Cgroup::open).transpose()? else { return Ok(()) };
    if !record.own_pids {
        cgroup.signal_all(libc::SIGKILL)?;
    } else if cgroup.is_frozen().unwrap_or(false) {
        cgroup.thaw()?;
    }
    Ok(())
}

/// Sends `signal` to every process of a container, also when its first one has ended.
pub fn kill_all(root: &Root, id: &ContainerId, signal: i32) -> Result<()> {
    let record = root.record(id)?;
    let Some(state) = &record.cgroup else { return kill(root, id, signal) };
    Ok(Cgroup::open(state)?.signal_all(signal)?)
}

/// Reads a signal: its number, or its name with or without `SIG`, in any case; real-time ones as `RTMIN+1`.
pub fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (0..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // The C library keeps the first two real-time signals for itself.
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(RTMIN),
        (_, Some("")) => Some(RTMAX),
        (Some(offset), _) => {
            offset.strip_prefix('+').and_then(|more| more.parse::<i32>().ok()).map(|more| RTMIN + more)
        }
        (_, Some(offset)) => {
            offset.strip_prefix('-').and_then(|less| less.parse::<i32>().ok()).map(|less| RTMAX - less)
        }
        _ => None,
    };
    if let Some(number) = real_time {
        return (RTMIN..=RTMAX).contains(&number).then_some(number);
    }
    let alias = match name {
        "CLD" => "CHLD",
        "POLL" => "IO",
        "IOT" => "ABRT",
        name => name,
    };
    format!("SIG{alias}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_number_and_by_name() {
        for (text, number) in [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("RTMIN+1", 35), ("0", 0)] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for bad in ["", "SIG", "65", "-1", "NOPE", "RTMIN+99", "RTMIN-1"] {
            assert_eq!(signal_number(bad), None, "{bad}");
        }
    }
}
