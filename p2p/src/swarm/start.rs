//! How a node starts: resume, create or join. In: the configuration and what is on disk. Out: the running task's handle.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::identity::{Keypair, ed25519};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{DialError, SwarmEvent};
use libp2p::{Multiaddr, Swarm};
use tokio::sync::{mpsc, watch as latest};

use super::behaviour::{self, Behaviour};
use super::doors::Admitted;
use super::{Clock, Inbox, Progress, Task, address, admit, lanes, node_of, watch};
use crate::admission::{Certificate, Token, is_of_one_member, verify_ed25519};
use crate::disk::store::{Store, StoreError};
use crate::disk::{CLUSTER_FORMAT, ClusterFile, Folder};
use crate::id::{ClusterId, NodeId};
use crate::membership::Role;
use crate::membership::view::Facts;
use crate::mesh::{COMMANDS_MAX, Command, Config, Error, Intent};
use crate::node::{Node, Setup};
use crate::table::Sum;
use crate::table::schema::FEATURE_LEVEL;
use crate::wire;

/// Where a node listens when it is not told.
pub const DEFAULT_LISTEN: &str = "0.0.0.0:4700";
/// The site of a node that is not told.
pub const DEFAULT_SITE: &str = "default";
/// How long listening and joining may take.
const LISTEN_TIME: Duration = Duration::from_secs(5);
const JOIN_TIME: Duration = Duration::from_secs(30);
/// The least pause before members that were too busy are asked again.
const JOIN_AGAIN: Duration = Duration::from_millis(300);
/// How long a host may take to answer that somebody listens there: two packets may be lost.
const ANSWER_TIME: Duration = Duration::from_secs(4);
/// Addresses named in an error; the rest are counted.
const NAMED_MAX: usize = 6;

fn wrong(text: impl Into<String>) -> Error {
    Error::Start(text.into())
}

/// Starts a node; returns its command channel, its id and its cluster.
pub(crate) async fn start(config: Config) -> Result<(mpsc::Sender<Command>, NodeId, ClusterId), Error> {
    let folder = Folder::open(&config.dir)?;
    let known = folder.cluster()?;
    if known.is_none() && config.intent == Intent::Resume {
        return Err(wrong("this node is in no cluster yet; run `shoal mesh up` or `shoal mesh join TOKEN`"));
    }
    let token = match &config.intent {
        Intent::Join(text) => Some(Token::from_text(text).map_err(|error| Error::Token { reason: error.to_string() })?),
        _ => None,
    };
    if let (Some(known), Some(token)) = (&known, &token)
        && known.cluster != token.cluster()
    {
        return Err(wrong(format!(
            "this node is in cluster {}, the token is of {}; run `shoal mesh leave` first",
            known.cluster,
            token.cluster()
        )));
    }
    let keypair = folder.identity(ed25519::Keypair::generate)?;
    let public = keypair.public().to_bytes();
    let id = NodeId::of_key(&public);
    let admitted = Admitted::default();
    let mut swarm = behaviour::swarm(Keypair::from(keypair.clone()), Admitted::clone(&admitted)).map_err(wrong)?;
    let (wanted, circuits) = circuits_apart(&config.listen)?;
    let listening = listen(&mut swarm, &wanted).await?;
    let cluster = match (known, token) {
        (Some(known), _) => known,
        (None, Some(token)) => {
            let file = join(&mut swarm, &token, public).await?;
            folder.keep_cluster(&file)?;
            file
        }
        (None, None) => {
            let file = create(public);
            folder.keep_cluster(&file)?;
            file
        }
    };
    let (mut task, inbox) = task(config, folder, cluster, keypair, (swarm, admitted), listening).await?;
    task.circuits = circuits.into_iter().map(|address| (address, None)).collect();
    let cluster = task.cluster.cluster;
    let (commands, command_inbox) = mpsc::channel(COMMANDS_MAX);
    tokio::spawn(task.run(command_inbox, inbox));
    Ok((commands, id, cluster))
}

/// A new cluster: a root key that signs this node's certificate and is not kept, because nothing needs it again.
fn create(public: [u8; 32]) -> ClusterFile {
    let root = ed25519::Keypair::generate();
    let root_key = root.public().to_bytes();
    let cluster = ClusterId::of_root(&root_key);
    let certificate = Certificate::issue(cluster, public, Role::Operator, 0, Clock::new().now().wall_ms, &root);
    ClusterFile {
        format: CLUSTER_FORMAT,
        cluster,
        root_hash: hex::encode(blake3::hash(&root_key).as_bytes()),
        chain: vec![hex::encode(certificate.to_bytes())],
        bootstrap: Vec::new(),
        other: serde_json::Map::new(),
    }
}

