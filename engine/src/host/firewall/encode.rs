//! nf_tables messages: tables, chains, rules as lists of expressions, sets, maps and their elements, in one transaction. In:
//! typed values. Out: bytes for a netlink socket. Never does I/O and knows no table of ours.
//!
//! Written here because no crate with a licence and a reach that fit encodes maps, fib and numgen; `nft list ruleset` judges
//! it in the tests. Source: `include/uapi/linux/netfilter/nf_tables.h`.

use crate::host::netlink::message::{APPEND, Buffer, CREATE, EXCL};

/// `NFNL_SUBSYS_NFTABLES`, shifted to its place in a message type.
pub(crate) const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const DELCHAIN: u16 = SUBSYSTEM | 5;
const NEWRULE: u16 = SUBSYSTEM | 6;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const DELSET: u16 = SUBSYSTEM | 11;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const DELSETELEM: u16 = SUBSYSTEM | 14;

/// `NFPROTO_INET`: one table for IPv4 and IPv6.
pub(crate) const INET: u8 = 1;
/// `NFPROTO_IPV4`.
pub(crate) const IPV4: u8 = 2;
/// `NFPROTO_IPV6`.
pub(crate) const IPV6: u8 = 10;

/// A type of a set's key or data, by the number that the `nft` program uses to print it, and its length in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Type {
    number: u32,
    bytes: u32,
}

impl Type {
    /// An IPv4 address.
    pub(crate) const IPV4_ADDR: Self = Self { number: 7, bytes: 4 };
    /// An IPv6 address.
    pub(crate) const IPV6_ADDR: Self = Self { number: 8, bytes: 16 };
    /// A hardware address.
    pub(crate) const ETHER_ADDR: Self = Self { number: 9, bytes: 6 };
    /// A transport protocol.
    pub(crate) const PROTOCOL: Self = Self { number: 12, bytes: 1 };
    /// A port.
    pub(crate) const PORT: Self = Self { number: 13, bytes: 2 };
    /// A packet or connection mark.
    pub(crate) const MARK: Self = Self { number: 19, bytes: 4 };
    /// An interface's name.
    pub(crate) const IFNAME: Self = Self { number: 41, bytes: 16 };
    /// A plain number, as `numgen` makes.
    pub(crate) const INTEGER: Self = Self { number: 4, bytes: 4 };

    /// Tells the `nft` program how to print keys: type 0 (key byte order), 4 bytes, 1 host or 2 network order.
    fn user_data(self) -> [u8; 6] {
        let host_order = [Self::IFNAME, Self::MARK, Self::INTEGER].contains(&self);
        let value = u32::from(!host_order) + 1;
        let bytes = value.to_ne_bytes();
        [0, 4, bytes[0], bytes[1], bytes[2], bytes[3]]
    }

    /// Joins types: each part takes whole 4-byte registers.
    pub(crate) fn concat(parts: &[Self]) -> Self {
        parts.iter().fold(Self { number: 0, bytes: 0 }, |sum, part| Self {
            number: (sum.number << 6) | part.number,
            bytes: sum.bytes + part.bytes.next_multiple_of(4),
        })
    }
}

/// Pads one part of a concatenated key to whole registers.
pub(crate) fn part(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    padded
}

/// An interface's name as a key: 16 bytes, zero-filled.
pub(crate) fn ifname(name: &str) -> Vec<u8> {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(16, 0);
    padded
}

/// What a set holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Keys.
    Set,
    /// Ranges of keys.
    Ranges,
    /// Keys with data.
    Map(Type),
    /// Keys with verdicts.
    VerdictMap,
}

/// A value that an element's key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    /// Nothing: a plain set.
    None,
    /// Bytes.
    Value(Vec<u8>),
    /// A jump to a chain.
    Jump(String),
}

/// One element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    /// The key's bytes.
    pub(crate) key: Vec<u8>,
    /// What it leads to.
    pub(crate) data: Data,
    /// Whether this key closes a range (exclusive).
    pub(crate) range_end: bool,
}

