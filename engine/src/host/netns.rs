//! A namespace that outlives its processes, kept by a mount on a file: a new network, made on a thread of its own, or any of a process.

use super::process::ProcessId;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The largest group that the kernel takes here.
const GROUP_MAX: u32 = 0x7fff_ffff;

/// What docker sets in the network of every container, as the files of `/proc/sys/net`: ports below 1024 and ping are for all.
pub const DEFAULTS: [&str; 2] = ["net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range"];

/// Makes a new network namespace and mounts it on `file`, which is created. With `groups`, the number of groups there are,
/// [`DEFAULTS`] are set too: a container with users of its own may not.
pub fn pin(file: &Path, groups: Option<u32>) -> io::Result<()> {
    fs::File::create(file)?;
    let work = || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        if let Some(groups) = groups {
            let range = format!("0 {}", groups.saturating_sub(1).min(GROUP_MAX));
            for (name, value) in DEFAULTS.iter().zip(["0", range.as_str()]) {
                // A convenience: a kernel that lacks or refuses it runs the container all the same.
                fs::write(format!("/proc/sys/{}", name.replace('.', "/")), value).ok();
            }
        }
        mount(Some("/proc/thread-self/ns/net"), file, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    };
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| Err(io::Error::other("a thread died")))
}

/// Mounts a namespace of a process (`pid`, `ipc`, `uts`, `net`) on `file`, which is created. `false` when that very process has ended:
/// its number may be another's by now, and is never looked at again.
pub fn pin_of(process: ProcessId, kind: &str, file: &Path) -> io::Result<bool> {
    let namespace = match fs::File::open(format!("/proc/{}/ns/{kind}", process.pid)) {
        Ok(namespace) => namespace,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !process.alive() {
        return Ok(false);
    }
    fs::File::create(file)?;
    let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    mount(Some(source.as_str()), file, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(true)
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
