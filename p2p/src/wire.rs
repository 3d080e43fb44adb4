//! Every message between nodes and every protocol name. In: messages. Out: frames, and back. Nothing else of the crate
//! knows what the bytes look like.
//!
//! A frame is `length (LEB128) · kind · body`; the body is postcard, rows are `row/1`. A kind that is not known is skipped;
//! bytes behind a known body are fields of a newer build and are ignored.

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::id::{ClusterId, NodeId};
use crate::table::codec::{Reader, put_varint};
use crate::table::row::BODY_MAX;

/// Hello and heartbeats.
pub const MEMBER: &str = "/shoal/member/1";
/// Pushed rows.
pub const GOSSIP: &str = "/shoal/gossip/1";
/// Reconciliation.
pub const REPAIR: &str = "/shoal/repair/1";
/// Admission: the only protocol an unknown peer is answered on.
pub const ADMIT: &str = "/shoal/admit/2";
/// Requests and answers between nodes.
pub const RPC: &str = "/shoal/rpc/1";
/// Blobs of images.
pub const BLOB: &str = "/shoal/blob/1";
/// Tunnels.
pub const TUNNEL: &str = "/shoal/tunnel/1";

/// Largest frame: one row with the largest body and its key, or a full batch.
pub const FRAME_MAX: usize = BODY_MAX + 4096;
/// Rows are batched up to this many bytes; a single larger row travels alone.
pub const BATCH_MAX: usize = 16 * 1024;

/// The least bytes of a packed row or of a certificate. What is shorter is none: a frame full of empty ones would take a
/// hundred times its size in memory.
const PACKED_MIN: usize = 12;

/// Packed rows, none shorter than [`PACKED_MIN`], so that what is read takes a few times the frame at most.
#[derive(Deserialize)]
struct Packed(#[serde(deserialize_with = "packed")] Vec<Vec<u8>>);

/// Reads a list of byte strings, none shorter than [`PACKED_MIN`].
fn packed<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<u8>>, D::Error> {
    struct List;
    impl<'de> Visitor<'de> for List {
        type Value = Vec<Vec<u8>>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "byte strings of at least {PACKED_MIN} bytes")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut out = Vec::new();
            while let Some(bytes) = list.next_element::<Vec<u8>>()? {
                if bytes.len() < PACKED_MIN {
                    return Err(A::Error::custom("too short"));
                }
                out.push(bytes);
            }
            Ok(out)
        }
    }
    from.deserialize_seq(List)
}

/// Which of the standing streams a message takes, so that heartbeats never queue behind rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// [`MEMBER`].
    Member,
    /// [`GOSSIP`].
    Gossip,
    /// [`REPAIR`].
    Repair,
}

/// All lanes.
pub const LANES: [Lane; 3] = [Lane::Member, Lane::Gossip, Lane::Repair];

impl Lane {
    /// Its protocol name.
    #[must_use]
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Member => MEMBER,
            Self::Gossip => GOSSIP,
            Self::Repair => REPAIR,
        }
    }
}

/// The first thing both ends say on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster.
    pub cluster: ClusterId,
    /// The sender's certificates, its own first, up to the one the root signed.
    #[serde(deserialize_with = "packed")]
    pub chain: Vec<Vec<u8>>,
    /// Random name of this start of the process.
    pub instance: u64,
    /// The sender's epoch.
    pub epoch: u64,
    /// The greatest epoch of the receiver that the sender has seen.
    pub your_epoch: u64,
    /// The sender's site.
    pub site: String,
    /// The feature level the sender speaks.
    pub level: u16,
}

/// A heartbeat that measures; the others are [`Message::Alive`]. Times are for round trip and clock offset: each end echoes the other's last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Beat {
    /// Low half of the sender's instance.
    pub instance: u32,
    /// The sender's epoch.
    pub epoch: u64,
    /// The sequence of the sender's node row.
    pub seq: u64,
    /// The sender's wall clock in ms; 0 when it does not measure this time.
    pub sent_ms: u64,
    /// The receiver's last `sent_ms`; 0 for none.
    pub echo_ms: u64,
    /// How long the sender held it, in ms.
    pub held_ms: u64,
}

/// The sum of a set of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WireSum {
    /// How many rows.
    pub count: u32,
    /// Sum of their fingerprints.
    pub print: u64,
}

/// A part of a class: the keys whose hash starts with the upper `bits` bits of `prefix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Scope bit and table.
    pub class: u16,
    /// How many bits of the prefix count, at most 64.
    pub bits: u8,
    /// The prefix, in the upper bits.
    pub prefix: u64,
}

/// What a node says of a span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// The sum of its rows there.
    Sum(WireSum),
    /// Its rows there: (upper half of the key's hash, lower half of the fingerprint).
    Items(Vec<(u64, u32)>),
}

