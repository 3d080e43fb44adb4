//! Names: what `index.json` says, as images with ids.
//!
//! In: references, id prefixes, digests. Out: [`ImageRecord`]s. A name is the annotation `org.opencontainers.image.ref.name`
//! with the fully qualified reference; an image that lost its last name keeps an entry without one until it is pruned.

use crate::store::{Store, StoreError};
use oci::config::{CONFIG_BYTES_MAX, ImageConfig};
use oci::descriptor::ANNOTATION_REF_NAME;
use oci::manifest::{ImageIndex, Manifest, media};
use oci::{Descriptor, Digest, Platform, Reference};
use std::collections::{BTreeMap, HashSet};

/// The annotation with which containerd and docker write full names into the index of an archive.
pub const ANNOTATION_CONTAINERD_NAME: &str = "io.containerd.image.name";
/// How deep an index may lie within indexes. Real ones are one deep.
const INDEX_DEPTH_MAX: usize = 4;

/// An image in the store: what its name points at, and the manifest of it that fits this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// The image's id: the digest of its config, as docker prints it.
    pub id: Digest,
    /// What the names point at: a manifest or an index.
    pub target: Descriptor,
    /// The manifest for the platform that was chosen; the target itself when that is no index.
    pub manifest: Descriptor,
    /// The config.
    pub config: Descriptor,
    /// The layers' blobs, base first.
    pub layers: Vec<Descriptor>,
    /// Every name with a tag, sorted.
    pub names: Vec<Reference>,
    /// Every name with a digest, sorted: pulled by digest, or pulled by tag and pinned.
    pub digests: Vec<Reference>,
}

impl ImageRecord {
    /// Bytes of manifest, config and layers as they are stored and travel.
    #[must_use]
    pub fn packed_size(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(|layer| layer.size).sum();
        self.manifest.size.saturating_add(self.config.size).saturating_add(layers)
    }

    /// The name to show: the first, or the id.
    #[must_use]
    pub fn display_name(&self) -> String {
        match self.names.first().or_else(|| self.digests.first()) {
            Some(name) => name.familiar(),
            None => self.id.short(),
        }
    }
}

