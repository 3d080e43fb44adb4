//! Where a copy reads from: manifests and blobs of a registry, a layout, an archive, a directory or the store.

use super::{CopyError, CopyOptions, Place, platform};
use crate::policy::Local;
use crate::progress::Progress;
use crate::pull::{Failure, PullError, fetch_blob};
use crate::remote::client::Repository;
use crate::remote::transport::Transport;
use crate::store::{Layout, Store, StoreError, TemporaryDir};
use oci::descriptor::Descriptor;
use oci::digest::Digest;
use oci::manifest::{MANIFEST_BYTES_MAX, Manifest, media};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One open source.
pub(super) struct Source {
    kind: Kind,
    place: String,
    /// Where fetched blobs are kept on their way.
    store: Store,
    /// An unpacked archive; removed with the source.
    _staging: Option<Staging>,
}

/// Asks the policy about a place of this host.
fn judge(options: &CopyOptions, text: &str, local: Local<'_>) -> Result<(), CopyError> {
    let Some(policy) = &options.from.policy else { return Ok(()) };
    let refused = |source| PullError::Policy { reference: text.to_owned(), source };
    Ok(policy.check_local(local).map_err(refused)?)
}

enum Kind {
    Registry { repository: Repository, reference: oci::reference::Reference },
    Layout { layout: Layout, target: Descriptor },
    Dir(PathBuf),
}

/// A temporary store beside the real one, on the same file system.
pub(super) struct Staging {
    pub(super) store: Store,
    /// Locked while the copy runs: a collection takes what nobody locks.
    _folder: TemporaryDir,
}

