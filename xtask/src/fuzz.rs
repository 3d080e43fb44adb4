//! The fuzz targets on the stable toolchain: `cargo xtask fuzz [NAME --seconds N --seed S]`; all of them without a name.
//!
//! `cargo test` runs the same targets for a fixed number of rounds, which is what CI does.

use crate::shell::{self, Result};

/// Which crate has which targets.
const TARGETS: [(&str, &[&str]); 4] = [
    ("runtime", &["config", "mount_options", "seccomp"]),
    ("image", &["layer", "unpack", "reference", "challenge", "request", "manifest"]),
    ("p2p", &["frame", "message", "peer", "row", "certificate", "admission", "token", "body"]),
    ("scheduler", &["ask", "want", "rows"]),
];

/// Runs one target, or all.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let name = args.first().filter(|word| !word.starts_with("--"));
    let crates = TARGETS.iter().filter(|(_, names)| name.is_none_or(|name| names.contains(&name.as_str())));
    let crates: Vec<&str> = crates.map(|(package, _)| *package).collect();
    if crates.is_empty() {
        let known: Vec<&str> = TARGETS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        return Err(format!("no target is called {}; there are {}", name.map_or("", |name| name), known.join(", ")));
    }
    crates.iter().try_for_each(|package| shell::cargo(&["test", "-q", "-p", package, "--test", "fuzz", "--"], args))
}
