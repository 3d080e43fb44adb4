//! Namespaces made and joined, id mappings, host name, time offsets. runtime-spec config-linux.md "Namespaces".

use crate::case::cases;
use crate::subject::Subject;
use integration::bundle::Bundle;
use serde_json::{Value, json};

cases! { "namespaces":
    listed_namespaces_are_new_and_others_are_the_hosts,
    a_namespace_is_joined_by_path,
    a_pid_namespace_is_joined_by_path,
    hostname_and_domainname_are_set ["runc": "1.1 predates domainname"],
    a_user_namespace_has_its_mappings,
    a_user_namespace_is_joined_by_path ["runc": "1.1 needs mappings beside the path", "crun": "1.8 needs mappings beside the path"],
    a_time_namespace_has_its_offsets ["runc": "1.1 predates time namespaces", "crun": "1.8 does not set them before exec"],
    namespaced_sysctls_are_set,
    a_host_sysctl_is_refused,
    a_namespace_listed_twice_is_refused ["crun": "1.8 takes the last"],
    pid_1_of_a_new_pid_namespace_is_the_program,
}

fn probe(sections: &[&str]) -> Bundle {
    let mut args = vec!["probe", "report"];
    args.extend(sections);
    Bundle::new(&args)
}

fn own(name: &str) -> Value {
    json!(std::fs::read_link(format!("/proc/self/ns/{name}")).expect("our own namespace"))
}

fn listed_namespaces_are_new_and_others_are_the_hosts(subject: &Subject) {
    let mut bundle = probe(&["namespaces"]);
    let seen = subject.report(&bundle)["namespaces"].clone();
    for name in ["pid", "net", "ipc", "uts", "mnt"] {
        assert_ne!(seen[name], own(name), "{name}");
    }
    assert_eq!(seen["user"], own("user"));
    bundle = probe(&["namespaces"]);
    bundle.config["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}]);
    bundle.config.as_object_mut().expect("a map").remove("hostname");
    let seen = subject.report(&bundle)["namespaces"].clone();
    for name in ["net", "ipc", "uts"] {
        assert_eq!(seen[name], own(name), "{name}");
    }
    assert_ne!(seen["cgroup"], own("cgroup"));
}

fn a_namespace_is_joined_by_path(subject: &Subject) {
    let host = integration::Host::new("join");
    let mut bundle = probe(&["namespaces"]);
    bundle.config["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network", "path": host.netns_path()}]);
    let seen = subject.report(&bundle)["namespaces"]["net"].clone();
    let inode =
        std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(host.netns_path()).expect("the namespace is there"));
    assert_eq!(seen, json!(format!("net:[{inode}]")));
}

fn a_pid_namespace_is_joined_by_path(subject: &Subject) {
    let first = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&first);
    let pid = container.state()["pid"].to_string();
    let mut bundle = probe(&["namespaces", "ids"]);
    bundle.config["linux"]["namespaces"] =
        json!([{"type": "pid", "path": format!("/proc/{pid}/ns/pid")}, {"type": "mount"}]);
    bundle.config.as_object_mut().expect("a map").remove("hostname");
    let report = subject.report(&bundle);
    let theirs = std::fs::read_link(format!("/proc/{pid}/ns/pid")).expect("the first container lives");
    assert_eq!(report["namespaces"]["pid"], json!(theirs));
    assert_ne!(report["ids"]["pid"], 1);
}

fn hostname_and_domainname_are_set(subject: &Subject) {
    let mut bundle = probe(&["uts"]);
    bundle.config["hostname"] = "box".into();
    bundle.config["domainname"] = "example.org".into();
    assert_eq!(subject.report(&bundle)["uts"], json!({"hostname": "box", "domainname": "example.org"}));
}

fn a_user_namespace_has_its_mappings(subject: &Subject) {
    let mut bundle = probe(&["maps", "ids", "namespaces"]);
    bundle.config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
    bundle.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
    // The mapped root must be able to reach the rootfs.
    open_to_all(bundle.path());
    let report = subject.report(&bundle);
    let words = |text: &Value| text.as_str().expect("text").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&report["maps"]["uid"]), ["0", "100000", "65536"]);
    assert_eq!(words(&report["maps"]["gid"]), ["0", "200000", "65536"]);
    assert_eq!(report["ids"]["uid"], 0);
    assert_ne!(report["namespaces"]["user"], own("user"));
}

fn open_to_all(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("the folder is ours");
}

fn a_user_namespace_is_joined_by_path(subject: &Subject) {
    let mut first = Bundle::new(&["probe", "pause"]);
    first.config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
    first.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    first.config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    open_to_all(first.path());
    let container = subject.start(&first);
    let pid = container.state()["pid"].to_string();
    let mut bundle = probe(&["namespaces"]);
    open_to_all(bundle.path());
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("a list")
        .push(json!({"type": "user", "path": format!("/proc/{pid}/ns/user")}));
    let theirs = std::fs::read_link(format!("/proc/{pid}/ns/user")).expect("the first container lives");
    assert_eq!(subject.report(&bundle)["namespaces"]["user"], json!(theirs));
}

fn a_time_namespace_has_its_offsets(subject: &Subject) {
    let mut bundle = probe(&["clock", "namespaces"]);
    bundle.config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "time"}));
    bundle.config["linux"]["timeOffsets"] =
        json!({"monotonic": {"secs": 1000, "nanosecs": 5}, "boottime": {"secs": 2000}});
    let report = subject.report(&bundle);
    let offsets =
        report["clock"]["offsets"].as_str().expect("offsets").split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(offsets, "monotonic 1000 5 boottime 2000 0");
    assert_ne!(report["namespaces"]["time"], own("time"));
}

fn namespaced_sysctls_are_set(subject: &Subject) {
    let mut bundle = Bundle::new(&["cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shmmax"]);
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmax": "65536"});
    assert_eq!(subject.run(&bundle).expect_success().stdout, "1\n65536\n");
}

fn a_host_sysctl_is_refused(subject: &Subject) {
    let before = std::fs::read_to_string("/proc/sys/vm/swappiness").expect("readable");
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.config["linux"]["sysctl"] = json!({"vm.swappiness": "13"});
    let _ = subject.run(&bundle).expect_failure();
    assert_eq!(std::fs::read_to_string("/proc/sys/vm/swappiness").expect("readable"), before);
}

fn a_namespace_listed_twice_is_refused(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "pid"}));
    let _ = subject.run(&bundle).expect_failure();
}

fn pid_1_of_a_new_pid_namespace_is_the_program(subject: &Subject) {
    assert_eq!(subject.report(&probe(&["ids"]))["ids"]["pid"], 1);
}
