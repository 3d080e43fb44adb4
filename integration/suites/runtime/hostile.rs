//! Hostile surroundings: cgroups and namespaces that are another's, descriptors that lead out, files that never end,
//! hooks and terminals that do not play along. What a review of the runtime looked for, each as the attack it is.

use crate::case::cases;
use crate::subject::{SOON, Subject};
use integration::bundle::Bundle;
use integration::{Cmd, Scratch, binaries, eventually, soon};
use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

cases! { "hostile":
    a_create_refused_for_an_inhabited_cgroup_leaves_who_lives_there ["runc": "1.1 only warns", "crun": "1.8 moves in"],
    a_process_without_capabilities_in_its_configuration_has_none ["crun": "1.8 leaves the bounding set"],
    a_process_file_that_leaves_out_privileges_gets_the_containers ["runc": "1.1 reads an absent noNewPrivileges as false", "crun": "1.8 reads an absent noNewPrivileges as false"],
    a_program_is_never_found_through_a_descriptor_of_the_host,
    a_descriptor_to_preserve_must_be_there ["runc": "1.1 passes a descriptor of its own instead"],
    a_created_container_holds_no_descriptor_of_the_host ["runc": "1.1 keeps files of its own", "crun": "1.8 keeps files of its own"],
    a_created_container_cannot_be_looked_into ["runc": "1.1 can be looked into"],
    a_mount_inside_a_bind_stays_in_the_container ["runc": "has no mounts command", "crun": "1.8 has no mounts command"],
    a_cgroup2_mount_begins_at_the_containers_cgroup ["crun": "1.8 does not know hybrid hosts"],
    an_accounts_file_that_never_ends_does_not_stop_the_start ["runc": "1.1 reads it", "crun": "1.8 reads it"],
    standard_streams_belong_to_the_containers_user,
    a_sysctl_in_a_joined_namespace_of_the_host_is_refused,
    without_pivot_no_whole_procfs_is_left,
    a_process_that_dies_before_its_program_is_no_success ["runc": "1.1 takes the end for success", "crun": "1.8 takes the end for success"],
    kill_without_a_pid_namespace_reaches_every_process ["runc": "1.1 kills the first", "crun": "1.8 kills the first"],
    kill_all_takes_every_signal ["runc": "1.1 has no names for them", "crun": "1.8 has no names for them"],
    a_fifo_is_a_fifo_in_a_user_namespace ["runc": "1.1 binds the host's", "crun": "1.8 binds the host's"],
    a_poststart_hook_may_use_the_container,
    a_hook_with_much_to_say_ends,
    a_terminal_kept_open_does_not_keep_the_command ["runc": "1.1 waits for it", "crun": "1.8 waits for it"],
    what_is_typed_and_never_read_does_not_keep_the_command,
    a_terminal_nobody_has_open_costs_no_time ["runc": "1.1 ends its relay", "crun": "1.8 ends its relay"],
    orphans_of_a_foreground_container_are_collected,
}

/// A process of the host in cgroups of its own, removed with them.
struct Foreign {
    child: Child,
    folders: Vec<PathBuf>,
}

impl Foreign {
    /// Lives in the cgroup `name` of every hierarchy that can be entered at once.
    fn new(name: &str) -> Self {
        let child = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().expect("sleep is there");
        let mut foreign = Self { child, folders: Vec::new() };
        let top = Path::new("/sys/fs/cgroup");
        let below = std::fs::read_dir(top).expect("cgroups are mounted").flatten().map(|entry| entry.path());
        let mut places: Vec<PathBuf> =
            below.chain([top.to_owned()]).filter_map(|path| path.canonicalize().ok()).collect();
        places.sort();
        places.dedup();
        // By the kind of the file system: somebody may have left a plain file `cgroup.procs` beside the hierarchies.
        let is_cgroup = |path: &Path| {
            nix::sys::statfs::statfs(path).is_ok_and(|found| {
                let kind = found.filesystem_type();
                kind == nix::sys::statfs::CGROUP_SUPER_MAGIC || kind == nix::sys::statfs::CGROUP2_SUPER_MAGIC
            })
        };
        // cpuset (v1) wants to be filled before a process may enter; below another cgroup nothing is a hierarchy.
        let is_hierarchy =
            |path: &PathBuf| is_cgroup(path) && (path == top || !is_cgroup(top)) && !path.ends_with("cpuset");
        for place in places.into_iter().filter(is_hierarchy) {
            let folder = place.join(name);
            std::fs::create_dir(&folder).expect("a new name");
            foreign.folders.push(folder.clone());
            std::fs::write(folder.join("cgroup.procs"), foreign.child.id().to_string()).expect("it can be entered");
        }
        foreign
    }

