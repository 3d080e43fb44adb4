//! The data path between hosts: one vxlan device, a route per peer, and a port that every node answers with the client's address
//! kept. In: the whole wanted state. Out: what differs is changed, each set of backends in one transaction. Decides nothing: who
//! is a peer and which backends work is the caller's.
//!
//! How the client's address is kept: every node rewrites only the destination, to a container of any node. The container's node
//! notes from which peer a connection came (the inner frame's source address, kept as the connection's mark) and sends the
//! answers back to that peer, who undoes the rewriting. Plain vxlan: not encrypted.

use crate::network::{Create, Driver, Protocol};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

pub use crate::host::overlay::Overlay;

/// The device's name.
pub const DEVICE: &str = "sh-vxlan";
/// The nf_tables table's name; the family is inet.
pub const TABLE: &str = "shoal-mesh";
/// What vxlan over IPv4 adds to a packet, in bytes.
pub const OVERHEAD_BYTES: u32 = 50;
/// Marks of connections: the upper byte is ours, the lower 12 bits are the peer's slot.
pub(crate) const MARK: u32 = 0x5a00_0000;
/// Which bits of a mark are ours.
pub(crate) const MARK_MASK: u32 = 0xff00_0fff;
/// The routing tables of the ways back: this number and the slot.
pub(crate) const TABLE_BASE: u32 = 0x5a00_0000;
/// Where our rules stand among the host's: before `main` (32766).
pub(crate) const RULE_PRIORITY: u32 = 5270;

/// This node in the overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The address that peers reach.
    pub underlay: Ipv4Addr,
    /// The addresses of this node's containers.
    pub subnet: Ipv4Net,
    /// Their IPv6 addresses, where they have any.
    pub subnet6: Option<Ipv6Net>,
    /// The bridge of the network that those containers are on.
    pub bridge: String,
    /// The virtual network's number, below 2^24.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// The MTU of the underlay, in bytes.
    pub mtu: u32,
}

/// Another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its containers' addresses.
    pub subnet: Ipv4Net,
    /// Their IPv6 addresses, where this node's have any too.
    pub subnet6: Option<Ipv6Net>,
    /// The address it is reached at.
    pub underlay: Ipv4Addr,
}

/// A container behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// Its address, on any node.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// Its share of new connections against the others'; 0 counts as 1, at most [`WEIGHT_MAX`].
    pub weight: u32,
}

/// The largest weight: each unit is an element of the kernel's map.
pub const WEIGHT_MAX: u32 = 100;

/// Everything that should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// This node.
    pub local: Local,
    /// The other nodes that are alive.
    pub peers: BTreeSet<Peer>,
    /// Published port → backends that take new connections. A port without backends refuses nothing and leads nowhere.
    pub ports: BTreeMap<(u16, Protocol), BTreeSet<Backend>>,
}

impl Local {
    /// Returns the request for the network that this node's containers join.
    pub fn network(&self, name: &str) -> Create {
        let option = |key: &str, value: String| (key.to_owned(), value);
        Create {
            name: name.to_owned(),
            driver: Driver::Bridge,
            subnets: std::iter::once(IpNet::V4(self.subnet)).chain(self.subnet6.map(IpNet::V6)).collect(),
            options: [
                option("com.docker.network.bridge.gateway_mode_ipv4", "routed".to_owned()),
                option("com.docker.network.driver.mtu", self.inner_mtu().to_string()),
            ]
            .into(),
            ..Create::default()
        }
    }

    /// Returns the MTU inside the overlay.
    pub fn inner_mtu(&self) -> u32 {
        self.mtu.saturating_sub(OVERHEAD_BYTES)
    }
}

/// Returns the slot of a node's subnet: distinct for all /24 of one /12.
pub(crate) fn slot(subnet: Ipv4Net) -> u32 {
    (u32::from(subnet.network()) >> 8) & 0xfff
}

/// Returns the hardware address of a node's device: it follows from the subnet, so nobody has to tell it.
pub(crate) fn mac(subnet: Ipv4Net) -> [u8; 6] {
    let [a, b, c, d] = subnet.network().octets();
    [0x02, 0x76, a, b, c, d]
}

/// Returns the address that a node's device has in the overlay: its subnet's own, which no container gets.
pub(crate) fn device_address(subnet: Ipv4Net) -> Ipv4Addr {
    subnet.network()
}

/// Returns what a node's device is called on the link by IPv6: ways lead there, and nobody has to have the address.
pub(crate) fn device_address6(subnet: Ipv4Net) -> Ipv6Addr {
    let [a, b, c, d] = subnet.network().octets();
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x76, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// Returns the list that a random number below its length picks from: each backend as often as its weight says.
pub(crate) fn spread(backends: &BTreeSet<Backend>) -> Vec<Backend> {
    let even = backends.iter().all(|backend| backend.weight == backends.first().map_or(1, |first| first.weight));
    backends
        .iter()
        .flat_map(|backend| {
            let times = if even { 1 } else { backend.weight.clamp(1, WEIGHT_MAX) };
            std::iter::repeat_n(*backend, times as usize)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a network")
    }

    #[test]
    fn slots_and_hardware_addresses_of_one_twelve_are_distinct() {
        let slots: BTreeSet<u32> = (0..4096u32)
            .map(|n| slot(Ipv4Net::new(Ipv4Addr::from(0x0ad0_0000 + (n << 8)), 24).expect("a /24")))
            .collect();
        assert_eq!(slots.len(), 4096);
        assert_ne!(mac(net("10.208.1.0/24")), mac(net("10.208.2.0/24")));
    }

    #[test]
    fn equal_weights_need_one_element_each() {
        let backend = |last, weight| Backend { address: Ipv4Addr::new(10, 208, 0, last), port: 80, weight };
        assert_eq!(spread(&BTreeSet::from([backend(1, 5), backend(2, 5)])).len(), 2);
        assert_eq!(spread(&BTreeSet::from([backend(1, 3), backend(2, 1)])).len(), 4);
        assert_eq!(spread(&BTreeSet::from([backend(1, 0), backend(2, 4_000_000_000)])).len(), 101);
        assert!(spread(&BTreeSet::new()).is_empty());
    }
}
