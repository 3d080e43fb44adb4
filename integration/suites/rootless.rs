//! The runtime without root: with subordinate ids, with a single id and no helper, and inside an unprivileged container.
//!
//! A user of the test's own is made and removed again; everything it runs is started through setpriv(1).

use integration::bundle::Bundle;
use integration::{Cmd, Outcome, Scratch, binaries, eventually};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// An account that exists as long as this value; Debian's useradd gives it subordinate ids.
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

impl User {
    fn new(what: &str) -> Self {
        let name = format!("shoal-{what}-{}", std::process::id());
        let _ = Cmd::new(binaries::tool("useradd", "passwd")).args(["--no-create-home", "--user-group", &name]).ok();
        let id = |flag: &str| Cmd::new("id").args([flag, &name]).ok().trim().parse().expect("a number");
        Self { uid: id("-u"), gid: id("-g"), name }
    }

    /// The first subordinate id in `file`.
    fn subordinate(&self, file: &str) -> (u32, u32) {
        let text = std::fs::read_to_string(file).expect("uidmap is installed");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{}:", self.name)));
        let (first, count) = line.expect("useradd gives subordinate ids").split_once(':').expect("FIRST:COUNT");
        (first.parse().expect("a number"), count.parse().expect("a number"))
    }

    /// A command of this user, in an environment of `env` alone.
    fn cmd(&self, env: &[&str], program: &Path) -> Cmd {
        let ids = [format!("--reuid={}", self.uid), format!("--regid={}", self.gid), "--clear-groups".into()];
        Cmd::new("setpriv").args(ids).args(["/usr/bin/env", "-i"]).args(env).arg(program)
    }

    /// Gives everything below `path` to this user.
    fn own(&self, path: &Path) {
        let _ = Cmd::new("chown").args(["-R", "-h", &format!("{}:{}", self.uid, self.gid)]).arg(path).ok();
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = Cmd::new(binaries::tool("userdel", "passwd")).arg(&self.name).attempt();
    }
}

/// A bundle of the user's, with the runtime beside it (the folder of built binaries may be closed to others).
struct Place {
    bundle: Bundle,
    state: Scratch,
    runtime: PathBuf,
}

