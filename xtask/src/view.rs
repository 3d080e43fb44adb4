//! Which cgroup hierarchies a command sees: a private mount namespace with the others taken away.
//!
//! In: a view and a command. Out: the command's outcome. Nothing of the host's own mounts changes.

use std::process::Command;

/// A view of cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// The v1 hierarchies alone: peers that refuse a hybrid host start there.
    V1,
    /// The unified hierarchy alone, with the controllers that v1 leaves to it.
    V2,
}

impl View {
    /// The word on the command line and before each figure.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    /// Why this host cannot give the view, if it cannot.
    pub(crate) fn lacking(self) -> Option<&'static str> {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let has_v1 = mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup"));
        (self == Self::V1 && !has_v1).then_some("this host has no cgroup v1 hierarchy")
    }

    /// A command that goes into the view and continues with the arguments it is given.
    pub(crate) fn command(self) -> Command {
        let script = match self {
            Self::V1 => {
                "for m in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts); do umount \"$m\" || exit 1; done; exec \"$@\""
            }
            Self::V2 => {
                "[ \"$(stat -fc %T /sys/fs/cgroup)\" = cgroup2fs ] || { umount -R -l /sys/fs/cgroup; \
                 mount -t cgroup2 none /sys/fs/cgroup || exit 1; }; exec \"$@\""
            }
        };
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "--", "sh", "-c", script, "sh"]);
        command
    }
}
