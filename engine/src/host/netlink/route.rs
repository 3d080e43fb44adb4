//! Addresses, routes and rules. In: networks and interface numbers. Out: `RTM_NEWADDR`, `RTM_NEWROUTE`, `RTM_NEWRULE`, their
//! deletions and dumps. Never makes links.

use super::message::{ACK, Attributes, Buffer, CREATE, EXCL, REPLACE, ne32};
use super::{Socket, link};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// `NUD_PERMANENT`.
const NUD_PERMANENT: u16 = 0x80;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// `IFA_F_NODAD`: usable at once; addresses here are unique by lease.
const IFA_F_NODAD: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;
const RTA_ENCAP_TYPE: u16 = 21;
const RTA_ENCAP: u16 = 22;
/// `LWTUNNEL_ENCAP_IP`.
const LWTUNNEL_ENCAP_IP: u16 = 2;
const LWTUNNEL_IP_ID: u16 = 1;
const LWTUNNEL_IP_DST: u16 = 2;
const LWTUNNEL_IP_SRC: u16 = 3;
const RT_TABLE_MAIN: u8 = 254;
/// `RTPROT_STATIC`.
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
/// `RTNH_F_ONLINK`.
const RTNH_F_ONLINK: u32 = 4;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_FWMASK: u16 = 16;
const FRA_TABLE: u16 = 15;
const FR_ACT_TO_TBL: u8 = 1;

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn raw(b: &mut Buffer, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => b.raw(kind, &address.octets()),
        IpAddr::V6(address) => b.raw(kind, &address.octets()),
    }
}

/// Gives an interface an address; one that is there already is fine.
pub(crate) fn address_add(socket: &mut Socket, index: u32, address: IpNet) -> io::Result<()> {
    let mut header = [family(address.addr()), address.prefix_len(), IFA_F_NODAD, RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut b = Buffer::message(RTM_NEWADDR, ACK | CREATE | REPLACE, &header);
    raw(&mut b, IFA_LOCAL, address.addr());
    raw(&mut b, IFA_ADDRESS, address.addr());
    if let IpNet::V4(net) = address
        && net.prefix_len() < 31
    {
        b.raw(IFA_BROADCAST, &net.broadcast().octets());
    }
    link::apply(socket, &b)
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// A neighbour on the interface's own network.
    Gateway(IpAddr),
    /// The interface itself.
    Link,
    /// A tunnel: the outer destination and source, the virtual network, and the neighbour's inner address.
    Tunnel { id: u64, remote: Ipv4Addr, local: Ipv4Addr, gateway: IpAddr },
}

/// One route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// The destination; prefix length 0 is the default route.
    pub(crate) destination: IpNet,
    /// The next hop.
    pub(crate) via: Via,
    /// The outgoing interface's index.
    pub(crate) interface: u32,
    /// The routing table, `None` for main.
    pub(crate) table: Option<u32>,
}

impl Route {
    /// Returns the default route of a family.
    pub(crate) fn default(gateway: IpAddr, interface: u32) -> Self {
        let destination = match gateway {
            IpAddr::V4(_) => Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0).map(IpNet::V4),
            IpAddr::V6(_) => Ipv6Net::new(Ipv6Addr::UNSPECIFIED, 0).map(IpNet::V6),
        }
        .expect("prefix length 0 fits both families");
        Self { destination, via: Via::Gateway(gateway), interface, table: None }
    }

    fn encode(&self, kind: u16, flags: u16) -> Buffer {
        let table = self.table.map_or(RT_TABLE_MAIN, |number| u8::try_from(number).unwrap_or(0));
        let scope = if matches!(self.via, Via::Link) { RT_SCOPE_LINK } else { RT_SCOPE_UNIVERSE };
        let mut header = [
            family(self.destination.addr()),
            self.destination.prefix_len(),
            0,
            0,
            table,
            RTPROT_STATIC,
            scope,
            RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        if matches!(self.via, Via::Tunnel { .. }) {
            header[8..12].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
        }
        let mut b = Buffer::message(kind, flags, &header);
        if self.destination.prefix_len() > 0 {
            raw(&mut b, RTA_DST, self.destination.network());
        }
        b.u32(RTA_OIF, self.interface);
        if let Some(number) = self.table {
            b.u32(RTA_TABLE, number);
        }
        match self.via {
            Via::Gateway(gateway) => raw(&mut b, RTA_GATEWAY, gateway),
            Via::Link => {}
            Via::Tunnel { id, remote, local, gateway } => {
                raw(&mut b, RTA_GATEWAY, gateway);
                b.raw(RTA_ENCAP_TYPE, &LWTUNNEL_ENCAP_IP.to_ne_bytes());
                b.nest(RTA_ENCAP, |b| {
                    b.raw(LWTUNNEL_IP_ID, &id.to_be_bytes());
                    b.raw(LWTUNNEL_IP_DST, &remote.octets());
                    b.raw(LWTUNNEL_IP_SRC, &local.octets());
                });
            }
        }
        b
    }
}

