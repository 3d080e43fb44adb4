//! Makes the overlay's wanted state true: device, neighbours, routes, rules, the table `shoal-mesh`. In: [`Wanted`]. Out: changed
//! kernel objects. Repeatable; the first call after a start also removes what an earlier process left that is no longer wanted,
//! without touching what is.

use super::firewall::conntrack;
use super::firewall::encode::{
    Batch, Data, Element, Hook, IPV4, IPV6, Kind, R1, R32, Rule, Type, ct, ifname, meta, part,
};
use super::netlink::link;
use super::netlink::route::{self, Route, Via};
use super::netlink::{Family, Socket};
use crate::network::{Error, Protocol, Step};
use crate::overlay::{
    Backend, DEVICE, Local, MARK, MARK_MASK, Peer, RULE_PRIORITY, TABLE, TABLE_BASE, Wanted, device_address,
    device_address6, mac, slot, spread,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// What this process made true last.
#[derive(Debug, Default)]
pub struct Overlay {
    applied: Option<Wanted>,
    /// Whether this kernel has no zones of connections, as far as was seen.
    unzoned: bool,
}

impl Overlay {
    /// Knows nothing yet: the first [`Overlay::apply`] looks at the kernel.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the wanted state true. After a failure the next call starts from the kernel's state again. A peer that the kernel
    /// refuses is passed over, and told at the end: one bad address must not keep all others from being reached.
    pub fn apply(&mut self, wanted: &Wanted) -> Result<(), Error> {
        let before = self.applied.take();
        let same_node = before.as_ref().is_some_and(|before| before.local == wanted.local);
        let before = before.filter(|_| same_node);
        let mut socket = Socket::open(Family::Route).step(|| "open a netlink socket".to_owned())?;
        let device = device(&mut socket, &wanted.local)?;
        let known: BTreeSet<Peer> = before.as_ref().map(|before| before.peers.clone()).unwrap_or_default();
        let mut refused = None;
        // Ports first when a backend's node leaves, ways first when one comes: one order serves both, since a way that is not
        // used yet does no harm and one that is still used is removed last.
        for peer in wanted.peers.difference(&known) {
            if let Err(error) = add_peer(&mut socket, &wanted.local, device, peer) {
                refused.get_or_insert(error);
            }
        }
        let changed = firewall(before.as_ref(), wanted, !self.unzoned);
        if changed.is_err() && before.is_none() && !self.unzoned {
            firewall(None, wanted, false)?;
            self.unzoned = true;
        } else {
            changed?;
        }
        match &before {
            Some(before) => {
                for peer in before.peers.difference(&wanted.peers) {
                    remove_peer(&mut socket, &wanted.local, device, peer, wanted)?;
                }
            }
            None => remove_strangers(&mut socket, &wanted.local, device, &wanted.peers)?,
        }
        forget_gone(before.as_ref(), wanted)?;
        match refused {
            Some(error) => Err(error),
            None => {
                self.applied = Some(wanted.clone());
                Ok(())
            }
        }
    }

    /// Removes everything: the node leaves.
    pub fn remove(&mut self, local: &Local) -> Result<(), Error> {
        self.applied = None;
        let mut socket = Socket::open(Family::Route).step(|| "open a netlink socket".to_owned())?;
        if let Some(device) = link::find(&mut socket, DEVICE).step(|| format!("look up {DEVICE}"))? {
            remove_strangers(&mut socket, local, device.index, &BTreeSet::new())?;
            link::remove(&mut socket, DEVICE).step(|| format!("remove {DEVICE}"))?;
        }
        let mut batch = Batch::new(TABLE);
        batch.table(false).table_remove();
        commit(batch, "remove table inet shoal-mesh")
    }
}

/// Makes the device present and returns its number. One with another address (the node's subnet changed) is replaced.
fn device(socket: &mut Socket, local: &Local) -> Result<u32, Error> {
    let step = || format!("make device {DEVICE}");
    let found = link::find(socket, DEVICE).step(step)?;
    if let Some(found) = found {
        if found.address == mac(local.subnet) {
            return Ok(found.index);
        }
        link::remove(socket, DEVICE).step(|| format!("replace device {DEVICE}"))?;
    }
    link::apply(socket, &link::vxlan_request(DEVICE, mac(local.subnet), local.port, local.inner_mtu()))
        .step(|| format!("make device {DEVICE} on UDP port {} (is another vxlan on that port?)", local.port))?;
    let made = link::find(socket, DEVICE).step(step)?.ok_or_else(|| Error::NotFound { name: DEVICE.to_owned() })?;
    let address = Ipv4Net::new(device_address(local.subnet), 32).expect("32 is a prefix length of IPv4");
    route::address_add(socket, made.index, IpNet::V4(address))
        .step(|| format!("give {DEVICE} the address {address}"))?;
    settings().step(|| format!("set up {DEVICE}"))?;
    if local.subnet6.is_some() {
        settings6().step(|| format!("set up {DEVICE} for IPv6"))?;
    }
    Ok(made.index)
}

/// Nobody advertises routers there, and addresses are unique by the nodes' subnets.
fn settings6() -> io::Result<()> {
    for (name, value) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0")] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{DEVICE}/{name}"), value)?;
    }
    Ok(())
}

