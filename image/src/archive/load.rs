//! Loads archives: every file of the stream becomes a blob under its own digest, then the documents say what they are.
//!
//! In: a stream in any order of entries. Out: images with names. Nothing is named before everything it needs is verified;
//! what belongs to no image is garbage and goes with the next collection.

use crate::archive::{DOCKER_MANIFEST, DOCUMENT_BYTES_MAX, DockerImage, refused};
use crate::layer::compression::{self, Compression};
use crate::layer::tar::{Kind, Reader, TarError};
use crate::policy::{Local, Policy};
use crate::store::names::ANNOTATION_CONTAINERD_NAME;
use crate::store::{Layout, Store, StoreError};
use oci::config::{CONFIG_BYTES_MAX, ImageConfig};
use oci::manifest::{ImageIndex, ImageManifest, MANIFEST_BYTES_MAX, media};
use oci::{Descriptor, Digest, Reference};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;

/// How many files an archive may hold: some 30,000 layers.
const FILES_MAX: usize = 100_000;
/// How many links in a row are followed inside an archive.
const LINKS_MAX: usize = 8;

/// What was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What the names point at.
    pub target: Descriptor,
    /// The image's id; `None` when it is no container image or lacks a manifest for this host.
    pub id: Option<Digest>,
    /// The names it was given; none when the archive has none.
    pub names: Vec<Reference>,
    /// The names in the archive's index as they stand there, which need not be image names.
    pub labels: BTreeSet<String>,
}

/// The files of an archive, by path.
#[derive(Default)]
struct Files {
    blobs: BTreeMap<String, (Digest, u64)>,
    links: BTreeMap<String, String>,
}

/// Loads a docker archive or an oci-archive from a stream, compressed or not. `name` is given to an image that has none in
/// the archive, if there is exactly one.
pub fn load(store: &Store, stream: impl Read + Send, name: Option<&Reference>) -> Result<Vec<Loaded>, StoreError> {
    load_judged(store, stream, name, None, Path::new("-"))
}

/// Like [`load`], and nothing is named that `policy` does not accept of an archive at `path`.
pub fn load_judged(
    store: &Store,
    stream: impl Read + Send,
    name: Option<&Reference>,
    policy: Option<&Policy>,
    path: &Path,
) -> Result<Vec<Loaded>, StoreError> {
    let judge = |local: Local<'_>| match policy {
        Some(policy) => policy.check_local(local).map_err(|error| refused(error.to_string())),
        None => Ok(()),
    };
    let (stream, _) = compression::plain(stream).map_err(|error| refused(error.to_string()))?;
    let mut reader = Reader::new(stream);
    let mut files = Files::default();
    while let Some(entry) = reader.next_entry().map_err(tar)? {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        if files.blobs.len() + files.links.len() >= FILES_MAX {
            return Err(refused(format!("it holds more than {FILES_MAX} files")));
        }
        match entry.kind {
            Kind::File if entry.sparse.is_some() => return Err(refused(format!("{path} is a sparse file"))),
            Kind::File => {
                let blob = take_file(store, &mut reader, &path, entry.size)?;
                if files.blobs.insert(path.clone(), blob).is_some() {
                    return Err(refused(format!("{path} is in it twice")));
                }
            }
            Kind::HardLink => {
                files.links.insert(path, String::from_utf8_lossy(&entry.link).into_owned());
            }
            Kind::Symlink => {
                let target = join(&path, &String::from_utf8_lossy(&entry.link));
                files.links.insert(path, target);
            }
            Kind::Directory => {}
            _ => return Err(refused(format!("{path} is a device or a pipe"))),
        }
    }
    let loaded = if files.blobs.contains_key("index.json") && files.blobs.contains_key("oci-layout") {
        judge(Local::OciArchive(path, None))?;
        files.load_oci(store)?
    } else if files.find(DOCKER_MANIFEST).is_some() {
        judge(Local::DockerArchive)?;
        files.load_docker(store)?
    } else {
        return Err(refused("it has neither oci-layout with index.json nor docker's manifest.json"));
    };
    name_the_only(store, loaded, name)
}

/// Loads what the index of an OCI layout directory names; only the image `reference` when one is given (the text of its
/// name in the index). `name` is given to an image that has none, if there is exactly one.
pub fn load_layout(
    store: &Store,
    path: &Path,
    reference: Option<&str>,
    name: Option<&Reference>,
) -> Result<Vec<Loaded>, StoreError> {
    let layout = Layout::open(path)?;
    let mut index = layout.index()?;
    if let Some(reference) = reference {
        index.manifests.retain(|entry| entry.ref_name() == Some(reference));
        if index.manifests.is_empty() {
            return Err(StoreError::NoSuchImage { name: format!("{reference} in {}", path.display()) });
        }
    }
    let mut seen = BTreeSet::new();
    for entry in &index.manifests {
        copy_tree(store, &layout, entry, 0, &mut seen)?;
    }
    let loaded = name_all(store, &index)?;
    name_the_only(store, loaded, name)
}

