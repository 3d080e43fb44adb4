//! The procfs and sysfs of a container under construction, held by their own descriptors.
//!
//! Who can write the root file system from elsewhere can move `/proc` away between its mount and the masks, and put a
//! directory that looks like it in its place. What has to be hidden or read-only is therefore looked for from the mount
//! itself: it is covered wherever that has come to be. In the end the path must still lead to the mount, else the start
//! is refused.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::super::room::Room;
use super::super::sys::mount::whereabouts;
use super::super::sys::open::openat2;
use crate::error::{During, Error, Result};
use crate::plan::mounts::clean;

/// Every procfs and sysfs that was mounted and is not covered, the last one last.
#[derive(Debug, Default)]
pub(super) struct Views(Vec<View>);

#[derive(Debug)]
struct View {
    /// Where it was mounted.
    point: String,
    /// The root of the mount.
    root: OwnedFd,
    /// Whether something below it was looked for.
    used: bool,
}

impl Views {
    /// Remembers the file system with this root at `destination`.
    pub(super) fn add(&mut self, destination: &str, root: OwnedFd) {
        self.0.push(View { point: clean(destination), root, used: false });
    }

    /// Takes those that a new mount on `destination` covers.
    pub(super) fn covered(&mut self, destination: &str) -> Vec<OwnedFd> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let path = clean(destination);
        self.0.extract_if(.., |view| below(&view.point, &path).is_some()).map(|view| view.root).collect()
    }

    /// What is at `path` in the view mounted above it, if one is. A path with `..` may lead anywhere and is in none, and a
    /// view is not in itself.
    pub(super) fn open(&mut self, path: &str) -> Option<nix::Result<OwnedFd>> {
        if path.split('/').any(|part| part == "..") {
            return None;
        }
        let path = clean(path);
        let mut found = self.0.iter_mut().rev().filter_map(|view| below(&path, &view.point).map(|rest| (rest, view)));
        let (rest, view) = found.next().filter(|(rest, _)| !rest.is_empty())?;
        view.used = true;
        let rules = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
        Some(openat2(view.root.as_fd(), rest.as_bytes(), libc::O_PATH, 0, rules))
    }

    /// Fails where the path of a view in which something was looked for leads to another mount by now, be it one of the
    /// same file system.
    pub(super) fn check(&self, room: &Room) -> Result<()> {
        for view in self.0.iter().filter(|view| view.used) {
            let operation = || format!("examine {}", view.point);
            // What a link leads to is only compared, never used.
            let there = match whereabouts(room.root(), view.point.trim_start_matches('/')) {
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => None,
                found => Some(found.during(operation)?),
            };
            if there != Some(whereabouts(view.root.as_fd(), "").during(operation)?) {
                return Err(Error::state(format!(
                    "{} is no longer what was mounted there: somebody who can write the root file system has replaced it",
                    view.point
                )));
            }
        }
        Ok(())
    }

    /// The descriptors, once all is done.
    pub(super) fn take(&mut self) -> impl Iterator<Item = OwnedFd> + use<> {
        std::mem::take(&mut self.0).into_iter().map(|view| view.root)
    }
}

/// What of `path` is below `point`; both are clean. Empty for the point itself.
fn below<'a>(path: &'a str, point: &str) -> Option<&'a str> {
    if point == "/" {
        return Some(&path[1..]);
    }
    let rest = path.strip_prefix(point)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_point_is_told_by_whole_names() {
        assert_eq!(below("/proc/kcore", "/proc"), Some("kcore"));
        assert_eq!(below("/proc", "/proc"), Some(""));
        assert_eq!(below("/process", "/proc"), None);
        assert_eq!(below("/sys/fs", "/"), Some("sys/fs"));
        assert_eq!(below("/", "/proc"), None);
    }

    #[test]
    fn a_view_is_asked_until_it_is_covered() {
        let folder = std::env::temp_dir().join(format!("shoal-views-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("proc/sys")).expect("writable");
        let open = |path: &str| {
            let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
            nix::fcntl::open(&folder.join(path), flags, nix::sys::stat::Mode::empty()).expect("it is there")
        };
        let (room, mut views) = (Room::new(open("")), Views::default());
        views.add("/./proc/", open("proc"));
        views.check(&room).expect("nothing was looked for");
        assert!(views.open("/proc/sys").expect("below").is_ok());
        assert_eq!(views.open("/proc/none").expect("below").err(), Some(Errno::ENOENT));
        assert!(["/proc/../etc", "/sys", "/proc"].iter().all(|path| views.open(path).is_none()));
        views.check(&room).expect("it is still there");
        std::fs::rename(folder.join("proc"), folder.join("elsewhere")).expect("ours");
        assert!(views.check(&room).is_err());
        std::fs::create_dir_all(folder.join("proc/sys")).expect("writable");
        assert!(views.check(&room).is_err(), "a look-alike");
        assert!(views.covered("/proc/sys").is_empty());
        assert_eq!(views.covered("/").len(), 1);
        assert!(views.open("/proc/sys").is_none());
        std::fs::remove_dir_all(&folder).expect("ours");
    }
}
