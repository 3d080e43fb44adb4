//! Printing: tables, JSON, Go templates. stdout is data, stderr is everything else.

pub(crate) mod format;
pub(crate) mod size;
pub(crate) mod table;
pub(crate) mod template;

pub(crate) use format::{Column, Format};
pub(crate) use template::Template;

use std::collections::BTreeMap;

/// docker's LABELS: `KEY=VALUE,…`.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
