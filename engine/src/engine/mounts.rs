//! `-v`, `--mount`, `--tmpfs`, `--volumes-from`, an image's volumes: what is asked for becomes mounts of the document.

use super::{Container, Engine};
use crate::error::EngineError;
use crate::host::rootfs::Rootfs;
use crate::record::Record;
use crate::volume::Volumes;
use crate::wish::{MountKind, MountWish};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use oci::spec::Mount;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Below a container's run folder: parts of volumes that are mounted into it.
const PINS: &str = "pins";

/// In a container's data folder once its volumes were filled from the image: what it removes there does not come back.
const FILLED: &str = "filled";

impl Engine {
    /// Gives names to volumes without one and takes over what `--volumes-from` names; at `create`, so that every start
    /// finds the same.
    pub(super) fn anonymous_volumes(&self, record: &mut Record) -> Result<(), EngineError> {
        for text in record.wish.volumes_from.clone() {
            let (name, access) = text.split_once(':').map_or((text.as_str(), ""), |(name, access)| (name, access));
            if !matches!(access, "" | "rw" | "ro" | "z" | "Z") {
                return Err(EngineError::Invalid(format!("--volumes-from {text:?}: NAME[:ro|rw]")));
            }
            let other = self.find(name)?;
            for mount in &other.record.wish.mounts {
                let same = |own: &MountWish| own.target.trim_end_matches('/') == mount.target.trim_end_matches('/');
                if mount.kind != MountKind::Tmpfs && !record.wish.mounts.iter().any(same) {
                    let read_only = mount.read_only || access == "ro";
                    record.wish.mounts.push(MountWish { read_only, anonymous: false, ..mount.clone() });
                }
            }
        }
        for path in record.defaults.volumes.clone() {
            let same = |own: &MountWish| own.target.trim_end_matches('/') == path.trim_end_matches('/');
            if path.starts_with('/') && !record.wish.mounts.iter().any(same) {
                record.wish.mounts.push(MountWish { target: path, ..MountWish::default() });
            }
        }
        for mount in &mut record.wish.mounts {
            if mount.kind == MountKind::Volume {
                mount.anonymous |= mount.source.is_empty();
                if !matches!(mount.driver.as_str(), "" | "local") {
                    return Err(EngineError::Invalid(format!("volume driver {:?}: only local is known", mount.driver)));
                }
                let options: BTreeMap<String, String> = mount
                    .driver_options
                    .iter()
                    .map(|text| text.split_once('=').unwrap_or((text, "")))
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect();
                let volumes = self.volumes();
                mount.source = volumes.obtain(&mount.source, &options, &record.id)?.name;
            }
        }
        Ok(())
    }

    /// Turns the container's mounts into the document's; makes missing folders of `-v` and missing volumes.
    pub(super) fn mounts(&self, container: &Container, rootfs: &Path) -> Result<Vec<Mount>, EngineError> {
        let mounts = container.record.wish.mounts.iter().map(|wish| self.mount(container, rootfs, wish));
        let mounts = mounts.collect::<Result<_, _>>()?;
        let filled = container.data.join(FILLED);
        fs::write(&filled, "").map_err(EngineError::io(format!("write {}", filled.display())))?;
        Ok(mounts)
    }

    /// The volumes of these roots.
    pub fn volumes(&self) -> Volumes {
        Volumes::new(self.roots())
    }

