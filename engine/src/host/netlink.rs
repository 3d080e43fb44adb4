//! A netlink socket: sends what [`message::Buffer`] holds and reads the kernel's answers. In: a family, perhaps another
//! network namespace. Out: acknowledgements, errors by message, dumps. Never starts a process.

pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod route;

use message::{Buffer, DUMP, Message, ne32};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// `NLMSG_ERROR`.
const NLMSG_ERROR: u16 = 2;
/// `NLMSG_DONE`.
const NLMSG_DONE: u16 = 3;
/// `NLM_F_MULTI`.
const MULTI: u16 = 2;
/// Big enough for any message of a dump: the kernel fills at most 32 KiB a datagram.
const RECEIVE_BYTES: usize = 64 * 1024;

/// The sequence number of a transaction's frame.
const FRAME: u32 = 1;
/// How much may wait in the kernel: a thousand answers of 1 KiB each with what the kernel adds. Taken only as needed.
const BUFFER_BYTES: usize = 4 << 20;

/// Which kernel subsystem a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Links, addresses, routes, rules.
    Route,
    /// nf_tables and conntrack.
    Netfilter,
}

/// A blocking netlink socket, bound to the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the caller's network namespace.
    pub(crate) fn open(family: Family) -> io::Result<Self> {
        let protocol = match family {
            Family::Route => SockProtocol::NetlinkRoute,
            Family::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // Room for an error to every message of a large transaction. Without the privilege the usual room has to do.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &BUFFER_BYTES);
        let _ = setsockopt(&fd, sockopt::SndBufForce, &BUFFER_BYTES);
        Ok(Self { fd, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// Opens a socket in another network namespace (`/proc/PID/ns/net` or a bind mount of one).
    pub(crate) fn open_in(family: Family, namespace: &Path) -> io::Result<Self> {
        in_namespace(namespace, move || Self::open(family))?
    }

    /// Sends messages that each asked for an acknowledgement and returns the first failure.
    ///
    /// Messages after a failed one were still tried.
    pub(crate) fn acknowledged(&mut self, buffer: &Buffer, expected: u32) -> io::Result<()> {
        let mut first = Ok(());
        for (_, code) in self.outcomes(buffer, expected)? {
            if code != 0 && first.is_ok() {
                first = Err(io::Error::from_raw_os_error(code));
            }
        }
        first
    }

    /// Sends an nf_tables transaction whose message `last` asks for an acknowledgement; returns (sequence number, errno) of
    /// every message that failed, none when it was committed. A failure of the transaction itself has the number 1.
    pub(crate) fn transaction(&mut self, buffer: &Buffer, last: u32) -> io::Result<Vec<(u32, i32)>> {
        self.send(buffer)?;
        let mut failed = Vec::new();
        loop {
            let mut over = false;
            for message in self.receive()?.into_iter().filter(|message| message.kind == NLMSG_ERROR) {
                let code = -(ne32(&message.payload, 0).cast_signed());
                if code != 0 {
                    failed.push((message.sequence, code));
                }
                over |= message.sequence == last || message.sequence == FRAME;
            }
            if over {
                return Ok(failed);
            }
        }
    }

    /// Sends messages and returns (sequence number, errno) of each of the `expected` acknowledgements.
    fn outcomes(&mut self, buffer: &Buffer, expected: u32) -> io::Result<Vec<(u32, i32)>> {
        self.send(buffer)?;
        let mut outcomes: Vec<(u32, i32)> = Vec::new();
        let mut acknowledged = 0;
        while acknowledged < expected {
            for message in self.receive()? {
                if message.kind == NLMSG_ERROR {
                    outcomes.push((message.sequence, -(ne32(&message.payload, 0).cast_signed())));
                    acknowledged += 1;
                }
            }
        }
        Ok(outcomes)
    }

    /// Sends one request and returns every message of the answer: a dump to its end, or one object.
    pub(crate) fn query(&mut self, buffer: &Buffer) -> io::Result<Vec<Message>> {
        self.send(buffer)?;
        let mut answers = Vec::new();
        loop {
            for message in self.receive()? {
                match message.kind {
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => {
                        let code = -(ne32(&message.payload, 0).cast_signed());
                        return if code == 0 { Ok(answers) } else { Err(io::Error::from_raw_os_error(code)) };
                    }
                    _ => {
                        let single = message.flags & MULTI == 0;
                        answers.push(message);
                        if single {
                            return Ok(answers);
                        }
                    }
                }
            }
        }
    }

    /// Dumps every object of a kind.
    pub(crate) fn dump(&mut self, kind: u16, family_header: &[u8]) -> io::Result<Vec<Message>> {
        self.query(&Buffer::message(kind, DUMP, family_header))
    }

    fn send(&self, buffer: &Buffer) -> io::Result<()> {
        loop {
            match send(self.fd.as_raw_fd(), buffer.bytes(), MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn receive(&mut self) -> io::Result<Vec<Message>> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => return Ok(message::split(&self.buffer[..length])),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Runs `work` in another network namespace, on a thread of its own that ends with it.
///
/// A thread, because a process's own namespace must not change under its other parts; sockets that `work` opens stay in
/// that namespace after it.
pub(crate) fn in_namespace<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let target = File::open(namespace)?;
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(256 * 1024)
            .spawn_scoped(scope, move || {
                setns(&target, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            })?
            .join()
            .map_err(|_| io::Error::other("the thread in the network namespace panicked"))?
    })
}