impl Staging {
    pub(super) fn new(store: &Store) -> Result<Self, StoreError> {
        let folder = store.temporary_dir("copy")?;
        Ok(Self { store: Store::open(folder.path())?, _folder: folder })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

impl Source {
    pub(super) async fn open(store: &Store, place: &Place, options: &CopyOptions) -> Result<Self, CopyError> {
        let mut staging = None;
        let (kind, text) = match place {
            Place::Registry(reference) => {
                let text = format!("docker://{reference}");
                let from = &options.from;
                let transport = Arc::new(Transport::new(from.config.clone(), from.identity.clone(), from.limits));
                let repository =
                    Repository::open(transport, reference.registry(), reference.repository(), false).map_err(
                        |source| CopyError::Remote { step: "read", place: text.clone(), source: Box::new(source) },
                    )?;
                (Kind::Registry { repository, reference: reference.clone() }, text)
            }
            Place::Layout(path, name) => {
                let text = format!("oci:{}", path.display());
                judge(options, &text, Local::Layout(path, name.as_deref()))?;
                let layout = Layout::open(path).map_err(|source| unreadable(&text, source))?;
                let target = choose(&layout, name.as_deref(), &text)?;
                (Kind::Layout { layout, target }, text)
            }
            Place::Store(name) => {
                let text = format!("store:{name}");
                let reference = name.parse().ok();
                let image = store.find(name).map_err(|source| unreadable(&text, source))?;
                judge(options, &text, Local::Store(reference.as_ref().or_else(|| image.names.first())))?;
                let layout = Layout::open(store.path()).map_err(|source| unreadable(&text, source))?;
                (Kind::Layout { layout, target: image.target }, text)
            }
            Place::OciArchive(path, _) | Place::DockerArchive(path, _) => {
                let text = path.display().to_string();
                let local = match place {
                    Place::OciArchive(_, name) => Local::OciArchive(path, name.as_deref()),
                    _ => Local::DockerArchive,
                };
                judge(options, &text, local)?;
                let file =
                    File::open(path).map_err(|source| CopyError::File { step: "open", path: path.clone(), source })?;
                let stage = Staging::new(store).map_err(|source| unreadable(&text, source))?;
                let loaded =
                    crate::archive::load(&stage.store, file, None).map_err(|source| unreadable(&text, source))?;
                let wanted = match place {
                    Place::DockerArchive(_, Some(reference)) => Some(reference.to_string()),
                    Place::OciArchive(_, name) => name.clone(),
                    _ => None,
                };
                let fits = |image: &&crate::archive::Loaded| match &wanted {
                    None => true,
                    Some(wanted) => {
                        image.labels.contains(wanted)
                            || image.names.iter().any(|name| {
                                name.to_string() == *wanted || name.tag() == Some(wanted) || name.familiar() == *wanted
                            })
                    }
                };
                let mut found = loaded.iter().filter(fits);
                let target = match (found.next(), found.next()) {
                    (Some(one), None) => one.target.clone(),
                    (Some(_), Some(_)) => {
                        return Err(place_error(&text, "it holds several images: name one after the path"));
                    }
                    (None, _) => return Err(place_error(&text, "it holds no such image")),
                };
                let layout = Layout::open(stage.store.path()).map_err(|source| unreadable(&text, source))?;
                staging = Some(stage);
                (Kind::Layout { layout, target }, text)
            }
            Place::Dir(path) => {
                let text = format!("dir:{}", path.display());
                judge(options, &text, Local::Dir(path))?;
                (Kind::Dir(path.clone()), text)
            }
        };
        Ok(Self { kind, place: text, store: store.clone(), _staging: staging })
    }

    /// The manifest the copy is about: the top one with `all`, else the platform's.
    pub(super) async fn top(&self, options: &CopyOptions) -> Result<Manifest, CopyError> {
        let mut manifest = match &self.kind {
            Kind::Registry { repository, reference } => {
                let manifest = self.manifest(&reference.identifier(), None).await?;
                if let Some(policy) = &options.from.policy {
                    let refused = |source| PullError::Policy { reference: reference.to_string(), source };
                    policy.check(reference, manifest.digest(), repository).await.map_err(refused)?;
                }
                manifest
            }
            Kind::Layout { target, .. } => self.manifest(&target.digest.to_string(), Some(&target.media_type)).await?,
            Kind::Dir(_) => self.manifest("", None).await?,
        };
        for _ in 0..super::DEPTH_MAX {
            let Some(index) = manifest.index().filter(|_| !options.all) else { return Ok(manifest) };
            let wanted = platform(options);
            let child = index.select(&wanted).ok_or_else(|| {
                place_error(
                    &self.place,
                    &format!("it has no image for {wanted}: choose with --platform, or copy --all"),
                )
            })?;
            let child = child.clone();
            manifest = self.manifest(&child.digest.to_string(), Some(&child.media_type)).await?;
        }
        Err(place_error(&self.place, "its indexes are nested too deep"))
    }

    /// A manifest by tag or digest, verified.
    pub(super) async fn manifest(&self, name: &str, declared: Option<&str>) -> Result<Manifest, CopyError> {
        match &self.kind {
            Kind::Registry { repository, .. } => repository.manifest(name).await.map_err(|source| CopyError::Remote {
                step: "read",
                place: self.place.clone(),
                source: Box::new(source),
            }),
            Kind::Layout { layout, .. } => {
                let digest: Digest = name.parse().map_err(|_| place_error(&self.place, "it is read by digest"))?;
                layout.read_manifest(&digest, declared).map_err(|source| unreadable(&self.place, source))
            }
            Kind::Dir(folder) => {
                let digest: Option<Digest> = name.parse().ok();
                let file = digest.map_or_else(|| "manifest.json".to_owned(), |d| format!("{}.manifest.json", d.hex()));
                let raw = read_small(&folder.join(file))?;
                if digest.is_some_and(|digest| !digest.matches(&raw)) {
                    return Err(place_error(&self.place, &format!("its manifest is not {name}")));
                }
                let algorithm = digest.map_or(oci::digest::Algorithm::Sha256, |digest| digest.algorithm());
                Manifest::parse_with(raw, declared, algorithm)
                    .map_err(|error| place_error(&self.place, &error.to_string()))
            }
        }
    }

    /// A blob as an open file; `None` for a foreign layer that is not here.
    pub(super) async fn blob(&self, blob: &Descriptor, progress: &dyn Progress) -> Result<Option<File>, CopyError> {
        let place = || self.place.clone();
        let file = match &self.kind {
            Kind::Registry { repository, .. } => {
                if media::is_foreign_layer(&blob.media_type) {
                    return Ok(None);
                }
                fetch_blob(&self.store, repository, blob, &Unfinished(progress)).await.map_err(
                    |failure| match failure {
                        Failure::Remote(source) => {
                            CopyError::Remote { step: "read", place: place(), source: Box::new(source) }
                        }
                        Failure::Store(source) => {
                            CopyError::Store { step: "keep a blob of", place: place(), source: Box::new(source) }
                        }
                    },
                )?;
                Some(self.store.open_blob(&blob.digest).map_err(|source| unreadable(&self.place, source))?)
            }
            Kind::Layout { layout, .. } => {
                layout.find_blob(&blob.digest).map_err(|source| unreadable(&self.place, source))?.map(|(file, _)| file)
            }
            Kind::Dir(folder) => {
                let path = folder.join(blob.digest.hex());
                match File::open(&path) {
                    Ok(file) => Some(file),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                    Err(source) => return Err(CopyError::File { step: "open", path, source }),
                }
            }
        };
        match file {
            None if !media::is_foreign_layer(&blob.media_type) => {
                Err(place_error(&self.place, &format!("{} is missing", blob.digest)))
            }
            Some(file) => match file.metadata() {
                Ok(metadata) if metadata.len() != blob.size => {
                    let reason =
                        format!("{} has {} bytes, its manifest says {}", blob.digest, metadata.len(), blob.size);
                    Err(place_error(&self.place, &reason))
                }
                _ => Ok(Some(file)),
            },
            None => Ok(None),
        }
    }

    /// What refers to a manifest; only registries keep that.
    pub(super) async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, CopyError> {
        match &self.kind {
            Kind::Registry { repository, .. } => repository.referrers(subject).await.map_err(|source| {
                CopyError::Remote { step: "list the referrers of", place: self.place.clone(), source: Box::new(source) }
            }),
            _ => Ok(Vec::new()),
        }
    }
}

/// A blob that has arrived here is only half way: its end is told when it is written.
struct Unfinished<'a>(&'a dyn Progress);

impl Progress for Unfinished<'_> {
    fn event(&self, event: crate::progress::Event<'_>) {
        use crate::progress::Event;
        if !matches!(event, Event::Done { .. } | Event::Exists { .. } | Event::Queued { .. }) {
            self.0.event(event);
        }
    }
}

fn choose(layout: &Layout, name: Option<&str>, text: &str) -> Result<Descriptor, CopyError> {
    let index = layout.index().map_err(|source| unreadable(text, source))?;
    let fits = |entry: &&Descriptor| name.is_none_or(|name| entry.ref_name() == Some(name));
    let mut found = index.manifests.iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.clone()),
        (Some(_), Some(_)) => Err(place_error(text, "it holds several images: name one after the path")),
        (None, _) => Err(place_error(text, "it holds no such image")),
    }
}

fn read_small(path: &Path) -> Result<Vec<u8>, CopyError> {
    use std::io::Read as _;
    let fail = |source| CopyError::File { step: "read", path: path.to_owned(), source };
    let mut raw = Vec::new();
    File::open(path).map_err(fail)?.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut raw).map_err(fail)?;
    if raw.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(fail(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "it is larger than a manifest may be")));
    }
    Ok(raw)
}

pub(super) fn unreadable(place: &str, source: StoreError) -> CopyError {
    CopyError::Store { step: "read", place: place.to_owned(), source: Box::new(source) }
}

pub(super) fn place_error(place: &str, reason: &str) -> CopyError {
    CopyError::Place { place: place.to_owned(), reason: reason.to_owned() }
}
