//! The verdict of a filter for each system call. runtime-spec config-linux.md "Seccomp".

use crate::case::cases;
use crate::subject::Subject;
use integration::bundle::Bundle;
use serde_json::{Value, json};

cases! { "seccomp":
    errno_and_kill_and_allow_are_told_apart,
    a_default_errno_is_used ["runc": "1.1.5 predates defaultErrnoRet in some builds"],
    arguments_decide,
    several_rules_of_one_call_are_alternatives,
    unknown_calls_of_a_profile_are_skipped,
    an_unknown_action_is_an_error,
    a_filter_that_denies_execution_and_exit_holds_nothing_up,
    thirty_two_bit_calls_do_not_slip_through,
    exec_gets_the_filter_too,
}

/// mkdir 83, rmdir 84, chmod 90, getpriority 140, personality 135 of x86_64.
fn verdicts(subject: &Subject, seccomp: Value, first: u32, last: u32) -> Value {
    let mut bundle = Bundle::new(&["probe", "syscalls", &first.to_string(), &last.to_string()]);
    bundle.config["linux"]["seccomp"] = seccomp;
    subject.report(&bundle)
}

fn errno_and_kill_and_allow_are_told_apart(subject: &Subject) {
    let seen = verdicts(
        subject,
        json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99},
                {"names": ["rmdir"], "action": "SCMP_ACT_KILL_PROCESS"},
                {"names": ["creat"], "action": "SCMP_ACT_ERRNO"}
            ]
        }),
        83,
        85,
    );
    assert_eq!(seen, json!({"83": "errno 99", "84": "signal 31", "85": "errno 1"}));
}

fn a_default_errno_is_used(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "mkdir /tmp/x; probe true"]);
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
    });
    assert!(subject.run(&bundle).stderr.contains("Function not implemented"));
}

fn arguments_decide(subject: &Subject) {
    // The probe calls with all ones: 0xffff_ffff_ffff_ffff.
    for (op, value, value_two, hit) in [
        ("SCMP_CMP_EQ", u64::MAX, 0_u64, true),
        ("SCMP_CMP_EQ", 5, 0, false),
        ("SCMP_CMP_NE", 5, 0, true),
        ("SCMP_CMP_GT", 5, 0, true),
        ("SCMP_CMP_LT", 5, 0, false),
        ("SCMP_CMP_GE", u64::MAX, 0, true),
        ("SCMP_CMP_LE", 7, 0, false),
        ("SCMP_CMP_MASKED_EQ", 0xff00_0000_0000_0000_u64, 0xff00_0000_0000_0000_u64, true),
        ("SCMP_CMP_MASKED_EQ", 0xff, 0x0f, false),
    ] {
        let seen = verdicts(
            subject,
            json!({
                "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77,
                    "args": [{"index": 1, "value": value, "valueTwo": value_two, "op": op}]}]
            }),
            140,
            140,
        );
        assert_eq!(seen["140"] == "errno 77", hit, "{op} {value:#x}: {seen}");
    }
}

fn several_rules_of_one_call_are_alternatives(subject: &Subject) {
    let rule = |value: u64| json!({"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77, "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]});
    let seen = verdicts(
        subject,
        json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule(1), rule(2), rule(u64::MAX)]
        }),
        140,
        140,
    );
    assert_eq!(seen["140"], "errno 77");
}

fn unknown_calls_of_a_profile_are_skipped(subject: &Subject) {
    let seen = verdicts(
        subject,
        json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["call_of_the_future", "mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]
        }),
        83,
        83,
    );
    assert_eq!(seen["83"], "errno 99");
}

fn an_unknown_action_is_an_error(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_SHRUG"});
    let _ = subject.run(&bundle).expect_failure();
}

fn a_filter_that_denies_execution_and_exit_holds_nothing_up(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.config["process"]["noNewPrivileges"] = json!(true);
    bundle.config["linux"]["seccomp"] =
        json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": []});
    let _ = subject.run(&bundle).expect_failure();
}

fn thirty_two_bit_calls_do_not_slip_through(subject: &Subject) {
    // x32 calls carry bit 30; a filter for x86_64 alone must not let them be the same numbers.
    let seen = verdicts(
        subject,
        json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]
        }),
        0x4000_0053,
        0x4000_0053,
    );
    assert_ne!(seen["1073741907"], "errno 14", "{seen}");
}

fn exec_gets_the_filter_too(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "pause"]);
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]
    });
    let container = subject.start(&bundle);
    let seen: Value = serde_json::from_str(&container.exec(&["probe", "syscalls", "83", "83"]).expect_success().stdout)
        .expect("verdicts");
    assert_eq!(seen["83"], "errno 99");
}
