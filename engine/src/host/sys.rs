//! The unsafe room: system calls that neither `std` nor `nix` offer safely.
//!
//! In: plain values and borrowed descriptors. Out: owned descriptors and `io::Result`. Nothing here decides anything.
#![expect(unsafe_code, reason = "I2: the one room of this crate where system calls are made by hand")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Opens a handle of a process that stays valid when its number is reused. `pidfd_open(2)`
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd)
}

/// Sends a signal to the process behind a handle. `pidfd_send_signal(2)`
pub fn pidfd_send_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call; the info pointer is null, as the manual page allows.
    let answer = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits for a child (any with -1) and returns its number and exit code: 128 + signal when a signal ended it, also one of the
/// real-time signals, which have no name. `None` with `WNOHANG` while none has ended. `waitpid(2)`
pub fn wait_child(pid: i32, flags: i32) -> io::Result<Option<(i32, i32)>> {
    loop {
        let mut status = 0;
        // SAFETY: the kernel writes one integer into `status`.
        match unsafe { libc::waitpid(pid, &raw mut status, flags) } {
            0 => return Ok(None),
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            pid if libc::WIFEXITED(status) => return Ok(Some((pid, libc::WEXITSTATUS(status)))),
            pid if libc::WIFSIGNALED(status) => return Ok(Some((pid, 128 + libc::WTERMSIG(status)))),
            _ => {}
        }
    }
}

/// The number of a child that has ended and is still to be waited for. `waitid(2)`
pub fn ended_child() -> io::Result<Option<i32>> {
    // SAFETY: all zeroes are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one siginfo_t into `info`.
    let answer = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: after a waitid the number is set, or zero where no child has ended.
    let pid = unsafe { info.si_pid() };
    Ok((pid != 0).then_some(pid))
}

/// Waits for a blocked signal of the set and returns its number, a real-time one's too. `sigwait(3)`
pub fn wait_signal(set: &nix::sys::signal::SigSet) -> io::Result<i32> {
    let mut signal = 0;
    // SAFETY: reads the set and writes one integer.
    match unsafe { libc::sigwait(set.as_ref(), &raw mut signal) } {
        0 => Ok(signal),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Sends a signal by number. `kill(2)`
pub fn send_signal(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes two integers.
    if unsafe { libc::kill(pid, signal) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes what the caller had open beyond the first three descriptors and did not mean for this process: it would stay open for
/// as long. To be called first of all, before anything is opened. `close_range(2)`
pub fn close_inherited() {
    // SAFETY: nothing of this process is open yet, so no descriptor that is closed has an owner here. A kernel without the call
    // leaves them open.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// What a clock of this process's zone (`TZ`, `/etc/localtime`) shows as seconds, in seconds since the epoch. `mktime(3)`
pub fn local_to_utc(shown: i64) -> i64 {
    let seconds: libc::time_t = shown;
    // SAFETY: all zeroes are a valid tm; both calls read and write the two structures alone.
    let answer = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        if libc::gmtime_r(&raw const seconds, &raw mut tm).is_null() {
            return shown;
        }
        // Whether summer time is on, the zone itself knows.
        tm.tm_isdst = -1;
        libc::mktime(&raw mut tm)
    };
    if answer == -1 { shown } else { answer }
}

/// Leaves the caller's session and process group: the parent process ends at once with status 0, the child goes on.
/// Must be called before any thread is started.
pub fn daemonize() -> io::Result<()> {
    // SAFETY: the monitor is single-threaded here, so the child may run any code; the parent leaves by `_exit`.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: setsid takes no arguments.
        0 => match unsafe { libc::setsid() } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        },
        // SAFETY: ends the parent without running destructors that the child shares.
        _ => unsafe { libc::_exit(0) },
    }
}

/// Makes this thread's new files belong to a user and a group of the same number, and keeps every right that it has: the kernel
/// takes those about files away with the change. `setfsuid(2)`, `capabilities(7)`
pub fn make_files_as(owner: u32) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Rights {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    /// `_LINUX_CAPABILITY_VERSION_3`: two halves of 32.
    const VERSION: u32 = 0x2008_0522;
    let mut header = Header { version: VERSION, pid: 0 };
    let mut rights = [Rights::default(); 2];
    let _ = nix::unistd::setfsgid(nix::unistd::Gid::from_raw(owner));
    let _ = nix::unistd::setfsuid(nix::unistd::Uid::from_raw(owner));
    // SAFETY: the kernel reads the header and writes two halves, which is what version 3 has, into the local array.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, rights.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    for half in &mut rights {
        half.effective = half.permitted;
    }
    // SAFETY: the kernel reads the header and the two halves; it changes this thread alone.
    if unsafe { libc::syscall(libc::SYS_capset, &raw mut header, rights.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Rows and columns of a terminal. `ioctl_tty(2)` TIOCGWINSZ
pub fn window_size(terminal: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one winsize into the local variable.
    let answer = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok((size.ws_row, size.ws_col)) }
}

/// Sets rows and columns of a terminal. `ioctl_tty(2)` TIOCSWINSZ
pub fn set_window_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one winsize from the local variable.
    let answer = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one descriptor over a unix socket, as `--console-socket` sends it; `None` when the message carries none.
pub fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut text = [0u8; 4096];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut parts = [io::IoSliceMut::new(&mut text)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut received = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part {
            for raw in descriptors {
                // SAFETY: the kernel has just installed this descriptor for us; nobody else owns it.
                let fd = unsafe { OwnedFd::from_raw_fd(raw) };
                received.get_or_insert(fd);
            }
        }
    }
    Ok(received)
}

/// Watches one directory or file for the events of `mask`. `inotify(7)`; reading the descriptor only empties it.
pub fn watch(path: &std::path::Path, mask: u32) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: takes one flag word.
    let fd = owned(i64::from(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) }))?;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a NUL-terminated string that lives over the call.
    let answer = unsafe { libc::inotify_add_watch(fd.as_fd().as_raw_fd(), path.as_ptr(), mask) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}

/// A counter that the kernel raises: readable once something has happened. `eventfd(2)`
pub fn event_counter() -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    owned(i64::from(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }))
}

/// Takes ownership of the descriptor a system call returned.
fn owned(answer: i64) -> io::Result<OwnedFd> {
    match RawFd::try_from(answer) {
        // SAFETY: a non-negative answer is a descriptor that the kernel has just made for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lists the names of a file's extended attributes. `flistxattr(2)`
pub fn xattr_names(file: BorrowedFd<'_>) -> io::Result<Vec<std::ffi::CString>> {
    // 64 KiB is the kernel's own bound (XATTR_LIST_MAX).
    let mut names = vec![0u8; 64 * 1024];
    // SAFETY: the kernel writes at most the given number of bytes into the buffer.
    let length = unsafe { libc::flistxattr(file.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    names.truncate(length);
    Ok(names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .filter_map(|name| std::ffi::CString::new(name).ok())
        .collect())
}

/// Reads one extended attribute. `fgetxattr(2)`
pub fn xattr(file: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<Vec<u8>> {
    // 64 KiB is the kernel's own bound (XATTR_SIZE_MAX).
    let mut value = vec![0u8; 64 * 1024];
    // SAFETY: the name ends with NUL; the kernel writes at most the given number of bytes into the buffer.
    let length = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    value.truncate(length);
    Ok(value)
}

/// Writes one extended attribute. `fsetxattr(2)`
pub fn set_xattr(file: BorrowedFd<'_>, name: &std::ffi::CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: the name ends with NUL; the kernel reads the given number of bytes from the slice.
    let answer = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
