//! `copy`: an image goes from one place to another, whatever the two places are.
//!
//! In: two [`Place`]s. Out: the digest, which is the same on both sides: no byte of a manifest is ever rewritten. Blobs come
//! before what names them, the tag last. What the destination has is neither read nor sent.

mod sink;
mod source;

use crate::fetch;
use crate::progress::{Content, Event, Progress};
use crate::pull::{PullError, PullOptions};
use crate::push::{PushError, PushOptions};
use crate::remote;
use crate::store::{Store, StoreError};
use futures::StreamExt as _;
use oci::descriptor::Descriptor;
use oci::digest::Digest;
use oci::manifest::{Manifest, media};
use oci::platform::Platform;
use oci::reference::{Reference, ReferenceError};
use sink::Sink;
use source::Source;
use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::str::FromStr;

/// How deep indexes may be nested.
const DEPTH_MAX: usize = 4;
/// Manifests in one copy.
const MANIFESTS_MAX: usize = 10_000;
/// Bytes of the manifests of one copy, which are held until it ends.
const MANIFESTS_BYTES_MAX: usize = 256 << 20;
/// Referrers of referrers of …: a signature of an SBOM of an image.
const REFERRERS_DEPTH_MAX: usize = 3;

/// Where an image is, or should be. Written as skopeo does: `TRANSPORT:DETAILS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `docker://NAME[:TAG][@DIGEST]`: a registry.
    Registry(Reference),
    /// `oci:DIRECTORY[:NAME]`: an OCI image layout.
    Layout(PathBuf, Option<String>),
    /// `oci-archive:FILE[:NAME]`.
    OciArchive(PathBuf, Option<String>),
    /// `docker-archive:FILE[:NAME]`.
    DockerArchive(PathBuf, Option<Reference>),
    /// `dir:DIRECTORY`: files as they are.
    Dir(PathBuf),
    /// `store:NAME` or just a name: this host's store.
    Store(String),
}

/// Why a text names no place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The transport is not known.
    #[error("transport `{0}:` is not known: use docker://, oci:, oci-archive:, docker-archive:, dir: or store:")]
    Transport(String),
    /// The details are missing.
    #[error("`{0}` names no place after its transport")]
    Empty(String),
    /// A reference is not valid.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let Some((transport, rest)) = text.split_once(':') else { return Ok(Self::Store(text.to_owned())) };
        if rest.is_empty() && matches!(transport, "docker" | "oci" | "oci-archive" | "docker-archive" | "dir" | "store")
        {
            return Err(PlaceError::Empty(text.to_owned()));
        }
        // The path ends at the first colon; what follows is a name and may hold more.
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) => (PathBuf::from(path), Some(name.to_owned())),
            None => (PathBuf::from(rest), None),
        };
        Ok(match transport {
            "docker" => match rest.strip_prefix("//") {
                Some(name) => Self::Registry(name.parse()?),
                None => return Err(PlaceError::Transport("docker (without //)".to_owned())),
            },
            "oci" => Self::Layout(path, name),
            "oci-archive" => Self::OciArchive(path, name),
            "docker-archive" => Self::DockerArchive(path, name.map(|name| name.parse()).transpose()?),
            "dir" => Self::Dir(PathBuf::from(rest)),
            "store" => Self::Store(rest.to_owned()),
            // `http://`, `containers-storage:` and the like; a name with a tag or port has no such look.
            other
                if rest.starts_with("//")
                    || matches!(other, "containers-storage" | "docker-daemon" | "ostree" | "sif") =>
            {
                return Err(PlaceError::Transport(other.to_owned()));
            }
            _ => Self::Store(text.to_owned()),
        })
    }
}

impl Place {
    /// The image's name at this place, where names are references.
    fn reference(&self) -> Option<Reference> {
        match self {
            Self::Registry(name) | Self::DockerArchive(_, Some(name)) => Some(name.clone()),
            Self::Store(name) => name.parse().ok(),
            _ => None,
        }
    }

    /// Refuses, as a destination, an image of another digest than the one in its name.
    fn takes(&self, digest: &Digest) -> Result<(), CopyError> {
        let Some(name) = self.reference() else { return Ok(()) };
        match name.digest() {
            Some(promised) if promised != digest => {
                let reason = format!("the image is {digest}: a name with another digest cannot hold it");
                Err(CopyError::Place { place: name.to_string(), reason })
            }
            _ => Ok(()),
        }
    }
}

/// What may be said about a copy.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// How the source is read; its `platform` chooses from an index.
    pub from: PullOptions,
    /// How the destination is written.
    pub to: PushOptions,
    /// Everything of an index, instead of this platform's image.
    pub all: bool,
    /// Signatures, SBOMs and whatever else refers to the image travel too (registry to registry).
    pub referrers: bool,
}

