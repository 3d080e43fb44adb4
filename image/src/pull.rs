//! `pull`: a reference becomes an image in the store.
//!
//! In: a store, a reference, options. Out: an [`ImageRecord`], or an error with the store as it was. Blobs are fetched in
//! parallel and in ranges, each by one process at a time; what a cut connection or a killed process left is kept and
//! verified before it counts. The name is set last.

use crate::fetch;
use crate::policy::{Policy, PolicyError};
use crate::progress::{Content, Event, Progress, Silent};
use crate::remote::client::Repository;
use crate::remote::transport::{Identity, Limits, Transport, random};
use crate::remote::{self, config};
use crate::store::{Claim, ImageRecord, Partial, Store, StoreError};
use futures::StreamExt as _;
use oci::config::ImageConfig;
use oci::descriptor::Descriptor;
use oci::digest::Digest;
use oci::manifest::{Manifest, media};
use oci::platform::Platform;
use oci::reference::Reference;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A blob smaller than this uses one connection: the others are better used by other layers.
const PARALLEL_FROM: u64 = 4 * fetch::RANGE_BYTES;
/// How often a blob that another process fetches is looked at.
const BUSY_POLL: Duration = Duration::from_millis(100);
/// Layers made ready at once: unpacking is bound by cores and the disk, and downloads want their share of both.
const LAYERS_IN_WORK_MAX: usize = 2;
/// How deep indexes may be nested; real ones are one deep.
const DEPTH_MAX: usize = 4;
/// Manifests in one image (platforms and their attestations).
const MANIFESTS_MAX: usize = 1000;
/// Bytes of the manifests of one image, which are held until it is here; one has some kilobytes.
const MANIFESTS_BYTES_MAX: usize = 64 << 20;

/// What may be said about a pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// `--platform`; this host's when absent.
    pub platform: Option<Platform>,
    /// Every platform of an index.
    pub all_platforms: bool,
    /// Mirrors, certificates, insecure registries.
    pub config: config::Config,
    /// Who we are.
    pub identity: Identity,
    /// Time limits.
    pub limits: Limits,
    /// Which signatures are needed; none when absent.
    pub policy: Option<Policy>,
}

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry, the network or the configuration.
    #[error("failed to pull {reference}")]
    Remote {
        /// What was asked for.
        reference: String,
        /// Why.
        source: remote::Error,
    },
    /// The store.
    #[error("failed to pull {reference} into the store")]
    Store {
        /// What was asked for.
        reference: String,
        /// Why.
        source: StoreError,
    },
    /// The index has nothing for this platform.
    #[error("{reference} has no image for {platform}; it has {available}")]
    Platform {
        /// What was asked for.
        reference: String,
        /// What was wanted.
        platform: String,
        /// What there is.
        available: String,
    },
    /// The signature policy.
    #[error("{reference} is refused by the signature policy")]
    Policy {
        /// What was asked for.
        reference: String,
        /// Why.
        source: PolicyError,
    },
    /// The image's documents contradict each other or are beyond all bounds.
    #[error("{reference} is not a usable image: {reason}")]
    Image {
        /// What was asked for.
        reference: String,
        /// Why.
        reason: String,
    },
}

impl PullError {
    /// What a user may do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Remote { source, .. } => source.hint(),
            Self::Platform { .. } => Some("choose one with --platform OS/ARCH[/VARIANT]".to_owned()),
            _ => None,
        }
    }
}

/// Why one blob failed; the caller adds the reference.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Remote(#[from] remote::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Failure {
    fn of(self, reference: &Reference) -> PullError {
        let reference = reference.to_string();
        match self {
            Self::Remote(source) => PullError::Remote { reference, source },
            Self::Store(source) => PullError::Store { reference, source },
        }
    }
}

