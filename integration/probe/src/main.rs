//! The guest probe: a static program that reports from inside a container and tries what an attacker would try.
//!
//! In: a verb and its arguments. Out: one JSON document (or one word) on stdout, exit code 0 when the verb did what it says.
//! It never decides whether what it saw is right: the suites do.

mod attack;
mod floor;
mod report;
mod serve;
mod syscall;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let rest: Vec<&str> = args.iter().skip(2).map(String::as_str).collect();
    match args.get(1).map(String::as_str) {
        Some("report") => report::print(&rest),
        Some("syscalls") => syscall::print(&rest),
        Some("true") => ExitCode::SUCCESS,
        Some("exit") => ExitCode::from(rest.first().and_then(|code| code.parse().ok()).unwrap_or(1)),
        Some("pause") => pause(),
        Some("signals") => wait_for_signal(),
        Some("hog") => hog(rest.first().and_then(|mib| mib.parse().ok()).unwrap_or(64)),
        Some("forks") => forks(rest.first().and_then(|count| count.parse().ok()).unwrap_or(10)),
        Some("write-exe") => attack::write_exe(&rest),
        Some("peek") => attack::peek(&rest),
        Some("swap") => attack::swap(&rest),
        Some("open") => attack::open(&rest),
        Some("serve") => serve::run(&rest),
        Some("floor") => floor::run(&rest),
        Some("notify") => notify(&rest),
        _ => {
            eprintln!(
                "probe: report [SECTION…] | syscalls FIRST LAST | true | exit N | pause | signals | hog MIB | forks N | write-exe PID | peek [WORD] | swap A B | open PATH… | floor ROOTFS PROGRAM… | serve PORT | notify LINE…"
            );
            ExitCode::from(2)
        }
    }
}

/// Says lines to the service manager, as sd_notify(3) does.
fn notify(lines: &[&str]) -> ExitCode {
    let socket = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let sent = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|sender| sender.send_to(lines.join("\n").as_bytes(), socket));
    match sent {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: notify: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for ever, and ends with 128 + N at a signal that is not ignored.
fn pause() -> ExitCode {
    loop {
        // SAFETY: pause(2) takes nothing and touches no memory.
        unsafe { libc::pause() };
    }
}

/// Prints `ready`, then waits for any one signal and prints its number: what `kill` really delivered.
fn wait_for_signal() -> ExitCode {
    use std::io::Write;
    // SAFETY: the set is a local, initialised by sigfillset before use; blocking and waiting touch nothing else.
    let signal = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        println!("ready");
        let _ = std::io::stdout().flush();
        libc::sigwaitinfo(&raw const set, std::ptr::null_mut())
    };
    println!("{signal}");
    ExitCode::SUCCESS
}

/// Touches `mib` MiB of memory and prints how far it came.
fn hog(mib: usize) -> ExitCode {
    let mut held = Vec::new();
    for _ in 0..mib {
        held.push(vec![1_u8; 1 << 20]);
    }
    println!("{}", held.len());
    ExitCode::SUCCESS
}

/// Forks `count` children that wait, prints how many could be made, and ends them.
fn forks(count: usize) -> ExitCode {
    let mut children = Vec::new();
    for _ in 0..count {
        // SAFETY: the probe has one thread; the child only pauses and is killed below.
        match unsafe { libc::fork() } {
            -1 => break,
            0 => {
                let _ = pause();
            }
            child => children.push(child),
        }
    }
    println!("{}", children.len());
    for child in &children {
        // SAFETY: the pid is a child of ours that was not yet waited for.
        unsafe { libc::kill(*child, libc::SIGKILL) };
    }
    ExitCode::SUCCESS
}