/// Adds or replaces a route.
pub(crate) fn route_add(socket: &mut Socket, route: &Route) -> io::Result<()> {
    link::apply(socket, &route.encode(RTM_NEWROUTE, ACK | CREATE | REPLACE))
}

/// Removes a route; an absent one is fine.
pub(crate) fn route_remove(socket: &mut Socket, route: &Route) -> io::Result<()> {
    match link::apply(socket, &route.encode(RTM_DELROUTE, ACK)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENODEV | libc::ENOENT)) => Ok(()),
        other => other,
    }
}

/// Removes the route to a destination whatever its next hop; an absent one is fine.
pub(crate) fn route_remove_any(socket: &mut Socket, route: &Route) -> io::Result<()> {
    // Scope NOWHERE (255) and type 0 match every route in a deletion.
    let mut header = [family(route.destination.addr()), route.destination.prefix_len(), 0, 0, 0, 0, 255, 0, 0, 0, 0, 0];
    header[4] = route.table.map_or(RT_TABLE_MAIN, |number| u8::try_from(number).unwrap_or(0));
    let mut b = Buffer::message(RTM_DELROUTE, ACK, &header);
    if route.destination.prefix_len() > 0 {
        raw(&mut b, RTA_DST, route.destination.network());
    }
    b.u32(RTA_OIF, route.interface);
    if let Some(number) = route.table {
        b.u32(RTA_TABLE, number);
    }
    match link::apply(socket, &b) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENODEV | libc::ENOENT)) => Ok(()),
        other => other,
    }
}