    fn lives(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none() && self.folders.iter().all(|folder| folder.is_dir())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for folder in &self.folders {
            let _ = soon(SOON, || (std::fs::remove_dir(folder).is_ok() || !folder.exists()).then_some(()));
        }
    }
}

fn a_create_refused_for_an_inhabited_cgroup_leaves_who_lives_there(subject: &Subject) {
    for own_pids in [true, false] {
        let mut bundle = Bundle::new(&["probe", "true"]);
        let name = format!("shoal-foreign-{}", bundle.id());
        let mut foreign = Foreign::new(&name);
        bundle.config["linux"]["cgroupsPath"] = format!("/{name}").into();
        if !own_pids {
            share_pids(&mut bundle);
        }
        bundle.write();
        let created = subject.cmd(["create", "--bundle"]).arg(bundle.path()).arg(bundle.id()).run();
        let lived = foreign.lives();
        // Also one that should have been refused and was not is taken away.
        let _ = subject.cmd(["delete", "--force", bundle.id()]).run();
        let _ = created.expect_failure();
        assert!(lived, "killed by the refused create");
        assert!(foreign.lives(), "killed by delete");
        let _ = subject.cmd(["state", bundle.id()]).run().expect_failure();
    }
}

fn share_pids(bundle: &mut Bundle) {
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| namespace["type"] != "pid");
}

/// A user namespace in which every id is itself: the rights of the host's root are gone, its files are still in reach.
fn own_users(bundle: &mut Bundle) {
    bundle.config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65_536}]);
    bundle.config["linux"]["uidMappings"] = map.clone();
    bundle.config["linux"]["gidMappings"] = map;
}

fn grant(bundle: &mut Bundle, capability: &str) {
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set].as_array_mut().expect("a list").push(capability.into());
    }
}

fn a_process_without_capabilities_in_its_configuration_has_none(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "report", "status"]);
    bundle.config["process"].as_object_mut().expect("a map").remove("capabilities");
    let status = subject.report(&bundle)["status"].clone();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
}

fn a_process_file_that_leaves_out_privileges_gets_the_containers(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let report = |file: Value| -> Value {
        let path = bundle.path().join("process.json");
        std::fs::write(&path, file.to_string()).expect("writable");
        let text = subject.cmd(["exec", "--process"]).arg(&path).arg(&container.id).ok();
        serde_json::from_str(&text).expect("a report")
    };
    let words = json!(["/bin/probe", "report", "status", "limits"]);
    let short = report(json!({"args": words, "cwd": "/"}));
    let init: Value = serde_json::from_str(&container.exec(&["probe", "report", "status"]).expect_success().stdout)
        .expect("a report");
    for member in ["CapPrm", "CapEff", "CapBnd", "NoNewPrivs"] {
        assert_eq!(short["status"][member], init["status"][member], "{member}");
    }
    assert_eq!(short["limits"]["RLIMIT_NOFILE"], json!({"soft": 1024, "hard": 1024}));
    let said = report(json!({"args": words, "cwd": "/", "noNewPrivileges": false, "capabilities": {}}));
    assert_eq!((&said["status"]["NoNewPrivs"], &said["status"]["CapEff"]), (&json!("0"), &json!("0000000000000000")));
}

/// Runs the runtime's command line with descriptor 9 open on the host's root.
fn with_leak(line: &str) -> integration::Outcome {
    Cmd::new("sh").args(["-c", &format!("exec 9</; exec {line}")]).run()
}

