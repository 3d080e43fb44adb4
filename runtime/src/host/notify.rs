//! The readiness protocol of systemd, relayed: the container has a socket of its own, and what it says there goes on to the
//! socket of the command that started it.
//!
//! In: `NOTIFY_SOCKET` of the command and the container's directory. Out: datagrams on the host's socket. The host's socket
//! itself is never in the container: what passes is about the container (`READY`, `STATUS`, …), the process it is about
//! is filled in here (`MAINPID`), and what would name processes or descriptors of the host (`MAINPID`, `FDSTORE`,
//! `NOTIFYACCESS`, …) is left out. A detached container is relayed until it is ready, one in the foreground to its end;
//! runc relays nothing but `READY`. man sd_notify(3), "Well-known assignments".

use std::io::{IoSlice, PipeReader};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::state::{Directory, Record, is_alive};
use super::sys::clone::pidfd_open;
use crate::error::{During, Result};

/// The folder in the container's directory that the container sees as [`crate::plan::NOTIFY_FOLDER`].
pub const FOLDER: &str = "notify";

/// The socket in it.
pub const SOCKET: &str = "notify.sock";

/// What a container may say about itself.
const PASSED: [&str; 11] = [
    "READY",
    "RELOADING",
    "STOPPING",
    "STATUS",
    "NOTIFYERROR",
    "ERRNO",
    "BUSERROR",
    "EXIT_STATUS",
    "WATCHDOG",
    "EXTEND_TIMEOUT_USEC",
    "MONOTONIC_USEC",
];

/// A longer datagram is no notification.
const DATAGRAM_LEN_MAX: usize = 4096;

/// How long the host may take to read what it was told.
const HOST_TIMEOUT: Duration = Duration::from_secs(5);

/// The address of `NOTIFY_SOCKET`, if this command was given one of the two kinds there are.
pub fn address() -> Option<String> {
    std::env::var("NOTIFY_SOCKET").ok().filter(|text| text.starts_with(['/', '@']) && text.len() > 1)
}

/// The folder that becomes the container's, below the container's directory.
pub fn folder(directory: &Path) -> PathBuf {
    directory.join(FOLDER)
}

/// Makes the folder: readable for every user of the container, and writable for none.
pub fn make(directory: &Directory) -> Result<()> {
    let path = directory.socket_path(FOLDER);
    std::fs::DirBuilder::new().mode(0o755).create(path).during(|| "make the folder of the notification socket")
}

/// The container's socket, and the host's.
#[derive(Debug)]
pub struct Relay {
    socket: UnixDatagram,
    sender: UnixDatagram,
    host: String,
    /// The process that the host is to watch.
    main: u32,
}

