//! Expressions about nodes (`node.labels.disk == ssd`) and the reasons why a node does not fit. Pure.

use crate::model::Node;
use crate::quantity::{show_bytes, show_cpus};
use regex_lite::Regex;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The longest expression, in bytes: it is evaluated once a node and change.
pub const EXPRESSION_BYTES_MAX: usize = 1_024;

/// What of a node an expression looks at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// `node.id`
    Id,
    /// `node.name` or `node.hostname`
    Name,
    /// `node.site`
    Site,
    /// `node.role`: every node is a manager and a worker at once, so it equals and differs from both.
    Role,
    /// `node.platform.os`
    Os,
    /// `node.platform.arch`
    Arch,
    /// `node.labels.KEY` or `engine.labels.KEY`
    Label(String),
}

impl Field {
    /// Returns the node's value; `None` when it has none.
    #[must_use]
    pub fn of<'a>(&self, node: &'a Node) -> Option<&'a str> {
        match self {
            Self::Id => Some(&node.id),
            Self::Name => Some(node.name()),
            Self::Site => Some(&node.facts.site).filter(|site| !site.is_empty()).map(String::as_str),
            Self::Role => Some("manager"),
            Self::Os => Some(&node.facts.os),
            Self::Arch => Some(&node.facts.arch),
            Self::Label(key) => node.label(key),
        }
    }
}

impl FromStr for Field {
    type Err = ExpressionError;
    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        let label = text.strip_prefix("node.labels.").or_else(|| text.strip_prefix("engine.labels."));
        match (text, label) {
            (_, Some(key)) if !key.is_empty() => Ok(Self::Label(key.to_owned())),
            ("node.id", _) => Ok(Self::Id),
            ("node.name" | "node.hostname", _) => Ok(Self::Name),
            ("node.site", _) => Ok(Self::Site),
            ("node.role", _) => Ok(Self::Role),
            ("node.platform.os", _) => Ok(Self::Os),
            ("node.platform.arch", _) => Ok(Self::Arch),
            _ => Err(ExpressionError { text: text.to_owned(), reason: FIELDS }),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id => f.write_str("node.id"),
            Self::Name => f.write_str("node.name"),
            Self::Site => f.write_str("node.site"),
            Self::Role => f.write_str("node.role"),
            Self::Os => f.write_str("node.platform.os"),
            Self::Arch => f.write_str("node.platform.arch"),
            Self::Label(key) => write!(f, "node.labels.{key}"),
        }
    }
}

const FIELDS: &str =
    "expected node.id, node.name, node.site, node.role, node.platform.os, node.platform.arch or node.labels.KEY";
const OPERATORS: &str = "expected FIELD OP VALUE with == != < <= > >= =~ !~ in, or FIELD is_set";

/// An expression that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?}: {reason}")]
pub struct ExpressionError {
    /// What was written.
    pub text: String,
    /// What was expected.
    pub reason: &'static str,
}

/// A comparison of a node's value.
#[derive(Debug, Clone)]
enum Test {
    Equal(String),
    Differ(String),
    Order(&'static str, String),
    Match(Box<Regex>),
    NoMatch(Box<Regex>),
    In(Vec<String>),
    IsSet,
}

/// One constraint: a field and a test of it.
#[derive(Debug, Clone)]
pub struct Constraint {
    field: Field,
    test: Test,
    shown: String,
}

impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        self.shown == other.shown
    }
}

