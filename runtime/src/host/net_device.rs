//! Moving network interfaces of the host into the container's network namespace. runtime-spec config-linux.md
//! "Network Devices"
//!
//! One rtnetlink request moves and renames an interface in one step. The kernel takes its addresses away on the move:
//! those of global scope are read before and given back after, through a socket opened inside, and the interface is
//! brought up.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

use super::procfs::Procfs;
use super::sys::clone::setns;
use crate::error::{During, Error, Result};
use crate::plan::namespaces::{Kind, Namespaces};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE_EXCL: u16 = 0x600;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFF_UP: u32 = 1;
/// `RT_SCOPE_UNIVERSE`: valid everywhere. Link-local addresses are the kernel's to make.
const SCOPE_GLOBAL: u8 = 0;
/// `IFA_F_SECONDARY` (in IPv6 `IFA_F_TEMPORARY`) is decided by the kernel; `IFA_F_NODAD` is not asked for anew.
const FLAG_PERMANENT: u8 = 0x80;
const IFA_F_NODAD: u8 = 0x02;
/// The kernel's IFNAMSIZ, with the final NUL.
const NAME_LEN_MAX: usize = 16;
/// The kernel's messages of a dump fit 32 KiB.
const PACKET_LEN_MAX: usize = 32 * 1024;
/// An interface with more addresses than this is not moved.
const ADDRESSES_MAX: usize = 4096;

/// Moves the interface `name` into the network namespace `target`, there to be called `inside`, up and with its
/// addresses.
pub fn move_to(name: &str, inside: &str, target: &OwnedFd, procfs: &Procfs) -> Result<()> {
    let operation = || format!("move the network interface {name} into the container as {inside}");
    let here = open().during(operation)?;
    let index = index(name)?;
    let addresses = addresses(&here, index).during(|| format!("read the addresses of {name}"))?;
    ask(&here, &request(index, inside, target.as_raw_fd())).during(operation)?;
    let there = open_in(procfs, target)?;
    let index = index_of(&there, inside).during(|| format!("find {inside} in the container"))?;
    for address in &addresses {
        ask(&there, &address.message(index)).during(|| format!("give {inside} its addresses back"))?;
    }
    ask(&there, &up(index)).during(|| format!("bring {inside} up"))
}

fn open() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
}

/// The network namespace a container's process `pid` is in, or will join: it may not have done so yet.
pub fn target(namespaces: &Namespaces, procfs: &Procfs, pid: i32) -> Result<OwnedFd> {
    match namespaces.join.iter().find(|(kind, _)| *kind == Kind::Network) {
        None => procfs.namespace(&pid.to_string(), Kind::Network.proc_name()),
        Some((_, path)) => {
            let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
            nix::fcntl::open(path.as_str(), flags, nix::sys::stat::Mode::empty())
                .during(|| format!("open the network namespace {path}"))
        }
    }
}

/// A socket that acts in the network namespace `theirs`; this process is back in its own afterwards.
fn open_in(procfs: &Procfs, theirs: &OwnedFd) -> Result<OwnedFd> {
    let kind = Kind::Network;
    let own = procfs.namespace("self", kind.proc_name())?;
    setns(theirs.as_fd(), kind.flag()).during(|| "join the container's network namespace")?;
    let socket = open();
    setns(own.as_fd(), kind.flag()).during(|| "leave the container's network namespace")?;
    socket.during(|| "open a netlink socket in the container")
}

/// An address as the kernel told it: the fixed part and the attributes.
#[derive(Debug)]
struct Address {
    body: Vec<u8>,
}

impl Address {
    /// The address of one RTM_NEWADDR body, if it belongs to `index` and is worth keeping.
    fn parse(body: &[u8], index: i32) -> Option<Self> {
        let (fixed, mut rest) = body.split_at_checked(8)?;
        let owner = i32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        if owner != index || fixed[3] != SCOPE_GLOBAL || fixed[2] & FLAG_PERMANENT == 0 {
            return None;
        }
        let mut kept = vec![fixed[0], fixed[1], IFA_F_NODAD, fixed[3], 0, 0, 0, 0];
        while rest.len() >= 4 {
            let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
            let kind = u16::from_ne_bytes([rest[2], rest[3]]);
            if length < 4 || length > rest.len() {
                return None;
            }
            // Lifetimes of a permanent address are without end; the wide flags repeat those above.
            if kind != IFA_CACHEINFO && kind != IFA_FLAGS {
                attribute(&mut kept, kind, &rest[4..length]);
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(Self { body: kept })
    }

    fn message(&self, index: i32) -> Vec<u8> {
        let mut body = self.body.clone();
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        message(RTM_NEWADDR, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE_EXCL, &body)
    }
}

/// Permanent addresses of global scope.
fn addresses(socket: &OwnedFd, index: i32) -> nix::Result<Vec<Address>> {
    let request = message(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, &[0; 8]);
    sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut packet = vec![0; PACKET_LEN_MAX];
    loop {
        let length = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty())?;
        for (kind, body) in messages(&packet[..length]) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(error_of(body).err().unwrap_or(nix::Error::EPROTO)),
                RTM_NEWADDR => found.extend(Address::parse(body, index)),
                _ => {}
            }
        }
        if found.len() > ADDRESSES_MAX {
            return Err(nix::Error::E2BIG);
        }
    }
}

