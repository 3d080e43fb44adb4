//! The one room in which paths of a container's root file system are resolved.
//!
//! Every lookup is the kernel's, confined to the root (`RESOLVE_IN_ROOT`, no magic links): a symbolic link, also one
//! that a racer swaps in, can only lead to another place of the same root. What has to be made is made relative to the
//! descriptor of its parent, never by a path.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::{Mode, mkdirat};

use super::sys::open::openat2;

const RESOLVE: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;

/// How many dangling symbolic links are followed while making a path; the kernel's own bound.
const LINKS_MAX: usize = 40;

/// A root file system.
#[derive(Debug)]
pub struct Room {
    root: OwnedFd,
}

impl Room {
    /// The room of the directory `root`.
    pub fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    /// The root itself.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens `path` with `O_*` flags.
    pub fn open(&self, path: &str, flags: i32) -> nix::Result<OwnedFd> {
        openat2(self.root.as_fd(), inside(path).as_bytes(), flags, 0, RESOLVE)
    }

    /// The directory `path` (without `..`), made with all its parents where it is missing; `ELOOP` when it goes through a
    /// symbolic link, also through one that comes while it is made.
    pub fn plain_directory(&self, path: &str, mode: u32) -> nix::Result<OwnedFd> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let rules = RESOLVE | libc::RESOLVE_NO_SYMLINKS;
        match openat2(self.root.as_fd(), inside(path).as_bytes(), flags, 0, rules) {
            Err(Errno::ENOENT) => {}
            found => return found,
        }
        let mut here = self.open("", flags)?;
        for part in parts(path) {
            match mkdirat(&here, part.as_str(), Mode::from_bits_truncate(mode)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            here = openat2(here.as_fd(), part.as_bytes(), flags, 0, rules)?;
        }
        Ok(here)
    }

    /// The directory `path`, made with all its parents where it is missing.
    pub fn directory(&self, path: &str, mode: u32) -> nix::Result<OwnedFd> {
        match self.open(path, libc::O_PATH | libc::O_DIRECTORY) {
            Err(Errno::ENOENT) => self.make_last(path, mode).or_else(|_| self.make_directory(path, mode)),
            found => found,
        }
    }

    /// Makes only the last part of `path`, which is what is missing nearly always.
    fn make_last(&self, path: &str, mode: u32) -> nix::Result<OwnedFd> {
        let (parent, name) = path.trim_end_matches('/').rsplit_once('/').ok_or(Errno::ENOENT)?;
        let parent = self.open(parent, libc::O_PATH | libc::O_DIRECTORY)?;
        mkdirat(&parent, name, Mode::from_bits_truncate(mode))?;
        self.open(path, libc::O_PATH | libc::O_DIRECTORY)
    }