impl Place {
    fn new(user: &User, args: &[&str]) -> Self {
        let state = Scratch::new("rootless");
        let runtime = state.join("shoal-runtime");
        let _ = std::fs::copy(binaries::runtime(), &runtime).expect("the runtime can be copied");
        let mut bundle = Bundle::new(args);
        let linux = &mut bundle.config["linux"];
        linux["resources"] = json!({});
        linux["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
        single(&mut bundle.config, user);
        Self { bundle, state, runtime }
    }

    fn run(&self, user: &User, env: &[&str], args: &[&str]) -> Outcome {
        self.bundle.write();
        user.own(self.bundle.path());
        user.own(self.state.path());
        let root = self.state.join("root");
        user.cmd(env, &self.runtime).arg("--root").arg(root).args(args).folder(self.bundle.path()).run()
    }
}

/// Maps root inside to the user, and nobody else.
fn single(config: &mut Value, user: &User) {
    config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": user.uid, "size": 1}]);
    config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": user.gid, "size": 1}]);
    // The group of terminals is not mapped.
    for mount in config["mounts"].as_array_mut().expect("a list") {
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
    }
}

fn lifecycle(place: &Place, user: &User, env: &[&str], id: &str) {
    let run = |args: &[&str]| place.run(user, env, args);
    let _ = run(&["create", id]).expect_success();
    let _ = run(&["start", id]).expect_success();
    let state: Value = serde_json::from_str(&run(&["state", id]).expect_success().stdout).expect("JSON");
    assert_eq!(state["status"], "running");
    assert_eq!(run(&["exec", id, "id", "-u"]).expect_success().stdout.trim(), "0");
    let _ = run(&["exec", id, "sh", "-c", "exit 7"]).expect_code(7);
    let _ = run(&["kill", id, "KILL"]).expect_success();
    eventually("it has stopped", SOON, || run(&["state", id]).stdout.contains("stopped").then_some(()));
    let _ = run(&["delete", id]).expect_success();
    assert_eq!(run(&["list", "-q"]).expect_success().stdout, "");
}

#[test]
fn a_single_id_needs_no_helper() {
    let user = User::new("one");
    let place = Place::new(&user, &["probe", "pause"]);
    // No PATH: newuidmap and newgidmap cannot be found.
    lifecycle(&place, &user, &["PATH=/nowhere"], "single");
}

#[test]
fn subordinate_ids_are_mapped_by_the_helpers() {
    let user = User::new("many");
    let mut place = Place::new(&user, &["probe", "pause"]);
    let (uids, gids) = (user.subordinate("/etc/subuid"), user.subordinate("/etc/subgid"));
    let map = |own: u32, (first, count): (u32, u32)| json!([{"containerID": 0, "hostID": own, "size": 1}, {"containerID": 1, "hostID": first, "size": count}]);
    place.bundle.config["linux"]["uidMappings"] = map(user.uid, uids);
    place.bundle.config["linux"]["gidMappings"] = map(user.gid, gids);
    let env = ["PATH=/usr/bin:/bin:/usr/sbin:/sbin"];
    lifecycle(&place, &user, &env, "many");
    place.bundle.config["process"]["args"] = json!(["sh", "-c", "id -u; id -g; id -G; touch /tmp/made"]);
    place.bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [2000]});
    let _ = std::fs::set_permissions(
        place.bundle.rootfs().join("tmp"),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    );
    let text = place.run(&user, &env, &["run", "as-user"]).expect_success().stdout;
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["1000", "1000", "1000", "2000"]);
    let made = std::fs::metadata(place.bundle.rootfs().join("tmp/made")).expect("the file is there");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), uids.0 + 999);
}

#[test]
fn ids_of_others_are_refused_with_the_way_out() {
    let user = User::new("greedy");
    let mut place = Place::new(&user, &["probe", "true"]);
    place.bundle.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    let outcome = place.run(&user, &["PATH=/usr/bin:/bin"], &["run", "greedy"]).expect_failure();
    assert!(outcome.stderr.contains("/etc/subuid"), "{}", outcome.stderr);
    let outcome = place.run(&user, &["PATH=/nowhere"], &["run", "greedy"]).expect_failure();
    assert!(outcome.stderr.contains("install uidmap"), "{}", outcome.stderr);
    assert_eq!(place.run(&user, &[], &["list", "-q"]).expect_success().stdout, "");
}

#[test]
fn the_default_root_of_a_user_must_be_the_users_own() {
    let user = User::new("root");
    let place = Place::new(&user, &["probe", "true"]);
    let root = PathBuf::from(format!("/tmp/shoal-runtime-{}", user.uid));
    let list = || user.cmd(&[], &place.runtime).args(["list", "-q"]).run();
    user.own(place.state.path());
    // Somebody else was there first.
    std::fs::create_dir(&root).expect("nobody uses this id");
    let refused = list();
    std::fs::remove_dir(&root).expect("made above");
    assert!(refused.expect_failure().stderr.contains("XDG_RUNTIME_DIR"));
    let own = list();
    let mode = std::fs::metadata(&root).map(|found| std::os::unix::fs::MetadataExt::mode(&found) & 0o7777);
    let _ = std::fs::remove_dir(&root);
    let _ = own.expect_success();
    assert_eq!(mode.expect("it was made"), 0o700);
}

