//! A figure: ours, the peer's, the ratio, the goal. One line each, and the same as JSON.

use crate::shell::Result;
use serde::Serialize;

/// One compared figure.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    ours: f64,
    peer: String,
    theirs: Option<f64>,
    goal: Option<f64>,
    reason: Option<String>,
}

/// The figures of one benchmark, in the order in which they were taken.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figures {
    /// Adds and prints a figure whose goal is a ratio ours ÷ theirs of at most `goal`.
    pub(crate) fn ratio(
        &mut self,
        name: &str,
        unit: &'static str,
        ours: f64,
        peer: &str,
        theirs: f64,
        goal: Option<f64>,
    ) {
        let ratio = ours / theirs;
        println!(
            "figure {name} ours={ours:.3}{unit} {peer}={theirs:.3}{unit} ratio={ratio:.3} {}",
            verdict(ratio, goal)
        );
        self.push(name, unit, ours, peer, Some(theirs), goal, None);
    }

    /// Adds and prints a figure whose goal is an absolute bound.
    pub(crate) fn bound(&mut self, name: &str, unit: &'static str, ours: f64, goal: f64) {
        println!("figure {name} ours={ours:.3}{unit} {}", verdict(ours, Some(goal)));
        self.push(name, unit, ours, "", None, Some(goal), None);
    }

    /// Says what could not be compared, and why.
    pub(crate) fn unmeasured(&mut self, name: &str, reason: &str) {
        println!("figure {name} unmeasured: {reason}");
        self.push(name, "", f64::NAN, "", None, None, Some(reason.to_owned()));
    }

    #[expect(clippy::too_many_arguments, reason = "the members of a figure, each named at the two callers")]
    fn push(
        &mut self,
        name: &str,
        unit: &'static str,
        ours: f64,
        peer: &str,
        theirs: Option<f64>,
        goal: Option<f64>,
        reason: Option<String>,
    ) {
        self.0.push(Figure { name: name.to_owned(), unit, ours, peer: peer.to_owned(), theirs, goal, reason });
    }

    /// Writes all figures as a JSON list.
    pub(crate) fn write(&self, path: &str) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.0).map_err(|error| format!("figures as JSON: {error}"))?;
        std::fs::write(path, text).map_err(|error| format!("write {path}: {error}"))
    }
}

fn verdict(value: f64, goal: Option<f64>) -> String {
    match goal {
        Some(goal) => format!("goal={goal} {}", if value <= goal { "met" } else { "short" }),
        None => "goal=none".to_owned(),
    }
}