impl Constraint {
    /// Says whether the node fulfils it. A missing value fulfils only `!=` and `!~`.
    #[must_use]
    pub fn holds(&self, node: &Node) -> bool {
        if self.field == Field::Role {
            return true;
        }
        let value = self.field.of(node);
        match (&self.test, value) {
            (Test::IsSet, value) => value.is_some(),
            (Test::Differ(_) | Test::NoMatch(_), None) => true,
            (_, None) => false,
            (Test::Equal(wanted), Some(value)) => value == wanted,
            (Test::Differ(wanted), Some(value)) => value != wanted,
            (Test::Match(regex), Some(value)) => regex.is_match(value),
            (Test::NoMatch(regex), Some(value)) => !regex.is_match(value),
            (Test::In(list), Some(value)) => list.iter().any(|entry| entry == value),
            (Test::Order(operator, wanted), Some(value)) => in_order(operator, value, wanted),
        }
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl FromStr for Constraint {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        let fail = |reason| ExpressionError { text: text.to_owned(), reason };
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(ExpressionError { text: text.chars().take(40).collect(), reason: "longer than 1024 bytes" });
        }
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| c.is_whitespace() || "=!<>~".contains(c)).unwrap_or(trimmed.len());
        let (field, rest) = trimmed.split_at(end);
        let field: Field = field.parse().map_err(|_| fail(FIELDS))?;
        let rest = rest.trim();
        if rest == "is_set" {
            let shown = format!("{field} is_set");
            return Ok(Self { field, test: Test::IsSet, shown });
        }
        let operator = ["==", "!=", "<=", ">=", "=~", "!~", "<", ">"].into_iter().find(|op| rest.starts_with(op));
        let list = rest.strip_prefix("in").filter(|after| after.starts_with([' ', '(']));
        if let Some(list) = list {
            let values = list_values(list.trim()).ok_or_else(|| fail("expected in (A, B, …)"))?;
            let shown = format!("{field} in ({})", values.join(", "));
            return Ok(Self { field, test: Test::In(values), shown });
        }
        let operator = operator.ok_or_else(|| fail(OPERATORS))?;
        let value = unquoted(rest[operator.len()..].trim()).to_owned();
        if value.is_empty() {
            return Err(fail("there is nothing to compare with"));
        }
        if field == Field::Role && !(matches!(operator, "==" | "!=") && matches!(value.as_str(), "manager" | "worker"))
        {
            return Err(fail("node.role is compared with manager or worker, by == or !=; every node is both"));
        }
        let shown = format!("{field} {operator} {value}");
        let regex = |value: &str| Regex::new(value).map(Box::new).map_err(|_| fail("not a regular expression"));
        let test = match operator {
            "==" => Test::Equal(value),
            "!=" => Test::Differ(value),
            "=~" => Test::Match(regex(&value)?),
            "!~" => Test::NoMatch(regex(&value)?),
            other => Test::Order(other, value),
        };
        Ok(Self { field, test, shown })
    }
}

/// Compares as numbers when both are numbers, else as text.
fn in_order(operator: &str, value: &str, wanted: &str) -> bool {
    let order = match (value.parse::<f64>(), wanted.parse::<f64>()) {
        (Ok(value), Ok(wanted)) => value.partial_cmp(&wanted),
        _ => Some(value.cmp(wanted)),
    };
    let Some(order) = order else { return false };
    match operator {
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    }
}

fn list_values(text: &str) -> Option<Vec<String>> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    let values: Vec<String> = inner.split(',').map(|value| unquoted(value.trim()).to_owned()).collect();
    values.iter().all(|value| !value.is_empty()).then_some(values)
}

fn unquoted(text: &str) -> &str {
    let inside = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inside('"').or_else(|| inside('\'')).unwrap_or(text)
}

