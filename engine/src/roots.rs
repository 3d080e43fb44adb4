//! Where everything lives: data that survives a reboot, run-time files that need not, the configuration file.

use std::io;
use std::path::{Path, PathBuf};

/// The folders of one engine. Two engines with different roots know nothing of each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Records, images, volumes: `/var/lib/shoal`.
    pub data: PathBuf,
    /// Sockets, mounts, bundles: `/run/shoal`.
    pub run: PathBuf,
    /// `/etc/shoal/config.toml`.
    pub config: PathBuf,
}

impl Roots {
    /// Everything below one folder: `data/`, `run/`, `config.toml`.
    pub fn below(root: &Path) -> Self {
        Self { data: root.join("data"), run: root.join("run"), config: root.join("config.toml") }
    }

    /// The folders of this user: system-wide for root, the XDG folders for others.
    pub fn default_for_user() -> Self {
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if nix::unistd::geteuid().is_root() {
            return Self {
                data: "/var/lib/shoal".into(),
                run: "/run/shoal".into(),
                config: "/etc/shoal/config.toml".into(),
            };
        }
        let home = var("HOME").unwrap_or_else(|| PathBuf::from("/"));
        let uid = nix::unistd::geteuid();
        Self {
            data: var("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share")).join("shoal"),
            run: var("XDG_RUNTIME_DIR").unwrap_or_else(|| PathBuf::from(format!("/tmp/shoal-{uid}"))).join("shoal"),
            config: var("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")).join("shoal/config.toml"),
        }
    }

    /// `root` when given, else the folders of this user.
    pub fn from_option(root: Option<&Path>) -> io::Result<Self> {
        match root {
            Some(root) => Ok(Self::below(&std::path::absolute(root)?)),
            None => Ok(Self::default_for_user()),
        }
    }

    /// The one folder that holds everything, when it was asked for.
    pub fn root(&self) -> Option<PathBuf> {
        let root = self.data.parent().filter(|_| self.data.ends_with("data"))?;
        (Self::below(root) == *self).then(|| root.to_owned())
    }

    /// The folder that holds a container's record.
    pub fn container_data(&self, id: &str) -> PathBuf {
        self.data.join("containers").join(id)
    }

    /// The folder that holds a container's socket, bundle and mounts.
    pub fn container_run(&self, id: &str) -> PathBuf {
        self.run.join("containers").join(id)
    }

    /// The state directory handed to the runtime (`--root`).
    pub fn runtime(&self) -> PathBuf {
        self.run.join("runtime")
    }

    /// The cgroup below which all containers of these roots live; nothing outside it is ever touched.
    pub fn cgroup(&self) -> String {
        format!("/shoal/{:016x}", fnv(self.run.as_os_str().as_encoded_bytes()))
    }
}

/// FNV-1a: short, stable between builds; it only keeps different roots apart.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_folder_holds_everything_when_asked() {
        let roots = Roots::below(Path::new("/x"));
        assert_eq!(roots.data, Path::new("/x/data"));
        assert_eq!(roots.container_run("a"), Path::new("/x/run/containers/a"));
        assert_ne!(roots.cgroup(), Roots::below(Path::new("/y")).cgroup());
    }
}
