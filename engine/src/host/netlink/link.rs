//! Links: bridges, veth pairs, macvlan, vxlan. In: names, addresses, a namespace. Out: `RTM_NEWLINK`, `RTM_DELLINK` and what
//! `RTM_GETLINK` says. Never touches addresses or routes.

use super::Socket;
use super::message::{ACK, Attributes, Buffer, CREATE, DUMP, EXCL, ne32, text};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BR_NF_CALL_IPTABLES: u16 = 36;
const IFLA_BR_NF_CALL_IP6TABLES: u16 = 37;
const IFLA_BR_NF_CALL_ARPTABLES: u16 = 38;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
/// `MACVLAN_MODE_BRIDGE`.
const MACVLAN_MODE_BRIDGE: u32 = 4;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;
/// `IFF_UP`.
const IFF_UP: u32 = 1;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// What a port of a bridge may do beyond the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PortMode {
    /// Frames may leave by the port they came from: needed for a container that calls its own published port while
    /// `bridge-nf-call-iptables` is on.
    pub(crate) hairpin: bool,
    /// Isolated ports do not talk to each other.
    pub(crate) isolated: bool,
}

/// One link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// The interface's number.
    pub(crate) index: u32,
    /// The interface's name.
    pub(crate) name: String,
    /// The index of its bridge, 0 without one.
    pub(crate) master: u32,
    /// The hardware address, empty where it has none.
    pub(crate) address: Vec<u8>,
    /// The MTU in bytes.
    pub(crate) mtu: u32,
    /// Whether it is administratively up.
    pub(crate) up: bool,
}

/// One end of a new veth pair.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VethEnd<'a> {
    /// The interface's name.
    pub(crate) name: &'a str,
    /// Its hardware address, or the kernel's choice.
    pub(crate) mac: Option<Mac>,
}

