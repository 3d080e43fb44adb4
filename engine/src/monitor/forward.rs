//! Published ports that the kernel cannot lead to a container: those of `[::1]`, and those of the host's IPv6 addresses where the
//! container has none. In: listening addresses, each with a target. Out: bytes and datagrams carried to it and back.
//!
//! One thread of the monitor, which sleeps until somebody connects. Bounded in connections, in clients of UDP and in what waits for
//! a slow side.

use crate::network::publish::Forward;
use crate::network::{Error, Protocol, Step};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, connect, listen, setsockopt, socket, sockopt,
};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many ports one monitor forwards: each is an open file of its thousand. Further ones are only held.
pub(super) const FORWARDS_MAX: usize = 256;
/// How many connections are carried at a time; a further one takes the place of the one that was silent longest.
const PAIRS_MAX: usize = 256;
/// How many are accepted before those that are there get their turn.
const ACCEPTED_MAX: usize = 32;
/// How many clients of UDP are remembered at a time; the one that was silent longest is forgotten.
const CLIENTS_MAX: usize = 256;
/// How long a silent client of UDP is remembered; the kernel's own time for a flow without an answer.
const SILENT: Duration = Duration::from_secs(30);
/// How much waits for a side that does not read, in bytes each way.
const WAITING_BYTES_MAX: usize = 32 * 1024;
/// The thread's stack, in bytes.
const STACK_BYTES: usize = 128 * 1024;

/// The listening ends; their ports are held as long as they are.
#[derive(Debug)]
pub(super) struct Listeners(Vec<(Listener, SocketAddr)>);

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Listeners {
    /// Listens on every address; one of a family that this host lacks is left out.
    pub(super) fn open(forwards: &[Forward]) -> Result<Self, Error> {
        let mut listeners = Vec::new();
        for forward in forwards.iter().take(FORWARDS_MAX) {
            let step = || format!("listen on {}/{}", forward.listen, forward.protocol);
            let bound = crate::host::reserve::bind(forward.listen.ip(), forward.listen.port(), forward.protocol);
            let fd = match bound {
                Ok(Some(fd)) => fd,
                Ok(None) => continue,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    return Err(Error::PortBusy { port: format!("{}/{}", forward.listen, forward.protocol) });
                }
                Err(source) => return Err(Error::Io { step: step(), source }),
            };
            let listener = match forward.protocol {
                Protocol::Udp => {
                    let socket = UdpSocket::from(fd);
                    socket.set_nonblocking(true).step(step)?;
                    Listener::Udp(socket)
                }
                _ => {
                    listen(&fd, Backlog::MAXALLOWABLE).map_err(io::Error::from).step(step)?;
                    let socket = TcpListener::from(fd);
                    socket.set_nonblocking(true).step(step)?;
                    Listener::Tcp(socket)
                }
            };
            listeners.push((listener, forward.target));
        }
        Ok(Self(listeners))
    }

    /// Carries from now on, in a thread that ends when what is returned is dropped.
    pub(super) fn carry(self) -> io::Result<Option<Carrying>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (over, stop) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let work = move || Carrier { listeners: self.0, pairs: Vec::new(), clients: HashMap::new(), over }.run();
        let thread = std::thread::Builder::new().name("forward".to_owned()).stack_size(STACK_BYTES).spawn(work)?;
        Ok(Some(Carrying { stop: Some(stop), thread: Some(thread) }))
    }
}

/// The thread at work. Once this is dropped it has ended, and its ports are free: a monitor may live on with its last words.
#[derive(Debug)]
pub(super) struct Carrying {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Carrying {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It never waits for anything but this.
        self.thread.take().map(JoinHandle::join);
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Half {
    waiting: Vec<u8>,
    ended: bool,
    told: bool,
}

impl Half {
    fn wants_more(&self) -> bool {
        !self.ended && self.waiting.len() < WAITING_BYTES_MAX
    }

