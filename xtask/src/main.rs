//! What people and CI run: ci, test, demo, bench, soak, vm, measure, dist.

fn main() {}