impl Store {
    /// Every image in the store, one record for each thing that names point at, in the index's order. What is no container
    /// image (artifacts, signatures) and what lacks its manifest here is left out.
    pub fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let index = self.layout().index()?;
        let host = Platform::host();
        let mut records: Vec<ImageRecord> = Vec::new();
        let mut places: BTreeMap<Digest, usize> = BTreeMap::new();
        for entry in &index.manifests {
            let place = match places.get(&entry.digest) {
                Some(place) => *place,
                None => match self.record(entry, &host) {
                    Ok(record) => {
                        records.push(record);
                        places.insert(entry.digest, records.len() - 1);
                        records.len() - 1
                    }
                    Err(
                        StoreError::NotAnImage { .. }
                        | StoreError::Missing { .. }
                        | StoreError::NoPlatform { .. }
                        | StoreError::Manifest(_),
                    ) => continue,
                    Err(error) => return Err(error),
                },
            };
            add_name(&mut records[place], entry);
        }
        for record in &mut records {
            tidy_names(record);
        }
        Ok(records)
    }

    /// The image of this name, for the host's platform; `None` when the store has no such name.
    pub fn image(&self, name: &Reference) -> Result<Option<ImageRecord>, StoreError> {
        self.image_for(name, &Platform::host())
    }

    /// The image of this name for `platform`; `None` when the store has no such name.
    pub fn image_for(&self, name: &Reference, platform: &Platform) -> Result<Option<ImageRecord>, StoreError> {
        let index = self.layout().index()?;
        let Some(entry) = lookup(&index, name) else { return Ok(None) };
        self.record_with_names(entry, &index, platform).map(Some)
    }

    /// Finds an image by what a user typed: a name, an id, the first digits of an id, or a digest.
    pub fn find(&self, text: &str) -> Result<ImageRecord, StoreError> {
        self.find_for(text, &Platform::host())
    }

    /// Like [`Store::find`], for `platform`.
    pub fn find_for(&self, text: &str, platform: &Platform) -> Result<ImageRecord, StoreError> {
        let missing = || StoreError::NoSuchImage { name: text.to_owned() };
        let index = self.layout().index()?;
        let reference = text.parse::<Reference>();
        if let Ok(reference) = &reference
            && let Some(entry) = lookup(&index, reference)
        {
            return self.record_with_names(entry, &index, platform);
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_id = (3..=64).contains(&hex.len()) && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_id {
            return match reference {
                Ok(_) => Err(missing()),
                Err(error) => Err(error.into()),
            };
        }
        let mut found: Vec<ImageRecord> = self
            .images()?
            .into_iter()
            .filter(|record| {
                [record.id, record.target.digest, record.manifest.digest]
                    .iter()
                    .any(|digest| digest.hex().starts_with(hex))
            })
            .collect();
        let ids: std::collections::BTreeSet<Digest> = found.iter().map(|record| record.id).collect();
        match (ids.len(), found.pop()) {
            (1, Some(record)) => {
                // Several targets may hold the same image: their names are the image's names.
                let mut record = record;
                for other in found {
                    record.names.extend(other.names);
                    record.digests.extend(other.digests);
                }
                tidy_names(&mut record);
                Ok(record)
            }
            (0, _) | (_, None) => Err(missing()),
            (count, _) => Err(StoreError::Ambiguous { prefix: text.to_owned(), count }),
        }
    }

    /// The config of an image.
    pub fn config(&self, record: &ImageRecord) -> Result<ImageConfig, StoreError> {
        let raw = self.read_blob(&record.config.digest, CONFIG_BYTES_MAX)?;
        ImageConfig::parse(&raw).map_err(|source| StoreError::Document {
            what: "the image config",
            digest: record.config.digest.to_string(),
            source,
        })
    }

    /// The platform that the image's config names; `None` when it names none.
    pub fn platform(&self, record: &ImageRecord) -> Result<Option<Platform>, StoreError> {
        let config = self.config(record)?;
        let named = !config.os.is_empty() && !config.architecture.is_empty();
        Ok(named.then(|| Platform::new(&config.os, &config.architecture, config.variant.as_deref())))
    }

    /// Gives `target` the name `name`, which moves there when it pointed elsewhere. The target must be in the store, and so
    /// must everything that it needs: a name never points at missing bytes. The children of an index may be missing as
    /// long as one of them is here. A name with a digest is a promise about the bytes: no other target may have it.
    pub fn tag(&self, name: &Reference, target: &Descriptor) -> Result<(), StoreError> {
        pinned(name, &target.digest)?;
        self.require(target, 0, &mut HashSet::new())?;
        let text = name.to_string();
        self.layout().update_index(|index| {
            let old = index.manifests.iter().position(|entry| entry.ref_name() == Some(text.as_str()));
            if let Some(old) = old {
                if index.manifests[old].digest == target.digest {
                    return Ok(());
                }
                forget(index, old);
            }
            // The name takes the place of an entry that has none.
            index.manifests.retain(|entry| entry.digest != target.digest || entry.ref_name().is_some());
            let mut entry = bare(target);
            entry.annotations.insert(ANNOTATION_REF_NAME.to_owned(), text.clone());
            index.manifests.push(entry);
            Ok(())
        })
    }

    /// Keeps `target` in the store without a name.
    pub fn keep(&self, target: &Descriptor) -> Result<(), StoreError> {
        self.require(target, 0, &mut HashSet::new())?;
        self.layout().update_index(|index| {
            if !index.manifests.iter().any(|entry| entry.digest == target.digest) {
                index.manifests.push(bare(target));
            }
            Ok(())
        })
    }

    /// Takes a name away; what it pointed at stays, without a name if that was its last. Says whether the name was there.
    pub fn untag(&self, name: &Reference) -> Result<bool, StoreError> {
        let text = name.to_string();
        self.layout().update_index(|index| {
            let place = index.manifests.iter().position(|entry| entry.ref_name() == Some(text.as_str()));
            match place {
                Some(place) => {
                    forget(index, place);
                    Ok(true)
                }
                None => Ok(false),
            }
        })
    }

    /// Takes every entry of `target` away, names and all; its blobs are garbage from now on unless something else needs
    /// them. Returns the names it had.
    pub fn forget(&self, target: &Digest) -> Result<Vec<String>, StoreError> {
        self.layout().update_index(|index| {
            let mut names = Vec::new();
            index.manifests.retain(|entry| {
                if entry.digest == *target {
                    names.extend(entry.ref_name().map(str::to_owned));
                }
                entry.digest != *target
            });
            Ok(names)
        })
    }

    /// Takes `image` away under the names that its record has. A name that it got meanwhile stays, and the image with it.
    pub fn forget_seen(&self, image: &ImageRecord) -> Result<(), StoreError> {
        let seen: Vec<String> = image.names.iter().chain(&image.digests).map(ToString::to_string).collect();
        self.layout().update_index(|index| {
            index.manifests.retain(|entry| {
                entry.digest != image.target.digest
                    || entry.ref_name().is_some_and(|name| !seen.iter().any(|seen| seen == name))
            });
            Ok(())
        })
    }

    /// Makes the record of what `target` points at, without names.
    pub fn record(&self, target: &Descriptor, platform: &Platform) -> Result<ImageRecord, StoreError> {
        let (manifest, descriptor) = self.choose(target, platform, 0)?;
        let image = manifest.image().expect("choose ends at a manifest");
        if !image.is_image() {
            return Err(StoreError::NotAnImage {
                name: target.digest.to_string(),
                media_type: image.config.media_type.clone(),
            });
        }
        Ok(ImageRecord {
            id: image.config.digest,
            target: bare(target),
            manifest: descriptor,
            config: image.config.clone(),
            layers: image.layers.clone(),
            names: Vec::new(),
            digests: Vec::new(),
        })
    }

    fn record_with_names(
        &self,
        entry: &Descriptor,
        index: &ImageIndex,
        platform: &Platform,
    ) -> Result<ImageRecord, StoreError> {
        let mut record = self.record(entry, platform)?;
        for other in index.manifests.iter().filter(|other| other.digest == entry.digest) {
            add_name(&mut record, other);
        }
        tidy_names(&mut record);
        Ok(record)
    }

    /// Follows indexes to the best manifest that is in the store.
    fn choose(
        &self,
        target: &Descriptor,
        platform: &Platform,
        depth: usize,
    ) -> Result<(Manifest, Descriptor), StoreError> {
        let declared = Some(target.media_type.as_str()).filter(|text| !text.is_empty());
        let manifest = self.manifest(&target.digest, declared)?;
        let Some(index) = manifest.index() else {
            let descriptor = Descriptor { platform: target.platform.clone(), ..manifest.descriptor() };
            return Ok((manifest, descriptor));
        };
        let nothing = || StoreError::NoPlatform { name: target.digest.to_string(), platform: platform.to_string() };
        if depth >= INDEX_DEPTH_MAX {
            return Err(nothing());
        }
        let here: Vec<Descriptor> = index
            .manifests
            .iter()
            .filter(|child| media::is_manifest(&child.media_type) || media::is_index(&child.media_type))
            .filter(|child| self.has(&child.digest).unwrap_or(false))
            .cloned()
            .collect();
        let here = ImageIndex::new(here);
        // What was pulled for another platform on purpose is all there is: then that is the image.
        let unasked = || here.manifests.iter().find(|child| !is_attestation(child));
        let fits =
            if *platform == Platform::host() { here.select(platform).or_else(unasked) } else { here.select(platform) };
        self.choose(fits.ok_or_else(nothing)?, platform, depth + 1)
    }

    /// Checks that `target` and what it needs are in the store, and holds them.
    /// Each document once, however often hostile indexes name it.
    fn require(&self, target: &Descriptor, depth: usize, seen: &mut HashSet<Digest>) -> Result<(), StoreError> {
        if !seen.insert(target.digest) {
            return Ok(());
        }
        self.hold(&target.digest)?;
        let declared = Some(target.media_type.as_str()).filter(|text| !text.is_empty());
        let manifest = self.manifest(&target.digest, declared)?;
        if manifest.index().is_none() {
            for child in manifest.children() {
                self.hold(&child.digest)?;
                if !self.has(&child.digest)? && !media::is_foreign_layer(&child.media_type) {
                    return Err(StoreError::Missing { digest: child.digest, path: self.path().to_owned() });
                }
            }
            return Ok(());
        }
        if depth >= INDEX_DEPTH_MAX {
            let reason = format!("its indexes are nested deeper than {INDEX_DEPTH_MAX}");
            return Err(StoreError::Invalid { name: target.digest.to_string(), reason });
        }
        let mut missing = None;
        let mut any = manifest.children().next().is_none();
        for child in manifest.children() {
            self.hold(&child.digest)?;
            if self.has(&child.digest)? {
                // A manifest in an index may be of a type that only its publisher knows, or call itself one and be none:
                // a blob then.
                if media::is_manifest(&child.media_type) || media::is_index(&child.media_type) {
                    match self.require(child, depth + 1, seen) {
                        Err(error) if error.is_no_manifest() => {}
                        other => other?,
                    }
                }
                any = true;
            } else {
                missing = Some(child.digest);
            }
        }
        match missing {
            Some(digest) if !any => Err(StoreError::Missing { digest, path: self.path().to_owned() }),
            _ => Ok(()),
        }
    }
}

