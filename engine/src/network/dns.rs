//! DNS messages as the resolver needs them: one question in, one answer out. In: bytes of a query. Out: bytes of a reply.
//! Pure, bounded, never panics on input. Everything else (records of others) is passed through untouched by the forwarder.
//!
//! Source: RFC 1035 "4. Messages", RFC 2308 (negative answers), RFC 6891 (EDNS).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a message header.
const HEADER_BYTES: usize = 12;
/// What a client without EDNS takes over UDP.
pub(crate) const PLAIN_BYTES: usize = 512;
/// What this resolver sends and advertises over UDP: never fragmented on any link.
pub(crate) const EDNS_BYTES: usize = 1232;
/// How long an answer may be kept: containers come and go.
pub(crate) const TTL_SECONDS: u32 = 5;

/// Record types.
pub(crate) mod kind {
    /// IPv4 address.
    pub(crate) const A: u16 = 1;
    /// Start of authority.
    pub(crate) const SOA: u16 = 6;
    /// Name of an address.
    pub(crate) const PTR: u16 = 12;
    /// IPv6 address.
    pub(crate) const AAAA: u16 = 28;
    /// EDNS.
    pub(crate) const OPT: u16 = 41;
    /// Every type.
    pub(crate) const ANY: u16 = 255;
}

/// A response code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// Fine.
    NoError = 0,
    /// The query is malformed.
    FormErr = 1,
    /// No upstream answered.
    ServFail = 2,
    /// The name does not exist.
    NxDomain = 3,
    /// An operation this resolver does not do.
    NotImp = 4,
    /// Not for this client.
    Refused = 5,
}

/// A parsed query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// The client's number.
    pub(crate) id: u16,
    /// The name, lower case, without the closing dot; empty for the root.
    pub(crate) name: String,
    /// The record type asked for.
    pub(crate) kind: u16,
    /// The class asked for: 1 is IN.
    pub(crate) class: u16,
    /// Where the question ends in the message.
    question_end: usize,
    /// Recursion desired.
    recursion: bool,
    /// The size the client takes over UDP; `None` without EDNS.
    pub(crate) edns: Option<usize>,
}

/// Reads a query. The error is what to reply, `None` for what is not worth a reply (an answer, or noise).
pub(crate) fn parse(message: &[u8]) -> Result<Query, Option<Code>> {
    let word = |at: usize| message.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let (Some(id), Some(flags)) = (word(0), word(2)) else { return Err(None) };
    if message.len() < HEADER_BYTES || flags & 0x8000 != 0 {
        return Err(None);
    }
    if flags & 0x7800 != 0 {
        return Err(Some(Code::NotImp));
    }
    if word(4) != Some(1) {
        return Err(Some(Code::FormErr));
    }
    let (name, at) = name(message).ok_or(Some(Code::FormErr))?;
    let (kind, class) = (word(at).ok_or(Some(Code::FormErr))?, word(at + 2).ok_or(Some(Code::FormErr))?);
    Ok(Query {
        id,
        name,
        kind,
        class,
        question_end: at + 4,
        recursion: flags & 0x0100 != 0,
        edns: edns(message, at + 4),
    })
}

/// Reads the question's name: lower case, and where it ends. No compression: a question has nothing to point back to.
fn name(message: &[u8]) -> Option<(String, usize)> {
    let mut text = String::new();
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((text, at));
        }
        if length > 63 || text.len() + length > 254 {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        for byte in message.get(at..at + length)? {
            // Bytes outside ASCII are no name of ours; they must only stay distinct.
            text.push(char::from(byte.to_ascii_lowercase()));
        }
        at += length;
    }
}

/// Finds the OPT record of a query whose other sections are empty, as real queries are.
fn edns(message: &[u8], at: usize) -> Option<usize> {
    let count = u16::from_be_bytes([*message.get(10)?, *message.get(11)?]);
    let record = message.get(at..at + 11)?;
    if count == 0 || record[0] != 0 || u16::from_be_bytes([record[1], record[2]]) != kind::OPT {
        return None;
    }
    Some(usize::from(u16::from_be_bytes([record[3], record[4]])).clamp(PLAIN_BYTES, 65_535))
}

impl Query {
    /// Returns how many bytes the client takes over UDP.
    pub(crate) fn udp_bytes(&self) -> usize {
        self.edns.map_or(PLAIN_BYTES, |bytes| bytes.min(EDNS_BYTES))
    }

