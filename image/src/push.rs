//! `push`: an image of the store goes to a registry.
//!
//! In: a store, what to push, where. Out: the digest under its new name. Blobs go in parallel and resume where they broke
//! off; what the registry has is skipped or mounted from another of its repositories; manifests follow their blobs and the
//! tag comes last. Manifests are sent byte for byte.

use crate::fetch;
use crate::progress::{Content, Event, Progress};
use crate::remote::client::{Repository, Uploaded, Watch};
use crate::remote::transport::{Identity, Limits, Transport};
use crate::remote::{self, config};
use crate::store::sending::Sending;
use crate::store::{Store, StoreError};
use futures::StreamExt as _;
use oci::descriptor::Descriptor;
use oci::digest::Digest;
use oci::manifest::{Manifest, media};
use oci::reference::Reference;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Repositories a blob is tried to be mounted from.
const MOUNTS_MAX: usize = 4;

/// What may be said about a push.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// Certificates, insecure registries.
    pub config: config::Config,
    /// Who we are.
    pub identity: Identity,
    /// Time limits.
    pub limits: Limits,
}

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry, the network or the configuration.
    #[error("failed to push {reference}")]
    Remote {
        /// Where to.
        reference: String,
        /// Why.
        source: remote::Error,
    },
    /// The store.
    #[error("failed to read what is to be pushed to {reference}")]
    Store {
        /// Where to.
        reference: String,
        /// Why.
        source: StoreError,
    },
    /// The image is not whole in the store.
    #[error("{digest} is not in the store, so {reference} cannot be pushed whole")]
    Incomplete {
        /// Where to.
        reference: String,
        /// What is missing.
        digest: String,
    },
    /// The destination's name promises another image.
    #[error("{reference} cannot hold the image {digest}: its name has another digest")]
    Pinned {
        /// Where to.
        reference: String,
        /// The image's digest.
        digest: String,
    },
}

impl PushError {
    /// What a user may do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Remote { source, .. } => source.hint(),
            Self::Incomplete { .. } => Some("pull it again with --all-platforms".to_owned()),
            Self::Store { .. } | Self::Pinned { .. } => None,
        }
    }
}

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// The digest the tag names.
    pub digest: Digest,
    /// Its manifest's bytes.
    pub size: u64,
}

/// Pushes the image `target` of the store to `reference`. An index of which only one image is here is pushed as that image.
pub async fn push(
    store: &Store,
    target: &Descriptor,
    reference: &Reference,
    options: &PushOptions,
    progress: &dyn Progress,
) -> Result<Pushed, PushError> {
    let store = &store.leased();
    let transport = Arc::new(Transport::new(options.config.clone(), options.identity.clone(), options.limits));
    let remote = |source| PushError::Remote { reference: reference.to_string(), source };
    let kept = |source| PushError::Store { reference: reference.to_string(), source };
    let repository = Repository::open(transport, reference.registry(), reference.repository(), true).map_err(remote)?;
    let top = store.manifest(&target.digest, Some(&target.media_type)).map_err(kept)?;
    let manifests = gather(store, top, &mut HashSet::new()).map_err(kept)?;
    let digest = *manifests[0].digest();
    if reference.digest().is_some_and(|promised| *promised != digest) {
        return Err(PushError::Pinned { reference: reference.to_string(), digest: digest.to_string() });
    }
    let mount_from = siblings(store, reference).map_err(kept)?;

    let mut seen = HashSet::new();
    let mut blobs = Vec::new();
    for image in manifests.iter().filter_map(Manifest::image) {
        let layers = image.layers.iter().map(|layer| (layer, Content::Layer));
        blobs.extend(layers.chain([(&image.config, Content::Config)]).filter(|(blob, _)| seen.insert(blob.digest)));
    }
    for (blob, content) in &blobs {
        progress.event(Event::Queued { digest: &blob.digest, content: *content, size: blob.size });
    }
    let sends = blobs.iter().map(|(blob, _)| send_blob(store, &repository, blob, &mount_from, reference, progress));
    let mut running = futures::stream::iter(sends).buffer_unordered(fetch::BLOBS_IN_FLIGHT_MAX);
    while let Some(sent) = running.next().await {
        sent?;
    }
    // Children before their index, the tag at the very end.
    for manifest in manifests.iter().skip(1).rev() {
        send_manifest(&repository, &manifest.digest().to_string(), manifest).await.map_err(remote)?;
    }
    let top = &manifests[0];
    let name = reference.tag().map_or_else(|| top.digest().to_string(), str::to_owned);
    send_manifest(&repository, &name, top).await.map_err(remote)?;
    Ok(Pushed { digest: *top.digest(), size: top.raw().len() as u64 })
}