/// Writes one file of the archive into the store. A path that calls itself a blob must hold what its name says.
fn take_file<R: Read>(
    store: &Store,
    reader: &mut Reader<R>,
    path: &str,
    size: u64,
) -> Result<(Digest, u64), StoreError> {
    let expected = match path.strip_prefix("blobs/").and_then(|rest| rest.split_once('/')) {
        Some((algorithm, hex)) => Some(format!("{algorithm}:{hex}").parse::<Digest>()?),
        None => None,
    };
    if let Some(digest) = expected
        && store.has(&digest)?
    {
        store.hold(&digest)?;
        if store.blob_size(&digest)? == Some(size) {
            return Ok((digest, size));
        }
    }
    let mut ingest = store.ingest(expected, Some(size))?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match reader.read_data(&mut buffer).map_err(tar)? {
            0 => return ingest.commit(),
            read => ingest.write_all(&buffer[..read]).map_err(StoreError::io("write a blob below", store.path()))?,
        }
    }
}

impl Files {
    /// The blob at `path`, links followed.
    fn find(&self, path: &str) -> Option<(Digest, u64)> {
        let mut path = join("", path);
        for _ in 0..LINKS_MAX {
            match (self.blobs.get(&path), self.links.get(&path)) {
                (Some(blob), _) => return Some(*blob),
                (None, Some(target)) => path.clone_from(target),
                (None, None) => return None,
            }
        }
        None
    }

    fn load_oci(&self, store: &Store) -> Result<Vec<Loaded>, StoreError> {
        let (digest, _) = self.blobs["index.json"];
        let raw = store.read_blob(&digest, DOCUMENT_BYTES_MAX)?;
        let index: ImageIndex = serde_json::from_slice(&raw).map_err(|source| StoreError::Document {
            what: "the archive's index.json",
            digest: digest.to_string(),
            source,
        })?;
        name_all(store, &index)
    }

    fn load_docker(&self, store: &Store) -> Result<Vec<Loaded>, StoreError> {
        let (digest, _) = self.find(DOCKER_MANIFEST).expect("the caller found it");
        let raw = store.read_blob(&digest, DOCUMENT_BYTES_MAX)?;
        let images: Vec<DockerImage> = serde_json::from_slice(&raw).map_err(|source| StoreError::Document {
            what: "the archive's manifest.json",
            digest: digest.to_string(),
            source,
        })?;
        images.iter().map(|image| self.load_docker_image(store, image)).collect()
    }

    /// Makes a manifest for an image of a docker archive, which has none. The config, and so the image's id, stays.
    fn load_docker_image(&self, store: &Store, image: &DockerImage) -> Result<Loaded, StoreError> {
        let missing = |path: &str| refused(format!("manifest.json names {path}, which is not in the archive"));
        let (config_digest, config_size) = self.find(&image.config).ok_or_else(|| missing(&image.config))?;
        let raw = store.read_blob(&config_digest, CONFIG_BYTES_MAX)?;
        let config = ImageConfig::parse(&raw).map_err(|source| StoreError::Document {
            what: "the image config",
            digest: config_digest.to_string(),
            source,
        })?;
        let paths = image.layers.as_deref().unwrap_or_default();
        if paths.len() != config.rootfs.diff_ids.len() {
            return Err(StoreError::Invalid {
                name: image.config.clone(),
                reason: format!("{} layers but {} diff_ids", paths.len(), config.rootfs.diff_ids.len()),
            });
        }
        let mut layers = Vec::with_capacity(paths.len());
        for (path, diff_id) in paths.iter().zip(&config.rootfs.diff_ids) {
            let (digest, size) = self.find(path).ok_or_else(|| missing(path))?;
            let compression = sniff(store, &digest)?;
            if compression == Compression::None && digest != *diff_id {
                return Err(StoreError::Mismatch { expected: diff_id.to_string(), actual: digest.to_string() });
            }
            let media_type = match compression {
                Compression::None => media::DOCKER_LAYER,
                Compression::Gzip => media::DOCKER_LAYER_GZIP,
                Compression::Zstd => media::DOCKER_LAYER_ZSTD,
            };
            layers.push(Descriptor::new(media_type, digest, size));
        }
        let config = Descriptor::new(media::DOCKER_CONFIG, config_digest, config_size);
        let manifest = ImageManifest::new(config, layers);
        let raw = serde_json::to_vec(&manifest).expect("a manifest has only string keys");
        let target = store.put(media::DOCKER_MANIFEST, &raw)?;
        let names = image.repo_tags.iter().flatten().map(|name| name.parse()).collect::<Result<Vec<Reference>, _>>()?;
        finish(store, target, names)
    }
}

