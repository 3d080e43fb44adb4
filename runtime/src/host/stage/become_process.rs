//! The last steps before execve: session, limits, labels, user, capabilities, working directory. Shared by the first
//! process and by `exec`.
//!
//! The order matters and each step says why it stands where it does.

use std::borrow::Cow;
use std::convert::Infallible;
use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::unistd::AccessFlags;

use super::super::procfs::Procfs;
use super::super::sys::process::{self as sys, CapSets, Vector};
use super::super::sys::schedule;
use super::super::sys::seccomp::install as install_filter;
use super::streams::Streams;
use crate::error::{During, Error, Result};
use crate::handshake::{Channel, FromChild, ToChild};
use crate::plan::capabilities::Capabilities;
use crate::plan::process::{Process, Seccomp};
use crate::plan::rlimits;

/// Sets the resource limits; in a user namespace some can only be set by the parent, which is then asked to.
pub fn set_limits(process: &Process, channel: &Channel) -> Result<()> {
    for limit in &process.rlimits {
        match sys::set_limit(0, limit.resource, limit.soft, limit.hard) {
            Ok(()) => {}
            Err(Errno::EPERM) => {
                channel.send(&FromChild::Unlimited)?;
                return channel.expect(|message| matches!(message, ToChild::Limited).then_some(()));
            }
            Err(errno) => return Err(errno).during(|| rlimits::describe(limit)),
        }
    }
    Ok(())
}

/// Settings that need the privileges of the runtime.
pub fn prepare(process: &Process) -> Result<()> {
    if let Some(attr) = process.scheduler {
        schedule::set_attr(attr).during(|| "set the scheduler")?;
    }
    if let Some((class, priority)) = process.io_priority {
        schedule::set_io_priority(class, priority).during(|| "set the I/O priority")?;
    }
    if let Some(policy) = &process.memory_policy {
        schedule::set_memory_policy(policy.mode, &policy.nodes).during(|| "set the memory policy")?;
    }
    if let Some(domain) = process.personality {
        sys::personality(domain).during(|| "set the personality")?;
    }
    Ok(())
}

/// What a process says about itself in procfs before it is hidden, for itself and those it makes: its OOM adjustment and
/// its labels.
pub fn describe(process: &Process, procfs: &Procfs) -> Result<()> {
    if let Some(adjustment) = process.oom_score_adj {
        procfs.write("self/oom_score_adj", &adjustment.to_string())?;
    }
    Labels::open(process, procfs)?.apply()
}

/// The labels the kernel applies at execve and to keys: files of `/proc/self/attr` and what goes there.
///
/// They are opened while procfs is still certain to be the host's and the files of this process in it are its own: those
/// of a hidden one belong to the host's root. They are applied after the hooks, which would else get them, too.
#[derive(Debug)]
pub struct Labels<'a>(Vec<Label<'a>>);

#[derive(Debug)]
struct Label<'a> {
    file: OwnedFd,
    name: &'static str,
    text: Cow<'a, str>,
    /// What the host lacks where it does not take the label.
    lack: Option<(&'static str, &'static str, &'a str)>,
}

impl<'a> Labels<'a> {
    /// Opens what the labels of `process` need.
    pub fn open(process: &'a Process, procfs: &Procfs) -> Result<Self> {
        let mut labels = Vec::new();
        let mut open = |name: &'static str, text: Cow<'a, str>, lack| match procfs.to_write(name) {
            Ok(file) => {
                labels.push(Label { file, name, text, lack });
                Ok(true)
            }
            Err(Errno::ENOENT) => lack.map_or(Ok(false), |lack| Err(lacking(lack))),
            Err(errno) => Err(errno).during(|| format!("open /proc/{name}")),
        };
        if let Some(profile) = &process.apparmor_profile {
            let text = format!("exec {profile}");
            if !open("self/attr/apparmor/exec", text.clone().into(), None)? {
                open("self/attr/exec", text.into(), Some(("AppArmor", "apparmorProfile", profile)))?;
            }
        }
        if let Some(label) = &process.selinux_label {
            let lack = (!selinux_is_there()).then_some(("SELinux", "selinuxLabel", label.as_str()));
            open("self/attr/exec", label.into(), lack)?;
            if process.new_keyring {
                open("self/attr/keycreate", label.into(), lack)?;
            }
        }
        Ok(Self(labels))
    }

