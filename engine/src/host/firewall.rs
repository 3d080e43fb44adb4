//! The host's packet filter as shoal uses it: one table, `inet shoal`. In: networks and published ports. Out: elements in the
//! kernel's sets, each change one transaction. Never touches a table of anybody else and never runs a program.

pub(crate) mod conntrack;
pub(crate) mod encode;
pub(crate) mod table;

use crate::host::netlink::message::{Attributes, Buffer, DUMP, Message, be32, text};
use crate::host::netlink::{Family, Socket};
use encode::{Batch, INET, SUBSYSTEM, encode_elements};
use std::io;
use std::net::IpAddr;
use table::{GENERATION, NetworkRules, PortElement, TABLE, network_elements, octets};

const GETCHAIN: u16 = SUBSYSTEM | 4;
const GETRULE: u16 = SUBSYSTEM | 7;
const GETSETELEM: u16 = SUBSYSTEM | 13;

/// A connection to nf_tables in one network namespace, with the table `inet shoal` present.
#[derive(Debug)]
pub(crate) struct Firewall {
    socket: Socket,
}

/// A base chain of somebody else that drops what it does not know, on the way of packets of containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignDrop {
    /// Whether it is on the way to the host itself, where the resolvers of networks are, and not on that through it.
    pub(crate) input: bool,
    /// `ip`, `ip6` or `inet`.
    pub(crate) family: &'static str,
    /// The table.
    pub(crate) table: String,
    /// The chain.
    pub(crate) chain: String,
}

impl ForeignDrop {
    /// Returns the commands that let containers through, for a person to run.
    pub(crate) fn remedy(&self, prefix: &str) -> Vec<String> {
        if self.input {
            let questions = |protocol: &str| match (self.chain.as_str(), self.table.as_str()) {
                ("INPUT", "filter") => {
                    let program = if self.family == "ip6" { "ip6tables" } else { "iptables" };
                    format!("{program} -I INPUT -i '{prefix}+' -p {protocol} --dport 53 -j ACCEPT")
                }
                (chain, table) => {
                    format!(
                        "nft insert rule {} {table} {chain} iifname '{prefix}*' {protocol} dport 53 accept",
                        self.family
                    )
                }
            };
            return ["udp", "tcp"].map(questions).to_vec();
        }
        if self.chain == "FORWARD" && self.table == "filter" {
            let program = if self.family == "ip6" { "ip6tables" } else { "iptables" };
            return vec![
                format!("{program} -I FORWARD -i '{prefix}+' -j ACCEPT"),
                format!("{program} -I FORWARD -o '{prefix}+' -j ACCEPT"),
            ];
        }
        let chain = format!("{} {} {}", self.family, self.table, self.chain);
        vec![
            format!("nft insert rule {chain} iifname '{prefix}*' accept"),
            format!("nft insert rule {chain} oifname '{prefix}*' accept"),
        ]
    }
}

impl Firewall {
    /// Opens nf_tables in the caller's network namespace and makes the table where it is absent.
    pub(crate) fn open() -> io::Result<Self> {
        Self::with(Socket::open(Family::Netfilter)?)
    }

    /// Opens nf_tables where the table is present already.
    pub(crate) fn present() -> io::Result<Option<Self>> {
        let mut firewall = Self { socket: Socket::open(Family::Netfilter)? };
        Ok(firewall.current()?.then_some(firewall))
    }