    /// Reads and writes what goes without waiting; an error ends the connection.
    fn pump(&mut self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        let mut buffer = [0; 8 * 1024];
        while self.wants_more() {
            match from.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => self.waiting.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        while !self.waiting.is_empty() {
            match to.write(&self.waiting) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.ended && self.waiting.is_empty() && !self.told {
            self.told = true;
            // It may have closed already.
            to.shutdown(Shutdown::Write).ok();
        }
        Ok(())
    }
}

/// One connection and its continuation.
#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
    there: Half,
    back: Half,
    last: Instant,
}

impl Pair {
    fn new(client: TcpStream, target: SocketAddr) -> io::Result<Self> {
        client.set_nonblocking(true)?;
        let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(target)) {
            // What it comes to is told with the first byte.
            Ok(()) | Err(nix::Error::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        // Small answers at once, as without us.
        setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        client.set_nodelay(true)?;
        Ok(Self {
            client,
            server: TcpStream::from(fd),
            there: Half::default(),
            back: Half::default(),
            last: Instant::now(),
        })
    }

    fn is_over(&self) -> bool {
        self.there.told && self.back.told
    }

    /// Says that it is over. It is taken out at the end of a round, whose numbers must hold.
    fn end(&mut self) {
        (self.there.told, self.back.told) = (true, true);
    }

    /// What each side is waited for; nothing for a side that owes nothing.
    fn wants(&self) -> [PollFlags; 2] {
        let side = |reads: &Half, writes: &Half| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, reads.wants_more());
            flags.set(PollFlags::POLLOUT, !writes.waiting.is_empty());
            flags
        };
        [side(&self.there, &self.back), side(&self.back, &self.there)]
    }

    /// Carries what goes; `false` when it is over.
    fn carry(&mut self) -> bool {
        self.last = Instant::now();
        let carried =
            self.there.pump(&self.client, &self.server).and_then(|()| self.back.pump(&self.server, &self.client));
        carried.is_ok() && !self.is_over()
    }
}

/// One client of a UDP port.
#[derive(Debug)]
struct Client {
    socket: UdpSocket,
    last: Instant,
}

/// The loop.
#[derive(Debug)]
struct Carrier {
    listeners: Vec<(Listener, SocketAddr)>,
    pairs: Vec<Pair>,
    clients: HashMap<(usize, SocketAddr), Client>,
    /// Its other end is closed when it is over.
    over: OwnedFd,
}

/// What became ready.
#[derive(Debug, Clone, Copy)]
enum What {
    Listener(usize),
    Pair(usize),
    Client((usize, SocketAddr)),
    Over,
}

impl Carrier {
    fn run(mut self) {
        loop {
            for what in self.wait() {
                match what {
                    What::Listener(at) => self.accept(at),
                    What::Pair(at) => {
                        if !self.pairs[at].is_over() && !self.pairs[at].carry() {
                            self.pairs[at].end();
                        }
                    }
                    What::Client(key) => self.answer(key),
                    What::Over => return,
                }
            }
            self.pairs.retain(|pair| !pair.is_over());
            self.clients.retain(|_, client| client.last.elapsed() < SILENT);
        }
    }

    fn wait(&self) -> Vec<What> {
        let mut list = vec![(self.over.as_fd(), PollFlags::POLLIN, What::Over)];
        for (at, (listener, _)) in self.listeners.iter().enumerate() {
            match listener {
                Listener::Tcp(socket) => list.push((socket.as_fd(), PollFlags::POLLIN, What::Listener(at))),
                Listener::Udp(socket) => list.push((socket.as_fd(), PollFlags::POLLIN, What::Listener(at))),
            }
        }
        for (at, pair) in self.pairs.iter().enumerate() {
            for (side, flags) in [&pair.client, &pair.server].into_iter().zip(pair.wants()) {
                if !flags.is_empty() {
                    list.push((side.as_fd(), flags, What::Pair(at)));
                }
            }
        }
        for (key, client) in &self.clients {
            list.push((client.socket.as_fd(), PollFlags::POLLIN, What::Client(*key)));
        }
        let mut polled: Vec<PollFd<'_>> = list.iter().map(|(fd, flags, _)| PollFd::new(*fd, *flags)).collect();
        let timeout = if self.clients.is_empty() { PollTimeout::NONE } else { PollTimeout::from(10_000u16) };
        if poll(&mut polled, timeout).is_err() {
            return Vec::new();
        }
        let ready = polled.iter().zip(&list).filter(|(polled, _)| polled.any().unwrap_or(false));
        ready.map(|(_, (_, _, what))| *what).collect()
    }

