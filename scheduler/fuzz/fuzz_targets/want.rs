//! `cargo +nightly fuzz run want`, from `scheduler/`: the target with the coverage of libFuzzer.
#![no_main]

#[expect(dead_code, reason = "each program runs one of the targets")]
#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = targets::want(bytes);
});
