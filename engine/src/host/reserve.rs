//! Binds one host port without listening. In: address, port, protocol. Out: the socket, or `None` where this host lacks the
//! family or protocol. Never accepts, never reads.

use crate::network::Protocol;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv6V6Only, ReuseAddr};
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
    let place = SockaddrStorage::from(SocketAddr::new(address, port));
    let mut bound = bind_fd(fd.as_raw_fd(), &place);
    if bound == Err(Errno::EADDRINUSE) && protocol == Protocol::Tcp {
        // Connections of a server that has ended hold the port for a minute (TIME_WAIT), against those alone who do not say this.
        // It is said only then: a port held with it would not be held against a program that says it too.
        setsockopt(&fd, ReuseAddr, &true)?;
        bound = bind_fd(fd.as_raw_fd(), &place);
    }
    match bound {
        Ok(()) => Ok(Some(fd)),
        // The wildcard of a family that is switched off.
        Err(Errno::EADDRNOTAVAIL) if address.is_unspecified() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    #[test]
    fn a_port_is_free_once_its_server_has_ended_and_not_before() {
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let server = TcpListener::bind((here, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        let mut client = TcpStream::connect((here, port)).unwrap();
        let (accepted, _) = server.accept().unwrap();
        assert_eq!(bind(here, port, Protocol::Tcp).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(server);
        // The side that closes first is left in TIME_WAIT.
        drop(accepted);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(client);
        let held = bind(here, port, Protocol::Tcp).unwrap();
        assert!(held.is_some());
    }

    #[test]
    fn a_port_that_is_held_is_held_against_everybody() {
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let port = TcpListener::bind((here, 0)).unwrap().local_addr().unwrap().port();
        let held = bind(here, port, Protocol::Tcp).unwrap();
        assert!(held.is_some());
        assert!(TcpListener::bind((here, port)).is_err(), "std sets SO_REUSEADDR");
        assert!(bind(here, port, Protocol::Tcp).is_err());
    }
}
