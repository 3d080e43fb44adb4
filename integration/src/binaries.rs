//! Where the built binaries and the peers' tools are. A missing one is a clear failure, never a silent skip.

use std::path::{Path, PathBuf};

/// Returns the folder of the built binaries: `SHOAL_BIN_DIR`, else `target/release` of this workspace.
pub fn folder() -> PathBuf {
    std::env::var_os("SHOAL_BIN_DIR").map_or_else(
        || {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .parent()
                .expect("integration/ lies in the workspace")
                .join("target/release")
        },
        PathBuf::from,
    )
}

/// Returns the path of one built binary.
///
/// # Panics
/// When it is not there, with the command that builds it.
pub fn built(name: &str) -> PathBuf {
    let path = folder().join(name);
    assert!(path.exists(), "{} is not built; run: cargo xtask build", path.display());
    path
}

/// The command line `shoal`.
pub fn shoal() -> PathBuf {
    built("shoal")
}

/// The OCI runtime `shoal-runtime`.
pub fn runtime() -> PathBuf {
    built("shoal-runtime")
}

/// The static guest probe.
pub fn probe() -> PathBuf {
    built("probe")
}

/// Returns the path of a tool from Debian, looked up in PATH and the sbin folders.
///
/// # Panics
/// When it is not installed, with the package to install.
pub fn tool(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.exists())
        .unwrap_or_else(|| panic!("{name} is not installed; run: apt-get install {package}"))
}
