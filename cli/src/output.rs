//! Printing: tables, JSON, Go templates. stdout is data, stderr is everything else.

pub(crate) mod format;
pub(crate) mod size;
pub(crate) mod table;
pub(crate) mod template;

pub(crate) use format::{Column, Format};
pub(crate) use template::Template;