    fn accept(&mut self, at: usize) {
        let (listener, target) = &self.listeners[at];
        match listener {
            Listener::Tcp(socket) => {
                for _ in 0..ACCEPTED_MAX {
                    let Ok((client, _)) = socket.accept() else { return };
                    if self.pairs.iter().filter(|pair| !pair.is_over()).count() >= PAIRS_MAX {
                        let open = self.pairs.iter_mut().filter(|pair| !pair.is_over());
                        open.min_by_key(|pair| pair.last).into_iter().for_each(Pair::end);
                    }
                    // A container that cannot be reached closes its clients' connections.
                    self.pairs.extend(Pair::new(client, *target));
                }
            }
            Listener::Udp(socket) => {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok((count, from)) = socket.recv_from(&mut buffer) {
                    if !self.clients.contains_key(&(at, from)) && self.clients.len() >= CLIENTS_MAX {
                        let oldest = self.clients.iter().min_by_key(|(_, client)| client.last).map(|(key, _)| *key);
                        oldest.map(|key| self.clients.remove(&key));
                    }
                    let client = match self.clients.entry((at, from)) {
                        std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                        std::collections::hash_map::Entry::Vacant(place) => match datagrams_to(*target) {
                            Ok(socket) => place.insert(Client { socket, last: Instant::now() }),
                            Err(_) => continue,
                        },
                    };
                    client.last = Instant::now();
                    // Lost, as on any way.
                    client.socket.send(&buffer[..count]).ok();
                }
            }
        }
    }

    fn answer(&mut self, key: (usize, SocketAddr)) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        let Listener::Udp(listener) = &self.listeners[key.0].0 else { return };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match client.socket.recv(&mut buffer) {
                Ok(count) => {
                    client.last = Instant::now();
                    listener.send_to(&buffer[..count], key.1).ok();
                }
                // Nobody listens there: the next datagram tries again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    }
}

fn datagrams_to(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A carrier from a free port to `target`; its own address, and what keeps it.
    fn carried(protocol: Protocol, target: SocketAddr) -> (SocketAddr, Option<Carrying>) {
        let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listeners = Listeners::open(&[Forward { listen, protocol, target }]).unwrap();
        let address = match &listeners.0[0].0 {
            Listener::Tcp(socket) => socket.local_addr(),
            Listener::Udp(socket) => socket.local_addr(),
        };
        (address.unwrap(), listeners.carry().unwrap())
    }

    #[test]
    fn a_connection_is_carried_both_ways_to_its_end() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, carrying) = carried(Protocol::Tcp, server.local_addr().unwrap());
        let serve = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut text = Vec::new();
            stream.read_to_end(&mut text).unwrap();
            stream.write_all(&text).unwrap();
        });
        let mut client = TcpStream::connect(address).unwrap();
        let sent: Vec<u8> = (0..500_000u32).flat_map(u32::to_le_bytes).collect();
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
        serve.join().unwrap();
        // Nobody listens any more: the connection ends.
        let mut client = TcpStream::connect(address).unwrap();
        assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
        drop(carrying);
        assert!(TcpStream::connect(address).is_err(), "its port is free");
    }

    #[test]
    fn datagrams_of_two_clients_find_their_way_back() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, _carrying) = carried(Protocol::Udp, server.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((count, from)) = server.recv_from(&mut buffer) {
                server.send_to(&buffer[..count], from).unwrap();
            }
        });
        let clients = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for (at, client) in clients.iter().enumerate() {
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client.send_to(&[u8::try_from(at).unwrap()], address).unwrap();
        }
        for (at, client) in clients.iter().enumerate() {
            let mut byte = [9];
            client.recv_from(&mut byte).unwrap();
            assert_eq!(usize::from(byte[0]), at);
        }
    }
}
