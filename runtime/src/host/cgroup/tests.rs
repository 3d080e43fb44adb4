//! Cgroups planned, made and limited on fixture trees of every layout.

use std::fs;

use oci::spec::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids};

use super::fixture::Tree;
use super::*;

fn request<'a>(path: Option<&'a str>, id: &'a str) -> Request<'a> {
    Request {
        cgroups_path: path,
        id,
        manager: Manager::Cgroupfs,
        rootless: false,
        resources: None,
        annotations: &[],
        owner: None,
    }
}

/// A host whose memory and cpu are v1 and whose hugetlb is on the unified tree.
fn hybrid() -> Tree {
    let tree = Tree::new(&[
        (
            "proc/self/mountinfo",
            "32 31 0:29 / /cg/memory rw - cgroup cgroup rw,memory\n33 31 0:30 / /cg/cpu rw - cgroup cgroup rw,cpu\n41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n",
        ),
        ("proc/self/cgroup", "4:memory:/me\n1:cpu:/\n0::/\n"),
        ("cg/unified/cgroup.controllers", "hugetlb\n"),
        ("cg/unified/cgroup.subtree_control", ""),
    ]);
    fs::create_dir_all(tree.path("cg/memory/me")).unwrap();
    fs::create_dir_all(tree.path("cg/cpu")).unwrap();
    tree
}

#[test]
fn a_hybrid_host_gets_a_directory_in_every_hierarchy_and_limits_where_they_belong() {
    let tree = hybrid();
    let layout = Layout::probe_under(tree.root()).unwrap();
    let mut cgroup = Cgroup::plan(&request(None, "c1"), &layout).unwrap();
    cgroup.create().unwrap();
    assert!(tree.path("cg/memory/me/c1").is_dir());
    assert!(tree.path("cg/cpu/c1").is_dir());
    assert!(tree.path("cg/unified/c1").is_dir());
    assert_eq!(tree.text("cg/unified/cgroup.subtree_control"), "+hugetlb");
    for (name, text) in [
        ("cg/memory/me/c1/memory.limit_in_bytes", ""),
        ("cg/cpu/c1/cpu.shares", "512"),
        ("cg/unified/c1/hugetlb.2MB.max", ""),
    ] {
        tree.put(name, text);
    }
    let resources = LinuxResources {
        memory: Some(LinuxMemory { limit: Some(4096), ..LinuxMemory::default() }),
        cpu: Some(LinuxCpu { shares: Some(512), ..LinuxCpu::default() }),
        hugepage_limits: vec![LinuxHugepageLimit { page_size: "2MB".to_owned(), limit: 7 }],
        ..LinuxResources::default()
    };
    assert!(cgroup.update(&resources).unwrap().is_empty());
    assert_eq!(tree.text("cg/memory/me/c1/memory.limit_in_bytes"), "4096");
    assert_eq!(tree.text("cg/unified/c1/hugetlb.2MB.max"), "7");
}

#[test]
fn a_limit_without_its_controller_is_an_error_that_names_it() {
    let tree = hybrid();
    let layout = Layout::probe_under(tree.root()).unwrap();
    let cgroup = Cgroup::plan(&request(None, "c1"), &layout).unwrap();
    let resources = LinuxResources { pids: Some(LinuxPids { limit: Some(5) }), ..LinuxResources::default() };
    let error = cgroup.update(&resources).unwrap_err().to_string();
    assert!(error.contains("pids controller"), "{error}");
}

#[test]
fn a_place_where_somebody_lives_is_refused_and_left_alone() {
    let tree = hybrid();
    tree.put("cg/cpu/c1/cgroup.procs", "");
    tree.put("cg/cpu/c1/inner/cgroup.procs", "77\n");
    let layout = Layout::probe_under(tree.root()).unwrap();
    let mut cgroup = Cgroup::plan(&request(None, "c1"), &layout).unwrap();
    let error = cgroup.create().unwrap_err();
    assert!(matches!(error, CgroupError::NotEmpty { count: 1, .. }), "{error}");
    assert!(!tree.path("cg/memory/me/c1").exists());
    assert!(tree.path("cg/cpu/c1/inner").exists());
}

#[test]
fn only_what_was_made_is_removed() {
    let tree = hybrid();
    fs::create_dir_all(tree.path("cg/cpu/c1")).unwrap();
    let layout = Layout::probe_under(tree.root()).unwrap();
    let mut cgroup = Cgroup::plan(&request(None, "c1"), &layout).unwrap();
    cgroup.create().unwrap();
    Cgroup::open(&cgroup.state()).unwrap().delete().unwrap();
    assert!(!tree.path("cg/memory/me/c1").exists());
    assert!(tree.path("cg/cpu/c1").exists());
    assert!(tree.path("cg/memory/me").exists());
}

#[test]
fn a_failure_half_way_leaves_nothing_behind() {
    let tree = hybrid();
    fs::remove_dir_all(tree.path("cg/cpu")).unwrap();
    let layout = Layout::probe_under(tree.root()).unwrap();
    let mut cgroup = Cgroup::plan(&request(None, "c1"), &layout).unwrap();
    assert!(cgroup.create().is_err());
    assert!(!tree.path("cg/memory/me/c1").exists());
}

