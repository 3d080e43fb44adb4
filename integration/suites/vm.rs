//! The runtime suite on pure cgroup v2 and an older kernel (6.1), and the systemd suite: one boot of each virtual machine.
//!
//! In: the suites' own test binaries, run inside by `xtask vm`. What the small machine's kernel has not is named here, and
//! the runtime must say so in words.

use integration::{Cmd, binaries};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The machine is slow where it is shared; a hang is longer than this.
const DEADLINE: Duration = Duration::from_secs(1_000);

/// The parts of the suite that depend on the kernel and on cgroups.
const PARTS: [&str; 4] = ["cgroups::", "lifecycle::", "namespaces::", "exec::"];

/// What the machine's kernel lacks: the case, and what the runtime must say about it, if the case gets that far.
const ABSENT: [(&str, &str); 4] = [
    ("namespaces::a_time_namespace_has_its_offsets", "this host lacks namespaces of the kind time"),
    ("cgroups::cpuset_is_set", "create a cgroup of the cpuset controller on this host"),
    ("mounts::an_idmapped_bind_shifts_owners", "this host lacks id-mapped mounts of this file system"),
    // The device is allowed, and no driver answers.
    ("cgroups::an_allowed_device_can_be_opened", "/dev/mine errno 19"),
];

/// The newest build of a suite.
fn suite(name: &str) -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let args = ["test", "-q", "-p", "integration", "--test", name, "--no-run", "--message-format", "json"];
    let messages = Cmd::new(env!("CARGO")).args(args).folder(top).deadline(DEADLINE).ok();
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut executables = artifacts
        .filter(|artifact| artifact["target"]["name"] == name)
        .filter_map(|artifact| artifact["executable"].as_str().map(PathBuf::from));
    executables.next().expect("cargo names the executable of the suite")
}

#[test]
fn the_runtime_suite_holds_on_pure_cgroup_v2() {
    let suite = suite("runtime");
    let suite = suite.display();
    let skips: String = ABSENT.iter().map(|(case, _)| format!(" --skip {case}")).collect();
    let parts: String = PARTS.iter().map(|part| format!("{suite} {part}{skips} || failed=1; ")).collect();
    let said: String = ABSENT.iter().map(|(case, _)| format!("{suite} --exact {case}; ")).collect();
    let script = format!("export RUST_BACKTRACE=0; failed=0; {parts} {said} echo the parts: $failed");
    let outcome = Cmd::new(env!("CARGO"))
        .args(["run", "-q", "-p", "xtask", "--", "vm", "--", "sh", "-c", &script])
        .folder(Path::new(env!("CARGO_MANIFEST_DIR")))
        .env("SHOAL_BIN_DIR", binaries::folder())
        .deadline(DEADLINE)
        .run();
    let text = format!("{}\n{}", outcome.stdout, outcome.stderr);
    let failed: Vec<&str> = text.lines().filter(|line| line.ends_with("FAILED")).collect();
    assert!(text.contains("the parts: 0"), "{failed:#?}\n{text}");
    for (case, words) in ABSENT {
        assert!(text.contains(words), "{case} must say {words:?}:\n{text}");
    }
}

#[test]
fn scopes_and_checkpoints_work_under_a_running_systemd() {
    let suite = suite("systemd");
    let outcome = Cmd::new(env!("CARGO"))
        .args(["run", "-q", "-p", "xtask", "--", "vm", "--systemd", "--"])
        .arg(suite)
        .args(["--ignored", "--test-threads", "1"])
        .folder(Path::new(env!("CARGO_MANIFEST_DIR")))
        .env("SHOAL_BIN_DIR", binaries::folder())
        .deadline(DEADLINE)
        .run();
    assert!(outcome.status.success(), "{}\n{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stdout.contains("test result: ok. 6 passed"), "{}", outcome.stdout);
}
