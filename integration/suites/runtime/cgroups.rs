//! Limits, statistics, devices, update, freeze. runtime-spec config-linux.md "Control groups".

use crate::case::cases;
use crate::subject::Subject;
use integration::bundle::Bundle;
use serde_json::{Value, json};
use std::path::PathBuf;

cases! { "cgroups":
    memory_limit_is_set_and_kills,
    pids_limit_stops_forks,
    cpu_quota_and_shares_are_set,
    cpuset_is_set,
    a_denied_device_cannot_be_opened,
    an_allowed_device_can_be_opened,
    update_changes_limits_of_a_running_container ["crun": "1.8 takes bytes without a suffix"],
    events_stats_has_the_counters ["crun": "has no events"],
    the_cgroup_is_gone_after_delete,
    a_cgroups_path_is_used,
    a_cgroups_path_with_dots_stays_inside ["crun": "1.8 makes folders outside"],
    an_impossible_limit_is_an_error_and_leaves_nothing ["crun": "1.8 leaves the cgroups"],
    checks_before_update_refuse_a_limit_below_usage ["runc": "1.1 predates checkBeforeUpdate", "crun": "1.8 predates checkBeforeUpdate"],
    kill_all_reaches_every_process,
    a_paused_container_can_be_deleted_by_force,
    a_container_starts_under_512_kib ["runc": "needs over 4 MB", "crun": "depends on the kernel"],
}

/// The cgroup of a controller (v1), or the one cgroup (v2), of a process on the host.
fn folder(pid: &Value, controller: &str) -> PathBuf {
    let membership = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process lives");
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, names, path) = (parts.next(), parts.next().expect("controllers"), parts.next().expect("a path"));
        let here = PathBuf::from(format!("/sys/fs/cgroup/{controller}{path}"));
        // The kernel also lists hierarchies that are not mounted here.
        if names.split(',').any(|name| name == controller) && here.exists() {
            return here;
        }
    }
    let path = membership.lines().find_map(|line| line.strip_prefix("0::")).expect("a unified cgroup");
    let top = if std::path::Path::new("/sys/fs/cgroup/unified").exists() {
        "/sys/fs/cgroup/unified"
    } else {
        "/sys/fs/cgroup"
    };
    PathBuf::from(format!("{top}{path}"))
}

/// The value of the first of `files` that exists: the v1 name, then the v2 name.
fn value(pid: &Value, controller: &str, files: [&str; 2]) -> String {
    let folder = folder(pid, controller);
    files
        .iter()
        .find_map(|file| std::fs::read_to_string(folder.join(file)).ok())
        .unwrap_or_else(|| panic!("none of {files:?} in {}", folder.display()))
        .trim()
        .to_owned()
}

fn memory_limit_is_set_and_kills(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "hog", "200"]);
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33_554_432, "swap": 33_554_432});
    let _ = subject.run(&bundle).expect_code(137);
    let mut bundle = Bundle::new(&["probe", "pause"]);
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33_554_432});
    let container = subject.start(&bundle);
    assert_eq!(value(&container.state()["pid"], "memory", ["memory.limit_in_bytes", "memory.max"]), "33554432");
}

fn pids_limit_stops_forks(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "forks", "50"]);
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 10});
    let made: u32 = subject.run(&bundle).expect_success().stdout.trim().parse().expect("a number");
    assert!(made < 10, "{made}");
}

fn cpu_quota_and_shares_are_set(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "pause"]);
    bundle.config["linux"]["resources"]["cpu"] = json!({"shares": 512, "quota": 50_000, "period": 100_000});
    let container = subject.start(&bundle);
    let pid = &container.state()["pid"];
    let quota = value(pid, "cpu", ["cpu.cfs_quota_us", "cpu.max"]);
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    let shares = value(pid, "cpu", ["cpu.shares", "cpu.weight"]);
    assert!(shares == "512" || (10..80).contains(&shares.parse::<u32>().expect("a weight")), "{shares}");
}

fn cpuset_is_set(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "report", "scheduler"]);
    bundle.config["linux"]["resources"]["cpu"] = json!({"cpus": "1", "mems": "0"});
    assert_eq!(subject.report(&bundle)["scheduler"]["cpus"], json!([1]));
}

fn a_denied_device_cannot_be_opened(subject: &Subject) {
    // /dev/fuse, 10:229: not among the defaults.
    let mut bundle = Bundle::new(&["probe", "open", "/dev/mine"]);
    bundle.config["linux"]["devices"] =
        json!([{"path": "/dev/mine", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 0}]);
    bundle.config["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}]);
    assert_eq!(subject.run(&bundle).expect_success().stdout.trim(), "/dev/mine errno 1");
}

fn an_allowed_device_can_be_opened(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "probe open /dev/mine; mknod /tmp/n c 10 229 && echo made"]);
    bundle.config["process"]["capabilities"]["bounding"] = json!(["CAP_MKNOD"]);
    bundle.config["process"]["capabilities"]["effective"] = json!(["CAP_MKNOD"]);
    bundle.config["process"]["capabilities"]["permitted"] = json!(["CAP_MKNOD"]);
    bundle.config["linux"]["devices"] =
        json!([{"path": "/dev/mine", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 0}]);
    bundle.config["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]);
    let text = subject.run(&bundle).stdout;
    assert!(text.contains("/dev/mine ok\n"), "{text}");
}

