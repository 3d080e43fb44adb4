//! Leases: what a running command needs is not garbage, from before it looks until it is done.
//!
//! In: digests. Out: a line each in `leases/NAME`, a file locked by the process that wrote it. When the process dies, so
//! does the lock, and garbage collection takes the lease. A digest is written while the shared lock of `gc.lock` is held:
//! a sweep, which holds it exclusively, either sees the line or has finished before anyone looks whether the blob is there.

use crate::store::layout::open_lock;
use crate::store::{Inner, StoreError, sys};
use oci::Digest;
use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The first line of a lease.
const HEADER: &str = "shoal-lease 1";

/// A lease. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Lease {
    path: PathBuf,
    state: Mutex<(File, HashSet<Digest>)>,
}

impl Lease {
    /// Starts a lease in `store`.
    pub(crate) fn start(store: &Inner) -> Result<Self, StoreError> {
        let dir = store.path().join("leases");
        let path = dir.join(sys::unique_name("lease"));
        let step = "start the lease";
        let lock = open_lock(&store.path().join("gc.lock"))?;
        // Between creation and lock the file looks like a dead process's: no sweep may run.
        lock.lock_shared().map_err(StoreError::io("lock", store.path().join("gc.lock")))?;
        let mut file = File::create_new(&path).map_err(StoreError::io(step, &path))?;
        file.lock().map_err(StoreError::io(step, &path))?;
        writeln!(file, "{HEADER}").map_err(StoreError::io(step, &path))?;
        Ok(Self { path, state: Mutex::new((file, HashSet::new())) })
    }

    /// Holds `digest` from now on.
    pub(crate) fn hold(&self, store: &Inner, digest: &Digest) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, held) = &mut *state;
        if held.contains(digest) {
            return Ok(());
        }
        let lock_path = store.path().join("gc.lock");
        let lock = open_lock(&lock_path)?;
        lock.lock_shared().map_err(StoreError::io("lock", &lock_path))?;
        // One write call, so that a reader never sees half a line that parses.
        file.write_all(format!("{digest}\n").as_bytes()).map_err(StoreError::io("write the lease", &self.path))?;
        held.insert(*digest);
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A lease that cannot be removed is taken by the next collection, because nobody locks it any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Every digest that a live process holds; files of dead processes are removed. The caller holds `gc.lock` exclusively.
pub(crate) fn held(store: &Path) -> Result<HashSet<Digest>, StoreError> {
    let dir = store.join("leases");
    let mut held = HashSet::new();
    for entry in std::fs::read_dir(&dir).map_err(StoreError::io("read the directory", &dir))? {
        let path = entry.map_err(StoreError::io("read the directory", &dir))?.path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(StoreError::io("open the lease", &path)(error)),
        };
        if file.try_lock().is_ok() {
            let _ = std::fs::remove_file(&path);
            continue;
        }
        let text = std::io::read_to_string(&file).map_err(StoreError::io("read the lease", &path))?;
        held.extend(text.lines().skip(1).filter_map(|line| line.parse::<Digest>().ok()));
    }
    Ok(held)
}
