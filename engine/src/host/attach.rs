//! A container's link to a network, made and unmade. In: a [`Network`], an [`Attach`]. Out: an [`Attachment`]; on the host a
//! lease, a veth pair, a member's file, elements in `inet shoal`. Every step is safe to repeat and undone when a later one
//! fails; [`Networks::sweep`] removes what a killed process left without a record.

use super::firewall::table::{NetworkRules, PortElement};
use super::firewall::{Firewall, ForeignDrop, PublishFailure};
use super::netlink::link::{self, PortMode, VethEnd};
use super::netlink::{Family, Socket, in_namespace, route};
use crate::network::ipam::{Refusal, absent};
use crate::network::{
    ATTACHMENT_VERSION, Attach, Attachment, Driver, Error, Member, Network, Networks, PortMapping, PublishedPort, Step,
    Subnet, plan,
};
use crate::trace::timed;
use ipnet::{IpNet, Ipv6Net};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// How many ports are published in one transaction: it must fit the netlink socket's send buffer, 130 bytes a port.
const PORTS_A_TRANSACTION: usize = 512;
/// What every bridge with IPv6 is called on its own link; docker's choice.
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), 64);
/// The MTU where the host has no default route.
const MTU: u32 = 1500;

impl Networks {
    /// Connects a container's namespace to a network: addresses, routes, names, published ports.
    ///
    /// On failure nothing of it stays.
    pub fn attach(&self, network: &Network, request: &Attach) -> Result<Attachment, Error> {
        let mut attachment = Attachment {
            version: ATTACHMENT_VERSION,
            container: request.container.clone(),
            network: network.name.clone(),
            network_id: network.id.clone(),
            driver: network.driver,
            interface: String::new(),
            host_interface: String::new(),
            mac: String::new(),
            addresses: Vec::new(),
            gateways: Vec::new(),
            dns: request.dns.clone(),
            nameservers: Vec::new(),
            aliases: request.aliases.clone(),
            ports: Vec::new(),
            warnings: Vec::new(),
            unknown: BTreeMap::new(),
        };
        match self.attach_steps(network, request, &mut attachment) {
            Ok(()) => Ok(attachment),
            Err(error) => {
                // What is left over is swept with the container; the first failure is the one to report.
                let _ = self.detach(&attachment);
                Err(error)
            }
        }
    }

    fn attach_steps(&self, network: &Network, request: &Attach, out: &mut Attachment) -> Result<(), Error> {
        // Until the member is enrolled nobody removes the network under it.
        let _use = self.hold(network)?;
        self.lease(network, request, out)?;
        let mac = request.mac.unwrap_or_else(|| plan::container_mac(out.ipv4(), &out.container, &network.id));
        out.mac = mac_text(mac);
        let netns =
            File::open(&request.netns).step(|| format!("open network namespace {}", request.netns.display()))?;
        let mut inside = Socket::open_in(Family::Route, &request.netns)
            .step(|| format!("enter network namespace {}", request.netns.display()))?;
        out.interface = interface_name(&mut inside, request.interface.as_deref())?;
        let mut host = Socket::open(Family::Route).step(|| "open a netlink socket".to_owned())?;
        match network.driver {
            Driver::Bridge => {
                let bridge = build(network, &mut host, &mut out.warnings)?;
                self.link_veth(network, &mut host, &bridge, (&netns, mac), out)?;
            }
            Driver::Macvlan => link_macvlan(network, &mut host, &netns, mac, &out.interface)?,
        }
        configure(network, request, &mut inside, out)?;
        // The host can ask servers on its own loopback, and the network's resolver is a process of the host.
        let stands_in = network.driver == Driver::Bridge && !network.internal && request.dns.is_empty();
        let stands_in = stands_in && !network.has_names() && super::resolver::only_the_host_can_ask();
        if network.has_names() || stands_in {
            out.nameservers = network.subnets.iter().map(|subnet| subnet.gateway).collect();
        }
        if network.driver == Driver::Bridge && !network.internal {
            out.ports = self.publish(out, &request.ports)?;
            // A program of the host that has one of them is told now; the monitor takes them for as long as it lives.
            drop(reserve(&out.ports)?);
        } else if !request.ports.is_empty() {
            out.warnings.push(format!("network {} publishes no ports; -p is without effect on it", network.name));
        }
        self.enrol(&network.id, &request.name, out)?;
        if !network.has_names() && !stands_in {
            return Ok(());
        }
        match super::resolver::ensure(network, &self.run_folder(&network.id)) {
            // Without it nothing but names of elsewhere is missing.
            Err(error) if stands_in => {
                out.warnings.push(format!(
                    "the host's name servers are on its loopback, where containers cannot ask them: use --dns ({error})"
                ));
                Ok(())
            }
            other => other,
        }
    }

