//! Which repository holds what: links on disk, bytes behind [`Blobs`].
//!
//! In: repository names, tags and digests that are already parsed. Out: answers, or files made and removed atomically. The
//! bytes themselves live once in the store; a repository holds links, so that a blob pushed to one repository is not
//! readable through another.
//!
//! Layout below `registry/` (version 1, `docs/formats.md`):
//!
//! ```text
//! version                              "1"
//! repositories/NAME/_tags/TAG          descriptor, JSON
//! repositories/NAME/_manifests/ALG/HEX descriptor, JSON (media type, size, artifact type, annotations)
//! repositories/NAME/_blobs/ALG/HEX     empty
//! repositories/NAME/_referrers/ALG/HEX/ALG-HEX   descriptor of a manifest whose subject is the first digest
//! uploads/ID/{repository,data}         see `upload`
//! ```
//!
//! `_` begins no part of a repository name, so the folders of a repository never collide with nested repositories.

use crate::source::Blobs;
use crate::store::StoreError;
use oci::descriptor::Descriptor;
use oci::digest::{Algorithm, Digest};
use oci::manifest::Manifest;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// The layout's version.
const VERSION: &str = "1";
/// How long a blob is kept that no manifest of its repository names: a push sends blobs first, the manifest last.
pub const ORPHAN_GRACE: Duration = Duration::from_secs(6 * 3600);
/// Depth of repository folders that is walked; a name of 255 bytes has at most 128 parts.
const DEPTH_MAX: usize = 130;

/// The registry's own part of the store.
#[derive(Debug, Clone)]
pub struct Shelf {
    root: PathBuf,
    /// The bytes.
    pub blobs: Arc<dyn Blobs>,
}

impl Shelf {
    /// Opens (or makes) the registry's folder.
    pub fn open(root: &Path, blobs: Arc<dyn Blobs>) -> io::Result<Self> {
        fs::create_dir_all(root.join("repositories"))?;
        fs::create_dir_all(root.join("uploads"))?;
        let version = root.join("version");
        match fs::read_to_string(&version) {
            Ok(found) if found.trim() == VERSION => {}
            Ok(found) => {
                let message =
                    format!("{} says version {}, this program knows {VERSION}", version.display(), found.trim());
                return Err(io::Error::new(io::ErrorKind::Unsupported, message));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => write_atomic(&version, VERSION.as_bytes())?,
            Err(error) => return Err(error),
        }
        Ok(Self { root: root.to_owned(), blobs })
    }

    /// The folder of uploads.
    pub(crate) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.root.join("repositories").join(name)
    }

    /// Whether anything was ever pushed to this repository.
    pub fn exists(&self, name: &str) -> bool {
        ["_manifests", "_blobs"].iter().any(|part| self.repository(name).join(part).is_dir())
    }

    // Blobs -----------------------------------------------------------------------------------------------------------

    /// The size of a blob of this repository.
    pub fn blob(&self, name: &str, digest: &Digest) -> io::Result<Option<u64>> {
        if !link(&self.repository(name).join("_blobs"), digest).exists() {
            return Ok(None);
        }
        self.blobs.size(digest)
    }

