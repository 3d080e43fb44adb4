//! Connection tracking: forgets UDP flows whose published port changed. In: host ports. Out: how many entries went. Never
//! touches TCP (a dead TCP flow ends by itself).

use super::super::netlink::message::{ACK, Attributes, Buffer};
use super::super::netlink::{Family, Socket};
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
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;

/// Deletes every UDP entry whose original destination port is one of these.
pub(crate) fn forget_udp(ports: &[u16]) -> io::Result<usize> {
    forget(|attributes| Attributes::find(attributes, CTA_TUPLE_ORIG).is_some_and(|tuple| matches(tuple, ports)))
}

/// Deletes every UDP entry that one of these addresses answers.
pub(crate) fn forget_udp_to(targets: &[Ipv4Addr]) -> io::Result<usize> {
    forget(|attributes| {
        Attributes::find(attributes, CTA_TUPLE_REPLY).is_some_and(|tuple| {
            let source = Attributes::find(tuple, CTA_TUPLE_IP).and_then(|ip| Attributes::find(ip, CTA_IP_V4_SRC));
            let protocol = Attributes::find(tuple, CTA_TUPLE_PROTO).and_then(|p| Attributes::find(p, CTA_PROTO_NUM));
            protocol == Some(&[UDP][..]) && targets.iter().any(|target| source == Some(&target.octets()[..]))
        })
    })
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
    let Some(protocol) = Attributes::find(tuple, CTA_TUPLE_PROTO) else { return false };
    let port =
        Attributes::find(protocol, CTA_PROTO_DST_PORT).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes);
    Attributes::find(protocol, CTA_PROTO_NUM) == Some(&[UDP][..]) && port.is_some_and(|port| ports.contains(&port))
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
}
