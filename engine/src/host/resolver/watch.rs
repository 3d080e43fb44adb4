//! The members' files of every network of these roots, followed through inotify. In: the folder of one network. Out: changes
//! applied to [`Names`]. Reads only the file that changed; an overflow reads all again.

use crate::network::names::Names;
use crate::network::{FURTHER, FURTHER_VERSION, Further, Member};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// A bound for one member's file.
const MEMBER_BYTES_MAX: u64 = 1 << 20;

/// A bound for the names from elsewhere: 100,000 services of the mesh.
const FURTHER_BYTES_MAX: u64 = 16 << 20;

/// The watched folders.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Inotify,
    /// `run/networks`: a new network shows there.
    root: PathBuf,
    root_watch: WatchDescriptor,
    /// `run/networks/ID` whose `members` is not there yet, and `run/networks/ID/members`.
    rooms: HashMap<WatchDescriptor, (String, bool)>,
}

/// Returns the container whose member file has this name.
pub(super) fn container(name: &OsStr) -> Option<&str> {
    let name = name.to_str()?;
    name.strip_suffix(".json").filter(|id| !id.is_empty() && !id.starts_with('.'))
}

impl Watch {
    /// Watches all networks beside this one and reads their members.
    pub(super) fn open(folder: &Path, names: &mut Names) -> io::Result<Self> {
        let root = folder.parent().unwrap_or(folder).to_owned();
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let root_watch = inotify.add_watch(&root, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
        let mut watch = Self { inotify, root, root_watch, rooms: HashMap::new() };
        watch.read_all(names)?;
        Ok(watch)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    fn read_all(&mut self, names: &mut Names) -> io::Result<()> {
        *names = Names::default();
        for entry in fs::read_dir(&self.root)? {
            if let Some(id) = entry?.file_name().to_str() {
                self.add_network(id, names)?;
            }
        }
        Ok(())
    }

    /// Watches one network: its members, or, before there are any, its folder.
    fn add_network(&mut self, id: &str, names: &mut Names) -> io::Result<()> {
        let folder = self.root.join(id);
        if !folder.is_dir() {
            return Ok(());
        }
        let changes = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE;
        if let Ok(watch) = self.inotify.add_watch(&folder, changes) {
            self.rooms.insert(watch, (id.to_owned(), false));
        }
        read_further(&folder, id, names);
        let members = folder.join("members");
        let Ok(watch) = self.inotify.add_watch(&members, changes) else { return Ok(()) };
        self.rooms.insert(watch, (id.to_owned(), true));
        for entry in fs::read_dir(&members)? {
            if let Some(container) = container(&entry?.file_name()) {
                read_member(&members, id, container, names);
            }
        }
        Ok(())
    }

    /// Applies everything that changed since the last call.
    pub(super) fn update(&mut self, names: &mut Names) -> io::Result<()> {
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(nix::errno::Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    self.read_all(names)?;
                    continue;
                }
                let name = event.name.as_deref().unwrap_or_default();
                if event.wd == self.root_watch {
                    if let Some(id) = name.to_str() {
                        self.add_network(id, names)?;
                    }
                    continue;
                }
                let Some((id, inner)) = self.rooms.get(&event.wd).cloned() else { continue };
                self.apply(&event, &id, inner, name, names)?;
            }
        }
    }

    fn apply(
        &mut self,
        event: &nix::sys::inotify::InotifyEvent,
        id: &str,
        inner: bool,
        name: &OsStr,
        names: &mut Names,
    ) -> io::Result<()> {
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            // The folder itself is gone.
            self.rooms.remove(&event.wd);
            if inner {
                names.remove_network(id);
            }
        } else if !inner {
            if name == FURTHER {
                read_further(&self.root.join(id), id, names);
            } else if name == "members" && !event.mask.contains(AddWatchFlags::IN_DELETE) {
                self.add_network(id, names)?;
            }
        } else if let Some(container) = container(name) {
            if event.mask.contains(AddWatchFlags::IN_DELETE) {
                names.remove(id, container);
            } else {
                read_member(&self.root.join(id).join("members"), id, container, names);
            }
        }
        Ok(())
    }
}

/// Reads the names from elsewhere; without the file there are none.
fn read_further(folder: &Path, id: &str, names: &mut Names) {
    let path = folder.join(FURTHER);
    let fits = fs::metadata(&path).is_ok_and(|found| found.len() <= FURTHER_BYTES_MAX);
    let further =
        if fits { fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Further>(&bytes).ok()) } else { None };
    names.set_further(
        id,
        further.filter(|further| further.version == FURTHER_VERSION).map(|further| further.names).unwrap_or_default(),
    );
}

/// Reads one member; a file that is gone again or damaged is nobody's name.
fn read_member(members: &Path, id: &str, container: &str, names: &mut Names) {
    let path = members.join(format!("{container}.json"));
    let fits = fs::metadata(&path).is_ok_and(|found| found.len() <= MEMBER_BYTES_MAX);
    let member =
        if fits { fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Member>(&bytes).ok()) } else { None };
    match member {
        Some(member) if member.attachment.container == container => names.put(id, &member),
        _ => names.remove(id, container),
    }
}