/// Lists the routes that leave by an interface: table and destination. Of IPv6 no default route.
pub(crate) fn by_interface(socket: &mut Socket, interface: u32) -> io::Result<Vec<(u32, IpNet)>> {
    let mut found = Vec::new();
    let mut answers = socket.dump(RTM_GETROUTE, &[AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
    // A kernel without IPv6 has none of its routes.
    answers.extend(socket.dump(RTM_GETROUTE, &[AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap_or_default());
    for answer in answers {
        let Some(attributes) = answer.payload.get(12..) else { continue };
        let number = |kind| Attributes::find(attributes, kind).map(|value| ne32(value, 0));
        // Type 1 is unicast: the kernel's own local and broadcast routes stay.
        if number(RTA_OIF) != Some(interface) || answer.payload[7] != RTN_UNICAST {
            continue;
        }
        let table = number(RTA_TABLE).unwrap_or_else(|| u32::from(answer.payload[4]));
        let destination = match Attributes::find(attributes, RTA_DST) {
            Some(value) => network(answer.payload[0], answer.payload[1], value),
            None if answer.payload[0] == AF_INET6 => None,
            None => Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0).ok().map(IpNet::V4),
        };
        found.extend(destination.map(|destination| (table, destination)));
    }
    Ok(found)
}

/// Gives a neighbour a fixed hardware address.
pub(crate) fn neighbour_add(socket: &mut Socket, interface: u32, address: IpAddr, mac: link::Mac) -> io::Result<()> {
    let mut b = Buffer::message(RTM_NEWNEIGH, ACK | CREATE | REPLACE, &neighbour(interface, address));
    raw(&mut b, NDA_DST, address);
    b.raw(NDA_LLADDR, &mac);
    link::apply(socket, &b)
}

/// Forgets a neighbour; an absent one is fine.
pub(crate) fn neighbour_remove(socket: &mut Socket, interface: u32, address: IpAddr) -> io::Result<()> {
    let mut b = Buffer::message(RTM_DELNEIGH, ACK, &neighbour(interface, address));
    raw(&mut b, NDA_DST, address);
    match link::apply(socket, &b) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn neighbour(interface: u32, address: IpAddr) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family(address);
    header[4..8].copy_from_slice(&interface.to_ne_bytes());
    header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    header
}

/// Lists every network that the namespace's routes and addresses use, default routes left out.
pub(crate) fn networks_in_use(socket: &mut Socket) -> io::Result<Vec<IpNet>> {
    let mut found = Vec::new();
    for answer in socket.dump(RTM_GETROUTE, &[0; 12])? {
        let Some(attributes) = answer.payload.get(12..) else { continue };
        let (family, prefix) = (answer.payload[0], answer.payload[1]);
        let Some(value) = Attributes::find(attributes, RTA_DST) else { continue };
        found.extend(network(family, prefix, value));
    }
    for answer in socket.dump(RTM_GETADDR, &[0; 8])? {
        let Some(attributes) = answer.payload.get(8..) else { continue };
        let (family, prefix) = (answer.payload[0], answer.payload[1]);
        let Some(value) = Attributes::find(attributes, IFA_ADDRESS) else { continue };
        found.extend(network(family, prefix, value));
    }
    Ok(found)
}

fn network(family: u8, prefix: u8, value: &[u8]) -> Option<IpNet> {
    if prefix == 0 {
        return None;
    }
    let address = match family {
        AF_INET => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
        AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
        _ => return None,
    };
    IpNet::new(address, prefix).ok().map(|net| net.trunc())
}

/// Returns the index of the interface that holds the IPv4 default route.
pub(crate) fn default_interface(socket: &mut Socket) -> io::Result<Option<u32>> {
    for answer in socket.dump(RTM_GETROUTE, &[AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])? {
        let Some(attributes) = answer.payload.get(12..) else { continue };
        if answer.payload[0] == AF_INET
            && answer.payload[1] == 0
            && answer.payload[4] == RT_TABLE_MAIN
            && let Some(value) = Attributes::find(attributes, RTA_OIF)
        {
            return Ok(Some(ne32(value, 0)));
        }
    }
    Ok(None)
}

/// A rule that sends packets from one interface with one mark to a table of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule<'a> {
    /// The incoming interface.
    pub(crate) interface: &'a str,
    /// The mark.
    pub(crate) mark: u32,
    /// Which bits of the mark count.
    pub(crate) mask: u32,
    /// The routing table.
    pub(crate) table: u32,
    /// Lower is earlier.
    pub(crate) priority: u32,
}

impl Rule<'_> {
    fn encode(&self, kind: u16, flags: u16, family: u8) -> Buffer {
        let mut b = Buffer::message(kind, flags, &[family, 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0]);
        b.text(FRA_IIFNAME, self.interface);
        b.u32(FRA_PRIORITY, self.priority);
        b.u32(FRA_FWMARK, self.mark);
        b.u32(FRA_FWMASK, self.mask);
        b.u32(FRA_TABLE, self.table);
        b
    }
}

/// Adds a rule for IPv4; one that is there already is fine.
pub(crate) fn rule_add(socket: &mut Socket, rule: &Rule<'_>) -> io::Result<()> {
    match link::apply(socket, &rule.encode(RTM_NEWRULE, ACK | CREATE | EXCL, AF_INET)) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Removes a rule; an absent one is fine.
pub(crate) fn rule_remove(socket: &mut Socket, rule: &Rule<'_>) -> io::Result<()> {
    match link::apply(socket, &rule.encode(RTM_DELRULE, ACK, AF_INET)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// Lists the IPv4 rules of one priority: mark and table.
pub(crate) fn rules_at(socket: &mut Socket, priority: u32) -> io::Result<Vec<(u32, u32)>> {
    let mut found = Vec::new();
    for answer in socket.dump(RTM_GETRULE, &[AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])? {
        let Some(attributes) = answer.payload.get(12..) else { continue };
        let number = |kind| Attributes::find(attributes, kind).map(|value| ne32(value, 0));
        if number(FRA_PRIORITY) == Some(priority) {
            found.push((number(FRA_FWMARK).unwrap_or_default(), number(FRA_TABLE).unwrap_or_default()));
        }
    }
    Ok(found)
}
