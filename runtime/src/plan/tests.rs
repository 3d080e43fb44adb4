//! Whole plans: which steps a bundle becomes, and in which order.

use std::path::Path;

use oci::spec::Spec;
use serde_json::{Value, json};

use super::mounts::{Propagation, PropagationFlag, Source};
use super::{Entry, Options, Plan, Step, plan};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::facts::HostFacts;

/// A bundle in `/bundle` with the usual namespaces and nothing else.
pub(super) fn config() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "process": {"args": ["true"], "cwd": "/work", "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}]}
    })
}

pub(super) fn accept(config: &Value) -> Result<Container> {
    let spec = Spec::parse(config.to_string().as_bytes()).expect("a test's configuration parses");
    Container::accept("c1".parse().expect("a name"), Path::new("/bundle"), spec)
}

fn planned(config: &Value) -> Result<Plan> {
    plan(&accept(config)?, &HostFacts::default(), Options::default())
}

/// The steps in short words.
fn words(plan: &Plan) -> Vec<String> {
    let word = |step: &Step| match step {
        Step::HostPropagation(_) => "propagation".to_owned(),
        Step::Rootfs { path } => format!("rootfs {path}"),
        Step::Mount(mount) => mount.describe(),
        Step::Cgroup { namespace } => format!("cgroup {namespace}"),
        Step::Device(node) => format!("node {}", node.path),
        Step::Link { path, .. } => format!("link {path}"),
        Step::WorkingDirectory(path) => format!("cwd {path}"),
        Step::Hostname(name) => format!("hostname {name}"),
        Step::Domainname(name) => format!("domainname {name}"),
        Step::Sysctl { key, .. } => format!("sysctl {key}"),
        Step::Hooks => "hooks".into(),
        Step::Console => "console".into(),
        Step::ReadonlyPath(path) => format!("readonly {path}"),
        Step::MaskedPath(path) => format!("mask {path}"),
        Step::ReadonlyRoot => "readonly root".into(),
        Step::Enter(entry) => format!("enter {entry:?}"),
        Step::RootPropagation(_) => "root propagation".into(),
    };
    plan.steps
        .iter()
        .map(word)
        .filter(|word| !word.starts_with("node /dev") && !word.starts_with("link /dev"))
        .collect()
}

fn field(refused: Result<Plan>) -> String {
    match refused {
        Err(Error::Refusal { field, .. }) => field,
        other => panic!("no refusal: {other:?}"),
    }
}

#[test]
fn a_small_bundle_becomes_these_steps() {
    let plan = planned(&config()).expect("a plan");
    assert_eq!(
        words(&plan),
        ["propagation", "rootfs /bundle/rootfs", "cwd /work", "cgroup false", "hooks", "enter Pivot"]
    );
    assert_eq!(plan, planned(&config()).expect("a plan"), "the same input gives the same plan");
}

#[test]
fn a_full_bundle_keeps_the_order_of_the_specification() {
    let mut config = config();
    config["hostname"] = json!("guest");
    config["domainname"] = json!("example");
    config["root"]["readonly"] = json!(true);
    config["process"]["terminal"] = json!(true);
    config["mounts"] = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
        {"destination": "/data", "type": "bind", "source": "data", "options": ["rbind"]}
    ]);
    let linux = &mut config["linux"];
    linux["namespaces"].as_array_mut().expect("a list").push(json!({"type": "cgroup"}));
    linux["sysctl"] = json!({"kernel.shmmax": "1"});
    linux["maskedPaths"] = json!(["/proc/kcore"]);
    linux["readonlyPaths"] = json!(["/proc/sys"]);
    linux["rootfsPropagation"] = json!("shared");
    let plan = planned(&config).expect("a plan");
    assert_eq!(
        words(&plan),
        [
            "propagation",
            "rootfs /bundle/rootfs",
            "mount proc on /proc",
            // Before its mount, in which the namespace's root is seen.
            "cgroup true",
            "mount cgroup on /sys/fs/cgroup",
            "bind mount /bundle/data on /data",
            "cwd /work",
            "hostname guest",
            "domainname example",
            "sysctl kernel.shmmax",
            "hooks",
            "console",
            "readonly /proc/sys",
            "mask /proc/kcore",
            "readonly root",
            "enter Pivot",
            "root propagation",
        ]
    );
    let shared = Propagation { flag: PropagationFlag::Shared, recursive: true };
    assert_eq!(plan.steps.first(), Some(&Step::HostPropagation(shared)));
}

#[test]
fn options_and_facts_change_the_plan() {
    let container = accept(&config()).expect("a container");
    let no_pivot = Options { no_pivot: true, ..Options::default() };
    let moved = plan(&container, &HostFacts::default(), no_pivot).expect("a plan");
    assert!(moved.steps.contains(&Step::Enter(Entry::Move)));
    let facts = HostFacts { notify_socket: Some("/state/notify".into()), ..HostFacts::default() };
    let notified = plan(&container, &facts, Options::default()).expect("a plan");
    assert!(words(&notified).contains(&"bind mount /state/notify on /run/notify".to_owned()));
}

