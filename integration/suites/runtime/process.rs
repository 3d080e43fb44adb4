//! What the program sees of itself: ids, capabilities, limits, environment, descriptors. runtime-spec config.md "Process".

use crate::case::cases;
use crate::subject::Subject;
use integration::bundle::Bundle;
use serde_json::{Value, json};

cases! { "process":
    args_env_and_cwd_are_given,
    user_group_and_additional_groups_are_set,
    umask_is_set,
    capability_sets_are_exact,
    an_unknown_capability_is_a_warning,
    rlimits_are_set,
    no_new_privileges_is_set,
    oom_score_adj_is_set,
    only_standard_descriptors_are_open,
    preserved_descriptors_are_open,
    signals_start_with_default_actions,
    a_missing_program_is_an_error,
    a_missing_cwd_is_made,
    scheduler_and_io_priority_are_set ["runc": "1.1 predates process.scheduler", "crun": "1.8 predates process.scheduler"],
    personality_is_set ["runc": "1.1 predates linux.personality"],
    home_is_set_from_the_account,
}

fn probe(sections: &[&str]) -> Bundle {
    let mut args = vec!["probe", "report"];
    args.extend(sections);
    Bundle::new(&args)
}

fn args_env_and_cwd_are_given(subject: &Subject) {
    let mut bundle = probe(&["args", "env", "cwd"]);
    bundle.config["process"]["env"].as_array_mut().expect("a list").push(json!("COLOUR=blue = green"));
    bundle.config["process"]["cwd"] = "/tmp".into();
    let report = subject.report(&bundle);
    assert_eq!(report["args"], json!(["probe", "report", "args", "env", "cwd"]));
    assert_eq!(report["env"]["COLOUR"], "blue = green");
    assert_eq!(report["cwd"], "/tmp");
}

fn user_group_and_additional_groups_are_set(subject: &Subject) {
    let mut bundle = probe(&["ids"]);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [2000, 3000]});
    let ids = &subject.report(&bundle)["ids"];
    assert_eq!(
        (&ids["uid"], &ids["euid"], &ids["gid"], &ids["egid"]),
        (&json!(1000), &json!(1000), &json!(1001), &json!(1001))
    );
    let groups: Vec<u64> = ids["groups"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_u64)
        .filter(|group| *group != 1001)
        .collect();
    assert_eq!(groups, [2000, 3000]);
}

fn umask_is_set(subject: &Subject) {
    let mut bundle = probe(&["ids"]);
    bundle.config["process"]["user"]["umask"] = json!(0o27);
    assert_eq!(subject.report(&bundle)["ids"]["umask"], 0o27);
}

fn capability_sets_are_exact(subject: &Subject) {
    let mut bundle = probe(&["status"]);
    // CHOWN 0, KILL 5, NET_BIND_SERVICE 10, SYS_CHROOT 18
    bundle.config["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"], "effective": ["CAP_CHOWN", "CAP_KILL"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]
    });
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let status = &subject.report(&bundle)["status"];
    let set = |name: &str| u64::from_str_radix(status[name].as_str().expect("a set"), 16).expect("hexadecimal");
    assert_eq!(set("CapBnd"), 1 | 1 << 5 | 1 << 10);
    assert_eq!(set("CapInh"), 1 << 5);
    // A program without file capabilities, not root: it keeps the ambient set alone.
    assert_eq!((set("CapAmb"), set("CapEff"), set("CapPrm")), (1 << 5, 1 << 5, 1 << 5));
}

fn an_unknown_capability_is_a_warning(subject: &Subject) {
    let mut bundle = probe(&["status"]);
    bundle.config["process"]["capabilities"]["bounding"] = json!(["CAP_KILL", "CAP_FROM_THE_FUTURE"]);
    let status = &subject.report(&bundle)["status"];
    assert_eq!(status["CapBnd"], "0000000000000020");
}

