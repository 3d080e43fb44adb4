//! A container's published ports: elements in `inet shoal`, and host ports held against other programs. All of a call or none.

use super::super::firewall::table::PortElement;
use super::super::firewall::{Firewall, PublishFailure};
use crate::network::{Attachment, Error, Networks, PortMapping, PublishedPort, Step, plan};
use crate::trace::timed;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// How many ports are published in one transaction: it must fit the netlink socket's send buffer, 130 bytes a port.
const PORTS_A_TRANSACTION: usize = 512;

impl Networks {
    /// Publishes more ports of an attached container; returns them with the host ports that were chosen. All or none.
    pub fn publish(&self, attachment: &Attachment, wanted: &[PortMapping]) -> Result<Vec<PublishedPort>, Error> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut firewall = Firewall::open().step(|| "open nf_tables".to_owned())?;
        let mut published = Vec::with_capacity(wanted.len());
        let result = self.publish_each(&mut firewall, attachment, wanted, &mut published);
        if result.is_err() {
            let elements: Vec<_> = published.iter().flat_map(|port| elements(attachment, port)).collect();
            // The elements of a failed call are also swept with the container.
            let _ = firewall.unpublish(&elements);
        }
        result.map(|()| published)
    }

    fn publish_each(
        &self,
        firewall: &mut Firewall,
        attachment: &Attachment,
        wanted: &[PortMapping],
        published: &mut Vec<PublishedPort>,
    ) -> Result<(), Error> {
        // Fixed ports go in one transaction; each that may be chosen is tried alone.
        let fixed: Vec<PublishedPort> = wanted.iter().filter_map(fixed).collect();
        for part in fixed.chunks(PORTS_A_TRANSACTION) {
            timed("publish", || self.publish_fixed(firewall, attachment, part))?;
            published.extend_from_slice(part);
        }
        for mapping in wanted.iter().filter(|mapping| self::fixed(mapping).is_none()) {
            published.push(self.publish_any(firewall, attachment, mapping)?);
        }
        if published.iter().any(|port| port.protocol == crate::network::Protocol::Udp) {
            forget_udp(published)?;
        }
        Ok(())
    }

    pub(super) fn publish_fixed(
        &self,
        firewall: &mut Firewall,
        attachment: &Attachment,
        ports: &[PublishedPort],
    ) -> Result<(), Error> {
        let owners: Vec<(&PublishedPort, PortElement)> = ports
            .iter()
            .flat_map(|port| elements(attachment, port).into_iter().map(move |element| (port, element)))
            .collect();
        let list: Vec<PortElement> = owners.iter().map(|(_, element)| element.clone()).collect();
        // Each round removes one stale element, so there are no more rounds than ports.
        for _ in 0..=list.len() {
            match firewall.publish(&list) {
                Ok(()) => return Ok(()),
                Err(PublishFailure::Kernel(source)) => {
                    return Err(Error::Io { step: format!("publish ports of {}", attachment.network), source });
                }
                Err(PublishFailure::Taken(at)) => {
                    let (port, element) = &owners[at.min(owners.len() - 1)];
                    if !self.reclaim_port(firewall, attachment, element)? {
                        let holder = self.port_holder(firewall, element)?;
                        return Err(Error::PortTaken { port: port_text(port), holder });
                    }
                }
            }
        }
        Err(Error::PortTaken { port: port_text(&ports[0]), holder: "containers that come and go".to_owned() })
    }

    fn publish_any(
        &self,
        firewall: &mut Firewall,
        attachment: &Attachment,
        mapping: &PortMapping,
    ) -> Result<PublishedPort, Error> {
        let (low, high) = mapping.host_ports.unwrap_or_else(ephemeral_range);
        let size = u64::from(high - low) + 1;
        let start = if mapping.host_ports.is_some() {
            0
        } else {
            plan::spread(&[&attachment.container, &mapping.container_port.to_string()]) % size
        };
        for step in 0..size {
            let offset = u16::try_from((start + step) % size).expect("a range of ports has at most 65,536");
            let port = PublishedPort {
                host_ip: mapping.host_ip,
                host_port: low + offset,
                container_port: mapping.container_port,
                protocol: mapping.protocol,
            };
            if reserve(std::slice::from_ref(&port)).is_err() {
                continue;
            }
            match self.publish_fixed(firewall, attachment, std::slice::from_ref(&port)) {
                Ok(()) => return Ok(port),
                Err(Error::PortTaken { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::NoFreePort { low, high, protocol: mapping.protocol })
    }

    /// Removes a port's element when it leads to this container already or to one that is gone.
    fn reclaim_port(
        &self,
        firewall: &mut Firewall,
        attachment: &Attachment,
        element: &PortElement,
    ) -> Result<bool, Error> {
        let Some(target) = self.port_target(firewall, element)? else { return Ok(true) };
        let holder = self.holder_of(target)?;
        let gone = match &holder {
            Some(id) => *id == attachment.container || !self.containers.join(id).exists(),
            None => self.ours(target)?,
        };
        if gone {
            firewall.unpublish_key(element).step(|| "remove a stale published port".to_owned())?;
        }
        Ok(gone)
    }

    fn port_target(&self, firewall: &mut Firewall, element: &PortElement) -> Result<Option<IpAddr>, Error> {
        let data = firewall.lookup(element.map(), element.element()).step(|| "look up a published port".to_owned())?;
        Ok(data.and_then(|data| {
            if element.target.is_ipv4() {
                <[u8; 4]>::try_from(data.get(..4)?).ok().map(IpAddr::from)
            } else {
                <[u8; 16]>::try_from(data.get(..16)?).ok().map(IpAddr::from)
            }
        }))
    }

    /// Returns whether an address belongs to a network of these roots.
    fn ours(&self, address: IpAddr) -> Result<bool, Error> {
        Ok(self.list()?.iter().any(|network| network.subnets.iter().any(|subnet| subnet.subnet.contains(&address))))
    }

    /// Returns the container that holds an address on any network of these roots.
    fn holder_of(&self, address: IpAddr) -> Result<Option<String>, Error> {
        for network in self.list()? {
            if network.subnets.iter().any(|subnet| subnet.subnet.contains(&address))
                && let Some(holder) =
                    self.leases(&network.id).holder(address).step(|| format!("read the lease of {address}"))?
            {
                return Ok(Some(holder));
            }
        }
        Ok(None)
    }

    fn port_holder(&self, firewall: &mut Firewall, element: &PortElement) -> Result<String, Error> {
        let Some(target) = self.port_target(firewall, element)? else { return Ok("another program's rule".to_owned()) };
        for network in self.list()? {
            if let Some(member) = self
                .members(&network)?
                .into_iter()
                .find(|member| member.attachment.addresses.iter().any(|net| net.addr() == target))
            {
                return Ok(member.name);
            }
        }
        Ok(format!("at {target}"))
    }

    /// Unpublishes ports of an attached container; absent ones are fine.
    pub fn unpublish(&self, attachment: &Attachment, ports: &[PublishedPort]) -> Result<(), Error> {
        if ports.is_empty() {
            return Ok(());
        }
        let list: Vec<PortElement> = ports.iter().flat_map(|port| elements(attachment, port)).collect();
        let mut firewall = Firewall::open().step(|| "open nf_tables".to_owned())?;
        firewall.unpublish(&list).step(|| format!("unpublish ports of container {}", attachment.container))?;
        forget_udp(ports)
    }
}

fn fixed(mapping: &PortMapping) -> Option<PublishedPort> {
    let (low, high) = mapping.host_ports?;
    (low == high).then_some(PublishedPort {
        host_ip: mapping.host_ip,
        host_port: low,
        container_port: mapping.container_port,
        protocol: mapping.protocol,
    })
}

/// Returns the elements of a published port: one for each family that both the host address and the container have.
pub(super) fn elements(attachment: &Attachment, port: &PublishedPort) -> Vec<PortElement> {
    let targets = [attachment.ipv4().map(IpAddr::V4), attachment.ipv6().map(IpAddr::V6)];
    targets
        .into_iter()
        .flatten()
        .filter(|target| port.host_ip.is_none_or(|host| host.is_ipv4() == target.is_ipv4()))
        // [::1] cannot be routed to a bridge: the monitor forwards it.
        .filter(|_| port.host_ip != Some(IpAddr::V6(Ipv6Addr::LOCALHOST)))
        .map(|target| PortElement {
            host: port.host_ip.filter(|host| !host.is_unspecified()),
            host_port: port.host_port,
            protocol: port.protocol,
            target,
            target_port: port.container_port,
        })
        .collect()
}

fn port_text(port: &PublishedPort) -> String {
    let address = port.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    format!("{}/{}", SocketAddr::new(address, port.host_port), port.protocol)
}

/// The host's ephemeral range, where it can be read.
fn ephemeral_range() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse::<u16>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high))) if low > 0 && low < high => (low, high),
        _ => (32_768, 60_999),
    }
}