#[test]
fn without_a_mount_namespace_there_is_only_chroot() {
    let mut config = config();
    config["linux"]["namespaces"] = json!([{"type": "pid"}]);
    let plan = planned(&config).expect("a plan");
    assert_eq!(words(&plan), ["cwd /work", "cgroup false", "hooks", "enter Chroot"]);
    config["mounts"] = json!([{"destination": "/x", "type": "tmpfs"}]);
    assert_eq!(field(planned(&config)), "mounts[0]");
}

#[test]
fn refusals_name_the_field() {
    let with = |pointer: &str, value: Value| {
        let mut config = config();
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        config.pointer_mut(parent).expect("the parent is there")[name] = value;
        field(planned(&config))
    };
    assert_eq!(with("/linux/rootfsPropagation", json!("sideways")), "linux.rootfsPropagation");
    assert_eq!(with("/process", Value::Null), "process");
    assert!(with("/linux/sysctl", json!({"kernel.panic": "1"})).starts_with("linux.sysctl"));
    let mount = |mount: Value| with("/mounts", json!([mount]));
    assert_eq!(mount(json!({"destination": "", "type": "tmpfs"})), "mounts[0].destination");
    assert_eq!(mount(json!({"destination": "/", "type": "tmpfs"})), "mounts[0].destination");
    assert_eq!(mount(json!({"destination": "/x"})), "mounts[0].type");
    assert_eq!(mount(json!({"destination": "/x", "type": "bind"})), "mounts[0].source");
    assert_eq!(mount(json!({"destination": "/x\u{0}", "type": "tmpfs"})), "mounts[0]");
    for inside in ["/proc/self/attr", "/proc/sys/../sys", "/a/../proc/1"] {
        let refused = mount(json!({"destination": inside, "type": "tmpfs"}));
        assert_eq!(refused, "mounts[0].destination", "{inside}");
    }
    let odd = json!({"destination": "/x", "type": "proc", "options": ["tmpcopyup"]});
    assert_eq!(mount(odd), "mounts[0].options");
    let half = json!({"destination": "/x", "type": "bind", "source": "/y", "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]});
    assert_eq!(mount(half), "mounts[0]");
}

#[test]
fn sources_and_destinations_of_mounts_are_made_absolute() {
    let mut config = config();
    config["linux"]["mountLabel"] = json!("label");
    config["mounts"] = json!([
        {"destination": "relative", "type": "tmpfs", "source": "t", "options": ["ro", "size=1k", "nosuid"]},
        {"destination": "/b", "type": "none", "source": "/abs", "options": ["rbind", "rprivate"]},
        {"destination": "/proc/meminfo", "type": "bind", "source": "/lxcfs/meminfo", "options": ["bind"]}
    ]);
    let plan = planned(&config).expect("a plan");
    let mounts: Vec<_> =
        plan.steps.iter().filter_map(|step| if let Step::Mount(mount) = step { Some(mount) } else { None }).collect();
    assert_eq!(mounts[0].destination, "/relative");
    let options = vec![("size".to_owned(), Some("1k".to_owned())), ("context".to_owned(), Some("label".to_owned()))];
    let source = Source::Filesystem { kind: "tmpfs".into(), source: "t".into(), options };
    assert_eq!(mounts[0].source, source, "ro and nosuid are the mount's, not the file system's");
    assert_ne!(mounts[0].attr.set, 0);
    assert_eq!(mounts[1].source, Source::Bind { path: "/abs".into(), recursive: true });
    assert_eq!(mounts[1].propagation, [Propagation { flag: PropagationFlag::Private, recursive: true }]);
    assert_eq!(mounts[2].source, Source::Bind { path: "/lxcfs/meminfo".into(), recursive: false });
}

#[test]
fn devices_are_the_default_ones_and_the_configured() {
    let nodes = |config: &Value, facts: &HostFacts| -> Vec<(String, bool)> {
        let plan = plan(&accept(config).expect("a container"), facts, Options::default()).expect("a plan");
        let node =
            |step: &Step| if let Step::Device(node) = step { Some((node.path.clone(), node.bind)) } else { None };
        plan.steps.iter().filter_map(node).collect()
    };
    let default = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
    let names = |nodes: &[(String, bool)]| nodes.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    let facts = HostFacts::default();
    assert_eq!(names(&nodes(&config(), &facts)), default);
    // One of ours replaces a default; a bind mount on a node's path is the node.
    let mut config = config();
    config["linux"]["devices"] = json!([
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
        {"path": "/dev/mine", "type": "p"}
    ]);
    config["mounts"] = json!([{"destination": "/dev/tty", "type": "bind", "source": "/dev/tty"}]);
    let found = names(&nodes(&config, &facts));
    assert_eq!(found, ["/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/null", "/dev/mine"]);
    // Where nodes cannot be made the host's are bound.
    let inside = HostFacts { in_user_namespace: true, ..HostFacts::default() };
    assert!(nodes(&config, &inside).iter().all(|(_, bind)| *bind));
    // A bind mount of /dev brings its own.
    config["mounts"] = json!([{"destination": "/dev/", "type": "bind", "source": "/dev", "options": ["rbind"]}]);
    assert_eq!(names(&nodes(&config, &facts)), Vec::<String>::new());
}

#[test]
fn wrong_devices_are_refused_by_field() {
    let device = |device: Value| {
        let mut config = config();
        config["linux"]["devices"] = json!([device]);
        field(planned(&config))
    };
    assert_eq!(device(json!({"path": "/dev/x", "type": "z", "major": 1, "minor": 1})), "linux.devices[0].type");
    assert_eq!(device(json!({"path": "dev/x", "type": "c", "major": 1, "minor": 1})), "linux.devices[0].path");
    assert_eq!(device(json!({"path": "/dev/x", "type": "c", "minor": 1})), "linux.devices[0].major");
    assert_eq!(device(json!({"path": "/dev/x", "type": "b", "major": 1, "minor": -1})), "linux.devices[0].minor");
    let huge = json!({"path": "/dev/x", "type": "b", "major": 1 << 20, "minor": 1});
    assert_eq!(device(huge), "linux.devices[0].major");
}

#[test]
fn without_capabilities_a_process_has_none() {
    let plan = planned(&config()).expect("a plan");
    assert_eq!(plan.process.capabilities, super::capabilities::Capabilities::default());
}

#[test]
fn a_cgroup2_mount_waits_for_the_cgroup_namespace_as_a_cgroup_mount_does() {
    for kind in ["cgroup", "cgroup2"] {
        let mut config = config();
        config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "cgroup"}));
        config["mounts"] = json!([{"destination": "/sys/fs/cgroup", "type": kind, "source": "cgroup"}]);
        let words = words(&planned(&config).expect("a plan"));
        let at =
            |word: &str| words.iter().position(|other| other == word).unwrap_or_else(|| panic!("{word}: {words:?}"));
        assert!(at("cgroup true") < at("mount cgroup on /sys/fs/cgroup"));
    }
}

