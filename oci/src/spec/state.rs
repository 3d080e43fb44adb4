//! What a runtime says about a container: to hooks, to seccomp agents, to `state`. runtime-spec runtime.md "State"

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::document::document;

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being set up.
    Creating,
    /// Set up; the process has not been executed.
    Created,
    /// The process runs.
    Running,
    /// Frozen by `pause`; not of the specification, but of every runtime.
    Paused,
    /// The process has ended.
    #[default]
    Stopped,
}

impl Status {
    /// The word of the specification.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The state document.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// The version of the specification it follows.
    pub oci_version: String,
    /// The container.
    pub id: String,
    /// Where it is in its life.
    pub status: Status,
    /// The process, as the runtime's pid namespace numbers it; absent or 0 when there is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub pid: i32,
    /// The absolute path of the bundle.
    pub bundle: String,
    /// The annotations of `config.json`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn is_zero(pid: &i32) -> bool {
    *pid == 0
}

document! {
    /// What a seccomp agent gets beside the descriptor. runtime-spec config-linux.md "The Container Process State"
    pub struct ContainerProcessState {
        /// The version of the specification it follows.
        pub oci_version: String,
        /// Names of the descriptors in the message, in order.
        pub fds: Vec<String>,
        /// The process that is filtered.
        pub pid: i32,
        /// `listenerMetadata` of the filter.
        pub metadata: Option<String>,
        /// The container.
        pub state: Option<State>,
    }
}