impl Element {
    /// A plain key.
    pub(crate) fn key(key: Vec<u8>) -> Self {
        Self { key, data: Data::None, range_end: false }
    }

    /// A key with bytes.
    pub(crate) fn value(key: Vec<u8>, value: Vec<u8>) -> Self {
        Self { key, data: Data::Value(value), range_end: false }
    }

    /// The two elements of a range; `None` as the end means up to the last key.
    pub(crate) fn range(start: Vec<u8>, end: Option<Vec<u8>>) -> Vec<Self> {
        let mut elements = vec![Self::key(start)];
        elements.extend(end.map(|key| Self { key, data: Data::None, range_end: true }));
        elements
    }
}

/// Where a base chain hooks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// `filter`, `nat` or `route`.
    pub(crate) kind: &'static str,
    /// 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub(crate) number: u32,
    /// Lower runs earlier.
    pub(crate) priority: i32,
}

/// A verdict's number in `linux/netfilter.h` and nf_tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    /// The packet ends here.
    Drop,
    /// No further rule of this base chain is asked.
    Accept,
    /// Back to the calling chain.
    Return,
    /// On in another chain, and back.
    Jump(&'a str),
}

/// What `fib` or `meta` or `ct` load, and what a rule does: one rule's expressions, in order.
#[derive(Debug, Default)]
pub(crate) struct Rule {
    expressions: Vec<Buffer>,
}

/// The first 16-byte register; its four quarters are [`R32`] to `R32 + 3`.
pub(crate) const R1: u32 = 1;
/// The second 16-byte register.
pub(crate) const R2: u32 = 2;
/// The first 4-byte register.
pub(crate) const R32: u32 = 8;

/// `meta` keys.
pub(crate) mod meta {
    /// The packet's mark.
    pub(crate) const MARK: u32 = 3;
    /// The incoming interface's name.
    pub(crate) const IIFNAME: u32 = 6;
    /// The outgoing interface's name.
    pub(crate) const OIFNAME: u32 = 7;
    /// IPv4 or IPv6.
    pub(crate) const NFPROTO: u32 = 15;
    /// The transport protocol.
    pub(crate) const L4PROTO: u32 = 16;
}

/// `ct` keys and bits.
pub(crate) mod ct {
    /// The state bits.
    pub(crate) const STATE: u32 = 0;
    /// The status bits.
    pub(crate) const STATUS: u32 = 2;
    /// The connection's mark.
    pub(crate) const MARK: u32 = 3;
    /// The zone: connections of different zones are never taken for one another.
    pub(crate) const ZONE: u32 = 17;
    /// established | related.
    pub(crate) const ESTABLISHED_RELATED: u32 = 2 | 4;
    /// `IPS_DST_NAT`.
    pub(crate) const DNAT: u32 = 32;
}

