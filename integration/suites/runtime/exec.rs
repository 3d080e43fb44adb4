//! exec: another process in a running container, with runc's flags.

use crate::case::cases;
use crate::subject::Subject;
use integration::bundle::Bundle;
use serde_json::{Value, json};

cases! { "exec":
    exec_runs_beside_init_in_its_namespaces,
    exec_returns_the_exit_code,
    exec_takes_cwd_env_and_user ["crun": "1.8 has no --additional-gids"],
    exec_takes_a_process_document,
    exec_keeps_the_inheritable_set_empty,
    exec_adds_capabilities,
    exec_sets_no_new_privileges,
    exec_detached_writes_a_pid_file,
    exec_is_in_the_containers_cgroup,
    exec_into_a_stopped_container_fails,
    exec_of_a_missing_program_fails,
    exec_into_a_paused_container_is_refused,
    exec_user_is_exact_or_an_error ["runc": "1.1 takes 4294967296 for root", "crun": "1.8 takes -1 for root"],
    exec_passes_no_descriptors,
}

fn report(container: &crate::subject::Container<'_>, flags: &[&str], sections: &[&str]) -> Value {
    let args: Vec<&str> = ["exec"]
        .iter()
        .chain(flags)
        .copied()
        .chain([container.id.as_str(), "probe", "report"])
        .chain(sections.iter().copied())
        .collect();
    serde_json::from_str(&container.subject_cmd(args).ok()).expect("a report")
}

fn exec_runs_beside_init_in_its_namespaces(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let pid = container.state()["pid"].to_string();
    let seen = report(&container, &[], &["namespaces"])["namespaces"].clone();
    for name in ["pid", "net", "ipc", "uts", "mnt"] {
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("init lives");
        assert_eq!(seen[name], json!(theirs), "{name}");
    }
}

fn exec_returns_the_exit_code(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let _ = container.exec(&["probe", "exit", "17"]).expect_code(17);
    let _ = container.exec(&["sh", "-c", "kill -TERM $$"]).expect_code(143);
}

fn exec_takes_cwd_env_and_user(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let report = report(
        &container,
        &["--cwd", "/tmp", "--env", "A=1", "--env", "B=2", "--user", "1000:1001", "--additional-gids", "2000"],
        &["cwd", "env", "ids"],
    );
    assert_eq!((&report["cwd"], &report["env"]["A"], &report["env"]["B"]), (&json!("/tmp"), &json!("1"), &json!("2")));
    assert_eq!((&report["ids"]["uid"], &report["ids"]["gid"]), (&json!(1000), &json!(1001)));
    assert!(report["ids"]["groups"].as_array().expect("a list").contains(&json!(2000)));
}

fn exec_takes_a_process_document(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let mut process = bundle.config["process"].clone();
    process["args"] = json!(["probe", "report", "args", "cwd"]);
    process["cwd"] = "/etc".into();
    let file = bundle.path().join("process.json");
    std::fs::write(&file, process.to_string()).expect("writable");
    let text = subject.cmd(["exec", "--process"]).arg(&file).arg(&container.id).ok();
    let report: Value = serde_json::from_str(&text).expect("a report");
    assert_eq!(report["cwd"], "/etc");
}

fn exec_keeps_the_inheritable_set_empty(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    for flags in [&[][..], &["--cap", "CAP_SYS_ADMIN"]] {
        assert_eq!(report(&container, flags, &["status"])["status"]["CapInh"], "0000000000000000", "{flags:?}");
    }
}

fn exec_adds_capabilities(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let status = report(&container, &["--cap", "CAP_SYS_CHROOT"], &["status"])["status"].clone();
    let effective = u64::from_str_radix(status["CapEff"].as_str().expect("a set"), 16).expect("hexadecimal");
    assert_ne!(effective & (1 << 18), 0, "{status}");
}

fn exec_sets_no_new_privileges(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "pause"]);
    bundle.config["process"]["noNewPrivileges"] = false.into();
    let container = subject.start(&bundle);
    assert_eq!(report(&container, &["--no-new-privs"], &["status"])["status"]["NoNewPrivs"], "1");
    assert_eq!(report(&container, &[], &["status"])["status"]["NoNewPrivs"], "0");
}

fn exec_detached_writes_a_pid_file(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let file = bundle.path().join("pid");
    let _ = subject.cmd(["exec", "--detach", "--pid-file"]).arg(&file).args([&container.id, "probe", "pause"]).ok();
    let pid = std::fs::read_to_string(&file).expect("the pid file is there");
    let pids: Vec<u64> =
        serde_json::from_str(&subject.cmd(["ps", "--format", "json", &container.id]).ok()).expect("a list");
    assert!(pids.contains(&pid.trim().parse().expect("a pid")), "{pids:?} {pid}");
    assert_eq!(pids.len(), 2);
}

fn exec_is_in_the_containers_cgroup(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let init = std::fs::read_to_string(format!("/proc/{}/cgroup", container.state()["pid"])).expect("init lives");
    let text = container.exec(&["cat", "/proc/self/cgroup"]).expect_success().stdout;
    assert_eq!(text, init);
}

fn exec_into_a_stopped_container_fails(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "true"]);
    let container = subject.start(&bundle);
    container.await_status("stopped");
    let _ = container.exec(&["probe", "true"]).expect_failure();
}

fn exec_of_a_missing_program_fails(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let outcome = container.exec(&["/no/such/program"]).expect_failure();
    assert!(outcome.stderr.contains("/no/such/program"), "{}", outcome.stderr);
}

fn exec_into_a_paused_container_is_refused(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let _ = container.cmd("pause").ok();
    let _ = container.exec(&["probe", "true"]).expect_failure();
    let _ = container.cmd("resume").ok();
    let _ = container.exec(&["probe", "true"]).expect_success();
}

fn exec_user_is_exact_or_an_error(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    for (word, wanted) in [
        ("1000", Some("1000:0")),
        ("1000:7", Some("1000:7")),
        ("0x3e8", None),
        (" 1000", None),
        ("1000:", None),
        (":1000", None),
        ("-1", None),
        ("4294967296", None),
    ] {
        let outcome =
            container.subject_cmd(["exec", "--user", word, &container.id, "sh", "-c", "echo $(id -u):$(id -g)"]).run();
        match wanted {
            Some(ids) => assert_eq!(outcome.expect_success().stdout.trim(), ids, "{word:?}"),
            None if outcome.status.success() => assert_ne!(outcome.stdout.trim(), "0:0", "{word:?} became root"),
            None => {}
        }
    }
}

fn exec_passes_no_descriptors(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let open = report(&container, &[], &["fds"])["fds"].clone();
    let open: Vec<&String> = open.as_object().expect("a map").keys().collect();
    assert_eq!(open, ["0", "1", "2"]);
}