    /// The folder of a volume, mounted if its options say so and filled from the image when it is empty.
    fn volume(&self, container: &Container, rootfs: &Path, wish: &MountWish) -> Result<String, EngineError> {
        let volumes = self.volumes();
        // Made anew when somebody has removed it with force; the note is renewed with it.
        let volume = volumes.obtain(&wish.source, &BTreeMap::new(), container.id())?;
        let folder = volumes.prepare(&volume)?;
        if !wish.no_copy && !container.data.join(FILLED).exists() {
            volumes.populate(&volume, rootfs, Path::new(&wish.target), self.mapped_from(container))?;
        }
        if wish.subpath.is_empty() {
            return Ok(folder.to_string_lossy().into_owned());
        }
        let inside = Path::new(&wish.subpath);
        if !inside.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
            return Err(EngineError::Invalid(format!("volume-subpath {:?} is no path below the volume", wish.subpath)));
        }
        let root = Rootfs::open(&folder).map_err(EngineError::io(format!("open {}", folder.display())))?;
        let part = root
            .file(inside, OFlag::O_PATH | OFlag::O_DIRECTORY)
            .map_err(|error| EngineError::Invalid(format!("volume {}: {}: {error}", volume.name, wish.subpath)))?;
        let step = || EngineError::io(format!("pin {} of volume {}", wish.subpath, volume.name));
        pin(&container.run, &part).map(|place| place.to_string_lossy().into_owned()).map_err(step())
    }

    /// Lets go of a removed container's volumes; anonymous ones go with it when `remove`, unless others use them.
    pub(super) fn release_volumes(&self, record: &Record, remove: bool) -> Result<(), EngineError> {
        let volumes = self.volumes();
        for mount in record.wish.mounts.iter().filter(|mount| mount.kind == MountKind::Volume) {
            volumes.release(&mount.source, &record.id)?;
            if remove && mount.anonymous {
                match volumes.remove(&mount.source) {
                    Ok(_) | Err(crate::volume::Error::InUse { .. } | crate::volume::Error::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn mount(&self, container: &Container, rootfs: &Path, wish: &MountWish) -> Result<Mount, EngineError> {
        match wish.kind {
            MountKind::Tmpfs => {
                let mut options: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).to_vec();
                for option in &wish.options {
                    match option.as_str() {
                        "exec" | "suid" | "dev" => options.retain(|known| *known != format!("no{option}")),
                        _ => {}
                    }
                    if !options.contains(option) {
                        options.push(option.clone());
                    }
                }
                if !options.iter().any(|option| option.starts_with("mode=")) {
                    options.push("mode=1777".to_owned());
                }
                if wish.read_only && !options.iter().any(|option| option == "ro") {
                    options.push("ro".to_owned());
                }
                Ok(entry(wish, "tmpfs", "tmpfs", options))
            }
            MountKind::Bind => {
                let source = Path::new(&wish.source);
                has_source(wish)?;
                if !source.exists() {
                    make_shared(source).map_err(EngineError::io(format!("make {}", wish.source)))?;
                }
                Ok(bind(wish, &wish.source))
            }
            MountKind::Volume => {
                let folder = self.volume(container, rootfs, wish)?;
                Ok(bind(wish, &folder))
            }
        }
    }
}

/// Makes a folder and those above it that users inside can enter, whatever the umask of who starts the container.
fn make_shared(folder: &Path) -> io::Result<()> {
    if let Some(above) = folder.parent().filter(|above| !above.exists()) {
        make_shared(above)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Refuses a bind of what is not there, unless it was said that it be made: a path that was mistyped is no empty folder.
pub(super) fn has_source(wish: &MountWish) -> Result<(), EngineError> {
    if wish.kind == MountKind::Bind && !wish.create_source && !Path::new(&wish.source).exists() {
        return Err(EngineError::NoSource { path: wish.source.clone() });
    }
    Ok(())
}

/// Holds a directory that was looked up by a mount of its own, and returns its place. Its path in the volume may be made to lead
/// elsewhere by any container that has the volume, also between two starts.
fn pin(run: &Path, part: &OwnedFd) -> io::Result<PathBuf> {
    let pins = run.join(PINS);
    fs::create_dir_all(&pins)?;
    let place = pins.join(fs::read_dir(&pins)?.count().to_string());
    fs::create_dir(&place)?;
    let (from, none) = (format!("/proc/self/fd/{}", part.as_raw_fd()), None::<&str>);
    mount(Some(from.as_str()), &place, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    Ok(place)
}

/// Takes the pins of a container off. Nothing below them is ever removed: only empty folders are.
pub(super) fn unpin(run: &Path) -> io::Result<()> {
    let pins = run.join(PINS);
    let entries = match fs::read_dir(&pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let place = entry?.path();
        loop {
            match umount2(&place, MntFlags::MNT_DETACH) {
                Ok(()) => {}
                Err(Errno::EINVAL) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        fs::remove_dir(&place)?;
    }
    fs::remove_dir(&pins)
}

/// A bind mount with docker's defaults: recursive, private.
fn bind(wish: &MountWish, source: &str) -> Mount {
    const PROPAGATION: [&str; 8] =
        ["shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"];
    let mut options: Vec<String> = Vec::new();
    options.push(if wish.options.iter().any(|option| option == "bind") { "bind" } else { "rbind" }.to_owned());
    for option in &wish.options {
        match option.as_str() {
            // Labels (without SELinux there are none) and consistency are not mount options.
            "z" | "Z" | "bind" | "rbind" | "cached" | "delegated" => {}
            _ => options.push(option.clone()),
        }
    }
    if !options.iter().any(|option| PROPAGATION.contains(&option.as_str())) {
        options.push("rprivate".to_owned());
    }
    if wish.read_only {
        options.push("ro".to_owned());
    }
    entry(wish, "bind", source, options)
}

fn entry(wish: &MountWish, kind: &str, source: &str, options: Vec<String>) -> Mount {
    Mount {
        destination: wish.target.clone(),
        kind: Some(kind.to_owned()),
        source: Some(source.to_owned()),
        options,
        ..Mount::default()
    }
}
