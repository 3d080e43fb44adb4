//! Details that a second review of the runtime found: numbers that are no ids, folders and filters that forbid what the
//! start needs, what systemd and the caller pass on, files under names that somebody else has taken first.

use crate::case::cases;
use crate::subject::{Container, Subject};
use integration::bundle::Bundle;
use integration::{Cmd, Scratch};
use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, symlink};

cases! { "details":
    the_number_that_means_no_change_is_no_id ["crun": "1.8 runs as root"],
    a_working_directory_only_the_runtime_may_enter_is_entered,
    a_tmpfs_keeps_the_permissions_of_what_it_covers ["runc": "1.1 overrides mode= too", "crun": "1.8 makes it 1777"],
    a_filter_that_denies_what_the_start_calls_does_not_stop_it ["runc": "1.1 needs faccessat or faccessat2"],
    sockets_of_systemd_are_taken_only_when_they_are_ours ["crun": "1.8 does not ask for whom they are"],
    an_exec_gets_nothing_of_systemds ["crun": "1.8 passes them on"],
    hooks_in_the_container_get_the_pid_seen_there ["crun": "1.8 tells 0"],
    a_refused_update_changes_nothing ["crun": "1.8 leaves what was set before"],
    a_pid_file_follows_no_planted_link ["runc": "1.1 stops where its temporary name is taken", "crun": "1.8 follows it"],
    ambient_capabilities_of_the_caller_are_not_passed,
    a_log_that_cannot_be_opened_ends_the_command,
    obsolete_mount_flags_are_taken ["crun": "1.8 hands them to the file system"],
    state_has_an_owner_without_a_name ["crun": "1.8 tells the name"],
}

fn the_number_that_means_no_change_is_no_id(subject: &Subject) {
    let none = u32::MAX;
    for user in [
        json!({"uid": none, "gid": none}),
        json!({"uid": 1000, "gid": none}),
        json!({"uid": 1000, "gid": 1000, "additionalGids": [none]}),
    ] {
        let mut bundle = Bundle::new(&["probe", "report", "ids"]);
        bundle.config["process"]["user"] = user.clone();
        let outcome = subject.run(&bundle);
        assert!(!outcome.status.success(), "{user}: {}", outcome.stdout);
    }
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let path = bundle.path().join("process.json");
    let process = json!({"args": ["/bin/probe", "report", "ids"], "cwd": "/", "user": {"uid": none, "gid": none}});
    std::fs::write(&path, process.to_string()).expect("writable");
    let outcome = container.subject_cmd(["exec", "--process"]).arg(&path).arg(&container.id).run();
    assert!(!outcome.status.success(), "{}", outcome.stdout);
    let outcome = container.subject_cmd(["exec", "--user", "4294967295", &container.id, "/bin/probe", "report"]).run();
    assert!(!outcome.status.success(), "{}", outcome.stdout);
}

fn a_working_directory_only_the_runtime_may_enter_is_entered(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "report", "cwd", "ids"]);
    std::fs::set_permissions(bundle.rootfs().join("root"), std::fs::Permissions::from_mode(0o700)).expect("ours");
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bundle.config["process"]["cwd"] = "/root".into();
    let report = subject.report(&bundle);
    assert_eq!((&report["cwd"], &report["ids"]["uid"]), (&json!("/root"), &json!(1000)));
    bundle.config["process"]["args"] = json!(["probe", "pause"]);
    bundle.config["process"]["cwd"] = "/".into();
    let container = subject.start(&bundle);
    let exec = ["exec", "--user", "1000", "--cwd", "/root", &container.id, "probe", "report", "cwd"];
    let _ = container.subject_cmd(exec).ok();
}

fn a_tmpfs_keeps_the_permissions_of_what_it_covers(subject: &Subject) {
    let mut bundle = Bundle::new(&["stat", "-c", "%a", "/private", "/new", "/said"]);
    for name in ["private", "said"] {
        std::fs::create_dir(bundle.rootfs().join(name)).expect("writable");
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(bundle.rootfs().join(name), mode).expect("ours");
    }
    for (place, options) in [("/private", json!(["nosuid"])), ("/new", json!([])), ("/said", json!(["mode=750"]))] {
        bundle.mount(json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options}));
    }
    assert_eq!(subject.run(&bundle).expect_success().stdout, "700\n1777\n750\n");
}