fn a_program_is_never_found_through_a_descriptor_of_the_host(subject: &Subject) {
    let probe = binaries::probe();
    let (folder, probe) = (probe.parent().expect("a folder").display().to_string(), probe.display().to_string());
    let attempt = |change: &dyn Fn(&mut Value)| {
        let mut bundle = Bundle::new(&["none", "report", "cwd"]);
        change(&mut bundle.config["process"]);
        bundle.write();
        let line = subject.cmd(["run", "--bundle"]).arg(bundle.path()).arg(bundle.id()).line();
        let outcome = with_leak(&line);
        let _ = subject.cmd(["delete", "--force", bundle.id()]).run();
        assert!(!outcome.status.success() && !outcome.stdout.contains("cwd"), "{}", outcome.stdout);
    };
    for number in 3..14 {
        // Its own root, and another way to the host through a procfs of the host.
        for way in ["", "/1/root"] {
            attempt(&|process| process["args"][0] = format!("/proc/self/fd/{number}{way}{probe}").into());
        }
        attempt(&|process| {
            process["args"][0] = "probe".into();
            process["env"] = json!([format!("PATH=/proc/self/fd/{number}{folder}")]);
        });
        attempt(&|process| {
            process["args"][0] = format!(".{probe}").into();
            process["cwd"] = format!("/proc/self/fd/{number}").into();
        });
    }
}

fn a_descriptor_to_preserve_must_be_there(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "report", "fds"]);
    bundle.write();
    let run = |open: &str, count: &str| {
        let line = subject.cmd(["run", "--preserve-fds", count, "--bundle"]).arg(bundle.path()).arg(bundle.id()).line();
        Cmd::new("bash").args(["-c", &format!("{open} exec {line}")]).run()
    };
    let seen: Value =
        serde_json::from_str(&run("exec 3</dev/zero 4</dev/full;", "2").expect_success().stdout).expect("a report");
    assert_eq!((&seen["fds"]["3"], &seen["fds"]["4"]), (&json!("/dev/zero"), &json!("/dev/full")));
    // Without this check the third would be one of the runtime's.
    let _ = run("exec 3</dev/zero 4</dev/full;", "3").expect_failure();
    let _ = run("", "4000000000").expect_failure();
    let _ = subject.cmd(["state", bundle.id()]).run().expect_failure();
}

fn a_created_container_holds_no_descriptor_of_the_host(subject: &Subject) {
    for users in [false, true] {
        let mut bundle = Bundle::new(&["probe", "true"]);
        if users {
            own_users(&mut bundle);
        }
        let container = subject.create(&bundle);
        let folder = format!("/proc/{}/fd", container.state()["pid"]);
        let open: Vec<(u32, String)> = std::fs::read_dir(&folder)
            .expect("init lives")
            .flatten()
            .map(|entry| {
                let number = entry.file_name().to_string_lossy().parse().expect("a number");
                (number, std::fs::read_link(entry.path()).expect("ours to see").to_string_lossy().into_owned())
            })
            .collect();
        let odd: Vec<_> = open.iter().filter(|(number, what)| *number > 2 && !what.starts_with("socket:")).collect();
        assert!(odd.is_empty(), "users {users}: {odd:?}");
    }
}

fn a_created_container_cannot_be_looked_into(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "true"]);
    let container = subject.create(&bundle);
    // The same user with the same capabilities, which is enough for a process that may be looked into.
    let outcome = container.exec(&["sh", "-c", "readlink /proc/1/exe || readlink /proc/1/fd/0 || echo hidden"]);
    assert_eq!(outcome.expect_success().stdout, "hidden\n");
}

/// A shared mount on the host.
struct Shared(Scratch);

impl Shared {
    fn new() -> Self {
        let scratch = Scratch::new("shared");
        let _ = Cmd::new("mount").args(["-t", "tmpfs", "shoal-test"]).arg(scratch.path()).ok();
        let shared = Self(scratch);
        let _ = Cmd::new("mount").arg("--make-shared").arg(shared.0.path()).ok();
        std::fs::create_dir(shared.0.join("below")).expect("writable");
        shared
    }

    fn is_reached(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs");
        mounts.lines().any(|line| line.contains(&self.0.join("below").display().to_string()))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = Cmd::new("umount").arg(self.0.join("below")).attempt();
        let _ = Cmd::new("umount").arg(self.0.path()).attempt();
    }
}

