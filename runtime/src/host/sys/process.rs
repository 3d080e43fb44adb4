//! What a process is: identity, capabilities, prctl(2) attributes, descriptors, keyring, execve(2).

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicPtr, Ordering};

use nix::errno::Errno;

use super::check;

/// The three sets of capset(2), as bit masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct CapSets {
    /// What is checked.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What survives execve together with a file's own.
    pub inheritable: u64,
}

const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The low and the high half of a mask.
fn halves(mask: u64) -> [u32; 2] {
    [u32::try_from(mask & 0xffff_ffff).expect("masked to 32 bits"), u32::try_from(mask >> 32).expect("shifted by 32")]
}

/// Replaces the capability sets of this thread.
pub fn capset(sets: CapSets) -> nix::Result<()> {
    let header = CapHeader { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let [effective, permitted, inheritable] = [sets.effective, sets.permitted, sets.inheritable].map(halves);
    let data = [0, 1].map(|half| CapData {
        effective: effective[half],
        permitted: permitted[half],
        inheritable: inheritable[half],
    });
    // SAFETY: version 3 reads one header and two data structures, which outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// The capability sets of this thread.
pub fn capget() -> nix::Result<CapSets> {
    let header = CapHeader { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(), CapData::default()];
    // SAFETY: version 3 reads one header and writes two data structures, which outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapSets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// What the language's own start-up does and this program needs: descriptors 0, 1 and 2 are open, and a broken pipe is
/// an error instead of a death. The rest of it (guard pages, handlers for stack overflows) costs more calls than many a
/// command.
pub fn begin() {
    let mut standard = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: three structures that outlive the call.
    let answer = unsafe { libc::poll(standard.as_mut_ptr(), 3, 0) };
    for fd in standard.iter().filter(|one| answer < 0 || one.revents & libc::POLLNVAL != 0).map(|one| one.fd) {
        // SAFETY: a plain number; whether it is open.
        let open = unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
        // SAFETY: a constant path. The lowest free number is taken, which is this one, and stays open for good.
        if !open && unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } != fd {
            super::clone::exit_now(1);
        }
    }
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Where the kernel has put the words of the command line, once they were read.
pub(super) static WORDS: AtomicPtr<*const libc::c_char> = AtomicPtr::new(std::ptr::null_mut());

/// The words of the command line as the C library hands them to `main`.
#[derive(Debug)]
#[repr(transparent)]
pub struct Words(*const *const libc::c_char);

impl Words {
    /// The `count` words.
    pub fn read(&self, count: libc::c_int) -> Vec<OsString> {
        WORDS.store(self.0.cast_mut(), Ordering::Relaxed);
        // SAFETY: only the C library makes this value, as the second argument of `main`: a vector of as many strings
        // as the first one says, which live as long as the process.
        let word = |at| unsafe { CStr::from_ptr(*self.0.add(at)) };
        (0..usize::try_from(count).unwrap_or(0)).map(|at| OsStr::from_bytes(word(at).to_bytes()).to_owned()).collect()
    }
}

fn prctl(option: i32, arg2: u64, arg3: u64) -> nix::Result<i32> {
    // SAFETY: only options that take plain numbers are passed here; the unused arguments are zero as the kernel wants.
    Errno::result(unsafe { libc::prctl(option, arg2, arg3, 0u64, 0u64) })
}

/// Removes one capability from the bounding set.
pub fn bounding_drop(capability: u32) -> nix::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, capability.into(), 0).map(drop)
}

/// Whether a capability is in the bounding set; `EINVAL` when the kernel does not know it.
pub fn bounding_has(capability: u32) -> nix::Result<bool> {
    prctl(libc::PR_CAPBSET_READ, capability.into(), 0).map(|answer| answer == 1)
}

/// Adds one capability to the ambient set.
pub fn ambient_raise(capability: u32) -> nix::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, capability.into()).map(drop)
}

