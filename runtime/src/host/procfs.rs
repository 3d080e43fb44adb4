//! The real procfs, and writes that cannot be led elsewhere.
//!
//! A container may mount things over `/proc/self/attr` or `/proc/sys` (CVE-2019-19921, CVE-2025-52881). The descriptor
//! here is opened before any container is joined, is checked to be procfs, and no lookup below it crosses a mount or
//! follows a magic link. `self` is resolved by the kernel for the process that asks, also after a fork.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::sys::open::openat2;
use crate::error::{During, Error, Result};

const RESOLVE: u64 = libc::RESOLVE_NO_XDEV | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_BENEATH;

/// An opened procfs.
#[derive(Debug)]
pub struct Procfs {
    root: OwnedFd,
}

impl Procfs {
    /// Opens `/proc` of the host.
    pub fn open() -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open("/proc", flags, nix::sys::stat::Mode::empty()).during(|| "open /proc")?;
        let kind = fstatfs(&root).during(|| "examine /proc")?.filesystem_type();
        if kind != PROC_SUPER_MAGIC {
            return Err(Error::HostLack { what: "a procfs on /proc".into(), hint: "mount one".into() });
        }
        Ok(Self { root })
    }

    /// Writes `text` to the file `path`, relative to `/proc`, in one go.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let operation = || format!("write {:?} to /proc/{path}", text.trim_end());
        let file = openat2(self.root.as_fd(), path.as_bytes(), libc::O_WRONLY, 0, RESOLVE).during(operation)?;
        nix::unistd::write(&file, text.as_bytes()).during(operation)?;
        Ok(())
    }

    /// Reads the file `path`, relative to `/proc`; at most a megabyte.
    pub fn read(&self, path: &str) -> Result<String> {
        let operation = || format!("read /proc/{path}");
        let file = openat2(self.root.as_fd(), path.as_bytes(), libc::O_RDONLY, 0, RESOLVE).during(operation)?;
        let mut text = String::new();
        let mut file = std::io::Read::take(std::fs::File::from(file), 1 << 20);
        std::io::Read::read_to_string(&mut file, &mut text).during(operation)?;
        Ok(text)
    }

    /// Opens the namespace file `name` of process `pid`.
    pub fn namespace(&self, pid: &str, name: &str) -> Result<OwnedFd> {
        // The namespace file itself is a magic link; the directory before it is not.
        let path = format!("{pid}/ns/{name}");
        openat2(self.root.as_fd(), path.as_bytes(), libc::O_RDONLY, 0, 0).during(|| format!("open /proc/{path}"))
    }
}
