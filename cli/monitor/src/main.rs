//! One small process per running container: terminal, log, exit code, restart, health.

fn main() {}
