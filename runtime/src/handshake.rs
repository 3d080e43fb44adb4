//! What the roles say to each other while a container is born: the command (parent) and the new process (child).
//!
//! In and out: one typed message per packet over a seqpacket socket pair. A closed socket is a message too: the child
//! has executed its program, or one side has died. Nothing is sent that is not listed here.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::{During, Error, Result};
use crate::host::sys::open::adopt;

/// The greatest packet; an error text is cut to fit long before.
const PACKET_LEN_MAX: usize = 64 * 1024;

/// Where a packet arrives: in memory of which nothing exists before something is written there.
static PACKET: Mutex<[u8; PACKET_LEN_MAX]> = Mutex::new([0; PACKET_LEN_MAX]);

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromChild {
    /// From the intermediate process: the pid of the container's first process, seen from here.
    Born(i32),
    /// The user namespace exists and waits for its id maps.
    Unmapped,
    /// Mounts are made; prestart and createRuntime hooks may run.
    Mounted,
    /// The kernel lets only the parent set the resource limits.
    Unlimited,
    /// A seccomp filter with a listener is in force; its descriptor comes with this message.
    Listener,
    /// Everything is set up but the program.
    Ready,
    /// A step failed; the child is gone.
    Failed(Error),
}

/// What the parent says.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToChild {
    /// The id maps are written.
    Mapped,
    /// The child is in its cgroup; this is its pid seen from the parent.
    Placed(i32),
    /// The same, and `Start` will not be said: it executes its program as soon as it is ready.
    PlacedToStart(i32),
    /// The hooks have run.
    Hooked,
    /// The resource limits are set.
    Limited,
    /// The listener was handed over.
    Listened,
    /// Execute the program.
    Start,
}

/// One end of the socket pair.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

/// A connected pair of channels.
pub fn pair() -> Result<(Channel, Channel)> {
    let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .during(|| "make the socket pair to the new process")?;
    Ok((Channel { socket: one }, Channel { socket: other }))
}

impl Channel {
    /// Sends one message.
    pub fn send<M: Serialize>(&self, message: &M) -> Result<()> {
        self.send_with(message, &[])
    }

    /// Sends one message with descriptors.
    pub fn send_with<M: Serialize>(&self, message: &M, fds: &[RawFd]) -> Result<()> {
        let packet = serde_json::to_vec(message).map_err(|cause| Error::Bug { what: cause.to_string() })?;
        let rights = [ControlMessage::ScmRights(fds)];
        let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
        let to = self.socket.as_raw_fd();
        sendmsg::<()>(to, &[IoSlice::new(&packet)], control, MsgFlags::MSG_NOSIGNAL, None)
            .during(|| "speak to the other process of the start")?;
        Ok(())
    }

    /// Waits for one message; `None` when the other side has closed.
    pub fn receive<M: DeserializeOwned>(&self) -> Result<Option<M>> {
        Ok(self.receive_with()?.map(|(message, _)| message))
    }

    /// Waits for one message and the descriptor that came with it.
    pub fn receive_with<M: DeserializeOwned>(&self) -> Result<Option<(M, Option<OwnedFd>)>> {
        let mut packet = PACKET.lock().unwrap_or_else(PoisonError::into_inner);
        let mut control = nix::cmsg_space!([RawFd; 1]);
        let (length, fd) = loop {
            let mut parts = [IoSliceMut::new(&mut *packet)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                // A reset is told once, before what the other side had said last: its reason to close.
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                Err(errno) => return Err(errno).during(|| "hear from the other process of the start"),
                Ok(answer) => {
                    let mut fds = answer.cmsgs().into_iter().flatten().flat_map(|part| match part {
                        ControlMessageOwned::ScmRights(fds) => fds,
                        _ => Vec::new(),
                    });
                    break (answer.bytes, fds.next());
                }
            }
        };
        if length == 0 {
            return Ok(None);
        }
        let message =
            serde_json::from_slice(&packet[..length]).map_err(|cause| Error::Bug { what: cause.to_string() })?;
        let fd = fd.map(adopt).transpose().during(|| "take over a descriptor")?;
        Ok(Some((message, fd)))
    }

    /// Waits for exactly this kind of message from the parent; its end means that the parent has given up.
    pub fn expect<T>(&self, wanted: impl Fn(&ToChild) -> Option<T>) -> Result<T> {
        let message: Option<ToChild> = self.receive()?;
        match message {
            None => Err(Error::state("the starting command has ended")),
            Some(message) => {
                wanted(&message).ok_or_else(|| Error::Bug { what: format!("unexpected message {message:?}") })
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