impl Rule {
    /// Starts an empty rule.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn push(mut self, name: &str, fill: impl FnOnce(&mut Buffer)) -> Self {
        let mut b = Buffer::new();
        b.text(1, name);
        b.nest(2, fill);
        self.expressions.push(b);
        self
    }

    /// Loads packet metadata.
    pub(crate) fn meta(self, key: u32, register: u32) -> Self {
        self.push("meta", |b| {
            b.be32(2, key);
            b.be32(1, register);
        })
    }

    /// Writes packet metadata from a register.
    pub(crate) fn meta_set(self, key: u32, register: u32) -> Self {
        self.push("meta", |b| {
            b.be32(2, key);
            b.be32(3, register);
        })
    }

    /// Loads connection metadata.
    pub(crate) fn ct(self, key: u32, register: u32) -> Self {
        self.push("ct", |b| {
            b.be32(2, key);
            b.be32(1, register);
        })
    }

    /// Writes connection metadata from a register.
    pub(crate) fn ct_set(self, key: u32, register: u32) -> Self {
        self.push("ct", |b| {
            b.be32(2, key);
            b.be32(4, register);
        })
    }

    /// Puts what a connection's first sender sends into the zone in a register; the answers stay in the common one.
    pub(crate) fn ct_zone_of_origin(self, register: u32) -> Self {
        const ORIGINAL: u8 = 0;
        self.push("ct", |b| {
            b.be32(2, ct::ZONE);
            b.u8(3, ORIGINAL);
            b.be32(4, register);
        })
    }

    /// Loads bytes of the link header.
    pub(crate) fn link_header(self, offset: u32, length: u32, register: u32) -> Self {
        self.payload(0, offset, length, register)
    }

    /// Loads bytes of the network header.
    pub(crate) fn network_header(self, offset: u32, length: u32, register: u32) -> Self {
        self.payload(1, offset, length, register)
    }

    /// Loads bytes of the transport header.
    pub(crate) fn transport_header(self, offset: u32, length: u32, register: u32) -> Self {
        self.payload(2, offset, length, register)
    }

    fn payload(self, base: u32, offset: u32, length: u32, register: u32) -> Self {
        self.push("payload", |b| {
            b.be32(1, register);
            b.be32(2, base);
            b.be32(3, offset);
            b.be32(4, length);
        })
    }

    /// Goes on where the register equals the value.
    pub(crate) fn equals(self, register: u32, value: &[u8]) -> Self {
        self.compare(0, register, value)
    }

    /// Goes on where the register differs from the value.
    pub(crate) fn differs(self, register: u32, value: &[u8]) -> Self {
        self.compare(1, register, value)
    }

    fn compare(self, operation: u32, register: u32, value: &[u8]) -> Self {
        self.push("cmp", |b| {
            b.be32(1, register);
            b.be32(2, operation);
            b.nest(3, |b| b.raw(1, value));
        })
    }

    /// Keeps the masked bits of a register.
    pub(crate) fn mask(self, register: u32, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).expect("a mask is at most 16 bytes");
        self.push("bitwise", |b| {
            b.be32(1, register);
            b.be32(2, register);
            b.be32(3, length);
            b.nest(4, |b| b.raw(1, mask));
            b.nest(5, |b| b.raw(1, &vec![0; mask.len()]));
        })
    }

    /// Goes on where a connection has one of the bits.
    pub(crate) fn ct_any(self, key: u32, bits: u32) -> Self {
        self.ct(key, R1).mask(R1, &bits.to_ne_bytes()).differs(R1, &0u32.to_ne_bytes())
    }

    /// Goes on for packets of one network protocol.
    pub(crate) fn family(self, family: u8) -> Self {
        self.meta(meta::NFPROTO, R1).equals(R1, &[family])
    }

    /// Goes on where the destination is an address of this host.
    pub(crate) fn destined_here(self) -> Self {
        const ADDRTYPE: u32 = 3;
        const DADDR: u32 = 2;
        const RTN_LOCAL: u32 = 2;
        self.push("fib", |b| {
            b.be32(1, R1);
            b.be32(2, ADDRTYPE);
            b.be32(3, DADDR);
        })
        .equals(R1, &RTN_LOCAL.to_ne_bytes())
    }

    /// Goes on where the register's key is in the set.
    pub(crate) fn in_set(self, set: &str, register: u32) -> Self {
        self.push("lookup", |b| {
            b.text(1, set);
            b.be32(2, register);
        })
    }

    /// Goes on where the register's key is not in the set.
    pub(crate) fn not_in_set(self, set: &str, register: u32) -> Self {
        self.push("lookup", |b| {
            b.text(1, set);
            b.be32(2, register);
            b.be32(5, 1);
        })
    }

    /// Goes on where the map has the register's key, with the data in `into` (0: the verdict).
    pub(crate) fn map(self, map: &str, register: u32, into: u32) -> Self {
        self.push("lookup", |b| {
            b.text(1, map);
            b.be32(2, register);
            b.be32(3, into);
        })
    }

    /// Loads a random number below the modulus.
    pub(crate) fn random(self, modulus: u32, register: u32) -> Self {
        self.push("numgen", |b| {
            b.be32(1, register);
            b.be32(2, modulus);
            b.be32(3, 1);
        })
    }

    /// Sends the connection to the address and port in two registers.
    pub(crate) fn dnat(self, family: u8, address: u32, port: u32) -> Self {
        self.push("nat", |b| {
            b.be32(1, 1);
            b.be32(2, u32::from(family));
            b.be32(3, address);
            b.be32(5, port);
        })
    }

    /// Gives the connection the outgoing interface's address as its source.
    pub(crate) fn masquerade(self) -> Self {
        self.push("masq", |_| {})
    }

    /// Ends with a verdict.
    pub(crate) fn verdict(self, verdict: Verdict<'_>) -> Self {
        self.push("immediate", |b| {
            b.be32(1, 0);
            b.nest(2, |b| encode_verdict(b, verdict));
        })
    }
}

