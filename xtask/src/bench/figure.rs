//! A figure: ours, the peer's, the ratio, the goal. One line each, and the same as JSON.

use crate::shell::Result;
use serde::Serialize;

/// One compared figure.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    ours: Option<f64>,
    peer: String,
    theirs: Option<f64>,
    goal: Option<f64>,
    reason: Option<String>,
}

/// The figures of one benchmark, in the order in which they were taken.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    list: Vec<Figure>,
    before: String,
    after: String,
}

impl Figures {
    /// Figures whose names begin with `view/`; `after` ends each line (`vm=…`).
    pub(crate) fn of_view(view: &str, after: &str) -> Self {
        Self { list: Vec::new(), before: format!("{view}/"), after: after.to_owned() }
    }

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
        // Nothing against nothing is even.
        let ratio = if ours == 0.0 && theirs == 0.0 { 1.0 } else { ours / theirs };
        self.line(
            name,
            &format!("ours={ours:.3}{unit} {peer}={theirs:.3}{unit} ratio={ratio:.3} {}", verdict(ratio, goal)),
        );
        self.push(name, unit, Some(ours), peer, Some(theirs), goal, None);
    }

    /// Adds and prints a figure whose goal is an absolute bound.
    pub(crate) fn bound(&mut self, name: &str, unit: &'static str, ours: f64, goal: f64) {
        self.line(name, &format!("ours={ours:.3}{unit} {}", verdict(ours, Some(goal))));
        self.push(name, unit, Some(ours), "", None, Some(goal), None);
    }

    /// Says what could not be compared, and why.
    pub(crate) fn unmeasured(&mut self, name: &str, reason: &str) {
        self.line(name, &format!("unmeasured: {reason}"));
        self.push(name, "", None, "", None, None, Some(reason.to_owned()));
    }

    fn line(&self, name: &str, text: &str) {
        println!("figure {}{name} {text}{}", self.before, self.after);
    }

    #[expect(clippy::too_many_arguments, reason = "the members of a figure, each named at the three callers")]
    fn push(
        &mut self,
        name: &str,
        unit: &'static str,
        ours: Option<f64>,
        peer: &str,
        theirs: Option<f64>,
        goal: Option<f64>,
        reason: Option<String>,
    ) {
        let name = format!("{}{name}", self.before);
        self.list.push(Figure { name, unit, ours, peer: peer.to_owned(), theirs, goal, reason });
    }

    /// All figures as one line of JSON.
    pub(crate) fn json(&self) -> Result<String> {
        serde_json::to_string(&self.list).map_err(|error| format!("figures as JSON: {error}"))
    }
}

fn verdict(value: f64, goal: Option<f64>) -> String {
    match goal {
        Some(goal) => format!("goal={goal} {}", if value <= goal { "met" } else { "short" }),
        None => "goal=none".to_owned(),
    }
}
