//! Which process is meant: a number alone is reused, a number with its start time and the boot it lived in is not.
//!
//! In: process numbers from records. Out: an identity that can be compared, and a handle that cannot be confused.

use crate::host::sys;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A process of this host, told apart from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number in the host's process namespace; 0 means none.
    pub pid: i32,
    /// Its start in clock ticks after boot, field 22 of `/proc/PID/stat`.
    pub start: u64,
}

impl ProcessId {
    /// Reads the identity of a running process; `None` when there is none with this number.
    pub fn of(pid: i32) -> Option<Self> {
        start_time(pid).map(|start| Self { pid, start })
    }

    /// The calling process.
    pub fn own() -> Self {
        let pid = i32::try_from(std::process::id()).expect("process numbers fit 22 bits");
        Self::of(pid).unwrap_or(Self { pid, start: 0 })
    }

    /// Whether this very process still runs (a zombie does not).
    pub fn alive(self) -> bool {
        self.pid > 0 && start_time(self.pid) == Some(self.start)
    }

    /// Whether this very process is stopped by a signal or held by a tracer: it runs, and does nothing.
    pub fn is_stopped(self) -> bool {
        let Ok(text) = fs::read(format!("/proc/{}/stat", self.pid)) else { return false };
        parse_start(&text) == Some(self.start) && matches!(state(&text), Some(b"T" | b"t"))
    }

    /// Opens a handle on this very process; `None` when it is gone.
    pub fn open(self) -> Option<OwnedFd> {
        let handle = sys::pidfd_open(self.pid).ok()?;
        self.alive().then_some(handle)
    }

    /// Sends a signal to this very process; a process that is gone is an error of kind `NotFound`.
    pub fn signal(self, signal: i32) -> io::Result<()> {
        let handle = self.open().ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        sys::pidfd_send_signal(handle.as_fd(), signal)
    }
}

/// Field 22 of `/proc/PID/stat`; `None` when the process is gone or a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_start(&text)
}

/// Field 3 of `/proc/PID/stat`.
fn state(text: &[u8]) -> Option<&[u8]> {
    let after = text.iter().rposition(|&byte| byte == b')')? + 2;
    text.get(after..)?.split(|&byte| byte == b' ').next()
}

/// The name in parentheses may itself contain spaces and parentheses: fields are counted after the last `)`.
fn parse_start(text: &[u8]) -> Option<u64> {
    let after = text.iter().rposition(|&byte| byte == b')')? + 2;
    let mut fields = text.get(after..)?.split(|&byte| byte == b' ');
    let state = fields.next()?;
    if matches!(state, b"Z" | b"X") {
        return None;
    }
    std::str::from_utf8(fields.nth(18)?).ok()?.parse().ok()
}

/// The id of this boot: states written under another one describe processes that are gone.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Random bytes from the kernel.
pub fn random<const N: usize>() -> [u8; N] {
    use std::io::Read;
    let mut bytes = [0; N];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .expect("every Linux host has /dev/urandom");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_process_name() {
        let line = b"7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 10 11";
        assert_eq!(parse_start(line), Some(4242));
        assert_eq!(parse_start(b"7 (x) Z 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 10"), None);
        assert_eq!(parse_start(b"garbage"), None);
        assert_eq!(state(line), Some(&b"S"[..]));
        assert_eq!(state(b"7 (x) T 1"), Some(&b"T"[..]));
    }

    #[test]
    fn this_process_is_alive_and_a_wrong_start_is_another_process() {
        let own = ProcessId::own();
        assert!(own.alive());
        assert!(!ProcessId { start: own.start + 1, ..own }.alive());
    }
}
