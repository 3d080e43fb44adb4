//! A reference becomes a rootfs: store, registry client, registry server, unpack, archives.
//!
//! In: references, archives, layers. Out: verified blobs, names, mounted root file systems, and the same again for others.
//! Nothing from a registry, an archive or a layer is trusted before its digest is checked.

pub mod archive;
pub mod change;
pub mod gc;
pub mod layer;
pub mod progress;
pub mod store;

pub use progress::Progress;
pub use store::rootfs;
pub use store::{Claim, ImageRecord, Ingest, Partial, Store, StoreError};

pub mod copy;
pub mod fetch;
pub mod mirror;
pub mod policy;
pub mod pull;
pub mod push;
pub mod registry;
pub mod remote;
pub mod source;