/// Empties the ambient set.
pub fn ambient_clear() -> nix::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0).map(drop)
}

/// Whether capabilities survive a change of user.
pub fn keep_capabilities(keep: bool) -> nix::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0).map(drop)
}

/// Whether others of the same user may look into this process.
pub fn set_dumpable(dumpable: bool) -> nix::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, dumpable.into(), 0).map(drop)
}

/// Sets the mask of file modes. The raw call: a filter may deny it, for which wrappers have no answer.
pub fn set_umask(mask: u32) {
    // SAFETY: a plain number.
    unsafe { libc::syscall(libc::SYS_umask, mask) };
}

/// Gives up gaining privileges for good.
pub fn no_new_privileges() -> nix::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Makes orphaned grandchildren children of this process.
pub fn set_child_subreaper() -> nix::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).map(drop)
}

/// The signal this process gets when its parent dies.
pub fn set_parent_death_signal(signal: i32) -> nix::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, u64::from(signal.unsigned_abs()), 0).map(drop)
}

/// Sets real, effective and saved user id.
///
/// The raw call: the C library's would signal every thread, and there is one.
pub fn setresuid(uid: u32) -> nix::Result<()> {
    // SAFETY: plain numbers; the program is single-threaded.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Sets real, effective and saved group id.
pub fn setresgid(gid: u32) -> nix::Result<()> {
    // SAFETY: plain numbers; the program is single-threaded.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// Replaces the supplementary groups.
pub fn setgroups(gids: &[u32]) -> nix::Result<()> {
    // SAFETY: a pointer to as many gids as stated, which outlive the call.
    check(unsafe { libc::syscall(libc::SYS_setgroups, gids.len(), gids.as_ptr()) }).map(drop)
}

/// Closes descriptors from `first` on, but for those in `kept`. Their owners in this process must never run again.
pub fn close_all_but(first: u32, kept: &[RawFd]) -> nix::Result<()> {
    let mut kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd >= first).collect();
    kept.sort_unstable();
    let mut from = first;
    for until in kept.into_iter().map(Some).chain([None]) {
        let last = until.map_or(u32::MAX, |fd| fd.wrapping_sub(1));
        if until.is_none_or(|fd| fd > from) {
            // SAFETY: plain numbers; the caller states that no owner of what is closed uses it afterwards.
            check(unsafe { libc::syscall(libc::SYS_close_range, from, last, 0) })?;
        }
        from = until.map_or(from, |fd| fd + 1);
    }
    Ok(())
}

/// Whether a descriptor is open and is passed on by execve: then it was passed to this program, whose own are not.
pub fn is_inherited(fd: RawFd) -> bool {
    // SAFETY: F_GETFD only asks.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Joins a new session keyring named `name` and returns its id.
pub fn join_session_keyring(name: &CStr) -> nix::Result<libc::c_long> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a NUL-terminated name that outlives the call.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })
}

/// The permissions of a key, as `keyctl describe` words them: the sixth field of `type;uid;gid;perm;description`.
pub fn keyring_description(key: libc::c_long) -> nix::Result<String> {
    const KEYCTL_DESCRIBE: libc::c_int = 6;
    let mut text = [0u8; 512];
    // SAFETY: the buffer is as long as stated.
    let length =
        check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_DESCRIBE, key, text.as_mut_ptr(), text.len()) })?;
    let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?.min(text.len());
    Ok(String::from_utf8_lossy(&text[..length]).trim_end_matches('\0').to_owned())
}

/// Replaces the permissions of a key.
pub fn set_key_permissions(key: libc::c_long, permissions: u32) -> nix::Result<()> {
    const KEYCTL_SETPERM: libc::c_int = 5;
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, permissions) }).map(drop)
}

/// Sets the execution domain and returns the former one.
pub fn personality(domain: u64) -> nix::Result<()> {
    // SAFETY: a plain number.
    check(unsafe { libc::personality(domain) }.into()).map(drop)
}

