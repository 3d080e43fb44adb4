//! youki, the runtime that comes as a crate: found in PATH, or built once into the target folder when asked for.

use crate::shell::{self, Result};
use std::path::PathBuf;

/// The version and features that compare: both cgroup versions and seccomp; its default build starts nothing on v1.
const INSTALL: [&str; 8] =
    ["install", "youki", "--version", "0.7.0", "--locked", "--no-default-features", "--features", "v1,v2,seccomp"];

fn cache() -> PathBuf {
    shell::target().join("youki")
}

/// Builds youki into the cache, some minutes, unless it is there.
pub(super) fn build() -> Result<()> {
    if cache().join("bin/youki").exists() {
        return Ok(());
    }
    shell::cargo(&INSTALL, &["--root".to_owned(), cache().to_string_lossy().into_owned()])
}

/// The built binary, if there is one.
pub(super) fn built() -> Option<PathBuf> {
    Some(cache().join("bin/youki")).filter(|path| path.exists())
}
