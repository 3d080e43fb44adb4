//! Running from a binary that a container cannot write to (CVE-2019-5736).
//!
//! A process that enters a container can be made to show `/proc/PID/exe` to it: a descriptor of this program's file.
//! Mounting a read-only copy in front of the file is not enough, the link leads to the file that was executed. So the
//! command goes on from a detached read-only mount of its own file: its memory is mapped anew from there and the kernel
//! is told so, or, where it may not be told, the command executes itself once more. Nothing is copied, and the link then
//! leads to that mount, which nobody can make writable. A read-only mount of the host is none of that: it can be remounted,
//! and a container that kept the link open would then write.

use std::ffi::{OsStr, OsString};
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::sys::exe;
use super::sys::mount::{self, Attr};
use super::sys::open::close_all;
use super::sys::process::{Vector, execve_fd};
use crate::error::{During, Result};

const SELF: &str = "/proc/self/exe";

/// Returns when this program's file is safe from containers; where it has to be executed again for that, with `args`.
pub fn ensure(args: &[OsString]) -> Result<()> {
    let operation = || "protect the runtime's own file";
    if is_detached().during(operation)? {
        return Ok(());
    }
    let read_only = Attr { set: libc::MOUNT_ATTR_RDONLY, ..Attr::default() };
    let file = match mount::clone_with(SELF.as_bytes(), read_only) {
        Ok(detached) => match go_on(detached) {
            Ok(()) => return Ok(()),
            Err(detached) => detached,
        },
        // Without the privilege to mount, no id but this user's can come to be in a container.
        Err(_) if belongs_to_another().during(operation)? => return Ok(()),
        Err(_) => match sealed_copy()? {
            Some(copy) => copy,
            None => return Ok(()),
        },
    };
    let env: Vec<_> = std::env::vars_os()
        .map(|(name, value)| [&name, OsStr::new("="), &value].map(OsStr::as_bytes).concat())
        .collect();
    let args = Vector::new(args.iter().map(|arg| arg.as_bytes())).during(operation)?;
    let env = Vector::new(&env).during(operation)?;
    match execve_fd(file.as_fd(), &args, &env).during(operation)? {}
}

/// Whether this is the second execution, from a detached read-only mount whose root is the program itself. Only there a
/// file has the path `/`: every mount that can be found has a name.
fn is_detached() -> nix::Result<bool> {
    Ok(nix::fcntl::readlink(SELF)?.as_bytes() == b"/" && statvfs(SELF)?.flags().contains(FsFlags::ST_RDONLY))
}

/// Whether this command's user is neither root nor the owner of its file.
fn belongs_to_another() -> std::io::Result<bool> {
    let user = super::probe::effective_uid();
    Ok(user != 0 && std::fs::metadata(SELF)?.uid() != user)
}

/// Goes on from the detached mount of this program's file without executing it again. It takes privilege; without, the
/// descriptor comes back.
fn go_on(detached: OwnedFd) -> std::result::Result<(), OwnedFd> {
    let path = format!("/proc/self/fd/{}", detached.as_raw_fd());
    match nix::fcntl::open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(file) if exe::continue_from(file.as_fd()).is_ok() => {
            close_all(vec![detached, file]);
            Ok(())
        }
        _ => Err(detached),
    }
}

/// A copy in memory that can no longer change; `None` when this is already one.
fn sealed_copy() -> Result<Option<OwnedFd>> {
    let operation = || "copy the runtime's own file";
    let mut original = std::fs::File::open(SELF).during(operation)?;
    let all = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    if fcntl(&original, FcntlArg::F_GET_SEALS).is_ok_and(|seals| seals == all.bits()) {
        return Ok(None);
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut copy = std::fs::File::from(memfd_create(c"shoal-runtime", flags).during(operation)?);
    std::io::copy(&mut original, &mut copy).during(operation)?;
    copy.flush().and_then(|()| copy.rewind()).during(operation)?;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(all)).during(operation)?;
    Ok(Some(copy.into()))
}
