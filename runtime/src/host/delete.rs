//! `delete`: everything a container has on the host goes.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci::ContainerId;
use oci::spec::Status;

use super::cgroup::Cgroup;
use super::launch::{read_config, state_of};
use super::state::{self, Directory, Record, Root};
use super::sys::clone::{pidfd_open, pidfd_send_signal};
use super::{hooks, state::is_alive};
use crate::error::{During, Error, Result};

/// How long a killed process may take to die before the command gives up: longer only in uninterruptible sleep.
const DEATH_TIMEOUT_MS: u16 = 10_000;

/// Deletes a container. A running one only with `force`; an unknown one is then no error. Returns failed hooks.
pub fn delete(root: &Root, id: &ContainerId, force: bool) -> Result<Vec<Error>> {
    let directory = match root.open(id) {
        // Unknown, which is not the same as in use.
        Err(Error::State { .. }) if force && root.owner(id).is_none() => return Ok(Vec::new()),
        opened => opened?,
    };
    let record = match directory.record() {
        // Nothing but the directory was made when its creator died.
        Err(_) if force => Record { id: id.to_string(), ..Record::default() },
        record => record?,
    };
    match state::status(root, &record) {
        Status::Stopped | Status::Created | Status::Creating => {}
        status if !force => {
            let reason = format!("cannot delete container {id} that is not stopped: {}", status.as_str());
            return Err(Error::state(reason));
        }
        _ => {}
    }
    destroy(directory, &record)
}

/// Kills what is left of the container, removes what it has on the host, runs poststop hooks.
pub fn destroy(directory: Directory, record: &Record) -> Result<Vec<Error>> {
    take_away(directory, record, true)
}

/// Takes back what a `create` that failed has made, and nothing else: a cgroup that was there before may be inhabited
/// by others.
pub(super) fn take_back(directory: Directory, record: &Record) -> Result<Vec<Error>> {
    let ours = record.cgroup.as_ref().is_some_and(|state| Cgroup::open(state).is_ok_and(|cgroup| cgroup.is_ours()));
    take_away(directory, record, ours)
}

/// `inhabited` says whether all that lives in the cgroup is the container's.
fn take_away(directory: Directory, record: &Record, inhabited: bool) -> Result<Vec<Error>> {
    // A frozen process does not die of SIGKILL before it is thawed (v1).
    let cgroup = record.cgroup.as_ref().map(Cgroup::open).transpose()?;
    if is_alive(record) {
        let frozen = |cgroup: &&Cgroup| inhabited && cgroup.is_frozen().unwrap_or(false);
        if let Some(cgroup) = cgroup.as_ref().filter(frozen) {
            cgroup.kill_all()?;
        }
        kill_and_wait(record)?;
    }
    if let Some(cgroup) = &cgroup {
        // Without a recorded process none of the container's was ever let in (one that was born in it ends with its
        // creator): whoever lives there is another's.
        if inhabited && !record.own_pids && record.pid != 0 && cgroup.exists() {
            cgroup.kill_all()?;
        }
        cgroup.delete()?;
    }
    if let Some(class) = &record.rdt {
        class.delete()?;
    }
    let spec = record.poststop.then(|| directory.config().and_then(|text| read_config(&text)));
    directory.remove()?;
    Ok(match spec {
        None => Vec::new(),
        Some(Err(error)) => vec![error],
        Some(Ok(spec)) => {
            hooks::run_all("poststop", &spec.hooks.unwrap_or_default().poststop, &state_of(record, Status::Stopped))
        }
    })
}

/// Kills the first process and waits, without polling, until it is gone.
fn kill_and_wait(record: &Record) -> Result<()> {
    let operation = || format!("kill process {}", record.pid);
    let pidfd = match pidfd_open(record.pid) {
        Err(nix::Error::ESRCH) => return Ok(()),
        opened => opened.during(operation)?,
    };
    // Between the look at its start time and now the number may have passed to another process.
    if !is_alive(record) {
        return Ok(());
    }
    match pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL) {
        Ok(()) | Err(nix::Error::ESRCH) => {}
        Err(errno) => return Err(errno).during(operation),
    }
    loop {
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(DEATH_TIMEOUT_MS)) {
            Err(nix::Error::EINTR) => {}
            Ok(0) => return Err(Error::state(format!("process {} does not die (SIGKILL was sent)", record.pid))),
            answer => return answer.map(drop).during(operation),
        }
    }
}
