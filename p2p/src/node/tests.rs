//! What a core promises, message by message: cores with real keys, joined by hand.

use libp2p::identity::ed25519;

use super::*;
use crate::admission::{Certificate, Revocation, verify_ed25519};
use crate::id::ClusterId;
use crate::membership::view::Facts;
use crate::mesh::Durability;
use crate::table::row::{BODY_MAX, Version};
use crate::table::{codec, tombstone};
use crate::wire::{FRAME_MAX, Hello};

const WALL: u64 = 1_800_000_000_000;

fn key(n: u8) -> ed25519::Keypair {
    ed25519::Keypair::from(ed25519::SecretKey::try_from_bytes([n; 32]).unwrap())
}

fn id(n: u8) -> NodeId {
    NodeId::of_key(&key(n).public().to_bytes())
}

fn cluster() -> ClusterId {
    ClusterId::of_root(&key(200).public().to_bytes())
}

/// The certificate of `subject` by `issuer`; 200 is the root.
fn certificate(subject: u8, role: Role, issuer: u8) -> Vec<u8> {
    Certificate::issue(cluster(), key(subject).public().to_bytes(), role, 0, WALL, &key(issuer)).to_bytes()
}

fn node(n: u8, role: Role) -> Node {
    let facts = Facts {
        name: format!("n{n}"),
        site: "s".into(),
        key: String::new(),
        addresses: vec![],
        labels: BTreeMap::new(),
        instance: u64::from(n),
        version: String::new(),
        level: 1,
        other: serde_json::Map::new(),
    };
    let chain = vec![certificate(n, role, 200)];
    let setup = Setup { id: id(n), cluster: cluster(), chain, facts, epoch: 1, verify: verify_ed25519, seed: 1 };
    Node::new(setup, [], Now { ms: 1_000, wall_ms: WALL })
}

fn shared(table: Table, name: &str, writer: u8, body: Vec<u8>) -> Vec<u8> {
    let seed = blake3::hash(&[name.as_bytes(), &body].concat());
    let number = u64::from_be_bytes(seed.as_bytes()[..8].try_into().unwrap());
    codec::encode(&Row {
        key: Key::global(table, name),
        version: Version::Shared { generation: 1, time_ms: WALL, writer: id(writer), id: number, ancestors: vec![] },
        deleted: false,
        body: Body(body),
    })
}

fn certificate_row(bytes: Vec<u8>) -> Vec<u8> {
    let subject = Certificate::from_bytes(&bytes).unwrap().node();
    shared(Table::CERTIFICATE, &subject.to_string(), 1, bytes)
}

fn revocation_row(subject: u8, issuer: u8) -> Vec<u8> {
    let bytes = Revocation::issue(cluster(), id(subject), false, WALL, &key(issuer)).to_bytes();
    shared(Table::REVOKED, &id(subject).to_string(), issuer, bytes)
}

/// Some cores and everything between them.
struct Lab {
    nodes: BTreeMap<NodeId, Node>,
    now: Now,
    /// Whether disks say that they are done.
    disks: bool,
    /// Everything a core wanted that is not a message or a batch.
    rest: Vec<(NodeId, Output)>,
}

impl Lab {
    fn new(numbers: &[u8]) -> Self {
        let nodes = numbers.iter().map(|n| (id(*n), node(*n, Role::Operator))).collect();
        let mut lab = Self { nodes, now: Now { ms: 1_000, wall_ms: WALL }, disks: true, rest: vec![] };
        for (at, a) in numbers.iter().enumerate() {
            for b in &numbers[at + 1..] {
                lab.of(*a).handle(Now { ms: 1_000, wall_ms: WALL }, Input::Connected(id(*b)));
                lab.of(*b).handle(Now { ms: 1_000, wall_ms: WALL }, Input::Connected(id(*a)));
            }
        }
        for _ in 0..20 {
            lab.pass(100, |_, _, _| true);
        }
        lab.rest.clear();
        lab
    }

