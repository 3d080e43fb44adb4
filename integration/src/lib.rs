//! What every integration suite shares: the built binaries, hosts as network namespaces, bundles, images, deadlines.
//!
//! In: the binaries of `SHOAL_BIN_DIR` (default `target/release`) and the tools of Debian. Out: scratch folders, hosts and
//! processes that remove themselves when they are dropped, also when a test fails. Nothing here imports shoal's crates.

pub mod binaries;
pub mod bundle;
pub mod command;
pub mod deadline;
pub mod host;
pub mod image;
pub mod scratch;
pub mod user;

pub use command::{Cmd, Outcome};
pub use deadline::{eventually, pace, soon, unchanged};
pub use host::Host;
pub use scratch::Scratch;
