//! The simulator: the shipped cores of node and scheduler in virtual time, from one seed. In: a seed and a scenario. Out: what
//! happened, and which promise was broken. No sockets, no clocks, no threads: a seed replays bit for bit.

pub mod checks;
pub mod figures;
pub mod inject;
pub mod net;
pub mod random;
pub mod services;
pub mod swim;
pub mod world;

pub use world::{Bug, Fault, World};
