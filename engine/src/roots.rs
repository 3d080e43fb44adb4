//! Where everything lives: data that survives a reboot, run-time files that need not, the configuration file.

use std::io;
use std::path::{Path, PathBuf};

/// The configuration of the whole system.
const SYSTEM_CONFIG: &str = "/etc/shoal/config.toml";

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
        let Some(uid) = rootless() else {
            return Self { data: "/var/lib/shoal".into(), run: "/run/shoal".into(), config: SYSTEM_CONFIG.into() };
        };
        let home = var("HOME").unwrap_or_else(|| PathBuf::from("/"));
        Self {
            data: var("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share")).join("shoal"),
            run: var("XDG_RUNTIME_DIR").unwrap_or_else(|| shared_run(uid)).join("shoal"),
            config: user_config(),
        }
    }

    /// `root` when given, else the folders of this user.
    pub fn from_option(root: Option<&Path>) -> io::Result<Self> {
        match root {
            Some(root) => Ok(Self::below(&std::path::absolute(root)?)),
            None => Ok(Self::default_for_user()),
        }
    }

    /// The configuration files, each read over the one before: the system's, the user's. Below one folder there is one.
    pub fn configs(&self) -> Vec<PathBuf> {
        let system = (self.root().is_none() && self.config != Path::new(SYSTEM_CONFIG)).then(|| SYSTEM_CONFIG.into());
        system.into_iter().chain([self.config.clone()]).chain(self.users_config()).collect()
    }

    /// Root's own file, beside the system's that is its first.
    fn users_config(&self) -> Option<PathBuf> {
        (self.config == Path::new(SYSTEM_CONFIG)).then(user_config)
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

/// Where a user without `XDG_RUNTIME_DIR` keeps run-time files: in a folder where everybody may have been first.
pub(crate) fn shared_run(uid: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/shoal-{uid}"))
}

/// The user's own configuration file.
fn user_config() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || var("HOME").unwrap_or_else(|| PathBuf::from("/")).join(".config");
    var("XDG_CONFIG_HOME").unwrap_or_else(home).join("shoal/config.toml")
}

/// The user of the host on whose behalf this is: one without root's rights, or root of a user namespace in which that user
/// is root. `None` for the host's root.
pub fn rootless() -> Option<u32> {
    static USER: std::sync::OnceLock<Option<u32>> = std::sync::OnceLock::new();
    *USER.get_or_init(|| {
        let own = nix::unistd::geteuid();
        if own.is_root() {
            root_of(&std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default())
        } else {
            Some(own.as_raw())
        }
    })
}

/// Whom a map makes root, when that is one user and not the host's root. A container's own map gives root a whole range.
fn root_of(map: &str) -> Option<u32> {
    let mut numbers = map.lines().next()?.split_whitespace().map(str::parse::<u32>);
    match (numbers.next()?, numbers.next()?, numbers.next()?) {
        (Ok(0), Ok(user), Ok(1)) if user > 0 => Some(user),
        _ => None,
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
    fn only_a_map_that_makes_one_user_root_is_that_users() {
        for (map, user) in [
            ("         0          0 4294967295\n", None),
            ("0 1000 1\n1 100000 65536\n", Some(1000)),
            ("0 1000 1\n", Some(1000)),
            ("0 100000 65536\n", None),
            ("", None),
        ] {
            assert_eq!(root_of(map), user, "{map}");
        }
    }

    #[test]
    fn one_folder_holds_everything_when_asked() {
        let roots = Roots::below(Path::new("/x"));
        assert_eq!(roots.data, Path::new("/x/data"));
        assert_eq!(roots.container_run("a"), Path::new("/x/run/containers/a"));
        assert_ne!(roots.cgroup(), Roots::below(Path::new("/y")).cgroup());
    }
}
