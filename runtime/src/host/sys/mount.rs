//! The mount API of descriptors: open_tree(2), fsopen(2), fsconfig(2), fsmount(2), mount_setattr(2), move_mount(2); and
//! mount(2) on the current directory, which does in one call what takes six of those.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::{c_path, check};

/// `MOUNT_ATTR_*` bits to set and to clear, and a propagation (`MS_*`), for [`setattr`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Attr {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0 to leave it.
    pub propagation: u64,
}

impl Attr {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn owned(fd: libc::c_long) -> nix::Result<OwnedFd> {
    // SAFETY: every caller passes a descriptor the kernel has just made for it alone.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::EBADF)?) })
}

/// A detached copy of the mount at `path` below `dir`; with `recursive` of everything mounted under it too.
///
/// An empty path copies `dir` itself.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &[u8], recursive: bool) -> nix::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as libc::c_uint;
    }
    // SAFETY: a live descriptor and a NUL-terminated path that outlives the call.
    owned(check(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })?)
}

/// A detached copy of the mount at the absolute `path`, alone, with `attr`.
///
/// One call where the kernel has it (since Linux 6.15), two elsewhere.
pub fn clone_with(path: &[u8], attr: Attr) -> nix::Result<OwnedFd> {
    /// The same number on every architecture Rust's standard library knows.
    const SYS_OPEN_TREE_ATTR: libc::c_long = 467;
    let (text, how) = (c_path(path)?, raw(attr));
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: a NUL-terminated path and a structure that outlive the call, with its own size.
    let answer = check(unsafe {
        libc::syscall(
            SYS_OPEN_TREE_ATTR,
            libc::AT_FDCWD,
            text.as_ptr(),
            flags,
            &raw const how,
            size_of::<libc::mount_attr>(),
        )
    });
    if let Ok(fd) = answer {
        return owned(fd);
    }
    // Unknown, or forbidden by an outer filter: whatever else it is, the two calls will say it.
    let tree = clone_tree(nix::fcntl::AT_FDCWD, path, false)?;
    setattr(tree.as_fd(), attr, false)?;
    Ok(tree)
}

/// Mounts a new file system on the current directory, with `MS_*` flags and the options as one text.
pub fn mount_here(kind: &str, source: &str, flags: libc::c_ulong, options: &str) -> nix::Result<()> {
    let [kind, source, options] = [kind, source, options].map(|text| c_path(text.as_bytes()));
    let (kind, source, options) = (kind?, source?, options?);
    let pointer = |text: &CString| if text.is_empty() { std::ptr::null() } else { text.as_ptr() };
    // SAFETY: NUL-terminated texts that outlive the call, or none.
    check(
        unsafe { libc::mount(pointer(&source), c".".as_ptr(), kind.as_ptr(), flags, pointer(&options).cast()) }.into(),
    )
    .map(drop)
}

/// A context to configure a file system of type `kind`.
pub fn fsopen(kind: &str) -> nix::Result<OwnedFd> {
    let kind = c_path(kind.as_bytes())?;
    // SAFETY: a NUL-terminated name that outlives the call.
    owned(check(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })?)
}

fn fsconfig(context: BorrowedFd<'_>, command: u32, key: Option<&CString>, value: Option<&CString>) -> nix::Result<()> {
    let pointer = |text: Option<&CString>| text.map_or(std::ptr::null(), |text| text.as_ptr());
    // SAFETY: a live descriptor; both strings are absent or NUL-terminated and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, pointer(key), pointer(value), 0) })
        .map(drop)
}

/// Sets the option `key`, with a value or as a mere flag.
pub fn fsconfig_set(context: BorrowedFd<'_>, key: &str, value: Option<&str>) -> nix::Result<()> {
    let key = c_path(key.as_bytes())?;
    match value {
        Some(value) => {
            let value = c_path(value.as_bytes())?;
            fsconfig(context, libc::FSCONFIG_SET_STRING, Some(&key), Some(&value))
        }
        None => fsconfig(context, libc::FSCONFIG_SET_FLAG, Some(&key), None),
    }
}

