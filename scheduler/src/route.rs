//! Where traffic goes, derived from rows alone: after a heal the routes are right as soon as the rows are.

pub mod balance;
pub mod names;
pub mod table;
