//! Binds one host port without listening. In: address, port, protocol. Out: the socket, or `None` where this host lacks the
//! family or protocol. Never accepts, never reads.

use crate::network::Protocol;
use nix::errno::Errno;
use nix::sys::socket::sockopt::Ipv6V6Only;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind as bind_fd, setsockopt, socket,
};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

/// Binds one port of one address.
pub(crate) fn bind(address: IpAddr, port: u16, protocol: Protocol) -> io::Result<Option<OwnedFd>> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        // Few kernels have SCTP sockets loaded; the firewall's element alone holds the port then.
        Protocol::Sctp => return Ok(None),
    };
    let fd = match socket(family, kind, SockFlag::SOCK_CLOEXEC, number) {
        Ok(fd) => fd,
        Err(Errno::EAFNOSUPPORT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if address.is_ipv6() {
        setsockopt(&fd, Ipv6V6Only, &true)?;
    }
    match bind_fd(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, port))) {
        Ok(()) => Ok(Some(fd)),
        // The wildcard of a family that is switched off.
        Err(Errno::EADDRNOTAVAIL) if address.is_unspecified() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
