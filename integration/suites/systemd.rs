//! The runtime under a running systemd, and with a CRIU whose kernel it knows: what the host of the other suites has not.
//!
//! Every test here is ignored by itself and runs in the machine of `cargo xtask vm --systemd`, which
//! `suites/vm.rs` boots once for all of them.

use integration::bundle::Bundle;
use integration::{Cmd, Outcome, Scratch, binaries, eventually};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Emulated processors are slow.
const SOON: Duration = Duration::from_secs(60);

/// A container in a state folder of its own; dropped, it is deleted by force.
struct Container {
    bundle: Bundle,
    root: Scratch,
    flags: &'static [&'static str],
}

impl Container {
    fn new(flags: &'static [&'static str], program: &[&str]) -> Self {
        Self { bundle: Bundle::new(program), root: Scratch::new("state"), flags }
    }

    fn cmd(&self, args: &[&str]) -> Cmd {
        Cmd::new(binaries::runtime()).arg("--root").arg(self.root.path()).args(self.flags).args(args)
    }

    fn id(&self) -> &str {
        self.bundle.id()
    }

    fn launch(&self) -> Outcome {
        self.bundle.write();
        self.cmd(&["run", "-d", "--bundle"]).arg(self.bundle.path()).arg(self.id()).run()
    }

    fn state(&self) -> Value {
        serde_json::from_str(&self.cmd(&["state", self.id()]).ok()).expect("state prints JSON")
    }

    fn await_status(&self, status: &str) {
        eventually(&format!("it is {status}"), SOON, || (self.state()["status"] == status).then_some(()));
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.cmd(&["delete", "--force", self.id()]).attempt();
    }
}

/// The value of one property of a unit, as systemd's clients see it.
fn property(unit: &str, name: &str) -> String {
    Cmd::new("systemctl").args(["show", "--property", name, "--value", unit]).ok().trim().to_owned()
}

fn cgroup_of(unit: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/cgroup{}", property(unit, "ControlGroup")))
}

fn file(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}")).trim().to_owned()
}

const SYSTEMD: &[&str] = &["--systemd-cgroup"];

fn limited(name: &str) -> (Container, String) {
    let mut container = Container::new(SYSTEMD, &["probe", "pause"]);
    container.bundle.config["linux"]["cgroupsPath"] = format!("system.slice:shoal:{name}").into();
    container.bundle.config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    container.bundle.config["linux"]["resources"]["pids"] = json!({"limit": 20});
    container.bundle.config["linux"]["resources"]["cpu"] = json!({"quota": 20_000, "period": 100_000});
    (container, format!("shoal-{name}.scope"))
}

#[test]
#[ignore = "needs a running systemd: suites/vm.rs runs it in cargo xtask vm --systemd"]
fn a_container_is_a_scope_with_its_limits_from_start_to_delete() {
    let (container, unit) = limited("life");
    let _ = container.launch().expect_success();
    let expected = [
        ("ActiveState", "active"),
        ("Slice", "system.slice"),
        ("Delegate", "yes"),
        ("Transient", "yes"),
        ("CollectMode", "inactive"),
        ("MemoryMax", "67108864"),
        ("TasksMax", "20"),
        ("CPUQuotaPerSecUSec", "200ms"),
        ("DevicePolicy", "strict"),
    ];
    for (name, value) in expected {
        assert_eq!(property(&unit, name), value, "{name}");
    }
    let cgroup = cgroup_of(&unit);
    assert_eq!(file(&cgroup, "cgroup.procs"), container.state()["pid"].to_string());
    assert_eq!(file(&cgroup, "memory.max"), "67108864");
    // A reload makes systemd write what it knows; it must know the same.
    let _ = Cmd::new("systemctl").arg("daemon-reload").ok();
    assert_eq!(file(&cgroup, "memory.max"), "67108864");
    let id = container.id();
    let _ = container.cmd(&["update", "--memory", "33554432", "--pids-limit", "30", id]).run().expect_success();
    assert_eq!((property(&unit, "MemoryMax"), property(&unit, "TasksMax")), ("33554432".into(), "30".into()));
    assert_eq!((file(&cgroup, "memory.max"), file(&cgroup, "pids.max")), ("33554432".into(), "30".into()));
    let inside = container.cmd(&["exec", id, "cat", "/proc/self/cgroup"]).ok();
    assert!(inside.trim().ends_with(&unit) || inside.trim() == "0::/", "{inside}");
    let _ = container.cmd(&["pause", id]).ok();
    container.await_status("paused");
    let _ = container.cmd(&["resume", id]).ok();
    let _ = container.cmd(&["kill", id, "KILL"]).ok();
    container.await_status("stopped");
    let _ = container.cmd(&["delete", id]).run().expect_success();
    assert_eq!(property(&unit, "ActiveState"), "inactive");
    assert!(!cgroup.exists(), "{} is left", cgroup.display());
}

