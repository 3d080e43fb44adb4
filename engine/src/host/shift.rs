//! Gives every file below a directory to whom a user namespace maps its owner to: what a kernel without mounts that do so
//! leaves to do.
//!
//! In: the open directory, the maps. Out: owners changed; modes and file capabilities, which a change of owner takes, are put
//! back. Goes by descriptors only and follows no link. Not to be begun twice on one tree: maps may overlap.

use super::sys;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Gid, Uid, fchownat};
use oci::spec::LinuxIdMapping;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Directories below each other: each holds a descriptor open.
const DEPTH_MAX: usize = 200;
/// What a change of owner takes away.
const CAPABILITY: &std::ffi::CStr = c"security.capability";

/// Changes the owners of everything in `root`, itself included. An id that the maps do not know is left as it is.
pub(crate) fn owners(root: BorrowedFd<'_>, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> io::Result<()> {
    let maps = Maps { uids, gids };
    maps.node(root, c".", DEPTH_MAX)
}

struct Maps<'a> {
    uids: &'a [LinuxIdMapping],
    gids: &'a [LinuxIdMapping],
}

impl Maps<'_> {
    fn node(&self, parent: BorrowedFd<'_>, name: &std::ffi::CStr, depth: usize) -> io::Result<()> {
        let handle = openat(parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        let stat = fstat(&handle)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFDIR {
            if depth == 0 {
                return Err(io::Error::other("directories are nested too deeply to change their owners"));
            }
            let folder =
                openat(parent, name, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
            self.entries(folder, depth - 1)?;
        }
        let (user, group) = (mapped(self.uids, stat.st_uid), mapped(self.gids, stat.st_gid));
        if (user, group) == (stat.st_uid, stat.st_gid) {
            return Ok(());
        }
        let file = (kind == SFlag::S_IFREG)
            .then(|| openat(parent, name, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()))
            .transpose()?;
        let capability = file.as_ref().and_then(|file| sys::xattr(file.as_fd(), CAPABILITY).ok());
        let flags = AtFlags::AT_EMPTY_PATH | AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(handle.as_fd(), c"", Some(Uid::from_raw(user)), Some(Gid::from_raw(group)), flags)?;
        if kind == SFlag::S_IFREG && stat.st_mode & 0o6000 != 0 {
            let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
            let mode = std::os::unix::fs::PermissionsExt::from_mode(stat.st_mode & 0o7777);
            std::fs::set_permissions(path, mode)?;
        }
        if let (Some(file), Some(capability)) = (&file, capability) {
            sys::set_xattr(file.as_fd(), CAPABILITY, &capability)?;
        }
        Ok(())
    }

    fn entries(&self, folder: OwnedFd, depth: usize) -> io::Result<()> {
        let mut listing = nix::dir::Dir::from_fd(folder.try_clone()?)?;
        // All names first: changing an owner can move a file to the upper layer of an overlay.
        let names: Vec<std::ffi::CString> = listing
            .iter()
            .filter_map(|entry| entry.ok().map(|entry| entry.file_name().to_owned()))
            .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
            .collect();
        names.iter().try_for_each(|name| self.node(folder.as_fd(), name, depth))
    }
}

fn mapped(map: &[LinuxIdMapping], id: u32) -> u32 {
    let range = map.iter().find(|one| id.checked_sub(one.container_id).is_some_and(|offset| offset < one.size));
    range.map_or(id, |one| one.host_id + (id - one.container_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_where_the_map_says_and_others_stay() {
        let one = |container_id, host_id, size| LinuxIdMapping { container_id, host_id, size };
        let keep = [one(0, 1, 1000), one(1000, 0, 1), one(1001, 1001, 64_000)];
        for (id, wanted) in [(0, 1), (999, 1000), (1000, 0), (1001, 1001), (70_000, 70_000)] {
            assert_eq!(mapped(&keep, id), wanted, "{id}");
        }
    }
}
