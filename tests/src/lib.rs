//! Hermetic tests: no root, no network, no wall clock.

pub mod sim;
