//! Files inside a container's root, opened by the kernel with that root as `/`: no symlink of an image leads outside.

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The largest `/etc/passwd` or `/etc/group` that is read, in bytes.
const ACCOUNTS_BYTES_MAX: u64 = 4 << 20;

/// A container's root.
#[derive(Debug)]
pub struct Rootfs {
    folder: OwnedFd,
}

/// What executing a path would meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// A regular file with an execute bit.
    Executable,
    /// There, but not executable, or a directory.
    NotExecutable,
    /// Not there.
    Missing,
}

impl Rootfs {
    /// Opens the root.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { folder: File::open(path)?.into() })
    }

    /// Opens a path inside.
    pub fn file(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(Mode::empty())
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Ok(openat2(self.folder.as_fd(), path, how)?)
    }

    /// Reads a text file inside; a missing one is empty.
    pub fn text(&self, path: &str) -> io::Result<String> {
        let file = match self.file(Path::new(path), OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(file) => File::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(ACCOUNTS_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether a directory is there.
    pub fn is_dir(&self, path: &str) -> bool {
        self.file(Path::new(path), OFlag::O_PATH | OFlag::O_DIRECTORY).is_ok()
    }

    /// What executing `name` would meet: a path as it is, a bare name along `path_variable`.
    pub fn program(&self, name: &str, cwd: &str, path_variable: &str) -> Program {
        if name.contains('/') {
            let full = if name.starts_with('/') { name.to_owned() } else { format!("{cwd}/{name}") };
            return self.one(&full);
        }
        let mut found = Program::Missing;
        for folder in path_variable.split(':') {
            match self.one(&format!("{}/{name}", if folder.is_empty() { cwd } else { folder })) {
                Program::Executable => return Program::Executable,
                Program::NotExecutable => found = Program::NotExecutable,
                Program::Missing => {}
            }
        }
        found
    }

    fn one(&self, path: &str) -> Program {
        match self.file(Path::new(path), OFlag::O_PATH).map(File::from).and_then(|file| file.metadata()) {
            Ok(meta) if meta.is_file() && meta.mode() & 0o111 != 0 => Program::Executable,
            Ok(_) => Program::NotExecutable,
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => Program::NotExecutable,
            Err(_) => Program::Missing,
        }
    }
}
