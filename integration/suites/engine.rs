//! Docker's verbs of everyday life on one host: each case asserts an effect seen inside the container or on the host. Every
//! test has a network namespace and a `SHOAL_ROOT` of its own; both go when it ends.

#[path = "engine/care.rs"]
mod care;
#[path = "engine/case.rs"]
mod case;
#[path = "engine/config.rs"]
mod config;
#[path = "engine/copy.rs"]
mod copy;
#[path = "engine/edges.rs"]
mod edges;
#[path = "engine/everyday.rs"]
mod everyday;
#[path = "engine/faults.rs"]
mod faults;
#[path = "engine/flags.rs"]
mod flags;
#[path = "engine/life.rs"]
mod life;
#[path = "engine/limits.rs"]
mod limits;
#[path = "engine/look.rs"]
mod look;
#[path = "engine/net.rs"]
mod net;
#[path = "engine/process.rs"]
mod process;
#[path = "engine/rootless.rs"]
mod rootless;
#[path = "engine/security.rs"]
mod security;
#[path = "engine/storage.rs"]
mod storage;
#[path = "engine/strace.rs"]
mod strace;
#[path = "engine/streams.rs"]
mod streams;