#[test]
#[ignore = "needs a running systemd: suites/vm.rs runs it in cargo xtask vm --systemd"]
fn a_unit_that_somebody_has_is_refused_and_left_alone() {
    let (first, unit) = limited("taken");
    let _ = first.launch().expect_success();
    let (second, _) = limited("taken");
    let outcome = second.launch().expect_failure();
    assert!(!outcome.stderr.is_empty());
    assert_eq!(property(&unit, "ActiveState"), "active");
    assert_eq!(first.state()["status"], "running");
    let _ = second.cmd(&["state", second.id()]).run().expect_failure();
}

#[test]
#[ignore = "needs a running systemd: suites/vm.rs runs it in cargo xtask vm --systemd"]
fn a_scope_stopped_by_systemd_is_a_stopped_container() {
    let (container, unit) = limited("stopped");
    let _ = container.launch().expect_success();
    let _ = Cmd::new("systemctl").args(["kill", "--signal=KILL", &unit]).ok();
    container.await_status("stopped");
    let _ = container.cmd(&["delete", container.id()]).run().expect_success();
    assert_eq!(property(&unit, "LoadState"), "not-found");
}

/// A container that counts in a file of its root file system.
fn counter() -> Container {
    let script = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.1; done";
    Container::new(&[], &["sh", "-c", script])
}