    fn of(&mut self, n: u8) -> &mut Node {
        self.nodes.get_mut(&id(n)).unwrap()
    }

    /// Lets time pass and carries what is said, but for what `passes` says no to.
    fn pass(&mut self, ms: u64, mut passes: impl FnMut(NodeId, NodeId, &Message) -> bool) {
        self.now = Now { ms: self.now.ms + ms, wall_ms: self.now.wall_ms + ms };
        let now = self.now;
        for node in self.nodes.values_mut() {
            node.handle(now, Input::Tick);
        }
        loop {
            let mut inputs = Vec::new();
            for (from, node) in &mut self.nodes {
                while let Some(output) = node.poll_output() {
                    match output {
                        Output::Send(to, message) => {
                            assert!(message.framed_len() <= FRAME_MAX + 3, "a frame that nobody takes");
                            if passes(*from, to, &message) {
                                inputs.push((to, Input::Message(*from, message)));
                            }
                        }
                        Output::Store(batch, _) if self.disks => inputs.push((*from, Input::Durable(batch))),
                        other => self.rest.push((*from, other)),
                    }
                }
            }
            if inputs.is_empty() {
                return;
            }
            for (to, input) in inputs {
                if let Some(node) = self.nodes.get_mut(&to) {
                    node.handle(now, input);
                }
            }
        }
    }

    fn acked(&self, n: u8) -> Vec<(u64, Durability)> {
        let of = |(node, output): &(NodeId, Output)| match output {
            Output::Acked(write, durability) if *node == id(n) => Some((*write, *durability)),
            _ => None,
        };
        self.rest.iter().filter_map(of).collect()
    }

    fn put(&mut self, n: u8, name: &str, body: Vec<u8>) -> u64 {
        let now = self.now;
        self.of(n).put(now, Key::global(Table::KV, name), Some(Body(body))).unwrap().1.unwrap()
    }
}

#[test]
fn nobody_is_revoked_by_somebody_unknown_or_by_a_reader() {
    let mut node = node(1, Role::Operator);
    let now = Now { ms: 2_000, wall_ms: WALL };
    let _ = node.absorb(now, id(9), &certificate_row(certificate(2, Role::Member, 200))).unwrap();
    let _ = node.absorb(now, id(9), &certificate_row(certificate(3, Role::Reader, 200))).unwrap();
    let _ = node.absorb(now, id(9), &revocation_row(2, 77)).unwrap();
    assert!(!node.replica().is_evicted(id(2)), "77 has no certificate");
    assert!(node.absorb(now, id(9), &revocation_row(2, 3)).is_err(), "3 may only read");
    assert!(!node.replica().is_evicted(id(2)));
    let _ = node.absorb(now, id(9), &revocation_row(3, 2)).unwrap();
    assert!(node.replica().is_evicted(id(3)), "a member may");
    let _ = node.absorb(now, id(9), &revocation_row(2, 2)).unwrap();
    assert!(node.replica().is_evicted(id(2)), "everybody may leave");
    // What came before its issuer's certificate counts once that is there.
    let _ = node.absorb(now, id(9), &revocation_row(5, 4)).unwrap();
    assert!(!node.replica().is_evicted(id(5)));
    let _ = node.absorb(now, id(9), &certificate_row(certificate(4, Role::Member, 200))).unwrap();
    assert!(node.replica().is_evicted(id(5)));
}

