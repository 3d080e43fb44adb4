//! A network namespace that outlives its processes: made on a thread of its own, kept by a mount on a file.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::io;
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
