//! The data path of this node: subnet, ways to the others, published ports, names. In: what the core knows. Out: calls of
//! [`Containers::route`] when, and only when, the answer changed. Left in place when the node's process ends: traffic outlives
//! the agent.

use super::journal::Journal;
use super::{Handle, Options, cluster};
use crate::core::Core;
use crate::model::{Liveness, Node, NodeFacts, NodeId, OverlayFacts, short_digest};
use crate::port::{Containers, Traffic};
use crate::route::{names, table};
use ipnet::{Ipv4Net, Ipv6Net};
use p2p::Mesh;
use p2p::table::Table;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The first address of the /12 that all nodes' subnets come from.
const BASE: Ipv4Addr = Ipv4Addr::new(10, 208, 0, 0);
/// How many /24 a /12 has.
const SLOTS: u64 = 4096;
/// Subnets a node tries, each at a place of its own: thirty-two taken ones in a row mean a mesh of thousands.
const CANDIDATES: u64 = 32;
/// Changes within this time are one change: a burst of rows costs one transaction of the kernel's.
const SETTLE: Duration = Duration::from_millis(10);
/// How often everything is looked at again although nothing changed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Says whether an address belongs to the network between containers.
#[must_use]
pub fn is_ours(address: Ipv4Addr) -> bool {
    Ipv4Net::new(BASE, 12).expect("12 is a prefix length").contains(&address)
}

/// Returns the IPv6 subnet that goes with a node's IPv4 one: unique local addresses of the mesh (RFC 4193: `fd` and 40 bits of
/// its id), numbered by the node's slot. Nobody claims it and nobody has to be told.
#[must_use]
pub fn subnet6(cluster: &str, subnet: Ipv4Net) -> Ipv6Net {
    let mesh = crate::steward::mix("ula", cluster) & 0xff_ffff_ffff;
    let slot = (u32::from(subnet.network()) >> 8) & 0xfff;
    let prefix = (0xfd << 56) | (mesh << 16) | u64::from(slot);
    Ipv6Net::new(Ipv6Addr::from(u128::from(prefix) << 64), 64).expect("64 is a prefix length of IPv6")
}

/// Returns the subnets a node may claim, best first, without those of others.
fn candidates(me: &str, taken: &BTreeSet<Ipv4Net>) -> Vec<Ipv4Net> {
    let at = |number: u64| {
        let slot = crate::steward::mix(me, &number.to_string()) % SLOTS;
        let first = u32::from(BASE) + (u32::try_from(slot).unwrap_or(0) << 8);
        Ipv4Net::new(Ipv4Addr::from(first), 24).expect("24 is a prefix length")
    };
    (0..CANDIDATES).map(at).filter(|subnet| !taken.contains(subnet)).collect()
}

/// Says whether a claim is one that this host may act on: one of the mesh's own subnets, reached at one host's address.
fn is_sound(claim: &OverlayFacts) -> bool {
    let OverlayFacts { subnet, underlay, .. } = claim;
    let whole = subnet.prefix_len() == 24 && subnet.addr() == subnet.network() && is_ours(subnet.network());
    let one = !underlay.is_unspecified() && !underlay.is_multicast() && !underlay.is_broadcast();
    whole && one && !underlay.is_loopback() && !is_ours(*underlay)
}

/// Returns whose claim of each subnet stands: the oldest, ties by id.
fn holders<'a>(
    claims: impl Iterator<Item = (&'a NodeId, &'a OverlayFacts)>,
) -> BTreeMap<Ipv4Net, (&'a NodeId, &'a OverlayFacts)> {
    let mut holders: BTreeMap<Ipv4Net, (&NodeId, &OverlayFacts)> = BTreeMap::new();
    for (node, claim) in claims {
        let place = holders.entry(claim.subnet).or_insert((node, claim));
        if (claim.since_ms, node) < (place.1.since_ms, place.0) {
            *place = (node, claim);
        }
    }
    holders
}

