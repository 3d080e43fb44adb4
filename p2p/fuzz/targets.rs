//! What is fuzzed: bytes of a hostile peer or stranger, as far as they are read without a socket.
//!
//! In: any bytes. Out: a class of outcome, by which a driver without coverage knows something new when it sees it. A target
//! panics when an invariant is broken, and never else.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use p2p::admission::{Certificate, Revocation, Token, TokenRow, check_chain};
use p2p::id::{ClusterId, NodeId};
use p2p::membership::Role;
use p2p::membership::view::{Facts, read_watch, watch_body};
use p2p::node::{Input, Node, Now, Output, Setup};
use p2p::table::row::Version;
use p2p::table::{Replica, codec, tombstone};
use p2p::wire::{self, Admission, FRAME_MAX, Hello, Message};

/// A fuzz target.
pub(crate) type Target = fn(&[u8]) -> String;

/// Every target by its name, which is also the name of its corpus.
pub(crate) const TARGETS: [(&str, Target); 8] = [
    ("frame", frame),
    ("message", message),
    ("peer", peer),
    ("row", row),
    ("certificate", certificate),
    ("admission", admission),
    ("token", token),
    ("body", body),
];

const ROOT: [u8; 32] = [9; 32];
const WALL_MS: u64 = 1_800_000_000_000;

fn accept_all(_: &[u8; 32], _: &[u8], _: &[u8; 64]) -> bool {
    true
}

fn chain(key: u8) -> Vec<Vec<u8>> {
    let certificate = Certificate {
        cluster: ClusterId::of_root(&ROOT),
        subject: [key; 32],
        issuer: ROOT,
        role: Role::Member,
        token: 0,
        issued_ms: WALL_MS,
        signature: [0; 64],
    };
    vec![certificate.to_bytes()]
}

/// A node that has a peer, the same every time; every signature counts as right, so that what is behind it is reached.
fn linked() -> &'static (Node, NodeId) {
    static NODE: OnceLock<(Node, NodeId)> = OnceLock::new();
    NODE.get_or_init(|| {
        let (me, peer) = (NodeId::of_key(&[1; 32]), NodeId::of_key(&[2; 32]));
        let facts = Facts {
            name: "n1".into(),
            site: "s".into(),
            key: String::new(),
            addresses: vec![],
            labels: BTreeMap::new(),
            instance: 1,
            version: String::new(),
            level: 1,
            other: serde_json::Map::new(),
        };
        let cluster = ClusterId::of_root(&ROOT);
        let setup = Setup { id: me, cluster, chain: chain(1), facts, epoch: 1, verify: accept_all, seed: 1 };
        let now = Now { ms: 1_000, wall_ms: WALL_MS };
        let mut node = Node::new(setup, [], now);
        node.handle(now, Input::Connected(peer));
        let hello =
            Hello { cluster, chain: chain(2), instance: 2, epoch: 1, your_epoch: 1, site: "s".into(), level: 1 };
        node.handle(now, Input::Message(peer, Message::Hello(hello)));
        while node.poll_output().is_some() {}
        assert!(node.is_linked(peer));
        (node, peer)
    })
}

/// Frames of a stream one after the other: a length is refused before it is allocated, and what was framed reads back.
pub(crate) fn frame(bytes: &[u8]) -> String {
    match wire::frame_length(bytes, FRAME_MAX) {
        Err(error) => class("refused", &error.to_string()),
        Ok(None) => "more bytes are needed".to_owned(),
        Ok(Some((length, head))) => {
            assert!(length <= FRAME_MAX && head <= bytes.len() && head <= 10);
            let content = &bytes[head..bytes.len().min(head + length)];
            let framed = wire::frame(content);
            assert_eq!(wire::frame_length(&framed, FRAME_MAX), Ok(Some((content.len(), framed.len() - content.len()))));
            format!("head {head} length {:b}", length.next_power_of_two())
        }
    }
}

/// One message: what was understood is understood again in the same way.
pub(crate) fn message(bytes: &[u8]) -> String {
    match Message::decode(bytes) {
        Err(error) => class("refused", &error.to_string()),
        Ok(message) => {
            let again = message.encode();
            assert_eq!(Message::decode(&again).as_ref(), Ok(&message), "reads differently the second time");
            format!("kind {} of {:b} bytes", again[0], again.len().next_power_of_two())
        }
    }
}

/// A whole conversation: the frames of a linked peer reach a node, which answers in frames that fit and stays what it is.
pub(crate) fn peer(bytes: &[u8]) -> String {
    let (node, peer) = linked();
    let mut node = node.clone();
    let (mut rest, mut ms, mut heard) = (bytes, 1_000, String::new());
    while let Ok(Some((length, head))) = wire::frame_length(rest, FRAME_MAX) {
        let Some(content) = rest.get(head..head + length) else { break };
        rest = &rest[head + length..];
        ms += 300;
        let now = Now { ms, wall_ms: WALL_MS + ms };
        let input = match Message::decode(content) {
            Ok(message) => {
                heard.push(char::from(b'a' + content[0] % 26));
                Input::Message(*peer, message)
            }
            Err(error) => Input::Bad(*peer, error.to_string()),
        };
        node.handle(now, input);
        node.handle(now, Input::Tick);
        while let Some(output) = node.poll_output() {
            match output {
                Output::Send(_, message) => {
                    assert!(message.encode().len() <= FRAME_MAX, "an answer that fits no frame");
                    heard.push(char::from(b'A' + message.encode()[0] % 26));
                }
                Output::Store(batch, rows) => {
                    for packed in rows.iter().filter_map(|(_, packed)| packed.as_ref()) {
                        assert!(codec::decode(packed).is_ok(), "what is stored can be read");
                    }
                    node.handle(now, Input::Durable(batch));
                }
                Output::Changed(row) => {
                    if let Version::Owned { owner, .. } = row.version {
                        assert_eq!(row.key.owner(), Some(owner), "a row under a foreign owner stands");
                    }
                }
                _ => {}
            }
        }
        if heard.len() > 64 {
            break;
        }
    }
    heard.truncate(8);
    heard
}

