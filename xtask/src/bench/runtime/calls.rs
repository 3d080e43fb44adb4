//! System calls and clones of one `run`, counted by strace.

use super::super::bundle::Bundle;
use super::super::figure::Figures;
use super::Tool;
use crate::shell::Result;
use std::fs;
use std::process::Command;

/// The goal: system calls of a run, all its processes together.
const CALLS_MAX: f64 = 300.0;

/// Takes the counts of each tool.
pub(super) fn take(figures: &mut Figures, ours: &Tool, peers: &[Tool], bundle: &Bundle) -> Result<()> {
    if Command::new("strace").arg("--version").output().is_err() {
        figures.unmeasured("run-syscalls", "strace is not installed");
        return Ok(());
    }
    let mine = count(ours, bundle)?;
    figures.bound("run-syscalls", "", mine.calls, CALLS_MAX);
    figures.bound("run-clones", "", mine.clones, 1.0);
    for peer in peers {
        let theirs = count(peer, bundle)?;
        figures.ratio("run-syscalls", "", mine.calls, peer.name, theirs.calls, None);
        figures.ratio("run-clones", "", mine.clones, peer.name, theirs.clones, None);
    }
    Ok(())
}

struct Count {
    calls: f64,
    clones: f64,
}

fn count(tool: &Tool, bundle: &Bundle) -> Result<Count> {
    let file = bundle.path().join("strace");
    let line = tool.run(bundle, "run", &format!("calls-{}-{}", std::process::id(), tool.name));
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&file)
        .args(&line)
        .output()
        .map_err(|error| format!("strace: {error}"))?;
    if !output.status.success() {
        return Err(format!("strace of {}: {}", tool.name, String::from_utf8_lossy(&output.stderr)));
    }
    let text = fs::read(&file).map_err(|error| format!("read {}: {error}", file.display()))?;
    let text = String::from_utf8_lossy(&text);
    let calls = text.lines().filter(|line| line.contains('(') && !line.contains("resumed>")).count();
    let clones = text
        .lines()
        .filter(|line| {
            ["clone(", "clone3(", "fork("].iter().any(|word| line.contains(word)) && !line.contains("resumed>")
        })
        .count();
    #[expect(clippy::cast_precision_loss, reason = "counts of a few thousand")]
    Ok(Count { calls: calls as f64, clones: clones as f64 })
}
