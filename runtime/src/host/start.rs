//! Releasing a created container: a socket in its directory on which the first process waits.
//!
//! The socket listens exactly as long as the program has not been executed, because it closes on execve: a refused
//! connection means "already started", without any file that could tell an old truth.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{MsgFlags, send};
use oci::ContainerId;
use oci::spec::Status;

use super::notify::Relay;
use super::state::{self, Directory, Record, Root, START_SOCKET};
use crate::error::{During, Error, Result};

/// The byte that asks for the start; a connection without it only looks.
const GO: u8 = b'g';

/// The byte that answers it, right before the program is executed: a process that dies before closes the connection too.
const GONE_AHEAD: u8 = b'x';

/// Makes the socket of a container that is being created.
pub fn listen(directory: &Directory) -> Result<UnixListener> {
    UnixListener::bind(directory.socket_path(START_SOCKET)).during(|| "make the start socket")
}

/// Whether a first process waits behind `socket`.
pub fn is_waiting(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        Err(cause) if cause.kind() == std::io::ErrorKind::WouldBlock => true,
        // Too long for an address: go through the directory.
        Err(cause) if cause.kind() == std::io::ErrorKind::InvalidInput => {
            let Some(Ok(parent)) = socket.parent().map(std::fs::File::open) else { return false };
            let fd = std::os::fd::AsRawFd::as_raw_fd(&parent);
            UnixStream::connect(format!("/proc/self/fd/{fd}/{START_SOCKET}")).is_ok()
        }
        Err(_) => false,
    }
}

/// Waits in the first process for the start; returns the connection on which a failure is told.
pub fn wait(listener: OwnedFd) -> Result<(UnixStream, UnixListener)> {
    let listener = UnixListener::from(listener);
    loop {
        let (mut stream, _) = match listener.accept() {
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => continue,
            accepted => accepted.during(|| "wait for the start")?,
        };
        let mut byte = [0];
        if matches!(stream.read(&mut byte), Ok(1)) && byte[0] == GO {
            return Ok((stream, listener));
        }
    }
}

/// Tells the waiting `start` command that the program is executed next. Its failure would be told after this.
pub fn go_ahead(stream: &mut UnixStream) {
    say(stream, &[GONE_AHEAD]);
}

/// Tells the waiting `start` command why the program could not be executed.
pub fn report(stream: &mut UnixStream, error: &Error) {
    if let Ok(text) = serde_json::to_vec(error) {
        say(stream, &text);
    }
}

/// Nobody else can be told when the command is gone, and the container is started all the same: not even by a signal,
/// which has its default action by now.
fn say(stream: &UnixStream, mut text: &[u8]) {
    while let Ok(length @ 1..) = send(stream.as_raw_fd(), text, MsgFlags::MSG_NOSIGNAL) {
        text = &text[length.min(text.len())..];
        if text.is_empty() {
            return;
        }
    }
}

/// `start`: releases the created container `id`, runs its poststart hooks and waits for it where a service manager does;
/// failures of both are returned.
pub fn start(root: &Root, id: &ContainerId) -> Result<Vec<Error>> {
    let directory = root.open(id)?;
    let record = directory.record()?;
    match state::status(root, &record) {
        Status::Created => {}
        Status::Stopped => return Err(Error::state("cannot start a container that has stopped")),
        _ => return Err(Error::state("cannot start an already running container")),
    }
    let relay = Relay::listen(&directory, &record, record.pid.unsigned_abs())?;
    release(&directory)?;
    let mut odd = super::launch::poststart(&directory, &record);
    odd.extend(until_ready(relay.as_ref(), &directory, &record).err());
    Ok(odd)
}

/// Waits until a started container is ready, where somebody wants to hear that. Others may be at it meanwhile.
pub fn until_ready(relay: Option<&Relay>, directory: &Directory, record: &Record) -> Result<()> {
    let Some(relay) = relay else { return Ok(()) };
    directory.unlock()?;
    relay.until_ready(record)
}

/// Asks the first process to execute its program and waits until it has.
pub fn release(directory: &Directory) -> Result<()> {
    let not_created = || Error::state("cannot start an already running container");
    let Ok(mut stream) = UnixStream::connect(directory.socket_path(START_SOCKET)) else { return Err(not_created()) };
    stream.write_all(&[GO]).during(|| "ask for the start")?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(cause) if cause.kind() == std::io::ErrorKind::ConnectionReset => return Err(not_created()),
        read => read.during(|| "wait for the start")?,
    };
    let (gone_ahead, answer) = match answer.split_first() {
        Some((&GONE_AHEAD, rest)) => (true, rest),
        _ => (false, answer.as_slice()),
    };
    match answer {
        [] if gone_ahead => Ok(()),
        [] => Err(Error::state("the container's process died before it could execute its program")),
        answer => Err(reason(answer)),
    }
}

fn reason(answer: &[u8]) -> Error {
    serde_json::from_slice(answer).unwrap_or_else(|cause| Error::Bug { what: format!("start answered {cause}") })
}
