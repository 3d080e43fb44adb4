//! Decisions about networks: names of interfaces, free subnets, hardware addresses. In: what exists. Out: choices. Pure: no
//! files, no kernel, no clock.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The prefix of every bridge of ours: what a foreign firewall may be told to let through.
pub const BRIDGE_PREFIX: &str = "sh-";
/// The first two bytes of a container's hardware address; the four others are its IPv4 address, so that a neighbour's
/// cache stays right when an address changes hands.
const MAC_PREFIX: [u8; 2] = [0x02, 0x73];

/// FNV-1a over 64 bits: spreads names over numbers; nothing here depends on it being hard to guess.
pub(crate) fn spread(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.join("\0").bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // One more round of mixing: FNV's upper bits move little for short inputs.
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

/// Returns the name of a network's bridge: the prefix and 12 digits of its id, 15 characters, the kernel's most.
pub fn bridge_name(network_id: &str) -> String {
    format!("{BRIDGE_PREFIX}{}", network_id.get(..12).unwrap_or(network_id))
}

/// Returns the name of the host's end of a container's link. It follows from the two ids, so that a link can be removed
/// when its record was never written.
pub fn host_interface(container_id: &str, network_id: &str) -> String {
    let hash = spread(&[container_id, network_id]);
    format!("ve{:012x}", hash & 0xffff_ffff_ffff)
}

/// Returns a container's hardware address for its IPv4 address, or for its ids where it has none.
pub fn container_mac(ip: Option<Ipv4Addr>, container_id: &str, network_id: &str) -> [u8; 6] {
    let tail = ip.map_or_else(
        || u32::try_from(spread(&[container_id, network_id]) & 0xffff_ffff).unwrap_or_default().to_be_bytes(),
        |ip| ip.octets(),
    );
    [MAC_PREFIX[0], MAC_PREFIX[1], tail[0], tail[1], tail[2], tail[3]]
}

/// Returns a bridge's fixed hardware address: without one it takes its ports' and changes with them.
pub fn bridge_mac(network_id: &str) -> [u8; 6] {
    let bytes = spread(&["bridge", network_id]).to_be_bytes();
    [0x06, bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]]
}

/// Returns whether two networks share an address.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    match (a, b) {
        (IpNet::V4(a), IpNet::V4(b)) => a.contains(b) || b.contains(a),
        (IpNet::V6(a), IpNet::V6(b)) => a.contains(b) || b.contains(a),
        _ => false,
    }
}

/// Chooses a free IPv4 subnet: a /16 for the default network, a /24 for others. `salt` moves the start so that two
/// engines on one host meet rarely; 0 gives the documented first choices (10.92.0.0/16, 10.93.0.0/24).
pub fn free_subnet4(taken: &[IpNet], default: bool, salt: u64) -> Option<Ipv4Net> {
    let free = |net: &Ipv4Net| !taken.iter().any(|other| overlap(&IpNet::V4(*net), other));
    let offset = |count: u64| u32::try_from(salt % count).unwrap_or_default();
    if default {
        // 10.92.0.0/16 and the seven /16 from 10.200.0.0 on.
        let choices = [92u8, 200, 201, 202, 203, 204, 205, 206];
        return (0..8u32)
            .map(|step| choices[((offset(8) + step) % 8) as usize])
            .filter_map(|second| Ipv4Net::new(Ipv4Addr::new(10, second, 0, 0), 16).ok())
            .find(free);
    }
    // 10.93.0.0/24 to 10.95.255.0/24: 768 networks.
    (0..768u32)
        .map(|step| (offset(768) + step) % 768)
        .filter_map(|number| {
            let base = u32::from(Ipv4Addr::new(10, 93, 0, 0)) + (number << 8);
            Ipv4Net::new(Ipv4Addr::from(base), 24).ok()
        })
        .find(free)
}

/// Returns a /64 of unique local addresses that follows from the network's id.
pub fn subnet6(network_id: &str) -> Ipv6Net {
    let bits = u128::from(spread(&["ula", network_id])) & 0x00ff_ffff_ffff_ffff;
    let address = (0xfd_u128 << 120) | (bits << 64);
    Ipv6Net::new(Ipv6Addr::from(address), 64).expect("64 is a prefix length of IPv6").trunc()
}