#[test]
fn a_certificate_counts_only_when_its_issuer_may_admit() {
    let mut node = node(1, Role::Operator);
    let now = Now { ms: 2_000, wall_ms: WALL };
    let mut take = |subject, role, issuer| {
        let taken = node.absorb(now, id(9), &certificate_row(certificate(subject, role, issuer)));
        (taken.is_err(), node.public_key(id(subject)).is_some())
    };
    assert_eq!(take(2, Role::Member, 200), (false, true));
    assert_eq!(take(3, Role::Reader, 2), (false, true));
    assert_eq!(take(4, Role::Member, 3), (true, false), "a reader admits nobody");
    assert_eq!(take(5, Role::Operator, 2), (true, false), "a member makes no operator");
    // A whole chain, the wrong way round: each waits for the one before.
    assert_eq!(take(8, Role::Member, 7), (false, false));
    assert_eq!(take(7, Role::Member, 6), (false, false));
    assert_eq!(take(6, Role::Member, 2), (false, true));
    assert!(node.public_key(id(7)).is_some() && node.public_key(id(8)).is_some());
    for n in 0..2 * rules::EARLY_SIGNED_MAX as u64 {
        let subject = key(u8::try_from(10 + n % 180).unwrap()).public().to_bytes();
        let stranger = key(u8::try_from(201 + n / 180 % 50).unwrap());
        let bytes = Certificate::issue(cluster(), subject, Role::Member, n, WALL, &stranger).to_bytes();
        let _ = node.absorb(now, id(9), &certificate_row(bytes)).unwrap();
    }
    assert!(node.early.values().map(Vec::len).sum::<usize>() <= rules::EARLY_SIGNED_MAX);
    assert!(node.early.values().all(|rows| !rows.is_empty()), "nothing is kept of what is not kept");
    assert_eq!(node.early.values().map(Vec::len).sum::<usize>(), node.early_rows);
}

fn hello(chain: Vec<Vec<u8>>) -> Message {
    let cluster = cluster();
    Message::Hello(Hello { cluster, chain, instance: 9, epoch: 1, your_epoch: 0, site: "s".into(), level: 1 })
}

#[test]
fn whoever_an_evicted_node_admits_is_refused_and_whom_it_admitted_before_stays() {
    let mut node = node(1, Role::Operator);
    let now = Now { ms: 2_000, wall_ms: WALL };
    let issuer = certificate(2, Role::Member, 200);
    let (before, after) = (certificate(3, Role::Member, 2), certificate(4, Role::Member, 2));
    for bytes in [&issuer, &before] {
        let _ = node.absorb(now, id(9), &certificate_row(bytes.clone())).unwrap();
    }
    let _ = node.absorb(now, id(9), &revocation_row(2, 1)).unwrap();
    let mut greets = |n: u8, chain: Vec<Vec<u8>>| {
        node.handle(now, Input::Connected(id(n)));
        node.handle(now, Input::Message(id(n), hello(chain)));
        node.is_linked(id(n))
    };
    assert!(greets(3, vec![before, issuer.clone()]), "its row is in the table");
    assert!(!greets(4, vec![after.clone(), issuer.clone()]), "signed by a key that is out");
    assert!(!greets(5, vec![certificate(5, Role::Member, 4), after, issuer.clone()]), "and so is whom that one admits");
    assert!(!greets(2, vec![issuer]));
}

#[test]
fn a_write_whose_frame_was_dropped_is_not_called_replicated_by_the_next_ones_confirmation() {
    let mut lab = Lab::new(&[1, 2, 3]);
    let first = lab.put(1, "a", vec![1]);
    // Every push of the first write is lost; the second arrives and is confirmed.
    lab.pass(BATCH_MS, |from, _, message| !(from == id(1) && matches!(message, Message::Push { .. })));
    let second = lab.put(1, "b", vec![2]);
    lab.pass(BATCH_MS, |_, _, _| true);
    assert_eq!(lab.acked(1), [(second, Durability::Replicated)]);
    // Repair is held back, so that only time ends the wait.
    for _ in 0..10 {
        lab.pass(100, |_, _, message| !matches!(message, Message::Root(..) | Message::Rows(_)));
    }
    assert_eq!(lab.acked(1)[1..], [(first, Durability::Local)]);
}

