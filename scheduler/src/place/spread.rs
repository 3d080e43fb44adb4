//! Attributes over whose values a service's instances are spread (`node.site`, `node.labels.rack`). Pure.

use crate::model::Node;
use crate::place::filter::{ExpressionError, Field};
use std::fmt;
use std::str::FromStr;

/// One attribute to spread over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preference(Field);

impl Preference {
    /// Returns the node's value; nodes without one form a group of their own.
    #[must_use]
    pub fn value<'a>(&self, node: &'a Node) -> &'a str {
        self.0.of(node).unwrap_or("")
    }
}

impl FromStr for Preference {
    type Err = ExpressionError;
    /// Reads `node.site` and docker's `spread=node.site`.
    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        let field = text.trim().strip_prefix("spread=").unwrap_or_else(|| text.trim());
        field.parse().map(Self)
    }
}

impl fmt::Display for Preference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spread={}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_read() {
        assert_eq!("node.site".parse::<Preference>().unwrap(), "spread=node.site".parse().unwrap());
        assert!("spread=site".parse::<Preference>().is_err());
    }
}