    /// Writes them.
    pub fn apply(self) -> Result<()> {
        self.0.iter().try_for_each(|Label { file, name, text, lack }| {
            match (nix::unistd::write(file, text.as_bytes()), lack) {
                (Err(Errno::ENOENT | Errno::EINVAL), Some(lack)) => Err(lacking(*lack)),
                (written, _) => written.map(drop).during(|| format!("write {text:?} to /proc/{name}")),
            }
        })
    }
}

/// The security module `what` is not there for the label of `field`.
fn lacking((what, field, label): (&str, &str, &str)) -> Error {
    Error::HostLack { what: what.into(), hint: format!("{field} {label:?} cannot be applied; leave it empty") }
}

/// Whether the host has SELinux: its file system is mounted where it always is.
fn selinux_is_there() -> bool {
    std::fs::exists("/sys/fs/selinux/enforce").unwrap_or(false)
}

/// A session keyring of the container's own, so that keys of the caller stay with the caller.
pub fn join_keyring(process: &Process, id: &str) -> Result<()> {
    if !process.new_keyring {
        return Ok(());
    }
    let name = CString::new(format!("_ses.{id}")).expect("a container id has no NUL");
    let key = match sys::join_session_keyring(&name) {
        // No keyrings in this kernel, forbidden by an outer filter, or the user's quota is used up: go on with the old
        // one, as every runtime does.
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EACCES | Errno::EDQUOT) => return Ok(()),
        joined => joined.during(|| "join a session keyring")?,
    };
    let described = sys::keyring_description(key).during(|| "describe the session keyring")?;
    let permissions = described.split(';').nth(3).and_then(|text| u32::from_str_radix(text, 16).ok());
    let Some(permissions) = permissions else { return Ok(()) };
    // The user of the container may search the ring (UserSearch), whoever owns it.
    const USER_SEARCH: u32 = 0x0008_0000;
    sys::set_key_permissions(key, permissions | USER_SEARCH).during(|| "set the permissions of the session keyring")
}

/// Closes everything but the standard streams, what the caller wants its program to inherit, and `kept`.
///
/// From here on paths of the container's choice are looked up (its working directory, its program, its `PATH`): a
/// descriptor of the host that is only marked close-on-exec could be reached through `/proc/self/fd` (CVE-2024-21626).
/// The owners of what is closed here never run again: this process only executes its program, or ends.
pub fn part_with_the_host(preserved: u32, kept: &[RawFd]) -> Result<()> {
    sys::close_all_but(3u32.saturating_add(preserved), kept).during(|| "close descriptors")
}

/// Becomes the user of `process` in its working directory, and finds the program it will execute.
pub fn become_user_in(process: &Process, channel: &Channel, streams: &Streams) -> Result<CString> {
    // While CAP_CHOWN is there, and no filter can forbid it.
    give_streams(process, streams)?;
    sys::set_umask(process.umask);
    // As runc does: what root inside may enter first, then what the user may.
    let entered = nix::unistd::chdir(process.cwd.as_str());
    // Without no_new_privs a filter can only be installed with CAP_SYS_ADMIN, which goes next.
    if let Some(seccomp) = process.seccomp.as_ref().filter(|_| !process.no_new_privileges) {
        install(seccomp, channel)?;
    }
    become_user(process)?;
    enter_directory(&process.cwd, entered)?;
    find_program(process)
}

/// Gives the standard streams to the user of `process`, who could otherwise not open `/dev/stdout` again.
///
/// As runc does it: the owner only, and where it cannot be done (an owner that is not mapped here, a read-only file
/// system) it is left. Unlike runc, a device of the host, as `/dev/null` or the caller's own terminal, stays the host's.
fn give_streams(process: &Process, streams: &Streams) -> Result<()> {
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for (stream, found) in [input.as_fd(), output.as_fd(), errors.as_fd()].into_iter().zip(streams) {
        let found = (*found).during(|| "examine a standard stream")?;
        let device = matches!(found.st_mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK);
        if found.st_uid != process.uid && (process.terminal || !device) {
            // Then the program has the stream all the same, and only cannot open it a second time.
            let _ = nix::unistd::fchown(stream, Some(process.uid.into()), None);
        }
    }
    Ok(())
}

