//! A user namespace that outlives the call that made it: a process of `shoal-monitor` holds it, since a program with
//! threads can make none for itself.
//!
//! In: whether it also holds a mount namespace, the id maps. Out: the holder, whose `/proc/PID/ns` others enter or give to
//! the kernel. The holder decides nothing and ends with whoever started it, unless it is told to stay.

use crate::host::process::ProcessId;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use oci::spec::LinuxIdMapping;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// The first argument of `shoal-monitor` that makes it a holder.
pub const VERB: &str = "hold-namespaces";
/// What it says when it is there, and again when it stays.
const READY: u8 = b'+';

/// A holder that has its namespaces; without [`Holder::stay`] it ends when this is dropped.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    to: Option<ChildStdin>,
}

impl Holder {
    /// Starts `shoal-monitor` as a holder of a new user namespace without maps, and with `mounts` of a mount namespace.
    pub fn start(monitor: &Path, mounts: bool) -> io::Result<Self> {
        let mut command = Command::new(monitor);
        command.arg(VERB).args(mounts.then_some("mounts"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let to = child.stdin.take();
        let mut holder = Self { child, to };
        holder.hear()?;
        Ok(holder)
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its user namespace.
    pub fn user_namespace(&self) -> io::Result<File> {
        File::open(self.namespace("user"))
    }

    fn namespace(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{kind}", self.pid()))
    }

    /// Writes both maps, as a caller that has the right to.
    pub fn map(&self, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> io::Result<()> {
        fs::write(format!("/proc/{}/gid_map", self.pid()), lines(gids))?;
        fs::write(format!("/proc/{}/uid_map", self.pid()), lines(uids))
    }

    /// Maps root inside to the caller alone: what needs no right at all.
    pub fn map_self(&self) -> io::Result<()> {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        fs::write(format!("/proc/{}/setgroups", self.pid()), "deny")?;
        fs::write(format!("/proc/{}/uid_map", self.pid()), format!("0 {uid} 1\n"))?;
        fs::write(format!("/proc/{}/gid_map", self.pid()), format!("0 {gid} 1\n"))
    }

    /// Lets it live on by itself, and returns who it is.
    pub fn stay(mut self) -> io::Result<ProcessId> {
        let mut to = self.to.take().ok_or_else(gone)?;
        to.write_all(&[READY])?;
        self.hear()?;
        let pid = i32::try_from(self.pid()).map_err(io::Error::other)?;
        ProcessId::of(pid).ok_or_else(gone)
    }

    fn hear(&mut self) -> io::Result<()> {
        let mut word = [0];
        match self.child.stdout.as_mut().ok_or_else(gone)?.read(&mut word)? {
            1 if word == [READY] => Ok(()),
            _ => Err(io::Error::other("this kernel or its settings refuse a user namespace")),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.to.take().is_some() {
            // Its input has ended: so has it.
            self.child.wait().ok();
        }
    }
}

/// What the holder does: `shoal-monitor hold-namespaces [mounts]`.
pub fn main(arguments: &[std::ffi::OsString]) -> io::Result<()> {
    let mounts = arguments.first().is_some_and(|word| word == "mounts");
    unshare(if mounts { CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS } else { CloneFlags::CLONE_NEWUSER })?;
    io::stdout().write_all(&[READY])?;
    io::stdout().flush()?;
    let mut word = [0];
    if io::stdin().read(&mut word)? == 0 {
        return Ok(());
    }
    if mounts {
        // The host's later mounts arrive; ours do not leave.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    }
    nix::unistd::setsid()?;
    std::env::set_current_dir("/")?;
    io::stdout().write_all(&[READY])?;
    io::stdout().flush()?;
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    loop {
        nix::unistd::pause();
    }
}

fn lines(map: &[LinuxIdMapping]) -> String {
    map.iter().map(|one| format!("{} {} {}\n", one.container_id, one.host_id, one.size)).collect()
}

fn gone() -> io::Error {
    io::Error::other("the process that holds the namespaces is gone")
}
