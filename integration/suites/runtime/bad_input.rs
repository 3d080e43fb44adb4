//! Wrong and hostile input: one clear error, nothing left, no partial container.

use crate::case::cases;
use crate::subject::Subject;
use integration::bundle::Bundle;
use serde_json::{Value, json};

cases! { "bad_input":
    broken_documents_are_errors,
    wrong_types_are_errors ["crun": "1.8 ignores unknown types"],
    hostile_ids_are_refused ["crun": "1.8 takes blanks"],
    a_missing_bundle_is_an_error,
    json_log_has_runcs_members,
    an_empty_argument_list_is_refused,
    a_relative_cwd_is_refused ["crun": "1.8 takes it"],
    an_unsupported_version_is_refused ["runc": "1.1 does not check it", "crun": "1.8 does not check it"],
    unknown_flags_are_usage_errors,
    a_rootfs_that_is_missing_is_an_error,
}

fn refused(subject: &Subject, bundle: &Bundle) {
    let outcome = subject.cmd(["create", "--bundle"]).arg(bundle.path()).arg(bundle.id()).run();
    let state = subject.cmd(["state", bundle.id()]).run();
    let _ = subject.cmd(["delete", "--force", bundle.id()]).run();
    let outcome = outcome.expect_failure();
    assert!(!outcome.stderr.trim().is_empty(), "an error without a word");
    let _ = state.expect_failure();
}

fn broken_documents_are_errors(subject: &Subject) {
    for text in ["", "{", "[]", "null", "{\"ociVersion\": \"1.0.2\"", "\u{0}"] {
        let bundle = Bundle::new(&["probe", "true"]);
        std::fs::write(bundle.path().join("config.json"), text).expect("writable");
        refused(subject, &bundle);
    }
}

fn wrong_types_are_errors(subject: &Subject) {
    for (pointer, value) in [
        ("/process/args", json!("sh")),
        ("/mounts", json!({})),
        ("/linux/namespaces", json!("pid")),
        ("/process/user/uid", json!("root")),
        ("/hostname", json!(7)),
    ] {
        let mut bundle = Bundle::new(&["probe", "true"]);
        *bundle.config.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        bundle.write();
        refused(subject, &bundle);
    }
}

fn hostile_ids_are_refused(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "true"]);
    bundle.write();
    for id in ["", ".", "..", "../escape", "a/b", "a b", "a\nb", "ü", &"x".repeat(1025)] {
        let _ = subject.cmd(["create", "--bundle"]).arg(bundle.path()).arg(id).run().expect_failure();
        let _ = subject.cmd(["state", id]).run().expect_failure();
    }
    assert!(!subject.root().parent().expect("a parent").join("escape").exists());
}

fn a_missing_bundle_is_an_error(subject: &Subject) {
    let _ = subject.cmd(["create", "--bundle", "/no/such/bundle", "missing"]).run().expect_failure();
    let _ = subject.cmd(["state", "missing"]).run().expect_failure();
}

fn json_log_has_runcs_members(subject: &Subject) {
    let bundle = Bundle::new(&["/no/such/program"]);
    bundle.write();
    let log = bundle.path().join("log");
    let _ = subject
        .cmd(["--log"])
        .arg(&log)
        .args(["--log-format", "json", "run", "--bundle"])
        .arg(bundle.path())
        .arg(bundle.id())
        .run()
        .expect_failure();
    let text = std::fs::read_to_string(&log).expect("the log is written");
    let line: Value = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .find(|line: &Value| line["level"] == "error")
        .unwrap_or_else(|| panic!("no error in {text}"));
    assert!(line["msg"].as_str().is_some_and(|message| message.contains("/no/such/program")), "{line}");
    assert!(line["time"].as_str().is_some_and(|time| time.contains('T')), "{line}");
}

fn an_empty_argument_list_is_refused(subject: &Subject) {
    let bundle = Bundle::new(&[]);
    bundle.write();
    refused(subject, &bundle);
}

fn a_relative_cwd_is_refused(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.config["process"]["cwd"] = "relative".into();
    bundle.write();
    refused(subject, &bundle);
}

fn an_unsupported_version_is_refused(subject: &Subject) {
    for version in ["2.0.0", "one", ""] {
        let mut bundle = Bundle::new(&["probe", "true"]);
        bundle.config["ociVersion"] = version.into();
        bundle.write();
        refused(subject, &bundle);
    }
}

fn unknown_flags_are_usage_errors(subject: &Subject) {
    let _ = subject.cmd(["create", "--no-such-flag", "x"]).run().expect_failure();
    let _ = subject.cmd(["no-such-verb"]).run().expect_failure();
}

fn a_rootfs_that_is_missing_is_an_error(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.config["root"]["path"] = "no-rootfs".into();
    bundle.write();
    refused(subject, &bundle);
}