/// Creates the configured file system and returns a detached mount of it with `MOUNT_ATTR_*` bits.
pub fn fsmount(context: BorrowedFd<'_>, attr: u64) -> nix::Result<OwnedFd> {
    fsconfig(context, libc::FSCONFIG_CMD_CREATE, None, None)?;
    // SAFETY: a live descriptor and plain numbers.
    owned(check(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attr) })?)
}

/// What the kernel wrote about the last failure of a context, if it did.
pub fn fs_message(context: BorrowedFd<'_>) -> Option<String> {
    let mut text = [0u8; 256];
    let length = nix::unistd::read(context, &mut text).ok()?;
    Some(String::from_utf8_lossy(&text[..length]).trim().to_owned())
}

/// Attaches the detached `mount` on the directory or file behind `target`.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> nix::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: two live descriptors and two empty NUL-terminated paths.
    check(unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), target.as_raw_fd(), c"".as_ptr(), flags)
    })
    .map(drop)
}

/// Attaches the detached `mount` on `name`, which is no path, in the directory `dir`; a symbolic link is not followed.
pub fn attach_at(mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
    let name = c_path(name.as_bytes())?;
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
    // SAFETY: two live descriptors and two NUL-terminated texts that outlive the call.
    check(unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), dir.as_raw_fd(), name.as_ptr(), flags)
    })
    .map(drop)
}

fn setattr_at(dir: RawFd, path: &[u8], flags: i32, attr: &libc::mount_attr) -> nix::Result<()> {
    let path = c_path(path)?;
    // SAFETY: a live descriptor, a NUL-terminated path and a structure that outlive the call, with its own size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

fn raw(attr: Attr) -> libc::mount_attr {
    libc::mount_attr { attr_set: attr.set, attr_clr: attr.clear, propagation: attr.propagation, userns_fd: 0 }
}

/// Changes the mount behind `mount`, with `recursive` all below it.
pub fn setattr(mount: BorrowedFd<'_>, attr: Attr, recursive: bool) -> nix::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    setattr_at(mount.as_raw_fd(), b"", flags, &raw(attr))
}

/// Changes the mount whose root is the absolute `path`, with `recursive` all below it.
pub fn setattr_path(path: &[u8], attr: Attr, recursive: bool) -> nix::Result<()> {
    setattr_at(libc::AT_FDCWD, path, if recursive { libc::AT_RECURSIVE } else { 0 }, &raw(attr))
}

/// Maps the ids of a detached mount through the user namespace `userns`.
pub fn set_idmap(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>, recursive: bool) -> nix::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: userns.as_raw_fd() as u64,
    };
    setattr_at(mount.as_raw_fd(), b"", libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 }, &attr)
}

/// Makes the current directory the root; the old root is left mounted over it.
pub fn pivot_root_here() -> nix::Result<()> {
    // SAFETY: two NUL-terminated paths.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

/// Which file of which mount a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whereabouts {
    /// The mount; 0 on kernels that do not tell (before 5.8).
    mount: u64,
    device: (u32, u32),
    inode: u64,
}

/// Where `path`, whose last part is not followed as a link, is below `dir`; an empty path means `dir` itself.
pub fn whereabouts(dir: BorrowedFd<'_>, path: &str) -> nix::Result<Whereabouts> {
    let path = c_path(path.as_bytes())?;
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH;
    let wanted = libc::STATX_INO | libc::STATX_MNT_ID;
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: a live descriptor, a NUL-terminated path and a structure of the size the call writes.
    check(unsafe {
        libc::syscall(libc::SYS_statx, dir.as_raw_fd(), path.as_ptr(), flags, wanted, found.as_mut_ptr())
    })?;
    // SAFETY: numbers only, zeroed before the call filled them in.
    let found = unsafe { found.assume_init() };
    let mount = if found.stx_mask & libc::STATX_MNT_ID != 0 { found.stx_mnt_id } else { 0 };
    Ok(Whereabouts { mount, device: (found.stx_dev_major, found.stx_dev_minor), inode: found.stx_ino })
}