/// Why one node does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// A constraint is not fulfilled; its text.
    Constraint(String),
    /// Too little memory is free.
    Memory {
        /// Bytes needed.
        need: u64,
        /// Bytes free.
        free: u64,
    },
    /// Too little processor is free.
    Cpu {
        /// Billionths needed.
        need: u64,
        /// Billionths free.
        free: u64,
    },
    /// It runs as many as `max_replicas_per_node` allows.
    MaxReplicas(u32),
    /// A host port is taken there.
    HostPort,
    /// It has no network of this name.
    Network(String),
    /// Operators paused it.
    Paused,
    /// Operators drain it.
    Draining,
    /// It has not answered lately.
    Suspect,
    /// It does not answer, or left.
    Down,
    /// Its facts have not arrived.
    Unknown,
    /// It refused or failed a moment ago.
    Refused,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constraint(text) => write!(f, "lack {text}"),
            Self::Memory { need, free } => {
                write!(f, "short of memory (need {}, best free {})", show_bytes(*need), show_bytes(*free))
            }
            Self::Cpu { need, free } => {
                write!(f, "short of cpu (need {}, best free {})", show_cpus(*need), show_cpus(*free))
            }
            Self::MaxReplicas(most) => write!(f, "already run {most} of it (max_replicas_per_node)"),
            Self::HostPort => f.write_str("have the host port taken"),
            Self::Network(name) => write!(f, "have no network {name}"),
            Self::Paused => f.write_str("paused"),
            Self::Draining => f.write_str("draining"),
            Self::Suspect => f.write_str("suspect"),
            Self::Down => f.write_str("down"),
            Self::Unknown => f.write_str("not yet known"),
            Self::Refused => f.write_str("refused a moment ago"),
        }
    }
}

/// Why no node fits: each reason with its number of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct NoFit {
    /// The service.
    pub service: String,
    /// Nodes looked at.
    pub total: usize,
    reasons: BTreeMap<(u8, String), (usize, Obstacle)>,
}

impl NoFit {
    /// Starts with no node looked at.
    #[must_use]
    pub fn new(service: &str) -> Self {
        Self { service: service.to_owned(), total: 0, reasons: BTreeMap::new() }
    }

    /// Counts one node's reason; of several shortages of one kind the best free amount is kept.
    pub fn count(&mut self, obstacle: Obstacle) {
        let key = match &obstacle {
            Obstacle::Constraint(text) => (0, text.clone()),
            Obstacle::Memory { .. } => (1, String::new()),
            Obstacle::Cpu { .. } => (2, String::new()),
            other => (3, other.to_string()),
        };
        let entry = self.reasons.entry(key).or_insert_with(|| (0, obstacle.clone()));
        entry.0 += 1;
        match (&mut entry.1, &obstacle) {
            (Obstacle::Memory { free, .. }, Obstacle::Memory { free: other, .. })
            | (Obstacle::Cpu { free, .. }, Obstacle::Cpu { free: other, .. }) => *free = (*free).max(*other),
            _ => {}
        }
    }
}

impl fmt::Display for NoFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0/{} nodes fit {}", self.total, self.service)?;
        for (index, (count, obstacle)) in self.reasons.values().enumerate() {
            write!(f, "{}{count} {obstacle}", if index == 0 { ": " } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        let mut node = Node { id: "id1".to_owned(), ..Node::default() };
        node.facts.name = "alpha".to_owned();
        node.facts.site = "dc1".to_owned();
        node.facts.labels.insert("disk".to_owned(), "ssd".to_owned());
        node.facts.labels.insert("cores".to_owned(), "16".to_owned());
        node
    }

    fn holds(text: &str) -> bool {
        text.parse::<Constraint>().unwrap().holds(&node())
    }

    #[test]
    fn every_operator_decides() {
        for text in [
            "node.labels.disk == ssd",
            "node.labels.disk==ssd",
            "node.site != dc3",
            "node.labels.cores > 9",
            "node.labels.cores <= 16",
            "node.name =~ ^al",
            "node.name !~ beta",
            "node.site in (dc1, dc2)",
            "node.labels.disk is_set",
            "node.labels.none != x",
            "node.hostname == 'alpha'",
            "node.role == manager",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in ["node.labels.cores < 9", "node.labels.none == x", "node.labels.none is_set", "node.site in (a)"] {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_was_expected() {
        for text in
            ["", "node.color == x", "node.site", "node.site ==", "node.site ~~ x", "node.name =~ (", "node.site in dc1"]
        {
            assert!(text.parse::<Constraint>().is_err(), "{text}");
        }
        assert!("x".repeat(2000).parse::<Constraint>().is_err());
    }
}
