//! The words of the OCI specifications: parsed once, pure, without any I/O.
//!
//! In: text and bytes from images, registries, bundles and users. Out: types that state what they prove.
//! This crate never reads a file, a clock or the network.

#[cfg(feature = "image")]
pub mod config;
pub mod container_id;
#[cfg(feature = "image")]
pub mod conversion;
#[cfg(feature = "image")]
pub mod descriptor;
#[cfg(feature = "image")]
pub mod digest;
#[cfg(feature = "image")]
pub mod manifest;
#[cfg(feature = "image")]
pub mod platform;
#[cfg(feature = "image")]
pub mod reference;
pub mod spec;

pub use container_id::ContainerId;
#[cfg(feature = "image")]
pub use descriptor::Descriptor;
#[cfg(feature = "image")]
pub use digest::Digest;
#[cfg(feature = "image")]
pub use platform::Platform;
#[cfg(feature = "image")]
pub use reference::Reference;
