//! The default seccomp profile, line by line beside the one Debian ships for podman (golang-github-containers-common).

use crate::case::Place;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Debian's profile.
const THEIRS: &str = "/usr/share/containers/seccomp.json";

/// Calls that only ours allows, and why. Ours is moby's list, which knows later kernels.
const ONLY_OURS: [(&str, &str); 11] = [
    ("cachestat", "Linux 6.5; reads counters of one's own files"),
    ("fchmodat2", "Linux 6.6; fchmodat with flags"),
    ("futex_requeue", "Linux 6.7"),
    ("futex_wait", "Linux 6.7"),
    ("futex_waitv", "Linux 5.16"),
    ("futex_wake", "Linux 6.7"),
    ("io_pgetevents", "asynchronous I/O as moby allows it"),
    ("io_pgetevents_time64", "its 32-bit spelling"),
    ("map_shadow_stack", "Linux 6.6; a process's own shadow stack"),
    ("mseal", "Linux 6.10; only ever takes rights away"),
    ("vmsplice", "moby allows it"),
];

/// Calls that only Debian's allows, and why ours does not.
const ONLY_THEIRS: [(&str, &str); 28] = [
    ("clone3", "answered ENOSYS: its flags lie in memory, where no filter sees CLONE_NEWUSER"),
    ("fsconfig", "mounting needs CAP_SYS_ADMIN in moby's profile"),
    ("fsmount", "as fsconfig"),
    ("fsopen", "as fsconfig"),
    ("fspick", "as fsconfig"),
    ("mount", "as fsconfig"),
    ("mount_setattr", "as fsconfig"),
    ("move_mount", "as fsconfig"),
    ("open_tree", "as fsconfig"),
    ("umount", "as fsconfig"),
    ("umount2", "as fsconfig"),
    ("pivot_root", "as fsconfig"),
    ("setns", "as fsconfig"),
    ("unshare", "as fsconfig: podman runs podman inside, docker does not"),
    ("get_mempolicy", "needs CAP_SYS_NICE in moby's profile"),
    ("mbind", "needs CAP_SYS_NICE in moby's profile"),
    ("set_mempolicy", "needs CAP_SYS_NICE in moby's profile"),
    ("keyctl", "keyrings are not namespaced"),
    ("pidfd_getfd", "needs CAP_SYS_PTRACE in moby's profile"),
    ("reboot", "needs CAP_SYS_BOOT in moby's profile"),
    ("syslog", "needs CAP_SYSLOG in moby's profile"),
    ("readdir", "of 32-bit programs before 1995"),
    ("sigaction", "of 32-bit programs before 1995"),
    ("signal", "of 32-bit programs before 1995"),
    ("sigpending", "of 32-bit programs before 1995"),
    ("sigsuspend", "of 32-bit programs before 1995"),
    ("syscall", "no call of x86"),
    ("timerfd", "no call any more"),
];

/// Calls that both allow under different conditions, and why.
const CONDITIONS: [(&str, &str); 2] = [
    ("clone", "ours refuses the flags that make namespaces"),
    ("socket", "ours refuses AF_VSOCK, which reaches the hypervisor whatever the network namespace"),
];

/// The conditions of a call: argument, comparison, values.
type Conditions = BTreeSet<Vec<(u64, String, u64, u64)>>;

/// Every allowed call with its conditions; rules for other architectures and capabilities are left out.
fn allowed(profile: &Value, held: &BTreeSet<String>) -> BTreeMap<String, Conditions> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let mut calls: BTreeMap<String, Conditions> = BTreeMap::new();
    for rule in profile["syscalls"].as_array().expect("a profile has rules") {
        let (arches, caps) = (texts(&rule["includes"]["arches"]), texts(&rule["includes"]["caps"]));
        let here = arches.is_empty() || arches.iter().any(|arch| arch == "amd64");
        let fits = here
            && caps.iter().all(|name| held.contains(name))
            && !texts(&rule["excludes"]["caps"]).iter().any(|name| held.contains(name));
        if !fits || rule["action"] != "SCMP_ACT_ALLOW" {
            continue;
        }
        let mut conditions: Vec<_> = rule["args"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|arg| {
                let number = |key: &str| arg[key].as_u64().unwrap_or(0);
                (
                    number("index"),
                    arg["op"].as_str().unwrap_or_default().to_owned(),
                    number("value"),
                    number("valueTwo"),
                )
            })
            .collect();
        conditions.sort();
        for name in texts(&rule["names"]) {
            let _ = calls.entry(name).or_default().insert(conditions.clone());
        }
    }
    calls
}

#[test]
fn the_default_profile_differs_from_podmans_only_where_it_says_why() {
    let place = Place::new("seccomp");
    let id = place.ok("run -d --network none BB sleep 1000");
    let config = std::fs::read_to_string(place.host.root().join("run/containers").join(id).join("config.json"));
    let config: Value = serde_json::from_str(&config.expect("a running container has one")).expect("JSON");
    let theirs = std::fs::read_to_string(THEIRS)
        .unwrap_or_else(|error| panic!("{THEIRS}: {error}; install golang-github-containers-common"));
    let theirs: Value = serde_json::from_str(&theirs).expect("JSON");
    let ours = &config["linux"]["seccomp"];
    assert_eq!(ours["defaultAction"], theirs["defaultAction"]);
    let held: BTreeSet<String> = config["process"]["capabilities"]["bounding"]
        .as_array()
        .expect("a container has capabilities")
        .iter()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let (ours, theirs) = (allowed(ours, &held), allowed(&theirs, &held));
    let only = |one: &BTreeMap<String, Conditions>, other: &BTreeMap<String, Conditions>| -> BTreeSet<String> {
        one.keys().filter(|name| !other.contains_key(*name)).cloned().collect()
    };
    let known =
        |list: &[(&str, &str)]| -> BTreeSet<String> { list.iter().map(|(name, _)| (*name).to_owned()).collect() };
    assert_eq!(only(&ours, &theirs), known(&ONLY_OURS));
    assert_eq!(only(&theirs, &ours), known(&ONLY_THEIRS));
    let differing: BTreeSet<String> = ours
        .iter()
        .filter(|(name, own)| theirs.get(*name).is_some_and(|other| other != *own))
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(differing, known(&CONDITIONS));
}