/// Takes circuits through relays out of where to listen: they are asked for once this node is a member, and again whenever
/// they are lost.
fn circuits_apart(wanted: &[String]) -> Result<(Vec<String>, Vec<Multiaddr>), Error> {
    let (mut plain, mut circuits) = (Vec::new(), Vec::new());
    for text in wanted {
        let address = address::parse(text).map_err(wrong)?;
        if address::is_circuit(&address) {
            circuits.push(address);
        } else {
            plain.push(text.clone());
        }
    }
    Ok((plain, circuits))
}

/// An error with what caused it: the outer ones of a transport say nothing.
fn causes(error: &dyn std::error::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !text.is_empty() && !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    if texts.is_empty() { "no reason is given".to_owned() } else { texts.join(": ") }
}

async fn listen(swarm: &mut Swarm<Behaviour>, wanted: &[String]) -> Result<BTreeSet<Multiaddr>, Error> {
    let default = [DEFAULT_LISTEN.to_owned()];
    let wanted = if wanted.is_empty() { &default[..] } else { wanted };
    let mut waiting = std::collections::HashMap::new();
    for text in wanted {
        let address = address::parse(text).map_err(wrong)?;
        let listener =
            swarm.listen_on(address).map_err(|error| wrong(format!("listen on {text}: {}", causes(&error))))?;
        waiting.insert(listener, text.clone());
    }
    let mut listening = BTreeSet::new();
    let until = tokio::time::Instant::now() + LISTEN_TIME;
    while !waiting.is_empty() {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { listener_id, address } => {
                    waiting.remove(&listener_id);
                    listening.insert(address);
                }
                SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                    let text = waiting.remove(&listener_id).unwrap_or_default();
                    let why = reason.err().map_or_else(|| "it was closed".to_owned(), |error| causes(&error));
                    return Err(wrong(format!("listen on {text}: {why}")));
                }
                _ => {}
            },
            () = tokio::time::sleep_until(until) => {
                if listening.is_empty() {
                    let text: Vec<_> = waiting.into_values().collect();
                    return Err(wrong(format!("listen on {}: nothing happened in time", text.join(", "))));
                }
                break;
            }
        }
    }
    Ok(listening)
}

/// What one round of asking came to.
enum Asked {
    /// A member granted certificates.
    Granted(ClusterFile),
    /// One refused for all, or whoever could be asked for itself.
    Refused(Error),
    /// Nobody could be asked to the end; whether somebody listens at all, and what came of each address.
    Nobody(bool, Vec<Tried>),
}

/// An address, and why it led to nothing.
type Tried = (Multiaddr, String);

/// Addresses as an error names them.
fn named(tried: &[Tried]) -> String {
    let mut text: Vec<String> =
        tried.iter().take(NAMED_MAX).map(|(address, why)| format!("{} ({why})", address::shown(address))).collect();
    if tried.len() > NAMED_MAX {
        text.push(format!("and {} more", tried.len() - NAMED_MAX));
    }
    text.join(", ")
}

/// Dials the token's addresses until a member grants a certificate or refuses. A member that is too busy for all who come at
/// once is asked again for as long as [`JOIN_TIME`]; hosts where nobody listens, or that do not answer, are not.
async fn join(swarm: &mut Swarm<Behaviour>, token: &Token, public: [u8; 32]) -> Result<ClusterFile, Error> {
    let until = tokio::time::Instant::now() + JOIN_TIME;
    if token.addresses.is_empty() {
        return Err(wrong("join: the token holds no address; append @HOST:PORT"));
    }
    loop {
        let tried = match ask_round(swarm, token, public, until).await {
            Asked::Granted(file) => return Ok(file),
            Asked::Refused(error) => return Err(error),
            Asked::Nobody(false, tried) if tried.is_empty() => {
                let text = token.addresses.join(", ");
                return Err(wrong(format!("join: no name in the token's addresses could be resolved ({text})")));
            }
            Asked::Nobody(false, tried) => {
                let tried = named(&tried);
                return Err(wrong(format!(
                    "join: no member could be reached; tried {tried}; is a node up there, and does a firewall let its port in? Another address can be appended to the token: TOKEN@HOST:PORT"
                )));
            }
            Asked::Nobody(true, tried) => tried,
        };
        // Not all at once again.
        let pause = JOIN_AGAIN + Duration::from_millis(rand::random::<u64>() % 700);
        if tokio::time::Instant::now() + pause >= until {
            let tried = named(&tried);
            return Err(wrong(format!("join: no member answered within {} s; tried {tried}", JOIN_TIME.as_secs())));
        }
        let _ = tokio::time::timeout(pause, async {
            loop {
                let _ = swarm.select_next_some().await;
            }
        })
        .await;
    }
}

