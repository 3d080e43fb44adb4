//! Where a container's cgroup lies. In: `cgroupsPath`, the container's id, the layout. Out: a directory per hierarchy.
//!
//! Pure. runtime-spec config-linux.md "Cgroups Path": an absolute path counts from the mount point, a relative one from
//! a place the runtime chooses; here, as in runc, from the caller's own cgroup (v1) or from its parent (v2, where a
//! cgroup with processes cannot hand out controllers).

use std::path::{Component, Path, PathBuf};

use super::error::CgroupError;
use super::layout::{Hierarchy, Layout, Mode, Version, below};

/// The longest path accepted, in bytes: what the kernel's `PATH_MAX` leaves once a mount point is put in front.
const PATH_BYTES_MAX: usize = 3072;

/// A directory in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Home {
    /// The hierarchy's interface.
    pub version: Version,
    /// The controllers that act through this directory.
    pub controllers: Vec<String>,
    /// The directory.
    pub dir: PathBuf,
    /// Where the hierarchy is mounted; `dir` lies below.
    pub mount: PathBuf,
    /// Whether we made the directory. Only then it is ever removed.
    pub made: bool,
}

impl Home {
    /// Whether the controller acts through this directory.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// The path of a cgroup inside its hierarchies, as the user wrote it and without anything that climbs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CgroupsPath {
    pub(super) absolute: bool,
    pub(super) inner: PathBuf,
}

impl CgroupsPath {
    /// Reads `cgroupsPath`; an absent or empty one is the container's id.
    pub(super) fn parse(path: Option<&str>, id: &str) -> Result<Self, CgroupError> {
        let text = path.filter(|path| !path.is_empty()).unwrap_or(id);
        let inner = relative(text)?;
        if inner.as_os_str().is_empty() {
            return Err(refused(text, "it names the root of the hierarchy, which belongs to the host"));
        }
        Ok(Self { absolute: text.starts_with('/'), inner })
    }

    pub(super) fn dir(&self, hierarchy: &Hierarchy, mode: Mode) -> PathBuf {
        if self.absolute {
            return hierarchy.mount.join(&self.inner);
        }
        match (hierarchy.version, mode) {
            (Version::V2, Mode::V2) if hierarchy.own != hierarchy.mount => {
                hierarchy.own.parent().unwrap_or(&hierarchy.mount).join(&self.inner)
            }
            _ => hierarchy.own.join(&self.inner),
        }
    }
}

/// A path without `.`, empty and absolute parts; `..` is refused: nothing a bundle says may climb.
pub(super) fn relative(text: &str) -> Result<PathBuf, CgroupError> {
    if text.len() > PATH_BYTES_MAX {
        return Err(refused(&text.chars().take(64).collect::<String>(), "it is too long"));
    }
    if text.contains(['\0', '\n']) {
        return Err(refused(text, "it contains a control character"));
    }
    let mut inner = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) => inner.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(refused(text, "'..' is not allowed in it")),
        }
    }
    Ok(inner)
}

/// The homes of a container under the cgroupfs manager.
pub(super) fn homes(layout: &Layout, path: &CgroupsPath) -> Vec<Home> {
    let home = |hierarchy: &Hierarchy| Home {
        version: hierarchy.version,
        controllers: hierarchy.controllers.clone(),
        dir: path.dir(hierarchy, layout.mode()),
        mount: hierarchy.mount.clone(),
        made: false,
    };
    layout.hierarchies.iter().map(home).collect()
}

/// The homes of a container whose cgroup systemd makes: the unit's path below every hierarchy.
pub(super) fn unit_homes(layout: &Layout, unit_path: &Path) -> Vec<Home> {
    let home = |hierarchy: &Hierarchy| Home {
        version: hierarchy.version,
        controllers: hierarchy.controllers.clone(),
        dir: below(&hierarchy.mount, unit_path),
        mount: hierarchy.mount.clone(),
        made: false,
    };
    layout.hierarchies.iter().map(home).collect()
}

pub(super) fn refused(path: &str, reason: &'static str) -> CgroupError {
    CgroupError::Path { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(version: Version, own: &str) -> Hierarchy {
        Hierarchy { version, controllers: Vec::new(), mount: "/cg".into(), own: own.into() }
    }

    #[test]
    fn an_absolute_path_counts_from_the_mount_and_a_relative_one_from_our_own_cgroup() {
        let absolute = CgroupsPath::parse(Some("/pods//./a"), "id").unwrap();
        assert_eq!(absolute.dir(&hierarchy(Version::V1, "/cg/me"), Mode::V1), Path::new("/cg/pods/a"));
        let relative = CgroupsPath::parse(Some("pods/a"), "id").unwrap();
        assert_eq!(relative.dir(&hierarchy(Version::V1, "/cg/me"), Mode::V1), Path::new("/cg/me/pods/a"));
        assert_eq!(relative.dir(&hierarchy(Version::V2, "/cg/x/me"), Mode::Hybrid), Path::new("/cg/x/me/pods/a"));
    }

    #[test]
    fn on_pure_v2_a_relative_path_is_a_sibling_of_ours_and_never_above_the_mount() {
        let id = CgroupsPath::parse(None, "c1").unwrap();
        assert_eq!(id.dir(&hierarchy(Version::V2, "/cg/x/me"), Mode::V2), Path::new("/cg/x/c1"));
        assert_eq!(id.dir(&hierarchy(Version::V2, "/cg"), Mode::V2), Path::new("/cg/c1"));
    }

    #[test]
    fn an_empty_path_means_the_id() {
        assert_eq!(CgroupsPath::parse(Some(""), "c1").unwrap().inner, Path::new("c1"));
    }

    #[test]
    fn climbing_the_root_and_endless_paths_are_refused() {
        for path in ["../../x", "/a/../../b", "..", "/", "a\nb", &"x/".repeat(4000)] {
            assert!(CgroupsPath::parse(Some(path), "id").is_err(), "{path:.20}");
        }
    }
}
