//! The least a container can cost: five namespaces, four mounts, pivot, exec, wait. Benchmarks set it beside the runtimes.
//!
//! In: a root file system and a program in it. Out: the program's exit code. It makes no cgroup, drops no capability,
//! filters nothing: no runtime can be as quick.

use std::ffi::CString;
use std::process::ExitCode;

/// Runs `PROGRAM ARGS…` in `ROOTFS`.
pub fn run(args: &[&str]) -> ExitCode {
    let [rootfs, program @ ..] = args else {
        eprintln!("probe: floor ROOTFS PROGRAM ARGS…");
        return ExitCode::from(2);
    };
    let words: Result<Vec<CString>, _> = program.iter().map(|word| CString::new(*word)).collect();
    let (Ok(rootfs), Ok(words)) = (CString::new(*rootfs), words) else { return ExitCode::from(2) };
    if words.is_empty() {
        return ExitCode::from(2);
    }
    let mut argv: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    argv.push(std::ptr::null());
    let flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: clone(2) without a new stack or shared memory behaves as fork; the probe has one thread.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
    match child {
        -1 => {
            eprintln!("probe: floor: {}", std::io::Error::last_os_error());
            ExitCode::FAILURE
        }
        0 => {
            child_side(&rootfs, &argv);
            eprintln!("probe: floor: {}", std::io::Error::last_os_error());
            ExitCode::from(126)
        }
        _ => {
            let mut status = 0;
            // SAFETY: the status is a local; the child is ours.
            unsafe { libc::waitpid(-1, &raw mut status, 0) };
            ExitCode::from(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(1))
        }
    }
}

/// Goes on to the program; returns at the first step that fails.
fn child_side(rootfs: &CString, argv: &[*const libc::c_char]) {
    let mount = |source: &std::ffi::CStr, target: &std::ffi::CStr, kind: &std::ffi::CStr, flags: libc::c_ulong| {
        // SAFETY: three NUL-terminated names that outlive the call; no data.
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) == 0 }
    };
    let ready = mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_PRIVATE)
        && mount(rootfs, rootfs, c"none", libc::MS_BIND | libc::MS_REC)
        // SAFETY: a NUL-terminated name that outlives the call.
        && unsafe { libc::chdir(rootfs.as_ptr()) } == 0
        && mount(c"proc", c"proc", c"proc", 0)
        && mount(c"tmpfs", c"dev", c"tmpfs", 0)
        && mount(c"sysfs", c"sys", c"sysfs", libc::MS_RDONLY)
        // SAFETY: two NUL-terminated names; both are the folder this process stands in.
        && unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) } == 0
        // SAFETY: a NUL-terminated name.
        && unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) } == 0;
    if ready {
        let env = [std::ptr::null()];
        // SAFETY: the list ends with a null pointer, and its words outlive the call.
        unsafe { libc::execve(argv[0], argv.as_ptr(), env.as_ptr()) };
    }
}
