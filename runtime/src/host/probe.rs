//! Gathers the facts a plan needs.

use super::procfs::Procfs;
use crate::error::Result;
use crate::facts::HostFacts;

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
    let has_kcore = std::fs::exists("/proc/kcore").unwrap_or(false);
    Ok(HostFacts { euid, in_user_namespace, rootless, has_kcore, notify_socket: None })
}

/// The user this command runs as.
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// The user and group this command runs as.
pub fn effective_ids() -> (u32, u32) {
    (effective_uid(), nix::unistd::getegid().as_raw())
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