#[test]
fn a_rootless_container_without_a_cgroup_namespace_cannot_write_to_the_callers_cgroup() {
    let read_only = |rootless, namespace| {
        let mut config = config();
        if namespace {
            config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "cgroup"}));
        }
        config["mounts"] = json!([{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}]);
        let facts = HostFacts { rootless, ..HostFacts::default() };
        let plan = plan(&accept(&config).expect("a container"), &facts, Options::default()).expect("a plan");
        let set = plan.steps.iter().find_map(|step| match step {
            Step::Mount(mount) if mount.is_cgroup() => Some(mount.attr.set),
            _ => None,
        });
        set.expect("a cgroup mount") & libc::MOUNT_ATTR_RDONLY != 0
    };
    assert_eq!([read_only(true, false), read_only(true, true), read_only(false, false)], [true, false, false]);
}

#[test]
fn a_namespace_of_the_host_is_not_the_containers_own_whatever_its_path() {
    use super::namespaces::Kind;
    let field_of = |kind: &str, change: fn(&mut Value)| {
        let mut config = config();
        let others = ["mount", "uts", "network", "cgroup"].into_iter().filter(|other| *other != kind);
        let mut all: Vec<Value> = others.map(|other| json!({"type": other})).collect();
        all.push(json!({"type": kind, "path": "/proc/1/ns/any"}));
        config["linux"]["namespaces"] = all.into();
        change(&mut config);
        let mut container = accept(&config).expect("a container");
        assert!(plan(&container, &HostFacts::default(), Options::default()).is_ok(), "{kind}: another's namespace");
        container.namespaces.hosts = Kind::all().filter(|one| one.word() == kind).collect();
        match plan(&container, &HostFacts::default(), Options::default()) {
            Err(Error::Refusal { field, .. }) => field,
            other => panic!("{kind}: {other:?}"),
        }
    };
    assert_eq!(field_of("mount", |_| {}), "linux.namespaces");
    assert_eq!(field_of("uts", |config| config["hostname"] = "mine".into()), "hostname");
    assert_eq!(field_of("uts", |config| config["domainname"] = "mine".into()), "domainname");
    let sysctl = |config: &mut Value| config["linux"]["sysctl"] = json!({"net.core.somaxconn": "1"});
    assert!(field_of("network", sysctl).starts_with("linux.sysctl"));
    let device = |config: &mut Value| config["linux"]["netDevices"] = json!({"eth0": {}});
    assert_eq!(field_of("network", device), "linux.netDevices");
}
