//! A scratch folder of one test that takes everything below it along when it is dropped: mounts first, then files.
//!
//! What lives as long as the process (a shared archive), and what a killed run left, goes with the next run.

use nix::mount::{MntFlags, umount2};
use std::path::{Path, PathBuf};
use std::sync::Once;
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
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
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
        unmount_below(self.path());
    }
}

/// Deepest mounts first, so that nothing is busy; detached, so that a stray process cannot hold the test up.
fn unmount_below(folder: &Path) {
    for mount in mounts_below(folder).iter().rev() {
        let _ = umount2(mount, MntFlags::MNT_DETACH);
    }
}

/// Removes the scratch folders whose process is no more.
fn sweep() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let gone =
            owner(&entry.file_name().to_string_lossy()).is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        if gone {
            unmount_below(&entry.path());
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The process in a scratch folder's name, `shoal-WHAT-PID-NUMBER-RANDOM`.
fn owner(name: &str) -> Option<&str> {
    let mut words = name.strip_prefix("shoal-")?.rsplit('-');
    let (random, number, pid) = (words.next()?, words.next()?, words.next()?);
    let digits = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    (random.len() == 6 && digits(number) && digits(pid)).then_some(pid)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_scratch_folder_is_in_its_name() {
        assert_eq!(owner("shoal-mesh-image-12-3-aB9xYz"), Some("12"));
        for other in ["shoal-mesh-image-12", "shoal-x-y-3-aB9xYz", "tmp-12-3-aB9xYz", "shoal-data"] {
            assert_eq!(owner(other), None, "{other}");
        }
        let mine = Scratch::new("owned");
        let name = mine.path().file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(owner(&name), Some(std::process::id().to_string().as_str()));
    }
}