/// Clients' addresses arrive by a device that no route to them uses: the reverse path filter must let them.
fn settings() -> io::Result<()> {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).unwrap_or_default();
    // The stricter of `all` and the device counts, and 2 (any way back will do) is the most that can be undone here.
    let value = if read("all").trim() == "0" { "0" } else { "2" };
    fs::write(format!("/proc/sys/net/ipv4/conf/{DEVICE}/rp_filter"), value)?;
    fs::write(format!("/proc/sys/net/ipv4/conf/{DEVICE}/route_localnet"), "1")?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")
}

/// The ways to a peer's containers, and the way back for connections that came by this peer.
fn ways(local: &Local, device: u32, peer: &Peer) -> Vec<Route> {
    let via = |gateway| Via::Tunnel { id: u64::from(local.vni), remote: peer.underlay, local: local.underlay, gateway };
    let via4 = via(IpAddr::V4(device_address(peer.subnet)));
    let anywhere = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0).expect("0 is a prefix length");
    let back = Some(TABLE_BASE + slot(peer.subnet));
    let mut ways = vec![
        Route { destination: IpNet::V4(peer.subnet), via: via4, interface: device, table: None },
        Route { destination: IpNet::V4(anywhere), via: via4, interface: device, table: back },
    ];
    ways.extend(peer.subnet6.map(|subnet| Route {
        destination: IpNet::V6(subnet),
        via: via(IpAddr::V6(device_address6(peer.subnet))),
        interface: device,
        table: None,
    }));
    ways
}

/// What a peer's device is called on the link, in each family that is used.
fn gateways(peer: &Peer) -> impl Iterator<Item = IpAddr> {
    let six = peer.subnet6.map(|_| IpAddr::V6(device_address6(peer.subnet)));
    std::iter::once(IpAddr::V4(device_address(peer.subnet))).chain(six)
}

fn back_rule<'a>(local: &'a Local, subnet: Ipv4Net) -> route::Rule<'a> {
    let slot = slot(subnet);
    route::Rule {
        interface: &local.bridge,
        mark: MARK | slot,
        mask: MARK_MASK,
        table: TABLE_BASE + slot,
        priority: RULE_PRIORITY,
    }
}

fn add_peer(socket: &mut Socket, local: &Local, device: u32, peer: &Peer) -> Result<(), Error> {
    let step = || format!("add the way to {} by {}", peer.subnet, peer.underlay);
    for gateway in gateways(peer) {
        route::neighbour_add(socket, device, gateway, mac(peer.subnet)).step(step)?;
    }
    for way in ways(local, device, peer) {
        route::route_add(socket, &way).step(step)?;
    }
    route::rule_add(socket, &back_rule(local, peer.subnet)).step(step)
}