/// What a copy did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Manifests written.
    pub manifests: u64,
    /// Blobs moved.
    pub blobs: u64,
    /// Bytes of these blobs.
    pub bytes: u64,
}

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source or destination registry.
    #[error("failed to {step} {place}")]
    Remote {
        /// `read` or `write`.
        step: &'static str,
        /// Which side.
        place: String,
        /// Why.
        source: Box<remote::Error>,
    },
    /// A store, layout or archive.
    #[error("failed to {step} {place}")]
    Store {
        /// `read` or `write`.
        step: &'static str,
        /// Which side.
        place: String,
        /// Why.
        source: Box<StoreError>,
    },
    /// A file.
    #[error("failed to {step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The policy or the platform.
    #[error(transparent)]
    Pull(Box<PullError>),
    /// Pushing.
    #[error(transparent)]
    Push(Box<PushError>),
    /// The two places cannot do this.
    #[error("{place}: {reason}")]
    Place {
        /// Which side.
        place: String,
        /// What is wrong.
        reason: String,
    },
}

impl From<PullError> for CopyError {
    fn from(error: PullError) -> Self {
        Self::Pull(Box::new(error))
    }
}

impl From<PushError> for CopyError {
    fn from(error: PushError) -> Self {
        Self::Push(Box::new(error))
    }
}

impl CopyError {
    /// What a user may do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Remote { source, .. } => source.hint(),
            Self::Pull(error) => error.hint(),
            Self::Push(error) => error.hint(),
            _ => None,
        }
    }
}

/// Copies one image. Dropping the future stops it; what is complete at the destination stays and is skipped the next time.
pub async fn copy(
    store: &Store,
    from: &Place,
    to: &Place,
    options: &CopyOptions,
    progress: &dyn Progress,
) -> Result<(Digest, Copied), CopyError> {
    let store = &store.leased();
    let source = Source::open(store, from, options).await?;
    let top = source.top(options).await?;
    to.takes(top.digest())?;
    let mut sink = Sink::open(store, to, options).await?;
    sink.mounts_from(from);
    let mut copied = Copied::default();
    let digest = *top.digest();
    let manifests = gather(&source, top, options).await?;
    move_blobs(&source, &sink, &manifests, progress, &mut copied).await?;
    for manifest in manifests.iter().skip(1).rev() {
        sink.put_manifest(manifest, None).await?;
        copied.manifests += 1;
    }
    let top = &manifests[0];
    if options.referrers {
        sink.put_manifest(top, None).await?;
        for manifest in &manifests {
            move_referrers(&source, &mut sink, manifest.digest(), progress, &mut copied).await?;
        }
    }
    sink.finish(top).await?;
    copied.manifests += 1;
    Ok((digest, copied))
}

/// Says what a copy would move, without moving anything.
pub async fn estimate(
    store: &Store,
    from: &Place,
    to: &Place,
    options: &CopyOptions,
) -> Result<(Digest, Copied), CopyError> {
    let source = Source::open(store, from, options).await?;
    let top = source.top(options).await?;
    to.takes(top.digest())?;
    let sink = Sink::open(store, to, options).await?;
    let digest = *top.digest();
    let manifests = gather(&source, top, options).await?;
    let mut copied = Copied { manifests: manifests.len() as u64, ..Copied::default() };
    for (blob, _) in blobs_of(&manifests) {
        if !sink.has(blob).await? {
            copied.blobs += 1;
            copied.bytes += blob.size;
        }
    }
    Ok((digest, copied))
}

/// The manifests of a copy, top first. Without `all` the chosen image stands for its index.
async fn gather(source: &Source, top: Manifest, options: &CopyOptions) -> Result<Vec<Manifest>, CopyError> {
    if !options.all {
        return Ok(vec![top]);
    }
    let mut all = Vec::new();
    let mut seen = HashSet::from([*top.digest()]);
    let mut queue = VecDeque::from([(top, 0)]);
    let mut bytes = 0;
    let too_many = || too_many(source, "its indexes are nested too deep or name too many manifests");
    while let Some((manifest, depth)) = queue.pop_front() {
        if depth > DEPTH_MAX {
            return Err(too_many());
        }
        if manifest.index().is_some() {
            for child in manifest.children() {
                if !seen.insert(child.digest) {
                    continue;
                }
                if seen.len() > MANIFESTS_MAX || bytes > MANIFESTS_BYTES_MAX {
                    return Err(too_many());
                }
                let fetched = source.manifest(&child.digest.to_string(), Some(&child.media_type)).await?;
                bytes += fetched.raw().len();
                queue.push_back((fetched, depth + 1));
            }
        }
        all.push(manifest);
    }
    Ok(all)
}