fn a_mount_inside_a_bind_stays_in_the_container(subject: &Subject) {
    // Opened by the command, because the new process may not look into the host's folders.
    let shared = Shared::new();
    let mut bundle = Bundle::new(&["mount", "-t", "tmpfs", "inner", "/shared/below"]);
    own_users(&mut bundle);
    grant(&mut bundle, "CAP_SYS_ADMIN");
    bundle.mount(json!({"destination": "/shared", "type": "bind", "source": shared.0.path(), "options": ["rbind"]}));
    let _ = subject.run(&bundle).expect_success();
    assert!(!shared.is_reached(), "through a mount of the configuration");
    // Added to a container that runs.
    let mut bundle = Bundle::new(&["probe", "pause"]);
    grant(&mut bundle, "CAP_SYS_ADMIN");
    let container = subject.start(&bundle);
    let list = json!([{"destination": "/shared", "type": "bind", "source": shared.0.path(), "options": ["rbind"]}]);
    let _ = container.subject_cmd(["mounts", "add", &container.id, "-"]).input(list.to_string()).ok();
    let _ = container.exec(&["mount", "-t", "tmpfs", "inner", "/shared/below"]).expect_success();
    assert!(!shared.is_reached(), "through a mount that was added");
    // Unless the configuration asks for it.
    let list =
        json!([{"destination": "/asked", "type": "bind", "source": shared.0.path(), "options": ["rbind", "rshared"]}]);
    let _ = container.subject_cmd(["mounts", "add", &container.id, "-"]).input(list.to_string()).ok();
    let _ = container.exec(&["mount", "-t", "tmpfs", "inner", "/asked/below"]).expect_success();
    assert!(shared.is_reached(), "rshared was asked for");
}

fn a_cgroup2_mount_begins_at_the_containers_cgroup(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "report", "mounts"]);
    bundle.config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "cgroup"}));
    bundle.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup2", "source": "cgroup", "options": ["ro"]}));
    let report = subject.report(&bundle);
    let mounts: Vec<&Value> = report["mounts"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|mount| mount["destination"].as_str().is_some_and(|path| path.starts_with("/sys/fs/cgroup")))
        .collect();
    assert_eq!(mounts.len(), 1, "{mounts:?}");
    assert_eq!((&mounts[0]["type"], &mounts[0]["root"]), (&json!("cgroup2"), &json!("/")), "{mounts:?}");
}

fn an_accounts_file_that_never_ends_does_not_stop_the_start(subject: &Subject) {
    for kind in ["fifo", "zero", "huge"] {
        let mut bundle = Bundle::new(&["sh", "-c", "echo $HOME"]);
        let passwd = bundle.rootfs().join("etc/passwd");
        std::fs::remove_file(&passwd).expect("it is there");
        match kind {
            "fifo" => nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::from_bits_truncate(0o644)).expect("free"),
            "zero" => symlink("/dev/zero", &passwd).expect("free"),
            _ => std::fs::File::create(&passwd).and_then(|file| file.set_len(1 << 40)).expect("sparse files"),
        }
        bundle.write();
        let run = subject.cmd(["run", "--bundle"]).arg(bundle.path()).arg(bundle.id()).deadline(SOON);
        let outcome = std::panic::catch_unwind(|| run.run());
        let _ = subject.cmd(["delete", "--force", bundle.id()]).run();
        assert_eq!(outcome.expect(kind).expect_success().stdout, "/\n", "{kind}");
        bundle.config = Value::Null;
    }
}

fn standard_streams_belong_to_the_containers_user(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "echo out > /dev/stdout; echo err > /dev/stderr"]);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let outcome = subject.run(&bundle).expect_success();
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    // A device of the host stays the host's.
    let owner = |path: &str| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).expect("a device"));
    let line = subject.cmd(["run", "--bundle"]).arg(bundle.path()).arg(bundle.id()).line();
    let _ = Cmd::new("sh").args(["-c", &format!("{line} < /dev/null > /dev/null 2> /dev/null")]).run().expect_success();
    assert_eq!(owner("/dev/null"), 0);
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let text = container
        .subject_cmd(["exec", "--user", "1000:1000", &container.id, "sh", "-c", "echo out > /dev/stdout"])
        .ok();
    assert_eq!(text, "out\n");
}