#[test]
fn the_state_survives_a_round_trip_and_a_newer_one_is_refused() {
    let tree = hybrid();
    let cgroup = Cgroup::plan(&request(Some("/a/b"), "c1"), &Layout::probe_under(tree.root()).unwrap()).unwrap();
    let text = serde_json::to_string(&cgroup.state()).unwrap();
    let read: CgroupState = serde_json::from_str(&text).unwrap();
    assert_eq!(Cgroup::open(&read).unwrap().homes(), cgroup.homes());
    let newer: CgroupState = serde_json::from_str(&text.replacen("\"version\":1", "\"version\":2", 1)).unwrap();
    assert!(matches!(Cgroup::open(&newer), Err(CgroupError::StateVersion { found: 2, .. })));
}

#[test]
fn a_process_enters_every_hierarchy_and_exec_may_choose_a_cgroup_below() {
    let tree = hybrid();
    let mut cgroup = Cgroup::plan(&request(None, "c1"), &Layout::probe_under(tree.root()).unwrap()).unwrap();
    cgroup.create().unwrap();
    for place in ["cg/memory/me/c1", "cg/cpu/c1", "cg/cpu/c1/sub", "cg/unified/c1"] {
        tree.put(&format!("{place}/cgroup.procs"), "");
    }
    cgroup.attach(12).unwrap();
    assert_eq!(tree.text("cg/cpu/c1/cgroup.procs"), "12");
    cgroup.add_process(13, Some("cpu:sub")).unwrap();
    assert_eq!(tree.text("cg/cpu/c1/sub/cgroup.procs"), "13");
    assert_eq!(tree.text("cg/memory/me/c1/cgroup.procs"), "13");
    for climb in ["../../", "cpu:../x"] {
        assert!(matches!(cgroup.add_process(13, Some(climb)), Err(CgroupError::Path { .. })), "{climb}");
    }
    assert!(cgroup.add_process(13, Some("pids:sub")).is_err());
}

#[test]
fn a_unified_resource_goes_to_v2_only_where_v2_has_the_controller() {
    let tree = hybrid();
    let cgroup = Cgroup::plan(&request(None, "c1"), &Layout::probe_under(tree.root()).unwrap()).unwrap();
    tree.put("cg/unified/c1/hugetlb.2MB.max", "max");
    let unified = |name: &str| LinuxResources {
        unified: [(name.to_owned(), "5".to_owned())].into_iter().collect(),
        ..LinuxResources::default()
    };
    cgroup.update(&unified("hugetlb.2MB.max")).unwrap();
    assert_eq!(tree.text("cg/unified/c1/hugetlb.2MB.max"), "5");
    assert!(cgroup.update(&unified("memory.max")).unwrap_err().to_string().contains("v1 hierarchy"));
}

#[test]
fn a_disabled_manager_touches_nothing_and_says_so() {
    let disabled = Request { manager: Manager::Disabled, ..request(None, "c1") };
    let mut cgroup = Cgroup::plan(&disabled, &Layout::default()).unwrap();
    cgroup.create().unwrap();
    cgroup.attach(1).unwrap();
    let resources = LinuxResources { pids: Some(LinuxPids { limit: Some(5) }), ..LinuxResources::default() };
    assert_eq!(cgroup.apply(&resources).unwrap().len(), 1);
    cgroup.delete().unwrap();
}

#[test]
fn a_host_without_cgroups_is_named() {
    assert!(matches!(Cgroup::plan(&request(None, "c1"), &Layout::default()), Err(CgroupError::NoHierarchy)));
}

#[test]
fn a_directory_that_another_command_made_since_the_plan_is_refused_and_left() {
    let tree = hybrid();
    let layout = Layout::probe_under(tree.root()).unwrap();
    let mut late = Cgroup::plan(&request(None, "c1"), &layout).unwrap();
    let _ = late.planned_state();
    let mut first = Cgroup::plan(&request(None, "c1"), &layout).unwrap();
    first.create().unwrap();
    assert!(matches!(late.create(), Err(CgroupError::Taken { .. })));
    assert!(tree.path("cg/memory/me/c1").is_dir() && tree.path("cg/cpu/c1").is_dir());
    assert!(first.is_ours() && !late.is_ours());
}

#[test]
fn only_a_cgroup_that_was_made_for_the_container_is_the_containers() {
    let tree = hybrid();
    let layout = Layout::probe_under(tree.root()).unwrap();
    for dir in ["cg/memory/me/c1", "cg/cpu/c1", "cg/unified/c1"] {
        fs::create_dir_all(tree.path(dir)).unwrap();
    }
    let mut cgroup = Cgroup::plan(&request(None, "c1"), &layout).unwrap();
    let _ = cgroup.planned_state();
    cgroup.create().unwrap();
    assert!(!cgroup.is_ours());
    cgroup.delete().unwrap();
    assert!(tree.path("cg/memory/me/c1").is_dir());
}
