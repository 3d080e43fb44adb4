//! The bundle of the runtime benchmarks: a static no-op (the probe's `true`), default namespaces, no terminal.

use crate::shell::{self, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A bundle and a state folder below the temporary folder, removed when dropped.
#[derive(Debug)]
pub(crate) struct Bundle {
    folder: PathBuf,
    root: PathBuf,
}

impl Bundle {
    /// Makes the bundle from `runc spec`'s defaults, written by our own `shoal-runtime spec`.
    pub(crate) fn make() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("shoal-bench-{}", std::process::id()));
        let root = folder.join("state");
        let bundle = Self { root, folder };
        bundle.fill().map_err(|error| format!("make the bundle in {}: {error}", bundle.folder.display()))?;
        let runtime = shell::bin_dir().join("shoal-runtime");
        let folder = bundle.folder.to_string_lossy().into_owned();
        let _ = shell::output(&runtime.to_string_lossy(), &["spec", "--bundle", &folder])?;
        let mut config = bundle.config()?;
        // crun 1.8 knows no later one.
        config["ociVersion"] = "1.0.2".into();
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["/bin/probe", "true"]);
        bundle.write(&config)?;
        Ok(bundle)
    }

    fn fill(&self) -> std::io::Result<()> {
        for name in ["bin", "dev", "proc", "sys", "etc"] {
            fs::create_dir_all(self.folder.join("rootfs").join(name))?;
        }
        fs::create_dir_all(&self.root)?;
        fs::copy(shell::bin_dir().join("probe"), self.folder.join("rootfs/bin/probe")).map(|_| ())
    }

    /// Returns the bundle's folder.
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Returns the folder for `--root`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Reads `config.json`.
    pub(crate) fn config(&self) -> Result<serde_json::Value> {
        let text = fs::read_to_string(self.folder.join("config.json"))
            .map_err(|error| format!("read config.json: {error}"))?;
        serde_json::from_str(&text).map_err(|error| format!("parse config.json: {error}"))
    }

    /// Writes `config.json`.
    pub(crate) fn write(&self, config: &serde_json::Value) -> Result<()> {
        fs::write(self.folder.join("config.json"), config.to_string())
            .map_err(|error| format!("write config.json: {error}"))
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // A temporary folder that cannot be removed is no reason to fail a benchmark.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