    fn lease(&self, network: &Network, request: &Attach, out: &mut Attachment) -> Result<(), Error> {
        let wanted = |v4: bool| if v4 { request.ip.map(IpAddr::V4) } else { request.ip6.map(IpAddr::V6) };
        for (v4, option) in [(true, "--ip"), (false, "--ip6")] {
            if let Some(address) = wanted(v4)
                && !network.subnets.iter().any(|subnet| subnet.subnet.contains(&address))
            {
                return Err(Error::Invalid {
                    reason: format!("{option} {address} is in no subnet of network {}", network.name),
                });
            }
        }
        let leases = self.leases(&network.id);
        for family in [true, false] {
            let mut subnets = network.subnets.iter().filter(|subnet| subnet.subnet.addr().is_ipv4() == family);
            let wanted = wanted(family);
            let Some(subnet) = subnets.find(|subnet| wanted.is_none_or(|address| subnet.subnet.contains(&address)))
            else {
                continue;
            };
            let reserved: Vec<IpAddr> = subnet.reserved.values().copied().chain([subnet.gateway]).collect();
            if let Some(address) = wanted
                && reserved.contains(&address)
            {
                return Err(Error::AddressTaken {
                    address,
                    network: network.name.clone(),
                    holder: "the network itself".to_owned(),
                });
            }
            let address = leases
                .take(&request.container, subnet.subnet, subnet.range, reserved, wanted)
                .map_err(|refusal| refused(refusal, network, subnet, wanted))?;
            out.addresses
                .push(IpNet::new(address, subnet.subnet.prefix_len()).expect("the prefix fits its own family"));
            if !network.internal {
                out.gateways.push(subnet.gateway);
            }
        }
        Ok(())
    }

