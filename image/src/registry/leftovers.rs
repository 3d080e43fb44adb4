//! What servers and clients that died left in a registry's folder: for a collection to take.
//!
//! In: the registry's folder, what is needed. Out: paths. The caller holds the collection's lock and moves them away.
//! Servers write beside it, so that everything here is either old or locked by nobody, and a link is looked at once more
//! after it was moved ([`is_young`]).

use super::shelf::{self, ORPHAN_GRACE};
use oci::Digest;
use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file that is written in one go and renamed is not younger than this when its writer is dead.
const WRITING_MAX: Duration = Duration::from_secs(3600);
/// An upload that nobody has touched this long is over; the server's own sweep waits as long.
const UPLOAD_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How old an upload without data must be before anybody but its server may take it.
const BEGINNING_MAX: Duration = Duration::from_secs(60);

/// Something that a dead process left, or that leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// Bytes nobody will ask for.
    File(PathBuf),
    /// A link of a repository to a blob that nothing needs and that goes too, or is gone.
    Link(PathBuf),
}

/// Whether this file was written lately: a link that was renewed between the look and the move goes back.
pub(crate) fn is_young(path: &Path) -> bool {
    age(path).is_none_or(|age| age < ORPHAN_GRACE)
}

/// Everything that may go. With `all`, uploads that no server works on too, however young.
pub(crate) fn find(root: &Path, needed: &HashSet<Digest>, all: bool) -> Vec<Leftover> {
    let mut found = Vec::new();
    for upload in entries(&root.join("uploads")) {
        let data = upload.join("data");
        let there = data.exists();
        let Some(age) = age(if there { &data } else { &upload }) else { continue };
        let over = age > UPLOAD_AGE_MAX || (all && (there || age > BEGINNING_MAX));
        if over && (!there || File::open(&data).is_ok_and(|file| file.try_lock().is_ok())) {
            found.push(Leftover::File(upload));
        }
    }
    let mut folders = vec![root.to_owned(), root.join("repositories")];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if folder != root {
                    folders.push(path);
                }
            } else if name.starts_with('.') && age(&path).is_some_and(|age| age > WRITING_MAX) {
                found.push(Leftover::File(path));
            }
        }
    }
    for (digest, path) in shelf::blob_links(root) {
        if !needed.contains(&digest) && !is_young(&path) {
            found.push(Leftover::Link(path));
        }
    }
    found
}

fn age(path: &Path) -> Option<Duration> {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    SystemTime::now().duration_since(modified).ok()
}

/// What is in a folder; nothing when it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
