//! The smallest memory limit under which a container starts.

use super::super::bundle::Bundle;
use super::super::figure::Figures;
use super::super::measured::cost;
use super::Tool;
use crate::shell::Result;

/// The goal, KiB.
const LIMIT_MAX: f64 = 512.0;

/// Takes the smallest limit of each tool by halving from 8 MiB.
pub(super) fn take(figures: &mut Figures, ours: &Tool, peers: &[Tool], bundle: &Bundle) -> Result<()> {
    let mine = smallest(ours, bundle)?;
    figures.bound("smallest-memory-limit", "KiB", mine, LIMIT_MAX);
    for peer in peers {
        let theirs = smallest(peer, bundle)?;
        figures.ratio("smallest-memory-limit", "KiB", mine, peer.name, theirs, None);
    }
    Ok(())
}

fn smallest(tool: &Tool, bundle: &Bundle) -> Result<f64> {
    let before = bundle.config()?;
    let mut least = f64::INFINITY;
    for kib in [16_384_u32, 8_192, 4_096, 2_048, 1_024, 512, 384, 256, 128] {
        let mut config = before.clone();
        config["linux"]["resources"]["memory"] = serde_json::json!({"limit": u64::from(kib) * 1024});
        bundle.write(&config)?;
        let id = format!("limit-{}-{}-{kib}", std::process::id(), tool.name);
        let ended = cost(&tool.run(bundle, "run", &id));
        // A runtime that is killed half-way may leave its container behind: not this benchmark's to judge.
        let _ = cost(&tool.line(bundle, &["delete", "--force", &id]));
        if ended.is_err() {
            break;
        }
        least = f64::from(kib);
    }
    bundle.write(&before)?;
    Ok(least)
}