fn too_many(source: &Source, reason: &str) -> CopyError {
    CopyError::Place { place: source.to_string(), reason: reason.to_owned() }
}

fn blobs_of(manifests: &[Manifest]) -> Vec<(&Descriptor, Content)> {
    let mut seen = HashSet::new();
    let mut blobs = Vec::new();
    for image in manifests.iter().filter_map(Manifest::image) {
        let layers = image.layers.iter().map(|layer| (layer, Content::Layer));
        blobs.extend(layers.chain([(&image.config, Content::Config)]).filter(|(blob, _)| seen.insert(blob.digest)));
    }
    blobs
}

async fn move_blobs(
    source: &Source,
    sink: &Sink,
    manifests: &[Manifest],
    progress: &dyn Progress,
    copied: &mut Copied,
) -> Result<(), CopyError> {
    let blobs = blobs_of(manifests);
    for (blob, content) in &blobs {
        progress.event(Event::Queued { digest: &blob.digest, content: *content, size: blob.size });
    }
    let moves = blobs.iter().map(|(blob, _)| async move {
        let blob = *blob;
        if sink.has(blob).await? {
            progress.event(Event::Exists { digest: &blob.digest });
            return Ok(0);
        }
        if sink.mount(blob).await {
            progress.event(Event::Exists { digest: &blob.digest });
            return Ok(0);
        }
        let Some(file) = source.blob(blob, progress).await? else {
            // A layer that lives elsewhere is named by its URLs and stays there.
            progress.event(Event::Exists { digest: &blob.digest });
            return Ok(0);
        };
        sink.put_blob(blob, file, progress).await?;
        progress.event(Event::Done { digest: &blob.digest });
        Ok::<u64, CopyError>(blob.size)
    });
    let mut running = futures::stream::iter(moves).buffer_unordered(fetch::BLOBS_IN_FLIGHT_MAX);
    while let Some(moved) = running.next().await {
        let bytes = moved?;
        copied.bytes += bytes;
        copied.blobs += u64::from(bytes > 0);
    }
    Ok(())
}

/// Moves what refers to `subject`, and what refers to that, depth by depth; the deepest is written first.
async fn move_referrers(
    source: &Source,
    sink: &mut Sink,
    subject: &Digest,
    progress: &dyn Progress,
    copied: &mut Copied,
) -> Result<(), CopyError> {
    let mut level = source.referrers(subject).await?;
    let mut seen = HashSet::from([*subject]);
    for _ in 0..REFERRERS_DEPTH_MAX {
        let mut next = Vec::new();
        for referrer in level {
            if !(media::is_manifest(&referrer.media_type) || media::is_index(&referrer.media_type))
                || !seen.insert(referrer.digest)
            {
                continue;
            }
            if seen.len() > MANIFESTS_MAX {
                return Err(too_many(source, "too many manifests refer to it"));
            }
            let manifest = source.manifest(&referrer.digest.to_string(), Some(&referrer.media_type)).await?;
            move_blobs(source, sink, std::slice::from_ref(&manifest), progress, copied).await?;
            sink.put_manifest(&manifest, None).await?;
            copied.manifests += 1;
            next.extend(source.referrers(&referrer.digest).await?);
        }
        if next.is_empty() {
            break;
        }
        level = next;
    }
    Ok(())
}