/// Host ports held against other programs of the host: bound, never listened on. Dropping it frees them.
///
/// The sockets are not kept in this process's table, where thousands of them would not fit: they wait as messages in the
/// queue of a socket pair that nobody reads.
#[derive(Debug, Default)]
pub struct Reservation {
    shelves: Vec<(UnixStream, UnixStream)>,
}

impl Reservation {
    fn keep(&mut self, sockets: &[OwnedFd]) -> io::Result<()> {
        let shelf = UnixStream::pair()?;
        let raw: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        sendmsg::<()>(shelf.0.as_raw_fd(), &[io::IoSlice::new(b"p")], &rights, MsgFlags::MSG_DONTWAIT, None)?;
        self.shelves.push(shelf);
        Ok(())
    }
}

/// Binds every published port, so that no program of the host takes it while the container has it. The monitor holds the
/// result as long as the container runs. Packets never come here: they are rewritten before.
pub fn reserve(ports: &[PublishedPort]) -> Result<Reservation, Error> {
    reserve_but(ports, |_, _| false)
}

/// The same without the addresses that are listened on already.
pub fn reserve_but(
    ports: &[PublishedPort],
    led: impl Fn(IpAddr, &PublishedPort) -> bool,
) -> Result<Reservation, Error> {
    let mut reservation = Reservation::default();
    let mut sockets = Vec::with_capacity(SHELF.min(ports.len() * 2));
    for port in ports {
        let step = || format!("hold host port {}", port_text(port));
        for address in port.host_addresses().into_iter().filter(|address| !led(*address, port)) {
            match super::super::reserve::bind(address, port.host_port, port.protocol) {
                Ok(Some(socket)) => sockets.push(socket),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    return Err(Error::PortBusy { port: port_text(port) });
                }
                Err(source) => return Err(Error::Io { step: step(), source }),
            }
            if sockets.len() >= SHELF {
                reservation.keep(&sockets).step(step)?;
                sockets.clear();
            }
        }
    }
    if !sockets.is_empty() {
        reservation.keep(&sockets).step(|| "hold host ports".to_owned())?;
    }
    Ok(reservation)
}

/// How many sockets one message carries; the kernel takes 253 (SCM_MAX_FD).
const SHELF: usize = 200;

/// Makes the kernel forget UDP flows to these host ports: without this an old flow keeps its old target for minutes.
fn forget_udp(ports: &[PublishedPort]) -> Result<(), Error> {
    let udp: Vec<u16> =
        ports.iter().filter(|port| port.protocol == crate::network::Protocol::Udp).map(|port| port.host_port).collect();
    if udp.is_empty() {
        return Ok(());
    }
    super::super::firewall::conntrack::forget_udp(&udp)
        .map(|_| ())
        .step(|| "delete conntrack entries of UDP ports".to_owned())
}