fn remove_peer(socket: &mut Socket, local: &Local, device: u32, peer: &Peer, wanted: &Wanted) -> Result<(), Error> {
    // A node that moved to another address has its ways replaced already.
    if wanted.peers.iter().any(|other| other.subnet == peer.subnet) {
        return Ok(());
    }
    let step = || format!("remove the way to {}", peer.subnet);
    route::rule_remove(socket, &back_rule(local, peer.subnet)).step(step)?;
    for way in ways(local, device, peer) {
        route::route_remove(socket, &way).step(step)?;
    }
    gateways(peer).try_for_each(|gateway| route::neighbour_remove(socket, device, gateway).step(step))
}

/// Removes ways of an earlier process to nodes that are no peers any more.
fn remove_strangers(socket: &mut Socket, local: &Local, device: u32, peers: &BTreeSet<Peer>) -> Result<(), Error> {
    let step = || "remove ways that are no longer wanted".to_owned();
    let keep: BTreeSet<Ipv4Net> = peers.iter().map(|peer| peer.subnet).collect();
    let keep6: BTreeSet<Ipv6Net> = peers.iter().filter_map(|peer| peer.subnet6).collect();
    for (table, destination) in route::by_interface(socket, device).step(step)? {
        let subnet = match destination {
            IpNet::V4(subnet) => subnet,
            // The kernel's own of the link stay.
            IpNet::V6(subnet) if keep6.contains(&subnet) || !subnet.network().is_unique_local() => continue,
            IpNet::V6(_) => {
                let way = Route { destination, via: Via::Link, interface: device, table: None };
                route::route_remove_any(socket, &way).step(step)?;
                continue;
            }
        };
        let is_back = table & 0xff00_0000 == TABLE_BASE;
        let wanted = if is_back {
            keep.iter().any(|net| TABLE_BASE + slot(*net) == table)
        } else {
            keep.contains(&subnet) || subnet.prefix_len() == 32
        };
        if !wanted {
            let table = is_back.then_some(table);
            let way = Route { destination, via: Via::Link, interface: device, table };
            route::route_remove_any(socket, &way).step(step)?;
        }
    }
    for (mark, table) in route::rules_at(socket, RULE_PRIORITY).step(step)? {
        if !keep.iter().any(|net| MARK | slot(*net) == mark) {
            let rule = route::Rule { interface: &local.bridge, mark, mask: MARK_MASK, table, priority: RULE_PRIORITY };
            route::rule_remove(socket, &rule).step(step)?;
        }
    }
    Ok(())
}

fn commit(batch: Batch<'_>, what: &str) -> Result<(), Error> {
    let (buffer, last) = batch.finish();
    let committed = Socket::open(Family::Netfilter).and_then(|mut socket| socket.transaction(&buffer, last));
    let committed = committed.and_then(|failed| match failed.first() {
        None => Ok(()),
        Some((_, code)) => Err(io::Error::from_raw_os_error(*code)),
    });
    committed.step(|| what.to_owned())
}

/// The name of a port's chain and map.
fn room(port: u16, protocol: Protocol) -> String {
    format!("{protocol}-{port}")
}

fn key(port: u16, protocol: Protocol) -> Vec<u8> {
    [part(&[protocol.number()]), part(&port.to_be_bytes())].concat()
}

