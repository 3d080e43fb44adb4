//! seccomp(2): installs a filter on this process.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use seccompiler::sock_filter;

const SET_MODE_FILTER: libc::c_ulong = 1;
const GET_ACTION_AVAIL: libc::c_ulong = 2;
const NEW_LISTENER: u32 = 8;

#[repr(C)]
struct Program {
    length: libc::c_ushort,
    instructions: *const sock_filter,
}

/// Installs the filter with the flags; with `NEW_LISTENER` among them the notify descriptor comes back. Without
/// CAP_SYS_ADMIN the caller must have set `no_new_privs` before.
pub fn install(program: &[sock_filter], flags: u32) -> io::Result<Option<OwnedFd>> {
    let length = libc::c_ushort::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let argument = Program { length, instructions: program.as_ptr() };
    // SAFETY: `argument` and the instructions it points to live until the call returns; `sock_filter` has the layout
    // of the kernel's struct of that name.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, libc::c_ulong::from(flags), &raw const argument) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    let fd = libc::c_int::try_from(result).expect("the kernel returns descriptors as ints");
    // SAFETY: the kernel just returned this descriptor to us; nobody else owns it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Whether the kernel knows the action with this value.
pub fn knows_action(value: u32) -> bool {
    // SAFETY: the kernel reads one u32 from the pointer, which lives until the call returns.
    unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0 as libc::c_ulong, &raw const value) == 0 }
}

/// Whether the kernel knows every flag in `flags`: a null program is only looked at after the flags.
pub fn knows_flags(flags: u32) -> bool {
    // SAFETY: the null pointer is refused by the kernel with EFAULT; nothing is installed.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, libc::c_ulong::from(flags), std::ptr::null::<Program>())
    };
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}
