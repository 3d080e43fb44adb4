//! What a whole `run` executes: our own three programs and the container's, nothing else.

use crate::case::Place;
use integration::binaries;
use std::collections::BTreeSet;

/// The programs a traced command line executed, by name.
fn executed(place: &Place, line: &str) -> BTreeSet<String> {
    let trace = place.host.root().join("trace");
    let shoal = place.cmd(line);
    let run = place
        .host
        .cmd(binaries::tool("strace", "strace"))
        .args(["-f", "-qq", "-e", "trace=execve,execveat", "-e", "signal=none", "-o"])
        .arg(&trace)
        .args(["--", "sh", "-c", &format!("exec {}", shoal.line())])
        .run();
    let _ = run.expect_success();
    let text = std::fs::read_to_string(&trace).expect("strace writes");
    let done = text.lines().filter(|line| line.trim_end().ends_with("= 0"));
    let names = done.filter_map(|line| Some(line.split_once('"')?.1.split_once('"')?.0.rsplit('/').next()?.to_owned()));
    names.collect()
}

#[test]
fn a_whole_run_executes_no_helper() {
    let place = Place::new("strace");
    let _ = place.ok("network create web");
    let _ = place.ok("volume create data");
    let ours = ["shoal", "shoal-monitor", "shoal-runtime", "sh", "nsenter", "true"];
    for line in [
        "run --rm -p 8080:80 -v data:/etc --tmpfs /t BB true",
        "run --rm --network web --network-alias other -p 8081:81/udp --read-only -m 64m BB true",
        "run --rm --userns auto --device /dev/null BB true",
        "run -d --name box -p 8082:82 BB true",
        "rm -f box",
    ] {
        let names = executed(&place, line);
        let foreign: Vec<_> = names.iter().filter(|name| !ours.contains(&name.as_str())).collect();
        assert!(foreign.is_empty(), "{line} executed {foreign:?}");
        assert!(names.contains("shoal"), "{line}: {names:?}");
    }
}