#[test]
fn it_runs_inside_an_unprivileged_container() {
    let inner = "/inner";
    let script = "cd /inner && /inner/shoal-runtime --root /tmp/state run nested; echo code $?; \
                  /inner/shoal-runtime --root /tmp/state list -q";
    let mut outer = Bundle::new(&["sh", "-c", script]);
    let first = 500_000;
    let map = json!([{"containerID": 0, "hostID": first, "size": 65536}]);
    outer.config["linux"]["uidMappings"] = map.clone();
    outer.config["linux"]["gidMappings"] = map;
    outer.config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
    // What is hidden of a procfs is hidden from containers inside too: then the kernel gives them none.
    for list in ["maskedPaths", "readonlyPaths"] {
        outer.config["linux"][list] = json!([]);
    }
    outer.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    outer.config["process"]["capabilities"] = json!({});
    // The inner bundle belongs to user 1000 of the outer container.
    let user = User { name: "nobody-is-removed".into(), uid: 1000, gid: 1000 };
    let mut nested = Bundle::new(&["sh", "-c", "id -u; cat /proc/self/uid_map; exit 5"]);
    nested.config["linux"]["resources"] = json!({});
    nested.config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
    single(&mut nested.config, &user);
    std::mem::forget(user);
    nested.write();
    let folder = outer.rootfs().join(&inner[1..]);
    let _ = Cmd::new("cp").arg("-a").arg(nested.path()).arg(&folder).ok();
    let _ = std::fs::copy(binaries::runtime(), folder.join("shoal-runtime")).expect("the runtime can be copied");
    let _ = Cmd::new("chown").args(["-R", "-h", &format!("{first}:{first}")]).arg(outer.rootfs()).ok();
    let _ = Cmd::new("chown").args(["-R", "-h", &format!("{0}:{0}", first + 1000)]).arg(&folder).ok();
    std::fs::set_permissions(outer.rootfs().join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777))
        .expect("ours");
    // The root of the container must be able to walk to its root file system.
    std::fs::set_permissions(outer.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    outer.write();
    let state = Scratch::new("state");
    let outcome = Cmd::new(binaries::runtime()).arg("--root").arg(state.path()).arg("run").arg("--bundle");
    let outcome = outcome.arg(outer.path()).arg(outer.id()).run();
    let lines: Vec<&str> = outcome.stdout.lines().map(str::trim).collect();
    assert_eq!(lines, ["0", "0       1000          1", "code 5"], "{}", outcome.stderr);
}

/// CVE-2023-25809: without a cgroup namespace the container sees the cgroup its caller is in, and must not write to it.
#[test]
fn without_a_cgroup_namespace_the_callers_cgroup_is_read_only() {
    let user = User::new("cg");
    let script = "for file in $(find /sys/fs/cgroup -name cgroup.procs -maxdepth 3); do echo 0 > $file && echo written $file; done; mkdir /sys/fs/cgroup/*/made && echo made; true";
    let mut place = Place::new(&user, &["sh", "-c", script]);
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime"]});
    let _ = place.bundle.mount(mount);
    // The caller's cgroup belongs to the user, as below a user's systemd.
    let mut folders = Vec::new();
    for entry in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups are mounted").flatten() {
        let folder = entry.path().join(format!("shoal-user-{}", std::process::id()));
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if !is_link && entry.path().join("cgroup.procs").exists() && !entry.path().ends_with("cpuset") {
            std::fs::create_dir(&folder).expect("a new name");
            user.own(&folder);
            folders.push(folder);
        }
    }
    let enter: Vec<String> =
        folders.iter().map(|folder| format!("echo $$ > {}/cgroup.procs;", folder.display())).collect();
    place.bundle.write();
    user.own(place.bundle.path());
    user.own(place.state.path());
    let run = user.cmd(&["PATH=/usr/bin:/bin"], &place.runtime).arg("--root").arg(place.state.join("root"));
    let line = run.arg("--cgroup-manager").arg("disabled").args(["run", "slice"]).line();
    let outcome =
        Cmd::new("sh").args(["-c", &format!("{} exec {line}", enter.join(" "))]).folder(place.bundle.path()).run();
    for folder in &folders {
        eventually("the cgroup is empty", SOON, || std::fs::remove_dir(folder).is_ok().then_some(()));
    }
    let outcome = outcome.expect_success();
    assert!(!outcome.stdout.contains("written") && !outcome.stdout.contains("made"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
}
