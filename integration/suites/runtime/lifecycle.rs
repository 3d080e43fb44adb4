//! create, start, state, kill, delete, list, ps, pause: runtime-spec "Lifecycle" and runc's command line.

use crate::case::cases;
use crate::subject::{SOON, Subject};
use integration::bundle::Bundle;
use integration::eventually;
use serde_json::Value;

cases! { "lifecycle":
    a_container_runs_to_its_end_with_its_exit_code,
    death_by_signal_is_128_and_the_signal,
    create_parks_the_process_until_start,
    state_has_the_members_of_the_specification,
    a_second_start_is_refused,
    a_used_id_is_refused,
    a_deleted_container_is_gone,
    a_running_container_is_not_deleted_without_force,
    force_deletes_a_running_container,
    force_deletes_what_does_not_exist,
    kill_delivers_the_signal_by_name_and_number ["crun": "1.8 knows no lower-case names"],
    a_created_container_is_ended_by_a_signal ["crun": "its waiting process, the first of its namespace, has no handler"],
    kill_of_a_stopped_container_fails,
    list_shows_the_container_as_table_and_json,
    ps_lists_the_processes,
    pause_and_resume_change_the_status,
    a_pid_file_holds_the_pid_of_init,
    detach_returns_while_the_container_runs,
    annotations_appear_in_the_state,
    spec_writes_a_config_that_runs,
}

fn a_container_runs_to_its_end_with_its_exit_code(subject: &Subject) {
    let _ = subject.run(&Bundle::new(&["probe", "exit", "42"])).expect_code(42);
}

fn death_by_signal_is_128_and_the_signal(subject: &Subject) {
    // In the host's pid namespace: init of a new one would ignore a signal from itself.
    let mut bundle = Bundle::new(&["sh", "-c", "kill -TERM $$; sleep 5"]);
    bundle.config["linux"]["namespaces"] = serde_json::json!([{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]);
    let _ = subject.run(&bundle).expect_code(143);
}

fn create_parks_the_process_until_start(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "touch /tmp/started; sleep 1000"]);
    bundle.config["root"]["readonly"] = false.into();
    let container = subject.create(&bundle);
    assert_eq!(container.status(), "created");
    assert!(!bundle.rootfs().join("tmp/started").exists());
    let _ = container.cmd("start").ok();
    eventually("the program ran", SOON, || bundle.rootfs().join("tmp/started").exists().then_some(()));
    assert_eq!(container.status(), "running");
}

fn state_has_the_members_of_the_specification(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.create(&bundle);
    let state = container.state();
    assert_eq!(state["id"], bundle.id());
    assert_eq!(state["bundle"], bundle.path().to_str().expect("a UTF-8 path"));
    assert!(state["pid"].as_u64().is_some_and(|pid| pid > 1), "{state}");
    assert!(state["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")), "{state}");
}

fn a_second_start_is_refused(subject: &Subject) {
    let container_bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&container_bundle);
    let _ = container.cmd("start").run().expect_failure();
    assert_eq!(container.status(), "running");
}

fn a_used_id_is_refused(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.create(&bundle);
    let _ = subject.cmd(["create", "--bundle"]).arg(bundle.path()).arg(bundle.id()).run().expect_failure();
    assert_eq!(container.status(), "created");
}

fn a_deleted_container_is_gone(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "true"]);
    let container = subject.start(&bundle);
    container.await_status("stopped");
    let _ = container.cmd("delete").ok();
    let _ = container.cmd("state").run().expect_failure();
}

fn a_running_container_is_not_deleted_without_force(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let _ = container.cmd("delete").run().expect_failure();
    assert_eq!(container.status(), "running");
}

fn force_deletes_a_running_container(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let pid = container.state()["pid"].as_u64().expect("a pid");
    let _ = subject.cmd(["delete", "--force", &container.id]).ok();
    let _ = container.cmd("state").run().expect_failure();
    eventually("init is gone", SOON, || {
        (!std::path::Path::new(&format!("/proc/{pid}/ns")).exists() || is_zombie(pid)).then_some(())
    });
}

