//! How many connections may come from those nobody knows yet. In: who connects, and whose certificate is known. Out: yes or no,
//! before anything is allocated for them. Members are counted nowhere here: no number of strangers keeps one out once its
//! handshake has shown who it is.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::doors::Admitted;
use super::node_of;

/// Connections at once that have not shown a key yet. Each holds a file and a few KB until its handshake ends or ten seconds
/// have passed; with the usual 1,024 open files three quarters stay free.
pub const NAMELESS_MAX: usize = 256;
/// Of these, those of one host: a whole rack behind one router joins within it, and one host alone fills a quarter.
pub const NAMELESS_OF_ONE_MAX: usize = 64;
/// Standing connections of keys without a known certificate: each is closed after three seconds without a hello.
pub const STRANGERS_MAX: usize = 128;

/// Why a connection was not let in.
#[derive(Debug, thiserror::Error)]
#[error("too many connections of strangers ({0})")]
struct TooMany(&'static str);

/// Counts connections of strangers and refuses those beyond the bounds.
#[derive(Debug)]
pub struct Strangers {
    admitted: Admitted,
    nameless: HashMap<ConnectionId, Option<IpAddr>>,
    strangers: HashMap<ConnectionId, PeerId>,
}

impl Strangers {
    /// Knows members by what the task keeps there.
    pub(crate) fn new(admitted: Admitted) -> Self {
        Self { admitted, nameless: HashMap::new(), strangers: HashMap::new() }
    }

    fn is_member(&self, peer: &PeerId) -> bool {
        let standing = self.admitted.read().expect("nobody panics while holding it");
        node_of(peer).is_some_and(|(node, _)| standing.certified.contains(&node) || standing.linked.contains_key(&node))
    }
}

/// The host an address leads to; `None` when it leads through a relay, or to a name.
fn host(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next() {
        _ if super::address::is_circuit(address) => None,
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.into()),
        _ => None,
    }
}

impl NetworkBehaviour for Strangers {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let host = host(remote);
        if self.nameless.len() >= NAMELESS_MAX {
            return Err(ConnectionDenied::new(TooMany("without a key, in all")));
        }
        if host.is_some() && self.nameless.values().filter(|other| **other == host).count() >= NAMELESS_OF_ONE_MAX {
            return Err(ConnectionDenied::new(TooMany("without a key, of one host")));
        }
        self.nameless.insert(connection, host);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.nameless.remove(&connection);
        if !self.is_member(&peer) {
            if self.strangers.len() >= STRANGERS_MAX {
                // Who came before its certificate did is no stranger any more.
                let known: Vec<ConnectionId> =
                    self.strangers.iter().filter(|(_, peer)| self.is_member(peer)).map(|(it, _)| *it).collect();
                for connection in known {
                    self.strangers.remove(&connection);
                }
            }
            if self.strangers.len() >= STRANGERS_MAX {
                return Err(ConnectionDenied::new(TooMany("without a certificate")));
            }
            self.strangers.insert(connection, peer);
        }
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // Whom this node dials it has chosen itself.
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(closed) => {
                self.strangers.remove(&closed.connection_id);
            }
            FromSwarm::ListenFailure(failed) => {
                self.nameless.remove(&failed.connection_id);
                self.strangers.remove(&failed.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Role;

    fn from(host: usize) -> Multiaddr {
        format!("/ip4/10.0.{}.{}/tcp/9", host / 250, host % 250 + 1).parse().unwrap()
    }

    fn key() -> PeerId {
        libp2p::identity::Keypair::generate_ed25519().public().to_peer_id()
    }

    #[test]
    fn one_host_fills_its_own_room_and_all_strangers_together_theirs() {
        let admitted = Admitted::default();
        let mut strangers = Strangers::new(Admitted::clone(&admitted));
        let here = from(999);
        let mut number = 0;
        let mut come = |strangers: &mut Strangers, host: usize| {
            number += 1;
            let connection = ConnectionId::new_unchecked(number);
            strangers.handle_pending_inbound_connection(connection, &here, &from(host)).ok().map(|()| connection)
        };
        let held: Vec<ConnectionId> = (0..NAMELESS_OF_ONE_MAX).filter_map(|_| come(&mut strangers, 1)).collect();
        assert_eq!(held.len(), NAMELESS_OF_ONE_MAX);
        assert!(come(&mut strangers, 1).is_none(), "that host has its share");
        let mut others = 0;
        while come(&mut strangers, 2 + others).is_some() {
            others += 1;
        }
        assert_eq!(NAMELESS_OF_ONE_MAX + others, NAMELESS_MAX);

        // Keys come out of them: strangers up to their bound, members without one.
        let enter = |strangers: &mut Strangers, connection: ConnectionId, peer: PeerId| {
            strangers.handle_established_inbound_connection(connection, peer, &here, &from(1)).is_ok()
        };
        assert!(held.iter().all(|connection| enter(&mut strangers, *connection, key())));
        assert!(come(&mut strangers, 1).is_some(), "there is room for others without a key again");
        for number in 0..STRANGERS_MAX - held.len() {
            assert!(enter(&mut strangers, ConnectionId::new_unchecked(10_000 + number), key()));
        }
        assert!(!enter(&mut strangers, ConnectionId::new_unchecked(20_000), key()));
        let member = key();
        let (node, _) = node_of(&member).unwrap();
        admitted.write().unwrap().linked.insert(node, Role::Member);
        let turned = strangers.strangers.values().next().copied().and_then(|peer| node_of(&peer)).unwrap().0;
        admitted.write().unwrap().certified.insert(turned);
        assert!(enter(&mut strangers, ConnectionId::new_unchecked(20_001), key()), "one of them is a member now");
        assert!(!enter(&mut strangers, ConnectionId::new_unchecked(20_002), key()));
        assert!((0..300).all(|n| enter(&mut strangers, ConnectionId::new_unchecked(30_000 + n), member)));
    }
}
