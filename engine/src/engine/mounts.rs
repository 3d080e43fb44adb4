//! `-v`, `--mount`, `--tmpfs`, `--volumes-from`, an image's volumes: what is asked for becomes mounts of the document.

use super::{Container, Engine};
use crate::error::EngineError;
use crate::host::process;
use crate::record::Record;
use crate::wish::{MountKind, MountWish};
use oci::spec::Mount;
use std::fs;
use std::path::Path;

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
            if mount.kind == MountKind::Volume && mount.source.is_empty() {
                mount.source = process::random::<32>().iter().map(|byte| format!("{byte:02x}")).collect();
                mount.anonymous = true;
            }
        }
        Ok(())
    }

    /// Turns the container's mounts into the document's; makes missing folders of `-v` and missing volumes.
    pub(super) fn mounts(&self, container: &Container, rootfs: &Path) -> Result<Vec<Mount>, EngineError> {
        container.record.wish.mounts.iter().map(|wish| self.mount(container, rootfs, wish)).collect()
    }

    /// The folder of a volume, made and filled from the image when it is new.
    fn volume(&self, _container: &Container, _rootfs: &Path, wish: &MountWish) -> Result<String, EngineError> {
        let folder = self.roots().data.join("volumes").join(&wish.source).join("_data");
        fs::create_dir_all(&folder).map_err(EngineError::io(format!("make {}", folder.display())))?;
        Ok(folder.to_string_lossy().into_owned())
    }

    /// Removes a volume that nobody uses.
    pub(super) fn volume_remove(&self, name: &str) -> Result<(), EngineError> {
        let folder = self.roots().data.join("volumes").join(name);
        fs::remove_dir_all(&folder).map_err(EngineError::io(format!("remove {}", folder.display())))
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
                if !source.exists() {
                    if !wish.create_source {
                        return Err(EngineError::Invalid(format!(
                            "bind source path does not exist: {}",
                            wish.source
                        )));
                    }
                    fs::create_dir_all(source).map_err(EngineError::io(format!("make {}", wish.source)))?;
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

/// A bind mount with docker's defaults: recursive, private.
fn bind(wish: &MountWish, source: &str) -> Mount {
    const PROPAGATION: [&str; 8] =
        ["shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"];
    let mut options: Vec<String> = Vec::new();
    options.push(if wish.options.iter().any(|option| option == "bind") { "bind" } else { "rbind" }.to_owned());
    for option in &wish.options {
        match option.as_str() {
            // Labels, ownership and consistency are not mount options.
            "z" | "Z" | "U" | "O" | "bind" | "rbind" | "cached" | "delegated" => {}
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