/// Puts the actions of the signals in `ignored` (bit N for signal N + 1) back to the default and unblocks all signals.
///
/// Handlers of our own end at execve by themselves; only what is ignored would be inherited.
pub fn reset_signals(ignored: u64) {
    /// The kernel's structure: handler, flags, restorer, mask.
    #[repr(C)]
    struct KernelAction([u64; 4]);
    for signal in 1..=64 {
        if ignored >> (signal - 1) & 1 == 0 {
            continue;
        }
        let default = KernelAction([0; 4]);
        // SAFETY: sets SIG_DFL for one signal; the structure is the kernel's and outlives the call.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, 0usize, 8usize) };
    }
    let none = 0u64;
    // SAFETY: an empty mask of the kernel's size.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0usize, 8usize) };
}

/// Lets each of `signals` end this process; execve(2) forgets it.
///
/// The first process of a pid namespace is reached only by signals it has a handler for.
pub fn end_on(signals: &[libc::c_int]) {
    extern "C" fn end(signal: libc::c_int) {
        // SAFETY: _exit(2) is safe in a handler and does not return.
        unsafe { libc::_exit(128 + signal) }
    }
    let handler: extern "C" fn(libc::c_int) = end;
    for &signal in signals {
        // SAFETY: the handler does nothing but end the process.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// An argument vector for execve(2), made before anything can fail.
#[derive(Debug)]
pub struct Vector {
    texts: Vec<CString>,
}

impl Vector {
    /// The vector of `texts`; `EINVAL` when one has a NUL inside.
    pub fn new<T: AsRef<[u8]>>(texts: impl IntoIterator<Item = T>) -> nix::Result<Self> {
        let texts = texts.into_iter().map(|text| super::c_path(text.as_ref())).collect::<nix::Result<_>>()?;
        Ok(Self { texts })
    }

    fn pointers(&self) -> Vec<*const libc::c_char> {
        self.texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    }
}

/// Executes `program`; returns only when that failed.
pub fn execve(program: &CStr, args: &Vector, env: &Vector) -> nix::Result<Infallible> {
    let (args, env) = (args.pointers(), env.pointers());
    // SAFETY: a NUL-terminated path and two NULL-terminated vectors of such strings, alive until the call replaces us.
    check(unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) }.into())?;
    Err(Errno::EINVAL)
}

/// Executes the file behind `file`; returns only when that failed.
pub fn execve_fd(file: BorrowedFd<'_>, args: &Vector, env: &Vector) -> nix::Result<Infallible> {
    let (args, env) = (args.pointers(), env.pointers());
    // SAFETY: a live descriptor, an empty path and two NULL-terminated vectors, alive until the call replaces us.
    check(unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    })?;
    Err(Errno::EINVAL)
}

/// Makes `from` also known as `to`, replacing what `to` was; survives execve.
pub fn dup_to(from: BorrowedFd<'_>, to: RawFd) -> nix::Result<()> {
    if from.as_raw_fd() == to {
        // SAFETY: clears the close-on-exec flag of a live descriptor.
        return check(unsafe { libc::fcntl(to, libc::F_SETFD, 0) }.into()).map(drop);
    }
    // SAFETY: `to` is a number whose owner, if any, gave it up to the payload: callers pass 0, 1, 2 or preserved ones.
    check(unsafe { libc::dup2(from.as_raw_fd(), to) }.into()).map(drop)
}

/// Sets the NIS domain name of this uts namespace.
pub fn set_domainname(name: &str) -> nix::Result<()> {
    // SAFETY: a pointer to as many bytes as stated.
    check(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

/// Sets one resource limit of the process `pid`.
pub fn set_limit(pid: i32, resource: u32, soft: u64, hard: u64) -> nix::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: one structure that outlives the call; the old value is not wanted.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, 0usize) }).map(drop)
}