fn a_sysctl_in_a_joined_namespace_of_the_host_is_refused(subject: &Subject) {
    let path = "/proc/sys/net/core/somaxconn";
    let before = std::fs::read_to_string(path).expect("procfs");
    let other = if before.trim() == "4097" { "4098" } else { "4097" };
    let mut bundle = Bundle::new(&["probe", "true"]);
    for namespace in bundle.config["linux"]["namespaces"].as_array_mut().expect("a list") {
        if namespace["type"] == "network" {
            namespace["path"] = format!("/proc/{}/ns/net", std::process::id()).into();
        }
    }
    bundle.config["linux"]["sysctl"] = json!({"net.core.somaxconn": other});
    let outcome = subject.run(&bundle);
    let after = std::fs::read_to_string(path).expect("procfs");
    // Whatever happened, the host gets its value back.
    std::fs::write(path, &before).expect("root writes sysctls");
    assert_eq!(before, after);
    let _ = outcome.expect_failure();
}

fn without_pivot_no_whole_procfs_is_left(subject: &Subject) {
    // A nested user namespace may mount a procfs only where a whole one can be seen.
    // As another user than root, whose id nobody without CAP_SETFCAP may map.
    let script = "unshare -U -r -m -p -f mount -t proc proc /home && echo mounted";
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bundle.write();
    let run = |flags: &[&str]| {
        let outcome = subject.cmd(["run"]).args(flags).arg("--bundle").arg(bundle.path()).arg(bundle.id()).run();
        let _ = subject.cmd(["delete", "--force", bundle.id()]).run();
        outcome
    };
    for flags in [&[][..], &["--no-pivot"]] {
        let outcome = run(flags);
        assert!(!outcome.stdout.contains("mounted"), "{flags:?}: {}", outcome.stdout);
        assert!(outcome.stderr.contains("mount: permission denied"), "{flags:?}: {}", outcome.stderr);
    }
    // The container works all the same.
    let works = Bundle::new(&["sh", "-c", "test -e /proc/self/status && test -d /sys/class && touch /tmp/x && pwd"]);
    works.write();
    let outcome = subject.cmd(["run", "--no-pivot", "--bundle"]).arg(works.path()).arg(works.id()).run();
    let _ = subject.cmd(["delete", "--force", works.id()]).run();
    assert_eq!(outcome.expect_success().stdout, "/\n");
}

fn a_process_that_dies_before_its_program_is_no_success(subject: &Subject) {
    let mut bundle = Bundle::new(&["touch", "/tmp/ran"]);
    // In the host's pid namespace, where even the first process can be killed from inside.
    share_pids(&mut bundle);
    let hook = bundle.rootfs().join("bin/hook");
    std::fs::write(&hook, "#!/bin/sh\nkill -KILL $PPID\n").expect("writable");
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).expect("ours");
    bundle.config["hooks"] = json!({"startContainer": [{"path": "/bin/hook", "env": ["PATH=/bin"]}]});
    let container = subject.create(&bundle);
    let _ = container.cmd("start").run().expect_failure();
    assert!(!bundle.rootfs().join("tmp/ran").exists());
}

/// The number that a process of the container has written to `name` in its `/tmp`.
fn number(bundle: &Bundle, name: &str) -> u32 {
    let path = bundle.rootfs().join("tmp").join(name);
    eventually("a number was written", SOON, || std::fs::read_to_string(&path).ok()?.trim().parse().ok())
}

