//! How an operation of the store fails: the step, the object, the cause, and who must act.

use oci::Digest;
use oci::digest::DigestError;
use oci::manifest::ManifestError;
use oci::reference::ReferenceError;
use std::io;
use std::path::PathBuf;

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("failed to {step} {path}", path = path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The disk is full.
    #[error("failed to {step} {path}: no space left on the disk; free some (shoal system df, shoal image prune) and run the same command again, it goes on where it stopped", path = path.display())]
    NoSpace {
        /// What was being done.
        step: &'static str,
        /// On what.
        path: PathBuf,
    },
    /// The directory is not a store of a version that this program knows.
    #[error("{path} is not an OCI image layout: {reason}", path = path.display())]
    NotALayout {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A document of the store or of an image cannot be read.
    #[error("failed to read {what} {digest}")]
    Document {
        /// What it should be.
        what: &'static str,
        /// Its digest.
        digest: String,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
    /// A manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A digest in text is wrong.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A name is wrong.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The content is not in the store.
    #[error("blob {digest} is not in the image store {path}", path = path.display())]
    Missing {
        /// Which.
        digest: Digest,
        /// The store.
        path: PathBuf,
    },
    /// The bytes are not what their digest says.
    #[error("content was promised as {expected} but is {actual}: it is refused and nothing was stored")]
    Mismatch {
        /// The promise.
        expected: String,
        /// The truth.
        actual: String,
    },
    /// The bytes are fewer or more than promised.
    #[error("content {name} was promised with {expected} bytes but has {actual}{more}: it is refused and nothing was stored", more = if *at_least { " or more" } else { "" })]
    Size {
        /// Which.
        name: String,
        /// The promise.
        expected: u64,
        /// The truth.
        actual: u64,
        /// Whether reading stopped before the end.
        at_least: bool,
    },
    /// A document is larger than is ever read into memory.
    #[error("{name} has {bytes} bytes, more than the {max} that are read into memory")]
    TooLarge {
        /// Which.
        name: String,
        /// Its size.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// No image has this name or id.
    #[error("no such image: {name}")]
    NoSuchImage {
        /// What was asked for.
        name: String,
    },
    /// The name has a digest, which is not that of what should get it.
    #[error("{name} cannot name {digest}: the digest in the name is another one")]
    Pinned {
        /// The name.
        name: String,
        /// What should get it.
        digest: String,
    },
    /// Several images begin with these digits.
    #[error("image id {prefix} is ambiguous: it begins {count} images; give more digits")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many there are.
        count: usize,
    },
    /// The name stands for an index of which this platform's manifest is not here.
    #[error("image {name} has no manifest for {platform} in the store")]
    NoPlatform {
        /// The image.
        name: String,
        /// The platform.
        platform: String,
    },
    /// The image is of another platform than the one that was asked for.
    #[error("{name} is an image for {is}, not for {wanted}")]
    OtherPlatform {
        /// The image.
        name: String,
        /// The platform that was asked for.
        wanted: String,
        /// The image's own.
        is: String,
    },
    /// The content is an artifact and no file-system image.
    #[error("{name} is not a container image: its config has the media type {media_type}")]
    NotAnImage {
        /// Which.
        name: String,
        /// The type of its config.
        media_type: String,
    },
    /// A layer cannot be read or made.
    #[error("failed to unpack layer {digest}")]
    Layer {
        /// The layer's blob.
        digest: String,
        /// The cause.
        source: Box<crate::layer::LayerError>,
    },
    /// The image contradicts itself.
    #[error("image {name} is not valid: {reason}")]
    Invalid {
        /// The image.
        name: String,
        /// The contradiction.
        reason: String,
    },
    /// Someone still uses it.
    #[error("image {name} is in use by {by}")]
    InUse {
        /// The image.
        name: String,
        /// The users, separated by commas.
        by: String,
    },
    /// A manifest that names or containers need cannot be read.
    #[error(
        "what {digest} needs is not known, so nothing is deleted; remove it (shoal rmi {digest}), or pull or load it again"
    )]
    Unknown {
        /// The manifest.
        digest: Digest,
        /// Why it cannot be read.
        source: Box<Self>,
    },
    /// A manifest that was pushed to the registry of this store cannot be read.
    #[error(
        "what the registry's manifest {repository}@{digest} needs is not known, so nothing is deleted; push it again, or delete it from the registry"
    )]
    Pushed {
        /// The repository that holds it.
        repository: String,
        /// The manifest.
        digest: Digest,
        /// Why it cannot be read.
        source: Box<Self>,
    },
    /// An archive cannot be read.
    #[error("failed to load the archive: {reason}")]
    Archive {
        /// What is wrong with it.
        reason: String,
    },
}

impl StoreError {
    /// Whether these bytes are what their digest says and yet no manifest: nothing can be needed by them.
    pub(crate) fn is_no_manifest(&self) -> bool {
        matches!(self, Self::Manifest(_) | Self::TooLarge { .. })
    }

    /// An error of the operating system while doing `step` on `path`; a full disk is told apart.
    pub(crate) fn io(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { step, path },
            _ => Self::Io { step, path, source },
        }
    }

    /// The same for an error number.
    pub(crate) fn errno(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let io = Self::io(step, path);
        move |errno| io(errno.into())
    }
}
