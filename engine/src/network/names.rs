//! Who is called what: names of the containers on every network of a host. In: members. Out: answers to questions of one
//! client. Pure. A client sees the names of the networks it is on, its own resolver's network first, and no others.

use super::dns::{Answer, Code, Query, kind};
use super::{DEFAULT, Member};
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::IpAddr;

/// One container on one network.
#[derive(Debug, Clone)]
struct Entry {
    names: Vec<String>,
    /// What a PTR question gets.
    canonical: String,
    addresses: Vec<IpAddr>,
    /// Whether this network leads out.
    outward: bool,
    /// `--dns`: asked instead of the host's servers.
    dns: Vec<IpAddr>,
}

/// The members of one network and an index by name.
#[derive(Debug, Clone, Default)]
struct Room {
    /// Names that come from elsewhere: services of the mesh. After those of the members.
    further: HashMap<String, Vec<IpAddr>>,
    network: String,
    entries: HashMap<String, Entry>,
    index: HashMap<String, Vec<String>>,
}

/// All names of a host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    rooms: HashMap<String, Room>,
    /// Which container asks, by its address and network.
    clients: HashMap<(String, IpAddr), String>,
    /// On which networks a container is.
    places: HashMap<String, Vec<String>>,
}

/// What a question comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered from the members.
    Answer(Answer),
    /// Not a name of ours.
    Unknown,
}

impl Names {
    /// Adds or replaces a member of a network.
    pub(crate) fn put(&mut self, network_id: &str, member: &Member) {
        let container = &member.attachment.container;
        self.remove(network_id, container);
        let room = self.rooms.entry(network_id.to_owned()).or_default();
        room.network = member.attachment.network.to_ascii_lowercase();
        let mut names = vec![member.name.to_ascii_lowercase()];
        names.extend(member.attachment.aliases.iter().map(|alias| alias.to_ascii_lowercase()));
        names.extend(container.get(..12).map(str::to_ascii_lowercase));
        names.sort();
        names.dedup();
        names.retain(|name| !name.is_empty());
        if member.attachment.network == DEFAULT {
            // The default network has no names, as docker's; it only counts as a way out.
            names.clear();
        }
        for name in &names {
            room.index.entry(name.clone()).or_default().push(container.clone());
        }
        let addresses: Vec<IpAddr> = member.attachment.addresses.iter().map(IpNet::addr).collect();
        for address in &addresses {
            self.clients.insert((network_id.to_owned(), *address), container.clone());
        }
        let canonical = format!("{}.{}", member.name, member.attachment.network);
        room.entries.insert(
            container.clone(),
            Entry {
                names,
                canonical,
                addresses,
                outward: !member.attachment.gateways.is_empty(),
                dns: member.attachment.dns.clone(),
            },
        );
        self.places.entry(container.clone()).or_default().push(network_id.to_owned());
    }

    /// Removes a member of a network.
    pub(crate) fn remove(&mut self, network_id: &str, container: &str) {
        let Some(room) = self.rooms.get_mut(network_id) else { return };
        let Some(entry) = room.entries.remove(container) else { return };
        for name in &entry.names {
            if let Some(holders) = room.index.get_mut(name) {
                holders.retain(|holder| holder != container);
                if holders.is_empty() {
                    room.index.remove(name);
                }
            }
        }
        for address in entry.addresses {
            self.clients.remove(&(network_id.to_owned(), address));
        }
        if let Some(places) = self.places.get_mut(container) {
            places.retain(|place| place != network_id);
            if places.is_empty() {
                self.places.remove(container);
            }
        }
    }

    /// Replaces a network's names from elsewhere.
    pub(crate) fn set_further(&mut self, network_id: &str, further: HashMap<String, Vec<IpAddr>>) {
        let lower = further.into_iter().map(|(name, addresses)| (name.to_ascii_lowercase(), addresses)).collect();
        self.rooms.entry(network_id.to_owned()).or_default().further = lower;
    }

    /// Forgets a network with all its members.
    pub(crate) fn remove_network(&mut self, network_id: &str) {
        let members: Vec<String> =
            self.rooms.get(network_id).map(|room| room.entries.keys().cloned().collect()).unwrap_or_default();
        for container in members {
            self.remove(network_id, &container);
        }
        self.rooms.remove(network_id);
    }

    /// Returns how many members a network has.
    pub(crate) fn count(&self, network_id: &str) -> usize {
        self.rooms.get(network_id).map_or(0, |room| room.entries.len())
    }

    /// Whether a member of the network has this address.
    pub(crate) fn knows(&self, home: &str, client: IpAddr) -> bool {
        self.clients.contains_key(&(home.to_owned(), client))
    }

