//! create, start, state, exec, kill and delete, each measured alone, tools interleaved.

use super::super::bundle::Bundle;
use super::super::figure::Figures;
use super::super::measured::{Cost, cost, least_and_median};
use super::Tool;
use crate::shell::Result;

/// Rounds of each tool after one of warm-up.
const ROUNDS: usize = 15;

/// The verbs in the order of a container's life, with the goal for CPU against crun (runc where crun does not start).
const VERBS: [(&str, Option<f64>); 6] = [
    ("create", Some(0.35)),
    ("state", Some(0.35)),
    ("start", None),
    ("exec", Some(0.35)),
    ("kill", None),
    ("delete", None),
];

/// Takes the figures of every verb.
pub(super) fn take(figures: &mut Figures, ours: &Tool, peers: &[Tool], bundle: &Bundle) -> Result<()> {
    let before = bundle.config()?;
    let mut config = before.clone();
    config["process"]["args"] = serde_json::json!(["/bin/probe", "pause"]);
    bundle.write(&config)?;
    let mut costs: Vec<Vec<Vec<Cost>>> = vec![vec![Vec::new(); VERBS.len()]; peers.len() + 1];
    for round in 0..=ROUNDS {
        for (tool, costs) in std::iter::once(ours).chain(peers).zip(&mut costs) {
            let id = format!("verbs-{}-{}-{round}", std::process::id(), tool.name);
            for (verb, costs) in VERBS.iter().zip(costs) {
                let cost = one(tool, bundle, verb.0, &id)?;
                if round > 0 {
                    costs.push(cost);
                }
            }
        }
    }
    bundle.write(&before)?;
    for (peer, theirs) in peers.iter().zip(&costs[1..]) {
        for (at, (verb, goal)) in VERBS.iter().enumerate() {
            let cpu = |costs: &[Cost]| least_and_median(&costs.iter().map(|cost| cost.cpu_ms).collect::<Vec<_>>()).1;
            let wall = |costs: &[Cost]| least_and_median(&costs.iter().map(|cost| cost.wall_ms).collect::<Vec<_>>()).1;
            figures.ratio(&format!("{verb}-cpu-median"), "ms", cpu(&costs[0][at]), peer.name, cpu(&theirs[at]), *goal);
            figures.ratio(
                &format!("{verb}-wall-median"),
                "ms",
                wall(&costs[0][at]),
                peer.name,
                wall(&theirs[at]),
                None,
            );
        }
        figures.ratio("create-start-delete-wall-median", "ms", life(&costs[0]), peer.name, life(theirs), Some(0.4));
    }
    for (at, verb) in [(1, "state"), (2, "start"), (4, "kill")] {
        let walls: Vec<f64> = costs[0][at].iter().map(|cost| cost.wall_ms).collect();
        figures.bound(&format!("{verb}-wall-median"), "ms", least_and_median(&walls).1, 0.6);
    }
    Ok(())
}

fn one(tool: &Tool, bundle: &Bundle, verb: &str, id: &str) -> Result<Cost> {
    let line = match verb {
        "create" => tool.run(bundle, "create", id),
        "exec" => tool.line(bundle, &["exec", id, "/bin/probe", "true"]),
        "kill" => tool.line(bundle, &["kill", id, "KILL"]),
        // By force: the killed init may not be gone at once, and a refusal would be a race and no figure.
        "delete" => tool.line(bundle, &["delete", "--force", id]),
        _ => tool.line(bundle, &[verb, id]),
    };
    cost(&line)
}

/// Median wall time of create, start and delete together.
fn life(costs: &[Vec<Cost>]) -> f64 {
    let sums: Vec<f64> = costs[0]
        .iter()
        .zip(&costs[2])
        .zip(&costs[5])
        .map(|((create, start), delete)| create.wall_ms + start.wall_ms + delete.wall_ms)
        .collect();
    least_and_median(&sums).1
}
