//! A network's bridge: made, addressed, given its rules and the kernel's switches; and taken down again.

use super::super::firewall::table::NetworkRules;
use super::super::firewall::{Firewall, ForeignDrop};
use super::super::netlink::{Family, Socket, link, route};
use super::{is, set};
use crate::network::{Driver, Error, Network, Step, plan};
use ipnet::{IpNet, Ipv6Net};
use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::path::Path;

/// What every bridge with IPv6 is called on its own link; docker's choice.
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), 64);
/// The MTU where the host has no default route.
const MTU: u32 = 1500;

/// Makes a network's bridge and its firewall elements present; returns the bridge.
pub(super) fn build(network: &Network, host: &mut Socket, warnings: &mut Vec<String>) -> Result<link::Link, Error> {
    let name = &network.bridge;
    let bridge = match link::find(host, name).step(|| format!("look up bridge {name}"))? {
        Some(bridge) => ours(network, bridge)?,
        None => make_bridge(network, host)?,
    };
    // Repeated even where the bridge was there: another process may have made it a moment ago and not be further yet.
    for subnet in &network.subnets {
        let address = IpNet::new(subnet.gateway, subnet.subnet.prefix_len()).expect("the prefix fits its own family");
        route::address_add(host, bridge.index, address).step(|| format!("give bridge {name} the address {address}"))?;
    }
    if network.ipv6 {
        // Without a link-local address that is valid at once, the bridge asks for no neighbour in its first second.
        route::address_add(host, bridge.index, LINK_LOCAL.into())
            .step(|| format!("give bridge {name} the address {LINK_LOCAL}"))?;
    }
    forwarding(network).step(|| format!("let the kernel forward for bridge {name}"))?;
    let mut firewall = Firewall::open().step(|| "open nf_tables".to_owned())?;
    firewall.network_add(&rules(network)).step(|| format!("add network {} to table inet shoal", network.name))?;
    let asked = network.has_names() || super::super::resolver::only_the_host_can_ask();
    if let Ok(drops) = firewall.foreign_drops(plan::BRIDGE_PREFIX, asked) {
        warnings.extend(drops.iter().map(warning));
    }
    Ok(bridge)
}

/// Makes a network's bridge present where it is not.
pub(crate) fn make_present(network: &Network) -> Result<(), Error> {
    if network.driver != Driver::Bridge || Path::new("/sys/class/net").join(&network.bridge).exists() {
        return Ok(());
    }
    let mut host = Socket::open(Family::Route).step(|| "open a netlink socket".to_owned())?;
    build(network, &mut host, &mut Vec::new()).map(drop)
}

fn warning(drop: &ForeignDrop) -> String {
    let commands = drop.remedy(plan::BRIDGE_PREFIX).join("; ");
    if drop.input {
        return format!(
            "chain {} of table {} {} drops what is sent to this host, where the network's names are asked for, so containers may find no names; to let questions through, run: {commands}",
            drop.chain, drop.family, drop.table
        );
    }
    format!(
        "chain {} of table {} {} drops forwarded packets, so containers may reach nothing; to let them through, run: {commands}",
        drop.chain, drop.family, drop.table
    )
}

fn make_bridge(network: &Network, host: &mut Socket) -> Result<link::Link, Error> {
    let name = &network.bridge;
    let mtu = match network.mtu {
        Some(mtu) => mtu,
        None => default_mtu(host).step(|| "read the MTU of the default route".to_owned())?,
    };
    match link::apply(host, &link::bridge_request(name, plan::bridge_mac(&network.id), mtu)) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        other => other.step(|| format!("make bridge {name}"))?,
    }
    let made = link::find(host, name).step(|| format!("look up bridge {name}"))?;
    ours(network, made.ok_or_else(|| Error::NotFound { name: name.clone() })?)
}