/// The platform that is chosen without `all`.
fn platform(options: &CopyOptions) -> Platform {
    options.from.platform.clone().unwrap_or_else(Platform::host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_on_its_way_keeps_its_staging_store() {
        use crate::gc;
        use crate::store::testing::{image, scratch};
        let (_dir, store) = scratch();
        let staging = source::Staging::new(&store).unwrap();
        image(&staging.store, b"on its way");
        assert_eq!(gc::run(&store, gc::Options::default()).unwrap(), gc::Report::default());
        assert_eq!(std::fs::read_dir(staging.store.path().join("blobs/sha256")).unwrap().count(), 3);
        let path = staging.store.path().to_owned();
        drop(staging);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_destination_with_a_digest_takes_no_other_image() {
        use crate::store::testing::{image, scratch};
        let (dir, store) = scratch();
        let target = image(&store, b"base");
        store.tag(&"t/base:1".parse().unwrap(), &target).unwrap();
        let lie = format!("t/lie@sha256:{}", "0".repeat(64));
        let places =
            [format!("docker://127.0.0.1:1/{lie}"), format!("store:{lie}"), format!("docker-archive:/nowhere:{lie}")];
        for place in places {
            let to: Place = place.parse().unwrap();
            let from = Place::Store("t/base:1".to_owned());
            let error = copy(&store, &from, &to, &CopyOptions::default(), &crate::progress::Silent).await.unwrap_err();
            assert!(error.to_string().contains("another digest"), "{place}: {error}");
        }
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        let (place, options) = (format!("127.0.0.1:1/{lie}").parse().unwrap(), PushOptions::default());
        let push = crate::push::push(&store, &target, &place, &options, &crate::progress::Silent);
        assert!(push.await.unwrap_err().to_string().contains("another digest"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_policy_judges_every_source() {
        use crate::policy::Policy;
        use crate::store::testing::{image, scratch};
        let (dir, store) = scratch();
        let target = image(&store, b"base");
        store.tag(&"t/base:1".parse().unwrap(), &target).unwrap();
        let file = dir.path().join("policy.json");
        let mut options = CopyOptions::default();
        let mut judged = async |policy: &str, from: &str| {
            std::fs::write(&file, policy).unwrap();
            options.from.policy = Some(Policy::read(&file).unwrap());
            let to = Place::Dir(dir.path().join("out"));
            copy(&store, &from.parse().unwrap(), &to, &options, &crate::progress::Silent).await.map(drop)
        };
        let layout = dir.path().join("layout");
        let record = store.find("t/base:1").unwrap();
        crate::archive::save_layout(&store, &[(record.clone(), Vec::new())], &layout, Some("1")).unwrap();
        let tar = dir.path().join("a.tar");
        let archive = crate::archive::save(&store, &[(record, Vec::new())], crate::archive::Format::Docker, Vec::new());
        std::fs::write(&tar, archive.unwrap()).unwrap();
        let (layout, tar) = (layout.display().to_string(), tar.display().to_string());
        let sources = [
            "store:t/base:1".to_owned(),
            format!("oci:{layout}:1"),
            format!("docker-archive:{tar}"),
            format!("oci-archive:{tar}"),
        ];
        let reject = r#"{"default":[{"type":"reject"}]}"#;
        for from in &sources {
            assert!(matches!(judged(reject, from).await, Err(CopyError::Pull(_))), "{from}");
            // What only a registry could prove is not proven here.
            let signed = r#"{"default":[{"type":"sigstoreSigned","keyPath":"/nowhere"}]}"#;
            assert!(matches!(judged(signed, from).await, Err(CopyError::Pull(_))), "{from}");
            judged(r#"{"default":[{"type":"insecureAcceptAnything"}]}"#, from).await.unwrap();
        }
        let rule = |transport: &str, scope: &str| {
            format!(
                r#"{{"default":[{{"type":"reject"}}],"transports":{{"{transport}":{{"{scope}":[{{"type":"insecureAcceptAnything"}}]}}}}}}"#
            )
        };
        let parent = dir.path().display().to_string();
        judged(&rule("containers-storage", "docker.io/t"), &sources[0]).await.unwrap();
        judged(&rule("oci", &format!("{layout}:1")), &sources[1]).await.unwrap();
        judged(&rule("oci", &parent), &sources[1]).await.unwrap();
        judged(&rule("docker-archive", ""), &sources[2]).await.unwrap();
        judged(&rule("oci-archive", &tar), &sources[3]).await.unwrap();
        assert!(judged(&rule("oci-archive", "/elsewhere"), &sources[3]).await.is_err());
    }

    #[test]
    fn places_are_read_as_skopeo_writes_them() {
        let place = |text: &str| text.parse::<Place>().unwrap();
        assert_eq!(place("docker://busybox"), Place::Registry("docker.io/library/busybox:latest".parse().unwrap()));
        assert_eq!(place("oci:/a/b:v1"), Place::Layout("/a/b".into(), Some("v1".into())));
        assert_eq!(place("oci:/a/b"), Place::Layout("/a/b".into(), None));
        assert_eq!(
            place("oci-archive:x.tar:r.example:5000/a:1"),
            Place::OciArchive("x.tar".into(), Some("r.example:5000/a:1".into()))
        );
        assert_eq!(
            place("docker-archive:x.tar:a:1"),
            Place::DockerArchive("x.tar".into(), Some("a:1".parse().unwrap()))
        );
        assert_eq!(place("dir:/x:y"), Place::Dir("/x:y".into()));
        assert_eq!(place("busybox:1"), Place::Store("busybox:1".into()));
        assert_eq!(place("localhost:5000/a:1"), Place::Store("localhost:5000/a:1".into()));
        assert!("docker:busybox".parse::<Place>().is_err());
        assert!("http://x/y".parse::<Place>().is_err());
        assert!("containers-storage:x".parse::<Place>().is_err());
        assert!("oci:".parse::<Place>().is_err());
    }
}
