//! The bundle of the runtime benchmarks: a static no-op, default namespaces, no terminal.
//!
//! The no-op is a program that does nothing but end: what a C library does before `main` is no runtime's work, and was
//! a tenth of what is measured here. State is kept on a tmpfs where the benchmark has a mount namespace of its own, as
//! `/run` is one.

use crate::shell::{self, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The no-op's place in the root file system; it needs no word, the probe that stands in for it elsewhere does.
pub(crate) const NO_OP: [&str; 2] = ["/bin/noop", "true"];

/// `exit(0)` as a static program for x86-64: an ELF header, one segment, three instructions.
fn no_op() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    let code = [0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let length = 64 + 56 + code.len() as u64;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // An executable for the machine 62; entry; program headers at 64; no sections.
    file.extend([2u16, 62].into_iter().flat_map(u16::to_le_bytes));
    file.extend(1u32.to_le_bytes());
    file.extend([BASE + 64 + 56, 64, 0].into_iter().flat_map(u64::to_le_bytes));
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 1, 0, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    // One segment, to be read and executed: the whole file.
    file.extend([1u32, 5].into_iter().flat_map(u32::to_le_bytes));
    file.extend([0, BASE, BASE, length, length, 0x1000].into_iter().flat_map(u64::to_le_bytes));
    file.extend(code);
    file
}

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
        config["process"]["args"] = serde_json::json!(NO_OP);
        bundle.write(&config)?;
        Ok(bundle)
    }

    fn fill(&self) -> std::io::Result<()> {
        for name in ["bin", "dev", "proc", "sys", "etc"] {
            fs::create_dir_all(self.folder.join("rootfs").join(name))?;
        }
        fs::create_dir_all(&self.root)?;
        let (probe, bin) = (shell::bin_dir().join("probe"), self.folder.join("rootfs/bin"));
        fs::copy(&probe, bin.join("probe"))?;
        if !cfg!(target_arch = "x86_64") {
            return fs::copy(&probe, bin.join("noop")).map(|_| ());
        }
        fs::write(bin.join("noop"), no_op())?;
        fs::set_permissions(bin.join("noop"), fs::Permissions::from_mode(0o755))
    }

    /// Keeps the state on a tmpfs. Only where mounts are this process's own.
    pub(crate) fn state_in_memory(&self) -> Result<()> {
        let root = self.root.to_string_lossy().into_owned();
        shell::output("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", &root]).map(drop)
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
        // Nothing is mounted there in most cases. A temporary folder that cannot be removed is no reason to fail.
        let _ = shell::output("umount", &[&self.root.to_string_lossy()]);
        let _ = fs::remove_dir_all(&self.folder);
    }
}