#[test]
fn a_write_is_local_only_once_this_disk_has_it_and_nobody_spins_meanwhile() {
    let mut lab = Lab::new(&[1, 2, 3]);
    lab.disks = false;
    let _ = lab.put(1, "a", vec![1]);
    for _ in 0..30 {
        lab.pass(100, |_, _, _| true);
        let now = lab.now.ms;
        assert!(lab.of(1).poll_timeout() > now, "it wants to be woken for nothing");
    }
    assert_eq!(lab.acked(1), [], "no disk, no answer");
    let now = lab.now;
    lab.of(1).handle(now, Input::StoreFailed);
    lab.disks = true;
    lab.pass(2_000, |_, _, _| true);
    assert_eq!(lab.acked(1), [], "the shell has answered with an error");
    lab.of(1).store_again(&[7]);
    let mut stored = Vec::new();
    while let Some(output) = lab.of(1).poll_output() {
        if let Output::Store(_, rows) = output {
            stored.extend(rows);
        }
    }
    let at = rows::position(&Key::global(Table::KV, "a"));
    assert!(stored.iter().any(|(position, row)| *position == at && row.is_some()), "all is handed over again");
    assert!(stored.contains(&(7, None)), "what the disk has and nobody else is removed");
}

#[test]
fn rows_of_every_size_travel_in_frames_that_fit() {
    let mut lab = Lab::new(&[1, 2, 3]);
    // The lab refuses frames that are too large; small ones wait when a large one comes.
    for n in 0..8u8 {
        let _ = lab.put(1, &format!("small-{n}"), vec![n; 15_000]);
        let _ = lab.put(1, &format!("large-{n}"), vec![n; BODY_MAX]);
        let _ = lab.put(1, &format!("tiny-{n}"), vec![n]);
    }
    for _ in 0..4 {
        lab.pass(BATCH_MS, |_, _, message| !matches!(message, Message::Rows(_)));
    }
    for name in ["small-0", "large-0", "tiny-7", "large-7"] {
        assert!(lab.of(3).get(&Key::global(Table::KV, name)).is_some(), "{name}");
    }
    assert_eq!(lab.acked(1).len(), 24);
    assert!(lab.acked(1).iter().all(|(_, durability)| *durability == Durability::Replicated));
}

#[test]
fn deletions_are_published_as_forgettable_only_when_they_are_on_disk() {
    let mut lab = Lab::new(&[1, 2]);
    let _ = lab.put(1, "x", vec![1]);
    lab.pass(100, |_, _, _| true);
    lab.disks = false;
    let now = lab.now;
    let _ = lab.of(1).put(now, Key::global(Table::KV, "x"), None).unwrap();
    // Its day is long over.
    lab.now.wall_ms += 5 * tombstone::DAY_MS;
    for _ in 0..5 {
        lab.pass(TOMBSTONES_MS, |_, _, _| true);
    }
    let published = |lab: &mut Lab, n: u8| lab.of(n).published.get(&id(n)).cloned().unwrap_or_default();
    assert_eq!(published(&mut lab, 1), [], "a cut now would bring the key back");
    lab.disks = true;
    let now = lab.now;
    for n in [1, 2] {
        let batch = lab.of(n).batch;
        lab.of(n).handle(now, Input::Durable(batch));
    }
    for _ in 0..6 {
        lab.pass(TOMBSTONES_MS, |_, _, _| true);
    }
    assert_eq!(lab.of(1).replica().rows().tombstones(), 0, "now both have forgotten it");
    assert_eq!(lab.of(2).replica().rows().tombstones(), 0);
}

#[test]
fn a_peer_whose_end_of_a_link_is_new_is_greeted_although_ours_stands() {
    let mut lab = Lab::new(&[1, 2]);
    let now = lab.now;
    lab.of(2).handle(now, Input::Disconnected(id(1)));
    lab.of(2).handle(now, Input::Connected(id(1)));
    assert!(!lab.nodes[&id(2)].is_linked(id(1)));
    let mut hellos = 0;
    for _ in 0..30 {
        lab.pass(100, |_, _, message| {
            hellos += usize::from(matches!(message, Message::Hello(_)));
            true
        });
    }
    assert!(lab.nodes[&id(1)].is_linked(id(2)) && lab.nodes[&id(2)].is_linked(id(1)));
    assert_eq!(hellos, 2, "one each way, and no more");
}

