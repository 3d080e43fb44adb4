//! The driver of the scheduler's fuzz targets on the stable toolchain: `cargo xtask fuzz TARGET --seconds N [--seed S]`.

#[path = "../../tests/fuzz/random.rs"]
mod random;
#[path = "../../tests/fuzz/session.rs"]
mod session;
#[path = "targets.rs"]
mod targets;

fn main() {
    session::main(&targets::TARGETS, &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus"));
}
