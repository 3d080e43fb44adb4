//! `cargo +nightly fuzz run manifest`, from `image/`: the target with the coverage of libFuzzer.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = targets::manifest(bytes);
});