/// Sets what must be last.
pub fn finish(process: &Process, channel: &Channel) -> Result<()> {
    if process.no_new_privileges {
        sys::no_new_privileges().during(|| "set no_new_privs")?;
        // A listener must reach its agent while the parent is there.
        if let Some(seccomp) = process.seccomp.as_ref().filter(|seccomp| seccomp.filter.notify) {
            install(seccomp, channel)?;
        }
    }
    Ok(())
}

fn install(seccomp: &Seccomp, channel: &Channel) -> Result<()> {
    let listener =
        install_filter(&seccomp.filter.program, seccomp.filter.flags).during(|| "install the seccomp filter")?;
    let Some(listener) = listener else { return Ok(()) };
    channel.send_with(&FromChild::Listener, &[listener.as_raw_fd()])?;
    channel.expect(|message| matches!(message, ToChild::Listened).then_some(()))
}

/// Becomes the user of `process`, with its capabilities.
fn become_user(process: &Process) -> Result<()> {
    let capabilities = process.capabilities;
    // While CAP_SETPCAP is still there.
    drop_bounding(capabilities.bounding)?;
    if process.uid != 0 {
        // The permitted set must survive the change of user, to be cut to what was asked for. execve ends this.
        sys::keep_capabilities(true).during(|| "keep capabilities")?;
    }
    match sys::setgroups(&process.groups) {
        Ok(()) => {}
        // A user namespace without helpers has setgroups closed: nothing to set is no failure.
        Err(Errno::EPERM) if process.groups.is_empty() => {}
        Err(errno) => return Err(errno).during(|| "set the supplementary groups"),
    }
    sys::setresgid(process.gid).during(|| format!("become group {}", process.gid))?;
    sys::setresuid(process.uid).during(|| format!("become user {}", process.uid))?;
    set_capabilities(capabilities)
}

fn drop_bounding(keep: u64) -> Result<()> {
    for capability in 0..u64::BITS {
        if keep & 1 << capability != 0 {
            continue;
        }
        match sys::bounding_drop(capability) {
            Ok(()) => {}
            // The kernel knows no more.
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(errno).during(|| "drop capabilities from the bounding set"),
        }
    }
    Ok(())
}

fn set_capabilities(sets: Capabilities) -> Result<()> {
    let wanted = CapSets { effective: sets.effective, permitted: sets.permitted, inheritable: sets.inheritable };
    sys::capset(wanted).during(|| "set the capabilities")?;
    if sets.permitted & sets.inheritable != 0 {
        // Those of the caller; without this pair of sets the kernel has emptied this one.
        sys::ambient_clear().during(|| "empty the ambient capabilities")?;
    }
    for capability in (0..u64::BITS).filter(|capability| sets.ambient & 1 << capability != 0) {
        // Only what is permitted and inheritable can be ambient.
        sys::ambient_raise(capability).during(|| format!("raise ambient capability {capability}"))?;
    }
    Ok(())
}

/// Makes sure that the working directory is entered (`entered` tells how that went before the change of user) and inside
/// the root.
fn enter_directory(path: &str, entered: nix::Result<()>) -> Result<()> {
    let entered = match entered {
        Err(Errno::EACCES | Errno::EPERM) => nix::unistd::chdir(path),
        entered => entered,
    };
    entered.during(|| format!("chdir to cwd ({path:?}) set in config.json failed"))?;
    // A directory outside (a leaked descriptor's, CVE-2024-21626) has no path from here.
    match nix::unistd::getcwd() {
        Ok(here) if here.is_absolute() => Ok(()),
        _ => {
            Err(Error::refusal("process.cwd", "current working directory is outside of container mount namespace root"))
        }
    }
}

