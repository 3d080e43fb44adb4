//! Which libp2p protocols a node speaks. In: its key. Out: a swarm: TCP, Noise, Yamux; streams of our own protocols,
//! identify, relay (both sides), hole punching; connections of strangers are bounded.

use std::time::Duration;

use libp2p::identity::Keypair;
use libp2p::{Swarm, SwarmBuilder, dcutr, identify, noise, relay, tcp, yamux};

use super::doors::Admitted;
use super::strangers::Strangers;

/// Everything a node speaks.
#[derive(libp2p::swarm::NetworkBehaviour)]
#[behaviour(to_swarm = "BehaviourEvent")]
pub struct Behaviour {
    /// Asked first about every connection.
    strangers: Strangers,
    /// Our own protocols.
    pub streams: libp2p_stream::Behaviour,
    identify: identify::Behaviour,
    relay_client: relay::client::Behaviour,
    relay: relay::Behaviour,
    dcutr: dcutr::Behaviour,
}

/// What the behaviours tell; only identify and hole punching are listened to.
#[derive(Debug)]
pub enum BehaviourEvent {
    /// Of identify.
    Identify(Box<identify::Event>),
    /// Two nodes behind routers have (or have not) come to a connection of their own.
    Punched(bool),
    /// Of the others.
    Other,
}

impl From<identify::Event> for BehaviourEvent {
    fn from(event: identify::Event) -> Self {
        Self::Identify(Box::new(event))
    }
}

impl From<()> for BehaviourEvent {
    fn from((): ()) -> Self {
        Self::Other
    }
}

impl From<std::convert::Infallible> for BehaviourEvent {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl From<relay::client::Event> for BehaviourEvent {
    fn from(_: relay::client::Event) -> Self {
        Self::Other
    }
}

impl From<relay::Event> for BehaviourEvent {
    fn from(_: relay::Event) -> Self {
        Self::Other
    }
}

impl From<dcutr::Event> for BehaviourEvent {
    fn from(event: dcutr::Event) -> Self {
        Self::Punched(event.result.is_ok())
    }
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Behaviour")
    }
}

/// Links stand for as long as both live: neither heartbeats nor streams decide that.
const NEVER_IDLE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Identify tells both ends' addresses once at connect; this is how often it may repeat them.
const IDENTIFY_EVERY: Duration = Duration::from_secs(3_600);

/// How long one relayed connection may stand; then both ends make another.
const CIRCUIT_TIME: Duration = Duration::from_secs(86_400);
/// Relayed connections at once, and those of one peer: every two nodes behind routers need one.
const CIRCUITS_MAX: usize = 1_024;
const CIRCUITS_EACH_MAX: usize = 256;

/// Members are relayed for as long and as much as they need; strangers are hung up on before it matters.
fn relaying() -> relay::Config {
    relay::Config {
        max_circuit_duration: CIRCUIT_TIME,
        max_circuit_bytes: 0,
        max_circuits: CIRCUITS_MAX,
        max_circuits_per_peer: CIRCUITS_EACH_MAX,
        max_reservations: CIRCUITS_MAX,
        ..relay::Config::default()
    }
}

/// A swarm with this key, which lets members in by what `admitted` says.
///
/// # Errors
/// Words for the user, when the Noise handshake cannot be set up.
pub(crate) fn swarm(key: Keypair, admitted: Admitted) -> Result<Swarm<Behaviour>, String> {
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(|error| format!("set up Noise: {error}"))?
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .map_err(|error| format!("set up the relay client: {error}"))?
        .with_behaviour(|key, relay_client| {
            let peer = key.public().to_peer_id();
            Behaviour {
                strangers: Strangers::new(admitted),
                streams: libp2p_stream::Behaviour::new(),
                identify: identify::Behaviour::new(
                    identify::Config::new("/shoal/1".into(), key.public()).with_interval(IDENTIFY_EVERY),
                ),
                relay_client,
                relay: relay::Behaviour::new(peer, relaying()),
                dcutr: dcutr::Behaviour::new(peer),
            }
        })
        .map_err(|error| format!("set up the protocols: {error}"))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(NEVER_IDLE))
        .build();
    Ok(swarm)
}