#[test]
fn who_keeps_deletions_from_being_forgotten_is_named_once() {
    let mut lab = Lab::new(&[1, 2]);
    let _ = lab.put(1, "x", vec![1]);
    let now = lab.now;
    let _ = lab.of(1).put(now, Key::global(Table::KV, "x"), None).unwrap();
    for _ in 0..60 {
        lab.pass(200, |_, _, _| false);
    }
    let named = |lab: &mut Lab| lab.of(1).alarms().filter(|alarm| alarm.kind == "tombstones").count();
    lab.now.wall_ms += 3 * tombstone::DAY_MS;
    lab.pass(TOMBSTONES_MS, |_, _, _| false);
    assert_eq!(named(&mut lab), 0, "it may have been off over a weekend");
    lab.now.wall_ms += 6 * tombstone::DAY_MS;
    for _ in 0..20 {
        lab.pass(TOMBSTONES_MS, |_, _, _| false);
    }
    assert_eq!(named(&mut lab), 1);
    assert!(lab.of(1).alarms().any(|alarm| alarm.text.contains(&format!("n2 ({})", id(2)))));
}

#[test]
fn two_members_of_one_name_are_named_to_the_operator() {
    let mut lab = Lab::new(&[1, 2, 3]);
    let facts = Facts { name: "n1".into(), ..lab.of(2).setup().facts.clone() };
    let row = |seq| {
        vec![codec::encode(&Row {
            key: Key::owned(Table::NODE, id(2), ""),
            version: Version::Owned { owner: id(2), epoch: 1, seq },
            deleted: false,
            body: Body::json(&facts).unwrap(),
        })]
    };
    let now = lab.now;
    for seq in [900, 901] {
        lab.of(3).handle(now, Input::Message(id(2), Message::Rows(row(seq))));
    }
    let named: Vec<String> =
        lab.of(3).alarms().filter(|alarm| alarm.kind == "name").map(|alarm| alarm.text.clone()).collect();
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(named[0].contains("called n1") && named[0].contains(&id(2).to_string()), "{named:?}");
}

#[test]
fn rows_that_are_poison_are_named_and_stop_nobody() {
    let mut lab = Lab::new(&[1, 2]);
    let now = lab.now;
    let facts = codec::encode(&Row {
        key: Key::owned(Table::NODE, id(2), ""),
        version: Version::Owned { owner: id(2), epoch: 9, seq: 9 },
        deleted: false,
        body: Body(b"{\"name\":3}".to_vec()),
    });
    let watch = codec::encode(&Row {
        key: Key::owned(Table::WATCH, id(2), "not-a-node"),
        version: Version::Owned { owner: id(2), epoch: 9, seq: 10 },
        deleted: false,
        body: Body(vec![255; 40]),
    });
    let conflict = shared(Table::CONFLICT, "00-00", 2, vec![0xff; 99]);
    let rows = vec![facts, watch, conflict, vec![0xff; 9], vec![]];
    lab.of(1).handle(now, Input::Message(id(2), Message::Push { until: id(1), ack: 1, rows: rows.clone() }));
    lab.of(1).handle(now, Input::Message(id(2), Message::Rows(rows)));
    let _ = lab.put(1, "after", vec![1]);
    lab.pass(100, |_, _, _| true);
    assert!(lab.of(2).get(&Key::global(Table::KV, "after")).is_some());
    let named: Vec<String> = lab.of(1).alarms().map(|alarm| alarm.text.clone()).collect();
    assert!(named.iter().any(|text| text.contains("node facts")), "{named:?}");
    assert!(named.iter().any(|text| text.contains("verdict")), "{named:?}");
    assert_eq!(lab.of(1).replica().quarantined().count(), 1);
}