    /// The directory that holds `path`, made where it is missing, and the last part of `path`.
    pub fn parent<'a>(&self, path: &'a str) -> nix::Result<(OwnedFd, &'a str)> {
        let path = path.trim_end_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() || name == "." || name == ".." {
            return Err(Errno::EINVAL);
        }
        Ok((self.directory(parent, 0o755)?, name))
    }

    /// Whatever is at `path`, or a new empty file there.
    pub fn file(&self, path: &str) -> nix::Result<OwnedFd> {
        match self.open(path, libc::O_PATH) {
            Err(Errno::ENOENT) => {}
            found => return found,
        }
        let (parent, name) = self.parent(path)?;
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
        match openat2(parent.as_fd(), name.as_bytes(), flags, 0o644, libc::RESOLVE_BENEATH) {
            Ok(_) | Err(Errno::EEXIST) => self.open(path, libc::O_PATH),
            Err(errno) => Err(errno),
        }
    }

    /// Whatever is at `path`, or a new empty file there; `ELOOP` when its last part is a symbolic link.
    pub fn plain_file(&self, path: &str) -> nix::Result<OwnedFd> {
        let (parent, name) = self.parent(path)?;
        let rules = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
        let found = || openat2(parent.as_fd(), name.as_bytes(), libc::O_PATH, 0, rules);
        match found() {
            Err(Errno::ENOENT) => {}
            found => return found,
        }
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
        match openat2(parent.as_fd(), name.as_bytes(), flags, 0o644, libc::RESOLVE_BENEATH) {
            Ok(_) | Err(Errno::EEXIST) => found(),
            Err(errno) => Err(errno),
        }
    }

    fn make_directory(&self, path: &str, mode: u32) -> nix::Result<OwnedFd> {
        let mut rest: Vec<String> = parts(path);
        rest.reverse();
        let mut done: Vec<String> = Vec::new();
        let mut here = self.open("", libc::O_PATH | libc::O_DIRECTORY)?;
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                done.pop();
                here = self.open(&done.join("/"), libc::O_PATH | libc::O_DIRECTORY)?;
                continue;
            }
            let next = |done: &[String]| {
                let path = done.iter().map(String::as_str).chain([part.as_str()]).collect::<Vec<_>>().join("/");
                self.open(&path, libc::O_PATH | libc::O_DIRECTORY)
            };
            match next(&done) {
                Ok(found) => here = found,
                Err(Errno::ENOENT) => match mkdirat(&here, part.as_str(), Mode::from_bits_truncate(mode)) {
                    Ok(()) => here = next(&done)?,
                    // Something is there, yet nothing is found: a dangling link. Its target is made instead.
                    Err(Errno::EEXIST) if links < LINKS_MAX => {
                        links += 1;
                        let target = readlinkat(&here, part.as_str())?;
                        let target = target.to_str().ok_or(Errno::EILSEQ)?;
                        if target.starts_with('/') {
                            done.clear();
                        }
                        rest.extend(parts(target).into_iter().rev());
                        here = self.open(&done.join("/"), libc::O_PATH | libc::O_DIRECTORY)?;
                        continue;
                    }
                    Err(Errno::EEXIST) => return Err(Errno::ELOOP),
                    Err(errno) => return Err(errno),
                },
                Err(errno) => return Err(errno),
            }
            done.push(part);
        }
        Ok(here)
    }
}

/// What fstatat says about an open descriptor.
pub fn stat(fd: BorrowedFd<'_>) -> nix::Result<nix::sys::stat::FileStat> {
    nix::sys::stat::fstatat(fd, "", AtFlags::AT_EMPTY_PATH)
}

/// Whether the descriptor is a directory.
pub fn is_directory(fd: BorrowedFd<'_>) -> nix::Result<bool> {
    Ok(stat(fd)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// The path relative to the root; the root itself is `.`, because openat2 takes no empty path.
fn inside(path: &str) -> &str {
    match path.trim_start_matches('/') {
        "" => ".",
        path => path,
    }
}

fn parts(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_directory_is_made_and_never_behind_a_link() {
        let base = std::env::temp_dir().join(format!("shoal-room-{}", std::process::id()));
        std::fs::create_dir_all(base.join("there")).expect("writable");
        std::os::unix::fs::symlink("there", base.join("link")).expect("free");
        let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
        let room = Room::new(nix::fcntl::open(&base, flags, Mode::empty()).expect("it is there"));
        room.plain_directory("/a/b/proc", 0o755).expect("made");
        room.plain_directory("/a/b/proc", 0o755).expect("found");
        for path in ["/link", "/link/proc", "/a/../link/proc"] {
            assert!(room.plain_directory(path, 0o755).is_err(), "{path}");
        }
        // Gone when it was looked for, a link when it was to be made.
        std::os::unix::fs::symlink("../there/proc", base.join("a/late")).expect("free");
        assert_eq!(room.plain_directory("/a/late", 0o755).err(), Some(Errno::ELOOP));
        let made = std::fs::read_dir(base.join("there")).expect("it is there").count();
        std::fs::remove_dir_all(&base).expect("ours");
        assert_eq!(made, 0);
    }
}