    /// Like [`Shelf::blob`] for somebody who is about to name it: the blob is kept as if it had been pushed now.
    pub fn renew_blob(&self, name: &str, digest: &Digest) -> io::Result<Option<u64>> {
        let path = link(&self.repository(name).join("_blobs"), digest);
        match fs::File::options().write(true).open(&path) {
            Ok(file) => file.set_modified(SystemTime::now())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        if self.blobs.keep(digest)? { self.blobs.size(digest) } else { Ok(None) }
    }

    /// Links a blob that the store has; `false` when it has not.
    pub fn link_blob(&self, name: &str, digest: &Digest) -> io::Result<bool> {
        let path = link(&self.repository(name).join("_blobs"), digest);
        // The link first: from here on a collection that begins sees the blob as used.
        write_atomic(&path, b"")?;
        if self.blobs.keep(digest)? {
            return Ok(true);
        }
        fs::remove_file(&path)?;
        Ok(false)
    }

    /// Takes over a verified file as a blob of this repository.
    pub fn adopt_blob(&self, name: &str, digest: &Digest, file: &Path) -> io::Result<()> {
        let path = link(&self.repository(name).join("_blobs"), digest);
        let was_linked = path.exists();
        write_atomic(&path, b"")?;
        let adopted = self.blobs.adopt(digest, file);
        if adopted.is_err() && !was_linked {
            // A link to nothing would be found by every later mount and listing.
            let _ = fs::remove_file(&path);
        }
        adopted
    }

    /// Unlinks a blob; `false` when it was not there.
    pub fn delete_blob(&self, name: &str, digest: &Digest) -> io::Result<bool> {
        remove(&link(&self.repository(name).join("_blobs"), digest))
    }

    /// The repositories that hold a blob, for mounts without `from`. Stops at the first.
    pub fn any_holds(&self, digest: &Digest) -> io::Result<bool> {
        Ok(self.repositories()?.iter().any(|name| link(&self.repository(name).join("_blobs"), digest).exists()))
    }

    // Manifests -------------------------------------------------------------------------------------------------------

    /// The descriptor of a manifest of this repository.
    pub fn manifest(&self, name: &str, digest: &Digest) -> io::Result<Option<Descriptor>> {
        read_descriptor(&link(&self.repository(name).join("_manifests"), digest))
    }

    /// Stores a manifest that the caller has verified, linking it to its subject.
    pub fn put_manifest(
        &self,
        name: &str,
        descriptor: &Descriptor,
        raw: &[u8],
        subject: Option<&Digest>,
    ) -> io::Result<()> {
        let repository = self.repository(name);
        let text = json(descriptor);
        self.blobs.put(&descriptor.digest, raw)?;
        write_atomic(&link(&repository.join("_manifests"), &descriptor.digest), &text)?;
        if !self.blobs.keep(&descriptor.digest)? {
            // A collection ran between the two writes: now that the link stands, the bytes stay.
            self.blobs.put(&descriptor.digest, raw)?;
        }
        if let Some(subject) = subject {
            write_atomic(&referrer(&repository, subject, &descriptor.digest), &text)?;
        }
        Ok(())
    }

    /// Unlinks a manifest, every tag that names it and its place among referrers; `false` when it was not there.
    pub fn delete_manifest(&self, name: &str, digest: &Digest, subject: Option<&Digest>) -> io::Result<bool> {
        let repository = self.repository(name);
        for tag in self.tags(name)? {
            if self.tag(name, &tag)?.is_some_and(|descriptor| descriptor.digest == *digest) {
                self.delete_tag(name, &tag)?;
            }
        }
        if let Some(subject) = subject {
            remove(&referrer(&repository, subject, digest))?;
        }
        remove(&link(&repository.join("_manifests"), digest))
    }

    /// The manifests that name `subject`, ordered by digest.
    pub fn referrers(&self, name: &str, subject: &Digest) -> io::Result<Vec<Descriptor>> {
        let folder = link(&self.repository(name).join("_referrers"), subject);
        let mut all = Vec::new();
        for entry in list(&folder)? {
            all.extend(read_descriptor(&folder.join(entry))?);
        }
        Ok(all)
    }

    // Tags ------------------------------------------------------------------------------------------------------------

    /// What a tag names.
    pub fn tag(&self, name: &str, tag: &str) -> io::Result<Option<Descriptor>> {
        read_descriptor(&self.repository(name).join("_tags").join(tag))
    }

    /// Points a tag at a manifest.
    pub fn set_tag(&self, name: &str, tag: &str, descriptor: &Descriptor) -> io::Result<()> {
        write_atomic(&self.repository(name).join("_tags").join(tag), &json(descriptor))
    }

    /// Removes a tag; `false` when it was not there.
    pub fn delete_tag(&self, name: &str, tag: &str) -> io::Result<bool> {
        remove(&self.repository(name).join("_tags").join(tag))
    }

    /// All tags in lexical (ASCII) order.
    pub fn tags(&self, name: &str) -> io::Result<Vec<String>> {
        list(&self.repository(name).join("_tags"))
    }

    /// All repositories with a manifest, in lexical order.
    pub fn repositories(&self) -> io::Result<Vec<String>> {
        let mut found = BTreeSet::new();
        walk(&self.root.join("repositories"), "", 0, &mut found)?;
        Ok(found.into_iter().collect())
    }
}

/// Gives a manifest's bytes, `None` when they are not there.
pub type ReadManifest<'a> = dyn Fn(&Digest) -> Result<Option<Vec<u8>>, StoreError> + 'a;

/// Everything the registry folder at `root` keeps alive; empty when there is none. Manifests are kept by their links, blobs
/// by the manifests of their repository, and a blob that no manifest names (yet) for [`ORPHAN_GRACE`] after its push.
/// What cannot be read or understood is an error: what it needs is not known, and nothing must be deleted then.
pub fn roots(root: &Path, read: &ReadManifest<'_>) -> Result<BTreeSet<Digest>, StoreError> {
    let failed = |path: &Path| StoreError::io("read the registry's folder", path.to_owned());
    let mut names = BTreeSet::new();
    walk(&root.join("repositories"), "", 0, &mut names).map_err(failed(root))?;
    let mut kept = BTreeSet::new();
    for name in names {
        let repository = root.join("repositories").join(&name);
        let mut named = BTreeSet::new();
        for (digest, path) in links(&repository.join("_manifests")).map_err(failed(&repository))? {
            kept.insert(digest);
            let declared = read_descriptor(&path).map_err(failed(&path))?.map(|descriptor| descriptor.media_type);
            let unknown =
                |source: StoreError| StoreError::Pushed { repository: name.clone(), digest, source: Box::new(source) };
            // Bytes that are gone (a push is between its two writes, or the disk lost them) need nothing.
            let Some(raw) = read(&digest).map_err(unknown)? else { continue };
            let manifest = Manifest::parse_with(raw, declared.as_deref(), digest.algorithm())
                .map_err(|error| unknown(error.into()))?;
            named.extend(manifest.children().map(|child| child.digest));
        }
        for (digest, path) in links(&repository.join("_blobs")).map_err(failed(&repository))? {
            let young = || {
                let touched = path.metadata().and_then(|metadata| metadata.modified());
                // A link of the future, or one that cannot be judged, is kept.
                touched.map_or(true, |at| at.elapsed().map_or(true, |age| age < ORPHAN_GRACE))
            };
            if named.contains(&digest) || young() {
                kept.insert(digest);
            }
        }
    }
    Ok(kept)
}

/// What repositories below `root` promise and the store does not have: manifests, and blobs of theirs that manifests name.
/// `has` says whether the store has a blob.
pub(crate) fn lost(root: &Path, read: &ReadManifest<'_>, has: &dyn Fn(&Digest) -> bool) -> io::Result<Vec<String>> {
    let mut names = BTreeSet::new();
    walk(&root.join("repositories"), "", 0, &mut names)?;
    let mut lost = Vec::new();
    for name in names {
        let repository = root.join("repositories").join(&name);
        for (digest, path) in links(&repository.join("_manifests"))? {
            let declared = read_descriptor(&path)?.map(|descriptor| descriptor.media_type);
            let raw = match read(&digest) {
                Ok(Some(raw)) => raw,
                Ok(None) => {
                    lost.push(format!("repository {name}: manifest {digest} is missing"));
                    continue;
                }
                Err(error) => {
                    lost.push(format!("repository {name}: {error}"));
                    continue;
                }
            };
            match Manifest::parse_with(raw, declared.as_deref(), digest.algorithm()) {
                Err(error) => lost.push(format!("repository {name}: manifest {digest}: {error}")),
                // A blob without a link was deleted by a client.
                Ok(manifest) => lost.extend(
                    manifest
                        .children()
                        .filter(|child| link(&repository.join("_blobs"), &child.digest).exists() && !has(&child.digest))
                        .map(|child| format!("repository {name}: blob {} of {digest} is missing", child.digest)),
                ),
            }
        }
    }
    Ok(lost)
}

/// The links to blobs of every repository below `root`; what cannot be read has none.
pub(crate) fn blob_links(root: &Path) -> Vec<(Digest, PathBuf)> {
    let mut names = BTreeSet::new();
    let repositories = root.join("repositories");
    if walk(&repositories, "", 0, &mut names).is_err() {
        return Vec::new();
    }
    names.iter().flat_map(|name| links(&repositories.join(name).join("_blobs")).unwrap_or_default()).collect()
}

/// The links of a folder `ALG/HEX`.
fn links(folder: &Path) -> io::Result<Vec<(Digest, PathBuf)>> {
    let mut found = Vec::new();
    for algorithm in Algorithm::ALL {
        let folder = folder.join(algorithm.name());
        for hex in list(&folder)? {
            if let Ok(digest) = format!("{}:{hex}", algorithm.name()).parse() {
                found.push((digest, folder.join(hex)));
            }
        }
    }
    Ok(found)
}

fn walk(folder: &Path, name: &str, depth: usize, found: &mut BTreeSet<String>) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Ok(());
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let Ok(part) = entry.file_name().into_string() else { continue };
        if part.starts_with('_') {
            if (part == "_manifests" || part == "_blobs") && !name.is_empty() {
                found.insert(name.to_owned());
            }
        } else if entry.file_type()?.is_dir() {
            let nested = if name.is_empty() { part } else { format!("{name}/{part}") };
            walk(&entry.path(), &nested, depth + 1, found)?;
        }
    }
    Ok(())
}

fn link(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join(digest.algorithm().name()).join(digest.hex())
}

fn referrer(repository: &Path, subject: &Digest, digest: &Digest) -> PathBuf {
    link(&repository.join("_referrers"), subject).join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
}

fn json(descriptor: &Descriptor) -> Vec<u8> {
    serde_json::to_vec(descriptor).expect("a descriptor is always written")
}

fn read_descriptor(path: &Path) -> io::Result<Option<Descriptor>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The names in a folder, sorted; none when there is no folder. Unfinished writes are not names.
fn list(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    match fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                names.extend(entry?.file_name().into_string().ok().filter(|name| !name.starts_with('.')));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    names.sort_unstable();
    Ok(names)
}

/// Writes a file so that readers, and a machine that loses power, see the old or the new content.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let temporary = folder.join(format!(".{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let mut file = match fs::File::create(&temporary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder)?;
            fs::File::create(&temporary)?
        }
        other => other?,
    };
    let written = file.write_all(bytes).and_then(|()| file.sync_data()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
