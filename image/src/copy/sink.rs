//! Where a copy writes to. Every blob is verified before it has a name; the image's own name comes last.

use super::source::{Staging, place_error};
use super::{CopyError, CopyOptions, Place};
use crate::archive::Format;
use crate::progress::{Event, Progress};
use crate::remote::client::Repository;
use crate::remote::transport::Transport;
use crate::store::{Layout, Store, StoreError};
use oci::descriptor::{ANNOTATION_REF_NAME, Descriptor};
use oci::digest::{Digest, Hasher};
use oci::manifest::Manifest;
use oci::platform::Platform;
use oci::reference::Reference;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;

/// One open destination.
pub(super) struct Sink {
    kind: Kind,
    place: String,
    /// The source's repository, when it is of the same registry: its blobs need not travel.
    mount_from: Option<String>,
}

#[expect(clippy::large_enum_variant, reason = "one for a whole copy")]
enum Kind {
    Registry { repository: Repository, reference: Reference },
    Layout { layout: Layout, name: Option<String> },
    Store { store: Store, name: Reference },
    Archive { staging: Staging, path: PathBuf, name: Name },
    Dir(PathBuf),
}

/// The name of the image in an archive, which also says what kind of archive.
enum Name {
    /// A docker archive.
    Docker(Option<Reference>),
    /// An OCI archive; its name can be any word.
    Label(Option<String>),
}

impl Sink {
    pub(super) async fn open(store: &Store, place: &Place, options: &CopyOptions) -> Result<Self, CopyError> {
        let (kind, text) = match place {
            Place::Registry(reference) => {
                let text = format!("docker://{reference}");
                let to = &options.to;
                let transport = Arc::new(Transport::new(to.config.clone(), to.identity.clone(), to.limits));
                let repository =
                    Repository::open(transport, reference.registry(), reference.repository(), true).map_err(
                        |source| CopyError::Remote { step: "write", place: text.clone(), source: Box::new(source) },
                    )?;
                (Kind::Registry { repository, reference: reference.clone() }, text)
            }
            Place::Layout(path, name) => {
                let text = format!("oci:{}", path.display());
                let layout = Layout::create(path).map_err(|source| unwritable(&text, source))?;
                (Kind::Layout { layout, name: name.clone() }, text)
            }
            Place::Store(name) => {
                let text = format!("store:{name}");
                let name = name
                    .parse()
                    .map_err(|error: oci::reference::ReferenceError| place_error(&text, &error.to_string()))?;
                (Kind::Store { store: store.clone(), name }, text)
            }
            Place::OciArchive(path, name) => {
                let text = format!("oci-archive:{}", path.display());
                let staging = Staging::new(store).map_err(|source| unwritable(&text, source))?;
                (Kind::Archive { staging, path: path.clone(), name: Name::Label(name.clone()) }, text)
            }
            Place::DockerArchive(path, name) => {
                let text = format!("docker-archive:{}", path.display());
                let staging = Staging::new(store).map_err(|source| unwritable(&text, source))?;
                (Kind::Archive { staging, path: path.clone(), name: Name::Docker(name.clone()) }, text)
            }
            Place::Dir(path) => {
                let text = format!("dir:{}", path.display());
                let fail = |source| CopyError::File { step: "make", path: path.clone(), source };
                std::fs::create_dir_all(path).map_err(fail)?;
                write_new(&path.join("version"), b"Directory Transport Version: 1.1\n")?;
                (Kind::Dir(path.clone()), text)
            }
        };
        Ok(Self { kind, place: text, mount_from: None })
    }

    /// Says where the image comes from: within one registry, blobs are mounted.
    pub(super) fn mounts_from(&mut self, from: &Place) {
        if let (Kind::Registry { reference, .. }, Place::Registry(from)) = (&self.kind, from)
            && from.registry() == reference.registry()
            && from.repository() != reference.repository()
        {
            self.mount_from = Some(from.repository().to_owned());
        }
    }

