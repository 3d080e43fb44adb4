//! The only place of this crate that touches the world.

pub mod cgroup;
pub mod cgroup_mount;
pub mod checkpoint;
pub mod clock;
pub mod console;
mod copy_up;
pub mod criu;
pub mod delete;
mod descriptors;
pub mod events;
pub mod exec;
pub mod foreground;
pub mod freeze;
pub mod hooks;
pub mod idmap;
pub mod kill;
pub mod lacks;
pub mod launch;
pub mod limits;
pub mod mounts;
pub mod net_device;
pub mod notify;
pub mod probe;
pub mod processes;
pub mod procfs;
pub mod room;
pub mod seal;
pub mod source;
pub mod stage;
pub mod start;
pub mod state;
#[expect(unsafe_code, reason = "the room of system calls that have no safe wrapper (I2)")]
pub mod sys;
pub mod update;
