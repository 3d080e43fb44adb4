//! D-Bus messages as bytes, little-endian, as much of them as a client of systemd needs. dbus-specification "Message
//! Protocol". Reading never trusts a length.

/// The longest message accepted; the bus allows 128 MiB, systemd's answers are a few hundred bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A value of a property.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Text(String),
    Texts(Vec<String>),
    Bytes(Vec<u8>),
    U32s(Vec<u32>),
    Pairs(Vec<(String, String)>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Self::Bool(_) => "b",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::I64(_) => "x",
            Self::U64(_) => "t",
            Self::Text(_) => "s",
            Self::Texts(_) => "as",
            Self::Bytes(_) => "ay",
            Self::U32s(_) => "au",
            Self::Pairs(_) => "a(ss)",
        }
    }
}

/// A body (or a message) being written.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.align(8);
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn boolean(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    pub(super) fn string(&mut self, text: &str) {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// An array: its length counts from the first element, after the padding.
    fn array(&mut self, align: usize, fill: impl FnOnce(&mut Self)) {
        self.u32(0);
        let length_at = self.0.len() - 4;
        self.align(align);
        let start = self.0.len();
        fill(self);
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    pub(super) fn empty_array(&mut self, align: usize) {
        self.array(align, |_| {});
    }

    /// `a(sv)`
    pub(super) fn properties(&mut self, all: &[(String, Value)]) {
        self.array(8, |out| {
            for (name, value) in all {
                out.align(8);
                out.string(name);
                out.variant(value);
            }
        });
    }

    fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Bool(value) => self.boolean(*value),
            Value::I32(value) => self.u32(value.cast_unsigned()),
            Value::U32(value) => self.u32(*value),
            Value::I64(value) => self.u64(value.cast_unsigned()),
            Value::U64(value) => self.u64(*value),
            Value::Text(text) => self.string(text),
            Value::Texts(texts) => self.array(4, |out| texts.iter().for_each(|text| out.string(text))),
            Value::Bytes(bytes) => self.array(1, |out| out.0.extend(bytes)),
            Value::U32s(values) => self.array(4, |out| values.iter().for_each(|value| out.u32(*value))),
            Value::Pairs(pairs) => self.array(8, |out| {
                for (first, second) in pairs {
                    out.align(8);
                    out.string(first);
                    out.string(second);
                }
            }),
        }
    }
}

/// A whole message to send. `fields` are the header fields 1 (path), 2 (interface), 3 (member) and 6 (destination).
pub(super) fn call(serial: u32, fields: &[(u8, &str)], signature: &str, body: Writer) -> Vec<u8> {
    message(1, serial, fields, None, signature, body)
}

/// Any message; `reply` is field 5.
pub(super) fn message(
    kind: u8,
    serial: u32,
    fields: &[(u8, &str)],
    reply: Option<u32>,
    signature: &str,
    body: Writer,
) -> Vec<u8> {
    let mut out = Writer(vec![b'l', kind, 0, 1]);
    out.u32(u32::try_from(body.0.len()).unwrap_or(u32::MAX));
    out.u32(serial);
    out.array(8, |out| {
        for (code, text) in fields {
            out.align(8);
            out.0.push(*code);
            out.signature(if *code == 1 { "o" } else { "s" });
            out.string(text);
        }
        if let Some(reply) = reply {
            out.align(8);
            out.0.push(5);
            out.signature("u");
            out.u32(reply);
        }
        if !signature.is_empty() {
            out.align(8);
            out.0.push(8);
            out.signature("g");
            out.signature(signature);
        }
    });
    out.align(8);
    out.0.extend(body.0);
    out.0
}

/// A message received.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) serial: u32,
    pub(super) reply_to: u32,
    pub(super) member: String,
    pub(super) error: String,
    pub(super) signature: String,
    pub(super) body: Vec<u8>,
}

/// How long the message is whose first 16 bytes these are; `None` if they do not begin one we accept.
pub(super) fn length(head: &[u8; 16]) -> Option<usize> {
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if head[0] != b'l' || head[3] != 1 {
        return None;
    }
    let fields = usize::try_from(word(12)).ok()?;
    let body = usize::try_from(word(4)).ok()?;
    let total = 16usize.checked_add(fields)?.checked_next_multiple_of(8)?.checked_add(body)?;
    (total <= MESSAGE_BYTES_MAX).then_some(total)
}

/// Reads a whole message.
pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
    let head: &[u8; 16] = bytes.first_chunk()?;
    if length(head)? != bytes.len() {
        return None;
    }
    let mut reader = Reader { bytes, at: 8 };
    let mut message = Message { kind: bytes[1], serial: reader.u32()?, ..Message::default() };
    let end = usize::try_from(reader.u32()?).ok()? + 16;
    while reader.at < end {
        reader.align(8)?;
        if reader.at >= end {
            break;
        }
        let code = reader.byte()?;
        let signature = reader.signature()?;
        match (code, signature.as_str()) {
            (3, "s") => message.member = reader.string()?,
            (4, "s") => message.error = reader.string()?,
            (5, "u") => message.reply_to = reader.u32()?,
            (8, "g") => message.signature = reader.signature()?,
            (_, "s" | "o") => drop(reader.string()?),
            (_, "u") => drop(reader.u32()?),
            (_, "g") => drop(reader.signature()?),
            _ => return None,
        }
    }
    reader.at = end;
    reader.align(8)?;
    message.body = bytes.get(reader.at..)?.to_vec();
    Some(message)
}

/// Reads a body.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(to)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A string or an object path.
    pub(super) fn string(&mut self) -> Option<String> {
        let length = usize::try_from(self.u32()?).ok()?;
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        (self.byte()? == 0).then_some(text)
    }

    pub(super) fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        (self.byte()? == 0).then_some(text)
    }
}

#[cfg(test)]
impl Writer {
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}
