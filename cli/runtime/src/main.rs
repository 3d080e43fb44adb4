//! The OCI runtime as a lean static binary, a drop-in for runc.

fn main() {}
