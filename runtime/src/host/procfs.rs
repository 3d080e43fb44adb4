//! The real procfs, and writes that cannot be led elsewhere.
//!
//! A container may mount things over `/proc/self/attr` or `/proc/sys` (CVE-2019-19921, CVE-2025-52881). The descriptor
//! here is opened before any container is joined, is checked to be procfs, and no lookup below it crosses a mount or
//! follows a magic link. `self` is resolved by the kernel for the process that asks, also after a fork.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::sys::open::openat2;
use crate::error::{During, Error, Result};

/// What is read at first: most files of procfs fit, and growing from a few bytes would cost a call each time.
const FIRST: usize = 4096;

/// No file of procfs that is read here is longer.
const FILE_LEN_MAX: u64 = 16 << 20;

fn read_all(file: OwnedFd) -> std::io::Result<String> {
    let mut text = Vec::with_capacity(FIRST);
    File::from(file).take(FILE_LEN_MAX).read_to_end(&mut text)?;
    String::from_utf8(text).map_err(|_| nix::Error::EILSEQ.into())
}

/// The same for a file of short lines: the kernel fills a page with whole ones, so that far less than one is all there
/// is, and the call that would only say so is saved.
fn read_lines(file: OwnedFd) -> std::io::Result<String> {
    let (mut file, mut text) = (File::from(file), vec![0; FIRST]);
    let length = file.read(&mut text)?;
    text.truncate(length);
    if length > FIRST / 2 {
        file.take(FILE_LEN_MAX).read_to_end(&mut text)?;
    }
    String::from_utf8(text).map_err(|_| nix::Error::EILSEQ.into())
}

/// Reads what the kernel says about the process `pid` in `/proc/PID/stat`: one line.
pub fn stat_line(pid: i32) -> Result<String> {
    let operation = || format!("read /proc/{pid}/stat");
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = nix::fcntl::open(format!("/proc/{pid}/stat").as_str(), flags, nix::sys::stat::Mode::empty());
    read_lines(file.during(operation)?).during(operation)
}

/// The path of the directory that `path` leads to, without links: what the kernel calls it.
pub fn real_path(path: &Path) -> nix::Result<PathBuf> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())?;
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    Ok(nix::fcntl::readlink(link.as_str())?.into())
}

/// Reads a file of procfs by its path on the host.
pub fn read_file(path: &str) -> Result<String> {
    let operation = || format!("read {path}");
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty()).during(operation)?;
    read_all(file).during(operation)
}

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
        let file = self.to_write(path).during(operation)?;
        nix::unistd::write(&file, text.as_bytes()).during(operation)?;
        Ok(())
    }

    /// Opens the file `path`, relative to `/proc`, to be written later: who may is decided now.
    pub fn to_write(&self, path: &str) -> nix::Result<OwnedFd> {
        openat2(self.root.as_fd(), path.as_bytes(), libc::O_WRONLY, 0, RESOLVE)
    }

    /// Reads the file `path` of short lines, relative to `/proc`.
    pub fn read(&self, path: &str) -> Result<String> {
        let operation = || format!("read /proc/{path}");
        let file = openat2(self.root.as_fd(), path.as_bytes(), libc::O_RDONLY, 0, RESOLVE).during(operation)?;
        read_lines(file).during(operation)
    }

    /// Opens a file again that this process holds by an `O_PATH` descriptor.
    pub fn reopen(&self, fd: BorrowedFd<'_>, flags: i32) -> nix::Result<OwnedFd> {
        // The entry is a magic link to exactly this file, whatever its name leads to by now.
        openat2(self.root.as_fd(), format!("self/fd/{}", fd.as_raw_fd()).as_bytes(), flags, 0, 0)
    }

    /// Opens the namespace file `name` of process `pid`.
    pub fn namespace(&self, pid: &str, name: &str) -> Result<OwnedFd> {
        // The namespace file itself is a magic link; the directory before it is not.
        let path = format!("{pid}/ns/{name}");
        openat2(self.root.as_fd(), path.as_bytes(), libc::O_RDONLY, 0, 0).during(|| format!("open /proc/{path}"))
    }
}