/// Knocks at every address at once: whoever is there is asked first and the others are not waited for one by one.
/// Returns the addresses that answered in their order, and why the others did not.
async fn knock(addresses: Vec<Multiaddr>) -> (Vec<Multiaddr>, Vec<Tried>) {
    let knocks = addresses.into_iter().map(|address| async move {
        let why = match address::socket(&address) {
            // A way through a relay is only known by going it.
            None => None,
            Some(socket) => match tokio::time::timeout(ANSWER_TIME, tokio::net::TcpStream::connect(socket)).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.kind().to_string()),
                Err(_) => Some(format!("no answer within {} s", ANSWER_TIME.as_secs())),
            },
        };
        (address, why)
    });
    let (mut there, mut tried) = (Vec::new(), Vec::new());
    for (address, why) in futures::future::join_all(knocks).await {
        match why {
            None => there.push(address),
            Some(why) => tried.push((address, why)),
        }
    }
    (there, tried)
}

async fn ask_round(
    swarm: &mut Swarm<Behaviour>,
    token: &Token,
    public: [u8; 32],
    until: tokio::time::Instant,
) -> Asked {
    let control = swarm.behaviour().streams.new_control();
    let (there, mut tried) = knock(address::resolve(&token.addresses).await).await;
    let mut listens = false;
    let mut refusals: Vec<String> = Vec::new();
    for address in there {
        if let Err(error) = swarm.dial(DialOpts::unknown_peer_id().address(address.clone()).build()) {
            tried.push((address, causes(&error)));
            continue;
        }
        let peer = loop {
            tokio::select! {
                event = swarm.select_next_some() => match event {
                    SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } if endpoint.is_dialer() => break Ok(peer_id),
                    SwarmEvent::OutgoingConnectionError { error: DialError::LocalPeerId { .. }, .. } => break Err(None),
                    SwarmEvent::OutgoingConnectionError { error, .. } => break Err(Some(causes(&error))),
                    _ => {}
                },
                () = tokio::time::sleep_until(until) => {
                    tried.push((address, "it accepts connections and says nothing".to_owned()));
                    return Asked::Nobody(true, tried);
                }
            }
        };
        listens |= peer != Err(None);
        let peer = match peer {
            Ok(peer) => peer,
            Err(why) => {
                // Tokens name loopback too, where this very node may listen by now.
                tried.push((address, why.unwrap_or_else(|| "that is this host".to_owned())));
                continue;
            }
        };
        let asking = admit::join(control.clone(), peer, public, token, rand::random());
        tokio::pin!(asking);
        let answer = loop {
            tokio::select! {
                answer = &mut asking => break answer,
                _ = swarm.select_next_some() => {}
            }
        };
        let _ = swarm.disconnect_peer_id(peer);
        match answer {
            Ok(chain) => {
                let mut bootstrap = token.addresses.clone();
                bootstrap.insert(0, address.to_string());
                return Asked::Granted(ClusterFile {
                    format: CLUSTER_FORMAT,
                    cluster: token.cluster(),
                    root_hash: hex::encode(token.root_hash),
                    chain: chain.iter().map(hex::encode).collect(),
                    bootstrap,
                    other: serde_json::Map::new(),
                });
            }
            Err((true, reason)) if !is_of_one_member(&reason) => return Asked::Refused(Error::Token { reason }),
            Err((true, reason)) if !refusals.contains(&reason) => refusals.push(reason),
            Err((true, _)) => {}
            Err((false, reason)) => tried.push((address, reason)),
        }
    }
    if refusals.is_empty() {
        return Asked::Nobody(listens, tried);
    }
    Asked::Refused(Error::Token { reason: refusals.join("; ") })
}

