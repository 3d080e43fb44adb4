//! Garbage collection: what nothing needs goes, while anything else goes on.
//!
//! In: a store in use. Out: the same store without garbage, and how much that was. Needed is what `index.json` names, what
//! a container uses and what a live process holds. The marking runs beside everything else; only the last look and the
//! renames of what goes happen under the exclusive lock, and the deleting afterwards. A collection that is killed leaves
//! at most a folder in `tmp/` that the next one takes.

use crate::registry::leftovers::{self, Leftover};
use crate::store::{Store, StoreError, layout, lease, rootfs};
use oci::config::ImageConfig;
use oci::digest::Algorithm;
use oci::manifest::media;
use oci::{Descriptor, Digest};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long a broken download waits for someone to go on with it.
const PARTIAL_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The blobs that went.
    pub blobs: Vec<Digest>,
    /// The layers that went, as their directories were called.
    pub layers: Vec<String>,
    /// Temporary files and broken downloads that went.
    pub leftovers: usize,
    /// Bytes on disk that were freed.
    pub bytes: u64,
}

/// What else to take.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Broken downloads too, however young.
    pub partial: bool,
    /// Only say what would go.
    pub dry_run: bool,
}

/// How often the marking is repeated before the lock is taken, until it finds little that is new.
const PASSES_MAX: usize = 4;
/// A marking that took no longer may be repeated while everything else waits.
const SHORT: Duration = Duration::from_millis(200);

/// Documents that were read once: they never change. What a document needs also depends on the type it goes by.
#[derive(Default)]
struct Known {
    children: HashMap<(Digest, String), Vec<Descriptor>>,
    diff_ids: HashMap<Digest, Vec<Digest>>,
    /// What manifests of the registry need: digests alone, as there may be many.
    pushed: HashMap<(Digest, Option<String>), Vec<Digest>>,
}

/// Collects garbage. One collection at a time; a second one waits.
pub fn run(store: &Store, options: Options) -> Result<Report, StoreError> {
    let turn_path = store.path().join("gc.turn");
    let turn = layout::open_lock(&turn_path)?;
    turn.lock().map_err(StoreError::io("lock", &turn_path))?;
    let mut known = Known::default();
    // The long part, beside everything: it fills `known`, so that the look under the lock is short. What was pushed while
    // it ran is read before the lock, too.
    let mut needed = HashSet::new();
    for _ in 0..PASSES_MAX {
        let began = Instant::now();
        needed = mark(store, &mut known)?;
        if began.elapsed() <= SHORT {
            break;
        }
    }
    let garbage: Vec<(PathBuf, Item)> =
        everything(store)?.into_iter().filter(|(_, item)| !item.is_needed(&needed)).collect();
    let trash = store.temporary_dir("trash")?;
    let mut report = Report::default();
    let mut taken: Vec<PathBuf> = Vec::new();
    {
        let lock_path = store.path().join("gc.lock");
        let lock = layout::open_lock(&lock_path)?;
        lock.lock().map_err(StoreError::io("lock", &lock_path))?;
        let mut needed = mark(store, &mut known)?;
        needed.extend(lease::held(store.path())?);
        let idle = idle(store, options, &trash)?;
        let leftovers = registry_leftovers(store, options, &needed);
        let garbage = garbage.into_iter().filter(|(_, item)| !item.is_needed(&needed));
        for (path, item) in garbage.chain(idle).chain(leftovers) {
            if options.dry_run {
                taken.push(path);
            } else {
                let to = trash.path().join(taken.len().to_string());
                match std::fs::rename(&path, &to) {
                    Ok(()) if matches!(item, Item::Link) && leftovers::is_young(&to) => {
                        // A push renewed it meanwhile.
                        std::fs::rename(&to, &path).map_err(StoreError::io("put back", &path))?;
                        continue;
                    }
                    Ok(()) => taken.push(to),
                    // A server, which takes no lock of ours for it, was done with it.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound && item.is_leftover() => continue,
                    Err(error) => return Err(StoreError::io("throw away", &path)(error)),
                }
            }
            match item {
                Item::Blob(digest) => report.blobs.push(digest),
                Item::Layer(_, name) => report.layers.push(name),
                Item::Leftover | Item::Link => report.leftovers += 1,
            }
        }
    }
    // The rest happens without the lock: the counting, and the deleting when the folder is dropped.
    report.bytes = taken.iter().map(|path| disk_bytes(path)).sum();
    drop(trash);
    Ok(report)
}