/// Returns the gateway of a subnet that names none: its first address.
pub fn first_address(subnet: &IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(net) => IpAddr::V4(Ipv4Addr::from(u32::from(net.network()).saturating_add(1))),
        IpNet::V6(net) => IpAddr::V6(Ipv6Addr::from(u128::from(net.network()).saturating_add(1))),
    }
}

/// The addresses of a range that containers may get, in turns: starts after `last` and wraps. Never the network's own
/// address, its broadcast or one of `reserved`. Ends after one round, or after [`CANDIDATES_MAX`].
pub fn candidates(
    subnet: IpNet,
    range: Option<IpNet>,
    reserved: Vec<IpAddr>,
    last: Option<IpAddr>,
) -> impl Iterator<Item = IpAddr> {
    let range = range.unwrap_or(subnet);
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let (low, high) = (number(range.network()), number(range.broadcast()));
    let size = (high - low).saturating_add(1);
    let start = last.map_or(low, |last| {
        let next = number(last).saturating_add(1);
        if next > high || next < low { low } else { next }
    });
    let v4 = subnet.addr().is_ipv4();
    let wide = match subnet {
        IpNet::V4(net) => net.prefix_len() < 31,
        IpNet::V6(net) => net.prefix_len() < 127,
    };
    (0..size.min(CANDIDATES_MAX)).filter_map(move |step| {
        let value = low + (start - low + step) % size;
        let address =
            if v4 { IpAddr::V4(Ipv4Addr::from(u32::try_from(value).ok()?)) } else { IpAddr::V6(Ipv6Addr::from(value)) };
        let edge = wide && (address == subnet.network() || (v4 && address == subnet.broadcast()));
        (!edge && !reserved.contains(&address)).then_some(address)
    })
}

/// One round over a /16: the largest default network. A larger one has free addresses well before that.
pub const CANDIDATES_MAX: u128 = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    #[test]
    fn interface_names_fit_the_kernel() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(bridge_name(&id), "sh-0123456789ab");
        assert!(host_interface(&id, &id).len() <= 15);
        assert_ne!(host_interface("a", "b"), host_interface("ab", ""));
    }

    #[test]
    fn a_subnet_that_a_route_covers_is_not_chosen() {
        assert_eq!(free_subnet4(&[], true, 0).map(|n| n.to_string()).as_deref(), Some("10.92.0.0/16"));
        assert_eq!(
            free_subnet4(&[net("10.92.3.0/24")], true, 0).map(|n| n.to_string()).as_deref(),
            Some("10.200.0.0/16")
        );
        assert_eq!(
            free_subnet4(&[net("10.93.0.0/24")], false, 0).map(|n| n.to_string()).as_deref(),
            Some("10.93.1.0/24")
        );
        assert_eq!(free_subnet4(&[net("10.0.0.0/8")], false, 0), None);
    }

    #[test]
    fn candidates_wrap_and_leave_out_edges_and_the_gateway() {
        let all = |last: Option<&str>| -> Vec<String> {
            let last = last.map(|text| text.parse().expect("an address"));
            candidates(net("10.1.0.0/29"), None, vec!["10.1.0.1".parse().expect("an address")], last)
                .map(|a| a.to_string())
                .collect()
        };
        assert_eq!(all(None), ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]);
        assert_eq!(all(Some("10.1.0.4")), ["10.1.0.5", "10.1.0.6", "10.1.0.2", "10.1.0.3", "10.1.0.4"]);
    }

    #[test]
    fn a_range_narrows_the_choice_and_v6_works() {
        let some: Vec<_> = candidates(net("10.1.0.0/16"), Some(net("10.1.2.0/30")), vec![], None).collect();
        assert_eq!(some.len(), 4);
        let six: Vec<_> =
            candidates(net("fd00::/64"), None, vec!["fd00::1".parse().expect("an address")], None).take(2).collect();
        assert_eq!(six, ["fd00::2".parse::<IpAddr>().expect("an address"), "fd00::3".parse().expect("an address")]);
        assert!(subnet6("x").to_string().starts_with("fd"));
    }
}
