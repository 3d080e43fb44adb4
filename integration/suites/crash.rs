//! The runtime killed at every system call of create, start, exec and delete: `delete --force` always cleans up, and nothing
//! is left: no state, cgroup, mount or process.
//!
//! `SHOAL_CRASH_STRIDE` (default 9) tries every n-th call; `cargo xtask soak crash` tries each.

use integration::bundle::Bundle;
use integration::scratch::mounts_below;
use integration::{Cmd, Scratch, binaries, eventually};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More calls than any of the operations makes; the walk ends by itself where an operation is not reached any more.
const CALLS_MAX: u32 = 2_000;

/// How long a killed container's processes may take to be gone.
const SOON: Duration = Duration::from_secs(20);

fn stride() -> u32 {
    std::env::var("SHOAL_CRASH_STRIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(9)
}

/// One operation to be killed in, and what prepares it.
struct Walk {
    /// Which process: 1 is the runtime itself, with its children followed when `true`.
    follow: bool,
    prepare: fn(&Attempt),
    operation: fn(&Attempt) -> Cmd,
}

/// One attempt: a bundle, a state folder, an id.
struct Attempt {
    bundle: Bundle,
    root: Scratch,
}

impl Attempt {
    fn new() -> Self {
        let bundle = Bundle::new(&["probe", "pause"]);
        bundle.write();
        Self { bundle, root: Scratch::new("state") }
    }

    fn runtime(&self, args: &[&str]) -> Cmd {
        Cmd::new(binaries::runtime()).arg("--root").arg(self.root.path()).args(args)
    }

    fn create(&self) -> Cmd {
        self.runtime(&["create", "--bundle"]).arg(self.bundle.path()).arg(self.bundle.id())
    }

    /// What is left of the container on the host, as text; empty when nothing is.
    fn left(&self) -> String {
        let mut left = Vec::new();
        let state: Vec<PathBuf> =
            std::fs::read_dir(self.root.path()).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        left.extend(
            state
                .iter()
                .filter(|path| path.file_name().is_some_and(|name| name == self.bundle.id()))
                .map(|path| format!("state {}", path.display())),
        );
        left.extend(mounts_below(self.bundle.path()).iter().map(|mount| format!("mount {}", mount.display())));
        left.extend(cgroups_called(self.bundle.id()).iter().map(|cgroup| format!("cgroup {}", cgroup.display())));
        left.extend(processes_of(self.bundle.path()));
        left.join("\n")
    }
}

fn cgroups_called(id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let below = Cmd::new("find").arg(hierarchy.path()).args(["-type", "d", "-name", id]).run().stdout;
        found.extend(below.lines().map(PathBuf::from));
    }
    found
}

/// Processes whose root lies in the bundle (a container's own) or whose command line names it (a stage that hangs).
fn processes_of(bundle: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() {
            continue;
        }
        let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if line.contains(&*bundle.to_string_lossy()) && !line.starts_with("strace") && !status.contains("State:\tZ") {
            found.push(format!("process {pid} {line}"));
        }
    }
    found
}

/// Kills `walk.operation` at every n-th call and checks that a forced delete leaves nothing.
fn walk(walk: &Walk) {
    let _ = binaries::tool("strace", "strace");
    let mut tried = 0;
    for call in (1..CALLS_MAX).step_by(stride() as usize) {
        let attempt = Attempt::new();
        (walk.prepare)(&attempt);
        let operation = (walk.operation)(&attempt);
        let inner = operation.command();
        let mut traced = Cmd::new("strace").args(["-qq", "-o", "/dev/null"]);
        if walk.follow {
            traced = traced.arg("-f");
        }
        let outcome = traced
            .args(["-e", &format!("inject=all:signal=SIGKILL:when={call}")])
            .arg(inner.get_program())
            .args(inner.get_args())
            .deadline(Duration::from_secs(60))
            .run();
        tried += 1;
        let _ = attempt.runtime(&["delete", "--force", attempt.bundle.id()]).run().expect_success();
        let left = eventually_empty(&attempt);
        assert!(left.is_empty(), "killed at call {call} of {}:\n{left}", operation.line());
        if outcome.status.success() {
            println!("{} of {} points tried", tried, operation.line());
            return;
        }
    }
    panic!("the operation never came to its end within {CALLS_MAX} calls");
}

fn eventually_empty(attempt: &Attempt) -> String {
    let deadline = std::time::Instant::now() + SOON;
    let mut left = attempt.left();
    while !left.is_empty() && std::time::Instant::now() < deadline {
        left = attempt.left();
    }
    left
}

#[test]
fn create_killed_anywhere_leaves_nothing_after_delete() {
    walk(&Walk { follow: false, prepare: |_| {}, operation: Attempt::create });
}

#[test]
fn a_stage_of_create_killed_anywhere_leaves_nothing_after_delete() {
    walk(&Walk { follow: true, prepare: |_| {}, operation: Attempt::create });
}

#[test]
fn start_killed_anywhere_leaves_nothing_after_delete() {
    walk(&Walk {
        follow: false,
        prepare: |attempt| drop(attempt.create().ok()),
        operation: |attempt| attempt.runtime(&["start", attempt.bundle.id()]),
    });
}

#[test]
fn exec_killed_anywhere_leaves_nothing_after_delete() {
    walk(&Walk {
        follow: false,
        prepare: |attempt| {
            let _ = attempt.create().ok();
            let _ = attempt.runtime(&["start", attempt.bundle.id()]).ok();
        },
        operation: |attempt| attempt.runtime(&["exec", attempt.bundle.id(), "/bin/probe", "true"]),
    });
}

#[test]
fn delete_killed_anywhere_can_be_repeated() {
    walk(&Walk {
        follow: false,
        prepare: |attempt| {
            let _ = attempt.create().ok();
            let _ = attempt.runtime(&["start", attempt.bundle.id()]).ok();
        },
        operation: |attempt| attempt.runtime(&["delete", "--force", attempt.bundle.id()]),
    });
}

#[test]
fn the_check_sees_what_is_left() {
    let attempt = Attempt::new();
    let _ = attempt.create().ok();
    let left = attempt.left();
    assert!(left.contains("state ") && left.contains("cgroup "), "{left}");
    let _ = attempt.runtime(&["delete", "--force", attempt.bundle.id()]).ok();
    eventually("nothing is left", SOON, || attempt.left().is_empty().then_some(()));
}
