//! Saves images: as a docker archive, an oci-archive or an OCI layout directory.
//!
//! In: image records. Out: a stream or a directory with the very bytes of manifests, configs and layers. The docker form is
//! docker's own present one: an OCI layout with `manifest.json` beside it, so that old and new readers both take it and no
//! digest changes.

use crate::archive::{DOCKER_MANIFEST, DockerImage};
use crate::layer::write::Writer;
use crate::store::layout::{LAYOUT_MARKER, blob_name};
use crate::store::names::ANNOTATION_CONTAINERD_NAME;
use crate::store::{ImageRecord, Layout, Store, StoreError};
use oci::descriptor::ANNOTATION_REF_NAME;
use oci::manifest::{ImageIndex, media};
use oci::{Descriptor, Digest, Reference};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

/// How an image is written as one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// What `docker load` takes; readers of oci-archives take it too.
    Docker,
    /// An OCI layout in a tar.
    Oci,
}

/// Writes images with the names given beside them (all names of the image when the list is empty) as one archive.
pub fn save<W: Write>(
    store: &Store,
    images: &[(ImageRecord, Vec<Reference>)],
    format: Format,
    out: W,
) -> Result<W, StoreError> {
    let (index, blobs) = collect(store, images)?;
    let docker = (format == Format::Docker)
        .then(|| images.iter().map(|(image, names)| docker_image(image, names)).collect::<Vec<_>>());
    write_archive(store, &index, docker.as_deref(), &blobs, out)
}

/// Writes one image as an oci-archive in which its name is just `label`, as `oci-archive:FILE:LABEL` means it.
pub fn save_labelled<W: Write>(
    store: &Store,
    image: &ImageRecord,
    label: Option<&str>,
    out: W,
) -> Result<W, StoreError> {
    let mut blobs = Vec::new();
    walk(store, &image.target, &mut blobs)?;
    let mut entry = image.target.clone();
    if let Some(label) = label {
        entry.annotations.insert(ANNOTATION_REF_NAME.to_owned(), label.to_owned());
    }
    write_archive(store, &ImageIndex::new(vec![entry]), None, &blobs, out)
}

fn write_archive<W: Write>(
    store: &Store,
    index: &ImageIndex,
    docker: Option<&[DockerImage]>,
    blobs: &[Digest],
    out: W,
) -> Result<W, StoreError> {
    let mut tar = Writer::new(out);
    let failed = |error: io::Error| StoreError::io("write the archive of", store.path())(error);
    let document = |tar: &mut Writer<W>, name: &str, raw: &[u8]| {
        tar.plain_file(name, raw.len() as u64, &mut &*raw).map_err(failed)
    };
    document(&mut tar, "oci-layout", LAYOUT_MARKER.as_bytes())?;
    document(&mut tar, "index.json", &to_json(index))?;
    if let Some(list) = docker {
        document(&mut tar, DOCKER_MANIFEST, &to_json(&list))?;
    }
    tar.plain_directory("blobs").map_err(failed)?;
    let folders: BTreeSet<&str> = blobs.iter().map(|digest| digest.algorithm().name()).collect();
    for folder in folders {
        tar.plain_directory(&format!("blobs/{folder}")).map_err(failed)?;
    }
    for digest in blobs {
        let (mut file, size) = store
            .layout()
            .find_blob(digest)?
            .ok_or_else(|| StoreError::Missing { digest: *digest, path: store.path().to_owned() })?;
        tar.plain_file(&blob_name(digest), size, &mut file).map_err(failed)?;
    }
    tar.finish().map_err(failed)
}

/// Adds images to the OCI layout directory at `path`, which is made when it is not there. A name that the layout has
/// already moves to the new image. `name_as` is the text of the name there; without it the full names are used.
pub fn save_layout(
    store: &Store,
    images: &[(ImageRecord, Vec<Reference>)],
    path: &Path,
    name_as: Option<&str>,
) -> Result<(), StoreError> {
    let (index, blobs) = collect(store, images)?;
    let layout = Layout::create(path)?;
    for digest in &blobs {
        if layout.find_blob(digest)?.is_some() {
            continue;
        }
        let to = layout.blob_path(digest);
        let temporary = to.with_extension("partial");
        let mut from = store.open_blob(digest)?;
        let mut copy = || -> io::Result<()> {
            let mut file = std::fs::File::create(&temporary)?;
            io::copy(&mut from, &mut file)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &to)
        };
        copy().map_err(StoreError::io("write the blob", &to))?;
    }
    layout.update_index(|existing| {
        for mut entry in index.manifests {
            if let Some(name) = name_as {
                entry.annotations.insert(ANNOTATION_REF_NAME.to_owned(), name.to_owned());
            }
            let name = entry.ref_name().map(str::to_owned);
            existing.manifests.retain(|other| match &name {
                Some(name) => other.ref_name() != Some(name.as_str()),
                None => other.digest != entry.digest,
            });
            if !existing.manifests.contains(&entry) {
                existing.manifests.push(entry);
            }
        }
        Ok(())
    })
}

/// The index of an archive, and every blob that goes into it, each once and in the order in which it is needed.
fn collect(store: &Store, images: &[(ImageRecord, Vec<Reference>)]) -> Result<(ImageIndex, Vec<Digest>), StoreError> {
    let mut index = ImageIndex::new(Vec::new());
    let mut blobs = Vec::new();
    for (image, names) in images {
        walk(store, &image.target, &mut blobs)?;
        let names = if names.is_empty() { &image.names } else { names };
        if names.is_empty() {
            index.manifests.push(image.target.clone());
        }
        for name in names {
            let mut entry = image.target.clone();
            entry.annotations.insert(ANNOTATION_REF_NAME.to_owned(), name.to_string());
            entry.annotations.insert(ANNOTATION_CONTAINERD_NAME.to_owned(), name.to_string());
            if !index.manifests.contains(&entry) {
                index.manifests.push(entry);
            }
        }
    }
    Ok((index, blobs))
}

/// Adds `target` and what of its needs is in the store.
fn walk(store: &Store, target: &Descriptor, blobs: &mut Vec<Digest>) -> Result<(), StoreError> {
    if blobs.contains(&target.digest) {
        return Ok(());
    }
    store.hold(&target.digest)?;
    blobs.push(target.digest);
    let manifest = store.manifest(&target.digest, Some(target.media_type.as_str()).filter(|text| !text.is_empty()))?;
    for child in manifest.children() {
        store.hold(&child.digest)?;
        if !store.has(&child.digest)? {
            // Other platforms of an index, and foreign layers; anything else would have been refused when it was named.
            continue;
        }
        if media::is_manifest(&child.media_type) || media::is_index(&child.media_type) {
            match walk(store, child, blobs) {
                // It only calls itself a manifest: its bytes are all there is.
                Err(error) if error.is_no_manifest() => {}
                other => other?,
            }
        } else if !blobs.contains(&child.digest) {
            blobs.push(child.digest);
        }
    }
    Ok(())
}

fn docker_image(image: &ImageRecord, names: &[Reference]) -> DockerImage {
    let names = if names.is_empty() { &image.names } else { names };
    DockerImage {
        config: blob_name(&image.config.digest),
        repo_tags: Some(names.iter().map(Reference::familiar).collect()),
        layers: Some(image.layers.iter().map(|layer| blob_name(&layer.digest)).collect()),
    }
}

fn to_json(document: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("archive documents have only string keys")
}