fn encode_verdict(b: &mut Buffer, verdict: Verdict<'_>) {
    const NFT_RETURN: i32 = -5;
    const NFT_JUMP: i32 = -3;
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Return => (NFT_RETURN, None),
        Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
    };
    b.nest(2, |b| {
        b.be32(1, code.cast_unsigned());
        if let Some(chain) = chain {
            b.text(2, chain);
        }
    });
}

/// A transaction on one table: everything in it happens, or nothing.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    table: &'a str,
    buffer: Buffer,
    next_set: u32,
}

impl<'a> Batch<'a> {
    /// Begins a transaction.
    pub(crate) fn new(table: &'a str) -> Self {
        let mut buffer = Buffer::new();
        buffer.begin(BATCH_BEGIN, 0, &frame());
        Self { table, buffer, next_set: 1 }
    }

    /// Ends the transaction; returns the bytes and the sequence number after whose answer no more will come.
    ///
    /// Only the last message asks for an acknowledgement: every failure is told anyway, and an answer to each of many
    /// hundreds would overrun the socket's buffer.
    pub(crate) fn finish(mut self) -> (Buffer, u32) {
        let last = self.buffer.count();
        self.buffer.ask_acknowledgement();
        self.buffer.begin(BATCH_END, 0, &frame());
        (self.buffer, last)
    }

    /// Returns the sequence number that the next message will get.
    pub(crate) fn next_sequence(&self) -> u32 {
        self.buffer.count() + 1
    }

    fn begin(&mut self, kind: u16, flags: u16) {
        self.buffer.begin(kind, flags, &[INET, 0, 0, 0]);
    }

    /// Makes the table; with `exclusive`, one that is there already fails the transaction.
    pub(crate) fn table(&mut self, exclusive: bool) -> &mut Self {
        self.begin(NEWTABLE, if exclusive { CREATE | EXCL } else { CREATE });
        self.buffer.text(1, self.table);
        self.buffer.be32(2, 0);
        self
    }

    /// Removes the table with all in it.
    pub(crate) fn table_remove(&mut self) -> &mut Self {
        self.begin(DELTABLE, 0);
        self.buffer.text(1, self.table);
        self
    }

    /// Makes a chain, hooked in or only jumped to.
    pub(crate) fn chain(&mut self, name: &str, hook: Option<Hook>) -> &mut Self {
        self.begin(NEWCHAIN, CREATE);
        let b = &mut self.buffer;
        b.text(1, self.table);
        b.text(3, name);
        if let Some(hook) = hook {
            b.nest(4, |b| {
                b.be32(1, hook.number);
                b.be32(2, hook.priority.cast_unsigned());
            });
            b.be32(5, 1);
            b.text(7, hook.kind);
        }
        self
    }

    /// Removes every rule of the table.
    pub(crate) fn rules_remove(&mut self) -> &mut Self {
        self.begin(DELRULE, 0);
        self.buffer.text(1, self.table);
        self
    }

    /// Removes every rule of one chain.
    pub(crate) fn chain_flush(&mut self, chain: &str) -> &mut Self {
        self.begin(DELRULE, 0);
        self.buffer.text(1, self.table);
        self.buffer.text(2, chain);
        self
    }