    fn link_veth(
        &self,
        network: &Network,
        host: &mut Socket,
        bridge: &link::Link,
        (netns, mac): (&File, link::Mac),
        out: &mut Attachment,
    ) -> Result<(), Error> {
        out.host_interface = plan::host_interface(&out.container, &network.id);
        let (outer, inner) =
            (VethEnd { name: &out.host_interface, mac: None }, VethEnd { name: &out.interface, mac: Some(mac) });
        let request = link::veth_request(outer, inner, netns.as_fd(), bridge.index, bridge.mtu);
        let mut made = link::apply(host, &request);
        if made.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EEXIST)) {
            // A killed process's link: the name follows from the ids, so it is this container's and nobody else's.
            link::remove(host, &out.host_interface).step(|| format!("remove the stale link {}", out.host_interface))?;
            made = link::apply(host, &request);
        }
        made.step(|| {
            format!("make the veth pair {} - {} on bridge {}", out.host_interface, out.interface, bridge.name)
        })?;
        let mode = PortMode { hairpin: frames_are_filtered(), isolated: !network.talks() };
        if mode != PortMode::default() {
            let port = link::find(host, &out.host_interface)
                .step(|| format!("look up {}", out.host_interface))?
                .ok_or_else(|| Error::NotFound { name: out.host_interface.clone() })?;
            link::port_mode(host, port.index, mode).step(|| format!("set the mode of bridge port {}", port.name))?;
        }
        Ok(())
    }

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

    fn publish_fixed(
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

    /// Undoes an attachment. Repeatable; what is gone already is fine. Goes on after a failure and returns the first.
    pub fn detach(&self, attachment: &Attachment) -> Result<(), Error> {
        let run = self.run_folder(&attachment.network_id);
        let member = run.join("members").join(format!("{}.json", attachment.container));
        let unpublished = self.unpublish(attachment, &attachment.ports);
        let unlinked = self.unlink(attachment);
        let withdrawn = absent(fs::remove_file(&member)).map(|_| ()).step(|| format!("remove {}", member.display()));
        let leases = self.leases(&attachment.network_id);
        let released = attachment.addresses.iter().try_for_each(|net| {
            leases.give_back(&attachment.container, net.addr()).step(|| format!("give back {}", net.addr()))
        });
        unpublished.and(unlinked).and(withdrawn).and(released)
    }

    fn unlink(&self, attachment: &Attachment) -> Result<(), Error> {
        if attachment.host_interface.is_empty() {
            return Ok(());
        }
        Socket::open(Family::Route)
            .and_then(|mut socket| link::remove(&mut socket, &attachment.host_interface))
            .step(|| format!("remove link {}", attachment.host_interface))
    }

    /// Removes everything that any network holds for a container, record or not: after a crash, and with `rm -f`.
    pub fn sweep(&self, container: &str) -> Result<(), Error> {
        let mut first = Ok(());
        for network in self.list()? {
            let swept = self.sweep_one(&network, container);
            first = first.and(swept);
        }
        first
    }

    fn sweep_one(&self, network: &Network, container: &str) -> Result<(), Error> {
        let leases = self.leases(&network.id);
        let step = || format!("list the leases of network {}", network.name);
        leases.remove_drafts(container).step(step)?;
        let addresses = leases.of(container).step(step)?;
        let members = self.run_folder(&network.id).join("members");
        let (member, draft) = (members.join(format!("{container}.json")), members.join(format!(".{container}")));
        absent(fs::remove_file(&draft)).step(|| format!("remove {}", draft.display()))?;
        if addresses.is_empty() && !member.exists() {
            return Ok(());
        }
        if network.driver == Driver::Bridge {
            let mut firewall = Firewall::open().step(|| "open nf_tables".to_owned())?;
            firewall.unpublish_targets(&addresses).step(|| "remove published ports".to_owned())?;
            let name = plan::host_interface(container, &network.id);
            Socket::open(Family::Route)
                .and_then(|mut socket| link::remove(&mut socket, &name))
                .step(|| format!("remove link {name}"))?;
        }
        absent(fs::remove_file(&member)).step(|| format!("remove {}", member.display()))?;
        addresses
            .iter()
            .try_for_each(|address| leases.give_back(container, *address).step(|| format!("give back {address}")))
    }

    /// Disconnects a running container: like [`Networks::detach`], and the interface inside goes too.
    pub fn disconnect(&self, attachment: &Attachment, netns: &Path) -> Result<(), Error> {
        let removed = Socket::open_in(Family::Route, netns)
            .and_then(|mut inside| link::remove(&mut inside, &attachment.interface))
            .step(|| format!("remove interface {}", attachment.interface));
        self.detach(attachment).and(removed)
    }

    /// Leads a running container's traffic out by this attachment.
    pub fn lead_out(&self, attachment: &Attachment, netns: &Path) -> Result<(), Error> {
        let step = || format!("add the default route by network {}", attachment.network);
        let mut inside = Socket::open_in(Family::Route, netns).step(step)?;
        let interface = link::find(&mut inside, &attachment.interface)
            .step(step)?
            .ok_or_else(|| Error::NotFound { name: attachment.interface.clone() })?;
        attachment.gateways.iter().try_for_each(|gateway| {
            route::route_add(&mut inside, &route::Route::default(*gateway, interface.index)).step(step)
        })
    }

    /// Makes bridges and firewall elements present again for these attachments, after `nft flush ruleset` or the like.
    pub fn reload(&self, attachments: &[Attachment]) -> Result<Vec<String>, Error> {
        let mut host = Socket::open(Family::Route).step(|| "open a netlink socket".to_owned())?;
        let mut warnings = Vec::new();
        for network in self.list()? {
            let of: Vec<&Attachment> =
                attachments.iter().filter(|attachment| attachment.network_id == network.id).collect();
            if of.is_empty() || network.driver != Driver::Bridge {
                continue;
            }
            build(&network, &mut host, &mut warnings)?;
            if network.has_names() {
                super::resolver::ensure(&network, &self.run_folder(&network.id))?;
            }
            let mut firewall = Firewall::open().step(|| "open nf_tables".to_owned())?;
            for attachment in of {
                let missing: Vec<PublishedPort> = attachment
                    .ports
                    .iter()
                    .filter(|port| {
                        elements(attachment, port)
                            .iter()
                            .any(|element| !matches!(firewall.target(element), Ok(Some(true))))
                    })
                    .cloned()
                    .collect();
                if !missing.is_empty() {
                    self.publish_fixed(&mut firewall, attachment, &missing)?;
                }
            }
        }
        Ok(warnings)
    }

    /// Gives a member another name: it is known by it from now on, and by the former one no more.
    pub fn rename(&self, attachment: &Attachment, name: &str) -> Result<(), Error> {
        self.enrol(&attachment.network_id, name, attachment)
    }

    /// Writes a member's file: the resolver and `network inspect` read it.
    fn enrol(&self, network: &str, name: &str, attachment: &Attachment) -> Result<(), Error> {
        let folder = self.run_folder(network).join("members");
        let member = Member { name: name.to_owned(), attachment: attachment.clone() };
        let (draft, path) =
            (folder.join(format!(".{}", attachment.container)), folder.join(format!("{}.json", attachment.container)));
        let write = || -> io::Result<()> {
            fs::create_dir_all(&folder)?;
            fs::write(&draft, serde_json::to_vec(&member)?)?;
            fs::rename(&draft, &path)
        };
        write().step(|| format!("write {}", path.display()))
    }
}