fn a_filter_that_denies_what_the_start_calls_does_not_stop_it(subject: &Subject) {
    for own_privileges in [true, false] {
        for calls in [&["umask"][..], &["faccessat2"], &["umask", "faccessat2", "faccessat"]] {
            let mut bundle = Bundle::new(&["probe", "true"]);
            bundle.config["process"]["noNewPrivileges"] = own_privileges.into();
            bundle.config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": calls, "action": "SCMP_ACT_ERRNO"}]
            });
            let outcome = subject.run(&bundle);
            assert!(outcome.status.success(), "{calls:?}: {}", outcome.stderr);
        }
    }
}

/// Runs the runtime's command line in a shell, as a service that systemd may have passed descriptors to.
fn as_service(line: &str, before: &str) -> integration::Outcome {
    Cmd::new("bash").args(["-c", &format!("{before} exec {line}")]).run()
}

fn sockets_of_systemd_are_taken_only_when_they_are_ours(subject: &Subject) {
    let run = |before: &str| -> Value {
        let bundle = Bundle::new(&["probe", "report", "env", "fds"]);
        bundle.write();
        let line = subject.cmd(["run", "--bundle"]).arg(bundle.path()).arg(bundle.id()).line();
        let text = as_service(&line, before).expect_success().stdout;
        serde_json::from_str(&text).expect("a report")
    };
    let taken = run("exec 3</dev/zero; export LISTEN_FDS=1 LISTEN_PID=$$;");
    assert_eq!((&taken["fds"]["3"], &taken["env"]["LISTEN_PID"]), (&json!("/dev/zero"), &json!("1")));
    // Another's, nobody's, and none that is open.
    for before in [
        "exec 3</dev/zero; export LISTEN_FDS=1 LISTEN_PID=1;",
        "exec 3</dev/zero; export LISTEN_FDS=1;",
        "export LISTEN_FDS=1 LISTEN_PID=1;",
    ] {
        let report = run(before);
        assert_eq!((&report["fds"]["3"], &report["env"]["LISTEN_FDS"]), (&Value::Null, &Value::Null), "{before}");
    }
}

fn an_exec_gets_nothing_of_systemds(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let line = container.subject_cmd(["exec", &container.id, "/bin/probe", "report", "env", "fds"]).line();
    for before in [
        "exec 3</dev/zero; export LISTEN_FDS=1 LISTEN_PID=$$ NOTIFY_SOCKET=/run/notify;",
        "export LISTEN_FDS=1 LISTEN_PID=1;",
    ] {
        let report: Value = serde_json::from_str(&as_service(&line, before).expect_success().stdout).expect("a report");
        assert_eq!(report["fds"]["3"], Value::Null, "{before}");
        for name in ["LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET"] {
            assert_eq!(report["env"][name], Value::Null, "{name}");
        }
    }
}

fn hooks_in_the_container_get_the_pid_seen_there(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "true"]);
    let hook = |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat > {name}")]}]);
    let outside = bundle.rootfs().join("tmp/outside").display().to_string();
    bundle.config["hooks"] = json!({"createContainer": hook(&outside), "startContainer": hook("/tmp/inside")});
    let _ = subject.run(&bundle).expect_success();
    for name in ["outside", "inside"] {
        let text = std::fs::read_to_string(bundle.rootfs().join("tmp").join(name)).expect("the hook ran");
        let state: Value = serde_json::from_str(&text).expect("a state");
        assert_eq!(state["pid"], 1, "{name}");
    }
}

