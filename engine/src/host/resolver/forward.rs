//! Questions that are not ours, sent on over UDP and brought back. In: a question and the servers to ask. Out: the server's own
//! reply under the client's number. Bounded in questions under way and in sockets; never recurses, never caches.

use crate::network::dns::{self, Code, Query};
use crate::network::resolv;
use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

/// Questions under way: 1,024 × 512 bytes bound the memory; more than that is a flood, and gets "try again".
const PENDING_MAX: usize = 1024;
/// Sockets per server: different source ports make answers hard to forge.
const SOCKETS_PER_SERVER: usize = 4;
/// All sockets: 16 servers.
const SOCKETS_MAX: usize = 64;
/// How long one server may take. Clients themselves wait 5 s.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often a question is sent before it fails.
const ATTEMPTS_MAX: usize = 3;

/// One question of a client.
#[derive(Debug)]
pub(super) struct Question {
    /// Which of our sockets it came to.
    pub(super) listener: usize,
    /// Who asks.
    pub(super) client: SocketAddr,
    /// The message as it came.
    pub(super) message: Vec<u8>,
    /// The same, parsed.
    pub(super) query: Query,
}

#[derive(Debug)]
struct Pending {
    question: Question,
    servers: Vec<SocketAddr>,
    attempt: usize,
    deadline: Instant,
}

#[derive(Debug)]
struct Slot {
    server: SocketAddr,
    socket: UdpSocket,
}

/// The servers of the host and the questions under way.
#[derive(Debug)]
pub(super) struct Forwarder {
    own: Vec<IpAddr>,
    slots: Vec<Slot>,
    pending: HashMap<(usize, u16), Pending>,
    host: Vec<SocketAddr>,
    host_stamp: Option<SystemTime>,
    random: u64,
}

/// The host's list of servers.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved writes the real servers, which a stub listener hides.
pub(super) const SYSTEMD_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// Reads the host's servers, without our own addresses: a host that asks us must not be asked by us.
pub(super) fn host_servers(own: &[IpAddr]) -> Vec<SocketAddr> {
    let read = |path| fs::read_to_string(path).map(|text| resolv::parse(&text).servers).unwrap_or_default();
    let mut servers: Vec<IpAddr> = read(RESOLV_CONF);
    if servers.is_empty() {
        servers = read(SYSTEMD_CONF);
    }
    servers.into_iter().filter(|server| !own.contains(server)).map(|server| SocketAddr::new(server, 53)).collect()
}

impl Forwarder {
    pub(super) fn new(own: Vec<IpAddr>, random: u64) -> Self {
        Self {
            own,
            slots: Vec::new(),
            pending: HashMap::new(),
            host: Vec::new(),
            host_stamp: None,
            random: random.rotate_left(17) | 1,
        }
    }