    /// Answers a question of the client with this address on the home network. `random` shuffles sets of addresses.
    pub(crate) fn ask(&self, home: &str, subnets: &[IpNet], client: IpAddr, query: &Query, random: u64) -> Outcome {
        if query.class != 1 && query.class != 255 {
            return Outcome::Unknown;
        }
        if query.kind == kind::PTR
            && let Some(address) = query.reverse()
        {
            return self.reverse(home, subnets, client, address);
        }
        let Some(addresses) = self.networks(home, client).find_map(|room| self.find(room, &query.name)) else {
            return Outcome::Unknown;
        };
        let mut fitting: Vec<IpAddr> = addresses
            .into_iter()
            .filter(|address| match query.kind {
                kind::A => address.is_ipv4(),
                kind::AAAA => address.is_ipv6(),
                other => other == kind::ANY,
            })
            .collect();
        if fitting.is_empty() {
            return Outcome::Answer(Answer::Negative(Code::NoError));
        }
        shuffle(&mut fitting, random);
        Outcome::Answer(Answer::Addresses(fitting))
    }

    /// Returns the servers that a client's other questions go to: `None` where it may not ask outside, empty for the host's.
    pub(crate) fn upstreams(&self, home: &str, client: IpAddr) -> Option<Vec<IpAddr>> {
        let container = self.clients.get(&(home.to_owned(), client))?;
        let places = self.places.get(container)?;
        let entries = || places.iter().filter_map(|id| self.rooms.get(id)?.entries.get(container));
        if !entries().any(|entry| entry.outward) {
            return None;
        }
        Some(entries().find(|entry| !entry.dns.is_empty()).map(|entry| entry.dns.clone()).unwrap_or_default())
    }

    /// The networks whose names a client sees, home first.
    fn networks<'a>(&'a self, home: &'a str, client: IpAddr) -> impl Iterator<Item = &'a Room> {
        let places = self
            .clients
            .get(&(home.to_owned(), client))
            .and_then(|container| self.places.get(container))
            .map(Vec::as_slice)
            .unwrap_or_default();
        std::iter::once(home)
            .chain(places.iter().map(String::as_str).filter(move |place| *place != home))
            .filter_map(|id| self.rooms.get(id))
    }

    /// Finds the addresses of a name in one network: `NAME` or `NAME.NETWORK`.
    fn find(&self, room: &Room, name: &str) -> Option<Vec<IpAddr>> {
        let found = room.index.get(name).or_else(|| {
            let short = name.strip_suffix(room.network.as_str())?.strip_suffix('.')?;
            room.index.get(short)
        });
        let Some(holders) = found else { return room.further.get(name).cloned() };
        Some(holders.iter().filter_map(|id| room.entries.get(id)).flat_map(|entry| entry.addresses.clone()).collect())
    }

    fn reverse(&self, home: &str, subnets: &[IpNet], client: IpAddr, address: IpAddr) -> Outcome {
        for room in self.networks(home, client) {
            if let Some(entry) = room.entries.values().find(|entry| entry.addresses.contains(&address)) {
                return Outcome::Answer(Answer::Name(entry.canonical.clone()));
            }
        }
        // An address of this network that nobody has is nobody's business upstream.
        if subnets.iter().any(|subnet| subnet.contains(&address)) {
            Outcome::Answer(Answer::Negative(Code::NxDomain))
        } else {
            Outcome::Unknown
        }
    }
}

