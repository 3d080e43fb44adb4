//! `monitor.lock` in a container's run folder: whoever holds it is, or is about to be, the container's monitor.
//!
//! The launcher takes it before it executes the monitor and hands the open file on; the monitor keeps it until it ends or
//! becomes the cleanup. So a monitor is seen from before its birth to after its last word, whatever becomes of its launcher.
//! An open-file-description lock, since such a lock is inherited with the descriptor and can be asked about without being
//! taken: `ps` never stands in a launcher's way. `fcntl_locking(2)`

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// The file's name.
const LOCK: &str = "monitor.lock";
/// How often a lock that is about to be given back is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// Takes the right to be the monitor of the container with this run folder; `None` while another has it.
pub fn take(run: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(run.join(LOCK))?;
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole())) {
        Ok(_) => Ok(Some(file)),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a monitor lives; `None` when no lock was ever made here (a monitor of an older version may live).
pub fn held(run: &Path) -> Option<bool> {
    let file = File::open(run.join(LOCK)).ok()?;
    let mut lock = whole();
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).ok()?;
    Some(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// A write lock on the whole file.
fn whole() -> libc::flock {
    let short = |number: i32| i16::try_from(number).expect("the kernel's constants are small");
    libc::flock { l_type: short(libc::F_WRLCK), l_whence: short(libc::SEEK_SET), l_start: 0, l_len: 0, l_pid: 0 }
}

/// Waits until no monitor lives; `false` when one still does after `patience`.
pub fn await_free(run: &Path, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while held(run) == Some(true) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_one_monitors_and_goes_with_its_last_descriptor() {
        let room = std::env::temp_dir().join(format!("shoal-monitor-lock-{}", std::process::id()));
        std::fs::create_dir_all(&room).unwrap();
        assert_eq!(held(&room), None);
        let first = take(&room).unwrap().expect("free");
        let inherited = first.try_clone().unwrap();
        assert_eq!(held(&room), Some(true));
        assert!(take(&room).unwrap().is_none());
        drop(first);
        assert_eq!(held(&room), Some(true), "the copy keeps it");
        assert!(!await_free(&room, Duration::from_millis(5)));
        drop(inherited);
        assert_eq!(held(&room), Some(false));
        assert!(await_free(&room, Duration::ZERO) && take(&room).unwrap().is_some());
        std::fs::remove_dir_all(&room).unwrap();
    }
}