async fn task(
    config: Config,
    folder: Folder,
    cluster: ClusterFile,
    keypair: ed25519::Keypair,
    (swarm, admitted): (Swarm<Behaviour>, Admitted),
    listening: BTreeSet<Multiaddr>,
) -> Result<(Task, Inbox), Error> {
    let path = folder.table();
    let disk = |reason: String| Error::Disk { step: "open", path: path.display().to_string(), reason };
    let (progress, stored) = latest::channel(Progress::default());
    let open = {
        let (path, progress) = (path.clone(), progress.clone());
        move || {
            let (store, found) = Store::open(&path, move |it| Progress::told(&progress, it))?;
            store.keep_epoch(found.epoch + 1)?;
            Ok::<_, StoreError>((store, found))
        }
    };
    let (store, found) = tokio::task::spawn_blocking(open)
        .await
        .map_err(|error| disk(error.to_string()))?
        .map_err(|error| disk(error.to_string()))?;
    let epoch = found.epoch + 1;
    // Durable before the first packet.
    let mut epoch_kept = stored.clone();
    let kept = epoch_kept.wait_for(|progress| progress.epoch >= epoch || progress.failed.is_some()).await;
    if let Some(why) = kept.map_err(|error| disk(error.to_string()))?.failed.clone() {
        return Err(disk(why));
    }
    let chain: Option<Vec<Vec<u8>>> = cluster.chain.iter().map(|text| hex::decode(text).ok()).collect();
    let chain = chain.ok_or_else(|| wrong("cluster.json holds a certificate that cannot be read"))?;
    let public = keypair.public().to_bytes();
    let leaf = chain.first().and_then(|bytes| Certificate::from_bytes(bytes).ok());
    if leaf.is_none_or(|leaf| leaf.subject != public) {
        return Err(wrong(
            "cluster.json and identity.key are not of one node; restore the right one or leave and join again",
        ));
    }
    let site = if config.site.is_empty() { DEFAULT_SITE.to_owned() } else { config.site };
    if site.len() > crate::table::row::SITE_MAX || config.name.len() > 256 {
        return Err(wrong("the name or the site is too long (256 and 64 bytes)"));
    }
    for text in &config.advertise {
        address::parse(text).map_err(wrong)?;
    }
    // Interfaces that came up while the admission was going on were told to that loop and not to the task: ask for all.
    let listening: BTreeSet<Multiaddr> = swarm.listeners().cloned().chain(listening).collect();
    let clock = Clock::new();
    let facts = Facts {
        name: config.name,
        site,
        key: hex::encode(public),
        addresses: address::told(&config.advertise, &listening, &address::Bridges::here()),
        labels: config.labels,
        instance: rand::random(),
        version: config.version,
        level: FEATURE_LEVEL,
        other: serde_json::Map::new(),
    };
    let setup = Setup {
        id: NodeId::of_key(&public),
        cluster: cluster.cluster,
        chain,
        facts,
        epoch,
        verify: verify_ed25519,
        seed: rand::random(),
    };
    let node = Node::new(setup, found.rows, clock.now());
    let mut control = swarm.behaviour().streams.new_control();
    let (events, event_inbox) = mpsc::channel(super::EVENTS_MAX);
    let (beats, beat_inbox) = mpsc::channel(super::BEATS_MAX);
    let (messages, message_inbox) = mpsc::channel(super::EVENTS_MAX);
    let mut doors = Vec::new();
    for lane in wire::LANES {
        let messages = if lane == wire::Lane::Member { &beats } else { &messages };
        let told = (messages.clone(), events.clone());
        doors.push(lanes::listen(&mut control, lane, admitted.clone(), told).map_err(wrong)?);
    }
    admit::listen(&mut control, events.clone(), rand::random).map_err(wrong)?;
    // Peers that are connected already are linked as if they had just come.
    let mut task = Task {
        control,
        node,
        store: Some(store),
        progress,
        broken: None,
        backlog: None,
        epoch_awaited: None,
        folder,
        bootstrap: cluster.bootstrap.clone(),
        cluster,
        keypair,
        clock,
        peers: BTreeMap::new(),
        lanes: lanes::Lanes::default(),
        doors,
        connections: BTreeMap::new(),
        events,
        admitted,
        certified: Sum::default(),
        writes: BTreeMap::new(),
        watchers: watch::Watchers::default(),
        advertise: config.advertise,
        listening,
        bootstrap_at: Instant::now(),
        circuits: Vec::new(),
        holes: [0; 2],
        restores: super::backup::Restores::default(),
        expelled: None,
        swarm,
    };
    let told = task.advertise.iter().filter_map(|text| address::parse(text).ok());
    for address in task.listening.iter().cloned().chain(told).collect::<Vec<_>>() {
        task.tell_relayed(&address);
    }
    let connected: Vec<_> = task.swarm.connected_peers().copied().collect();
    for peer in connected {
        if node_of(&peer).is_some() {
            let _ = task.swarm.disconnect_peer_id(peer);
        }
    }
    let inbox = Inbox { events: event_inbox, beats: beat_inbox, messages: message_inbox, progress: stored };
    Ok((task, inbox))
}
