//! Waiting for a container's lock, never for ever.
//!
//! In: an attempt that does not wait. Out: what it gave, or a refusal that names the process in the way. A command that
//! a hook runs on its own container waits for one that waits for the hook: that is refused at once.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::super::procfs::read_file;
use crate::error::Error;

/// How long another command may hold the lock before this one gives up.
const WAIT: Duration = Duration::from_secs(10);

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// How many generations of processes are looked through for the lock's holder.
const ANCESTORS_MAX: usize = 64;

/// Why the lock was not taken.
#[derive(Debug)]
pub(super) enum Refused {
    /// Locking itself failed.
    Failed(Errno),
    /// This process was started, directly or not, by the holder, who waits for it.
    Ancestor(i32),
    /// The time is over.
    TimedOut(Option<i32>),
}

impl Refused {
    /// The error to show; `operation` says what was wanted.
    pub(super) fn into_error(self, operation: impl FnOnce() -> String) -> Error {
        match self {
            Self::Failed(errno) => Error::Failed { operation: operation(), errno: errno as i32 },
            Self::Ancestor(pid) => Error::state(format!(
                "the container is in use by process {pid}, which has started this command and waits for it; \
                 use it after that has ended"
            )),
            Self::TimedOut(pid) => {
                let who = pid.map_or_else(|| "another command".into(), |pid| format!("process {pid}"));
                Error::state(format!("the container is in use by {who}; try again when that has ended, or end it"))
            }
        }
    }
}

/// Repeats `attempt` (which answers `EWOULDBLOCK` while the file `inode` is locked) until it succeeds or the time is over.
pub(super) fn wait<T>(inode: impl Fn() -> u64, attempt: impl FnMut() -> nix::Result<T>) -> Result<T, Refused> {
    wait_for(inode, WAIT, attempt)
}

fn wait_for<T>(
    inode: impl Fn() -> u64,
    time: Duration,
    mut attempt: impl FnMut() -> nix::Result<T>,
) -> Result<T, Refused> {
    let mut deadline = None;
    let mut pause = Duration::from_micros(200);
    loop {
        match attempt() {
            Ok(locked) => return Ok(locked),
            Err(Errno::EINTR) => continue,
            Err(Errno::EWOULDBLOCK) => {}
            Err(errno) => return Err(Refused::Failed(errno)),
        }
        let now = Instant::now();
        let end = *deadline.get_or_insert(now + time);
        // Looked at after a while: most commands are over before.
        if pause >= PAUSE_MAX || now >= end {
            let holder = holder(inode());
            if let Some(pid) = holder.filter(|pid| is_ancestor(*pid)) {
                return Err(Refused::Ancestor(pid));
            }
            if now >= end {
                return Err(Refused::TimedOut(holder));
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The process that holds a lock of the kind flock(2) on the file `inode`, as far as it can be seen from here.
fn holder(inode: u64) -> Option<i32> {
    let suffix = format!(":{inode}");
    read_file("/proc/locks").ok()?.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        // `1: FLOCK ADVISORY WRITE 1234 00:1a:5678 0 EOF`; those who wait have `->` after the number.
        (fields.nth(1)? == "FLOCK").then_some(())?;
        let pid = fields.nth(2)?.parse::<i32>().ok()?;
        fields.next()?.ends_with(&suffix).then_some(pid)
    })
}

/// Whether `pid` is this process, its parent, or the parent of one of those.
fn is_ancestor(pid: i32) -> bool {
    let mut here = i32::try_from(std::process::id()).unwrap_or(0);
    for _ in 0..ANCESTORS_MAX {
        if here == pid {
            return true;
        }
        match parent_of(here) {
            Some(parent) if parent > 0 => here = parent,
            _ => return false,
        }
    }
    false
}

fn parent_of(pid: i32) -> Option<i32> {
    let text = read_file(&format!("/proc/{pid}/stat")).ok()?;
    // State, then the parent, behind the name in parentheses.
    text[text.rfind(')')? + 1..].split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_stays_taken_is_given_up_at_the_deadline() {
        let mut attempts = 0;
        let refused = wait_for(
            || 0,
            Duration::from_millis(30),
            || {
                attempts += 1;
                Err::<(), _>(Errno::EWOULDBLOCK)
            },
        );
        assert!(matches!(refused, Err(Refused::TimedOut(None))), "{refused:?}");
        assert!(attempts > 1);
    }

    #[test]
    fn a_lock_that_becomes_free_is_taken_and_another_failure_ends_the_waiting() {
        let mut left = 3;
        let taken = wait_for(
            || 0,
            Duration::from_secs(5),
            || {
                left -= 1;
                if left > 0 { Err(Errno::EWOULDBLOCK) } else { Ok(left) }
            },
        );
        assert!(matches!(taken, Ok(0)), "{taken:?}");
        let refused = wait_for(|| 0, Duration::from_secs(5), || Err::<(), _>(Errno::ENOLCK));
        assert!(matches!(refused, Err(Refused::Failed(Errno::ENOLCK))), "{refused:?}");
    }

    #[test]
    fn the_own_ancestors_are_known() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(is_ancestor(own));
        assert!(is_ancestor(parent_of(own).unwrap()));
        assert!(!is_ancestor(i32::MAX));
    }

    #[test]
    fn the_holder_of_a_lock_is_found_by_the_inode() {
        let path = std::env::temp_dir().join(format!("shoal-lock-{}", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        let inode = nix::sys::stat::fstat(&file).unwrap().st_ino;
        file.lock().unwrap();
        assert_eq!(holder(inode), i32::try_from(std::process::id()).ok());
        std::fs::remove_file(path).unwrap();
    }
}