/// The file to execute for `process`: as it is if it has a slash, else the first in `PATH`.
fn find_program(process: &Process) -> Result<CString> {
    let name = &process.args[0];
    let exec = |reason: &str| Error::Exec { program: name.clone(), reason: reason.to_owned() };
    if name.contains('/') {
        return match executable(name) {
            Ok(path) => Ok(path),
            Err(errno) => Err(exec(&format!("stat {name}: {}", crate::error::describe(errno as i32)))),
        };
    }
    if name.is_empty() {
        return Err(exec("executable file not found in $PATH"));
    }
    let path = process.env.iter().rev().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut denied = false;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        match executable(&format!("{directory}/{name}")) {
            Ok(path) => return Ok(path),
            Err(Errno::EACCES) => denied = true,
            Err(_) => {}
        }
    }
    Err(exec(if denied { "permission denied" } else { "executable file not found in $PATH" }))
}

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn executable(path: &str) -> nix::Result<CString> {
    let found = nix::sys::stat::stat(path)?;
    if found.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno::EACCES);
    }
    match nix::unistd::faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, nix::fcntl::AtFlags::AT_EACCESS) {
        // A filter that does not know the call: the bits must do, execve has the last word.
        Err(Errno::ENOSYS | Errno::EPERM) if found.st_mode & 0o111 != 0 => {}
        Err(Errno::ENOSYS | Errno::EPERM) => return Err(Errno::EACCES),
        answer => answer?,
    }
    CString::new(path).map_err(|_| Errno::EINVAL)
}

/// The environment of `process`, with `HOME` from the container's own `/etc/passwd` where it is missing.
pub fn environment(process: &Process, extra: &[String]) -> Vec<String> {
    let mut env: Vec<String> = process.env.iter().chain(extra).cloned().collect();
    if !env.iter().any(|pair| pair.starts_with("HOME=")) {
        env.push(format!("HOME={}", home(process.uid)));
    }
    env
}

/// The home directory of `uid`, `/` if nobody says.
fn home(uid: u32) -> String {
    let passwd = accounts().unwrap_or_default();
    let line = |line: &str| {
        let mut fields = line.split(':');
        let own = fields.nth(2)?.parse::<u32>().ok()? == uid;
        own.then(|| fields.nth(2).map(str::to_owned)).flatten()
    };
    passwd.lines().find_map(line).filter(|home| !home.is_empty()).unwrap_or_else(|| "/".into())
}

/// The container's `/etc/passwd`, as far as [`ACCOUNTS_LEN_MAX`]. It is the image's: a fifo must not stop us, a device
/// must not be read at all.
fn accounts() -> std::io::Result<String> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open("/etc/passwd")?;
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut text = Vec::new();
    file.take(ACCOUNTS_LEN_MAX).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What is read of the container's accounts: some ten thousand of them.
const ACCOUNTS_LEN_MAX: u64 = 1 << 20;

/// Puts back what signals do: a caller that ignores SIGPIPE, as we do, must not make its containers ignore it.
pub fn reset_signals(procfs: &Procfs) -> Result<()> {
    let status = procfs.read("self/status")?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    sys::reset_signals(ignored.unwrap_or(u64::MAX));
    Ok(())
}

/// Executes `program`; returns only the failure.
pub fn execute(process: &Process, program: &CString, env: &[String]) -> Result<Infallible> {
    let exec =
        |errno: Errno| Error::Exec { program: process.args[0].clone(), reason: crate::error::describe(errno as i32) };
    let args = Vector::new(&process.args).map_err(exec)?;
    let env = Vector::new(env).map_err(exec)?;
    // No path but the program's is looked up after this.
    if let Some(wanted) = &process.landlock {
        super::confine::confine(wanted)?;
    }
    // As late as possible: then the filter has to allow nothing but execve.
    let late = |seccomp: &&Seccomp| process.no_new_privileges && !seccomp.filter.notify;
    if let Some(seccomp) = process.seccomp.as_ref().filter(late) {
        install_filter(&seccomp.filter.program, seccomp.filter.flags).during(|| "install the seccomp filter")?;
    }
    sys::execve(program, &args, &env).map_err(exec)
}