fn is_gone(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

fn kill_without_a_pid_namespace_reaches_every_process(subject: &Subject) {
    for frozen in [false, true] {
        let mut bundle = Bundle::new(&["sh", "-c", "setsid sleep 1000 & echo $! > /tmp/second; wait"]);
        share_pids(&mut bundle);
        let container = subject.start(&bundle);
        let second = number(&bundle, "second");
        if frozen {
            let _ = container.cmd("pause").ok();
        }
        let _ = container.cmd("kill").arg("KILL").ok();
        eventually("the second process is dead", SOON, || is_gone(second).then_some(()));
        container.await_status("stopped");
    }
    // With a pid namespace the others die with the first, also when they are frozen.
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let _ = container.cmd("pause").ok();
    let _ = container.cmd("kill").arg("KILL").ok();
    container.await_status("stopped");
}

fn kill_all_takes_every_signal(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "setsid sleep 1000 & echo $! > /tmp/second; wait"]);
    share_pids(&mut bundle);
    let container = subject.start(&bundle);
    let second = number(&bundle, "second");
    let _ = container.subject_cmd(["kill", "--all", &container.id, "0"]).ok();
    assert_eq!(container.status(), "running");
    let _ = container.subject_cmd(["kill", "--all", &container.id, "RTMIN+3"]).ok();
    eventually("the second process is dead", SOON, || is_gone(second).then_some(()));
    container.await_status("stopped");
}

fn a_fifo_is_a_fifo_in_a_user_namespace(subject: &Subject) {
    let host = Scratch::new("fifo");
    let path = host.join("node");
    std::fs::write(&path, "the host's").expect("writable");
    let mut bundle = Bundle::new(&["sh", "-c", &format!("test -p {} && echo fifo", path.display())]);
    own_users(&mut bundle);
    bundle.config["linux"]["devices"] = json!([{"path": path, "type": "p", "fileMode": 0o666}]);
    assert_eq!(subject.run(&bundle).expect_success().stdout, "fifo\n");
    // And a device is one: a file of the host under its name is not bound in its place.
    let mut bundle = Bundle::new(&["cat", &path.display().to_string()]);
    own_users(&mut bundle);
    bundle.config["linux"]["devices"] = json!([{"path": path, "type": "c", "major": 0, "minor": 0}]);
    let outcome = subject.run(&bundle).expect_failure();
    assert!(!outcome.stdout.contains("the host's"), "{}", outcome.stdout);
}

fn script(bundle: &Bundle, name: &str, text: &str) -> PathBuf {
    let path = bundle.path().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    path
}

fn a_poststart_hook_may_use_the_container(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "pause"]);
    let exec = subject.cmd(["exec", bundle.id(), "/bin/echo", "from inside"]).line();
    let log = bundle.path().join("log");
    let path = script(&bundle, "use", &format!("{exec} > {} 2>&1", log.display()));
    bundle.config["hooks"] = json!({"poststart": [{"path": path, "timeout": 15}]});
    let container = subject.start(&bundle);
    assert_eq!(std::fs::read_to_string(&log).expect("the hook ran"), "from inside\n");
    assert_eq!(container.status(), "running");
    drop(container);
    // Also in the foreground.
    std::fs::remove_file(&log).expect("it is there");
    let exec = subject.cmd(["exec", bundle.id(), "/bin/sh", "-c", "'echo from inside; touch /used'"]).line();
    let path = script(&bundle, "use-too", &format!("{exec} > {} 2>&1", log.display()));
    bundle.config["hooks"]["poststart"][0]["path"] = json!(path);
    bundle.config["process"]["args"] = json!(["sh", "-c", "until [ -e /used ]; do sleep 0.05; done"]);
    let _ = subject.run(&bundle).expect_success();
    assert_eq!(std::fs::read_to_string(&log).expect("the hook ran"), "from inside\n");
}

fn a_hook_with_much_to_say_ends(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "true"]);
    let path = script(&bundle, "talk", "head -c 1000000 /dev/zero | tr '\\0' x >&2");
    bundle.config["annotations"] = json!({"long": "y".repeat(200_000)});
    bundle.config["hooks"] = json!({"createRuntime": [{"path": path}]});
    bundle.write();
    let run = subject.cmd(["run", "--bundle"]).arg(bundle.path()).arg(bundle.id()).deadline(SOON);
    let outcome = std::panic::catch_unwind(|| run.run());
    let _ = subject.cmd(["delete", "--force", bundle.id()]).run();
    let _ = outcome.expect("it ended").expect_success();
}

/// Runs a container with a terminal in the foreground, with `input` typed, and no longer than [`SOON`].
fn in_terminal(subject: &Subject, bundle: &mut Bundle, input: Vec<u8>) -> integration::Outcome {
    bundle.config["process"]["terminal"] = true.into();
    bundle.write();
    let run = subject.cmd(["run", "--bundle"]).arg(bundle.path()).arg(bundle.id()).input(input).deadline(SOON);
    let outcome = std::panic::catch_unwind(|| run.run());
    let _ = subject.cmd(["delete", "--force", bundle.id()]).run();
    outcome.expect("it ended")
}

