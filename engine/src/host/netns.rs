//! A network namespace that outlives its processes: made on a thread of its own, kept by a mount on a file.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::io;
use std::path::Path;

/// Makes a new network namespace and mounts it on `file`, which is created.
pub fn pin(file: &Path) -> io::Result<()> {
    fs::File::create(file)?;
    let work = || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/thread-self/ns/net"), file, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    };
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| Err(io::Error::other("a thread died")))
}

/// Lets the namespace go.
pub fn unpin(file: &Path) -> io::Result<()> {
    match umount2(file, MntFlags::MNT_DETACH) {
        // Not mounted, not there: what is wanted.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