    /// Mounts a blob from the source's repository; `false` when it must travel.
    pub(super) async fn mount(&self, blob: &Descriptor) -> bool {
        match (&self.kind, &self.mount_from) {
            // Whoever may write here need not be allowed to read there: then it travels, and what fails is said there.
            (Kind::Registry { repository, .. }, Some(from)) => {
                repository.mount(&blob.digest, from).await.unwrap_or(false)
            }
            _ => false,
        }
    }

    fn remote(&self, source: crate::remote::Error) -> CopyError {
        CopyError::Remote { step: "write", place: self.place.clone(), source: Box::new(source) }
    }

    fn store(&self, source: StoreError) -> CopyError {
        unwritable(&self.place, source)
    }

    /// Whether a blob is there already.
    pub(super) async fn has(&self, blob: &Descriptor) -> Result<bool, CopyError> {
        match &self.kind {
            Kind::Registry { repository, .. } => repository
                .blob_size(&blob.digest)
                .await
                .map(|size| size.is_some())
                .map_err(|source| self.remote(source)),
            Kind::Layout { layout, .. } => {
                let found = layout.find_blob(&blob.digest).map_err(|source| self.store(source))?;
                Ok(found.is_some_and(|(_, size)| size == blob.size))
            }
            Kind::Store { store, .. } => {
                store.hold(&blob.digest).map_err(|source| self.store(source))?;
                store.has(&blob.digest).map_err(|source| self.store(source))
            }
            Kind::Archive { staging, .. } => staging.store.has(&blob.digest).map_err(|source| self.store(source)),
            // A directory is written whole: an old file of that name was verified by nobody.
            Kind::Dir(_) => Ok(false),
        }
    }

    /// Writes a blob.
    pub(super) async fn put_blob(
        &self,
        blob: &Descriptor,
        file: File,
        progress: &dyn Progress,
    ) -> Result<(), CopyError> {
        match &self.kind {
            Kind::Registry { repository, .. } => {
                let sent = |done| progress.event(Event::Moved { digest: &blob.digest, done, size: blob.size });
                repository
                    .push_blob(blob, Arc::new(file), None, &[], &sent)
                    .await
                    .map(drop)
                    .map_err(|source| self.remote(source))
            }
            Kind::Store { store, .. } | Kind::Archive { staging: Staging { store, .. }, .. } => {
                tokio::task::block_in_place(|| {
                    let ingest =
                        store.ingest(Some(blob.digest), Some(blob.size)).map_err(|source| self.store(source))?;
                    let mut out = ingest;
                    let mut from = file;
                    io::copy(&mut from, &mut out).map_err(|source| CopyError::File {
                        step: "copy a blob into",
                        path: store.path().to_owned(),
                        source,
                    })?;
                    out.commit().map(drop).map_err(|source| self.store(source))
                })
            }
            Kind::Layout { layout, .. } => {
                let path = layout.blob_path(&blob.digest);
                tokio::task::block_in_place(|| copy_verified(file, &path, blob))
            }
            Kind::Dir(folder) => {
                let path = folder.join(blob.digest.hex());
                tokio::task::block_in_place(|| copy_verified(file, &path, blob))
            }
        }
    }

    /// Writes a manifest under its digest (and `name`, where the place has names besides the image's own).
    pub(super) async fn put_manifest(&mut self, manifest: &Manifest, name: Option<&str>) -> Result<(), CopyError> {
        let digest = *manifest.digest();
        match &self.kind {
            Kind::Registry { repository, .. } => {
                let name = name.map_or_else(|| digest.to_string(), str::to_owned);
                let keeps = repository.push_manifest(&name, manifest).await.map_err(|source| self.remote(source))?;
                if let (Some(subject), false) = (manifest.subject(), keeps) {
                    let mut referrer = manifest.descriptor();
                    referrer.artifact_type = manifest.artifact_type().map(str::to_owned);
                    referrer.annotations = manifest.annotations().clone();
                    let added = repository.add_fallback_referrer(&subject.digest, referrer).await;
                    added.map_err(|source| self.remote(source))?;
                }
                Ok(())
            }
            Kind::Store { store, .. } | Kind::Archive { staging: Staging { store, .. }, .. } => {
                let put = store.put_as(manifest.media_type(), manifest.raw(), digest.algorithm());
                put.map(drop).map_err(|source| self.store(source))
            }
            Kind::Layout { layout, .. } => write_new(&layout.blob_path(&digest), manifest.raw()),
            Kind::Dir(folder) => write_new(&folder.join(format!("{}.manifest.json", digest.hex())), manifest.raw()),
        }
    }

