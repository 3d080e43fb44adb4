//! Printing: tables, JSON, Go templates. stdout is data, stderr is everything else.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// As std's, but without a panic when nobody reads any more (`| head`, `| grep -q`): what the command does, it does to its end.
macro_rules! println {
    () => { $crate::output::print(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::print(format_args!("{}\n", format_args!($($text)*))) };
}

/// As std's, but without a panic when nobody reads any more.
macro_rules! print {
    ($($text:tt)*) => { $crate::output::print(format_args!($($text)*)) };
}

/// As std's, but without a panic when nobody reads any more.
macro_rules! eprintln {
    () => { $crate::output::complain(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::complain(format_args!("{}\n", format_args!($($text)*))) };
}

pub(crate) mod format;
pub(crate) mod size;
pub(crate) mod table;
pub(crate) mod template;

pub(crate) use format::{Column, Format};
pub(crate) use template::Template;

/// Whether stdout takes no more.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether nobody reads what is printed; whoever would print for ever then ends.
pub(crate) fn closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// Prints on stdout, as long as somebody reads.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    if closed() {
        return;
    }
    if let Err(error) = io::stdout().lock().write_fmt(text) {
        CLOSED.store(true, Ordering::Relaxed);
        if error.kind() != io::ErrorKind::BrokenPipe {
            complain(format_args!("shoal: write to stdout: {error}\n"));
        }
    }
}

/// Prints on stderr; where that is closed, nobody can be told.
pub(crate) fn complain(text: fmt::Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// docker's LABELS: `KEY=VALUE,…`.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