/// Something in the store that may be garbage.
enum Item {
    Blob(Digest),
    Layer(Digest, String),
    Leftover,
    /// A link of the registry to nothing.
    Link,
}

impl Item {
    fn is_needed(&self, needed: &HashSet<Digest>) -> bool {
        match self {
            Self::Blob(digest) | Self::Layer(digest, _) => needed.contains(digest),
            Self::Leftover | Self::Link => false,
        }
    }

    fn is_leftover(&self) -> bool {
        matches!(self, Self::Leftover | Self::Link)
    }
}

/// Every digest that names and containers need: blobs, and the plain digests of layers.
fn mark(store: &Store, known: &mut Known) -> Result<HashSet<Digest>, StoreError> {
    let mut needed = HashSet::new();
    // With what names it within an index: a child that only calls itself a manifest is a blob.
    let mut todo: Vec<(Descriptor, bool)> =
        store.layout().index()?.manifests.into_iter().map(|entry| (entry, false)).collect();
    for (_, used) in rootfs::uses(store, true)? {
        needed.extend(oci::config::chain_ids(&used.diff_ids));
        needed.extend(used.diff_ids);
        todo.push((Descriptor::new("", used.manifest, 0), false));
        todo.push((Descriptor::new(media::OCI_CONFIG, used.config, 0), false));
    }
    // What was walked is kept apart from what is needed: one image may name as a plain blob what is another's manifest.
    let (mut documents, mut configs) = (HashSet::new(), HashSet::new());
    while let Some((target, within)) = todo.pop() {
        needed.insert(target.digest);
        let is_document = target.media_type.is_empty()
            || media::is_manifest(&target.media_type)
            || media::is_index(&target.media_type);
        if is_document && documents.insert((target.digest, target.media_type.clone(), within)) {
            todo.extend(known.children(store, &target, within)?.iter().map(|child| (child.clone(), true)));
        } else if media::is_image_config(&target.media_type) && configs.insert(target.digest) {
            let diff_ids = known.diff_ids(store, &target.digest)?;
            needed.extend(oci::config::chain_ids(&diff_ids));
            needed.extend(diff_ids);
        }
    }
    let registry = store.path().join("registry");
    needed.extend(crate::registry::shelf::roots(&registry, &mut |digest, declared| {
        known.pushed(store, digest, declared)
    })?);
    Ok(needed)
}

impl Known {
    /// What a manifest or index needs. A document that cannot be read stops the collection: what it needs is not known.
    /// One that an index calls a manifest (`within`) and whose bytes are none needs nothing but these.
    fn children(&mut self, store: &Store, target: &Descriptor, within: bool) -> Result<&[Descriptor], StoreError> {
        match self.children.entry((target.digest, target.media_type.clone())) {
            Entry::Occupied(place) => Ok(place.into_mut()),
            Entry::Vacant(place) => {
                let declared = Some(target.media_type.as_str()).filter(|text| !text.is_empty());
                match store.manifest(&target.digest, declared) {
                    Ok(manifest) => Ok(place.insert(manifest.children().cloned().collect())),
                    // Other platforms of an index are not here.
                    Err(StoreError::Missing { .. }) => Ok(&[]),
                    Err(error) if within && error.is_no_manifest() => Ok(&[]),
                    Err(error) => Err(StoreError::Unknown { digest: target.digest, source: Box::new(error) }),
                }
            }
        }
    }

