//! Connection tracking: forgets UDP flows whose published port changed. In: host ports. Out: how many entries went. Never
//! touches TCP (a dead TCP flow ends by itself).

use super::super::netlink::message::{ACK, Attributes, Buffer};
use super::super::netlink::{Family, Socket};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

/// `NFNL_SUBSYS_CTNETLINK`, shifted to its place in a message type.
const SUBSYSTEM: u16 = 1 << 8;
const CT_GET: u16 = SUBSYSTEM | 1;
const CT_DELETE: u16 = SUBSYSTEM | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;

/// Deletes every UDP entry whose original destination port is one of these.
pub(crate) fn forget_udp(ports: &[u16]) -> io::Result<usize> {
    forget(|attributes| Attributes::find(attributes, CTA_TUPLE_ORIG).is_some_and(|tuple| matches(tuple, ports)))
}

/// Deletes the UDP entries of these ports that somebody else answers than who shall: another address, or the one that was
/// asked. What only leaves this host under another source address is no port of ours.
pub(crate) fn forget_udp_beside(ports: &BTreeMap<u16, BTreeSet<Ipv4Addr>>) -> io::Result<usize> {
    forget(|attributes| is_beside(attributes, ports))
}

fn is_beside(attributes: &[u8], ports: &BTreeMap<u16, BTreeSet<Ipv4Addr>>) -> bool {
    let tuple = |kind| Attributes::find(attributes, kind);
    let (Some(asked), Some(answer)) = (tuple(CTA_TUPLE_ORIG), tuple(CTA_TUPLE_REPLY)) else { return false };
    let address = |tuple, kind| {
        let ip = Attributes::find(tuple, CTA_TUPLE_IP)?;
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(Attributes::find(ip, kind)?).ok()?))
    };
    let (Some(port), Some(by)) = (udp_port(asked), address(answer, CTA_IP_V4_SRC)) else { return false };
    let led_on = address(asked, CTA_IP_V4_DST) != Some(by);
    let disguised = address(asked, CTA_IP_V4_SRC) != address(answer, CTA_IP_V4_DST);
    ports.get(&port).is_some_and(|backends| !backends.contains(&by)) && (led_on || !disguised)
}

/// The port a UDP entry's first packet was sent to; `None` for other protocols.
fn udp_port(tuple: &[u8]) -> Option<u16> {
    let protocol = Attributes::find(tuple, CTA_TUPLE_PROTO)?;
    let port = u16::from_be_bytes(Attributes::find(protocol, CTA_PROTO_DST_PORT)?.try_into().ok()?);
    (Attributes::find(protocol, CTA_PROTO_NUM) == Some(&[UDP][..])).then_some(port)
}

fn forget(wanted: impl Fn(&[u8]) -> bool) -> io::Result<usize> {
    let mut socket = Socket::open(Family::Netfilter)?;
    let mut forgotten = 0;
    for entry in socket.dump(CT_GET, &[0, 0, 0, 0])? {
        let (Some(header), Some(attributes)) = (entry.payload.get(..4), entry.payload.get(4..)) else { continue };
        let Some(tuple) = Attributes::find(attributes, CTA_TUPLE_ORIG) else { continue };
        if !wanted(attributes) {
            continue;
        }
        let mut b = Buffer::message(CT_DELETE, ACK, header);
        b.nest(CTA_TUPLE_ORIG, |b| b.inline(tuple));
        match socket.acknowledged(&b, 1) {
            Ok(()) => forgotten += 1,
            // It timed out in between.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(forgotten)
}

fn matches(tuple: &[u8], ports: &[u16]) -> bool {
    udp_port(tuple).is_some_and(|port| ports.contains(&port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_udp_entries_of_the_port_match() {
        let tuple = |protocol: u8, port: u16| {
            let mut b = Buffer::new();
            b.nest(CTA_TUPLE_PROTO, |b| {
                b.u8(CTA_PROTO_NUM, protocol);
                b.be16(CTA_PROTO_DST_PORT, port);
            });
            b.bytes().to_vec()
        };
        assert!(matches(&tuple(17, 53), &[53]));
        assert!(!matches(&tuple(6, 53), &[53]));
        assert!(!matches(&tuple(17, 54), &[53]));
        assert!(!matches(&[1, 2, 3], &[53]));
    }

    #[test]
    fn what_somebody_else_answers_than_who_shall_is_beside() {
        let [client, host, old, new] = [[10, 0, 0, 9], [10, 0, 0, 1], [10, 208, 1, 2], [10, 208, 1, 3]];
        let entry = |asked: [[u8; 4]; 2], answer: [[u8; 4]; 2], port: u16| {
            let mut b = Buffer::new();
            for (kind, [from, to]) in [(CTA_TUPLE_ORIG, asked), (CTA_TUPLE_REPLY, answer)] {
                b.nest(kind, |b| {
                    b.nest(CTA_TUPLE_IP, |b| {
                        b.raw(CTA_IP_V4_SRC, &from);
                        b.raw(CTA_IP_V4_DST, &to);
                    });
                    b.nest(CTA_TUPLE_PROTO, |b| {
                        b.u8(CTA_PROTO_NUM, UDP);
                        b.be16(CTA_PROTO_DST_PORT, port);
                    });
                });
            }
            b.bytes().to_vec()
        };
        let ports = BTreeMap::from([(53, BTreeSet::from([Ipv4Addr::from(new)]))]);
        let beside = |answered_by: [u8; 4], to: [u8; 4], port| {
            is_beside(&entry([client, host], [answered_by, to], port), &ports)
        };
        assert!(beside(old, client, 53) && beside(host, client, 53), "gone, or never led anywhere");
        assert!(!beside(new, client, 53) && !beside(old, client, 54));
        assert!(beside(old, host, 53), "this host's own, from its loopback address");
        assert!(!is_beside(&entry([client, old], [old, host], 53), &ports), "on its way to somewhere else");
    }
}
