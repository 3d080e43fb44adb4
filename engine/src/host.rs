//! The only place of this crate that touches the kernel beyond plain files: processes, terminals, sockets, signals.

pub(crate) mod attach;
pub(crate) mod firewall;
pub(crate) mod netlink;
pub mod process;
pub(crate) mod reserve;
pub mod rootfs;
pub mod sys;
pub mod terminal;