/// Fisher-Yates with the bits of one number: enough to spread load, not to hide anything.
fn shuffle(addresses: &mut [IpAddr], mut random: u64) {
    for last in (1..addresses.len()).rev() {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let other = usize::try_from((random >> 33) % (last as u64 + 1)).unwrap_or_default();
        addresses.swap(last, other);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attachment, dns};
    use super::*;
    use crate::network::Driver;
    use std::collections::BTreeMap;

    fn member(network: &str, container: &str, name: &str, addresses: &[&str], aliases: &[&str]) -> Member {
        Member {
            name: name.to_owned(),
            attachment: Attachment {
                version: 1,
                container: container.repeat(12),
                network: network.to_owned(),
                network_id: network.to_owned(),
                driver: Driver::Bridge,
                interface: "eth0".to_owned(),
                host_interface: String::new(),
                mac: String::new(),
                addresses: addresses.iter().map(|text| text.parse().expect("a network")).collect(),
                gateways: if network == "inner" { Vec::new() } else { vec!["10.0.0.1".parse().expect("an address")] },
                dns: Vec::new(),
                nameservers: Vec::new(),
                aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
                ports: Vec::new(),
                warnings: Vec::new(),
                unknown: BTreeMap::new(),
            },
        }
    }

    fn names() -> Names {
        let mut names = Names::default();
        names.put("front", &member("front", "a", "Web", &["10.0.0.2/24", "fd00::2/64"], &["api"]));
        names.put("front", &member("front", "b", "web2", &["10.0.0.3/24"], &["api"]));
        names.put("back", &member("back", "b", "web2", &["10.0.1.3/24"], &[]));
        names.put("back", &member("back", "c", "db", &["10.0.1.4/24"], &[]));
        names
    }

    fn ask(names: &Names, client: &str, name: &str, kind: u16) -> Outcome {
        let query = dns::parse(&dns::query(1, name, kind)).expect("a query");
        let subnets = ["10.0.0.0/24".parse().expect("a network")];
        names.ask("front", &subnets, client.parse().expect("an address"), &query, 3)
    }

    fn addresses(outcome: Outcome) -> Vec<String> {
        match outcome {
            Outcome::Answer(Answer::Addresses(mut list)) => {
                list.sort();
                list.iter().map(ToString::to_string).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_aliases_ids_and_the_network_as_suffix_resolve() {
        let names = names();
        for name in ["web", "WEB", "web.front", "aaaaaaaaaaaa"] {
            assert_eq!(addresses(ask(&names, "10.0.0.3", name, kind::A)), ["10.0.0.2"], "{name}");
        }
        assert_eq!(addresses(ask(&names, "10.0.0.3", "api", kind::A)), ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(addresses(ask(&names, "10.0.0.3", "web", kind::AAAA)), ["fd00::2"]);
    }

    #[test]
    fn a_missing_type_is_no_data_and_a_missing_name_is_not_ours() {
        let names = names();
        let nodata = Outcome::Answer(Answer::Negative(Code::NoError));
        assert_eq!(ask(&names, "10.0.0.2", "web2", kind::AAAA), nodata);
        assert_eq!(ask(&names, "10.0.0.2", "web2", 15), nodata);
        assert_eq!(ask(&names, "10.0.0.2", "nobody", kind::A), Outcome::Unknown);
    }

    #[test]
    fn a_client_sees_its_other_networks_and_a_stranger_does_not() {
        let names = names();
        assert_eq!(addresses(ask(&names, "10.0.0.3", "db", kind::A)), ["10.0.1.4"]);
        assert_eq!(ask(&names, "10.0.0.2", "db", kind::A), Outcome::Unknown);
        assert_eq!(addresses(ask(&names, "10.0.0.3", "web2", kind::A)), ["10.0.0.3"]);
    }

    #[test]
    fn reverse_questions_name_the_container() {
        let names = names();
        let name = Outcome::Answer(Answer::Name("Web.front".to_owned()));
        assert_eq!(ask(&names, "10.0.0.3", "2.0.0.10.in-addr.arpa", kind::PTR), name);
        let nothing = Outcome::Answer(Answer::Negative(Code::NxDomain));
        assert_eq!(ask(&names, "10.0.0.3", "9.0.0.10.in-addr.arpa", kind::PTR), nothing);
        assert_eq!(ask(&names, "10.0.0.3", "1.1.1.1.in-addr.arpa", kind::PTR), Outcome::Unknown);
    }

    #[test]
    fn a_member_that_leaves_takes_its_names_along() {
        let mut names = names();
        names.remove("front", &"a".repeat(12));
        assert_eq!(ask(&names, "10.0.0.3", "web", kind::A), Outcome::Unknown);
        assert_eq!(addresses(ask(&names, "10.0.0.3", "api", kind::A)), ["10.0.0.3"]);
        names.remove_network("front");
        assert_eq!(names.count("front"), 0);
        assert_eq!(ask(&names, "10.0.0.3", "db", kind::A), Outcome::Unknown);
    }

    #[test]
    fn only_a_member_with_a_way_out_may_ask_outside() {
        let mut names = names();
        names.put("inner", &member("inner", "d", "cache", &["10.0.2.2/24"], &[]));
        let client = |text: &str| text.parse().expect("an address");
        assert_eq!(names.upstreams("front", client("10.0.0.2")), Some(Vec::new()));
        assert!(names.knows("front", client("10.0.0.2")) && !names.knows("back", client("10.0.0.2")));
        assert_eq!(names.upstreams("inner", client("10.0.2.2")), None);
        assert_eq!(names.upstreams("front", client("10.0.0.1")), None);
        let mut other = member("back", "d", "cache", &["10.0.1.9/24"], &[]);
        other.attachment.dns = vec![client("9.9.9.9")];
        names.put("back", &other);
        assert_eq!(names.upstreams("inner", client("10.0.2.2")), Some(vec![client("9.9.9.9")]));
    }

    #[test]
    fn names_from_elsewhere_come_after_the_members_and_may_have_no_address() {
        let mut names = names();
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let further = [("Shop", vec![ip("10.9.0.1"), ip("10.9.1.1")]), ("web", vec![ip("10.9.0.9")]), ("down", vec![])];
        names.set_further("front", further.map(|(name, all)| (name.to_owned(), all)).into());
        assert_eq!(addresses(ask(&names, "10.0.0.2", "shop", kind::A)), ["10.9.0.1", "10.9.1.1"]);
        assert_eq!(addresses(ask(&names, "10.0.0.2", "web", kind::A)), ["10.0.0.2"]);
        assert_eq!(ask(&names, "10.0.0.2", "down", kind::A), Outcome::Answer(Answer::Negative(Code::NoError)));
    }

    #[test]
    fn a_set_of_addresses_is_shuffled() {
        let all: Vec<IpAddr> = (0..8u8).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let firsts: std::collections::BTreeSet<IpAddr> = (0..64)
            .map(|seed| {
                let mut list = all.clone();
                shuffle(&mut list, seed * 7919);
                list[0]
            })
            .collect();
        assert!(firsts.len() >= 6, "{firsts:?}");
    }
}