#[test]
fn a_key_in_use_twice_is_refused_on_both_and_a_restart_is_not_mistaken_for_it() {
    let mut lab = Lab::new(&[1, 2, 3]);
    // A restart: another instance says hello, the one before is gone.
    let chain = vec![certificate(3, Role::Operator, 200)];
    let now = lab.now;
    lab.of(2).handle(now, Input::Message(id(3), hello(chain.clone())));
    for _ in 0..30 {
        lab.pass(100, |_, to, message| !(to == id(3) && matches!(message, Message::Ask | Message::Beat(_))));
    }
    assert!(lab.of(2).alarms().all(|alarm| alarm.kind != "cloned-key"));
    // A copied key: another instance says hello, and the one before goes on answering.
    let now = lab.now;
    lab.of(1).handle(now, Input::Message(id(3), hello(chain)));
    lab.pass(100, |_, _, _| true);
    lab.pass(100, |_, _, _| true);
    assert!(lab.of(1).alarms().any(|alarm| alarm.kind == "cloned-key"));
    assert!(!lab.of(1).is_linked(id(3)));
    let now = lab.now;
    lab.of(1).handle(now, Input::Connected(id(3)));
    assert!(!lab.of(1).links.contains_key(&id(3)), "neither of them gets in for a while");
}

#[test]
fn a_newer_build_lives_among_older_ones_and_nothing_of_it_is_lost_on_the_way() {
    let mut lab = Lab::new(&[1, 2, 3]);
    let now = lab.now;
    // What a newer build says: a kind nobody knows, bytes behind a known body, facts and tables of its own.
    let facts = serde_json::json!({
        "name": "new", "site": "s", "instance": 4, "level": 7, "orbit": {"height": [1, 2]}, "version": "9.9",
    });
    let mut rows = vec![codec::encode(&Row {
        key: Key::owned(Table::NODE, id(4), ""),
        version: Version::Owned { owner: id(4), epoch: 1, seq: 1 },
        deleted: false,
        body: Body::json(&facts).unwrap(),
    })];
    rows.push(shared(Table(900), "of-tomorrow", 2, vec![0xff; 40]));
    rows.push(shared(Table::SERVICE, "web", 2, b"{\"v\":1,\"hull\":3}".to_vec()));
    let mut frame = Message::Push { until: id(1), ack: 0, rows: rows.clone() }.encode();
    frame.extend_from_slice(&[1, 2, 3, 4]);
    lab.of(1).handle(now, Input::Message(id(2), Message::decode(&[99, 1, 2, 3]).unwrap()));
    lab.of(1).handle(now, Input::Message(id(2), Message::decode(&frame).unwrap()));
    for _ in 0..60 {
        // The third hears it from the first alone.
        lab.pass(100, |from, to, _| (from, to) != (id(2), id(3)));
    }
    for packed in &rows {
        let at = rows::position(&codec::decode(packed).unwrap().key);
        for n in [1, 3] {
            assert_eq!(lab.of(n).replica().rows().packed(at), Some(&packed[..]), "byte for byte at {n}");
        }
    }
    assert_eq!(lab.of(3).view().level(), 1, "the oldest member decides what may be written");
    assert_eq!(lab.of(3).facts(id(4)).unwrap().other["orbit"]["height"][1], 2);
    assert_eq!(lab.of(1).counters()["unknown_messages"], 1);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 200, ..Default::default() })]

    /// Any bytes of an admitted peer, whole messages with torn rows in them included, leave a core that works.
    #[test]
    fn no_message_of_a_peer_stops_a_core(
        frames in proptest::collection::vec((0u8..12, proptest::collection::vec(proptest::num::u8::ANY, 0..120)), 1..12),
        flips in proptest::collection::vec((0usize..300, proptest::num::u8::ANY, 1u16..30), 0..12),
    ) {
        let mut lab = Lab::new(&[1, 2]);
        let now = lab.now;
        for (kind, body) in frames {
            let bytes = [&[kind][..], &body].concat();
            if let Ok(message) = Message::decode(&bytes) {
                lab.of(1).handle(now, Input::Message(id(2), message));
            }
        }
        // Rows that were right, with some bytes changed and another table's number.
        let samples = [
            certificate_row(certificate(3, Role::Member, 200)),
            revocation_row(3, 3),
            shared(Table::TOKEN, "t", 2, b"{}".to_vec()),
            shared(Table::CONFLICT, "c", 2, shared(Table::KV, "k", 2, vec![1])),
        ];
        for (at, byte, table) in flips {
            let mut row = samples[at % samples.len()].clone();
            let place = at % row.len();
            row[place] ^= byte;
            row[1] = u8::try_from(table).unwrap();
            for message in [
                Message::Push { until: id(1), ack: 9, rows: vec![row.clone()] },
                Message::Rows(vec![row]),
            ] {
                lab.of(1).handle(now, Input::Message(id(2), message));
            }
        }
        lab.pass(2_500, |_, _, _| true);
        if lab.of(1).is_linked(id(2)) {
            let _ = lab.put(1, "after", vec![1]);
            lab.pass(100, |_, _, _| true);
        }
    }
}

