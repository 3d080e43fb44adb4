//! The smallest memory limit under which a container starts.

use super::super::figure::Figures;
use super::super::measured::cost;
use super::tool::{Bench, Tool};
use crate::shell::Result;
use std::fs;

/// The goal, KiB.
const LIMIT_MAX: f64 = 512.0;

/// Takes the smallest limit of each tool by halving from 16 MiB.
pub(super) fn take(figures: &mut Figures, bench: &Bench) -> Result<()> {
    if !has_memory() {
        figures.unmeasured("smallest-memory-limit", "this view of cgroups has no memory controller");
        return Ok(());
    }
    let mine = smallest(bench, bench.ours())?;
    figures.bound("smallest-memory-limit", "KiB", mine, LIMIT_MAX);
    for tool in &bench.tools[1..] {
        let theirs = smallest(bench, tool)?;
        figures.ratio("smallest-memory-limit", "KiB", mine, tool.name, theirs, None);
    }
    Ok(())
}

fn has_memory() -> bool {
    let unified = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    fs::metadata("/sys/fs/cgroup/memory").is_ok() || unified.split_whitespace().any(|name| name == "memory")
}

fn smallest(bench: &Bench, tool: &Tool) -> Result<f64> {
    let before = bench.bundle.config()?;
    let mut least = f64::INFINITY;
    for kib in [16_384_u32, 8_192, 4_096, 2_048, 1_024, 512, 384, 256, 128] {
        let mut config = before.clone();
        config["linux"]["resources"]["memory"] = serde_json::json!({"limit": u64::from(kib) * 1024});
        bench.bundle.write(&config)?;
        let id = format!("limit-{}-{}-{kib}", std::process::id(), tool.name);
        let ended = cost(&tool.run(&bench.bundle, "run", &id));
        // A runtime that is killed half-way may leave its container behind: not this benchmark's to judge.
        let _ = cost(&tool.line(&bench.bundle, &["delete", "--force", &id]));
        if ended.is_err() {
            break;
        }
        least = f64::from(kib);
    }
    bench.bundle.write(&before)?;
    Ok(least)
}