fn update_changes_limits_of_a_running_container(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "pause"]);
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33_554_432});
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 20});
    let container = subject.start(&bundle);
    let _ = container
        .subject_cmd([
            "update",
            "--memory",
            "64m",
            "--pids-limit",
            "30",
            "--cpu-quota",
            "40000",
            "--cpu-period",
            "80000",
            &container.id,
        ])
        .ok();
    let pid = &container.state()["pid"];
    assert_eq!(value(pid, "memory", ["memory.limit_in_bytes", "memory.max"]), (64 << 20).to_string());
    assert_eq!(value(pid, "pids", ["pids.max", "pids.max"]), "30");
    let quota = value(pid, "cpu", ["cpu.cfs_quota_us", "cpu.max"]);
    assert!(quota == "40000" || quota == "40000 80000", "{quota}");
    let _ = container
        .subject_cmd(["update", "--resources", "-", &container.id])
        .input(r#"{"memory":{"limit":50331648}}"#)
        .ok();
    assert_eq!(value(pid, "memory", ["memory.limit_in_bytes", "memory.max"]), (48 << 20).to_string());
}

fn events_stats_has_the_counters(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "pause"]);
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 33_554_432});
    let container = subject.start(&bundle);
    let text = container.subject_cmd(["events", "--stats", &container.id]).ok();
    let event: Value = serde_json::from_str(&text).expect("one JSON event");
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(container.id)));
    assert_eq!(event["data"]["memory"]["usage"]["limit"], 33_554_432);
    assert!(event["data"]["memory"]["usage"]["usage"].as_u64().is_some_and(|usage| usage > 0), "{event}");
    assert_eq!(event["data"]["pids"]["current"], 1);
    assert!(event["data"]["cpu"]["usage"]["total"].as_u64().is_some(), "{event}");
}

fn the_cgroup_is_gone_after_delete(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let folder = folder(&container.state()["pid"], "pids");
    assert!(folder.ends_with(bundle.id()), "{}", folder.display());
    let _ = container.subject_cmd(["delete", "--force", &container.id]).ok();
    assert!(!folder.exists());
}

fn a_cgroups_path_is_used(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "pause"]);
    let path = format!("/{}-parent/child", bundle.id());
    bundle.config["linux"]["cgroupsPath"] = path.clone().into();
    let container = subject.start(&bundle);
    let folder = folder(&container.state()["pid"], "pids");
    drop(container);
    // The parent is not the container's own and may stay: it is ours to remove.
    for top in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups are mounted").flatten() {
        let _ = std::fs::remove_dir(top.path().join(format!("{}-parent", bundle.id())));
    }
    assert!(folder.ends_with(&path[1..]), "{}", folder.display());
}

fn a_cgroups_path_with_dots_stays_inside(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.config["linux"]["cgroupsPath"] = format!("../../../../{}", bundle.id()).into();
    let _ = subject.run(&bundle);
    assert!(!std::path::Path::new("/").join(bundle.id()).exists());
    assert!(!std::path::Path::new("/sys/fs").join(bundle.id()).exists());
}

fn an_impossible_limit_is_an_error_and_leaves_nothing(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.config["linux"]["resources"]["cpu"] = json!({"cpus": "9999"});
    let _ = subject.run(&bundle).expect_failure();
    let _ = subject.cmd(["state", bundle.id()]).run().expect_failure();
    let left = integration::Cmd::new("find").args(["/sys/fs/cgroup", "-name", bundle.id()]).run().stdout;
    assert_eq!(left, "");
}

fn checks_before_update_refuse_a_limit_below_usage(subject: &Subject) {
    let mut bundle =
        Bundle::new(&["sh", "-c", "head -c 30000000 /dev/zero > /dev/shm/held; echo done > /tmp/done; sleep 1000"]);
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 100_000_000});
    let container = subject.start(&bundle);
    integration::eventually("memory is held", crate::subject::SOON, || {
        bundle.rootfs().join("tmp/done").exists().then_some(())
    });
    let document = r#"{"memory":{"limit":10000000,"checkBeforeUpdate":true}}"#;
    let _ = container.subject_cmd(["update", "--resources", "-", &container.id]).input(document).run().expect_failure();
    assert_eq!(container.status(), "running");
}

fn kill_all_reaches_every_process(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
    // Without a pid namespace nothing dies with init.
    bundle.config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]);
    let container = subject.start(&bundle);
    let folder = folder(&container.state()["pid"], "pids");
    let pids = || std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    integration::eventually("three processes", crate::subject::SOON, || (pids().lines().count() == 3).then_some(()));
    let _ = container.subject_cmd(["kill", "--all", &container.id, "KILL"]).ok();
    integration::eventually("none is left", crate::subject::SOON, || pids().is_empty().then_some(()));
}

fn a_paused_container_can_be_deleted_by_force(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let _ = container.cmd("pause").ok();
    let _ = container.subject_cmd(["delete", "--force", &container.id]).ok();
    let _ = container.cmd("state").run().expect_failure();
}

fn a_container_starts_under_512_kib(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 524_288});
    let _ = subject.run(&bundle).expect_success();
}