fn a_terminal_kept_open_does_not_keep_the_command(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "trap '' HUP; sleep 1000 & echo all that was said; exit 7"]);
    share_pids(&mut bundle);
    let outcome = in_terminal(subject, &mut bundle, Vec::new()).expect_code(7);
    assert!(outcome.stdout.contains("all that was said"), "{:?}", outcome.stdout);
    // And nothing of a long output is lost.
    let mut bundle = Bundle::new(&["sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done"]);
    let outcome = in_terminal(subject, &mut bundle, Vec::new()).expect_success();
    assert_eq!((outcome.stdout.lines().count(), outcome.stdout.trim_end().ends_with("line 2999")), (3000, true));
}

fn what_is_typed_and_never_read_does_not_keep_the_command(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "stty raw -echo; sleep 1; exit 9"]);
    let _ = in_terminal(subject, &mut bundle, vec![b'x'; 1 << 20]).expect_code(9);
    // And what is read arrives whole, once the terminal no longer cuts lines.
    let script = "stty raw -echo; touch /tmp/raw; head -c 100000 | wc -c > /tmp/count";
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    bundle.config["process"]["terminal"] = true.into();
    bundle.write();
    let run = subject.cmd(["run", "--bundle"]).arg(bundle.path()).arg(bundle.id());
    let mut child = run.command().stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the runtime starts");
    let mut input = child.stdin.take().expect("stdin is piped");
    let (raw, id) = (bundle.rootfs().join("tmp/raw"), bundle.id().to_owned());
    eventually("the terminal is raw", SOON, || raw.exists().then_some(()));
    let typist = std::thread::spawn(move || std::io::Write::write_all(&mut input, &vec![b'x'; 100_000]));
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("all was read", SOON, || child.try_wait().expect("a child of ours"))
    }));
    let _ = subject.cmd(["delete", "--force", &id]).run();
    let _ = child.wait();
    let _ = typist.join().expect("the typist does not panic");
    assert!(ended.expect("it ended").success());
    assert_eq!(number(&bundle, "count"), 100_000);
}

fn a_terminal_nobody_has_open_costs_no_time(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "exec <&- >&- 2>&- sleep 2"]);
    bundle.config["process"]["terminal"] = true.into();
    bundle.write();
    let mut child = subject
        .cmd(["run", "--bundle"])
        .arg(bundle.path())
        .arg(bundle.id())
        .command()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the runtime starts");
    let mut ticks = 0;
    let ended = eventually("the run ends", SOON, || {
        let ended = child.try_wait().expect("a child of ours");
        if ended.is_none() {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
            let fields: Vec<u64> = stat
                .rsplit_once(')')
                .map_or("", |(_, rest)| rest)
                .split_ascii_whitespace()
                .map(|field| field.parse().unwrap_or(0))
                .collect();
            ticks = fields.get(11..13).map_or(ticks, |used| used.iter().sum());
        }
        ended
    });
    assert!(ended.success(), "{ended}");
    // A hundred ticks are a second.
    assert!(ticks < 50, "{ticks} ticks of CPU for waiting");
}

fn orphans_of_a_foreground_container_are_collected(subject: &Subject) {
    let script = "sh -c 'sleep 0.1 & echo $! > /tmp/orphan'; exec sleep 1000";
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    share_pids(&mut bundle);
    bundle.write();
    let mut child = subject
        .cmd(["run", "--bundle"])
        .arg(bundle.path())
        .arg(bundle.id())
        .command()
        .stdin(Stdio::null())
        .spawn()
        .expect("the runtime starts");
    let orphan = number(&bundle, "orphan");
    let gone = std::panic::catch_unwind(|| {
        eventually("the orphan is collected", SOON, || (!Path::new(&format!("/proc/{orphan}")).exists()).then_some(()));
    });
    let _ = subject.cmd(["delete", "--force", bundle.id()]).run();
    let _ = child.wait();
    gone.expect("no dead process is left");
}
