//! What a plan needs to know about the host. Gathered by [`crate::host::probe`], plain data here.

use serde::Serialize;

/// Facts about the host and about this process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HostFacts {
    /// The effective user id.
    pub euid: u32,
    /// Whether this process is in a user namespace that is not the host's.
    pub in_user_namespace: bool,
    /// Whether cgroup failures are forgiven and id maps need helpers: no real root here.
    pub rootless: bool,
    /// The folder of the socket on which the container says that it is ready, if somebody wants to hear it.
    pub notify_socket: Option<String>,
    /// Whether `/proc/kcore` exists.
    pub has_kcore: bool,
}
