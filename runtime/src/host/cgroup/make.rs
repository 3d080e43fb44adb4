//! Making a container's cgroup and putting processes into it.
//!
//! In: the planned [`Home`]s. Out: directories that exist, with their controllers handed down, and processes in them. Never
//! adopts a directory with processes in it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::controller::{cpuset, freezer};
use super::dir::Dir;
use super::layout::{self, Version};
use super::place::{self, Home};
use super::{Cgroup, CgroupError, Manager, tree};
use crate::host::sys::open::close_all;

impl Cgroup {
    /// Refuses a place where somebody lives, then makes the directories. Under systemd the directories come with
    /// [`Cgroup::attach`], because a scope needs a process to begin with.
    pub fn create(&mut self) -> Result<(), CgroupError> {
        for home in self.homes.iter().filter(|home| !home.made) {
            refuse_inhabited(home)?;
        }
        if self.manager != Manager::Cgroupfs {
            return Ok(());
        }
        let mut homes = std::mem::take(&mut self.homes);
        let mut kept = Vec::with_capacity(homes.len());
        for home in homes.drain(..) {
            match self.make(home) {
                Ok(home) => kept.push(home),
                Err(error) if self.forgives(&error) => {}
                Err(error) => {
                    self.homes = kept;
                    // The first error is the one to report; directories that stay behind would be its consequence.
                    let _ = self.delete();
                    return Err(error);
                }
            }
        }
        self.homes = kept;
        Ok(())
    }

    fn make(&self, mut home: Home) -> Result<Home, CgroupError> {
        if home.version == Version::V2 {
            let parent = home.dir.parent().unwrap_or(&home.mount).to_owned();
            tree::make(&parent, &home.mount)?;
            enable_controllers(&home, &parent)?;
        }
        let planned = home.made;
        home.made = tree::make(&home.dir, &home.mount)?;
        if planned && !home.made {
            // Somebody else was faster since the plan: a container that is being made at this moment, which may not
            // have put its process in yet.
            return Err(CgroupError::Taken { path: home.dir });
        }
        match self.furnish(&home) {
            Err(error) if home.made => {
                // The first error is the one to report; a directory that stays behind would be its consequence.
                let _ = tree::remove(&home.dir, Instant::now());
                Err(error)
            }
            furnished => furnished.map(|()| home),
        }
    }

    /// What a directory needs before a process can enter it.
    fn furnish(&self, home: &Home) -> Result<(), CgroupError> {
        if home.has("cpuset") && home.version == Version::V1 {
            cpuset::inherit_v1(&home.dir, &home.mount, home.made)?;
        }
        if home.version == Version::V2 {
            settle_type(home)?;
            if let Some(owner) = self.owner {
                delegate(home, owner)?;
            }
        }
        Ok(())
    }

    /// Without privilege and without a path of its own a container simply stays where its parent is.
    fn forgives(&self, error: &CgroupError) -> bool {
        self.rootless && !self.path_given && error.is_permission()
    }

    /// A descriptor for `CLONE_INTO_CGROUP`: only where one v2 directory is all there is to enter and we make it.
    pub fn clone_fd(&self) -> Option<OwnedFd> {
        if self.manager != Manager::Cgroupfs || !self.is_pure_v2() {
            return None;
        }
        File::open(&self.homes.first()?.dir).ok().map(OwnedFd::from)
    }

