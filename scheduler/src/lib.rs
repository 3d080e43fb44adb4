//! Services: desired state, placement, reconcile, routes; the node loop of the mesh.
//!
//! Everything outside [`node`] is pure: time, randomness and ids are arguments, so one simulator can run a thousand
//! nodes from one seed. [`core::Core`] holds the decisions of one node, [`node`] is the only place that touches the world.

pub mod compose;
pub mod core;
pub mod health;
pub mod mirror;
pub mod model;
pub mod node;
pub mod place;
pub mod placeholder;
pub mod port;
pub mod quantity;
pub mod reconcile;
pub mod rollout;
pub mod route;
pub mod service;
pub mod steward;