fn count(container: &Container) -> u64 {
    let text = std::fs::read_to_string(container.bundle.rootfs().join("tmp/count")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn counts_on(container: &Container) -> u64 {
    let before = count(container);
    eventually("it counts", SOON, || (count(container) > before).then(|| count(container)))
}

fn checkpoint(container: &Container, images: &Path, more: &[&str]) {
    let outcome = container.cmd(&["checkpoint", "--image-path"]).arg(images).args(more).arg(container.id()).run();
    let log = std::fs::read_to_string(images.join("dump.log")).unwrap_or_default();
    assert!(outcome.status.success(), "{}\n{}", outcome.stderr, errors(&log));
}

fn errors(log: &str) -> String {
    log.lines().filter(|line| line.contains("Error")).collect::<Vec<_>>().join("\n")
}

fn restore(container: &Container, images: &Path) {
    let command = container.cmd(&["restore", "-d", "--image-path"]).arg(images).arg("--bundle");
    let outcome = command.arg(container.bundle.path()).arg(container.id()).run();
    let log = std::fs::read_to_string(images.join("restore.log")).unwrap_or_default();
    assert!(outcome.status.success(), "{}\n{}", outcome.stderr, errors(&log));
}

#[test]
#[ignore = "needs a kernel that CRIU knows: suites/vm.rs runs it in cargo xtask vm --systemd"]
fn a_checkpoint_goes_on_where_it_stopped() {
    let container = counter();
    let images = Scratch::new("images");
    let _ = container.launch().expect_success();
    let _ = counts_on(&container);
    checkpoint(&container, images.path(), &[]);
    let _ = container.cmd(&["state", container.id()]).run().expect_failure();
    let stood = count(&container);
    restore(&container, images.path());
    assert!(counts_on(&container) > stood);
    assert_eq!(container.state()["status"], "running");
    assert_eq!(container.cmd(&["exec", container.id(), "echo", "inside"]).ok().trim(), "inside");
}

#[test]
#[ignore = "needs a kernel that CRIU knows: suites/vm.rs runs it in cargo xtask vm --systemd"]
fn a_checkpoint_can_leave_it_running_and_build_on_an_earlier_one() {
    let container = counter();
    let images = Scratch::new("images");
    let _ = container.launch().expect_success();
    let _ = counts_on(&container);
    checkpoint(&container, &images.join("first"), &["--pre-dump"]);
    let _ = counts_on(&container);
    checkpoint(&container, &images.join("second"), &["--leave-running", "--parent-path", "../first"]);
    assert_eq!(container.state()["status"], "running");
    let _ = counts_on(&container);
    let pages = |name: &str| std::fs::metadata(images.join(name).join("pages-1.img")).map_or(0, |found| found.len());
    assert!(pages("second") < pages("first"), "{} {}", pages("second"), pages("first"));
}

/// An account with a manager of its own, as a login gives it; gone with the machine.
struct Session {
    uid: u32,
    gid: u32,
}

impl Session {
    fn new(name: &str) -> Self {
        let _ = Cmd::new(binaries::tool("useradd", "passwd")).args(["--create-home", "--user-group", name]).ok();
        let id = |flag: &str| Cmd::new("id").args([flag, name]).ok().trim().parse().expect("a number");
        let session = Self { uid: id("-u"), gid: id("-g") };
        let _ = Cmd::new("systemctl").args(["start", &format!("user@{}.service", session.uid)]).ok();
        eventually("the user's manager has a bus", SOON, || session.folder().join("bus").exists().then_some(()));
        session
    }

    fn folder(&self) -> PathBuf {
        PathBuf::from(format!("/run/user/{}", self.uid))
    }

    /// A command as this user, outside every unit of the user's.
    fn outside(&self, program: &str) -> Cmd {
        Cmd::new("setpriv")
            .args([format!("--reuid={}", self.uid), format!("--regid={}", self.gid), "--clear-groups".into()])
            .args(["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            .arg(format!("XDG_RUNTIME_DIR={}", self.folder().display()))
            .arg(program)
    }

    /// A command in a service of the user's manager, where a shell of the user would run.
    fn inside(&self, program: &Path) -> Cmd {
        self.outside("systemd-run").args(["--user", "--pipe", "--wait", "--quiet", "--collect", "--"]).arg(program)
    }

    fn property(&self, unit: &str, name: &str) -> String {
        self.outside("systemctl").args(["--user", "show", "--property", name, "--value", unit]).ok().trim().to_owned()
    }

    fn own(&self, path: &Path) {
        let _ = Cmd::new("chown").args(["-R", "-h", &format!("{}:{}", self.uid, self.gid)]).arg(path).ok();
    }
}

#[test]
#[ignore = "needs a running systemd: suites/vm.rs runs it in cargo xtask vm --systemd"]
fn a_user_with_a_session_gets_scopes_of_the_users_manager() {
    let session = Session::new("shoaluser");
    let state = Scratch::new("session");
    let runtime = state.join("shoal-runtime");
    let _ = std::fs::copy(binaries::runtime(), &runtime).expect("the runtime can be copied");
    let mut bundle = Bundle::new(&["probe", "pause"]);
    let linux = &mut bundle.config["linux"];
    linux["cgroupsPath"] = "user.slice:shoal:session".into();
    linux["resources"] = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 20}});
    linux["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
    linux["uidMappings"] = json!([{"containerID": 0, "hostID": session.uid, "size": 1}]);
    linux["gidMappings"] = json!([{"containerID": 0, "hostID": session.gid, "size": 1}]);
    for mount in bundle.config["mounts"].as_array_mut().expect("a list") {
        if let Some(options) = mount["options"].as_array_mut() {
            // The group of terminals is not mapped.
            options.retain(|option| option != "gid=5");
        }
    }
    bundle.write();
    session.own(bundle.path());
    session.own(state.path());
    let root = state.join("root");
    let id = bundle.id();
    let cmd = |args: &[&str]| session.inside(&runtime).arg("--root").arg(&root).arg("--systemd-cgroup").args(args);
    let _ = cmd(&["run", "-d", "--bundle"]).arg(bundle.path()).arg(id).run().expect_success();
    let unit = "shoal-session.scope";
    let expected = [("ActiveState", "active"), ("Slice", "user.slice"), ("MemoryMax", "67108864"), ("TasksMax", "20")];
    for (name, value) in expected {
        assert_eq!(session.property(unit, name), value, "{name}");
    }
    let cgroup = PathBuf::from(format!("/sys/fs/cgroup{}", session.property(unit, "ControlGroup")));
    assert!(cgroup.to_string_lossy().contains(&format!("user@{}.service", session.uid)), "{}", cgroup.display());
    assert_eq!((file(&cgroup, "memory.max"), file(&cgroup, "pids.max")), ("67108864".into(), "20".into()));
    assert_eq!(cmd(&["exec", id, "id", "-u"]).ok().trim(), "0");
    let _ = cmd(&["update", "--memory", "33554432", id]).run().expect_success();
    assert_eq!(
        (file(&cgroup, "memory.max"), session.property(unit, "MemoryMax")),
        ("33554432".into(), "33554432".into())
    );
    let _ = cmd(&["pause", id]).run().expect_success();
    assert_eq!(file(&cgroup, "cgroup.freeze"), "1");
    let _ = cmd(&["resume", id]).run().expect_success();
    let _ = cmd(&["delete", "--force", id]).run().expect_success();
    eventually("the scope is gone", SOON, || (!cgroup.exists()).then_some(()));
    assert_eq!(session.property(unit, "ActiveState"), "inactive");
}
