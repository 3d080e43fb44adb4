//! Netlink bytes: one message = header, family header, attributes. In: numbers and slices. Out: the bytes the kernel reads,
//! and an iterator over the attributes of what it answers. Never does I/O, never panics on what the kernel sent.
//!
//! One codec serves the three families used here (route, nf_tables, conntrack): they share this framing and differ only in
//! attribute numbers.

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER_BYTES: usize = 16;
/// `NLM_F_REQUEST`: every message from user space carries it.
pub(crate) const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: the kernel answers with an error message whose code is 0 on success.
pub(crate) const ACK: u16 = 0x4;
/// `NLM_F_DUMP`: the kernel answers with every object of the kind.
pub(crate) const DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`: a present object is overwritten.
pub(crate) const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`: a present object is an error.
pub(crate) const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`: an absent object is made.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: the object goes to the end of its list.
pub(crate) const APPEND: u16 = 0x800;

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// What is left of an attribute's type without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const TYPE_MASK: u16 = 0x3fff;

/// One or more netlink messages under construction.
#[derive(Debug, Default, Clone)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// Where the open message starts.
    start: usize,
    /// How many messages were begun.
    count: u32,
}

impl Buffer {
    /// Returns an empty buffer.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Returns a buffer that holds one begun message.
    pub(crate) fn message(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let mut buffer = Self::new();
        buffer.begin(kind, flags, family_header);
        buffer
    }

    /// Begins a message. Its sequence number is its place in the buffer, from 1; the socket adds its own base.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, family_header: &[u8]) {
        self.start = self.bytes.len();
        self.count += 1;
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(family_header);
        self.pad();
        self.close();
    }

    /// Lets the message that was begun last ask for an acknowledgement.
    pub(crate) fn ask_acknowledgement(&mut self) {
        // The flags are the second 16 bits after the length and the kind.
        if let Some(flags) = self.bytes.get_mut(self.start + 6..self.start + 8) {
            let asked = u16::from_ne_bytes([flags[0], flags[1]]) | ACK;
            flags.copy_from_slice(&asked.to_ne_bytes());
        }
    }

    /// Returns how many messages the buffer holds.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Returns the bytes to send.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds an attribute with raw bytes.
    pub(crate) fn raw(&mut self, kind: u16, value: &[u8]) {
        let length =
            u16::try_from(value.len() + 4).expect("attribute values here are names, addresses and small structs");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self.close();
    }

    /// Adds a byte.
    pub(crate) fn u8(&mut self, kind: u16, value: u8) {
        self.raw(kind, &[value]);
    }

    /// Adds a 32-bit number in the host's byte order (route family).
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.raw(kind, &value.to_ne_bytes());
    }

    /// Adds a 16-bit number in network byte order.
    pub(crate) fn be16(&mut self, kind: u16, value: u16) {
        self.raw(kind, &value.to_be_bytes());
    }

    /// Adds a 32-bit number in network byte order (netfilter families).
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.raw(kind, &value.to_be_bytes());
    }

    /// Adds a string with its closing zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.raw(kind, &bytes);
    }

    /// Adds a nested attribute whose content `fill` writes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - at).expect("nested attributes here stay far below 64 KiB");
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.close();
    }

    /// Adds bytes without an attribute header (the `ifinfomsg` inside `VETH_INFO_PEER`).
    pub(crate) fn inline(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.pad();
        self.close();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// Writes the length of the open message; a fragment of attributes has none.
    fn close(&mut self) {
        if self.count == 0 {
            return;
        }
        let length = u32::try_from(self.bytes.len() - self.start).expect("a message here stays far below 4 GiB");
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// One received message.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// `nlmsg_flags`.
    pub(crate) flags: u16,
    /// `nlmsg_seq`.
    pub(crate) sequence: u32,
    /// Everything after the header.
    pub(crate) payload: Vec<u8>,
}

/// Splits what one `recv` returned into messages; stops at the first malformed header.
pub(crate) fn split(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while bytes.len() >= HEADER_BYTES {
        let length = ne32(bytes, 0) as usize;
        if length < HEADER_BYTES || length > bytes.len() {
            break;
        }
        messages.push(Message {
            kind: ne16(bytes, 4),
            flags: ne16(bytes, 6),
            sequence: ne32(bytes, 8),
            payload: bytes[HEADER_BYTES..length].to_vec(),
        });
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    messages
}

/// Iterates over attributes: (type without flags, value). Stops at the first malformed one.
#[derive(Debug, Clone)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Attributes<'a> {
    /// Returns the value of the first attribute of a type.
    pub(crate) fn find(bytes: &'a [u8], kind: u16) -> Option<&'a [u8]> {
        Self(bytes).find_map(|(found, value)| (found == kind).then_some(value))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.len() < 4 {
            return None;
        }
        let length = ne16(self.0, 0) as usize;
        if length < 4 || length > self.0.len() {
            return None;
        }
        let item = (ne16(self.0, 2) & TYPE_MASK, &self.0[4..length]);
        self.0 = &self.0[length.next_multiple_of(4).min(self.0.len())..];
        Some(item)
    }
}

/// Reads 16 bits in host order; 0 where the bytes end.
pub(crate) fn ne16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]))
}

/// Reads 32 bits in host order; 0 where the bytes end.
pub(crate) fn ne32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

/// Reads 32 bits in network order; 0 where the bytes end.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// Reads text up to its closing zero, lossily.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_lengths_are_not() {
        let mut buffer = Buffer::message(16, ACK, &[0; 16]);
        buffer.text(3, "eth0");
        buffer.nest(18, |b| b.u8(1, 7));
        let messages = split(buffer.bytes());
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].flags, ACK | REQUEST);
        let attributes: Vec<_> = Attributes(&messages[0].payload[16..]).collect();
        assert_eq!(attributes[0], (3, &b"eth0\0"[..]));
        assert_eq!(attributes[1].0, 18);
        assert_eq!(Attributes::find(attributes[1].1, 1), Some(&[7u8][..]));
        assert_eq!(buffer.bytes().len() % 4, 0);
    }

    #[test]
    fn two_messages_are_numbered_and_split_again() {
        let mut buffer = Buffer::new();
        buffer.begin(1, 0, &[]);
        buffer.u32(1, 5);
        buffer.begin(2, 0, &[]);
        buffer.be16(1, 0x1234);
        let messages = split(buffer.bytes());
        assert_eq!((messages[0].sequence, messages[1].sequence), (1, 2));
        assert_eq!(Attributes::find(&messages[1].payload, 1), Some(&[0x12u8, 0x34][..]));
    }

    #[test]
    fn malformed_answers_end_the_iteration() {
        assert!(split(&[3, 0, 0, 0, 1]).is_empty());
        assert!(split(&[255; 16]).is_empty());
        assert!(Attributes(&[2, 0, 1, 0]).next().is_none());
        assert!(Attributes(&[200, 0, 1, 0, 9]).next().is_none());
    }
}
