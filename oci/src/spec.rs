//! The runtime specification 1.3: `config.json` and the state document, as plain data.
//!
//! In: JSON text. Out: [`Spec`], and JSON again. Every field of the Linux platform is here; names are the specification's
//! in snake case. Enumerations (capabilities, namespaces, seccomp actions, …) stay strings, because what an unknown
//! word means (an error, a warning, nothing) is the runtime's decision and differs by field. Unknown properties are
//! ignored, as runtime-spec config.md "Extensibility" demands. Nothing is checked here beyond types.

mod document;
mod hooks;
mod linux;
mod mount;
mod place;
mod process;
mod resources;
mod seccomp;
mod state;

use std::collections::BTreeMap;

pub use hooks::{Hook, Hooks};
pub use linux::{
    Linux, LinuxDevice, LinuxIdMapping, LinuxIntelRdt, LinuxMemoryPolicy, LinuxNamespace, LinuxNetDevice,
    LinuxPersonality, LinuxTimeOffset,
};
pub use mount::{Mount, Root};
pub use process::{ConsoleSize, ExecCpuAffinity, IoPriority, LinuxCapabilities, PosixRlimit, Process, Scheduler, User};
pub use resources::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxHugepageLimit, LinuxInterfacePriority, LinuxMemory, LinuxNetwork,
    LinuxPids, LinuxRdma, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice,
};
pub use seccomp::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};
pub use state::{ContainerProcessState, State, Status};

use document::document;

/// The version of the specification these types describe.
pub const OCI_VERSION: &str = "1.3.0";

document! {
    /// A bundle's `config.json`. runtime-spec config.md
    pub struct Spec {
        /// The version of the specification the bundle was written for (SemVer 2.0).
        pub oci_version: String,
        /// The container's process; required by `start`.
        pub process: Option<Process>,
        /// The container's root file system.
        pub root: Option<Root>,
        /// The host name inside the container.
        pub hostname: Option<String>,
        /// The NIS domain name inside the container.
        pub domainname: Option<String>,
        /// Mounts beyond the root, in the order they are made.
        pub mounts: Vec<Mount>,
        /// Programs to run at points of the life cycle.
        pub hooks: Option<Hooks>,
        /// Free text for the container.
        pub annotations: BTreeMap<String, String>,
        /// The Linux part.
        pub linux: Option<Linux>,
    }
}

/// Why a `config.json` (or a `process.json`) could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {cause}")]
pub struct ParseError {
    /// The field at which reading stopped, as `linux.resources.memory.limit` or `mounts[2].options`.
    pub place: String,
    /// What was wrong there, with line and column.
    pub cause: serde_json::Error,
}

/// Reads one document of the specification from JSON text; the error names the field.
pub fn parse<'de, T: serde::Deserialize<'de>>(text: &'de [u8]) -> Result<T, ParseError> {
    serde_json::from_slice(text)
        .map_err(|cause| ParseError { place: place::of(text, cause.line(), cause.column()), cause })
}

impl Spec {
    /// Reads a `config.json`.
    pub fn parse(text: &[u8]) -> Result<Self, ParseError> {
        parse(text)
    }
}

#[cfg(test)]
mod tests;
