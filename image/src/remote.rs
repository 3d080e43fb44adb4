//! The registry client: OCI distribution-spec 1.1 and docker v2 over HTTP.
//!
//! In: references and digests. Out: verified documents and ranges of bytes. It believes nothing a registry says: sizes are
//! bounded, digests verified, redirects and token realms judged before credentials go anywhere.

pub mod auth;
pub mod challenge;
pub mod client;
pub mod config;
pub mod error;
pub(crate) mod tls;
pub mod transport;

pub use error::{Error, Result};