/// Whether a link is the bridge that was made for this network, and not one of the host's that has the name: it keeps the
/// hardware address that it was made with.
fn is_ours(network: &Network, link: &link::Link) -> bool {
    link.address == plan::bridge_mac(&network.id)
}

fn ours(network: &Network, link: link::Link) -> Result<link::Link, Error> {
    if is_ours(network, &link) {
        return Ok(link);
    }
    Err(Error::Invalid {
        reason: format!(
            "{} is an interface of this host, and not made for network {}: networks bring their own bridge, give it another name",
            link.name, network.name
        ),
    })
}

fn default_mtu(host: &mut Socket) -> io::Result<u32> {
    let Some(index) = route::default_interface(host)? else { return Ok(MTU) };
    Ok(link::list(host)?.into_iter().find(|link| link.index == index).map_or(MTU, |link| link.mtu))
}

/// Removes a network's bridge and its firewall elements; absent ones are fine.
pub(crate) fn dismantle(network: &Network) -> Result<(), Error> {
    if network.driver != Driver::Bridge {
        return Ok(());
    }
    let mut host = Socket::open(Family::Route).step(|| "open a netlink socket".to_owned())?;
    let found = link::find(&mut host, &network.bridge).step(|| format!("look up bridge {}", network.bridge))?;
    if found.is_some_and(|link| is_ours(network, &link)) {
        link::remove(&mut host, &network.bridge).step(|| format!("remove bridge {}", network.bridge))?;
    }
    // Also where the bridge is gone: somebody else may have removed it, and its elements would meet a later bridge.
    let step = || format!("remove network {} from table inet shoal", network.name);
    match Firewall::present().step(step)? {
        Some(mut firewall) => firewall.network_remove(&rules(network)).step(step),
        None => Ok(()),
    }
}

fn rules(network: &Network) -> NetworkRules {
    NetworkRules {
        bridge: network.bridge.clone(),
        subnets: network.subnets.iter().map(|subnet| subnet.subnet).collect(),
        internal: network.internal,
        masquerade: network.masquerades(),
        routed: network.routed(),
    }
}

/// Switches the kernel to forwarding, for this network's families; leaves alone what is on already.
fn forwarding(network: &Network) -> io::Result<()> {
    let bridge = &network.bridge;
    set("/proc/sys/net/ipv4/ip_forward", "1")?;
    // Ports published on 127.0.0.1 leave by the bridge with that source until postrouting rewrites it.
    set(&format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1")?;
    if network.ipv6 && !is("/proc/sys/net/ipv6/conf/all/forwarding", "1") {
        keep_router_advertisements()?;
        set("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
    }
    deaf(bridge, network.ipv6)
}

/// Lets an interface believe no router advertisement: any container on the link could make itself the way out for all others
/// and for the host. Without addresses of ours it has no IPv6 at all.
pub(super) fn deaf(interface: &str, ipv6: bool) -> io::Result<()> {
    let folder = Path::new("/proc/sys/net/ipv6/conf").join(interface);
    if !folder.exists() {
        // A kernel without IPv6.
        return Ok(());
    }
    let values: &[(&str, &str)] =
        if ipv6 { &[("accept_ra", "0"), ("autoconf", "0")] } else { &[("disable_ipv6", "1")] };
    values.iter().try_for_each(|(name, value)| set(&folder.join(name).to_string_lossy(), value))
}

/// A forwarding host ignores router advertisements unless told twice: without this it would lose its own default route.
fn keep_router_advertisements() -> io::Result<()> {
    for entry in fs::read_dir("/proc/sys/net/ipv6/conf")? {
        let path = entry?.path().join("accept_ra");
        let path = path.to_string_lossy();
        if is(&path, "1") {
            set(&path, "2")?;
        }
    }
    Ok(())
}

/// Whether br_netfilter shows bridged frames to the packet filter in this namespace, whatever a bridge itself says.
pub(super) fn frames_are_filtered() -> bool {
    is("/proc/sys/net/bridge/bridge-nf-call-iptables", "1")
}