/// Changes the table from one state to the other in one transaction; from nothing known, replaces it whole, with zones or
/// without.
fn firewall(before: Option<&Wanted>, wanted: &Wanted, zones: bool) -> Result<(), Error> {
    let mut batch = Batch::new(TABLE);
    match before {
        None => {
            // Made so that it can be removed, removed with all an earlier process left, made anew: no packet sees a gap.
            batch.table(false).table_remove().table(true);
            frame(&mut batch, &wanted.local, zones);
            peers(&mut batch, &wanted.peers);
            for ((port, protocol), backends) in &wanted.ports {
                open_port(&mut batch, *port, *protocol, backends);
            }
        }
        Some(before) => {
            if before.peers == wanted.peers && before.ports == wanted.ports {
                return Ok(());
            }
            if before.peers != wanted.peers {
                batch.set_flush("peers");
                peers(&mut batch, &wanted.peers);
            }
            for ((port, protocol), backends) in &wanted.ports {
                match before.ports.get(&(*port, *protocol)) {
                    None => open_port(&mut batch, *port, *protocol, backends),
                    Some(old) if old == backends => {}
                    Some(_) => fill_port(&mut batch, *port, *protocol, backends, true),
                }
            }
            for (port, protocol) in before.ports.keys().filter(|key| !wanted.ports.contains_key(key)) {
                close_port(&mut batch, *port, *protocol);
            }
        }
    }
    commit(batch, "change the ports of table inet shoal-mesh")
}

fn frame(batch: &mut Batch<'_>, local: &Local, zones: bool) {
    let hook = |kind, number, priority| Some(Hook { kind, number, priority });
    batch
        .set("ingress", Type::concat(&[Type::PROTOCOL, Type::PORT]), Kind::VerdictMap)
        .set("peers", Type::ETHER_ADDR, Kind::Map(Type::MARK))
        .chain("mark", hook("filter", 0, -150))
        .chain("prerouting", hook("nat", 0, -101))
        .chain("output", hook("nat", 3, -101))
        .chain("postrouting", hook("nat", 4, 99));
    let (device, bridge) = (ifname(DEVICE), ifname(&local.bridge));
    let from = |name: &[u8]| Rule::new().meta(meta::IIFNAME, R1).equals(R1, name);
    const NEW: u32 = 8;
    if zones {
        // A client may use one port of its own towards two nodes. Both may choose one container, and there the two would be
        // one connection: the later would be answered with the earlier's numbers, or not at all. Each peer's are apart here
        // (the zone is the low half of the peer's mark); the kernel gives the later another source port towards the container.
        batch
            .chain("zone", hook("filter", 0, -300))
            .rule("zone", &from(&device).link_header(6, 6, R1).map("peers", R1, R1).ct_zone_of_origin(R1));
    }
    batch
        .rule(
            "mark",
            &from(&device).ct_any(ct::STATE, NEW).link_header(6, 6, R1).map("peers", R1, R1).ct_set(ct::MARK, R1),
        )
        .rule(
            "mark",
            &from(&bridge)
                .ct(ct::MARK, R1)
                .mask(R1, &0xff00_0000_u32.to_ne_bytes())
                .equals(R1, &MARK.to_ne_bytes())
                .ct(ct::MARK, R1)
                .meta_set(meta::MARK, R1),
        );
    for chain in ["prerouting", "output"] {
        let rule = Rule::new().family(IPV4).destined_here();
        batch.rule(chain, &rule.meta(meta::L4PROTO, R32).transport_header(2, 2, R32 + 1).map("ingress", R1, 0));
    }
    // What this host itself sends to 127.0.0.1 leaves by the device with that source.
    let loopback =
        |rule: Rule| rule.family(IPV4).network_header(12, 4, R1).mask(R1, &[255, 0, 0, 0]).equals(R1, &[127, 0, 0, 0]);
    batch.rule("postrouting", &loopback(Rule::new().meta(meta::OIFNAME, R1).equals(R1, &device)).masquerade());
    // Containers reach the world under this host's address, each other under their own.
    let prefix = u32::MAX.checked_shl(32 - u32::from(local.subnet.prefix_len())).unwrap_or(0);
    batch.rule(
        "postrouting",
        &Rule::new()
            .family(IPV4)
            .network_header(12, 4, R1)
            .mask(R1, &prefix.to_be_bytes())
            .equals(R1, &local.subnet.network().octets())
            .meta(meta::OIFNAME, R1)
            .differs(R1, &device)
            .meta(meta::OIFNAME, R1)
            .differs(R1, &bridge)
            .masquerade(),
    );
    if let Some(subnet) = local.subnet6 {
        batch.rule(
            "postrouting",
            &Rule::new()
                .family(IPV6)
                .network_header(8, 16, R1)
                .mask(R1, &subnet.netmask().octets())
                .equals(R1, &subnet.network().octets())
                .meta(meta::OIFNAME, R1)
                .differs(R1, &device)
                .meta(meta::OIFNAME, R1)
                .differs(R1, &bridge)
                .masquerade(),
        );
    }
}

