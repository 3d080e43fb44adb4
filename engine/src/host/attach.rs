//! A container's link to a network, made and unmade. In: a [`Network`], an [`Attach`]. Out: an [`Attachment`]; on the host a
//! lease, a veth pair, a member's file, elements in `inet shoal`. Every step is safe to repeat and undone when a later one
//! fails; [`Networks::sweep`] removes what a killed process left without a record.

mod bridge;
mod ports;

pub(crate) use bridge::{dismantle, make_present};
pub use ports::{Reservation, reserve, reserve_but};

use super::firewall::Firewall;
use super::netlink::link::{self, PortMode, VethEnd};
use super::netlink::{Family, Socket, in_namespace, route};
use crate::network::ipam::{Refusal, absent};
use crate::network::{
    ATTACHMENT_VERSION, Attach, Attachment, Driver, Error, Member, Network, Networks, PublishedPort, Step, Subnet, plan,
};
use bridge::{build, deaf, frames_are_filtered};
use ipnet::IpNet;
use ports::elements;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

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

    /// Undoes an attachment. Repeatable; what is gone already is fine. Goes on after a failure and returns the first.
    pub fn detach(&self, attachment: &Attachment) -> Result<(), Error> {
        let run = self.run_folder(&attachment.network_id);
        let members = run.join("members");
        let member = members.join(format!("{}.json", attachment.container));
        // A killed rename's.
        let _ = fs::remove_file(members.join(format!(".{}", attachment.container)));
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

fn is(path: &str, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
}

fn set(path: &str, value: &str) -> io::Result<()> {
    if is(path, value) { Ok(()) } else { fs::write(path, value) }
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

/// Runs `work` inside a container's network namespace, on a thread of its own.
pub fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    in_namespace(netns, work)
}
