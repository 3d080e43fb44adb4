//! Gathers the facts a plan needs.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use super::procfs::Procfs;
use crate::error::{During, Error, Result};
use crate::facts::HostFacts;
use crate::plan::namespaces::{Kind, Namespaces};

/// What `--rootless` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rootless {
    /// Found out.
    #[default]
    Auto,
    /// As told.
    Told(bool),
}

/// Looks at the host.
pub fn facts(procfs: &Procfs, rootless: Rootless) -> Result<HostFacts> {
    let euid = nix::unistd::geteuid().as_raw();
    let in_user_namespace = !is_whole(&procfs.read("self/uid_map")?);
    let rootless = match rootless {
        Rootless::Told(told) => told,
        Rootless::Auto => euid != 0 || in_user_namespace,
    };
    let has_kcore = nix::sys::stat::stat("/proc/kcore").is_ok();
    Ok(HostFacts { euid, in_user_namespace, rootless, has_kcore, notify_socket: None })
}

/// Kinds of namespaces that are joined by a path which leads to this program's own. A path that cannot be examined is
/// left to the one who opens it.
pub fn hosts(procfs: &Procfs, namespaces: &Namespaces) -> Result<Vec<Kind>> {
    let mut found = Vec::new();
    for (kind, path) in &namespaces.join {
        let Ok(theirs) = std::fs::metadata(path) else { continue };
        let own = procfs.namespace("self", kind.proc_name())?;
        let own = nix::sys::stat::fstat(&own).during(|| format!("examine the {} namespace", kind.word()))?;
        if (own.st_dev, own.st_ino) == (theirs.dev(), theirs.ino()) {
            found.push(*kind);
        }
    }
    Ok(found)
}

/// The user this command runs as.
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// The user and group this command runs as.
pub fn effective_ids() -> (u32, u32) {
    (effective_uid(), nix::unistd::getegid().as_raw())
}

/// Makes sure that the root a user gets by default in a folder everybody can write is that user's own: whoever made it
/// first could else lead every command astray. What root gets needs no look.
pub fn private_root(path: &Path) -> Result<()> {
    let user = effective_uid();
    if user == 0 {
        return Ok(());
    }
    let operation = || format!("make the folder of containers {}", path.display());
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.during(operation)?,
    }
    let found = std::fs::symlink_metadata(path).during(operation)?;
    if found.is_dir() && found.uid() == user && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    let reason = format!(
        "{} is not a folder that only user {user} can write; remove it, or set --root or XDG_RUNTIME_DIR",
        path.display()
    );
    Err(Error::refusal("--root", reason))
}

/// Whether an id map is that of the first user namespace: every id is itself.
fn is_whole(map: &str) -> bool {
    let mut fields = map.split_ascii_whitespace();
    let whole = ["0", "0", "4294967295"];
    whole.iter().all(|want| fields.next() == Some(want)) && fields.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_map_is_the_hosts() {
        assert!(is_whole("         0          0 4294967295\n"));
        assert!(!is_whole("0 1000 1\n1 100000 65536\n"));
        assert!(!is_whole(""));
    }
}