async fn send_manifest(repository: &Repository, name: &str, manifest: &Manifest) -> remote::Result<()> {
    let keeps_referrers = repository.push_manifest(name, manifest).await?;
    if let (Some(subject), false) = (manifest.subject(), keeps_referrers) {
        let mut referrer = manifest.descriptor();
        referrer.artifact_type = manifest.artifact_type().map(str::to_owned);
        referrer.annotations = manifest.annotations().clone();
        repository.add_fallback_referrer(&subject.digest, referrer).await?;
    }
    Ok(())
}

async fn send_blob(
    store: &Store,
    repository: &Repository,
    blob: &Descriptor,
    mount_from: &[String],
    reference: &Reference,
    progress: &dyn Progress,
) -> Result<(), PushError> {
    let file = match store.layout().find_blob(&blob.digest) {
        Ok(Some((file, _))) => Arc::new(file),
        // A layer that lives elsewhere is named by its URLs and need not be sent.
        Ok(None) if media::is_foreign_layer(&blob.media_type) => {
            progress.event(Event::Exists { digest: &blob.digest });
            return Ok(());
        }
        Ok(None) => {
            let digest = blob.digest.to_string();
            return Err(PushError::Incomplete { reference: reference.to_string(), digest });
        }
        Err(source) => return Err(PushError::Store { reference: reference.to_string(), source }),
    };
    let kept = |source| PushError::Store { reference: reference.to_string(), source };
    let place = format!("{}/{}", repository.registry, repository.name);
    // Without a turn of its own (another process sends the same) this upload is not remembered.
    let sending = store.sending(&place, &blob.digest).map_err(kept)?;
    let begun = sending.as_ref().and_then(Sending::place).map(str::to_owned);
    let watch = Watcher { blob, progress, sending: Mutex::new(sending) };
    let outcome = repository.push_blob(blob, file, begun.as_deref(), mount_from, &watch).await;
    if outcome.is_ok()
        && let Some(sending) = watch.sending.into_inner().unwrap_or_else(PoisonError::into_inner)
    {
        sending.finished();
    }
    match outcome.map_err(|source| PushError::Remote { reference: reference.to_string(), source })? {
        Uploaded::Sent => progress.event(Event::Done { digest: &blob.digest }),
        Uploaded::Existed | Uploaded::Mounted => progress.event(Event::Exists { digest: &blob.digest }),
    }
    Ok(())
}

/// Tells the user how far a blob is, and the store where it goes.
struct Watcher<'a> {
    blob: &'a Descriptor,
    progress: &'a dyn Progress,
    sending: Mutex<Option<Sending>>,
}

impl Watch for Watcher<'_> {
    fn sent(&self, done: u64) {
        self.progress.event(Event::Moved { digest: &self.blob.digest, done, size: self.blob.size });
    }

    fn moves_to(&self, place: &str) {
        if let Some(sending) = &mut *self.sending.lock().unwrap_or_else(PoisonError::into_inner) {
            // What cannot be remembered (a full disk) is sent again after a kill; the push goes on.
            let _ = sending.moved(place);
        }
    }
}

/// The manifests below `top` that are in the store, top first. When exactly one image of an index is here and others are
/// not, that image stands for it, as it is what the user has.
fn gather(store: &Store, top: Manifest, seen: &mut HashSet<Digest>) -> Result<Vec<Manifest>, StoreError> {
    let Some(index) = top.index() else { return Ok(vec![top]) };
    let mut children = Vec::new();
    let mut missing = false;
    for child in &index.manifests {
        // Each document once, however often hostile indexes name it.
        if !seen.insert(child.digest) {
            continue;
        }
        if store.has(&child.digest)? && (media::is_manifest(&child.media_type) || media::is_index(&child.media_type)) {
            children.push(store.manifest(&child.digest, Some(&child.media_type))?);
        } else {
            missing = true;
        }
    }
    if missing {
        let mut images: Vec<_> = children.into_iter().filter(|child| child.image().is_some()).collect();
        if images.len() == 1 {
            return Ok(vec![images.remove(0)]);
        }
        images.insert(0, top);
        return Ok(images);
    }
    let mut all = vec![top];
    for child in children {
        all.extend(gather(store, child, seen)?);
    }
    Ok(all)
}

/// Repositories of the same registry that this store knows: a blob may be mounted from there.
fn siblings(store: &Store, reference: &Reference) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for image in store.images()? {
        for name in image.names.iter().chain(&image.digests) {
            let repository = name.repository().to_owned();
            let fits = name.registry() == reference.registry() && repository != reference.repository();
            if fits && !names.contains(&repository) && names.len() < MOUNTS_MAX {
                names.push(repository);
            }
        }
    }
    Ok(names)
}