fn rlimits_are_set(subject: &Subject) {
    let mut bundle = probe(&["limits"]);
    bundle.config["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 700}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_FSIZE", "soft": 1_000_000, "hard": 2_000_000}
    ]);
    let limits = &subject.report(&bundle)["limits"];
    assert_eq!(limits["RLIMIT_NOFILE"], json!({"soft": 512, "hard": 700}));
    assert_eq!(limits["RLIMIT_CORE"], json!({"soft": 0, "hard": 0}));
    assert_eq!(limits["RLIMIT_FSIZE"], json!({"soft": 1_000_000, "hard": 2_000_000}));
}

fn no_new_privileges_is_set(subject: &Subject) {
    for wanted in [true, false] {
        let mut bundle = probe(&["status"]);
        bundle.config["process"]["noNewPrivileges"] = wanted.into();
        assert_eq!(subject.report(&bundle)["status"]["NoNewPrivs"], u8::from(wanted).to_string());
    }
}

fn oom_score_adj_is_set(subject: &Subject) {
    let mut bundle = probe(&["oom"]);
    bundle.config["process"]["oomScoreAdj"] = 500.into();
    assert_eq!(subject.report(&bundle)["oom"]["score_adj"], "500");
}

fn only_standard_descriptors_are_open(subject: &Subject) {
    let report = subject.report(&probe(&["fds"]));
    let open: Vec<&String> = report["fds"].as_object().expect("a map").keys().collect();
    assert_eq!(open, ["0", "1", "2"], "{report}");
}

fn preserved_descriptors_are_open(subject: &Subject) {
    let bundle = probe(&["fds"]);
    bundle.write();
    let file = bundle.path().join("passed");
    std::fs::write(&file, "passed").expect("the scratch folder is writable");
    let runtime = subject.cmd(["run", "--preserve-fds", "1", "--bundle"]).arg(bundle.path()).arg(bundle.id()).line();
    let outcome = integration::Cmd::new("sh")
        .args(["-c", &format!("exec 3<{}; exec {runtime}", file.display())])
        .run()
        .expect_success();
    let report: Value = serde_json::from_str(&outcome.stdout).expect("a report");
    assert!(report["fds"]["3"].as_str().is_some_and(|target| target.ends_with("passed")), "{report}");
}

fn signals_start_with_default_actions(subject: &Subject) {
    let signals = &subject.report(&probe(&["signals"]))["signals"];
    // Rust's own start-up ignores SIGPIPE (bit 12) in the probe, and C libraries keep the signals 32 and 33 for themselves;
    // nothing else may be ignored, and nothing blocked.
    assert_eq!(signals["SigBlk"], "0000000000000000");
    let ignored = u64::from_str_radix(signals["SigIgn"].as_str().expect("a mask"), 16).expect("hexadecimal");
    assert_eq!(ignored & !(1 << 12 | 1 << 31 | 1 << 32), 0);
}

fn a_missing_program_is_an_error(subject: &Subject) {
    let outcome = subject.run(&Bundle::new(&["/no/such/program"])).expect_failure();
    assert!(outcome.stderr.contains("/no/such/program"), "{outcome:?}");
    assert!(outcome.stderr.to_lowercase().contains("no such file"), "{outcome:?}");
}

fn a_missing_cwd_is_made(subject: &Subject) {
    let mut bundle = probe(&["cwd"]);
    bundle.config["process"]["cwd"] = "/made/for/this".into();
    assert_eq!(subject.report(&bundle)["cwd"], "/made/for/this");
}

fn scheduler_and_io_priority_are_set(subject: &Subject) {
    let mut bundle = probe(&["scheduler"]);
    bundle.config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
    bundle.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    let scheduler = &subject.report(&bundle)["scheduler"];
    assert_eq!((&scheduler["policy"], &scheduler["nice"]), (&json!(3), &json!(5)));
    assert_eq!(scheduler["ioprio"], (2 << 13) | 6);
}

fn personality_is_set(subject: &Subject) {
    let mut bundle = probe(&["personality"]);
    bundle.config["linux"]["personality"] = json!({"domain": "LINUX32"});
    assert_eq!(subject.report(&bundle)["personality"], 8);
}

fn home_is_set_from_the_account(subject: &Subject) {
    let mut bundle = probe(&["env"]);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    assert_eq!(subject.report(&bundle)["env"]["HOME"], "/home");
}