    /// Returns the address that a PTR question asks about.
    pub(crate) fn reverse(&self) -> Option<IpAddr> {
        if let Some(labels) = self.name.strip_suffix(".in-addr.arpa") {
            let mut octets = [0u8; 4];
            let mut parts = labels.split('.');
            for octet in octets.iter_mut().rev() {
                *octet = parts.next()?.parse().ok()?;
            }
            return parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)));
        }
        let labels = self.name.strip_suffix(".ip6.arpa")?;
        let mut value = 0u128;
        let mut count = 0;
        for label in labels.rsplit('.') {
            let digit = u128::from_str_radix(label, 16).ok().filter(|_| label.len() == 1)?;
            value = (value << 4) | digit;
            count += 1;
        }
        (count == 32).then(|| IpAddr::V6(Ipv6Addr::from(value)))
    }
}

/// What a reply says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Addresses of the types asked for, in this order.
    Addresses(Vec<IpAddr>),
    /// The name of an address.
    Name(String),
    /// Nothing of this type, or no such name.
    Negative(Code),
}

/// Writes a reply of at most `bytes`; records that do not fit are left out and the truncation flag tells so.
pub(crate) fn reply(message: &[u8], query: &Query, answer: &Answer, bytes: usize) -> Vec<u8> {
    let code = match answer {
        Answer::Negative(code) => *code,
        Answer::Addresses(_) | Answer::Name(_) => Code::NoError,
    };
    let mut out = Vec::with_capacity(bytes.min(PLAIN_BYTES));
    out.extend_from_slice(&query.id.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&message[HEADER_BYTES..query.question_end]);
    let room = bytes.saturating_sub(if query.edns.is_some() { 11 } else { 0 });
    let (mut records, mut truncated, mut authority) = (0u16, false, 0u8);
    match answer {
        Answer::Addresses(addresses) => {
            for address in addresses {
                let length = out.len();
                push_address(&mut out, *address);
                if out.len() > room {
                    out.truncate(length);
                    truncated = true;
                    break;
                }
                records += 1;
            }
        }
        Answer::Name(name) => {
            let value = encode_name(name);
            push_header(&mut out, kind::PTR, value.len());
            out.extend_from_slice(&value);
            records = 1;
        }
        Answer::Negative(Code::NoError | Code::NxDomain) => {
            push_soa(&mut out);
            authority = 1;
        }
        Answer::Negative(_) => {}
    }
    if query.edns.is_some() {
        let [high, low] = u16::try_from(EDNS_BYTES).unwrap_or(u16::MAX).to_be_bytes();
        out.extend_from_slice(&[0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]);
        out[11] = 1;
    }
    // QR, AA where the name is ours, TC, RD as asked; RA and the code.
    out[2] = 0x80 | 0x04 | (u8::from(truncated) << 1) | u8::from(query.recursion);
    out[3] = 0x80 | code as u8;
    out[6..8].copy_from_slice(&records.to_be_bytes());
    out[9] = authority;
    out
}

/// Writes a reply to what could not be parsed: the header alone.
pub(crate) fn refusal(message: &[u8], code: Code) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    out[..2].copy_from_slice(message.get(..2).unwrap_or(&[0, 0]));
    out[2] = 0x80 | (message.get(2).copied().unwrap_or_default() & 0x79);
    out[3] = 0x80 | code as u8;
    out
}

/// Turns a query into the reply that nobody could answer it; the answer section stays empty.
pub(crate) fn failure(message: &[u8], query: &Query, code: Code) -> Vec<u8> {
    let mut out = reply(message, query, &Answer::Negative(code), PLAIN_BYTES);
    out[2] &= !0x04;
    out
}

fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            push_header(out, kind::A, 4);
            out.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            push_header(out, kind::AAAA, 16);
            out.extend_from_slice(&address.octets());
        }
    }
}

/// Writes a record's header whose owner is the question's name.
fn push_header(out: &mut Vec<u8>, kind: u16, length: usize) {
    out.extend_from_slice(&[0xc0, 0x0c]);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(&TTL_SECONDS.to_be_bytes());
    out.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
}

/// Writes the SOA that bounds how long "nothing" may be kept.
fn push_soa(out: &mut Vec<u8>) {
    push_header(out, kind::SOA, 22);
    out.extend_from_slice(&[0, 0]);
    for number in [1, 3600, 600, 86_400, TTL_SECONDS] {
        out.extend_from_slice(&number.to_be_bytes());
    }
}