#[test]
fn an_evicted_node_is_told_and_stops() {
    let mut lab = Lab::new(&[1, 2, 3]);
    let now = lab.now;
    let revocation = Revocation::issue(cluster(), id(3), false, WALL, &key(1)).to_bytes();
    let row = Key::global(Table::REVOKED, id(3).to_string());
    lab.of(1).put(now, row, Some(Body(revocation))).unwrap();
    lab.pass(50, |_, _, _| true);
    lab.pass(super::PARTING_MS, |_, _, _| true);
    let expelled =
        |lab: &Lab| lab.rest.iter().any(|(node, output)| *node == id(3) && matches!(output, Output::Expelled(_)));
    assert!(expelled(&lab), "{:?}", lab.rest);
    let closes = |by: u8| {
        let hangup = |(node, output): &(NodeId, Output)| {
            *node == id(by) && matches!(output, Output::Hangup(peer, _) if *peer == id(3))
        };
        lab.rest.iter().any(hangup)
    };
    assert!(closes(1), "its connection does not stay");
    assert!(!lab.nodes[&id(1)].is_linked(id(3)) && !lab.nodes[&id(2)].is_linked(id(3)));
}

#[test]
fn an_evicted_node_that_was_away_is_told_when_it_dials() {
    let mut lab = Lab::new(&[1, 2]);
    let now = lab.now;
    // 2 is cut off while it is evicted.
    lab.of(1).handle(now, Input::Disconnected(id(2)));
    lab.of(2).handle(now, Input::Disconnected(id(1)));
    let revocation = Revocation::issue(cluster(), id(2), false, WALL, &key(1)).to_bytes();
    lab.of(1).put(now, Key::global(Table::REVOKED, id(2).to_string()), Some(Body(revocation))).unwrap();
    lab.pass(2_000, |_, _, _| true);
    let now = lab.now;
    lab.of(2).handle(now, Input::Connected(id(1)));
    lab.of(1).handle(now, Input::Connected(id(2)));
    lab.pass(100, |_, _, _| true);
    assert!(lab.rest.iter().any(|(node, output)| *node == id(2) && matches!(output, Output::Expelled(_))));
    assert!(!lab.nodes[&id(1)].is_linked(id(2)));
}