/// A name as text is a reference with a tag, a digest, or neither when another tool wrote it.
fn add_name(record: &mut ImageRecord, entry: &Descriptor) {
    let Some(Ok(name)) = entry.ref_name().map(str::parse::<Reference>) else { return };
    if name.digest().is_some() {
        record.digests.push(name.pinned(record.target.digest));
    } else {
        record.digests.push(name.pinned(record.target.digest));
        record.names.push(name);
    }
}

fn tidy_names(record: &mut ImageRecord) {
    record.names.sort();
    record.names.dedup();
    record.digests.sort();
    record.digests.dedup();
}

/// The entry that `name` stands for: the tag, and the digest where one is given.
fn lookup<'a>(index: &'a ImageIndex, name: &Reference) -> Option<&'a Descriptor> {
    let text = name.to_string();
    // What stands there may have been written by another tool: a pinned name only ever means its digest.
    let fits = |entry: &&Descriptor| {
        entry.ref_name() == Some(text.as_str()) && name.digest().is_none_or(|digest| entry.digest == *digest)
    };
    if let Some(entry) = index.manifests.iter().find(fits) {
        return Some(entry);
    }
    // `name@digest` also finds what was pulled by a tag of the same repository.
    let digest = name.digest()?;
    let repository = name.name();
    index.manifests.iter().find(|entry| {
        entry.digest == *digest
            && entry
                .ref_name()
                .and_then(|text| text.parse::<Reference>().ok())
                .is_some_and(|other| other.name() == repository)
    })
}