    /// Writes the top manifest and gives the image its name.
    pub(super) async fn finish(&mut self, top: &Manifest) -> Result<(), CopyError> {
        if let Kind::Registry { reference, .. } = &self.kind {
            let tag = reference.tag().map(str::to_owned);
            return self.put_manifest(top, tag.as_deref()).await;
        }
        if let Kind::Dir(folder) = &self.kind {
            return write_new(&folder.join("manifest.json"), top.raw());
        }
        self.put_manifest(top, None).await?;
        let target = top.descriptor();
        match &self.kind {
            Kind::Layout { layout, name } => layout
                .update_index(|index| {
                    index.manifests.retain(|entry| match name {
                        Some(name) => entry.ref_name() != Some(name),
                        None => entry.digest != target.digest || entry.ref_name().is_some(),
                    });
                    let mut entry = target.clone();
                    if let Some(name) = name {
                        entry.annotations.insert(ANNOTATION_REF_NAME.to_owned(), name.clone());
                    }
                    index.manifests.push(entry);
                    Ok::<(), StoreError>(())
                })
                .map_err(|source| self.store(source)),
            Kind::Store { store, name } => store.tag(name, &target).map_err(|source| self.store(source)),
            Kind::Archive { staging, path, name } => {
                let record = staging.store.record(&target, &Platform::host()).map_err(|source| self.store(source))?;
                let fail = |source| CopyError::File { step: "write", path: path.clone(), source };
                let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
                let written = File::create(&temporary).map_err(fail).and_then(|file| {
                    let out = io::BufWriter::with_capacity(COPY_BYTES, file);
                    let out = match name {
                        Name::Label(label) => {
                            crate::archive::save_labelled(&staging.store, &record, label.as_deref(), out)
                        }
                        Name::Docker(name) => {
                            let names = name.iter().cloned().collect();
                            crate::archive::save(&staging.store, &[(record, names)], Format::Docker, out)
                        }
                    };
                    let mut out = out.map_err(|source| self.store(source))?;
                    out.flush().map_err(fail)?;
                    crate::archive::place(&temporary, path).map_err(fail)
                });
                if written.is_err() {
                    let _ = std::fs::remove_file(&temporary);
                }
                written
            }
            Kind::Registry { .. } | Kind::Dir(_) => Ok(()),
        }
    }
}

/// Copies `from` to `path` through a temporary file, and only when the bytes are what the descriptor says.
fn copy_verified(mut from: File, path: &Path, blob: &Descriptor) -> Result<(), CopyError> {
    let fail = |source| CopyError::File { step: "write", path: path.to_owned(), source };
    let temporary = temporary(path);
    let copied = (|| {
        let mut out = File::create(&temporary)?;
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            out.write_all(&buffer[..read])?;
        }
        let found: Digest = hasher.finish();
        if found != blob.digest {
            let message = format!("the bytes are {found}, not {}", blob.digest);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        out.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if copied.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    copied.map_err(fail)
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), CopyError> {
    let temporary = temporary(path);
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|source| CopyError::File { step: "write", path: path.to_owned(), source })
}

fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

fn unwritable(place: &str, source: StoreError) -> CopyError {
    CopyError::Store { step: "write", place: place.to_owned(), source: Box::new(source) }
}
