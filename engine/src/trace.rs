//! How long steps take, for who measures: with `SHOAL_TRACE=FILE` each step named in the code appends a line `STEP NANOSECONDS` to
//! the file. Without the variable nothing is timed and nothing is written.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::sync::OnceLock;
use std::time::Instant;

/// Does a step, and notes how long it took.
pub(crate) fn timed<T>(step: &str, work: impl FnOnce() -> T) -> T {
    static FILE: OnceLock<Option<OsString>> = OnceLock::new();
    let Some(file) = FILE.get_or_init(|| std::env::var_os("SHOAL_TRACE").filter(|path| !path.is_empty())) else {
        return work();
    };
    let begun = Instant::now();
    let done = work();
    let line = format!("{step} {}\n", begun.elapsed().as_nanos());
    // A time that is lost measures nothing, and stops nothing.
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .ok();
    done
}