impl Relay {
    /// Listens on the container's socket for `record`; none when the container was made without one. The host watches
    /// `main`.
    pub fn listen(directory: &Directory, record: &Record, main: u32) -> Result<Option<Self>> {
        // What `start` is told is newer than what `create` was.
        let Some(host) = record.notify.as_ref().map(|kept| address().unwrap_or_else(|| kept.clone())) else {
            return Ok(None);
        };
        let operation = || "make the notification socket";
        let path = directory.socket_path(&format!("{FOLDER}/{SOCKET}"));
        match std::fs::remove_file(&path) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(cause).during(operation),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path).during(operation)?;
        // Any user of the container may speak.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).during(operation)?;
        socket.set_nonblocking(true).during(operation)?;
        let sender = UnixDatagram::unbound().during(operation)?;
        sender.set_write_timeout(Some(HOST_TIMEOUT)).during(operation)?;
        Ok(Some(Self { socket, sender, host, main }))
    }

    /// Passes on all that was said; whether the container is ready now.
    pub fn pass_on(&self) -> Result<bool> {
        let mut bytes = [0; DATAGRAM_LEN_MAX];
        let mut ready = false;
        // Descriptors that come along are not taken: the kernel closes them, which also answers a barrier.
        while let Ok(length) = self.socket.recv(&mut bytes) {
            let (text, said) = passed(&bytes[..length], self.main);
            ready |= said;
            if !text.is_empty() {
                self.tell(text.as_bytes())?;
            }
        }
        Ok(ready)
    }

    /// Relays until the container is ready, or its first process has ended.
    pub fn until_ready(&self, record: &Record) -> Result<()> {
        let pidfd = match pidfd_open(record.pid) {
            Ok(pidfd) if is_alive(record) => Some(pidfd),
            _ => None,
        };
        loop {
            if self.pass_on()? {
                return self.barrier();
            }
            let Some(pidfd) = &pidfd else { return Ok(()) };
            let mut waited =
                [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN), PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut waited, PollTimeout::NONE) {
                Err(nix::Error::EINTR) => {}
                answer => drop(answer.during(|| "wait until the container is ready")?),
            }
            if waited[1].revents().is_some_and(|events| !events.is_empty()) {
                return if self.pass_on()? { self.barrier() } else { Ok(()) };
            }
        }
    }

    fn tell(&self, text: &[u8]) -> Result<()> {
        let address = match self.host.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&self.host),
        };
        let sent = address.and_then(|address| self.sender.send_to_addr(text, &address));
        sent.map(drop).during(|| self.operation())
    }

    fn operation(&self) -> String {
        format!("tell the notification socket {} of the host about the container", self.host)
    }

    /// Waits until the host has read all: a service manager has no use for words of a process that has ended.
    fn barrier(&self) -> Result<()> {
        let (read, write) = std::io::pipe().during(|| self.operation())?;
        let address = match self.host.strip_prefix('@') {
            Some(name) => nix::sys::socket::UnixAddr::new_abstract(name.as_bytes()),
            None => nix::sys::socket::UnixAddr::new(self.host.as_str()),
        };
        let address = address.during(|| self.operation())?;
        let descriptors = [write.as_raw_fd()];
        let parts = [IoSlice::new(b"BARRIER=1")];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let sent = sendmsg(self.sender.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, Some(&address));
        drop(write);
        // Who does not know barriers has read the words before it all the same.
        if sent.is_ok() {
            wait_for_end(&read);
        }
        Ok(())
    }
}

impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn wait_for_end(read: &PipeReader) {
    let timeout = PollTimeout::try_from(HOST_TIMEOUT).unwrap_or(PollTimeout::ZERO);
    while poll(&mut [PollFd::new(read.as_fd(), PollFlags::POLLIN)], timeout) == Err(nix::Error::EINTR) {}
}

/// What of a datagram goes on to the host, and whether it says that the container is ready.
fn passed(datagram: &[u8], main: u32) -> (String, bool) {
    let text = String::from_utf8_lossy(datagram);
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines() {
        if line.split_once('=').is_some_and(|(name, _)| PASSED.contains(&name)) {
            lines.push(line);
        }
    }
    let ready = lines.contains(&"READY=1");
    let main = format!("MAINPID={main}");
    if ready {
        lines.push(&main);
    }
    (lines.join("\n"), ready)
}

#[cfg(test)]
mod tests {
    use super::passed;

    #[test]
    fn a_container_speaks_of_itself_and_of_no_process_or_descriptor_of_the_host() {
        let said = b"READY=1\nMAINPID=1\nSTATUS=up and so on\nFDSTORE=1\nFDNAME=x\nNOTIFYACCESS=all\nX_OWN=1\n";
        assert_eq!(passed(said, 42), ("READY=1\nSTATUS=up and so on\nMAINPID=42".into(), true));
        assert_eq!(passed(b"STATUS=starting", 42), ("STATUS=starting".into(), false));
        assert_eq!(
            passed(b"WATCHDOG=1\nEXTEND_TIMEOUT_USEC=5", 42),
            ("WATCHDOG=1\nEXTEND_TIMEOUT_USEC=5".into(), false)
        );
        for nothing in [&b""[..], b"MAINPID=1", b"BARRIER=1", b"READY", b"\xff\xfe", b"READY=0x\0"] {
            assert!(!passed(nothing, 42).1, "{nothing:?}");
        }
        assert!(passed(b"MAINPID=1\nBARRIER=1", 42).0.is_empty());
    }
}
