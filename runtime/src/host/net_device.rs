//! Moving network interfaces of the host into the container's network namespace. runtime-spec config-linux.md
//! "Network Devices"
//!
//! One rtnetlink request an interface: RTM_NEWLINK with the target namespace and the new name; the kernel moves and
//! renames it in one step.

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

use crate::error::{During, Error, Result};

const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_PID: u16 = 19;
/// The kernel's IFNAMSIZ, with the final NUL.
const NAME_LEN_MAX: usize = 16;

/// Moves the interface `name` into the network namespace of process `pid`, there to be called `inside`.
pub fn move_to(name: &str, inside: &str, pid: i32) -> Result<()> {
    let operation = || format!("move the network interface {name} into the container as {inside}");
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
        .during(operation)?;
    let index = index(name)?;
    let request = request(index, inside, pid);
    sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty()).during(operation)?;
    let mut answer = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).during(operation)?;
    let kind = answer.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let code = answer.get(16..20).map_or(0, |bytes| i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    match (length >= 20 && kind == Some(NLMSG_ERROR), code) {
        (true, 0) => Ok(()),
        (true, code) => Err(Error::Failed { operation: operation(), errno: -code }),
        (false, _) => Err(Error::Bug { what: "rtnetlink gave no answer".into() }),
    }
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

/// An RTM_NEWLINK message. rtnetlink(7)
fn request(index: i32, inside: &str, pid: i32) -> Vec<u8> {
    let mut body = vec![0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    attribute(&mut body, IFLA_NET_NS_PID, &pid.to_ne_bytes());
    attribute(&mut body, IFLA_IFNAME, &[inside.as_bytes(), &[0]].concat());
    let length = u32::try_from(body.len() + 16).expect("a message of a few dozen bytes");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
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
    fn a_request_has_whole_attributes() {
        let message = request(7, "eth0", 42);
        assert_eq!(message.len() % 4, 0);
        assert_eq!(u32::from_ne_bytes([message[0], message[1], message[2], message[3]]) as usize, message.len());
    }
}
