//! create, start, state, exec, kill and delete, each measured alone, tools interleaved.

use super::super::bundle::NO_OP;
use super::super::figure::Figures;
use super::super::measured::{Cost, cost, least_and_median};
use super::tool::{Bench, Tool, interleave};
use crate::shell::Result;

/// The verbs in the order of a container's life, with the goal for CPU.
const VERBS: [(&str, Option<f64>); 6] = [
    ("create", Some(0.35)),
    ("state", Some(0.35)),
    ("start", None),
    ("exec", Some(0.35)),
    ("kill", None),
    ("delete", None),
];

/// Takes the figures of every verb.
pub(super) fn take(figures: &mut Figures, bench: &Bench) -> Result<()> {
    let before = bench.bundle.config()?;
    let mut config = before.clone();
    config["process"]["args"] = serde_json::json!(["/bin/probe", "pause"]);
    bench.bundle.write(&config)?;
    let tools: Vec<&Tool> = bench.tools.iter().collect();
    let costs = interleave(&tools, bench.rounds(15), 1, |tool, round| life(bench, tool, round));
    bench.bundle.write(&before)?;
    let mut costs = costs.into_iter();
    let mine = costs.next().expect("ours is the first tool")?;
    for (tool, theirs) in tools[1..].iter().zip(costs) {
        let theirs = match theirs {
            Ok(theirs) => theirs,
            Err(why) => {
                figures.unmeasured(&format!("verbs-{}", tool.name), &why);
                continue;
            }
        };
        for (at, (verb, goal)) in VERBS.iter().enumerate() {
            let goal = goal.and_then(|goal| bench.goal(tool, goal));
            let of = |lives: &[Vec<Cost>], value: fn(&Cost) -> f64| median(lives, |life| value(&life[at]));
            let name = |what: &str| format!("{verb}-{what}-median");
            figures.ratio(
                &name("cpu"),
                "ms",
                of(&mine, |cost| cost.cpu_ms),
                tool.name,
                of(&theirs, |cost| cost.cpu_ms),
                goal,
            );
            figures.ratio(
                &name("wall"),
                "ms",
                of(&mine, |cost| cost.wall_ms),
                tool.name,
                of(&theirs, |cost| cost.wall_ms),
                None,
            );
        }
        let whole = |life: &Vec<Cost>| life[0].wall_ms + life[2].wall_ms + life[5].wall_ms;
        let (ours, theirs) = (median(&mine, whole), median(&theirs, whole));
        figures.ratio("create-start-delete-wall-median", "ms", ours, tool.name, theirs, bench.goal(tool, 0.4));
    }
    for (at, verb) in [(1, "state"), (2, "start"), (4, "kill")] {
        let least = least_and_median(&mine.iter().map(|life| life[at].wall_ms).collect::<Vec<_>>()).0;
        figures.bound(&format!("{verb}-wall-min"), "ms", least, 0.6);
    }
    Ok(())
}

fn median(lives: &[Vec<Cost>], value: impl Fn(&Vec<Cost>) -> f64) -> f64 {
    least_and_median(&lives.iter().map(value).collect::<Vec<_>>()).1
}

/// One container's life, verb by verb.
fn life(bench: &Bench, tool: &Tool, round: usize) -> Result<Vec<Cost>> {
    let id = format!("verbs-{}-{}-{round}", std::process::id(), tool.name);
    let bundle = &bench.bundle;
    let lived = VERBS.iter().map(|(verb, _)| {
        cost(&match *verb {
            "create" => tool.run(bundle, "create", &id),
            "exec" => tool.line(bundle, &[&["exec", id.as_str()][..], &NO_OP].concat()),
            "kill" => tool.line(bundle, &["kill", &id, "KILL"]),
            // By force: the killed init may not be gone at once, and a refusal would be a race and no figure.
            "delete" => tool.line(bundle, &["delete", "--force", &id]),
            _ => tool.line(bundle, &[verb, &id]),
        })
    });
    let lived: Result<Vec<Cost>> = lived.collect();
    if lived.is_err() {
        // What a failing tool has begun is not left behind.
        let _ = cost(&tool.line(bundle, &["delete", "--force", &id]));
    }
    lived
}
