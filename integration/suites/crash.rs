//! The runtime killed at every system call of create, start, exec and delete: `delete --force` always cleans up, and nothing
//! is left: no state, cgroup, mount or process.
//!
//! `SHOAL_CRASH_STRIDE` (default 9) tries every n-th call; `cargo xtask soak crash` tries each.

use integration::bundle::Bundle;
use integration::scratch::mounts_below;
use integration::{Cmd, Scratch, binaries, eventually};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a killed container's processes may take to be gone.
const SOON: Duration = Duration::from_secs(20);

fn stride() -> u32 {
    std::env::var("SHOAL_CRASH_STRIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(9)
}

/// One operation to be killed in, and what prepares it.
struct Walk {
    /// The container's program.
    program: &'static [&'static str],
    /// Whether the runtime's children are followed too; the operation must then end with all of them.
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
    fn new(program: &[&str]) -> Self {
        let bundle = Bundle::new(program);
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

/// A call of the traced program: its name, and how many of that name (itself included) its process has made by then.
type Point = (String, u32);

/// Traces one whole operation; every call of every process in it is a point, as strace counts them: by process and name.
fn points(walk: &Walk) -> Vec<Point> {
    let attempt = Attempt::new(walk.program);
    (walk.prepare)(&attempt);
    let log = attempt.root.join("calls");
    let _ = traced(walk, &(walk.operation)(&attempt), &["-o", &log.to_string_lossy()]).run().expect_success();
    let text = std::fs::read_to_string(&log).expect("strace writes its log");
    std::fs::remove_file(&log).expect("the log is ours");
    let _ = attempt.runtime(&["delete", "--force", attempt.bundle.id()]).ok();
    let mut made: BTreeMap<(String, String), u32> = BTreeMap::new();
    let mut points = Vec::new();
    for line in text.lines() {
        let (process, call) = if walk.follow { line.split_once(' ').unwrap_or(("", line)) } else { ("", line) };
        let name: String = call.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if name.is_empty() || !call.contains('(') {
            continue;
        }
        let count = made.entry((process.to_owned(), name.clone())).or_default();
        *count += 1;
        points.push((name, *count));
    }
    let mut seen = BTreeSet::new();
    points.retain(|point| seen.insert(point.clone()));
    points
}

fn traced(walk: &Walk, operation: &Cmd, options: &[&str]) -> Cmd {
    let inner = operation.command();
    let follow: &[&str] = if walk.follow { &["-f"] } else { &[] };
    Cmd::new("strace")
        .arg("-qq")
        .args(follow)
        .args(options)
        .arg(inner.get_program())
        .args(inner.get_args())
        .deadline(Duration::from_secs(60))
}

/// Kills `walk.operation` at every n-th call and checks that a forced delete leaves nothing.
fn walk(walk: &Walk) {
    let _ = binaries::tool("strace", "strace");
    let points = points(walk);
    let mut tried = 0;
    for (name, count) in points.iter().step_by(stride() as usize) {
        let attempt = Attempt::new(walk.program);
        (walk.prepare)(&attempt);
        let operation = (walk.operation)(&attempt);
        let kill = format!("inject={name}:signal=SIGKILL:when={count}");
        let _ = traced(walk, &operation, &["-o", "/dev/null", "-e", &kill]).run();
        tried += 1;
        let _ = attempt.runtime(&["delete", "--force", attempt.bundle.id()]).run().expect_success();
        let left = eventually_empty(&attempt);
        assert!(left.is_empty(), "killed at {name} {count} of {}:\n{left}", operation.line());
    }
    assert!(tried > 0, "the operation makes calls");
    println!("{tried} of {} points tried", points.len());
}

fn eventually_empty(attempt: &Attempt) -> String {
    let deadline = std::time::Instant::now() + SOON;
    let mut left = attempt.left();
    while !left.is_empty() && std::time::Instant::now() < deadline {
        left = attempt.left();
    }
    left
}

/// A program that stays.
const STAYS: [&str; 2] = ["probe", "pause"];

#[test]
fn create_killed_anywhere_leaves_nothing_after_delete() {
    walk(&Walk { program: &STAYS, follow: false, prepare: |_| {}, operation: Attempt::create });
}

#[test]
fn a_stage_of_run_killed_anywhere_leaves_nothing_after_delete() {
    walk(&Walk {
        program: &["probe", "true"],
        follow: true,
        prepare: |_| {},
        operation: |attempt| attempt.runtime(&["run", "--bundle"]).arg(attempt.bundle.path()).arg(attempt.bundle.id()),
    });
}

#[test]
fn start_killed_anywhere_leaves_nothing_after_delete() {
    walk(&Walk {
        program: &STAYS,
        follow: false,
        prepare: |attempt| drop(attempt.create().ok()),
        operation: |attempt| attempt.runtime(&["start", attempt.bundle.id()]),
    });
}

#[test]
fn exec_killed_anywhere_leaves_nothing_after_delete() {
    walk(&Walk {
        program: &STAYS,
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
        program: &STAYS,
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
    let attempt = Attempt::new(&STAYS);
    let _ = attempt.create().ok();
    let left = attempt.left();
    assert!(left.contains("state ") && left.contains("cgroup "), "{left}");
    let _ = attempt.runtime(&["delete", "--force", attempt.bundle.id()]).ok();
    eventually("nothing is left", SOON, || attempt.left().is_empty().then_some(()));
}

#[test]
fn a_hook_that_deletes_its_own_container_is_refused_and_not_waited_for() {
    let mut attempt = Attempt::new(&STAYS);
    let (root, id) = (attempt.root.path().to_owned(), attempt.bundle.id().to_owned());
    let args = serde_json::json!(["shoal-runtime", "--root", root, "delete", "--force", id]);
    let hook = serde_json::json!([{"path": binaries::runtime(), "args": args}]);
    attempt.bundle.config["hooks"] = serde_json::json!({"createRuntime": hook});
    attempt.bundle.write();
    let created = attempt.create().deadline(Duration::from_secs(20)).run().expect_failure();
    assert!(created.stderr.contains("which has started this command"), "{}", created.stderr);
    assert!(eventually_empty(&attempt).is_empty());
    // Nobody waits for a poststart hook with the container in hand: it may do what everybody may.
    attempt.bundle.config["hooks"] = serde_json::json!({"poststart": hook});
    attempt.bundle.write();
    let _ = attempt.create().ok();
    let _ = attempt.runtime(&["start", &id]).deadline(Duration::from_secs(20)).run().expect_success();
    let _ = attempt.runtime(&["delete", "--force", &id]).ok();
    assert!(eventually_empty(&attempt).is_empty());
}
