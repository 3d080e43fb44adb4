//! The verdict of the seccomp filter for each system call, asked with arguments that do nothing.

use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// Prints `{number: verdict}` for the numbers FIRST..=LAST. A verdict is `errno N`, `signal N`, `exit N` or `timeout`.
///
/// Each call is made in a child of its own with six arguments of all ones: no pointer is valid and no descriptor is open,
/// so an allowed call fails by itself (or blocks, and is then killed).
pub fn print(args: &[&str]) -> ExitCode {
    let number = |at: usize| args.get(at).and_then(|text| text.parse::<i64>().ok());
    let (Some(first), Some(last)) = (number(0), number(1)) else {
        eprintln!("probe: syscalls FIRST LAST");
        return ExitCode::from(2);
    };
    let mut verdicts = Map::new();
    for call in first..=last {
        verdicts.insert(call.to_string(), verdict(call));
    }
    println!("{}", Value::Object(verdicts));
    ExitCode::SUCCESS
}

fn verdict(call: i64) -> Value {
    let mut pipe = [0; 2];
    // SAFETY: one thread; the child makes one call, writes its errno into the pipe and leaves without unwinding. The pipe's
    // descriptors are locals that both sides close.
    unsafe {
        if libc::pipe(pipe.as_mut_ptr()) != 0 {
            return json!("no pipe");
        }
        let child = libc::fork();
        if child == 0 {
            libc::alarm(2);
            libc::close(pipe[0]);
            *libc::__errno_location() = 0;
            let result = libc::syscall(call, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64);
            let errno: i32 = if result == -1 { *libc::__errno_location() } else { 0 };
            libc::write(pipe[1], errno.to_ne_bytes().as_ptr().cast(), 4);
            libc::_exit(0);
        }
        libc::close(pipe[1]);
        let mut bytes = [0_u8; 4];
        let count = libc::read(pipe[0], bytes.as_mut_ptr().cast(), 4);
        libc::close(pipe[0]);
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        if count == 4 {
            json!(format!("errno {}", i32::from_ne_bytes(bytes)))
        } else if libc::WIFSIGNALED(status) {
            json!(format!("signal {}", libc::WTERMSIG(status)))
        } else {
            json!(format!("exit {}", libc::WEXITSTATUS(status)))
        }
    }
}
