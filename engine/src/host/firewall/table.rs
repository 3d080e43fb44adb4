//! What the table `inet shoal` holds. In: nothing, or a network, or published ports. Out: the transaction that makes it so.
//! Pure: never talks to the kernel.
//!
//! Ports and networks are elements of sets; the rules below are written once and never change while containers come and go.

use super::encode::{Batch, Element, Hook, IPV4, IPV6, Kind, R1, R2, R32, Rule, Type, Verdict, ct, ifname, meta, part};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr};

/// The table's name; the family is inet.
pub(crate) const TABLE: &str = "shoal";
/// A chain without rules whose name says which generation of rules the table holds: a newer shoal replaces older rules.
pub(crate) const GENERATION: &str = "generation-3";

/// A transport protocol that can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Returns the number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Returns docker's spelling.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One published port: an element of one of the four maps. Both addresses are of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortElement {
    /// The host's address, `None` for all of the family.
    pub(crate) host: Option<IpAddr>,
    /// The host's port.
    pub(crate) host_port: u16,
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// The container's address.
    pub(crate) target: IpAddr,
    /// The container's port.
    pub(crate) target_port: u16,
}

impl PortElement {
    /// Returns the map that this element belongs to.
    pub(crate) fn map(&self) -> &'static str {
        match (self.target.is_ipv4(), self.host.is_some()) {
            (true, false) => "port4",
            (true, true) => "addrport4",
            (false, false) => "port6",
            (false, true) => "addrport6",
        }
    }

    /// Returns the key and the data.
    pub(crate) fn element(&self) -> Element {
        let mut key = self.host.map(octets).unwrap_or_default();
        key.extend(part(&[self.protocol.number()]));
        key.extend(part(&self.host_port.to_be_bytes()));
        let mut value = octets(self.target);
        value.extend(part(&self.target_port.to_be_bytes()));
        Element::value(key, value)
    }
}

/// Returns an address's bytes.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What the firewall must know of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkRules {
    /// The bridge's interface name.
    pub(crate) bridge: String,
    /// Its networks.
    pub(crate) subnets: Vec<IpNet>,
    /// Nothing in, nothing out.
    pub(crate) internal: bool,
    /// Whether traffic that leaves takes the host's address.
    pub(crate) masquerade: bool,
    /// Whether other hosts may open connections to containers without a published port (routed networks).
    pub(crate) routed: bool,
}

fn prerouting(kind: &'static str, priority: i32) -> Hook {
    Hook { kind, number: 0, priority }
}

/// Builds the transaction that makes the whole table; fails as one with `EEXIST` where it is there already.
pub(crate) fn create() -> Batch<'static> {
    let mut batch = Batch::new(TABLE);
    batch.table(true);
    sets(&mut batch);
    chains(&mut batch);
    rules(&mut batch);
    batch
}

/// Builds the transaction that replaces the rules of an older generation and keeps the elements.
pub(crate) fn upgrade() -> Batch<'static> {
    let mut batch = Batch::new(TABLE);
    batch.table(false);
    batch.rules_remove();
    sets(&mut batch);
    chains(&mut batch);
    rules(&mut batch);
    batch
}

fn sets(batch: &mut Batch<'_>) {
    let port = [Type::PROTOCOL, Type::PORT];
    let port_of = |address: Type| Type::concat(&[address, Type::PROTOCOL, Type::PORT]);
    let target = |address: Type| Kind::Map(Type::concat(&[address, Type::PORT]));
    batch
        .set("port4", Type::concat(&port), target(Type::IPV4_ADDR))
        .set("port6", Type::concat(&port), target(Type::IPV6_ADDR))
        .set("addrport4", port_of(Type::IPV4_ADDR), target(Type::IPV4_ADDR))
        .set("addrport6", port_of(Type::IPV6_ADDR), target(Type::IPV6_ADDR))
        .set("bridges", Type::IFNAME, Kind::Set)
        .set("internal", Type::IFNAME, Kind::Set)
        .set("routed", Type::IFNAME, Kind::Set)
        .set("same", Type::concat(&[Type::IFNAME, Type::IFNAME]), Kind::Set)
        .set("nets4", Type::IPV4_ADDR, Kind::Ranges)
        .set("nets6", Type::IPV6_ADDR, Kind::Ranges)
        .set("masq4", Type::IPV4_ADDR, Kind::Ranges)
        .set("masq6", Type::IPV6_ADDR, Kind::Ranges);
}