/// Derives what the data path should be from what the core knows. Pure.
fn wanted(core: &Core, me: &NodeId, own: &OverlayFacts, cluster: &str) -> Traffic {
    let vni = u32::try_from(crate::steward::mix("vni", cluster) & 0xff_fffe).unwrap_or(0) | 1;
    let nodes: BTreeMap<NodeId, &Node> = core.nodes().map(|node| (node.id.clone(), node)).collect();
    let routes = table::build(core.services().map(|(row, _)| row), core.instances(), &nodes);
    let others = nodes.values().filter(|node| node.id != *me && node.liveness != Liveness::Left);
    let others = others.filter(|node| !core.is_reader(&node.id));
    let claims =
        others.filter_map(|node| Some((&node.id, node.facts.overlay.as_ref().filter(|claim| is_sound(claim))?)));
    let peers = holders(claims.chain(std::iter::once((me, own))))
        .into_iter()
        .filter(|(_, (node, _))| *node != me)
        .map(|(subnet, (_, claim))| (subnet, (subnet6(cluster, subnet), claim.underlay)))
        .collect();
    let reachable = |addresses: &[IpAddr]| {
        addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) if is_ours(*address) => Some(*address),
            _ => None,
        })
    };
    let ports = routes
        .ingress
        .iter()
        .map(|(key, ingress)| {
            let backends = ingress.backends.iter().filter_map(|backend| reachable(&backend.addresses));
            (*key, backends.map(|address| (address, ingress.target)).collect())
        })
        .collect();
    let names = names::all(&routes, core.services().map(|(row, _)| row.spec.name.as_str()));
    Traffic { underlay: own.underlay, vni, peers, ports, names }
}

/// Whatever says which address of this host the others reach.
async fn underlay(mesh: &Mesh, options: &Options) -> Option<Ipv4Addr> {
    let good = |address: Ipv4Addr| {
        (!address.is_loopback() && !address.is_unspecified() && !is_ours(address)).then_some(address)
    };
    let told = options.mesh.advertise.iter().chain(&options.mesh.listen);
    let told = told.filter_map(|text| text.rsplit_once(':')?.0.parse().ok()).find_map(good);
    if told.is_some() {
        return told;
    }
    let members = mesh.members().await.ok()?;
    let of_peers = members.iter().filter(|member| !member.is_self).flat_map(|member| &member.addresses);
    let of_peers = of_peers.filter_map(|text| good(dotted(text)?));
    // Bridges of container engines have the same address on every host: such a peer's address is this host's own.
    if let Some(address) = of_peers.filter(|peer| !is_local(*peer)).find_map(|peer| good(toward(peer)?)) {
        return Some(address);
    }
    let of_ours = members.iter().filter(|member| member.is_self).flat_map(|member| &member.addresses);
    of_ours.filter_map(|text| good(dotted(text)?)).next()
}

/// Reads the IPv4 address of a multiaddress.
fn dotted(text: &str) -> Option<Ipv4Addr> {
    text.strip_prefix("/ip4/")?.split('/').next()?.parse().ok()
}

/// Returns the address that packets to the others come from. Behind a translation of addresses that is not the one they reach
/// this host at: then the one this host would use towards them.
fn source(
    told: Ipv4Addr,
    peers: impl Iterator<Item = Ipv4Addr>,
    is_local: impl Fn(Ipv4Addr) -> bool,
    toward: impl Fn(Ipv4Addr) -> Option<Ipv4Addr>,
) -> Ipv4Addr {
    let mut peers = peers;
    if is_local(told) { told } else { peers.find_map(toward).unwrap_or(told) }
}

/// Says whether an address is one of this host's.
fn is_local(address: Ipv4Addr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Returns the address this host would use towards another; nothing is sent.
fn toward(peer: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((peer, 9)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) => Some(*address.ip()),
        SocketAddr::V6(_) => None,
    }
}

/// Claims this node's subnet and adds it to its facts. A host that can have no such network goes without: its containers then
/// have the host's default network, and the journal says why.
pub(crate) async fn claim(
    mesh: &Mesh,
    options: &Options,
    port: &Arc<dyn Containers>,
    me: &NodeId,
    facts: &mut NodeFacts,
    journal: &Journal,
) {
    let mut taken = BTreeSet::new();
    for row in mesh.rows_with(Table::NODE_FACTS, "", true).await.unwrap_or_default() {
        let owner = row.key.owner().map(|id| id.to_string());
        if owner.as_ref() != Some(me)
            && let Ok(other) = row.body.parse::<NodeFacts>()
        {
            taken.extend(other.overlay.map(|overlay| overlay.subnet));
        }
    }
    let cluster = mesh.cluster().to_string();
    let with6 = |subnet: Ipv4Net| (subnet, subnet6(&cluster, subnet));
    take_stock(port, facts).await;
    let (port, candidates) = (Arc::clone(port), candidates(me, &taken).into_iter().map(with6).collect::<Vec<_>>());
    match tokio::task::spawn_blocking(move || port.claim(&candidates)).await {
        Ok(Ok(Some((subnet, since_ms)))) => {
            // Alone and without an address nobody sends anything; the address follows as soon as there is a peer.
            let underlay = underlay(mesh, options).await.unwrap_or(Ipv4Addr::LOCALHOST);
            facts.overlay = Some(OverlayFacts { subnet, underlay, since_ms });
        }
        Ok(Ok(None)) => facts.overlay = None,
        Ok(Err(error)) => journal.note("traffic", me, &format!("no network between containers: {error}")),
        Err(error) => journal.note("traffic", me, &format!("no network between containers: {error}")),
    }
}

