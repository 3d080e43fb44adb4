//! `docs/cli.md` from the definitions that parse the arguments. What a person wrote stands above the line below.

use crate::shell::{self, Result};
use std::fs;

/// The line between the two parts; a test of the command line knows it too.
const GENERATED: &str = "<!-- below: made by `cargo xtask docs` -->";

/// Writes the generated part anew.
pub(crate) fn run() -> Result<()> {
    let path = shell::top().join("docs/cli.md");
    let page = fs::read_to_string(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let (head, _) = page.split_once(GENERATED).ok_or_else(|| format!("{}: no line {GENERATED}", path.display()))?;
    shell::cargo(&["build", "-p", "shoal"], &[])?;
    let shoal = shell::target().join("debug/shoal");
    let reference = shell::output(&shoal.to_string_lossy(), &["man", "--markdown"])?;
    fs::write(&path, format!("{head}{GENERATED}\n\n{reference}"))
        .map_err(|error| format!("write {}: {error}", path.display()))
}
