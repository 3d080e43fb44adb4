//! The registry server: OCI distribution-spec 1.1 over the store.
//!
//! In: HTTP requests. Out: blobs, manifests, tags, referrers. It never serves a byte that was not verified, never names
//! bytes that are not there, and loses nothing it has acknowledged, also when it is killed.

pub mod access;
pub mod api;
pub mod error;
pub(crate) mod leftovers;
pub mod route;
pub mod serve;
pub mod shelf;
pub(crate) mod upload;

pub use api::Registry;
pub use shelf::Shelf;