/// Images that a node tells of: a row of some kilobytes.
const IMAGES_MAX: usize = 512;

/// Writes into a node's facts what it holds; returns whether that changed.
async fn take_stock(port: &Arc<dyn Containers>, facts: &mut NodeFacts) -> bool {
    let port = Arc::clone(port);
    let Ok(Some(stock)) = tokio::task::spawn_blocking(move || port.stock()).await else { return false };
    let images: BTreeSet<String> = stock.images.iter().map(|digest| short_digest(digest)).take(IMAGES_MAX).collect();
    let networks = Some(stock.networks.into_iter().collect());
    let changed = facts.images != images || facts.networks != networks;
    (facts.images, facts.networks) = (images, networks);
    changed
}

/// Everything [`follow`] needs.
pub(crate) struct Context {
    pub(crate) mesh: Mesh,
    pub(crate) options: Options,
    pub(crate) port: Arc<dyn Containers>,
    pub(crate) handle: Handle,
    pub(crate) journal: Arc<Journal>,
    pub(crate) me: NodeId,
    pub(crate) facts: NodeFacts,
    pub(crate) changed: Arc<Notify>,
}

/// Keeps the data path as the rows want it, for as long as the node runs.
pub(crate) async fn follow(mut context: Context) {
    let cluster = context.mesh.cluster().to_string();
    let mut applied: Option<Traffic> = None;
    let mut said = String::new();
    loop {
        let Some(own) = context.facts.overlay else { return };
        let (me, of) = (context.me.clone(), cluster.clone());
        let look = move |core: &Core, _| core.settled().then(|| wanted(core, &me, &own, &of));
        let Some(mut next) = context.handle.look(look).await else { return };
        if let Some(next) = &mut next {
            next.underlay = source(next.underlay, next.peers.values().map(|(_, underlay)| *underlay), is_local, toward);
        }
        // What an earlier process of this node left stays until this one knows as much.
        if let Some(next) = next
            && applied.as_ref() != Some(&next)
        {
            let (port, traffic) = (Arc::clone(&context.port), next.clone());
            let done = tokio::task::spawn_blocking(move || port.route(&traffic)).await;
            let failed = match done {
                Ok(Ok(())) => {
                    if applied.replace(next).is_none() {
                        tend(&context, &mut said).await;
                    }
                    said.clear();
                    None
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(text) = failed.filter(|text| *text != said) {
                context.journal.note("traffic", &context.me, &format!("the data path could not be changed: {text}"));
                said = text;
            }
        }
        tokio::select! {
            () = context.changed.notified() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(LOOK_EVERY) => {
                tend(&context, &mut said).await;
                if refresh(&mut context).await {
                    // Everything there was went with the old subnet.
                    applied = None;
                }
            }
        }
    }
}

/// Sees to it that names are answered on this node.
async fn tend(context: &Context, said: &mut String) {
    let port = Arc::clone(&context.port);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || port.tend()).await {
        let text = format!("this node answers no names: its resolver could not be started: {error}");
        if text != *said {
            context.journal.note("traffic", &context.me, &text);
            *said = text;
        }
    }
}

/// Follows a change of this host's address, and gives way to an older claim of the same subnet.
/// Returns whether this node has another subnet now.
async fn refresh(context: &mut Context) -> bool {
    let Some(own) = context.facts.overlay else { return false };
    let mut moved = false;
    let mut changed = take_stock(&context.port, &mut context.facts).await;
    if let Some(address) = underlay(&context.mesh, &context.options).await
        && address != own.underlay
    {
        context.facts.overlay = Some(OverlayFacts { underlay: address, ..own });
        changed = true;
    }
    let me = context.me.clone();
    let look = move |core: &Core, _| {
        core.nodes()
            .filter(|node| node.id != me && !core.is_reader(&node.id))
            .filter_map(|node| Some((&node.id, node.facts.overlay.as_ref()?)))
            .filter(|(_, other)| is_ours(other.subnet.addr()))
            .any(|(id, other)| other.subnet == own.subnet && (other.since_ms, id) < (own.since_ms, &me))
    };
    if context.handle.look(look).await == Some(true) {
        let port = Arc::clone(&context.port);
        if let Ok(Ok(())) = tokio::task::spawn_blocking(move || port.unroute()).await {
            let Context { mesh, options, port, me, facts, journal, .. } = context;
            claim(mesh, options, port, me, facts, journal).await;
            (changed, moved) = (true, true);
        } else {
            let text = format!("{} is an older node's: drain this node, so that it can take another", own.subnet);
            context.journal.note("traffic", &context.me, &text);
        }
    }
    if changed {
        let _ = cluster::announce(&context.mesh, &context.me, &context.facts, &context.journal).await;
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_distinct_slots_of_one_twelve_without_those_taken() {
        let all = candidates("node", &BTreeSet::new());
        assert!(all.iter().all(|subnet| is_ours(subnet.network()) && subnet.prefix_len() == 24));
        let left = candidates("node", &BTreeSet::from([all[0]]));
        assert!(!left.contains(&all[0]) && left.contains(&all[1]));
    }

    #[test]
    fn the_subnets_of_ipv6_follow_from_those_of_ipv4() {
        let net = |text: &str| -> Ipv4Net { text.parse().unwrap() };
        let (a, b) = (subnet6("mesh", net("10.208.1.0/24")), subnet6("mesh", net("10.223.255.0/24")));
        assert!(a.network().is_unique_local() && a.network().octets()[0] == 0xfd, "{a}");
        assert_eq!(a.network().octets()[..6], b.network().octets()[..6], "one prefix for one mesh");
        assert_eq!((a.network().segments()[3], b.network().segments()[3]), (1, 0xfff));
        assert_ne!(subnet6("other", net("10.208.1.0/24")), a);
    }

    #[test]
    fn the_older_claim_of_a_subnet_stands() {
        let claim = |since_ms| OverlayFacts {
            subnet: "10.208.7.0/24".parse().unwrap(),
            underlay: Ipv4Addr::new(192, 0, 2, 1),
            since_ms,
        };
        assert!(is_sound(&claim(1)));
        for (subnet, underlay) in [
            ("0.0.0.0/0", "192.0.2.1"),
            ("10.208.7.9/24", "192.0.2.1"),
            ("10.208.0.0/16", "192.0.2.1"),
            ("192.168.1.0/24", "192.0.2.1"),
            ("10.208.7.0/24", "127.0.0.1"),
            ("10.208.7.0/24", "224.0.0.1"),
            ("10.208.7.0/24", "10.208.9.1"),
        ] {
            let (subnet, underlay) = (subnet.parse().unwrap(), underlay.parse().unwrap());
            assert!(!is_sound(&OverlayFacts { subnet, underlay, since_ms: 0 }), "{subnet} {underlay}");
        }
        let (public, own) = (Ipv4Addr::new(192, 0, 2, 77), Ipv4Addr::new(10, 0, 0, 5));
        let from = |told| source(told, [public].into_iter(), |address| address == own, |_| Some(own));
        assert_eq!((from(public), from(own)), (own, own), "behind a translation of addresses, and not");
        assert!(is_local(Ipv4Addr::LOCALHOST) && !is_local(Ipv4Addr::new(192, 0, 2, 77)));
        let (a, b) = ("a".to_owned(), "b".to_owned());
        let (early, late) = (claim(1), claim(2));
        assert_eq!(holders([(&a, &late), (&b, &early)].into_iter()).values().next().unwrap().0, "b");
        assert_eq!(holders([(&b, &early), (&a, &early)].into_iter()).values().next().unwrap().0, "a");
        assert_eq!(dotted("/ip4/10.77.1.2/tcp/4700"), Some(Ipv4Addr::new(10, 77, 1, 2)));
        assert_eq!(dotted("/dns4/host/tcp/4700"), None);
    }
}
