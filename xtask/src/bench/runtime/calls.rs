//! System calls, clones and copies of one `run`, counted by strace.

use super::super::figure::Figures;
use super::tool::{Bench, Tool};
use crate::shell::Result;
use std::ffi::OsString;
use std::fs;
use std::process::Command;

/// The goal: system calls of a run, all its processes together.
const CALLS_MAX: f64 = 300.0;

/// Calls by which a runtime copies its own binary.
const COPIES: [&str; 3] = ["memfd_create(", "sendfile(", "copy_file_range("];

/// Takes the counts of each tool.
pub(super) fn take(figures: &mut Figures, bench: &Bench) -> Result<()> {
    if Command::new("strace").arg("--version").output().is_err() {
        figures.unmeasured("run-syscalls", "strace is not installed");
        return Ok(());
    }
    let run = |tool: &Tool| tool.run(&bench.bundle, "run", &format!("calls-{}-{}", std::process::id(), tool.name));
    let mine = match count(bench, "shoal", &run(bench.ours())) {
        Ok(mine) => mine,
        Err(why) => {
            figures.unmeasured("run-syscalls", &why);
            return Ok(());
        }
    };
    figures.bound("run-syscalls", "", mine.calls, CALLS_MAX);
    figures.bound("run-clones", "", mine.clones, 1.0);
    figures.bound("run-copies", "", mine.copies, 0.0);
    let floor = Tool { name: "floor", path: crate::shell::bin_dir().join("probe") };
    let peers = bench.tools[1..].iter().map(|tool| (tool.name, run(tool)));
    for (name, line) in peers.chain([("floor", floor.floor(&bench.bundle))]) {
        match count(bench, name, &line) {
            Ok(theirs) => {
                figures.ratio("run-syscalls", "", mine.calls, name, theirs.calls, None);
                figures.ratio("run-clones", "", mine.clones, name, theirs.clones, None);
                figures.ratio("run-copies", "", mine.copies, name, theirs.copies, None);
            }
            Err(why) => figures.unmeasured(&format!("run-syscalls-{name}"), &why),
        }
    }
    Ok(())
}

struct Count {
    calls: f64,
    clones: f64,
    copies: f64,
}

fn count(bench: &Bench, name: &str, line: &[OsString]) -> Result<Count> {
    let file = bench.bundle.path().join("strace");
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&file)
        .args(line)
        .output()
        .map_err(|error| format!("strace: {error}"))?;
    if !output.status.success() {
        return Err(format!("strace of {name}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let text = fs::read(&file).map_err(|error| format!("read {}: {error}", file.display()))?;
    let text = String::from_utf8_lossy(&text);
    let begun: Vec<&str> = text.lines().filter(|line| line.contains('(') && !line.contains("resumed>")).collect();
    let of = |words: &[&str]| begun.iter().filter(|line| words.iter().any(|word| line.contains(word))).count();
    #[expect(clippy::cast_precision_loss, reason = "counts of a few thousand")]
    Ok(Count {
        calls: begun.len() as f64,
        clones: of(&["clone(", "clone3(", "fork("]) as f64,
        copies: of(&COPIES) as f64,
    })
}