fn info(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Encodes a bridge whose frames br_netfilter leaves alone, up, with a fixed hardware address (else it changes with its ports).
pub(crate) fn bridge_request(name: &str, mac: Mac, mtu: u32) -> Buffer {
    let mut b = Buffer::message(RTM_NEWLINK, ACK | CREATE | EXCL, &info(0, IFF_UP, IFF_UP));
    b.text(IFLA_IFNAME, name);
    b.raw(IFLA_ADDRESS, &mac);
    b.u32(IFLA_MTU, mtu);
    b.nest(IFLA_LINKINFO, |b| {
        b.text(IFLA_INFO_KIND, "bridge");
        b.nest(IFLA_INFO_DATA, |b| {
            b.u32(IFLA_BR_FORWARD_DELAY, 0);
            b.u8(IFLA_BR_MCAST_SNOOPING, 0);
            b.u8(IFLA_BR_NF_CALL_IPTABLES, 0);
            b.u8(IFLA_BR_NF_CALL_IP6TABLES, 0);
            b.u8(IFLA_BR_NF_CALL_ARPTABLES, 0);
        });
    });
    b
}

/// Encodes a veth pair: the host's end up and on the bridge, the peer born inside the target namespace.
pub(crate) fn veth_request(
    host: VethEnd<'_>,
    peer: VethEnd<'_>,
    namespace: BorrowedFd<'_>,
    bridge: u32,
    mtu: u32,
) -> Buffer {
    let mut b = Buffer::message(RTM_NEWLINK, ACK | CREATE | EXCL, &info(0, IFF_UP, IFF_UP));
    b.text(IFLA_IFNAME, host.name);
    b.u32(IFLA_MTU, mtu);
    b.u32(IFLA_MASTER, bridge);
    if let Some(mac) = host.mac {
        b.raw(IFLA_ADDRESS, &mac);
    }
    b.nest(IFLA_LINKINFO, |b| {
        b.text(IFLA_INFO_KIND, "veth");
        b.nest(IFLA_INFO_DATA, |b| {
            b.nest(VETH_INFO_PEER, |b| {
                b.inline(&info(0, 0, 0));
                b.text(IFLA_IFNAME, peer.name);
                b.u32(IFLA_MTU, mtu);
                if let Some(mac) = peer.mac {
                    b.raw(IFLA_ADDRESS, &mac);
                }
                b.u32(IFLA_NET_NS_FD, namespace.as_raw_fd().cast_unsigned());
            });
        });
    });
    b
}

/// Encodes a macvlan link in bridge mode, born inside the target namespace.
pub(crate) fn macvlan_request(
    name: &str,
    parent: u32,
    mac: Option<Mac>,
    namespace: BorrowedFd<'_>,
    mtu: Option<u32>,
) -> Buffer {
    let mut b = Buffer::message(RTM_NEWLINK, ACK | CREATE | EXCL, &info(0, 0, 0));
    b.text(IFLA_IFNAME, name);
    b.u32(IFLA_LINK, parent);
    if let Some(mtu) = mtu {
        b.u32(IFLA_MTU, mtu);
    }
    if let Some(mac) = mac {
        b.raw(IFLA_ADDRESS, &mac);
    }
    b.u32(IFLA_NET_NS_FD, namespace.as_raw_fd().cast_unsigned());
    b.nest(IFLA_LINKINFO, |b| {
        b.text(IFLA_INFO_KIND, "macvlan");
        b.nest(IFLA_INFO_DATA, |b| b.u32(IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE));
    });
    b
}

/// Encodes a vxlan device that takes its tunnel from each route (`external`): one device for every peer.
pub(crate) fn vxlan_request(name: &str, mac: Mac, port: u16, mtu: u32) -> Buffer {
    let mut b = Buffer::message(RTM_NEWLINK, ACK | CREATE | EXCL, &info(0, IFF_UP, IFF_UP));
    b.text(IFLA_IFNAME, name);
    b.raw(IFLA_ADDRESS, &mac);
    b.u32(IFLA_MTU, mtu);
    b.nest(IFLA_LINKINFO, |b| {
        b.text(IFLA_INFO_KIND, "vxlan");
        b.nest(IFLA_INFO_DATA, |b| {
            b.u8(IFLA_VXLAN_COLLECT_METADATA, 1);
            b.u8(IFLA_VXLAN_LEARNING, 0);
            b.be16(IFLA_VXLAN_PORT, port);
        });
    });
    b
}

/// Sends one request that asked for an acknowledgement.
pub(crate) fn apply(socket: &mut Socket, request: &Buffer) -> io::Result<()> {
    socket.acknowledged(request, request.count())
}

/// Finds a link by name.
pub(crate) fn find(socket: &mut Socket, name: &str) -> io::Result<Option<Link>> {
    let mut b = Buffer::message(RTM_GETLINK, 0, &info(0, 0, 0));
    b.text(IFLA_IFNAME, name);
    match socket.query(&b) {
        Ok(answers) => Ok(answers.iter().find_map(|answer| parse(&answer.payload))),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists the links of the socket's namespace.
pub(crate) fn list(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let answers = socket.query(&Buffer::message(RTM_GETLINK, DUMP, &info(0, 0, 0)))?;
    Ok(answers.iter().filter_map(|answer| parse(&answer.payload)).collect())
}

fn parse(payload: &[u8]) -> Option<Link> {
    let attributes = payload.get(16..)?;
    Some(Link {
        index: ne32(payload, 4),
        name: text(Attributes::find(attributes, IFLA_IFNAME)?),
        master: Attributes::find(attributes, IFLA_MASTER).map_or(0, |value| ne32(value, 0)),
        address: Attributes::find(attributes, IFLA_ADDRESS).map(<[u8]>::to_vec).unwrap_or_default(),
        mtu: Attributes::find(attributes, IFLA_MTU).map_or(0, |value| ne32(value, 0)),
        up: ne32(payload, 8) & IFF_UP != 0,
    })
}

/// Sets a link up.
pub(crate) fn up(socket: &mut Socket, index: u32) -> io::Result<()> {
    apply(socket, &Buffer::message(RTM_NEWLINK, ACK, &info(index, IFF_UP, IFF_UP)))
}

/// Sets the mode of a bridge's port.
pub(crate) fn port_mode(socket: &mut Socket, index: u32, mode: PortMode) -> io::Result<()> {
    let mut b = Buffer::message(RTM_NEWLINK, ACK, &info(index, 0, 0));
    b.nest(IFLA_LINKINFO, |b| {
        b.text(IFLA_INFO_SLAVE_KIND, "bridge");
        b.nest(IFLA_INFO_SLAVE_DATA, |b| {
            b.u8(IFLA_BRPORT_MODE, u8::from(mode.hairpin));
            b.u8(IFLA_BRPORT_ISOLATED, u8::from(mode.isolated));
        });
    });
    apply(socket, &b)
}

/// Removes a link by name; an absent one is fine.
pub(crate) fn remove(socket: &mut Socket, name: &str) -> io::Result<()> {
    let mut b = Buffer::message(RTM_DELLINK, ACK, &info(0, 0, 0));
    b.text(IFLA_IFNAME, name);
    match apply(socket, &b) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}
