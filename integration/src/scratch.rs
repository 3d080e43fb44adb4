//! A scratch folder of one test that takes everything below it along when it is dropped: mounts first, then files.

use nix::mount::{MntFlags, umount2};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A folder below the system's temporary folder, unique to this process and test.
#[derive(Debug)]
pub struct Scratch {
    folder: tempfile::TempDir,
    id: String,
}

impl Scratch {
    /// Makes an empty folder whose name starts with `what`.
    pub fn new(what: &str) -> Self {
        let id = format!("{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new()
            .prefix(&format!("shoal-{id}-"))
            .tempdir()
            .expect("the temporary folder is writable");
        Self { folder, id }
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Returns a path inside the folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns a name that no other test uses, good as container id, network namespace or cgroup name.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Deepest mounts first, so that nothing is busy; detached, so that a stray process cannot hold the test up.
        for mount in mounts_below(self.path()).iter().rev() {
            let _ = umount2(mount, MntFlags::MNT_DETACH);
        }
    }
}

/// Returns the mount points at or below `folder`, in the order they were made.
pub fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(field.replace("\\040", " ")))
        .filter(|mount| mount.starts_with(folder))
        .collect()
}
