//! Statistics read from fixture trees of v1 and v2 and put into runc's shape.

use super::super::fixture::Tree;
use super::super::layout::Version;
use super::super::place::Home;
use super::*;

fn stats(tree: &Tree, version: Version, controllers: &[&str]) -> Stats {
    let home = Home {
        version,
        controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
        dir: tree.root().to_owned(),
        mount: tree.root().to_owned(),
        made: true,
    };
    let mut stats = Stats::default();
    read::home(&home, &mut stats).unwrap();
    stats
}

fn json(stats: &Stats) -> serde_json::Value {
    serde_json::to_value(stats).unwrap()
}

#[test]
fn v1_has_runcs_names_and_leaves_out_what_runc_leaves_out() {
    let tree = Tree::new(&[
        ("cpu.stat", "nr_periods 5\nnr_throttled 2\nthrottled_time 77\n"),
        ("cpuacct.usage", "1000\n"),
        ("cpuacct.stat", "user 3\nsystem 4\n"),
        ("cpuacct.usage_percpu", "600 400 \n"),
        ("cpuacct.usage_all", "cpu user system\n0 500 100\n1 300 100\n"),
        ("cpuset.cpus", "0-1,3\n"),
        ("cpuset.mems", "0\n"),
        ("cpuset.sched_relax_domain_level", "-1\n"),
        ("memory.stat", "cache 11\nrss 22\n"),
        ("memory.usage_in_bytes", "4096\n"),
        ("memory.max_usage_in_bytes", "8192\n"),
        ("memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory.failcnt", "3\n"),
        ("pids.current", "2\n"),
        ("pids.max", "max\n"),
        ("blkio.throttle.io_service_bytes", "8:0 Read 10\n8:0 Write 20\nTotal 30\n"),
        ("blkio.throttle.io_serviced", "8:0 Read 1\n8:0 Write 2\nTotal 3\n"),
        ("hugetlb.2MB.usage_in_bytes", "5\n"),
        ("hugetlb.2MB.max_usage_in_bytes", "6\n"),
        ("hugetlb.2MB.failcnt", "7\n"),
    ]);
    let found = json(&stats(&tree, Version::V1, &["cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb"]));
    assert_eq!(found["cpu"]["usage"]["percpu_user"], serde_json::json!([500, 300]));
    assert_eq!(found["cpu"]["usage"]["user"], 30_000_000);
    assert_eq!(
        found["cpu"]["throttling"],
        serde_json::json!({"periods": 5, "throttledPeriods": 2, "throttledTime": 77})
    );
    assert_eq!(found["cpuset"]["cpus"], serde_json::json!([0, 1, 3]));
    assert_eq!(found["cpuset"]["sched_relax_domain_level"], -1);
    assert_eq!(
        found["memory"]["usage"],
        serde_json::json!({"limit": 9_223_372_036_854_771_712u64, "usage": 4096, "max": 8192, "failcnt": 3})
    );
    assert_eq!(found["memory"]["kernelTCP"], serde_json::json!({"limit": 0, "failcnt": 0}));
    assert_eq!(found["memory"]["raw"]["rss"], 22);
    assert_eq!(found["pids"], serde_json::json!({"current": 2}));
    assert_eq!(
        found["blkio"]["ioServiceBytesRecursive"],
        serde_json::json!([{"major": 8, "op": "Read", "value": 10}, {"major": 8, "op": "Write", "value": 20}])
    );
    assert_eq!(found["hugetlb"]["2MB"], serde_json::json!({"usage": 5, "max": 6, "failcnt": 7}));
    assert_eq!(found["network_interfaces"], serde_json::Value::Null);
    assert!(found.get("rdma").is_none());
    assert_eq!(found["intel_rdt"], serde_json::json!({}));
}

#[test]
fn v2_is_told_in_the_units_of_v1() {
    let psi = "some avg10=1.50 avg60=0.25 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4\n";
    let tree = Tree::new(&[
        ("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 1\nnr_throttled 1\nthrottled_usec 8\n"),
        ("cpu.pressure", psi),
        ("memory.stat", "anon 1\nfile 33\n"),
        ("memory.current", "100\n"),
        ("memory.max", "1000\n"),
        ("memory.peak", "150\n"),
        ("memory.swap.current", "10\n"),
        ("memory.swap.max", "500\n"),
        ("memory.events", "low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\n"),
        ("memory.pressure", psi),
        ("pids.current", "1\n"),
        ("pids.max", "9\n"),
        ("io.stat", "259:1 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:0 \n"),
        ("io.pressure", psi),
        ("hugetlb.2MB.current", "5\n"),
        ("hugetlb.2MB.rsvd.current", "6\n"),
        ("hugetlb.2MB.events", "max 7\n"),
        ("rdma.current", "mlx5_0 hca_handle=1 hca_object=2\n"),
        ("rdma.max", "mlx5_0 hca_handle=max hca_object=max\n"),
    ]);
    let found = json(&stats(&tree, Version::V2, &["cpu", "memory", "pids", "io", "hugetlb", "rdma"]));
    assert_eq!(found["cpu"]["usage"], serde_json::json!({"total": 5000, "kernel": 2000, "user": 3000}));
    assert_eq!(found["cpu"]["throttling"]["throttledTime"], 8000);
    assert_eq!(found["cpu"]["psi"]["some"]["avg10"], 1.5);
    assert_eq!(found["memory"]["cache"], 33);
    assert_eq!(found["memory"]["usage"], serde_json::json!({"limit": 1000, "usage": 100, "max": 150, "failcnt": 4}));
    assert_eq!(found["memory"]["swap"], serde_json::json!({"limit": 1500, "usage": 110, "failcnt": 0}));
    assert_eq!(found["pids"], serde_json::json!({"current": 1, "limit": 9}));
    assert_eq!(
        found["blkio"]["ioServicedRecursive"][1],
        serde_json::json!({"major": 259, "minor": 1, "op": "Write", "value": 4})
    );
    assert_eq!(found["hugetlb"]["2MB"], serde_json::json!({"usage": 6, "failcnt": 7}));
    assert_eq!(found["rdma"]["current"][0]["hca_objects"], 2);
}

#[test]
fn a_cgroup_without_any_file_counts_nothing() {
    let tree = Tree::new(&[]);
    let all = ["cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "io", "hugetlb", "rdma"];
    assert_eq!(stats(&tree, Version::V1, &all), Stats::default());
    assert_eq!(stats(&tree, Version::V2, &all), Stats::default());
}
