//! The root file system and the mounts. runtime-spec config.md "Root", "Mounts"

use super::document::document;
use super::linux::LinuxIdMapping;

document! {
    /// The root file system.
    pub struct Root {
        /// Its path, absolute or relative to the bundle.
        pub path: String,
        /// Whether it is read-only inside the container.
        pub readonly: bool,
    }
}

document! {
    /// One mount.
    pub struct Mount {
        /// Where, inside the container (absolute; a relative one counts from `/`).
        pub destination: String,
        /// The file system's name, or `bind`.
        #[serde(rename = "type")]
        pub kind: Option<String>,
        /// A device, a path (relative to the bundle for bind mounts) or a mere name.
        pub source: Option<String>,
        /// Options as in fstab, plus the specification's own.
        pub options: Vec<String>,
        /// User ids for an id-mapped mount.
        pub uid_mappings: Vec<LinuxIdMapping>,
        /// Group ids for an id-mapped mount.
        pub gid_mappings: Vec<LinuxIdMapping>,
    }
}
