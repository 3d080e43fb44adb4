//! The test binaries of `integration/`, built and found.

use crate::shell::{self, Result};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Builds the suite `name` and returns its binary.
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(shell::top()).stderr(Stdio::inherit());
    cargo.args(["test", "-q", "-p", "integration", "--test", name, "--no-run", "--message-format", "json"]);
    let output = cargo.output().map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("the suite {name} does not build"));
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    artifacts
        .filter(|artifact| artifact["target"]["name"] == name && artifact["profile"]["test"] == true)
        .find_map(|artifact| artifact["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| format!("cargo names no executable of the suite {name}"))
}