#[test]
fn a_reader_writes_no_row_of_others_whatever_it_sends() {
    let mut node = node(1, Role::Operator);
    let now = Now { ms: 2_000, wall_ms: WALL };
    for (n, role) in [(2, Role::Member), (3, Role::Reader), (5, Role::Reader)] {
        let _ = node.absorb(now, id(9), &certificate_row(certificate(n, role, 200))).unwrap();
    }
    let owned = |table: Table, owner: u8, rest: &str| {
        codec::encode(&Row {
            key: Key::owned(table, id(owner), rest),
            version: Version::Owned { owner: id(owner), epoch: 5, seq: 5 },
            deleted: false,
            body: Body(vec![1]),
        })
    };
    // In the name of a member, or as another's own.
    for row in
        [shared(Table::SERVICE, "web", 2, vec![1]), owned(Table::INSTANCE, 2, "i"), owned(Table::INSTANCE, 1, "i")]
    {
        assert_eq!(node.absorb(now, id(3), &row).unwrap(), super::gossip::Taken::Known);
        let key = codec::decode(&row).unwrap().key;
        assert!(node.replica().rows().get(&key).is_none(), "{key}");
    }
    let _ = node.absorb(now, id(3), &owned(Table::NODE_FACTS, 3, "")).unwrap();
    assert!(node.replica().rows().get(&Key::owned(Table::NODE_FACTS, id(3), "")).is_some(), "of itself it may");
    // Who was never in leaves nothing behind.
    assert_eq!(node.absorb(now, id(3), &revocation_row(77, 77)).unwrap(), super::gossip::Taken::Early);
    assert!(!node.replica().is_evicted(id(77)));
    // It may leave, too, and its word for that counts by its signature.
    assert_eq!(node.absorb(now, id(2), &revocation_row(5, 5)).unwrap(), super::gossip::Taken::New);
    assert!(node.replica().is_evicted(id(5)));
    // An instance of its own would be given traffic: not from itself, not by way of a member.
    let instance = owned(Table::INSTANCE, 3, "i");
    assert_eq!(node.absorb(now, id(3), &instance).unwrap(), super::gossip::Taken::Known);
    assert!(node.absorb(now, id(2), &instance).is_err());
    // Nor before its certificate is known: then it goes as soon as that comes.
    let early = owned(Table::INSTANCE, 4, "i");
    let _ = node.absorb(now, id(2), &early).unwrap();
    let key = Key::owned(Table::INSTANCE, id(4), "i");
    assert!(node.replica().rows().get(&key).is_some());
    let _ = node.absorb(now, id(2), &certificate_row(certificate(4, Role::Reader, 200))).unwrap();
    assert!(node.replica().rows().get(&key).is_none(), "a reader's, as it turned out");
    let _ = node.absorb(now, id(2), &shared(Table::SERVICE, "web", 2, vec![1])).unwrap();
    assert!(node.get(&Key::global(Table::SERVICE, "web")).is_some(), "a member may");
}

#[test]
fn nobody_is_talked_into_a_start_number_at_the_end_of_numbers() {
    let mut lab = Lab::new(&[1, 2]);
    let now = lab.now;
    let hello = Hello {
        cluster: cluster(),
        chain: vec![certificate(2, Role::Operator, 200)],
        instance: 2,
        epoch: 1,
        your_epoch: u64::MAX - 1,
        site: "s".into(),
        level: 1,
    };
    lab.of(1).handle(now, Input::Message(id(2), Message::Hello(hello)));
    assert_eq!(lab.nodes[&id(1)].replica().epoch(), 1);
    assert!(!lab.nodes[&id(1)].is_linked(id(2)));
    let facts = codec::encode(&Row {
        key: Key::owned(Table::NODE, id(1), ""),
        version: Version::Owned { owner: id(1), epoch: codec::EPOCH_MAX, seq: 1 },
        deleted: false,
        body: Body(b"{\"name\":\"x\",\"site\":\"s\"}".to_vec()),
    });
    assert!(lab.of(1).absorb(now, id(2), &facts).is_err());
    assert_eq!(lab.nodes[&id(1)].replica().epoch(), 1);
}

#[test]
fn a_stranger_makes_a_node_keep_next_to_nothing() {
    let mut node = node(1, Role::Operator);
    let now = Now { ms: 2_000, wall_ms: WALL };
    node.handle(now, Input::Connected(id(2)));
    for _ in 0..100 {
        node.handle(now, Input::Message(id(2), Message::Rows(vec![vec![0; 200_000]])));
        node.handle(now, Input::Message(id(2), Message::Ask));
    }
    let kept = &node.links[&id(2)].early;
    assert!(kept.len() <= 32 && kept.iter().all(|message| *message == Message::Ask), "{}", kept.len());
}