fn refused(refusal: Refusal, network: &Network, subnet: &Subnet, wanted: Option<IpAddr>) -> Error {
    match (refusal, wanted) {
        (Refusal::Taken(holder), Some(address)) => {
            let holder = holder.get(..12).unwrap_or(&holder).to_owned();
            Error::AddressTaken { address, network: network.name.clone(), holder }
        }
        (Refusal::Io(source), _) => Error::Io { step: format!("lease an address of {}", subnet.subnet), source },
        (Refusal::Taken(_) | Refusal::Exhausted, _) => {
            Error::Exhausted { network: network.name.clone(), subnet: subnet.subnet }
        }
    }
}

/// Makes a network's bridge and its firewall elements present; returns the bridge.
fn build(network: &Network, host: &mut Socket, warnings: &mut Vec<String>) -> Result<link::Link, Error> {
    let name = &network.bridge;
    let bridge = match link::find(host, name).step(|| format!("look up bridge {name}"))? {
        Some(bridge) => bridge,
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
    if let Ok(drops) = firewall.foreign_drops(plan::BRIDGE_PREFIX) {
        warnings.extend(drops.iter().map(warning));
    }
    Ok(bridge)
}

fn warning(drop: &ForeignDrop) -> String {
    let commands = drop.remedy(plan::BRIDGE_PREFIX).join("; ");
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
    link::find(host, name)
        .step(|| format!("look up bridge {name}"))?
        .ok_or_else(|| Error::NotFound { name: name.clone() })
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
    if link::find(&mut host, &network.bridge).step(|| format!("look up bridge {}", network.bridge))?.is_some() {
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
fn deaf(interface: &str, ipv6: bool) -> io::Result<()> {
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

fn is(path: &str, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
}

fn set(path: &str, value: &str) -> io::Result<()> {
    if is(path, value) { Ok(()) } else { fs::write(path, value) }
}

/// Whether br_netfilter shows bridged frames to the packet filter in this namespace, whatever a bridge itself says.
fn frames_are_filtered() -> bool {
    is("/proc/sys/net/bridge/bridge-nf-call-iptables", "1")
}

fn link_macvlan(
    network: &Network,
    host: &mut Socket,
    netns: &File,
    mac: link::Mac,
    interface: &str,
) -> Result<(), Error> {
    let parent = match &network.parent {
        Some(name) => {
            link::find(host, name)
                .step(|| format!("look up {name}"))?
                .ok_or_else(|| Error::Invalid {
                    reason: format!("interface {name}, the parent of network {}, does not exist", network.name),
                })?
                .index
        }
        None => route::default_interface(host)
            .step(|| "find the interface of the default route".to_owned())?
            .ok_or_else(|| Error::Invalid {
                reason: format!("network {} needs -o parent=INTERFACE: this host has no default route", network.name),
            })?,
    };
    link::apply(host, &link::macvlan_request(interface, parent, Some(mac), netns.as_fd(), network.mtu))
        .step(|| format!("make macvlan interface {interface}"))
}

/// Sets up the container's side: loopback, the interface, addresses, default routes.
fn configure(network: &Network, request: &Attach, inside: &mut Socket, out: &Attachment) -> Result<(), Error> {
    let links = link::list(inside).step(|| "list the container's interfaces".to_owned())?;
    let index = |name: &str| {
        links
            .iter()
            .find(|link| link.name == name)
            .map(|link| link.index)
            .ok_or_else(|| Error::NotFound { name: name.to_owned() })
    };
    link::up(inside, index("lo")?).step(|| "set lo up".to_owned())?;
    let interface = index(&out.interface)?;
    let has_ipv6 = out.ipv6().is_some();
    // A macvlan's link is the user's own, and so are its routers.
    if !(has_ipv6 && network.driver == Driver::Macvlan) {
        in_namespace(&request.netns, || deaf(&out.interface, has_ipv6))
            .and_then(|done| done)
            .step(|| format!("close {} to router advertisements", out.interface))?;
    }
    for address in &out.addresses {
        route::address_add(inside, interface, *address)
            .step(|| format!("give {} the address {address}", out.interface))?;
    }
    link::up(inside, interface).step(|| format!("set {} up", out.interface))?;
    if !request.default_route || network.internal {
        return Ok(());
    }
    for gateway in &out.gateways {
        route::route_add(inside, &route::Route::default(*gateway, interface))
            .step(|| format!("add the default route by {gateway}"))?;
    }
    Ok(())
}

/// Sets loopback up in a namespace: all that `--network none` has.
pub fn loopback(netns: &Path) -> Result<(), Error> {
    let step = || format!("set lo up in {}", netns.display());
    let mut inside = Socket::open_in(Family::Route, netns).step(step)?;
    let lo = link::find(&mut inside, "lo").step(step)?.ok_or_else(|| Error::NotFound { name: "lo".to_owned() })?;
    link::up(&mut inside, lo.index).step(step)
}

fn interface_name(inside: &mut Socket, wanted: Option<&str>) -> Result<String, Error> {
    let links = link::list(inside).step(|| "list the container's interfaces".to_owned())?;
    let taken = |name: &str| links.iter().any(|link| link.name == name);
    match wanted {
        Some(name) if name.len() > 15 || name.is_empty() || name.contains(['/', ' ']) => {
            Err(Error::Invalid { reason: format!("{name:?} is no name for an interface") })
        }
        Some(name) if taken(name) => {
            Err(Error::Invalid { reason: format!("the container has an interface {name} already") })
        }
        Some(name) => Ok(name.to_owned()),
        None => Ok((0..)
            .map(|number| format!("eth{number}"))
            .find(|name| !taken(name))
            .expect("a namespace's interfaces are finite")),
    }
}

fn mac_text(mac: link::Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
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
fn elements(attachment: &Attachment, port: &PublishedPort) -> Vec<PortElement> {
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
            match super::reserve::bind(address, port.host_port, port.protocol) {
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
    super::firewall::conntrack::forget_udp(&udp).map(|_| ()).step(|| "delete conntrack entries of UDP ports".to_owned())
}

/// Runs `work` inside a container's network namespace, on a thread of its own.
pub fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    in_namespace(netns, work)
}