fn encode_name(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let bytes = &label.as_bytes()[..label.len().min(63)];
        out.push(u8::try_from(bytes.len()).expect("at most 63"));
        out.extend_from_slice(bytes);
    }
    out.push(0);
    out
}

/// Writes a query: what a client would send. Also the load generator of the tests.
pub fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&encode_name(name));
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, answer: &Answer, bytes: usize) -> Vec<u8> {
        let message = query(7, "Web.Example", kind);
        reply(&message, &parse(&message).expect("a query"), answer, bytes)
    }

    #[test]
    fn a_question_is_read_in_lower_case_and_echoed_as_asked() {
        let message = query(7, "Web.Example", kind::A);
        let query = parse(&message).expect("a query");
        assert_eq!((query.id, query.name.as_str(), query.kind, query.class), (7, "web.example", kind::A, 1));
        let out = reply(&message, &query, &Answer::Addresses(vec!["10.0.0.1".parse().expect("an address")]), 512);
        assert_eq!(&out[12..message.len()], &message[12..]);
        assert_eq!(&out[2..8], [0x85, 0x80, 0, 1, 0, 1]);
        assert_eq!(&out[out.len() - 6..], [0, 4, 10, 0, 0, 1]);
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_told() {
        let many: Vec<IpAddr> = (0..100u8).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let out = answer(kind::A, &Answer::Addresses(many.clone()), 512);
        assert!(out.len() <= 512 && out[2] & 2 != 0);
        assert_eq!(u16::from_be_bytes([out[6], out[7]]), 30);
        let out = answer(kind::A, &Answer::Addresses(many), 65_535);
        assert_eq!((out[2] & 2, u16::from_be_bytes([out[6], out[7]])), (0, 100));
    }

    #[test]
    fn nothing_of_a_type_differs_from_no_such_name_and_both_carry_a_soa() {
        let nodata = answer(kind::AAAA, &Answer::Negative(Code::NoError), 512);
        let nothing = answer(kind::AAAA, &Answer::Negative(Code::NxDomain), 512);
        assert_eq!((nodata[3] & 15, nothing[3] & 15), (0, 3));
        assert_eq!((nodata[9], nodata[7]), (1, 0));
        let failed = answer(kind::AAAA, &Answer::Negative(Code::ServFail), 512);
        assert_eq!((failed[3] & 15, failed[9]), (2, 0));
    }

    #[test]
    fn edns_is_answered_and_its_size_honoured() {
        let mut message = query(1, "a", kind::A);
        message[11] = 1;
        message.extend_from_slice(&[0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        let query = parse(&message).expect("a query");
        assert_eq!((query.edns, query.udp_bytes()), (Some(4096), 1232));
        let out = reply(&message, &query, &Answer::Addresses(vec![]), query.udp_bytes());
        assert_eq!((out[11], out[out.len() - 9]), (1, 41));
    }

    #[test]
    fn reverse_names_are_addresses() {
        let ask = |name: &str| parse(&query(1, name, kind::PTR)).expect("a query").reverse().map(|ip| ip.to_string());
        assert_eq!(ask("4.3.2.1.in-addr.arpa").as_deref(), Some("1.2.3.4"));
        assert_eq!(ask("3.2.1.in-addr.arpa"), None);
        assert_eq!(ask(&format!("2.{}d.f.ip6.arpa", "0.".repeat(29))).as_deref(), Some("fd00::2"));
        assert_eq!(ask("x.ip6.arpa"), None);
    }

    #[test]
    fn noise_is_refused_or_dropped_and_never_panics() {
        assert_eq!(parse(&[]), Err(None));
        assert_eq!(parse(&[0; 12]), Err(Some(Code::FormErr)));
        let mut reply = query(1, "a", kind::A);
        reply[2] |= 0x80;
        assert_eq!(parse(&reply), Err(None));
        let mut update = query(1, "a", kind::A);
        update[2] |= 0x28;
        assert_eq!(parse(&update), Err(Some(Code::NotImp)));
        let mut loops = query(1, "a", kind::A);
        loops[12] = 0xc0;
        assert_eq!(parse(&loops), Err(Some(Code::FormErr)));
        let full = query(1, &"abcdefgh.".repeat(40), kind::A);
        assert_eq!(parse(&full), Err(Some(Code::FormErr)));
        let good = query(9, "some.name", kind::A);
        for cut in 0..good.len() {
            let _ = parse(&good[..cut]);
            let _ = refusal(&good[..cut], Code::FormErr);
        }
    }
}