fn is_zombie(pid: u64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

fn force_deletes_what_does_not_exist(subject: &Subject) {
    let _ = subject.cmd(["delete", "--force", "never-was"]).ok();
    let _ = subject.cmd(["delete", "never-was"]).run().expect_failure();
}

fn kill_delivers_the_signal_by_name_and_number(subject: &Subject) {
    for (word, number) in [("TERM", 15), ("SIGHUP", 1), ("10", 10), ("usr2", 12)] {
        let bundle = Bundle::new(&["sh", "-c", "exec probe signals > /tmp/signal"]);
        let container = subject.start(&bundle);
        let file = bundle.rootfs().join("tmp/signal");
        let lines = |count| std::fs::read_to_string(&file).ok().filter(|text| text.lines().count() >= count);
        let _ = eventually("the probe waits", SOON, || lines(1));
        let _ = container.cmd("kill").arg(word).ok();
        let text = eventually("the signal arrived", SOON, || lines(2));
        assert_eq!(text.lines().nth(1), Some(number.to_string().as_str()), "{word}");
    }
}

fn a_created_container_is_ended_by_a_signal(subject: &Subject) {
    for signal in ["TERM", "INT", "HUP"] {
        let container = subject.create(&Bundle::new(&["probe", "true"]));
        let _ = container.cmd("kill").arg(signal).ok();
        container.await_status("stopped");
    }
}

fn kill_of_a_stopped_container_fails(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "true"]);
    let container = subject.start(&bundle);
    container.await_status("stopped");
    let _ = container.cmd("kill").arg("KILL").run().expect_failure();
}

fn list_shows_the_container_as_table_and_json(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let table = subject.cmd(["list"]).ok();
    assert!(table.lines().any(|line| line.contains(&container.id) && line.contains("running")), "{table}");
    let all: Value = serde_json::from_str(&subject.cmd(["list", "--format", "json"]).ok()).expect("a JSON list");
    let mine = all
        .as_array()
        .expect("a list")
        .iter()
        .find(|item| item["id"] == container.id.as_str())
        .expect("it is listed")
        .clone();
    assert_eq!(mine["status"], "running");
    let quiet = subject.cmd(["list", "-q"]).ok();
    assert!(quiet.lines().any(|line| line == container.id), "{quiet}");
}

fn ps_lists_the_processes(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let pids: Vec<u64> =
        serde_json::from_str(&subject.cmd(["ps", "--format", "json", &container.id]).ok()).expect("a list of pids");
    assert_eq!(pids, [container.state()["pid"].as_u64().expect("a pid")]);
}

fn pause_and_resume_change_the_status(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let _ = container.cmd("pause").ok();
    assert_eq!(container.status(), "paused");
    let _ = container.cmd("resume").ok();
    assert_eq!(container.status(), "running");
}

fn a_pid_file_holds_the_pid_of_init(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    bundle.write();
    let file = bundle.path().join("pid");
    let _ = subject
        .cmd(["run", "--detach", "--pid-file"])
        .arg(&file)
        .arg("--bundle")
        .arg(bundle.path())
        .arg(bundle.id())
        .ok();
    let state: Value = serde_json::from_str(&subject.cmd(["state", bundle.id()]).ok()).expect("state prints JSON");
    let pid = std::fs::read_to_string(&file).expect("the pid file is there");
    let _ = subject.cmd(["delete", "--force", bundle.id()]).ok();
    assert_eq!(state["pid"].to_string(), pid);
}

fn detach_returns_while_the_container_runs(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    bundle.write();
    let _ = subject.cmd(["run", "--detach", "--bundle"]).arg(bundle.path()).arg(bundle.id()).ok();
    let state: Value = serde_json::from_str(&subject.cmd(["state", bundle.id()]).ok()).expect("state prints JSON");
    let _ = subject.cmd(["delete", "--force", bundle.id()]).ok();
    assert_eq!(state["status"], "running");
}

fn annotations_appear_in_the_state(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "pause"]);
    bundle.config["annotations"] = serde_json::json!({"org.example.key": "value"});
    let container = subject.create(&bundle);
    assert_eq!(container.state()["annotations"]["org.example.key"], "value");
}

fn spec_writes_a_config_that_runs(subject: &Subject) {
    let bundle = Bundle::new(&["sh"]);
    let _ = subject.cmd(["spec", "--bundle"]).arg(bundle.path()).run().expect_success();
    let text = std::fs::read_to_string(bundle.path().join("config.json")).expect("spec wrote config.json");
    let mut config: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(config["process"]["terminal"], true);
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["probe", "exit", "7"]);
    let mut again = Bundle::new(&["sh"]);
    again.config = config;
    let _ = subject.run(&again).expect_code(7);
}