/// Names every entry of an index; entries of one target become one result.
fn name_all(store: &Store, index: &ImageIndex) -> Result<Vec<Loaded>, StoreError> {
    let mut targets: Vec<(Descriptor, BTreeSet<Reference>, BTreeSet<String>)> = Vec::new();
    for entry in &index.manifests {
        let mut target = Descriptor::new(entry.media_type.clone(), entry.digest, entry.size);
        target.platform.clone_from(&entry.platform);
        let names = entry_name(entry);
        let label = entry.ref_name().map(str::to_owned);
        match targets.iter_mut().find(|(other, ..)| other.digest == target.digest) {
            Some((_, all, labels)) => {
                all.extend(names);
                labels.extend(label);
            }
            None => targets.push((target, names.into_iter().collect(), label.into_iter().collect())),
        }
    }
    let finish = |(target, names, labels): (Descriptor, BTreeSet<Reference>, BTreeSet<String>)| {
        Ok(Loaded { labels, ..finish(store, target, names.into_iter().collect())? })
    };
    targets.into_iter().map(finish).collect()
}

/// The full name of an entry: containerd's annotation, or a reference in the standard one. A bare word there is a tag of
/// an unknown repository and names nothing.
fn entry_name(entry: &Descriptor) -> Option<Reference> {
    if let Some(name) = entry.annotations.get(ANNOTATION_CONTAINERD_NAME)
        && let Ok(name) = name.parse()
    {
        return Some(name);
    }
    entry.ref_name().filter(|text| text.contains(['/', ':', '@'])).and_then(|text| text.parse().ok())
}

fn finish(store: &Store, target: Descriptor, names: Vec<Reference>) -> Result<Loaded, StoreError> {
    // An index in an index.json without a size is told by reading it.
    let manifest =
        store.manifest(&target.digest, Some(&target.media_type).filter(|t| !t.is_empty()).map(|t| t.as_str()))?;
    let target = Descriptor { platform: target.platform, ..manifest.descriptor() };
    for name in &names {
        crate::store::names::pinned(name, &target.digest)?;
    }
    if names.is_empty() {
        store.keep(&target)?;
    }
    for name in &names {
        store.tag(name, &target)?;
    }
    let id = store.record(&target, &oci::Platform::host()).ok().map(|record| record.id);
    Ok(Loaded { target, id, names, labels: BTreeSet::new() })
}

fn name_the_only(store: &Store, mut loaded: Vec<Loaded>, name: Option<&Reference>) -> Result<Vec<Loaded>, StoreError> {
    if let (Some(name), [only]) = (name, loaded.as_mut_slice())
        && only.names.is_empty()
    {
        store.tag(name, &only.target)?;
        only.names.push(name.clone());
    }
    Ok(loaded)
}

/// Copies a manifest and what it needs out of a layout. Children of an index that are not there are left out.
fn copy_tree(
    store: &Store,
    layout: &Layout,
    target: &Descriptor,
    depth: usize,
    seen: &mut BTreeSet<Digest>,
) -> Result<(), StoreError> {
    // Each document once, however often hostile indexes name it.
    if !seen.insert(target.digest) {
        return Ok(());
    }
    if depth > 4 {
        return Err(refused("its indexes are nested too deeply"));
    }
    let raw = layout.read_blob(&target.digest, MANIFEST_BYTES_MAX)?;
    let declared = Some(target.media_type.as_str()).filter(|text| !text.is_empty());
    let manifest = oci::manifest::Manifest::parse_with(raw, declared, target.digest.algorithm())?;
    for child in manifest.children() {
        store.hold(&child.digest)?;
        match (layout.find_blob(&child.digest)?, manifest.index().is_some()) {
            (None, true) => {}
            (None, false) if media::is_foreign_layer(&child.media_type) => {}
            (None, false) => {
                return Err(StoreError::Missing { digest: child.digest, path: layout.path().to_owned() });
            }
            (Some(_), true) if media::is_manifest(&child.media_type) || media::is_index(&child.media_type) => {
                copy_tree(store, layout, child, depth + 1, seen)?;
            }
            (Some((mut file, size)), _) => {
                if size != child.size {
                    return Err(StoreError::Size {
                        name: child.digest.to_string(),
                        expected: child.size,
                        actual: size,
                        at_least: false,
                    });
                }
                if !store.has(&child.digest)? {
                    let mut ingest = store.ingest(Some(child.digest), Some(child.size))?;
                    std::io::copy(&mut file, &mut ingest)
                        .map_err(StoreError::io("copy the blob", layout.blob_path(&child.digest)))?;
                    ingest.commit()?;
                }
            }
        }
    }
    store.put_as(manifest.media_type(), manifest.raw(), target.digest.algorithm())?;
    Ok(())
}

fn sniff(store: &Store, digest: &Digest) -> Result<Compression, StoreError> {
    let mut start = Vec::new();
    store
        .open_blob(digest)?
        .take(6)
        .read_to_end(&mut start)
        .map_err(StoreError::io("read", store.layout().blob_path(digest)))?;
    Compression::sniff(&start).ok_or_else(|| refused("a layer is compressed with bzip2 or xz, which is not supported"))
}

/// The path that `link`, found at `path`, leads to inside the archive; it cannot lead out.
fn join(path: &str, link: &str) -> String {
    let mut parts: Vec<&str> = if link.starts_with('/') { Vec::new() } else { path.split('/').collect() };
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn tar(error: TarError) -> StoreError {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    refused(format!("{error}{cause}"))
}
