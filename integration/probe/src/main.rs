//! The guest probe: a static program that reports from inside a container.

fn main() {}