    /// The sockets to wait on, by the number that [`Forwarder::receive`] takes.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.slots.iter().map(|slot| &slot.socket)
    }

    /// Returns how long the oldest question may still wait.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.pending
            .values()
            .map(|pending| pending.deadline)
            .min()
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Sends a question on; without a server, or with too many under way, it fails at once.
    pub(super) fn send(&mut self, question: Question, servers: &[IpAddr], listeners: &[UdpSocket]) {
        let servers: Vec<SocketAddr> = if servers.is_empty() {
            self.refresh();
            self.host.clone()
        } else {
            servers
                .iter()
                .filter(|server| !self.own.contains(server))
                .map(|server| SocketAddr::new(*server, 53))
                .collect()
        };
        if servers.is_empty() || self.pending.len() >= PENDING_MAX {
            fail(&question, listeners);
            return;
        }
        self.attempt(Pending { question, servers, attempt: 0, deadline: Instant::now() }, listeners);
    }

    fn refresh(&mut self) {
        let stamp = fs::metadata(RESOLV_CONF).and_then(|found| found.modified()).ok();
        if self.host.is_empty() || stamp != self.host_stamp {
            self.host = host_servers(&self.own);
            self.host_stamp = stamp;
        }
    }

    /// Sends to the next server in turn, until one can be sent to or the attempts are used up.
    fn attempt(&mut self, mut pending: Pending, listeners: &[UdpSocket]) {
        while pending.attempt < ATTEMPTS_MAX.max(pending.servers.len()) {
            let server = pending.servers[pending.attempt % pending.servers.len()];
            pending.attempt += 1;
            let Some(at) = self.slot(server) else { continue };
            let Some(id) = self.free_id(at) else { continue };
            let mut message = pending.question.message.clone();
            message[..2].copy_from_slice(&id.to_be_bytes());
            if self.slots[at].socket.send(&message).is_err() {
                continue;
            }
            pending.deadline = Instant::now() + PATIENCE;
            self.pending.insert((at, id), pending);
            return;
        }
        fail(&pending.question, listeners);
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn free_id(&mut self, at: usize) -> Option<u16> {
        (0..8).find_map(|_| {
            let id = u16::try_from(self.next_random() >> 48).unwrap_or_default();
            (!self.pending.contains_key(&(at, id))).then_some(id)
        })
    }

    fn slot(&mut self, server: SocketAddr) -> Option<usize> {
        let of: Vec<usize> = (0..self.slots.len()).filter(|at| self.slots[*at].server == server).collect();
        if of.len() >= SOCKETS_PER_SERVER || (self.slots.len() >= SOCKETS_MAX && !of.is_empty()) {
            let choice = usize::try_from(self.next_random() >> 33).unwrap_or_default() % of.len();
            return Some(of[choice]);
        }
        let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
        socket.set_nonblocking(true).ok()?;
        // Connected: only this server's packets come in.
        socket.connect(server).ok()?;
        if self.slots.len() < SOCKETS_MAX {
            self.slots.push(Slot { server, socket });
            return Some(self.slots.len() - 1);
        }
        // A new server after a change of the host's: the first socket without a question gives way.
        let at = (0..self.slots.len()).find(|at| !self.pending.keys().any(|(slot, _)| slot == at))?;
        self.slots[at] = Slot { server, socket };
        Some(at)
    }

    /// Brings back what a server answered.
    pub(super) fn receive(&mut self, at: usize, buffer: &mut [u8], listeners: &[UdpSocket]) {
        loop {
            let length = match self.slots[at].socket.recv(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    self.refused(at, listeners);
                    return;
                }
                Err(_) => return,
            };
            let reply = &buffer[..length];
            let Some(id) = reply.get(..2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]])) else { continue };
            let fits = self.pending.get(&(at, id)).is_some_and(|pending| answers(reply, &pending.question.message));
            if fits && let Some(pending) = self.pending.remove(&(at, id)) {
                let mut reply = reply.to_vec();
                reply[..2].copy_from_slice(&pending.question.query.id.to_be_bytes());
                let _ = listeners[pending.question.listener].send_to(&reply, pending.question.client);
            }
        }
    }

    /// Nobody listens there: every question on that socket goes to the next server.
    fn refused(&mut self, at: usize, listeners: &[UdpSocket]) {
        let keys: Vec<(usize, u16)> = self.pending.keys().filter(|(slot, _)| *slot == at).copied().collect();
        for key in keys {
            if let Some(pending) = self.pending.remove(&key) {
                self.attempt(pending, listeners);
            }
        }
    }

    /// Sends late questions to the next server.
    pub(super) fn expire(&mut self, listeners: &[UdpSocket]) {
        if self.pending.is_empty() {
            return;
        }
        let now = Instant::now();
        let late: Vec<(usize, u16)> =
            self.pending.iter().filter(|(_, pending)| pending.deadline <= now).map(|(key, _)| *key).collect();
        for key in late {
            if let Some(pending) = self.pending.remove(&key) {
                self.attempt(pending, listeners);
            }
        }
    }
}

fn fail(question: &Question, listeners: &[UdpSocket]) {
    let reply = dns::failure(&question.message, &question.query, Code::ServFail);
    let _ = listeners[question.listener].send_to(&reply, question.client);
}

/// Whether a message is the reply to this question: the same question, and marked as a reply.
pub(super) fn answers(reply: &[u8], question: &[u8]) -> bool {
    let Ok(asked) = dns::parse(question) else { return false };
    let mut as_query = reply.to_vec();
    let Some(flags) = as_query.get_mut(2) else { return false };
    if *flags & 0x80 == 0 {
        return false;
    }
    *flags &= 0x7f;
    dns::parse(&as_query).is_ok_and(|got| got.name == asked.name && got.kind == asked.kind && got.class == asked.class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reply_to_the_question_is_taken() {
        let question = dns::query(7, "Example.org", 1);
        let mut reply = dns::query(9, "example.ORG", 1);
        assert!(!answers(&reply, &question));
        reply[2] |= 0x80;
        assert!(answers(&reply, &question));
        let mut other = dns::query(9, "example.net", 1);
        other[2] |= 0x80;
        assert!(!answers(&other, &question));
        assert!(!answers(&[1], &question));
    }

    #[test]
    fn a_question_without_a_server_fails_at_once_and_one_with_a_dead_server_after_its_attempts() {
        let listener = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let client = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        let message = dns::query(7, "example.org", 1);
        let question = || Question {
            listener: 0,
            client: client.local_addr().expect("bound"),
            message: message.clone(),
            query: dns::parse(&message).expect("a query"),
        };
        let own: IpAddr = "127.0.0.1".parse().expect("an address");
        let mut forwarder = Forwarder::new(vec![own], 5);
        let listeners = [listener];
        forwarder.send(question(), &[own], &listeners);
        let mut buffer = [0; 512];
        let length = client.recv(&mut buffer).expect("a reply");
        assert_eq!((buffer[..2].to_vec(), buffer[3] & 15, length >= 12), (vec![0, 7], 2, true));
        assert!(forwarder.timeout().is_none());
    }
}
