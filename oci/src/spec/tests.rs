//! Reading and writing documents of the specification.

use super::*;

#[test]
fn a_full_document_survives_a_round_trip() {
    let text = br#"{
        "ociVersion": "1.3.0",
        "process": {
            "terminal": true, "consoleSize": {"height": 24, "width": 80},
            "user": {"uid": 1, "gid": 2, "umask": 63, "additionalGids": [5, 6]},
            "args": ["sh"], "env": ["A=b"], "cwd": "/",
            "capabilities": {"bounding": ["CAP_CHOWN", "CAP_OF_TOMORROW"], "ambient": []},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 18446744073709551615, "soft": 10}],
            "noNewPrivileges": true, "apparmorProfile": "p", "oomScoreAdj": -5,
            "scheduler": {"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
            "execCPUAffinity": {"initial": "0", "final": "0-1"}
        },
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]}],
        "hooks": {"createRuntime": [{"path": "/bin/true", "timeout": 5}]},
        "annotations": {"a": "b"},
        "linux": {
            "timeOffsets": {"boottime": {"secs": -3, "nanosecs": 4}},
            "netDevices": {"eth1": {"name": "eth0"}},
            "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"},
            "intelRdt": {"closID": "g", "l3CacheSchema": "L3:0=f", "enableCMT": true},
            "resources": {"devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": 1048576, "kernelTCP": 7, "disableOOMKiller": false},
                "pids": {"limit": -1},
                "blockIO": {"weight": 10, "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 9}]},
                "network": {"classID": 1}, "unified": {"memory.high": "max"}},
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]}]}
        }
    }"#;
    let spec = Spec::parse(text).expect("a valid document");
    let written = serde_json::to_vec(&spec).expect("documents can be written");
    assert_eq!(Spec::parse(&written).expect("what was written can be read"), spec);
    let loose: serde_json::Value = serde_json::from_slice(&written).expect("is JSON");
    for pointer in [
        "/process/execCPUAffinity/final",
        "/linux/intelRdt/closID",
        "/linux/resources/memory/kernelTCP",
        "/linux/resources/memory/disableOOMKiller",
        "/linux/resources/blockIO/throttleReadIOPSDevice/0/rate",
        "/linux/resources/network/classID",
        "/mounts/0/uidMappings/0/hostID",
    ] {
        assert!(loose.pointer(pointer).is_some(), "{pointer} was lost");
    }
    assert!(loose.pointer("/linux/resources/cpu").is_none(), "nothing empty is written");
}

#[test]
fn null_means_absent_as_go_writers_mean_it() {
    let spec = Spec::parse(br#"{"process": {"args": null, "user": null, "capabilities": null}, "mounts": null}"#);
    assert_eq!(spec.expect("null is no error").process, Some(Process::default()));
}

#[test]
fn a_wrong_type_is_reported_with_its_field() {
    let place = |text: &[u8]| Spec::parse(text).expect_err("must be refused").place;
    assert_eq!(place(br#"{"process": {"args": ["a", 5]}}"#), "process.args[1]");
    assert_eq!(place(br#"{"linux": {"resources": {"memory": {"limit": "1G"}}}}"#), "linux.resources.memory.limit");
    assert_eq!(place(br#"{"mounts": [{}], "root": 1}"#), "root");
    assert_eq!(place(br#"{"mounts": [1"#), "mounts[0]");
}

#[test]
fn unknown_properties_are_ignored() {
    assert!(Spec::parse(br#"{"ociVersion": "1.9.9", "moon": {"phase": 3}}"#).is_ok());
}

#[test]
fn a_list_is_no_object() {
    for text in [&b"[]"[..], br#"{"linux": {"resources": []}}"#, br#"{"process": ["sh"]}"#, br#"{"mounts": [[]]}"#] {
        let refused = Spec::parse(text).expect_err("must be refused").to_string();
        assert!(refused.contains("invalid type: sequence"), "{refused}");
    }
}
