//! What long work tells whoever watches: events with bytes, never text for a terminal.
//!
//! In: nothing. Out: [`Event`]s to a [`Progress`]. Bars, plain lines and JSON are made from them by the command line.

use oci::Digest;

/// What kind of content an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// A manifest or an index.
    Manifest,
    /// An image config.
    Config,
    /// A layer.
    Layer,
    /// Another blob (an artifact's, a signature's).
    Other,
}

/// Something happened to one piece of content. Sizes are bytes.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// The content is wanted and will be worked on.
    Queued {
        /// Which.
        digest: &'a Digest,
        /// What it is.
        content: Content,
        /// Its size.
        size: u64,
    },
    /// The content was there already.
    Exists {
        /// Which.
        digest: &'a Digest,
    },
    /// Bytes have moved. `done` counts from the start of the content and may go back after a failure.
    Moved {
        /// Which.
        digest: &'a Digest,
        /// Bytes moved so far, bytes resumed from an earlier run included.
        done: u64,
        /// Bytes in all.
        size: u64,
    },
    /// An attempt failed and another follows.
    Retry {
        /// Which.
        digest: &'a Digest,
        /// Why, in one line.
        cause: &'a str,
        /// Milliseconds until the next attempt.
        wait_ms: u64,
    },
    /// A layer is being turned into a file system.
    Unpacking {
        /// Which layer, by the digest of its blob.
        digest: &'a Digest,
        /// Bytes of the blob read so far.
        done: u64,
        /// Bytes of the blob.
        size: u64,
    },
    /// The content is complete and verified.
    Done {
        /// Which.
        digest: &'a Digest,
    },
    /// A line for people: what is being done now.
    Message(&'a str),
}

/// Takes events. Called from several threads at once; must not block for long.
pub trait Progress: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event<'_>);
}

/// Takes every event and shows none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: Event<'_>) {}
}