/// What nodes say to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Beat`].
    Beat(Beat),
    /// "Send me a heartbeat."
    Ask,
    /// Rows that travel a tree. The receiver passes them on to the nodes of its ring between itself and `until`.
    Push {
        /// Where the receiver's part of the ring ends (not included).
        until: NodeId,
        /// When not 0: tell the sender when these rows are on disk.
        ack: u64,
        /// Packed rows.
        rows: Vec<Vec<u8>>,
    },
    /// The rows pushed with this `ack` are on the sender's disk.
    Stored(u64),
    /// The sums of all rows: everywhere, within the site.
    Root(WireSum, WireSum),
    /// The sums of all classes.
    Sums(Vec<(u16, WireSum)>),
    /// Claims on spans.
    Spans(Vec<(Span, Claim)>),
    /// Rows the receiver lacks or has otherwise.
    Rows(Vec<Vec<u8>>),
    /// Rows the sender lacks: class and upper half of the key's hash.
    Want(Vec<(u16, u64)>),
    /// "I live": a heartbeat that measures nothing. A build that does not know it hears it like any other message.
    Alive,
    /// A kind of a newer build.
    Unknown(u8),
}

/// Largest admission message: a chain of the greatest length.
pub const ADMIT_MAX: usize = 16 * 1024;

/// What a stranger and a member say to each other on [`ADMIT`], in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admission {
    /// The stranger: with which token it wants in.
    Ask {
        /// The cluster the token is for.
        cluster: ClusterId,
        /// The token's id.
        token: u64,
        /// A random number.
        nonce: [u8; 16],
    },
    /// The member: who it is.
    Offer {
        /// Its certificates, its own first.
        chain: Vec<Vec<u8>>,
        /// A random number.
        nonce: [u8; 16],
    },
    /// The stranger: that it knows the token's secret (a signature).
    Proof(Vec<u8>),
    /// The member: the stranger's certificates, its own first.
    Granted(Vec<Vec<u8>>),
    /// The member: why not.
    Refused(String),
}

impl Admission {
    /// The frame's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("messages are plain data")
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn decode(frame: &[u8]) -> Result<Self, WireError> {
        if frame.len() > ADMIT_MAX {
            return Err(WireError::Oversize(frame.len() as u64));
        }
        postcard::from_bytes(frame).map_err(|_| WireError::Malformed(0))
    }
}

/// Why a frame cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Longer than [`FRAME_MAX`].
    #[error("a frame of {0} bytes, at most {FRAME_MAX} are allowed")]
    Oversize(u64),
    /// Not what its kind says.
    #[error("a malformed message of kind {0}")]
    Malformed(u8),
    /// No kind.
    #[error("an empty frame")]
    Empty,
}

impl Message {
    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Beat(_) => 2,
            Self::Ask => 3,
            Self::Push { .. } => 4,
            Self::Stored(_) => 5,
            Self::Root(..) => 6,
            Self::Sums(_) => 7,
            Self::Spans(_) => 8,
            Self::Rows(_) => 9,
            Self::Want(_) => 10,
            Self::Alive => 11,
            Self::Unknown(kind) => *kind,
        }
    }

    /// Which standing stream it takes.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Self::Hello(_) | Self::Beat(_) | Self::Ask | Self::Alive | Self::Unknown(_) => Lane::Member,
            Self::Push { .. } | Self::Stored(_) => Lane::Gossip,
            _ => Lane::Repair,
        }
    }

    /// The frame's content: kind and body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let with = |out: Vec<u8>, value: Result<Vec<u8>, postcard::Error>| {
            let mut out = out;
            out.extend_from_slice(&value.expect("messages are plain data"));
            out
        };
        let out = vec![self.kind()];
        match self {
            Self::Hello(hello) => with(out, postcard::to_allocvec(hello)),
            Self::Beat(beat) => with(out, postcard::to_allocvec(beat)),
            Self::Ask | Self::Alive | Self::Unknown(_) => out,
            Self::Push { until, ack, rows } => with(out, postcard::to_allocvec(&(until, ack, rows))),
            Self::Stored(ack) => with(out, postcard::to_allocvec(ack)),
            Self::Root(global, site) => with(out, postcard::to_allocvec(&(global, site))),
            Self::Sums(sums) => with(out, postcard::to_allocvec(sums)),
            Self::Spans(spans) => with(out, postcard::to_allocvec(spans)),
            Self::Rows(rows) => with(out, postcard::to_allocvec(rows)),
            Self::Want(wants) => with(out, postcard::to_allocvec(wants)),
        }
    }

    /// Reads a frame's content.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn decode(frame: &[u8]) -> Result<Self, WireError> {
        if frame.len() > FRAME_MAX {
            return Err(WireError::Oversize(frame.len() as u64));
        }
        let (&kind, body) = frame.split_first().ok_or(WireError::Empty)?;
        fn read<'a, T: Deserialize<'a>>(kind: u8, body: &'a [u8]) -> Result<T, WireError> {
            postcard::take_from_bytes(body).map(|(value, _)| value).map_err(|_| WireError::Malformed(kind))
        }
        Ok(match kind {
            1 => Self::Hello(read(kind, body)?),
            2 => Self::Beat(read(kind, body)?),
            3 => Self::Ask,
            4 => {
                let (until, ack, Packed(rows)) = read(kind, body)?;
                Self::Push { until, ack, rows }
            }
            5 => Self::Stored(read(kind, body)?),
            6 => {
                let (global, site) = read(kind, body)?;
                Self::Root(global, site)
            }
            7 => Self::Sums(read(kind, body)?),
            8 => Self::Spans(read(kind, body)?),
            9 => Self::Rows(read::<Packed>(kind, body)?.0),
            10 => Self::Want(read(kind, body)?),
            11 => Self::Alive,
            _ => Self::Unknown(kind),
        })
    }

    /// How many bytes the frame takes on a stream, length included.
    #[must_use]
    pub fn framed_len(&self) -> usize {
        let content = self.encode().len();
        content
            + if content < 0x80 {
                1
            } else if content < 0x4000 {
                2
            } else {
                3
            }
    }
}

