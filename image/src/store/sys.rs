//! The store's system calls: every path is resolved by the kernel inside one directory handle.
//!
//! In: directory handles and relative names. Out: handles and facts. Nothing here follows a link out of the handle it was
//! given. rustix's safe wrappers do it, but for the one call that it lacks.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// How often an `openat2` that lost a race against a rename is tried again (the kernel answers EAGAIN).
const RESOLVE_ATTEMPTS_MAX: usize = 64;

/// Opens a directory that the caller trusts, by path.
pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens `name` inside `root`: links are resolved as if `root` were `/`, magic links never. openat2(2).
pub(crate) fn open_in_root(
    root: impl AsFd,
    name: impl rustix::path::Arg + Copy,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    open2(root.as_fd(), name, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens `name` below `root` when no component of it is a link. openat2(2).
pub(crate) fn open_no_links(
    root: impl AsFd,
    name: impl rustix::path::Arg + Copy,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    open2(root.as_fd(), name, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS)
}

fn open2(
    root: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut attempts = 0;
    loop {
        match rustix::fs::openat2(root, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if attempts < RESOLVE_ATTEMPTS_MAX => attempts += 1,
            result => return result,
        }
    }
}

/// Opens the regular file `name` below `root` for reading; `None` when there is none. A link, a pipe or a device under
/// that name is an error: a store that someone else filled could otherwise name a host file.
pub(crate) fn open_regular(root: impl AsFd, name: impl rustix::path::Arg + Copy) -> io::Result<Option<(File, Stat)>> {
    let fd = match open_no_links(root, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(io::Error::other("it is a symbolic link, which could name a file of the host")),
        Err(errno) => return Err(errno.into()),
    };
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(Some((File::from(fd), stat)))
}

/// Facts about `name` in `dir` itself, links not followed; `None` when there is none.
pub(crate) fn stat_at(dir: impl AsFd, name: impl rustix::path::Arg) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Creates a directory with all its parents (mode 0700 for what is new) and says nothing when it is there.
pub(crate) fn create_dirs(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Bytes that an unprivileged user may still write on the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A name that no other process or thread uses: process, time and a counter.
pub(crate) fn unique_name(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{prefix}-{}-{nanos:x}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Maps the owners in a detached mount through a user namespace. `mount_setattr(2)` MOUNT_ATTR_IDMAP
#[expect(unsafe_code, reason = "I2: rustix has no mount_setattr")]
pub(crate) fn set_idmap(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(userns.as_raw_fd()).map_err(io::Error::other)?,
    };
    // SAFETY: both descriptors are borrowed over the call, the path is an empty C string, and the kernel reads as many bytes
    // of the local structure as it is told.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the calling thread a mount namespace of its own, a copy of the process's. `unshare(2)` CLONE_NEWNS
#[expect(unsafe_code, reason = "I2: rustix's own is not safe either")]
pub(crate) fn own_mounts() -> io::Result<()> {
    // SAFETY: takes one integer. What the thread shares no more (root, working directory, mounts) is no memory of ours.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the calling thread make files as `user` and `group`, with every right it has kept. `setfsuid(2)`, `capset(2)`
#[expect(unsafe_code, reason = "I2: rustix has no setfsuid")]
pub(crate) fn make_files_as(user: u32, group: u32) -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`, whose sets are two words each.
    const VERSION: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header { version: VERSION, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: both calls take one integer and change this thread alone.
    unsafe {
        libc::setfsgid(group);
        libc::setfsuid(user);
    }
    // SAFETY: the kernel reads the header and writes the two words of each set, as its version 3 says.
    let answer = unsafe { libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    for set in &mut sets {
        // A file system user other than 0 has lost those over files.
        set.effective = set.permitted;
    }
    // SAFETY: the kernel reads the header and both sets.
    let answer = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How many user ids this process knows: all of them in the host's own user namespace.
fn ids_known() -> u64 {
    static IDS: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *IDS.get_or_init(|| {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let count = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum();
        if map.is_empty() { u64::MAX } else { count }
    })
}

/// Whether this is root of the host itself, not of a user namespace: it makes devices and `trusted.` attributes.
pub(crate) fn is_host_root() -> bool {
    rustix::process::geteuid().is_root() && ids_known() >= u64::from(u32::MAX)
}

/// Whether this process can give files to others: root, here or in a user namespace with more than one id.
pub(crate) fn keeps_owners() -> bool {
    rustix::process::geteuid().is_root() && ids_known() > 1
}
