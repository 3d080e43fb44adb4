//! Lines sent to a daemon of the host that may be slow, stuck or away: the container's monitor never waits for it longer than a
//! moment.
//!
//! In: whole datagrams. Out: those the daemon took, in order; of the others how many there were, said before the next that it
//! takes. The socket is connected anew when the daemon has been.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// How long a daemon that took lines until now may be busy, in ms. A living one reads its queue in far less, and a monitor that
/// waits this long is not noticed.
const BUSY_MS: u8 = 100;

/// Where datagrams go.
#[derive(Debug)]
pub(super) enum Target {
    Unix(PathBuf),
    Udp(SocketAddr),
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

impl Socket {
    fn connect(target: &Target) -> io::Result<Self> {
        Ok(match target {
            Target::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_nonblocking(true)?;
                Self::Unix(socket)
            }
            Target::Udp(address) => {
                let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                socket.connect(address)?;
                socket.set_nonblocking(true)?;
                Self::Udp(socket)
            }
        })
    }

    fn send(&self, packet: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.send(packet),
            Self::Udp(socket) => socket.send(packet),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// The sending end.
#[derive(Debug)]
pub(super) struct Sender {
    target: Target,
    socket: Socket,
    /// It did not take the last datagram although it was given time.
    stuck: bool,
    lost: u64,
}

impl Sender {
    /// Connects; an error means that nobody is there.
    pub(super) fn open(target: Target) -> io::Result<Self> {
        Ok(Self { socket: Socket::connect(&target)?, target, stuck: false, lost: 0 })
    }

    /// Sends one line. `told` makes the datagram that says how many were lost. An error means that this one is lost too.
    pub(super) fn send(&mut self, packet: &[u8], told: impl FnOnce(u64) -> Vec<u8>) -> io::Result<()> {
        if self.lost > 0 && self.try_send(&told(self.lost)) {
            self.lost = 0;
        }
        if self.lost == 0 && self.try_send(packet) {
            return Ok(());
        }
        self.lost += 1;
        Err(io::Error::other(format!("its daemon takes no lines: {} are lost", self.lost)))
    }

    fn try_send(&mut self, packet: &[u8]) -> bool {
        match self.socket.send(packet) {
            Ok(_) => self.stuck = false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !self.stuck {
                    let mut room = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut room, PollTimeout::from(BUSY_MS)).ok();
                    self.stuck = self.socket.send(packet).is_err();
                    return !self.stuck;
                }
                return false;
            }
            // A daemon that was started again has another socket under the same name.
            Err(_) => match Socket::connect(&self.target) {
                Ok(socket) => {
                    self.socket = socket;
                    return self.socket.send(packet).is_ok();
                }
                Err(_) => return false,
            },
        }
        true
    }
}