/// Puts the length in front of a frame's content.
#[must_use]
pub fn frame(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 3);
    put_varint(&mut out, content.len() as u64);
    out.extend_from_slice(content);
    out
}

/// The length a frame's first bytes announce and how many bytes said so; `None` while more bytes are needed.
///
/// # Errors
/// [`WireError::Oversize`] before anything of that size is allocated.
pub fn frame_length(bytes: &[u8], most: usize) -> Result<Option<(usize, usize)>, WireError> {
    let mut reader = Reader::new(bytes);
    match reader.varint() {
        Ok(length) if length <= most as u64 => {
            Ok(Some((usize::try_from(length).expect("bounded by a usize"), bytes.len() - reader.left())))
        }
        Ok(length) => Err(WireError::Oversize(length)),
        Err(_) if bytes.len() >= 10 => Err(WireError::Oversize(u64::MAX)),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Message> {
        let span = Span { class: 18, bits: 4, prefix: 0xf000_0000_0000_0000 };
        vec![
            Message::Hello(Hello {
                cluster: ClusterId(5),
                chain: vec![vec![1; 162]],
                instance: 6,
                epoch: 7,
                your_epoch: 8,
                site: "eu".into(),
                level: 1,
            }),
            Message::Beat(Beat { instance: 1, epoch: 2, seq: 3, sent_ms: 4, echo_ms: 5, held_ms: 6 }),
            Message::Ask,
            Message::Alive,
            Message::Push { until: NodeId(9), ack: 10, rows: vec![vec![1; 40], vec![2; PACKED_MIN]] },
            Message::Stored(11),
            Message::Root(WireSum { count: 1, print: u64::MAX }, WireSum::default()),
            Message::Sums(vec![(18, WireSum::default())]),
            Message::Spans(vec![(span, Claim::Sum(WireSum::default())), (span, Claim::Items(vec![(1, 2)]))]),
            Message::Rows(vec![vec![0; 300]]),
            Message::Want(vec![(18, 5)]),
        ]
    }

    #[test]
    fn every_message_reads_back_and_fields_of_a_newer_build_do_no_harm() {
        for message in samples() {
            let mut bytes = message.encode();
            assert_eq!(Message::decode(&bytes).unwrap(), message);
            bytes.extend_from_slice(&[9, 9, 9]);
            assert_eq!(Message::decode(&bytes).unwrap(), message, "with bytes behind it");
        }
        assert_eq!(Message::decode(&[200, 1, 2]).unwrap(), Message::Unknown(200));
        assert_eq!(Message::decode(&[]), Err(WireError::Empty));
    }

    #[test]
    fn a_length_is_refused_before_it_is_allocated() {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, u64::from(u32::MAX));
        assert!(matches!(frame_length(&bytes, FRAME_MAX), Err(WireError::Oversize(_))));
        assert_eq!(frame_length(&[0x80], FRAME_MAX), Ok(None));
        assert!(frame_length(&[0xff; 10], FRAME_MAX).is_err());
        let framed = frame(&[7; 300]);
        assert_eq!(frame_length(&framed, FRAME_MAX), Ok(Some((300, 2))));
    }

    #[test]
    fn a_frame_of_empty_rows_is_refused_and_not_blown_up_in_memory() {
        for message in [
            Message::Rows(vec![vec![]; 100_000]),
            Message::Push { until: NodeId(1), ack: 0, rows: vec![vec![7; PACKED_MIN - 1]; 9] },
        ] {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Err(WireError::Malformed(bytes[0])));
        }
    }

    #[test]
    fn an_idle_repair_round_stays_below_a_hundred_bytes() {
        let sum = WireSum { count: 100_000, print: u64::MAX };
        assert!(Message::Root(sum, sum).framed_len() <= 40);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(kind in 0u8..12, body in proptest::collection::vec(proptest::num::u8::ANY, 0..100)) {
            let mut bytes = vec![kind];
            bytes.extend_from_slice(&body);
            let _ = Message::decode(&bytes);
        }

        #[test]
        fn cut_messages_are_refused_or_shorter(at in 0usize..11, cut in 0usize..400) {
            let bytes = samples()[at].encode();
            let _ = Message::decode(&bytes[..cut.min(bytes.len())]);
        }
    }
}
