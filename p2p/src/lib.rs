//! Peers: identity, admission, membership, replicated table, content exchange.
//!
//! Pure cores (`table`, `membership`, `broadcast`, `sync`, `admission`, `node`) take time, seeds and ids as arguments
//! and answer with outputs; `mesh`, `swarm` and `disk` are the only places that touch sockets, clocks and files.

pub mod admission;
pub mod disk;
pub mod id;
pub mod membership;
pub mod mesh;
pub mod node;
pub mod swarm;
pub mod sync;
pub mod table;
pub mod wire;

pub use id::{ClusterId, NodeId};
pub use mesh::Mesh;
