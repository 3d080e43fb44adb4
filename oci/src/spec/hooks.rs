//! Programs the runtime runs at points of a container's life. runtime-spec config.md "POSIX-platform Hooks"

use super::document::document;

document! {
    /// The six lists of hooks, in the order of the life cycle.
    pub struct Hooks {
        /// Deprecated: as `create_runtime`, run in the runtime's namespaces.
        pub prestart: Vec<Hook>,
        /// In the runtime's namespaces, after the namespaces exist and before `pivot_root`.
        pub create_runtime: Vec<Hook>,
        /// In the container's namespaces, before `pivot_root`.
        pub create_container: Vec<Hook>,
        /// In the container's namespaces, at `start`, before the process is executed.
        pub start_container: Vec<Hook>,
        /// In the runtime's namespaces, after the process was started.
        pub poststart: Vec<Hook>,
        /// In the runtime's namespaces, after the container was deleted.
        pub poststop: Vec<Hook>,
    }
}

document! {
    /// One program.
    pub struct Hook {
        /// Its absolute path.
        pub path: String,
        /// Its arguments, the name of the program first; empty means the path alone.
        pub args: Vec<String>,
        /// Its whole environment.
        pub env: Vec<String>,
        /// Seconds before it is ended.
        pub timeout: Option<i64>,
    }
}