/// A packed row: refused, or merged by a table that can read it again; then it stands or something newer does.
pub(crate) fn row(bytes: &[u8]) -> String {
    let row = match codec::decode(bytes) {
        Ok(row) => row,
        Err(error) => return class("refused", &error.to_string()),
    };
    let again = codec::encode(&row);
    assert_eq!(codec::decode(&again).as_ref(), Ok(&row), "reads differently the second time");
    let mut replica = Replica::new(NodeId(1), "s".into(), 1);
    match replica.merge(&again) {
        Err(refusal) => class("unmerged", &refusal.to_string()),
        Ok(stand) => {
            for row in &stand {
                assert_eq!(replica.rows().get(&row.key).as_ref(), Some(row), "what stands is held");
            }
            assert!(replica.merge(&again).is_ok_and(|stand| stand.is_empty()), "twice is once");
            format!("merged {} {} {:b}", row.key.table, row.deleted, row.body.0.len().next_power_of_two())
        }
    }
}

/// Certificates, chains of them, revocations.
pub(crate) fn certificate(bytes: &[u8]) -> String {
    let mut outcome = String::new();
    if let Ok(certificate) = Certificate::from_bytes(bytes) {
        assert_eq!(Certificate::from_bytes(&certificate.to_bytes()).as_ref(), Ok(&certificate));
        outcome += &format!("certificate {:?} ", certificate.role);
    }
    if let Ok(revocation) = Revocation::from_bytes(bytes) {
        assert_eq!(Revocation::from_bytes(&revocation.to_bytes()).as_ref(), Ok(&revocation));
        outcome += &format!("revocation {} ", revocation.left);
    }
    let size = chain(1)[0].len();
    let parts: Result<Vec<Certificate>, _> = bytes.chunks(size).map(Certificate::from_bytes).collect();
    outcome
        + &match parts {
            Err(error) => class("no chain", &error.to_string()),
            Ok(parts) => match check_chain(&parts, ClusterId::of_root(&ROOT), accept_all) {
                Ok(leaf) => {
                    assert_eq!(Some(leaf), parts.first());
                    format!("chain of {}", parts.len())
                }
                Err(error) => class("no chain", &error.to_string()),
            },
        }
}

/// What a stranger says to be let in.
pub(crate) fn admission(bytes: &[u8]) -> String {
    match Admission::decode(bytes) {
        Err(error) => class("refused", &error.to_string()),
        Ok(words) => {
            assert_eq!(Admission::decode(&words.encode()).as_ref(), Ok(&words), "reads differently the second time");
            match words {
                Admission::Offer { chain, .. } | Admission::Granted(chain) => format!("chain of {}", chain.len()),
                other => format!("{other:?}").chars().take(4).collect(),
            }
        }
    }
}

/// A token as people paste it.
pub(crate) fn token(bytes: &[u8]) -> String {
    match Token::from_text(&String::from_utf8_lossy(bytes)) {
        Err(error) => class("refused", &error.to_string()),
        Ok(token) => {
            assert_eq!(Token::from_text(&token.to_text()).as_ref(), Ok(&token), "reads differently the second time");
            format!("{:?} {} addresses", token.role, token.addresses.len())
        }
    }
}

/// Bodies of the mesh's own tables: verdicts, facts, tokens, days of tombstones.
pub(crate) fn body(bytes: &[u8]) -> String {
    let mut outcome = String::new();
    if let Some((verdict, of)) = read_watch(bytes) {
        assert_eq!(read_watch(&watch_body(verdict, of).0), Some((verdict, of)));
        outcome += &format!("{verdict:?} ");
    }
    if let Ok(facts) = serde_json::from_slice::<Facts>(bytes) {
        let text = serde_json::to_vec(&facts).expect("facts are plain data");
        assert!(serde_json::from_slice::<Facts>(&text).is_ok_and(|again| again == facts));
        outcome += &format!("facts with {} addresses ", facts.addresses.len().min(9));
    }
    if let Ok(row) = serde_json::from_slice::<TokenRow>(bytes) {
        outcome += &format!("token {:?} ", row.check(WALL_MS).err());
    }
    let days = tombstone::published(bytes);
    assert!(days.len() <= tombstone::DAYS_MAX);
    assert_eq!(tombstone::published(&tombstone::publish(&days).0), days);
    let _ = tombstone::day_of(bytes);
    format!("{outcome}{} days", days.len().min(9))
}

/// The words of an outcome without what is quoted or counted in it.
fn class(stage: &str, words: &str) -> String {
    let mut class = format!("{stage}: ");
    let mut quoted = false;
    for letter in words.chars().take(200) {
        match letter {
            '"' | '`' => quoted = !quoted,
            _ if quoted || letter.is_ascii_digit() => {}
            _ => class.push(letter),
        }
    }
    class
}