fn peers(batch: &mut Batch<'_>, peers: &BTreeSet<Peer>) {
    let elements: Vec<Element> = peers
        .iter()
        .map(|peer| Element::value(mac(peer.subnet).to_vec(), (MARK | slot(peer.subnet)).to_ne_bytes().to_vec()))
        .collect();
    for some in elements.chunks(ELEMENTS_MAX) {
        batch.add("peers", some, false);
    }
}

/// Elements in one message: a nested attribute is at most 64 KiB long.
const ELEMENTS_MAX: usize = 500;

fn open_port(batch: &mut Batch<'_>, port: u16, protocol: Protocol, backends: &BTreeSet<Backend>) {
    let name = room(port, protocol);
    batch.set(&name, Type::INTEGER, Kind::Map(Type::concat(&[Type::IPV4_ADDR, Type::PORT]))).chain(&name, None);
    fill_port(batch, port, protocol, backends, false);
    let jump = Element { key: key(port, protocol), data: Data::Jump(name), range_end: false };
    batch.add("ingress", &[jump], false);
}

fn fill_port(batch: &mut Batch<'_>, port: u16, protocol: Protocol, backends: &BTreeSet<Backend>, clear: bool) {
    let name = room(port, protocol);
    if clear {
        batch.chain_flush(&name).set_flush(&name);
    }
    let list = spread(backends);
    let Ok(count) = u32::try_from(list.len()) else { return };
    if count == 0 {
        return;
    }
    let elements: Vec<Element> = (0u32..)
        .zip(&list)
        .map(|(number, backend)| {
            let value = [part(&backend.address.octets()), part(&backend.port.to_be_bytes())].concat();
            Element::value(number.to_ne_bytes().to_vec(), value)
        })
        .collect();
    for some in elements.chunks(ELEMENTS_MAX) {
        batch.add(&name, some, false);
    }
    batch.rule(&name, &Rule::new().random(count, R1).map(&name, R1, R1).dnat(IPV4, R1, R32 + 1));
}

fn close_port(batch: &mut Batch<'_>, port: u16, protocol: Protocol) {
    let name = room(port, protocol);
    let element = Element { key: key(port, protocol), data: Data::None, range_end: false };
    batch.remove("ingress", &[element]).chain_flush(&name).chain_remove(&name).set_remove(&name);
}

/// UDP flows stick to where they went first for as long as they last: those of a changed port that lead elsewhere than to a
/// backend of today must be forgotten, also those that found none and went to this host itself. TCP drains by itself.
fn forget_gone(before: Option<&Wanted>, wanted: &Wanted) -> Result<(), Error> {
    let of = |wanted: &Wanted, port: u16| -> BTreeSet<Ipv4Addr> {
        let backends = wanted.ports.get(&(port, Protocol::Udp)).into_iter().flatten();
        backends.map(|backend| backend.address).collect()
    };
    let ports = wanted.ports.keys().chain(before.into_iter().flat_map(|before| before.ports.keys()));
    let changed: BTreeMap<u16, BTreeSet<Ipv4Addr>> = ports
        .filter(|(_, protocol)| *protocol == Protocol::Udp)
        .map(|(port, _)| (*port, of(wanted, *port)))
        .filter(|(port, backends)| before.is_none_or(|before| of(before, *port) != *backends))
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    conntrack::forget_udp_beside(&changed).map(|_| ()).step(|| "delete conntrack entries of gone backends".to_owned())
}
