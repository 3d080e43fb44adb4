//! What a runtime keeps in memory while a container runs in the foreground: its own share (PSS) and all it can see (RSS).
//!
//! The peak of a run is taken elsewhere, from wait4(2); a share can only be looked at while the process is there.

use super::super::figure::Figures;
use super::tool::{Bench, Tool};
use crate::shell::Result;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a container may take to run.
const START: Duration = Duration::from_secs(20);

/// Takes the figures of each tool.
pub(super) fn take(figures: &mut Figures, bench: &Bench) -> Result<()> {
    let before = bench.bundle.config()?;
    let mut config = before.clone();
    config["process"]["args"] = serde_json::json!(["/bin/probe", "pause"]);
    bench.bundle.write(&config)?;
    let all: Vec<_> = bench.tools.iter().map(|tool| (tool, kept(bench, tool))).collect();
    bench.bundle.write(&before)?;
    let mut all = all.into_iter();
    let (_, mine) = all.next().expect("ours is the first tool");
    let mine = mine?;
    for (tool, theirs) in all {
        match theirs {
            Ok(theirs) => {
                figures.ratio("foreground-pss", "MB", mine.pss, tool.name, theirs.pss, None);
                figures.ratio("foreground-rss", "MB", mine.rss, tool.name, theirs.rss, None);
            }
            Err(why) => figures.unmeasured(&format!("foreground-{}", tool.name), &why),
        }
    }
    Ok(())
}

struct Kept {
    pss: f64,
    rss: f64,
}

fn kept(bench: &Bench, tool: &Tool) -> Result<Kept> {
    let id = format!("kept-{}-{}", std::process::id(), tool.name);
    let line = tool.run(&bench.bundle, "run", &id);
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", tool.name))?;
    let kept = await_running(bench, tool, &id, &mut child).and_then(|()| {
        let rollup = format!("/proc/{}/smaps_rollup", child.id());
        let text = fs::read_to_string(&rollup).map_err(|error| format!("read {rollup}: {error}"))?;
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number =
                line.and_then(|rest| rest.trim().strip_suffix(" kB")).and_then(|text| text.parse::<f64>().ok());
            number.map(|kilobytes| kilobytes / 1024.0).ok_or_else(|| format!("{rollup} has no {name}"))
        };
        Ok(Kept { pss: of("Pss:")?, rss: of("Rss:")? })
    });
    let ended = super::super::measured::cost(&tool.line(&bench.bundle, &["delete", "--force", &id]));
    if ended.is_err() {
        // Then it would wait for a container that nobody ends.
        let _ = child.kill();
    }
    let _ = child.wait();
    kept
}

/// Returns once the container's program runs: `state` says so.
fn await_running(bench: &Bench, tool: &Tool, id: &str, child: &mut Child) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < START {
        let line = tool.line(&bench.bundle, &["state", id]);
        let output = Command::new(&line[0]).args(&line[1..]).output();
        let output = output.map_err(|error| format!("{}: {error}", tool.name))?;
        let state: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if state["status"] == "running" {
            return Ok(());
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("{} run: {status}", tool.name));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("the container of {} does not run within {} s", tool.name, START.as_secs()))
}
