//! Removing a tree that somebody else has filled: a container's changes, a volume, an unpacked image.
//!
//! In: the path of a directory of ours. Out: nothing of it. Goes by directory handles and never follows a link. A tree may be
//! deeper than a path is long and deeper than a process may hold files open: what lies too deep is moved up and removed from
//! there. Never crosses into a mounted file system.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Directories held open below each other, two descriptors each; far below the usual limit of 1,024 open files.
const OPEN_MAX: usize = 32;

/// How often a directory is read again because something was still in it: only another process can be the reason.
const PASSES_MAX: usize = 16;

/// Removes a directory and everything below it; what is not there is removed already. A file or link is removed as such.
///
/// # Errors
/// The first refusal of the kernel; the rest of the tree is still there and the call can be repeated.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match open_top(path) {
        Ok(top) => clear(&top)?,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return std::fs::remove_file(path),
        Err(error) => return Err(error.into()),
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes `name` in `parent`, with everything below it when it is a directory. Links are removed, never followed.
pub(crate) fn remove_at(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let name = CString::new(name)?;
    let inner = match open_below(parent.as_fd(), &name) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    clear(&inner)?;
    gone(rustix::fs::unlinkat(parent, name.as_c_str(), AtFlags::REMOVEDIR))
}

/// Removes everything inside a directory; the directory stays.
pub fn clear_tree(path: &Path) -> io::Result<()> {
    clear(&open_top(path)?)
}

fn open_top(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn clear(top: &OwnedFd) -> io::Result<()> {
    let mut remover = Remover { top: top.as_fd(), device: rustix::fs::fstat(top)?.st_dev, moved: 0 };
    remover.empty(top.as_fd(), 0)
}

struct Remover<'a> {
    top: BorrowedFd<'a>,
    device: u64,
    /// Directories moved up so far: the next one's name.
    moved: u64,
}

impl Remover<'_> {
    /// Removes what is in a directory. At most `OPEN_MAX` calls are below each other.
    fn empty(&mut self, folder: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        let mut passes = 0;
        while passes < PASSES_MAX {
            let (mut found, moved) = (false, self.moved);
            let mut entries = Dir::read_from(folder)?;
            while let Some(entry) = entries.read() {
                let entry = entry?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                found = true;
                self.remove(folder, name, entry.file_type(), depth)?;
            }
            if !found {
                return Ok(());
            }
            // What was moved up is new here by our own doing.
            passes = if self.moved == moved { passes + 1 } else { 0 };
        }
        Err(io::Error::other("another process keeps writing into the tree"))
    }

    fn remove(&mut self, folder: BorrowedFd<'_>, name: &CStr, kind: FileType, depth: usize) -> io::Result<()> {
        if !matches!(kind, FileType::Directory | FileType::Unknown) {
            return gone(rustix::fs::unlinkat(folder, name, AtFlags::empty()));
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(Errno::NOTDIR) => return gone(rustix::fs::unlinkat(folder, name, AtFlags::empty())),
            other => return gone(other),
        }
        if depth >= OPEN_MAX {
            return self.lift(folder, name);
        }
        let inner = match open_below(folder, name) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        if rustix::fs::fstat(&inner)?.st_dev != self.device {
            return Err(io::Error::other(format!("{} is a mounted file system", name.to_string_lossy())));
        }
        self.empty(inner.as_fd(), depth + 1)?;
        gone(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR))
    }

    /// Moves a directory to the top, under a name that nothing has there.
    fn lift(&mut self, folder: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        loop {
            let fresh = CString::new(format!(".removed-{}", self.moved)).expect("digits hold no NUL");
            self.moved += 1;
            match rustix::fs::renameat_with(folder, name, self.top, fresh.as_c_str(), RenameFlags::NOREPLACE) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Opens a directory; one that its owner may not read is made readable first.
fn open_below(folder: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // It is a directory: rmdir has just said so. A link put in its place meanwhile is refused by the second open.
            rustix::fs::chmodat(folder, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(folder, name, flags, Mode::empty())
        }
        other => other,
    }
}

fn gone(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{mkdirat, openat};

    /// A chain of `depth` directories made by descriptor, since no path could name its end.
    fn chain(top: &Path, depth: usize) {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let mut at: OwnedFd = std::fs::File::open(top).unwrap().into();
        for _ in 0..depth {
            mkdirat(&at, "0123456789", Mode::RWXU).unwrap();
            at = openat(&at, "0123456789", flags, Mode::empty()).unwrap();
            drop(openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
        }
    }

    #[test]
    fn a_tree_deeper_than_paths_and_open_files_is_removed() {
        let room = tempfile::tempdir().unwrap();
        let tree = room.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        // 3,000 levels: 33,000 bytes of path, and more than the usual 1,024 open files.
        chain(&tree, 3_000);
        std::fs::create_dir(tree.join(".removed-0")).unwrap();
        std::fs::write(tree.join(".removed-0/mine"), "x").unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let room = tempfile::tempdir().unwrap();
        let (tree, outside) = (room.path().join("tree"), room.path().join("outside"));
        std::fs::create_dir_all(tree.join("sub/closed")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("sub/link")).unwrap();
        std::fs::write(tree.join("sub/closed/file"), "x").unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(tree.join("sub/closed"), std::fs::Permissions::from_mode(0o000)).unwrap();
        clear_tree(&tree).unwrap();
        assert_eq!(std::fs::read_dir(&tree).unwrap().count(), 0);
        assert!(outside.join("kept").exists());
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        remove_tree(&tree.join("link")).unwrap();
        assert!(outside.join("kept").exists() && !tree.join("link").exists());
    }

    #[test]
    fn a_wide_tree_is_removed() {
        let room = tempfile::tempdir().unwrap();
        for n in 0..3_000 {
            std::fs::create_dir_all(room.path().join(format!("tree/{n}/{n}"))).unwrap();
        }
        remove_tree(&room.path().join("tree")).unwrap();
        assert!(!room.path().join("tree").exists());
    }
}