    /// What a manifest of the registry needs; nothing when its bytes are not here.
    fn pushed(&mut self, store: &Store, digest: &Digest, declared: Option<&str>) -> Result<Vec<Digest>, StoreError> {
        let key = (*digest, declared.map(str::to_owned));
        if let Some(known) = self.pushed.get(&key) {
            return Ok(known.clone());
        }
        let children: Vec<Digest> = match store.manifest(digest, declared) {
            Ok(manifest) => manifest.children().map(|child| child.digest).collect(),
            Err(StoreError::Missing { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        self.pushed.insert(key, children.clone());
        Ok(children)
    }

    fn diff_ids(&mut self, store: &Store, config: &Digest) -> Result<Vec<Digest>, StoreError> {
        if let Some(known) = self.diff_ids.get(config) {
            return Ok(known.clone());
        }
        let diff_ids = match store.read_blob(config, oci::config::CONFIG_BYTES_MAX) {
            // A config that is no image's (an artifact under the wrong type) needs no layers.
            Ok(raw) => ImageConfig::parse(&raw).map(|config| config.rootfs.diff_ids).unwrap_or_default(),
            Err(StoreError::Missing { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        self.diff_ids.insert(*config, diff_ids.clone());
        Ok(diff_ids)
    }
}

/// Every blob and layer of the store.
fn everything(store: &Store) -> Result<Vec<(PathBuf, Item)>, StoreError> {
    let mut items = Vec::new();
    for algorithm in Algorithm::ALL {
        for (path, name) in names(&store.path().join("blobs").join(algorithm.name()))? {
            if let Ok(digest) = format!("{}:{name}", algorithm.name()).parse() {
                items.push((path, Item::Blob(digest)));
            }
        }
    }
    for (path, name) in names(&store.path().join("layers"))? {
        let digest = name.rsplit_once('.').and_then(|(stem, _)| stem.replacen('-', ":", 1).parse().ok());
        if let (Some(digest), false) = (digest, name.ends_with(".lock")) {
            items.push((path, Item::Layer(digest, name)));
        }
    }
    Ok(items)
}

/// What nobody writes any more: temporary files without a lock, old downloads. The caller holds the exclusive lock, so
/// that nothing is between its creation and its lock.
fn idle(
    store: &Store,
    options: Options,
    trash: &crate::store::TemporaryDir,
) -> Result<Vec<(PathBuf, Item)>, StoreError> {
    let mut items = Vec::new();
    for (path, _) in names(&store.path().join("tmp"))? {
        if path != trash.path() && is_idle(&path) {
            items.push((path, Item::Leftover));
        }
    }
    // Layers that were being made, or waited for, by a process that died. Who waits for one looks again by its name.
    for (path, name) in names(&store.path().join("layers"))? {
        if name.ends_with(".lock") && !name.starts_with('.') && is_idle(&path) {
            items.push((path, Item::Leftover));
        }
    }
    // Halves of writes that are renamed in the end: those of `uses/` are made under this lock, those of the index under its own.
    let mut halves = names(&store.path().join("uses"))?;
    let index_lock = layout::open_lock(&store.path().join("index.lock"))?;
    if index_lock.try_lock().is_ok() {
        halves.extend(names(store.path())?.into_iter().filter(|(_, name)| name.starts_with(".index.json")));
    }
    let half = |(path, name): &(PathBuf, String)| name.starts_with('.') && path.is_file();
    items.extend(halves.into_iter().filter(half).map(|(path, _)| (path, Item::Leftover)));
    for (path, _) in names(&store.path().join("sending"))? {
        if (is_old(&path) || options.partial) && is_idle(&path) {
            items.push((path, Item::Leftover));
        }
    }
    for (path, name) in names(&store.path().join("partial"))? {
        let data = path.with_extension("");
        let done = name
            .split('.')
            .next()
            .and_then(|stem| stem.replacen('-', ":", 1).parse::<Digest>().ok())
            .is_none_or(|digest| store.has(&digest).unwrap_or(false));
        if (done || is_old(&path) || options.partial) && is_idle(&data) {
            items.push((path, Item::Leftover));
        }
    }
    Ok(items)
}

/// What dead servers and their clients left in the registry's folder.
fn registry_leftovers(store: &Store, options: Options, needed: &HashSet<Digest>) -> Vec<(PathBuf, Item)> {
    let found = leftovers::find(&store.path().join("registry"), needed, options.partial);
    let item = |leftover| match leftover {
        Leftover::File(path) => (path, Item::Leftover),
        Leftover::Link(path) => (path, Item::Link),
    };
    found.into_iter().map(item).collect()
}

/// Whether nobody has gone on with this for so long that nobody will.
fn is_old(path: &Path) -> bool {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > PARTIAL_AGE_MAX))
}

/// Whether nobody holds the lock on this file or directory.
fn is_idle(path: &Path) -> bool {
    use rustix::fs::{Mode, OFlags};
    // Not through a link, and not waiting for the writer of a pipe.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file).try_lock().is_ok(),
        Err(errno) => matches!(errno, rustix::io::Errno::NOENT | rustix::io::Errno::LOOP),
    }
}

fn names(dir: &Path) -> Result<Vec<(PathBuf, String)>, StoreError> {
    let mut names = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(names),
        Err(error) => return Err(StoreError::io("read the directory", dir)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(StoreError::io("read the directory", dir))?;
        names.push((entry.path(), entry.file_name().to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Bytes on disk below a path; what cannot be looked at counts nothing.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return 0 };
    let mut sum = 0;
    // Not by recursion: a layer may be two thousand levels deep, and this may run on a small stack.
    let mut todo = vec![(path.to_owned(), metadata)];
    while let Some((path, metadata)) = todo.pop() {
        // A tar that is also a blob goes when its last name goes.
        if metadata.is_dir() || metadata.nlink() <= 1 {
            sum += metadata.blocks() * 512;
        }
        if metadata.is_dir() {
            for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
                todo.extend(entry.metadata().map(|metadata| (entry.path(), metadata)));
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{image, scratch};
    use oci::Reference;

    fn blobs(dir: &Path) -> usize {
        std::fs::read_dir(dir.join("blobs/sha256")).unwrap().count()
    }

    #[test]
    fn what_lost_its_name_goes_and_what_has_one_stays() {
        let (dir, store) = scratch();
        let (a, b): (Reference, Reference) = ("a:1".parse().unwrap(), "b:1".parse().unwrap());
        let first = image(&store, b"first");
        let second = image(&store, b"second");
        store.tag(&a, &first).unwrap();
        store.tag(&b, &second).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(run(&store, Options::default()).unwrap(), Report::default());
        assert_eq!(blobs(dir.path()), 6);
        store.forget(&first.digest).unwrap();
        let report = run(&store, Options::default()).unwrap();
        assert_eq!(report.blobs.len(), 3);
        assert_eq!(blobs(dir.path()), 3);
        assert!(store.image(&b).unwrap().is_some());
    }

    #[test]
    fn a_manifest_that_another_image_names_as_a_plain_blob_keeps_its_blobs() {
        use oci::manifest::ImageManifest;
        let (dir, store) = scratch();
        let victim = image(&store, b"victim");
        // Two images name the victim's manifest as a layer: one is walked before it and one after.
        let names: [Reference; 3] = ["a:1", "b:1", "c:1"].map(|name| name.parse().unwrap());
        let mut attackers = Vec::new();
        for content in ["one", "two"] {
            let config = store.put(media::OCI_CONFIG, format!("{{\"author\":\"{content}\"}}").as_bytes()).unwrap();
            let layer = Descriptor::new(media::OCI_LAYER, victim.digest, victim.size);
            let raw = serde_json::to_vec(&ImageManifest::new(config, vec![layer])).unwrap();
            attackers.push(store.put(media::OCI_MANIFEST, &raw).unwrap());
        }
        for (name, target) in names.iter().zip([&attackers[0], &victim, &attackers[1]]) {
            store.tag(name, target).unwrap();
        }
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(run(&store, Options::default()).unwrap(), Report::default());
        let record = store.image(&names[1]).unwrap().unwrap();
        for blob in record.layers.iter().chain([&record.config]) {
            assert!(store.has(&blob.digest).unwrap());
        }
    }

    #[test]
    fn a_child_of_an_index_that_only_calls_itself_a_manifest_is_kept_as_a_blob() {
        use oci::manifest::ImageIndex;
        let (dir, store) = scratch();
        let good = image(&store, b"good");
        // Not here yet when the index is named: somebody's layer.
        let layer = b"somebody's layer";
        let false_child = Descriptor::new(media::OCI_MANIFEST, Digest::sha256(layer), layer.len() as u64);
        let raw = serde_json::to_vec(&ImageIndex::new(vec![good.clone(), false_child.clone()])).unwrap();
        let index = store.put(media::OCI_INDEX, &raw).unwrap();
        let name: Reference = "hostile:1".parse().unwrap();
        store.tag(&name, &index).unwrap();
        store.put(media::OCI_LAYER, layer).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(
            run(&store, Options::default()).unwrap(),
            Report::default(),
            "its bytes are needed, and nothing else"
        );
        store.tag(&"again:1".parse().unwrap(), &index).unwrap();
        let record = store.find("hostile:1").unwrap();
        let archive = crate::archive::save(&store, &[(record, Vec::new())], crate::archive::Format::Oci, Vec::new());
        let (_other, other) = scratch();
        crate::archive::load(&other, &*archive.unwrap(), None).unwrap();
        assert!(other.has(&false_child.digest).unwrap());
        // A manifest whose bytes are damaged is another matter: what it needs is not known.
        std::fs::write(store.layout().blob_path(&good.digest), b"x").unwrap();
        assert!(run(&store, Options::default()).unwrap_err().to_string().contains(&good.digest.to_string()));
    }

    #[test]
    fn a_manifest_of_the_registry_is_read_once_a_collection() {
        let (dir, store) = scratch();
        let manifest = image(&store, b"pushed");
        let blobs: std::sync::Arc<dyn crate::source::Blobs> = std::sync::Arc::new(Store::open(dir.path()).unwrap());
        let shelf = crate::registry::Shelf::open(&dir.path().join("registry"), blobs).unwrap();
        let raw = store.read_blob(&manifest.digest, 1 << 20).unwrap();
        shelf.put_manifest("a/b", &manifest, &raw, None).unwrap();
        let id = store.record(&manifest, &oci::Platform::host()).unwrap().id;
        shelf.link_blob("a/b", &id).unwrap();
        // Pushed long ago: only the manifest keeps it.
        let link = dir.path().join("registry/repositories/a/b/_blobs/sha256").join(id.hex());
        let link = std::fs::File::options().write(true).open(link).unwrap();
        link.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        let mut known = Known::default();
        let needed = mark(&store, &mut known).unwrap();
        assert!(needed.contains(&id));
        // What was read is not read again: the second look needs no byte of it.
        std::fs::write(store.layout().blob_path(&manifest.digest), b"x").unwrap();
        assert_eq!(mark(&store, &mut known).unwrap(), needed);
    }

    #[test]
    fn a_manifest_of_the_registry_that_cannot_be_read_stops_the_collection() {
        let (dir, store) = scratch();
        let shelf = crate::registry::Shelf::open(
            &dir.path().join("registry"),
            std::sync::Arc::new(Store::open(dir.path()).unwrap()),
        )
        .unwrap();
        let manifest = image(&store, b"pushed");
        let record = store.manifest(&manifest.digest, None).unwrap();
        for child in record.children() {
            assert!(shelf.link_blob("a/b", &child.digest).unwrap());
        }
        let raw = store.read_blob(&manifest.digest, 1 << 20).unwrap();
        shelf.put_manifest("a/b", &manifest, &raw, None).unwrap();
        // Pushed long ago: only the manifest keeps them.
        let links = dir.path().join("registry/repositories/a/b/_blobs/sha256");
        for link in std::fs::read_dir(&links).unwrap() {
            let link = std::fs::File::options().write(true).open(link.unwrap().path()).unwrap();
            link.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        }
        drop((shelf, store));
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(run(&store, Options::default()).unwrap(), Report::default());
        let path = store.layout().blob_path(&manifest.digest);
        let mut damaged = raw.clone();
        damaged[0] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert!(run(&store, Options::default()).unwrap_err().to_string().contains("registry"));
        assert_eq!(blobs(dir.path()), 3, "nothing was deleted");
        std::fs::write(&path, &raw).unwrap();
        assert_eq!(run(&store, Options::default()).unwrap(), Report::default());
    }

    #[test]
    fn a_use_that_cannot_be_read_stops_the_collection() {
        let (dir, store) = scratch();
        image(&store.leased(), b"x");
        // A folder cannot be read as a file, by root neither.
        std::fs::create_dir(dir.path().join("uses/container")).unwrap();
        assert!(run(&store, Options::default()).is_err());
        assert_eq!(blobs(dir.path()), 3, "nothing was deleted");
        std::fs::remove_dir(dir.path().join("uses/container")).unwrap();
        assert_eq!(run(&store, Options::default()).unwrap().blobs.len(), 3);
    }

    #[test]
    fn what_a_live_handle_wrote_stays_until_it_ends() {
        let (dir, store) = scratch();
        let writer = store.leased();
        image(&writer, b"being pulled");
        assert_eq!(run(&store, Options::default()).unwrap().blobs.len(), 0);
        let busy = writer.ingest(None, None).unwrap();
        assert_eq!(run(&store, Options::default()).unwrap().leftovers, 0);
        drop(busy);
        drop(writer);
        assert_eq!(run(&store, Options::default()).unwrap().blobs.len(), 3);
        assert_eq!(blobs(dir.path()), 0);
    }

    #[test]
    fn what_a_dead_process_left_goes() {
        let (dir, store) = scratch();
        std::fs::write(dir.path().join("tmp/ingest-dead"), b"x").unwrap();
        std::fs::create_dir_all(dir.path().join("tmp/layer-dead/fs")).unwrap();
        let digest = Digest::sha256(b"x");
        std::fs::write(dir.path().join("leases/lease-dead"), format!("shoal-lease 1\n{digest}\n")).unwrap();
        std::fs::write(store.layout().blob_path(&digest), b"x").unwrap();
        let report = run(&store, Options::default()).unwrap();
        assert_eq!((report.blobs, report.leftovers), (vec![digest], 2));
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(dir.path().join("leases")).unwrap().count(), 0);
    }

    #[test]
    fn a_dry_run_says_and_does_not() {
        let (dir, store) = scratch();
        image(&store.leased(), b"x");
        let report = run(&store, Options { dry_run: true, ..Options::default() }).unwrap();
        assert_eq!(report.blobs.len(), 3);
        assert_eq!(blobs(dir.path()), 3);
    }

    #[test]
    fn a_broken_download_waits_for_its_next_run() {
        let (_dir, store) = scratch();
        let digest = Digest::sha256(b"hello");
        if let crate::Claim::Mine(partial) = store.claim(&digest, 5).unwrap() {
            partial.write_at(0, b"hel").unwrap();
        }
        assert_eq!(run(&store, Options::default()).unwrap().leftovers, 0);
        assert!(matches!(store.claim(&digest, 5).unwrap(), crate::Claim::Mine(partial) if partial.received() == 3));
        assert_eq!(run(&store, Options { partial: true, ..Options::default() }).unwrap().leftovers, 2);
    }

    #[test]
    fn what_dead_servers_left_goes_when_it_is_old_and_a_link_to_nothing_too() {
        let (dir, store) = scratch();
        let registry = dir.path().join("registry");
        drop(crate::registry::Shelf::open(&registry, std::sync::Arc::new(Store::open(dir.path()).unwrap())).unwrap());
        let links = registry.join("repositories/a/b/_blobs/sha256");
        std::fs::create_dir_all(&links).unwrap();
        let make = |path: &Path, age_hours: u64| {
            let file = File::create(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age_hours * 3600)).unwrap();
        };
        let upload = |name: &str, age_hours: u64| {
            let folder = registry.join("uploads").join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("repository"), "a/b").unwrap();
            make(&folder.join("data"), age_hours);
            folder
        };
        let (gone, young) = (Digest::sha256(b"gone"), Digest::sha256(b"young"));
        let old = [links.join(".12.3"), upload("old", 25).join("data"), links.join(gone.hex())];
        make(&old[0], 2);
        make(&old[2], 24 * 30);
        let kept = [links.join(".12.4"), upload("young", 2).join("data"), links.join(young.hex())];
        make(&kept[0], 0);
        make(&kept[2], 1);
        let busy = upload("busy", 25).join("data");
        let lock = File::open(&busy).unwrap();
        lock.lock().unwrap();
        assert_eq!(run(&store, Options { dry_run: true, ..Options::default() }).unwrap().leftovers, 3);
        assert_eq!(run(&store, Options::default()).unwrap().leftovers, 3);
        assert!(old.iter().all(|path| !path.exists()) && kept.iter().all(|path| path.exists()) && busy.exists());
        assert!(!registry.join("uploads/old").exists());
        // A user who wants the room takes what no server works on.
        assert_eq!(run(&store, Options { partial: true, ..Options::default() }).unwrap().leftovers, 1);
        assert!(!kept[1].exists() && busy.exists());
    }

    #[test]
    fn halves_of_writes_that_a_dead_process_left_go() {
        let (dir, store) = scratch();
        let halves = ["uses/.use-1-2-3", ".index.json-1-2-3"].map(|name| dir.path().join(name));
        halves.iter().for_each(|half| std::fs::write(half, "half").unwrap());
        let lock = layout::open_lock(&dir.path().join("index.lock")).unwrap();
        lock.lock().unwrap();
        assert_eq!(run(&store, Options::default()).unwrap().leftovers, 1, "the index is being written");
        drop(lock);
        assert_eq!(run(&store, Options::default()).unwrap().leftovers, 1);
        assert!(halves.iter().all(|half| !half.exists()));
    }

    #[test]
    fn locks_of_layers_that_a_dead_process_was_making_go() {
        let (dir, store) = scratch();
        let lock = dir.path().join(format!("layers/sha256-{}.i.lock", Digest::sha256(b"x").hex()));
        std::fs::write(&lock, "").unwrap();
        let held = File::open(&lock).unwrap();
        held.lock().unwrap();
        assert_eq!(run(&store, Options::default()).unwrap().leftovers, 0);
        drop(held);
        assert_eq!(run(&store, Options::default()).unwrap().leftovers, 1);
        assert!(!lock.exists());
    }
}