fn chains(batch: &mut Batch<'_>) {
    batch
        .chain(GENERATION, None)
        .chain("publish", None)
        .chain("raw", Some(prerouting("filter", -300)))
        .chain("prerouting", Some(prerouting("nat", -100)))
        .chain("output", Some(Hook { kind: "nat", number: 3, priority: -100 }))
        .chain("forward", Some(Hook { kind: "filter", number: 2, priority: 0 }))
        .chain("postrouting", Some(Hook { kind: "nat", number: 4, priority: 100 }));
}

/// Offset and length of the source address in an IPv4 header.
const SOURCE4: (u32, u32) = (12, 4);
/// Offset and length of the destination address in an IPv4 header.
const DESTINATION4: (u32, u32) = (16, 4);
/// Offset and length of the source address in an IPv6 header.
const SOURCE6: (u32, u32) = (8, 16);
/// Offset and length of the destination address in an IPv6 header.
const DESTINATION6: (u32, u32) = (24, 16);

impl Rule {
    fn loopback4(self, (offset, length): (u32, u32)) -> Self {
        self.family(IPV4).network_header(offset, length, R1).mask(R1, &[255, 0, 0, 0]).equals(R1, &[127, 0, 0, 0])
    }

    fn header_in(self, (offset, length): (u32, u32), set: &str) -> Self {
        self.network_header(offset, length, R1).in_set(set, R1)
    }
}