/// The number of the interface `name` in the socket's namespace.
fn index_of(socket: &OwnedFd, name: &str) -> nix::Result<i32> {
    let mut body = vec![0; 16];
    attribute(&mut body, IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
    let request = message(RTM_GETLINK, NLM_F_REQUEST, &body);
    sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut packet = vec![0; PACKET_LEN_MAX];
    let length = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty())?;
    match messages(&packet[..length]).next() {
        Some((RTM_NEWLINK, body)) if body.len() >= 8 => Ok(i32::from_ne_bytes([body[4], body[5], body[6], body[7]])),
        Some((NLMSG_ERROR, body)) => Err(error_of(body).err().unwrap_or(nix::Error::EPROTO)),
        _ => Err(nix::Error::EPROTO),
    }
}

/// Sends a request and waits for its acknowledgement.
fn ask(socket: &OwnedFd, request: &[u8]) -> nix::Result<()> {
    sendto(socket.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut packet = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty())?;
    match messages(&packet[..length]).next() {
        Some((NLMSG_ERROR, body)) => error_of(body),
        _ => Err(nix::Error::EPROTO),
    }
}

fn error_of(body: &[u8]) -> nix::Result<()> {
    match body.get(..4).map(|code| i32::from_ne_bytes([code[0], code[1], code[2], code[3]])) {
        Some(0) => Ok(()),
        Some(code) => Err(nix::Error::from_raw(code.wrapping_neg())),
        None => Err(nix::Error::EPROTO),
    }
}

/// Kind and body of each message of a packet.
fn messages(mut packet: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = packet.get(..16)?;
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let body = packet.get(16..length)?;
        packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Whether a name can be an interface's.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() < NAME_LEN_MAX
        && name != "."
        && name != ".."
        && !name.bytes().any(|byte| byte == b'/' || byte == b':' || byte == 0 || byte.is_ascii_whitespace())
}

fn index(name: &str) -> Result<i32> {
    let path = format!("/sys/class/net/{name}/ifindex");
    let text = std::fs::read_to_string(&path).during(|| format!("find the network interface {name}"))?;
    text.trim().parse().map_err(|_| Error::Bug { what: format!("{path} holds {text:?}") })
}

/// An RTM_NEWLINK message that moves and renames. rtnetlink(7)
fn request(index: i32, inside: &str, target: RawFd) -> Vec<u8> {
    let mut body = vec![0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    attribute(&mut body, IFLA_NET_NS_FD, &target.to_ne_bytes());
    attribute(&mut body, IFLA_IFNAME, &[inside.as_bytes(), &[0]].concat());
    message(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, &body)
}

/// An RTM_NEWLINK message that brings an interface up.
fn up(index: i32) -> Vec<u8> {
    let mut body = vec![0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
    body[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    message(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, &body)
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 16).expect("a message of a few dozen bytes");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).expect("names and numbers are short");
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_refuses_are_refused_here() {
        assert!(is_name("eth0") && is_name("a.b-c"));
        for bad in ["", ".", "..", "a/b", "a b", "a:1", "sixteen-chars-xx"] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn only_lasting_global_addresses_of_the_interface_are_kept() {
        let body = |flags: u8, scope: u8, index: i32| {
            let mut body = vec![2, 24, flags, scope];
            body.extend(index.to_ne_bytes());
            attribute(&mut body, 2, &[10, 0, 0, 1]);
            attribute(&mut body, IFA_CACHEINFO, &[0; 16]);
            body
        };
        let kept = Address::parse(&body(FLAG_PERMANENT, 0, 3), 3).expect("kept");
        assert_eq!(kept.body.len(), 16, "the lifetime is left out");
        assert!(Address::parse(&body(0, 0, 3), 3).is_none(), "it would expire");
        assert!(Address::parse(&body(FLAG_PERMANENT, 253, 3), 3).is_none(), "link-local");
        assert!(Address::parse(&body(FLAG_PERMANENT, 0, 3), 4).is_none(), "another interface's");
        assert!(Address::parse(&[2, 24], 3).is_none());
    }

    #[test]
    fn a_request_has_whole_attributes() {
        let message = request(7, "eth0", 42);
        assert_eq!(message.len() % 4, 0);
        assert_eq!(u32::from_ne_bytes([message[0], message[1], message[2], message[3]]) as usize, message.len());
    }
}