    /// Moves a process into every directory, back to back: after the first write the kernel's grace period is paid for.
    /// Under systemd this starts the scope.
    pub fn attach(&mut self, pid: i32) -> Result<(), CgroupError> {
        let v2 = self.is_pure_v2();
        if let Some(unit) = &mut self.unit {
            unit.start(pid, v2)?;
            return self.enter_unit(pid);
        }
        let (mut index, mut files) = (0, Vec::with_capacity(self.homes.len()));
        while index < self.homes.len() {
            match tree::attach_open(Dir::new(&self.homes[index].dir), pid) {
                Ok(file) => {
                    index += 1;
                    files.push(file);
                }
                Err(error) if self.forgives(&error) => {
                    let home = self.homes.remove(index);
                    if home.made {
                        tree::remove(&home.dir, Instant::now())?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        close_all(files);
        Ok(())
    }

    /// systemd makes the directories of the controllers it manages; the others are made and entered here.
    fn enter_unit(&mut self, pid: i32) -> Result<(), CgroupError> {
        let mut rest = std::mem::take(&mut self.homes).into_iter();
        while let Some(home) = rest.next() {
            let systemds = home.version == Version::V2 || home.has("name=systemd");
            // A directory that systemd has made for the unit is no stranger's.
            let entered = self.make(Home { made: false, ..home.clone() }).and_then(|made| {
                let attached = if systemds { Ok(()) } else { tree::attach(Dir::new(&made.dir), pid) };
                self.homes.push(made);
                attached
            });
            match entered {
                Ok(()) => {}
                Err(error) if self.forgives(&error) => {}
                Err(error) => {
                    // Whoever takes the container back needs to know of all of it.
                    self.homes.extend(rest);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Puts one more process (of `exec`) into the container's cgroup, or with `sub` into a cgroup below it. `sub` is
    /// `PATH`, or `CONTROLLERS:PATH` for some v1 hierarchies only.
    pub fn add_process(&self, pid: i32, sub: Option<&str>) -> Result<(), CgroupError> {
        let (only, path) = match sub.unwrap_or("").split_once(':') {
            Some((only, path)) => (Some(only.split(',').collect::<Vec<_>>()), path),
            None => (None, sub.unwrap_or("")),
        };
        let inner = place::relative(path)?;
        let unknown = only.iter().flatten().find(|name| self.home_of(name).is_none());
        if let Some(unknown) = unknown {
            return Err(CgroupError::Unavailable {
                what: format!("cgroup {path:?} for controller {unknown:?}"),
                reason: "the container is in no hierarchy of that controller".to_owned(),
            });
        }
        for home in &self.homes {
            let chosen = only.as_ref().is_none_or(|names| names.iter().any(|name| home.has(name)));
            let dir = if chosen { home.dir.join(&inner) } else { home.dir.clone() };
            if home.version == Version::V2 && inner.as_os_str().is_empty() {
                self.add_to_v2(home, pid)?;
                continue;
            }
            match tree::attach(Dir::new(&dir), pid) {
                Err(error) if self.rootless && error.is_permission() => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// A container that moved its processes into sub-cgroups and handed out controllers has made its own cgroup one
    /// that nobody may enter (EBUSY): then the place of its first process is right.
    fn add_to_v2(&self, home: &Home, pid: i32) -> Result<(), CgroupError> {
        match tree::attach(Dir::new(&home.dir), pid) {
            Err(error) if matches!(error.errno(), Some(libc::EBUSY | libc::EOPNOTSUPP)) => {
                let first = tree::pids(&home.dir, true)?.into_iter().find(|pid| *pid > 0);
                let Some(dir) = first.and_then(|first| v2_place_of(&home.mount, first)) else { return Err(error) };
                if !dir.starts_with(&home.dir) {
                    return Err(error);
                }
                tree::attach(Dir::new(&dir), pid)
            }
            Err(error) if self.rootless && error.is_permission() => Ok(()),
            result => result,
        }
    }
}

/// runc's rule: a container may be put into a directory that exists, but not where processes live.
fn refuse_inhabited(home: &Home) -> Result<(), CgroupError> {
    if !home.dir.exists() {
        return Ok(());
    }
    let count = tree::pids(&home.dir, true)?.len();
    if count > 0 {
        return Err(CgroupError::NotEmpty { path: home.dir.clone(), count });
    }
    let dir = Dir::new(&home.dir);
    let frozen = match home.version {
        Version::V1 => home.has("freezer") && freezer::is_frozen_v1(dir)?,
        Version::V2 => freezer::is_frozen_v2(dir)?,
    };
    if frozen { Err(CgroupError::Frozen { path: home.dir.clone() }) } else { Ok(()) }
}

/// Hands every controller of the hierarchy down to `parent`'s children. A controller that cannot be handed out is only
/// missed when a limit needs it: the error then names it.
fn enable_controllers(home: &Home, parent: &Path) -> Result<(), CgroupError> {
    let missing = |dir: Dir<'_>| -> Result<Vec<&str>, CgroupError> {
        let enabled = dir.read_if("cgroup.subtree_control")?.unwrap_or_default();
        let enabled: Vec<&str> = enabled.split_ascii_whitespace().collect();
        Ok(home.controllers.iter().map(String::as_str).filter(|name| !enabled.contains(name)).collect())
    };
    if missing(Dir::new(parent))?.is_empty() {
        return Ok(());
    }
    let mut chain: Vec<&Path> = parent.ancestors().take_while(|dir| dir.starts_with(&home.mount)).collect();
    chain.reverse();
    for path in chain {
        let dir = Dir::new(path);
        let names = missing(dir)?;
        if names.is_empty() {
            continue;
        }
        let all: Vec<String> = names.iter().map(|name| format!("+{name}")).collect();
        if dir.write("cgroup.subtree_control", &all.join(" ")).is_err() {
            for one in &all {
                let _ = dir.write("cgroup.subtree_control", one);
            }
        }
    }
    Ok(())
}

/// A child of a threaded cgroup starts as "domain invalid": it can only become threaded.
fn settle_type(home: &Home) -> Result<(), CgroupError> {
    let dir = Dir::new(&home.dir);
    match dir.read_if("cgroup.type")?.as_deref() {
        Some("domain invalid") => dir.write("cgroup.type", "threaded"),
        _ => Ok(()),
    }
}

/// Gives the directory and the files of `/sys/kernel/cgroup/delegate` to the container's root user. cgroups(7)
fn delegate(home: &Home, owner: u32) -> Result<(), CgroupError> {
    let listed = std::fs::read_to_string("/sys/kernel/cgroup/delegate");
    let listed = listed.as_deref().unwrap_or("cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n");
    let chown = |path: PathBuf| match nix::unistd::chown(&path, Some(owner.into()), None) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(CgroupError::Write { path, value: format!("owner {owner}"), cause: errno.into() }),
    };
    chown(home.dir.clone())?;
    for name in listed.lines().filter(|name| !name.is_empty() && !name.contains('/')) {
        chown(home.dir.join(name))?;
    }
    Ok(())
}

fn v2_place_of(mount: &Path, pid: i32) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(layout::below(mount, Path::new(path)))
}
