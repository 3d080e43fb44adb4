//! A mesh of three hosts on one switch: join, replicated keys, services answered through every node with the client's address
//! kept, names, images from peers, nodes killed and back, updates under load, leaving. Real processes, real kernels' networks.

#[path = "mesh/faults.rs"]
mod faults;
#[path = "mesh/life.rs"]
mod life;
#[path = "mesh/load.rs"]
mod load;
#[path = "mesh/mirrors.rs"]
mod mirrors;
#[path = "mesh/rig.rs"]
mod rig;
#[path = "mesh/services.rs"]
mod services;
#[path = "mesh/stacks.rs"]
mod stacks;
