//! The only place of this crate that touches the kernel beyond plain files: processes, terminals, sockets, signals.

pub(crate) mod attach;
#[cfg(feature = "client")]
pub(crate) mod copy;
pub(crate) mod firewall;
pub(crate) mod netlink;
pub mod netns;
pub(crate) mod overlay;
pub mod process;
pub(crate) mod reserve;
pub(crate) mod resolver;
pub mod rootfs;
#[cfg(feature = "client")]
pub mod rootless;
#[cfg(feature = "client")]
pub(crate) mod shift;
#[cfg(feature = "client")]
pub mod slirp;
pub mod sys;
pub mod terminal;
pub mod userns;