    /// Removes an empty chain that nothing jumps to.
    pub(crate) fn chain_remove(&mut self, chain: &str) -> &mut Self {
        self.begin(DELCHAIN, 0);
        self.buffer.text(1, self.table);
        self.buffer.text(3, chain);
        self
    }

    /// Removes a set that no rule asks.
    pub(crate) fn set_remove(&mut self, set: &str) -> &mut Self {
        self.begin(DELSET, 0);
        self.buffer.text(1, self.table);
        self.buffer.text(2, set);
        self
    }

    /// Adds a rule at the end of a chain.
    pub(crate) fn rule(&mut self, chain: &str, rule: &Rule) -> &mut Self {
        self.begin(NEWRULE, CREATE | APPEND);
        let b = &mut self.buffer;
        b.text(1, self.table);
        b.text(2, chain);
        b.nest(4, |b| {
            for expression in &rule.expressions {
                b.nest(1, |b| b.inline(expression.bytes()));
            }
        });
        self
    }

    /// Makes a set or map.
    pub(crate) fn set(&mut self, name: &str, key: Type, kind: Kind) -> &mut Self {
        const INTERVAL: u32 = 4;
        const MAP: u32 = 8;
        const VERDICT_TYPE: u32 = 0xffff_ff00;
        self.begin(NEWSET, CREATE);
        let id = self.next_set;
        self.next_set += 1;
        let b = &mut self.buffer;
        b.text(1, self.table);
        b.text(2, name);
        b.be32(
            3,
            match kind {
                Kind::Set => 0,
                Kind::Ranges => INTERVAL,
                Kind::Map(_) | Kind::VerdictMap => MAP,
            },
        );
        b.be32(4, key.number);
        b.be32(5, key.bytes);
        match kind {
            Kind::Map(data) => {
                b.be32(6, data.number);
                b.be32(7, data.bytes);
            }
            Kind::VerdictMap => {
                b.be32(6, VERDICT_TYPE);
                b.be32(7, 0);
            }
            Kind::Set | Kind::Ranges => {}
        }
        b.be32(10, id);
        b.raw(13, &key.user_data());
        self
    }

    /// Adds elements; with `exclusive`, a key that is there already fails the transaction with `EEXIST`.
    pub(crate) fn add(&mut self, set: &str, elements: &[Element], exclusive: bool) -> &mut Self {
        self.begin(NEWSETELEM, if exclusive { CREATE | EXCL } else { CREATE });
        self.elements(set, elements, true);
        self
    }

    /// Removes elements; an absent key fails the transaction with `ENOENT`.
    pub(crate) fn remove(&mut self, set: &str, elements: &[Element]) -> &mut Self {
        self.begin(DELSETELEM, 0);
        self.elements(set, elements, false);
        self
    }

    /// Removes every element of a set.
    pub(crate) fn set_flush(&mut self, set: &str) -> &mut Self {
        self.begin(DELSETELEM, 0);
        self.buffer.text(1, self.table);
        self.buffer.text(2, set);
        self
    }

    fn elements(&mut self, set: &str, elements: &[Element], with_data: bool) {
        encode_elements(&mut self.buffer, self.table, set, elements, with_data);
    }
}

/// Writes the attributes of an element message: also what a query for one element carries.
pub(crate) fn encode_elements(b: &mut Buffer, table: &str, set: &str, elements: &[Element], with_data: bool) {
    const INTERVAL_END: u32 = 1;
    b.text(1, table);
    b.text(2, set);
    b.nest(3, |b| {
        for element in elements {
            b.nest(1, |b| {
                b.nest(1, |b| b.raw(1, &element.key));
                match &element.data {
                    Data::Value(value) if with_data => b.nest(2, |b| b.raw(1, value)),
                    Data::Jump(chain) if with_data => b.nest(2, |b| encode_verdict(b, Verdict::Jump(chain))),
                    _ => {}
                }
                if element.range_end {
                    b.be32(3, INTERVAL_END);
                }
            });
        }
    });
}

/// The `nfgenmsg` of a batch's first and last message.
fn frame() -> [u8; 4] {
    [0, 0, 0, 10]
}