/// The limit on processes of the container.
fn pids_limit(container: &Container<'_>) -> String {
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", container.state()["pid"])).expect("it lives");
    let place = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let top = match names {
            "" => "/sys/fs/cgroup".to_owned(),
            names if names.split(',').any(|name| name == "pids") => format!("/sys/fs/cgroup/{names}"),
            _ => return None,
        };
        std::fs::read_to_string(format!("{top}{path}/pids.max")).ok()
    };
    cgroups.lines().find_map(place).expect("a limit on pids").trim().to_owned()
}

fn a_refused_update_changes_nothing(subject: &Subject) {
    for limit in [None, Some(50)] {
        let mut bundle = Bundle::new(&["probe", "pause"]);
        if let Some(limit) = limit {
            bundle.config["linux"]["resources"]["pids"] = json!({"limit": limit});
        }
        let container = subject.start(&bundle);
        let before = pids_limit(&container);
        let wrong = ["update", "--pids-limit", "77", "--cpuset-cpus", "4000", &container.id];
        let _ = container.subject_cmd(wrong).run().expect_failure();
        assert_eq!(pids_limit(&container), before);
        let _ = container.subject_cmd(["update", "--pids-limit", "77", &container.id]).ok();
        assert_eq!(pids_limit(&container), "77");
    }
}

fn a_pid_file_follows_no_planted_link(subject: &Subject) {
    let (folder, canary) = (Scratch::new("pid"), Scratch::new("canary"));
    let victim = canary.join("victim");
    std::fs::write(&victim, "untouched").expect("writable");
    let file = folder.join("pid");
    // Whatever name it is written under first.
    for name in ["pid", "pid.new", ".pid"] {
        symlink(&victim, folder.join(name)).expect("free");
    }
    let bundle = Bundle::new(&["probe", "pause"]);
    bundle.write();
    let cmd = subject.cmd(["run", "-d", "--pid-file"]).arg(&file).arg("--bundle").arg(bundle.path()).arg(bundle.id());
    let outcome = cmd.run();
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let is_link = std::fs::symlink_metadata(&file).is_ok_and(|found| found.is_symlink());
    let exec = subject.cmd(["exec", "-d", "--pid-file"]).arg(&file).args([bundle.id(), "true"]).run();
    let _ = subject.cmd(["delete", "--force", bundle.id()]).run();
    assert_eq!(std::fs::read_to_string(&victim).expect("it is there"), "untouched");
    let _ = (outcome.expect_success(), exec.expect_success());
    assert!(!is_link && text.parse::<u32>().is_ok(), "{text:?}");
}

fn ambient_capabilities_of_the_caller_are_not_passed(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "report", "status"]);
    for set in ["bounding", "effective", "permitted", "inheritable"] {
        bundle.config["process"]["capabilities"][set] = json!(["CAP_NET_RAW"]);
    }
    bundle.write();
    let line = subject.cmd(["run", "--bundle"]).arg(bundle.path()).arg(bundle.id()).line();
    let line = format!("setpriv --inh-caps +net_raw --ambient-caps +net_raw {line}");
    let report: Value = serde_json::from_str(&as_service(&line, "").expect_success().stdout).expect("a report");
    assert_eq!(report["status"]["CapAmb"], "0000000000000000");
    assert_eq!(report["status"]["CapInh"], "0000000000002000");
}

fn a_log_that_cannot_be_opened_ends_the_command(subject: &Subject) {
    let outcome = subject.cmd(["--log", "/nowhere/at/all/log", "list"]).run().expect_code(1);
    assert!(outcome.stderr.contains("/nowhere/at/all/log"), "{}", outcome.stderr);
}

fn obsolete_mount_flags_are_taken(subject: &Subject) {
    let mut bundle = Bundle::new(&["cat", "/proc/self/mountinfo"]);
    let options = json!(["acl", "iversion", "silent", "nosuid"]);
    bundle.mount(json!({"destination": "/flags", "type": "tmpfs", "source": "tmpfs", "options": options}));
    let text = subject.run(&bundle).expect_success().stdout;
    assert!(text.lines().any(|line| line.contains(" /flags ") && line.contains("nosuid")), "{text}");
}

fn state_has_an_owner_without_a_name(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    assert_eq!(container.state()["owner"], "");
}