    fn with(socket: Socket) -> io::Result<Self> {
        let mut firewall = Self { socket };
        if !firewall.current()? {
            match firewall.commit(table::create()) {
                // Another process made it in between, or it holds an older generation's rules.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    if !firewall.current()? {
                        firewall.commit(table::upgrade())?;
                    }
                }
                other => other?,
            }
        }
        Ok(firewall)
    }

    fn current(&mut self) -> io::Result<bool> {
        let mut b = Buffer::message(GETCHAIN, 0, &[INET, 0, 0, 0]);
        b.text(1, TABLE);
        b.text(3, GENERATION);
        match self.socket.query(&b) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Commits one transaction.
    pub(crate) fn commit(&mut self, batch: Batch<'_>) -> io::Result<()> {
        let (buffer, last) = batch.finish();
        match self.socket.transaction(&buffer, last)?.first() {
            None => Ok(()),
            Some((_, code)) => Err(io::Error::from_raw_os_error(*code)),
        }
    }

    /// Makes a network's elements present.
    pub(crate) fn network_add(&mut self, rules: &NetworkRules) -> io::Result<()> {
        let mut batch = Batch::new(TABLE);
        for (set, elements) in network_elements(rules) {
            batch.add(set, &elements, false);
        }
        match self.commit(batch) {
            // Ranges that are there already: some kernels say so even without EXCL. Each alone, then.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                for (set, elements) in network_elements(rules) {
                    let mut batch = Batch::new(TABLE);
                    batch.add(set, &elements, false);
                    tolerate(self.commit(batch), libc::EEXIST)?;
                }
                Ok(())
            }
            other => other,
        }
    }

    /// Removes a network's elements; absent ones are fine.
    pub(crate) fn network_remove(&mut self, rules: &NetworkRules) -> io::Result<()> {
        for (set, elements) in network_elements(rules) {
            let mut batch = Batch::new(TABLE);
            batch.remove(set, &elements);
            tolerate(self.commit(batch), libc::ENOENT)?;
        }
        Ok(())
    }

    /// Publishes ports, all or none. The error carries which one is taken.
    pub(crate) fn publish(&mut self, ports: &[PortElement]) -> Result<(), PublishFailure> {
        if ports.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new(TABLE);
        let mut sequences = Vec::with_capacity(ports.len());
        for port in ports {
            sequences.push(batch.next_sequence());
            batch.add(port.map(), &[port.element()], true);
        }
        let (buffer, last) = batch.finish();
        let failed = self.socket.transaction(&buffer, last).map_err(PublishFailure::Kernel)?;
        match failed.into_iter().next() {
            None => Ok(()),
            Some((sequence, libc::EEXIST | libc::EBUSY)) => {
                Err(PublishFailure::Taken(sequences.iter().position(|number| *number == sequence).unwrap_or(0)))
            }
            Some((_, code)) => Err(PublishFailure::Kernel(io::Error::from_raw_os_error(code))),
        }
    }

    /// Removes those of the ports that still lead to their container; a port that another container took since stays.
    pub(crate) fn unpublish(&mut self, ports: &[PortElement]) -> io::Result<()> {
        let mut batch = Batch::new(TABLE);
        let mut any = false;
        for port in ports {
            if self.target(port)? == Some(true) {
                batch.remove(port.map(), &[port.element()]);
                any = true;
            }
        }
        if any { tolerate(self.commit(batch), libc::ENOENT) } else { Ok(()) }
    }

    /// Removes a port whatever it leads to; an absent one is fine.
    pub(crate) fn unpublish_key(&mut self, port: &PortElement) -> io::Result<()> {
        let mut batch = Batch::new(TABLE);
        batch.remove(port.map(), &[port.element()]);
        tolerate(self.commit(batch), libc::ENOENT)
    }

    /// Removes every published port that leads to one of the addresses.
    pub(crate) fn unpublish_targets(&mut self, targets: &[IpAddr]) -> io::Result<()> {
        for map in ["port4", "port6", "addrport4", "addrport6"] {
            let length = if map.ends_with('4') { 4 } else { 16 };
            let gone: Vec<encode::Element> = self
                .map(map)?
                .into_iter()
                .filter(|(_, data)| targets.iter().any(|target| data.get(..length) == Some(&octets(*target))))
                .map(|(key, _)| encode::Element::key(key))
                .collect();
            // One transaction each: a neighbour that removes the same key at the same time fails only that one.
            for element in gone {
                let mut batch = Batch::new(TABLE);
                batch.remove(map, &[element]);
                tolerate(self.commit(batch), libc::ENOENT)?;
            }
        }
        Ok(())
    }

    /// Lists a map's keys and data.
    pub(crate) fn map(&mut self, map: &str) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut b = Buffer::message(GETSETELEM, DUMP, &[INET, 0, 0, 0]);
        b.text(1, TABLE);
        b.text(2, map);
        let answers = self.socket.query(&b)?;
        Ok(answers.iter().flat_map(elements).filter_map(|(key, data)| Some((key, data?))).collect())
    }

    /// Asks where a host port leads: `Some(true)` to this element's container, `Some(false)` elsewhere, `None` nowhere.
    pub(crate) fn target(&mut self, port: &PortElement) -> io::Result<Option<bool>> {
        let encode::Data::Value(expected) = port.element().data else { return Ok(None) };
        Ok(self.lookup(port.map(), port.element())?.map(|found| found == expected))
    }

    /// Returns the data of one key of a map.
    pub(crate) fn lookup(&mut self, map: &str, element: encode::Element) -> io::Result<Option<Vec<u8>>> {
        let mut b = Buffer::message(GETSETELEM, 0, &[INET, 0, 0, 0]);
        encode_elements(&mut b, TABLE, map, &[element], false);
        match self.socket.query(&b) {
            Ok(answers) => {
                Ok(answers.iter().find_map(|answer| elements(answer).into_iter().find_map(|(_, data)| data)))
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Finds base chains of others that would drop forwarded packets, and with `input` those to the host, and know nothing of
    /// our bridges.
    pub(crate) fn foreign_drops(&mut self, prefix: &str, input: bool) -> io::Result<Vec<ForeignDrop>> {
        const INPUT: u32 = 1;
        const FORWARD: u32 = 2;
        let mut found = Vec::new();
        for answer in self.socket.dump(GETCHAIN, &[0, 0, 0, 0])? {
            let family = match answer.payload.first() {
                Some(1) => "inet",
                Some(2) => "ip",
                Some(10) => "ip6",
                _ => continue,
            };
            let Some(attributes) = answer.payload.get(4..) else { continue };
            let value = |kind| Attributes::find(attributes, kind);
            let Some(hook) = value(4).and_then(|hook| Attributes::find(hook, 1)) else { continue };
            let drops = value(5).is_some_and(|policy| be32(policy, 0) == 0);
            let name = value(1).map(text).unwrap_or_default();
            let hook = be32(hook, 0);
            if (hook == FORWARD || input && hook == INPUT) && drops && !name.starts_with(TABLE) {
                let chain = value(3).map(text).unwrap_or_default();
                found.push(ForeignDrop { input: hook == INPUT, family, table: name, chain });
            }
        }
        if found.is_empty() {
            return Ok(found);
        }
        // A rule that names our bridges' prefix is the remedy already applied.
        let rules = self.socket.dump(GETRULE, &[0, 0, 0, 0])?;
        found.retain(|chain| {
            !rules.iter().any(|rule| {
                let attributes = rule.payload.get(4..).unwrap_or_default();
                let within = Attributes::find(attributes, 2).map(text).unwrap_or_default();
                Attributes::find(attributes, 1).map(text).as_deref() == Some(&chain.table)
                    // A rule about forwarding in the same table lets no question through.
                    && (!chain.input || within.to_ascii_lowercase().contains("input"))
                    && Attributes::find(attributes, 4)
                        .is_some_and(|body| body.windows(prefix.len()).any(|window| window == prefix.as_bytes()))
            })
        });
        Ok(found)
    }
}

/// Why ports were not published.
#[derive(Debug)]
pub(crate) enum PublishFailure {
    /// The port at this place of the list is taken.
    Taken(usize),
    /// The kernel refused for another reason.
    Kernel(io::Error),
}

/// Reads (key, data) of the elements in one answer.
fn elements(message: &Message) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let Some(list) = message.payload.get(4..).and_then(|bytes| Attributes::find(bytes, 3)) else { return Vec::new() };
    let value = |element: &[u8], kind| {
        Attributes::find(element, kind).and_then(|nested| Attributes::find(nested, 1)).map(<[u8]>::to_vec)
    };
    Attributes(list).filter_map(|(_, element)| Some((value(element, 1)?, value(element, 2)))).collect()
}

fn tolerate(result: io::Result<()>, code: i32) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(code) => Ok(()),
        other => other,
    }
}