/// Refuses a name that promises other bytes than it would get.
pub(crate) fn pinned(name: &Reference, target: &Digest) -> Result<(), StoreError> {
    match name.digest() {
        Some(digest) if digest != target => {
            Err(StoreError::Pinned { name: name.to_string(), digest: target.to_string() })
        }
        _ => Ok(()),
    }
}

/// Removes the entry at `place`; when it was the target's last, an entry without a name stays.
fn forget(index: &mut ImageIndex, place: usize) {
    let entry = index.manifests.remove(place);
    if !index.manifests.iter().any(|other| other.digest == entry.digest) {
        index.manifests.push(bare(&entry));
    }
}

/// The descriptor without the annotations that belong to an entry.
fn bare(target: &Descriptor) -> Descriptor {
    let mut bare = Descriptor::new(target.media_type.clone(), target.digest, target.size);
    bare.platform.clone_from(&target.platform);
    bare.artifact_type.clone_from(&target.artifact_type);
    bare
}

fn is_attestation(child: &Descriptor) -> bool {
    child.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{image, scratch};

    #[test]
    fn indexes_that_name_one_document_many_times_cost_no_more_than_one() {
        let (_dir, store) = scratch();
        let mut target = image(&store, b"x");
        // 3,000 × 3,000 × 3,000 documents for one that follows every name.
        for _ in 0..3 {
            let index = ImageIndex::new(vec![target.clone(); 3_000]);
            target = store.put(media::OCI_INDEX, &serde_json::to_vec(&index).unwrap()).unwrap();
        }
        let begun = std::time::Instant::now();
        store.tag(&"many:1".parse().unwrap(), &target).unwrap();
        assert!(store.image(&"many:1".parse().unwrap()).unwrap().is_some());
        assert!(begun.elapsed() < std::time::Duration::from_secs(60));
        crate::gc::run(&store, crate::gc::Options::default()).unwrap();
        assert_eq!(store.check().unwrap().problems, [""; 0]);
    }

    #[test]
    fn a_name_that_came_meanwhile_is_not_forgotten() {
        let (_dir, store) = scratch();
        let target = image(&store, b"x");
        let (one, two): (Reference, Reference) = ("one:1".parse().unwrap(), "two:1".parse().unwrap());
        store.tag(&one, &target).unwrap();
        let seen = store.image(&one).unwrap().unwrap();
        store.tag(&two, &target).unwrap();
        store.forget_seen(&seen).unwrap();
        assert!(store.image(&one).unwrap().is_none());
        assert!(store.image(&two).unwrap().is_some());
        let seen = store.image(&two).unwrap().unwrap();
        store.forget_seen(&seen).unwrap();
        assert_eq!(store.images().unwrap(), []);
    }

    #[test]
    fn a_name_with_a_digest_names_only_what_has_it() {
        let (_dir, store) = scratch();
        let (honest, other) = (image(&store, b"honest"), image(&store, b"other"));
        let name: Reference = format!("alpine@{}", honest.digest).parse().unwrap();
        assert!(matches!(store.tag(&name, &other), Err(StoreError::Pinned { .. })));
        assert!(store.image(&name).unwrap().is_none());
        store.tag(&name, &honest).unwrap();
        assert_eq!(store.image(&name).unwrap().unwrap().target.digest, honest.digest);
        // Another tool may write what it likes into index.json.
        let lie: Reference = format!("lie@{}", honest.digest).parse().unwrap();
        store
            .layout()
            .update_index(|index| {
                let mut entry = bare(&other);
                entry.annotations.insert(ANNOTATION_REF_NAME.to_owned(), lie.to_string());
                index.manifests.push(entry);
                Ok::<_, StoreError>(())
            })
            .unwrap();
        assert!(store.image(&lie).unwrap().is_none());
        assert!(store.find(&lie.to_string()).is_err());
        let problems = store.check().unwrap().problems;
        assert!(problems.len() == 1 && problems[0].contains(&lie.to_string()), "{problems:?}");
    }

    #[test]
    fn an_archive_cannot_give_a_pinned_name_to_another_image() {
        let (_dir, store) = scratch();
        let target = image(&store, b"evil");
        let name: Reference = format!("alpine@{}", Digest::sha256(b"promised")).parse().unwrap();
        let record = store.record(&target, &Platform::host()).unwrap();
        for format in [crate::archive::Format::Docker, crate::archive::Format::Oci] {
            let archive = crate::archive::save(&store, &[(record.clone(), vec![name.clone()])], format, Vec::new());
            let (_dir, other) = scratch();
            let refused = crate::archive::load(&other, &*archive.unwrap(), None);
            assert!(matches!(refused, Err(StoreError::Pinned { .. })), "{refused:?}");
            assert!(other.images().unwrap().is_empty());
        }
    }
}
