//! The built binaries on a real kernel: one host, many hosts, real peers and clients.
