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
//! locks/KIND-XX                        empty; who changes what a name or digest stands for holds one
//! ```
//!
//! `_` begins no part of a repository name, so the folders of a repository never collide with nested repositories.

use crate::source::Blobs;
use crate::store::StoreError;
use crate::store::layout::same_file;
use crate::store::sys::sync_dir;
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

/// Hexadecimal digits that choose a lock: 256 locks of each kind.
const LOCK_DIGITS: usize = 2;
/// A half written file that is older belongs to nobody: writing one takes a moment.
const HALF_WRITTEN_AFTER: Duration = Duration::from_secs(3600);

/// What a lock is of.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Blob,
    Manifest,
    Tag,
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Manifest => "manifest",
            Self::Tag => "tag",
        }
    }
}

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
        fs::create_dir_all(root.join("locks"))?;
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

    /// Locks of what `keys` of a repository stand for, against other requests and other servers. Held until the value is
    /// dropped. Kinds are taken in the order manifest, tag; a blob's lock alone.
    fn locked<'a>(
        &self,
        kind: Kind,
        name: &str,
        keys: impl IntoIterator<Item = std::borrow::Cow<'a, str>>,
    ) -> io::Result<Vec<fs::File>> {
        // Some share a lock, which must be taken once; the order is everybody's.
        let stripes: BTreeSet<String> = keys
            .into_iter()
            .map(|key| Digest::sha256(format!("{name}\0{key}").as_bytes()).hex()[..LOCK_DIGITS].to_owned())
            .collect();
        let open = |stripe: &String| {
            let path = self.root.join("locks").join(format!("{}-{stripe}", kind.text()));
            let file = fs::File::options().create(true).truncate(false).write(true).open(path)?;
            file.lock()?;
            Ok(file)
        };
        stripes.iter().map(open).collect()
    }

    /// Removes what killed servers left half written. Errors are the next sweep's business.
    pub(crate) fn sweep(&self) {
        sweep(&self.root.join("repositories"), 0);
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
        let _turn = self.locked(Kind::Blob, name, [digest.to_string().into()])?;
        // The link first: from here on a collection that begins sees the blob as used.
        let made = make_link(&path)?;
        let there = self.blobs.keep(digest);
        if made && !matches!(there, Ok(true)) {
            // This call's own link, which leads nowhere: another's is not touched.
            remove(&path)?;
        }
        there
    }

    /// Takes over a verified file as a blob of this repository.
    pub fn adopt_blob(&self, name: &str, digest: &Digest, file: &Path) -> io::Result<()> {
        let path = link(&self.repository(name).join("_blobs"), digest);
        let _turn = self.locked(Kind::Blob, name, [digest.to_string().into()])?;
        let made = make_link(&path)?;
        let adopted = self.blobs.adopt(digest, file);
        if adopted.is_err() && made {
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
        // A link may be older than its bytes: an upload that is just finishing.
        if self.blobs.size(digest)?.is_none() {
            return Ok(false);
        }
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
        self.put_tagged(name, descriptor, raw, subject, &[], true).map(drop)
    }

    /// Like [`Shelf::put_manifest`], and points `tags` at it, with nobody's deletion in between. Unless `moves`, a tag that
    /// names another manifest stays where it is and nothing is stored: that tag is returned.
    pub fn put_tagged(
        &self,
        name: &str,
        descriptor: &Descriptor,
        raw: &[u8],
        subject: Option<&Digest>,
        tags: &[String],
        moves: bool,
    ) -> io::Result<Option<String>> {
        let _turn = self.locked(Kind::Manifest, name, [descriptor.digest.to_string().into()])?;
        let _tags = self.locked(Kind::Tag, name, tags.iter().map(|tag| tag.as_str().into()))?;
        if !moves {
            for tag in tags {
                if self.tag(name, tag)?.is_some_and(|old| old.digest != descriptor.digest) {
                    return Ok(Some(tag.clone()));
                }
            }
        }
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
        let short = json(&Descriptor::new(descriptor.media_type.clone(), descriptor.digest, descriptor.size));
        for tag in tags {
            write_atomic(&repository.join("_tags").join(tag), &short)?;
        }
        Ok(None)
    }

    /// Unlinks a manifest, every tag that names it and its place among referrers; `false` when it was not there.
    pub fn delete_manifest(&self, name: &str, digest: &Digest, subject: Option<&Digest>) -> io::Result<bool> {
        let repository = self.repository(name);
        let _turn = self.locked(Kind::Manifest, name, [digest.to_string().into()])?;
        let names_it =
            |tag: &str| self.tag(name, tag).map(|found| found.is_some_and(|descriptor| descriptor.digest == *digest));
        for tag in self.tags(name)? {
            if names_it(&tag)? {
                // It may have moved on meanwhile, and then it is another manifest's.
                let _tag = self.locked(Kind::Tag, name, [tag.as_str().into()])?;
                if names_it(&tag)? {
                    remove(&repository.join("_tags").join(&tag))?;
                }
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

    /// Removes a tag; `false` when it was not there.
    pub fn delete_tag(&self, name: &str, tag: &str) -> io::Result<bool> {
        let _tag = self.locked(Kind::Tag, name, [tag.into()])?;
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

/// Says what a manifest needs, given its digest and the type it was pushed as; nothing when its bytes are not there.
pub type Needs<'a> = dyn FnMut(&Digest, Option<&str>) -> Result<Vec<Digest>, StoreError> + 'a;

/// Everything the registry folder at `root` keeps alive; empty when there is none. Manifests are kept by their links, blobs
/// by the manifests of their repository, and a blob that no manifest names (yet) for [`ORPHAN_GRACE`] after its push.
/// What cannot be read or understood is an error: what it needs is not known, and nothing must be deleted then.
pub fn roots(root: &Path, needs: &mut Needs<'_>) -> Result<BTreeSet<Digest>, StoreError> {
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
            named.extend(needs(&digest, declared.as_deref()).map_err(unknown)?);
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

/// Makes an empty file, durable when this returns, or touches the one that is there. Returns whether it was made.
fn make_link(path: &Path) -> io::Result<bool> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    loop {
        match fs::File::create_new(path) {
            Ok(_) => return sync_dir(folder).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_folder(folder)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Kept as if it had been pushed now, unless a collection or a client took it away in this moment.
                match fs::File::options().write(true).open(path) {
                    Ok(file) => {
                        file.set_modified(SystemTime::now())?;
                        if same_file(&file, path) {
                            return Ok(false);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Makes a folder and what is missing above it, every name durable.
fn make_folder(folder: &Path) -> io::Result<()> {
    let above = folder.parent().unwrap_or_else(|| Path::new("/"));
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(above)?;
            match fs::create_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    sync_dir(above)
}

/// Writes a file so that readers, and a machine that loses power, see the old or the new content; the new one when this
/// has returned.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let temporary = folder.join(format!(".{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let mut file = match fs::File::create(&temporary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(folder)?;
            fs::File::create(&temporary)?
        }
        other => other?,
    };
    let written = file.write_all(bytes).and_then(|()| file.sync_data()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| sync_dir(folder))
}

/// Removes half written files below a folder.
fn sweep(folder: &Path, depth: usize) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            // A repository's folder, then kind, algorithm, subject.
            if depth < DEPTH_MAX + 4 {
                sweep(&entry.path(), depth + 1);
            }
            continue;
        }
        let age = metadata.modified().ok().and_then(|at| at.elapsed().ok());
        if entry.file_name().as_encoded_bytes().starts_with(b".") && age.is_some_and(|age| age > HALF_WRITTEN_AFTER) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Blobs;
    use crate::store::testing::scratch;
    use std::sync::{Mutex, mpsc};

    /// A store whose `adopt` waits to be told how to end.
    #[derive(Debug)]
    struct Slow {
        begun: mpsc::Sender<()>,
        go: Mutex<mpsc::Receiver<bool>>,
        there: std::sync::atomic::AtomicBool,
    }

    impl Blobs for Slow {
        fn size(&self, _: &Digest) -> io::Result<Option<u64>> {
            Ok(self.there.load(Ordering::SeqCst).then_some(1))
        }
        fn open(&self, _: &Digest) -> io::Result<Option<fs::File>> {
            Ok(None)
        }
        fn keep(&self, _: &Digest) -> io::Result<bool> {
            Ok(self.there.load(Ordering::SeqCst))
        }
        fn adopt(&self, _: &Digest, _: &Path) -> io::Result<()> {
            self.begun.send(()).unwrap();
            if self.go.lock().unwrap().recv().unwrap() {
                self.there.store(true, Ordering::SeqCst);
                return Ok(());
            }
            Err(io::ErrorKind::StorageFull.into())
        }
        fn put(&self, _: &Digest, _: &[u8]) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_acknowledged_blob_stays_whoever_mounts_or_fails_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let (begun, has_begun) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        let blobs = Arc::new(Slow { begun, go: Mutex::new(wait), there: false.into() });
        let shelf = Shelf::open(folder.path(), blobs).unwrap();
        let digest = Digest::sha256(b"x");
        std::thread::scope(|scope| {
            // A mount while an upload publishes: its link is there, its bytes are not.
            let uploader = scope.spawn(|| shelf.adopt_blob("a/b", &digest, Path::new("/x")));
            has_begun.recv().unwrap();
            assert!(!shelf.any_holds(&digest).unwrap());
            let mount = scope.spawn(|| shelf.link_blob("a/b", &digest));
            go.send(true).unwrap();
            uploader.join().unwrap().unwrap();
            mount.join().unwrap().unwrap();
        });
        assert_eq!(shelf.blob("a/b", &digest).unwrap(), Some(1));
        // Two uploads of one blob, of which one fails.
        shelf.delete_blob("a/b", &digest).unwrap();
        std::thread::scope(|scope| {
            let uploads = [(); 2].map(|()| scope.spawn(|| shelf.adopt_blob("a/b", &digest, Path::new("/x"))));
            has_begun.recv().unwrap();
            go.send(false).unwrap();
            has_begun.recv().unwrap();
            go.send(true).unwrap();
            let ends = uploads.map(|upload| upload.join().unwrap().is_ok());
            assert!(ends.contains(&true) && ends.contains(&false));
        });
        assert_eq!(shelf.blob("a/b", &digest).unwrap(), Some(1));
    }

    #[test]
    fn a_tag_never_outlives_the_manifest_it_names() {
        use crate::store::testing::image;
        let (dir, store) = scratch();
        let targets = [b"one", b"two"].map(|content| image(&store, content));
        let raw = targets.clone().map(|target| store.read_blob(&target.digest, 1 << 20).unwrap());
        let shelf = Shelf::open(&dir.path().join("registry"), Arc::new(store)).unwrap();
        let tags = ["v1".to_owned(), "v2".to_owned()];
        std::thread::scope(|scope| {
            for (target, raw) in targets.iter().zip(&raw) {
                let (shelf, tags) = (&shelf, &tags);
                scope.spawn(move || {
                    for _ in 0..12 {
                        shelf.put_tagged("a", target, raw, None, tags, true).unwrap();
                    }
                });
                scope.spawn(move || {
                    for _ in 0..12 {
                        shelf.delete_manifest("a", &target.digest, None).unwrap();
                    }
                });
            }
        });
        for tag in &tags {
            if let Some(named) = shelf.tag("a", tag).unwrap() {
                assert!(shelf.manifest("a", &named.digest).unwrap().is_some(), "{tag} names what was deleted");
            }
        }
    }

    #[test]
    fn what_a_killed_server_left_half_written_goes_after_an_hour() {
        let (dir, store) = scratch();
        let shelf = Shelf::open(&dir.path().join("registry"), Arc::new(store)).unwrap();
        let tags = dir.path().join("registry/repositories/a/b/_tags");
        make_folder(&tags).unwrap();
        for name in [".17.3", ".18.1", "v1"] {
            fs::write(tags.join(name), "{}").unwrap();
        }
        let old = fs::File::options().write(true).open(tags.join(".17.3")).unwrap();
        old.set_modified(SystemTime::now() - HALF_WRITTEN_AFTER * 2).unwrap();
        shelf.sweep();
        assert!(!tags.join(".17.3").exists() && tags.join(".18.1").exists() && tags.join("v1").exists());
    }
}
