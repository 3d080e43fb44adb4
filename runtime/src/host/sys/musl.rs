//! A few names for a binary that is linked with musl while the standard library and the compiler's unwinder were made
//! for glibc: two they ask for, and one that musl does in two calls. Without glibc the binary is a quarter smaller, and
//! its start does not examine the processor, which takes long in a virtual machine.
//!
//! Everything else both libraries have alike on x86-64: the kernel's structures, and the calls with `64` in their names.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// What the standard library takes from it: posix_spawn(3) tells when the program could not be executed, as musl's does.
#[unsafe(no_mangle)]
extern "C" fn gnu_get_libc_version() -> *const c_char {
    c"2.24".as_ptr()
}

/// Where the unwinder finds its tables: nowhere. Nothing is unwound, a panic ends the process.
#[unsafe(no_mangle)]
extern "C" fn _dl_find_object(_address: *const c_void, _found: *mut c_void) -> c_int {
    -1
}

/// open(2): musl sets the close-on-exec flag by a second call, for kernels of before 2.6.23.
#[unsafe(no_mangle)]
extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the arguments of open(2), which the caller vouches for.
    let answer = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) };
    c_int::try_from(answer).unwrap_or(-1)
}

/// The same under the name it has without `64`.
#[unsafe(no_mangle)]
extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    open64(path, flags, mode)
}