/// Pulls `reference` into `store` and names it. Dropping the future stops the transfer; what has arrived stays for the next.
pub async fn pull(
    store: &Store,
    reference: &Reference,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<ImageRecord, PullError> {
    let transport = Arc::new(Transport::new(options.config.clone(), options.identity.clone(), options.limits));
    pull_with(store, reference, options, transport, false, progress).await
}

/// Returns the digest that the tag of `reference` means at its registry now: one small exchange, nothing is kept.
pub async fn resolve(reference: &Reference, options: &PullOptions) -> Result<Digest, PullError> {
    let remote = |source| PullError::Remote { reference: reference.to_string(), source };
    let transport = Arc::new(Transport::new(options.config.clone(), options.identity.clone(), options.limits));
    let repository =
        Repository::open(transport, reference.registry(), reference.repository(), false).map_err(remote)?;
    repository.resolve(&reference.identifier()).await.map_err(remote)
}

/// [`pull`], and each layer is made ready to be mounted while others are still on their way. Not with `all_platforms`,
/// most of which this host never runs.
pub async fn pull_ready(
    store: &Store,
    reference: &Reference,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<ImageRecord, PullError> {
    let transport = Arc::new(Transport::new(options.config.clone(), options.identity.clone(), options.limits));
    pull_with(store, reference, options, transport, !options.all_platforms, progress).await
}

async fn pull_with(
    store: &Store,
    reference: &Reference,
    options: &PullOptions,
    transport: Arc<Transport>,
    unpack: bool,
    progress: &dyn Progress,
) -> Result<ImageRecord, PullError> {
    // A lease of its own: everything this pull touches stays until it is named.
    let store = &store.leased();
    let remote = |source| PullError::Remote { reference: reference.to_string(), source };
    let kept = |source| PullError::Store { reference: reference.to_string(), source };
    let repository =
        Repository::open(transport, reference.registry(), reference.repository(), false).map_err(remote)?;
    let top = repository.manifest(&reference.identifier()).await.map_err(remote)?;
    if let Some(policy) = &options.policy {
        policy
            .check(reference, top.digest(), &repository)
            .await
            .map_err(|source| PullError::Policy { reference: reference.to_string(), source })?;
    }
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let wanted = if options.all_platforms { None } else { Some(&platform) };
    let manifests = collect(&repository, top, reference, wanted).await?;
    let mut layers = Layers::default();
    if unpack {
        layers.learn(store, &repository, &manifests, progress).await.map_err(|failure| failure.of(reference))?;
    }
    fetch_all(store, &repository, &manifests, layers, progress).await.map_err(|failure| failure.of(reference))?;
    for manifest in manifests.iter().rev() {
        store.put_as(manifest.media_type(), manifest.raw(), manifest.digest().algorithm()).map_err(kept)?;
    }
    let target = manifests[0].descriptor();
    // `name@digest` is kept under its digest, `name:tag@digest` under both.
    store.tag(reference, &target).map_err(kept)?;
    let record = store.image_for(reference, &platform).map_err(kept)?;
    record.ok_or_else(|| PullError::Image {
        reference: reference.to_string(),
        reason: "it was removed while it was pulled".into(),
    })
}

/// The manifests of an image, top first: one chain down to `platform`, or everything when it is `None`.
pub(crate) async fn collect(
    repository: &Repository,
    top: Manifest,
    reference: &Reference,
    platform: Option<&Platform>,
) -> Result<Vec<Manifest>, PullError> {
    let (mut all, mut bytes) = (Vec::new(), 0);
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([(top, 0)]);
    let unusable = |reason: &str| PullError::Image { reference: reference.to_string(), reason: reason.to_owned() };
    while let Some((manifest, depth)) = queue.pop_front() {
        if depth > DEPTH_MAX {
            return Err(unusable("its indexes are nested too deep"));
        }
        if let Some(index) = manifest.index() {
            let chosen: Vec<&Descriptor> = match platform {
                None => index.manifests.iter().collect(),
                Some(platform) => {
                    let child = index.select(platform).ok_or_else(|| PullError::Platform {
                        reference: reference.to_string(),
                        platform: platform.to_string(),
                        available: platforms(&index.manifests),
                    })?;
                    vec![child]
                }
            };
            for child in chosen {
                if !seen.insert(child.digest) {
                    continue;
                }
                if seen.len() > MANIFESTS_MAX || bytes > MANIFESTS_BYTES_MAX {
                    return Err(unusable("its indexes name too many manifests"));
                }
                let fetched = repository.manifest(&child.digest.to_string()).await;
                let fetched =
                    fetched.map_err(|source| PullError::Remote { reference: reference.to_string(), source })?;
                if fetched.raw().len() as u64 != child.size || fetched.media_type() != child.media_type {
                    return Err(unusable("a manifest is not what its index says about its size or type"));
                }
                bytes += fetched.raw().len();
                queue.push_back((fetched, depth + 1));
            }
        }
        all.push(manifest);
    }
    Ok(all)
}

fn platforms(manifests: &[Descriptor]) -> String {
    let mut names: Vec<_> = manifests.iter().filter_map(|m| m.platform.as_ref()).map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    names.truncate(20);
    if names.is_empty() { "none with a platform".to_owned() } else { names.join(", ") }
}

/// Layers to be made ready as soon as their blobs are here: the digests of their plain tars, by blob.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    diff_ids: HashMap<Digest, Digest>,
    /// Configs that were fetched to learn them.
    configs: HashSet<Digest>,
}

impl Layers {
    /// Fetches the configs of images and learns their layers. What is no image (an artifact) has none; a config that does
    /// not fit its manifest is left to whoever uses the image, who says what is wrong with it.
    async fn learn(
        &mut self,
        store: &Store,
        repository: &Repository,
        manifests: &[Manifest],
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        for image in manifests.iter().filter_map(Manifest::image) {
            if !media::is_image_config(&image.config.media_type) {
                continue;
            }
            let config = &image.config;
            if self.configs.insert(config.digest) {
                progress.event(Event::Queued { digest: &config.digest, content: Content::Config, size: config.size });
                fetch_blob(store, repository, config, progress).await?;
            }
            let raw = store.read_blob(&image.config.digest, oci::config::CONFIG_BYTES_MAX)?;
            let diff_ids = ImageConfig::parse(&raw).map(|config| config.rootfs.diff_ids).unwrap_or_default();
            if diff_ids.len() == image.layers.len() {
                self.diff_ids.extend(image.layers.iter().map(|layer| layer.digest).zip(diff_ids));
            }
        }
        Ok(())
    }
}

/// Fetches configs and layers of manifests, several at once; `layers` are made ready meanwhile, on threads of their own.
pub(crate) async fn fetch_all(
    store: &Store,
    repository: &Repository,
    manifests: &[Manifest],
    layers: Layers,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let Layers { diff_ids, configs: mut seen } = layers;
    let mut blobs = Vec::new();
    for image in manifests.iter().filter_map(Manifest::image) {
        let config = std::iter::once((&image.config, Content::Config));
        let layers = image
            .layers
            .iter()
            .map(|layer| (layer, if media::is_layer(&layer.media_type) { Content::Layer } else { Content::Other }));
        blobs.extend(config.chain(layers).filter(|(blob, _)| seen.insert(blob.digest)));
    }
    for (blob, content) in &blobs {
        progress.event(Event::Queued { digest: &blob.digest, content: *content, size: blob.size });
    }
    let fetch = |blob| async move { fetch_blob(store, repository, blob, progress).await.map(|()| blob) };
    let mut running = futures::stream::iter(blobs.into_iter().map(|(blob, _)| fetch(blob)))
        .buffer_unordered(fetch::BLOBS_IN_FLIGHT_MAX);
    let permits = Arc::new(Semaphore::new(LAYERS_IN_WORK_MAX));
    let mut preparing = JoinSet::new();
    while let Some(done) = running.next().await {
        let blob = done?;
        if let Some(diff_id) = diff_ids.get(&blob.digest) {
            preparing.spawn(make_ready(store.clone(), blob.clone(), *diff_id, Arc::clone(&permits)));
        }
        // A layer that cannot be made ready ends the pull now, not after the last byte.
        while let Some(made) = preparing.try_join_next() {
            made.expect("a layer's preparation does not panic")?;
        }
    }
    while let Some(made) = preparing.join_next().await {
        made.expect("a layer's preparation does not panic")?;
    }
    Ok(())
}

/// Makes one layer ready to be mounted, when it is its turn.
async fn make_ready(store: Store, blob: Descriptor, diff_id: Digest, permits: Arc<Semaphore>) -> Result<(), Failure> {
    let _permit = permits.acquire_owned().await.expect("nobody closes it");
    let work = move || store.ensure_layer(&blob, &diff_id, store.layer_form(), &Silent).map(drop);
    let made = tokio::task::spawn_blocking(work).await;
    Ok(made.expect("a layer's preparation does not panic")?)
}

/// Fetches one blob; waits when another process or task is at it.
pub(crate) async fn fetch_blob(
    store: &Store,
    repository: &Repository,
    blob: &Descriptor,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    // A source whose bytes had the wrong digest is asked last in the next round.
    let rounds = repository.sources.len().max(2);
    let mut round = 0;
    loop {
        let partial = match store.claim(&blob.digest, blob.size)? {
            Claim::Present(_) => {
                progress.event(Event::Exists { digest: &blob.digest });
                return Ok(());
            }
            Claim::Busy => {
                tokio::time::sleep(BUSY_POLL).await;
                continue;
            }
            Claim::Mine(partial) => partial,
        };
        let partial = Arc::new(partial);
        Download {
            repository,
            blob,
            partial: &partial,
            progress,
            first_source: round,
            moved: AtomicU64::new(partial.received()),
        }
        .run()
        .await?;
        let partial = Arc::into_inner(partial).expect("the download's tasks are over");
        match tokio::task::block_in_place(|| partial.commit()) {
            Ok(()) => {
                progress.event(Event::Done { digest: &blob.digest });
                return Ok(());
            }
            Err(error @ StoreError::Mismatch { .. }) => {
                round += 1;
                if round >= rounds {
                    return Err(error.into());
                }
                let cause = error.to_string();
                progress.event(Event::Retry { digest: &blob.digest, cause: &cause, wait_ms: 0 });
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// One blob on its way.
struct Download<'a> {
    repository: &'a Repository,
    blob: &'a Descriptor,
    partial: &'a Arc<Partial>,
    progress: &'a dyn Progress,
    first_source: usize,
    moved: AtomicU64,
}

impl Download<'_> {
    async fn run(&self) -> Result<(), Failure> {
        let missing = self.partial.missing();
        let parallel = missing.iter().map(|gap| gap.end - gap.start).sum::<u64>() >= PARALLEL_FROM;
        let pieces = if parallel { fetch::cut(&missing, fetch::RANGE_BYTES) } else { missing };
        let queue = Mutex::new(VecDeque::from(pieces));
        let take = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
        let worker = || async {
            while let Some(piece) = take() {
                self.piece(piece).await?;
            }
            Ok::<(), Failure>(())
        };
        // The first piece goes alone: it tells whether the source knows ranges at all.
        if let Some(piece) = take() {
            self.piece(piece).await?;
        }
        let workers = (0..fetch::RANGES_IN_FLIGHT_MAX).map(|_| worker());
        futures::future::try_join_all(workers).await?;
        Ok(())
    }

    /// Fetches one range, going on where it broke off as long as there is progress.
    async fn piece(&self, piece: std::ops::Range<u64>) -> Result<(), Failure> {
        let mut at = piece.start;
        let mut failures = 0;
        let mut source = self.first_source;
        while at < piece.end {
            // Another answer may have brought these bytes (a source without ranges sends everything).
            let Some(gap) = self.partial.missing().into_iter().find(|gap| gap.end > at && gap.start < piece.end) else {
                return Ok(());
            };
            let (first, end) = (gap.start.max(at), gap.end.min(piece.end));
            let before = self.partial.received();
            let error = match self.exchange(source, first, end).await {
                Ok(()) => {
                    at = end;
                    continue;
                }
                Err(Failure::Remote(error)) => error,
                Err(error) => return Err(error),
            };
            at = first;
            if self.partial.received() > before {
                failures = 0;
            }
            failures += 1;
            source += 1;
            let others = self.sources_max() > 1;
            let hopeless = !(error.is_transient() || others) || failures >= fetch::ATTEMPTS_MAX;
            if hopeless || (!error.is_transient() && failures as usize >= self.sources_max()) {
                return Err(error.into());
            }
            let pause = fetch::pause(failures, random(), None).unwrap_or_default();
            let cause = error.to_string();
            let wait_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            self.progress.event(Event::Retry { digest: &self.blob.digest, cause: &cause, wait_ms });
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    fn sources_max(&self) -> usize {
        self.repository.sources.len() + self.foreign().len()
    }

    fn foreign(&self) -> &[String] {
        if media::is_foreign_layer(&self.blob.media_type) { &self.blob.urls } else { &[] }
    }

    async fn exchange(&self, source: usize, first: u64, end: u64) -> Result<(), Failure> {
        let size = self.blob.size;
        let range = (first > 0 || end < size).then(|| (first, end - 1));
        let source = source % self.sources_max();
        let (mut response, mut at) = match self.repository.sources.get(source) {
            Some(endpoint) => self.repository.blob(endpoint, self.blob, range).await?,
            None => {
                let url = &self.foreign()[source - self.repository.sources.len()];
                self.repository.foreign(url, self.blob, range).await?
            }
        };
        let url = response.url().clone();
        // A source without ranges begins at 0 and sends everything: all of it that is missing is taken.
        let stop = if range.is_some() && at == first && response.status().as_u16() == 206 { end } else { size };
        while at < stop {
            let chunk = response.chunk().await.map_err(|error| remote::Error::exchange(&url, error))?;
            let Some(chunk) = chunk else {
                let reason = format!("it ended at byte {at} of {stop}");
                return Err(remote::Error::Broken { host: remote::error::host(&url), reason }.into());
            };
            let room = usize::try_from(stop - at).unwrap_or(usize::MAX);
            if chunk.len() > room {
                return Err(remote::Error::protocol(&url, "sends more bytes than the blob has").into());
            }
            self.repository.throttle(chunk.len() as u64).await;
            self.partial.write_at(at, &chunk)?;
            at += chunk.len() as u64;
            let done = self.moved.fetch_add(chunk.len() as u64, Ordering::Relaxed) + chunk.len() as u64;
            self.progress.event(Event::Moved { digest: &self.blob.digest, done: done.min(size), size });
        }
        Ok(())
    }
}