fn rules(batch: &mut Batch<'_>) {
    // A packet for 127/8 that arrives by wire is forged: route_localnet on the bridge would let it in.
    let from_bridge = || Rule::new().meta(meta::IIFNAME, R1).in_set("bridges", R1);
    let to_bridge = || Rule::new().meta(meta::OIFNAME, R1).in_set("bridges", R1);
    batch.rule("raw", &from_bridge().loopback4(DESTINATION4).verdict(Verdict::Drop));
    // And one that says it comes from there: a server of the host would take it for the host itself.
    batch.rule("raw", &from_bridge().loopback4(SOURCE4).verdict(Verdict::Drop));

    // A port published on 127.0.0.1 answers only this host: its packets come through `output`, never through here.
    batch
        .rule("prerouting", &Rule::new().loopback4(DESTINATION4).verdict(Verdict::Return))
        // Of IPv6 there is no route_localnet: the monitor itself leads what is for [::1] to the container.
        .rule(
            "output",
            &Rule::new()
                .family(IPV6)
                .network_header(DESTINATION6.0, DESTINATION6.1, R1)
                .equals(R1, &Ipv6Addr::LOCALHOST.octets())
                .verdict(Verdict::Return),
        )
        .rule("prerouting", &Rule::new().destined_here().verdict(Verdict::Jump("publish")))
        .rule("output", &Rule::new().destined_here().verdict(Verdict::Jump("publish")));

    // One address before all addresses; a key that is absent ends the rule and the next is tried.
    let ports = |rule: Rule, at: u32| rule.meta(meta::L4PROTO, at).transport_header(2, 2, at + 1);
    let to4 = |rule: Rule, map: &str| rule.map(map, R1, R1).dnat(IPV4, R1, R32 + 1);
    let to6 = |rule: Rule, map: &str| rule.map(map, R1, R1).dnat(IPV6, R1, R2);
    let v4 = || Rule::new().family(IPV4);
    let v6 = || Rule::new().family(IPV6);
    batch
        .rule("publish", &to4(ports(v4().network_header(16, 4, R32), R32 + 1), "addrport4"))
        .rule("publish", &to4(ports(v4(), R32), "port4"))
        .rule("publish", &to6(ports(v6().network_header(24, 16, R1), R32 + 4), "addrport6"))
        .rule("publish", &to6(ports(v6(), R32), "port6"));

    batch
        .rule("forward", &Rule::new().ct_any(ct::STATE, ct::ESTABLISHED_RELATED).verdict(Verdict::Accept))
        .rule(
            "forward",
            &Rule::new().meta(meta::IIFNAME, R1).meta(meta::OIFNAME, R2).in_set("same", R1).verdict(Verdict::Accept),
        )
        .rule("forward", &Rule::new().meta(meta::IIFNAME, R1).in_set("internal", R1).verdict(Verdict::Drop))
        .rule("forward", &Rule::new().meta(meta::OIFNAME, R1).in_set("internal", R1).verdict(Verdict::Drop))
        .rule("forward", &Rule::new().ct_any(ct::STATUS, ct::DNAT).verdict(Verdict::Accept))
        .rule("forward", &from_bridge().meta(meta::OIFNAME, R1).in_set("bridges", R1).verdict(Verdict::Drop))
        .rule("forward", &Rule::new().meta(meta::OIFNAME, R1).in_set("routed", R1).verdict(Verdict::Accept))
        .rule("forward", &to_bridge().verdict(Verdict::Drop));

    // Hairpin: a container that calls a published port must get its answer through the host, else it sees a stranger's.
    batch
        .rule(
            "postrouting",
            &Rule::new()
                .ct_any(ct::STATUS, ct::DNAT)
                .family(IPV4)
                .header_in(SOURCE4, "nets4")
                .header_in(DESTINATION4, "nets4")
                .masquerade(),
        )
        .rule(
            "postrouting",
            &Rule::new()
                .ct_any(ct::STATUS, ct::DNAT)
                .family(IPV6)
                .header_in(SOURCE6, "nets6")
                .header_in(DESTINATION6, "nets6")
                .masquerade(),
        )
        .rule("postrouting", &to_bridge().loopback4(SOURCE4).masquerade())
        .rule(
            "postrouting",
            &v4().header_in(SOURCE4, "masq4").meta(meta::OIFNAME, R1).not_in_set("bridges", R1).masquerade(),
        )
        .rule(
            "postrouting",
            &v6().header_in(SOURCE6, "masq6").meta(meta::OIFNAME, R1).not_in_set("bridges", R1).masquerade(),
        );
}

/// The elements of one network, by set.
pub(crate) fn network_elements(rules: &NetworkRules) -> Vec<(&'static str, Vec<Element>)> {
    let name = ifname(&rules.bridge);
    let pair = [name.clone(), name.clone()].concat();
    let mut elements = vec![("bridges", vec![Element::key(name.clone())]), ("same", vec![Element::key(pair)])];
    if rules.internal {
        elements.push(("internal", vec![Element::key(name.clone())]));
    }
    if rules.routed {
        elements.push(("routed", vec![Element::key(name)]));
    }
    for subnet in &rules.subnets {
        let (nets, masq) = if subnet.addr().is_ipv4() { ("nets4", "masq4") } else { ("nets6", "masq6") };
        let end = after(subnet.broadcast());
        elements.push((nets, Element::range(octets(subnet.network()), end.clone())));
        if rules.masquerade && !rules.internal {
            elements.push((masq, Element::range(octets(subnet.network()), end)));
        }
    }
    elements
}

/// Returns the key that follows an address: where a range ends, exclusively.
fn after(address: IpAddr) -> Option<Vec<u8>> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_add(1).map(|next| next.to_be_bytes().to_vec()),
        IpAddr::V6(address) => u128::from(address).checked_add(1).map(|next| next.to_be_bytes().to_vec()),
    }
}
