//! What merging promises, by minimal scenarios and by random histories.

use super::*;

const WALL: u64 = 1_790_000_000_000;

fn replica(node: u64) -> Replica {
    Replica::new(NodeId(node), "default".into(), 1)
}

fn kv(id: &str) -> Key {
    Key::global(Table::KV, id)
}

fn put(at: &mut Replica, id: &str, body: &str, name: u64) -> Vec<u8> {
    let stand = at.write(kv(id), Some(Body(body.as_bytes().to_vec())), WALL + name, name, 1).unwrap();
    codec::encode(&stand[0])
}

fn body(at: &Replica, id: &str) -> Option<String> {
    at.rows().get(&kv(id)).filter(|row| !row.deleted).map(|row| String::from_utf8(row.body.0).unwrap())
}

fn conflicts(at: &Replica) -> usize {
    at.rows().table(Table::CONFLICT).filter(|(_, head)| !head.deleted).count()
}

#[test]
fn a_later_writing_replaces_and_an_earlier_one_is_ignored() {
    let (mut a, mut b) = (replica(1), replica(2));
    let first = put(&mut a, "x", "1", 1);
    let second = put(&mut a, "x", "2", 2);
    b.merge(&second).unwrap();
    assert!(b.merge(&first).unwrap().is_empty());
    assert_eq!(body(&b, "x").as_deref(), Some("2"));
    assert_eq!(conflicts(&b), 0);
    assert_eq!(a.rows().root(), b.rows().root());
}

#[test]
fn concurrent_writings_choose_the_same_winner_and_keep_the_loser() {
    let (mut a, mut b) = (replica(1), replica(2));
    let from_a = put(&mut a, "x", "from a", 1);
    let from_b = put(&mut b, "x", "from b", 2);
    a.merge(&from_b).unwrap();
    b.merge(&from_a).unwrap();
    assert_eq!(body(&a, "x"), body(&b, "x"));
    assert_eq!((conflicts(&a), conflicts(&b)), (1, 1));
    assert_eq!(a.rows().root(), b.rows().root(), "the conflict row is the same, byte for byte");
}

#[test]
fn two_values_of_the_greatest_size_written_at_once_are_both_kept_and_all_agree() {
    use super::super::row::{ANCESTORS_MAX, BODY_MAX};
    let site = "s".repeat(SITE_MAX);
    let key = Key::site(site.clone(), Table::KV, "k".repeat(KEY_ID_MAX));
    let node = |n| Replica::new(NodeId(n), site.clone(), 1);
    let (mut a, mut b, mut c) = (node(1), node(2), node(3));
    let mut last = Vec::new();
    for (side, at) in [(&mut a, 1u64), (&mut b, 2)] {
        // Many writings first, so that the loser names as many ancestors as a row can.
        for n in 0..=ANCESTORS_MAX as u64 {
            let size = if n == ANCESTORS_MAX as u64 { BODY_MAX } else { 1 };
            let body = Body(vec![u8::try_from(at).unwrap(); size]);
            let stand = side.write(key.clone(), Some(body), u64::MAX - 9, at << 60 | n, 1).unwrap();
            if size == BODY_MAX {
                last.push(codec::encode(&stand[0]));
            }
        }
    }
    a.merge(&last[1]).unwrap();
    b.merge(&last[0]).unwrap();
    c.merge(&last[0]).unwrap();
    let stand = c.merge(&last[1]).unwrap();
    assert_eq!(a.rows().root(), b.rows().root());
    assert_eq!(a.rows().root(), c.rows().root());
    let lost = stand.iter().find(|row| row.key.table == Table::CONFLICT).expect("the loser is kept");
    let packed = codec::encode(lost);
    assert!(packed.len() + 64 <= crate::wire::FRAME_MAX, "it travels: {} bytes", packed.len());
    assert_eq!(codec::decode(&lost.body.0).unwrap().body.0.len(), BODY_MAX);
    assert!(node(4).merge(&packed).is_ok(), "and is taken in from the wire");
}

#[test]
fn an_ancestor_that_lost_on_the_way_is_no_conflict_in_the_end() {
    let (mut a, mut b, mut c) = (replica(1), replica(2), replica(3));
    let x = put(&mut a, "k", "x", 1);
    let y = put(&mut a, "k", "y", 9);
    let z = put(&mut b, "k", "z", 5);
    for row in [&z, &x, &y] {
        c.merge(row).unwrap();
    }
    assert_eq!(body(&c, "k").as_deref(), Some("y"));
    let lost: Vec<_> = c
        .rows()
        .table(Table::CONFLICT)
        .filter(|(_, h)| !h.deleted)
        .map(|(_, h)| codec::decode(h.body).unwrap())
        .collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].body.0, b"z");
}

#[test]
fn the_seventeenth_ancestor_makes_a_false_conflict_and_never_a_loss() {
    let (mut a, mut b) = (replica(1), replica(2));
    let first = put(&mut a, "x", "0", 1);
    b.merge(&first).unwrap();
    let mut last = Vec::new();
    for n in 1..=18 {
        last = put(&mut a, "x", &n.to_string(), n + 1);
    }
    b.merge(&last).unwrap();
    assert_eq!(body(&b, "x").as_deref(), Some("18"));
    assert_eq!(conflicts(&b), 1);
}

#[test]
fn owned_rows_are_refused_from_everybody_else() {
    let mut a = replica(1);
    let row = |owner: u64, in_key: u64, epoch, seq| {
        codec::encode(&Row {
            key: Key::owned(Table::INSTANCE, NodeId(in_key), "web"),
            version: Version::Owned { owner: NodeId(owner), epoch, seq },
            deleted: false,
            body: Body::default(),
        })
    };
    assert!(matches!(a.merge(&row(2, 3, 1, 1)), Err(Refusal::WrongOwner { .. })));
    assert_eq!(a.merge(&row(2, 2, 2, 1)).unwrap().len(), 1);
    assert!(a.merge(&row(2, 2, 1, 99)).unwrap().is_empty(), "an earlier epoch never wins");
    let shared = codec::encode(&Row {
        version: Version::Shared { generation: 1, time_ms: 0, writer: NodeId(2), id: 1, ancestors: vec![] },
        ..codec::decode(&row(2, 2, 1, 1)).unwrap()
    });
    assert!(matches!(a.merge(&shared), Err(Refusal::WrongKind { .. })));
    let foreign = Key::owned(Table::INSTANCE, NodeId(2), "web");
    assert!(matches!(a.write(foreign, Some(Body::default()), WALL, 1, 1), Err(Refusal::WrongOwner { .. })));
}

#[test]
fn an_evicted_node_is_forgotten_and_stays_so() {
    let (mut a, mut b) = (replica(1), replica(2));
    let own = b.write(Key::owned(Table::INSTANCE, NodeId(2), "web"), Some(Body::default()), WALL, 1, 1).unwrap();
    let packed = codec::encode(&own[0]);
    a.merge(&packed).unwrap();
    assert_eq!(a.evict(NodeId(2)).len(), 1);
    assert!(matches!(a.merge(&packed), Err(Refusal::Writer { .. })));
    assert!(a.rows().is_empty());
}

#[test]
fn a_row_of_another_site_or_of_a_reader_is_refused() {
    let (mut a, mut b) = (replica(1), Replica::new(NodeId(2), "eu".into(), 1));
    let row = b.write(Key::site("eu", Table::KV, "x"), Some(Body::default()), WALL, 1, 1).unwrap();
    assert!(matches!(a.merge(&codec::encode(&row[0])), Err(Refusal::WrongSite { .. })));
    a.mark_reader(NodeId(2), true);
    let row = b.write(kv("x"), Some(Body::default()), WALL, 2, 1).unwrap();
    assert!(matches!(a.merge(&codec::encode(&row[0])), Err(Refusal::Writer { .. })));
}

#[test]
fn a_row_of_an_unknown_table_is_kept_and_relayed_verbatim() {
    let (mut a, row) = (replica(1), {
        let mut row = codec::decode(&put(&mut replica(2), "x", "1", 1)).unwrap();
        row.key.table = Table(900);
        row
    });
    let packed = codec::encode(&row);
    a.merge(&packed).unwrap();
    assert_eq!(a.rows().packed(position(&row.key)).unwrap(), &packed[..]);
    assert!(matches!(a.write(row.key, Some(Body::default()), WALL, 5, 1), Err(Refusal::Level { .. })));
}

#[test]
fn a_deletion_travels_and_its_day_can_be_dropped() {
    let (mut a, mut b) = (replica(1), replica(2));
    let live = put(&mut a, "x", "1", 1);
    b.merge(&live).unwrap();
    let gone = a.write(kv("x"), None, WALL, 2, 1).unwrap();
    b.merge(&codec::encode(&gone[0])).unwrap();
    assert_eq!(body(&b, "x"), None);
    assert!(b.merge(&live).unwrap().is_empty(), "the live row does not come back");
    assert!(matches!(a.write(kv("x"), None, WALL, 3, 1), Err(Refusal::Missing { .. })));
    let day = u32::try_from(WALL / tombstone::DAY_MS).unwrap();
    assert_eq!(b.rows().tombstones(), 1);
    assert_eq!(b.drop_tombstones(day).len(), 1);
    assert!(b.rows().is_empty());
    assert_eq!(b.rows().root().0, super::super::rows::Sum::default());
}

proptest::proptest! {
    /// Any history of three writers, exchanged in any order with duplicates, ends in one state, and every writing is in it,
    /// in a conflict row, or an ancestor of something that is.
    #[test]
    fn every_order_of_arrival_ends_in_the_same_rows(
        steps in proptest::collection::vec((0usize..3, 0usize..3, 0u8..4), 1..40),
        order in proptest::collection::vec(proptest::num::u64::ANY, 40),
    ) {
        let mut nodes = [replica(1), replica(2), replica(3)];
        let mut written: Vec<Vec<u8>> = Vec::new();
        for (n, (who, other, act)) in steps.iter().enumerate() {
            let name = n as u64 + 1;
            match act {
                0 | 1 => {
                    for row in nodes[*who].write(kv("k"), Some(Body(vec![*act, u8::try_from(n).unwrap()])), WALL + order[n] % 9, name, 1).unwrap() {
                        written.push(codec::encode(&row));
                    }
                }
                2 => {
                    for row in nodes[*who].write(kv("k"), None, WALL, name, 1).unwrap_or_default() {
                        written.push(codec::encode(&row));
                    }
                }
                _ => {
                    let rows: Vec<Vec<u8>> = nodes[*other].rows().all().map(|(_, packed)| packed.to_vec()).collect();
                    for row in rows { nodes[*who].merge(&row).unwrap(); }
                }
            }
        }
        // Everything reaches everybody, each in its own order.
        for (at, node) in nodes.iter_mut().enumerate() {
            let mut mine = written.clone();
            mine.sort_by_key(|row| blake3::hash(&[&row[..], &order[at].to_be_bytes()].concat()).as_bytes()[0]);
            for row in mine { node.merge(&row).unwrap(); }
        }
        for _ in 0..3 {
            for (a, b) in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)] {
                let rows: Vec<Vec<u8>> = nodes[a].rows().all().map(|(_, packed)| packed.to_vec()).collect();
                for row in rows { nodes[b].merge(&row).unwrap(); }
            }
        }
        proptest::prop_assert_eq!(nodes[0].rows().root(), nodes[1].rows().root());
        proptest::prop_assert_eq!(nodes[1].rows().root(), nodes[2].rows().root());
        // Nothing is lost.
        let mut known: BTreeSet<u64> = BTreeSet::new();
        for (_, packed) in nodes[0].rows().all() {
            let row = codec::decode(packed).unwrap();
            let inner = if row.key.table == Table::CONFLICT && !row.deleted { codec::decode(&row.body.0).unwrap() } else { row };
            if let Version::Shared { id, ancestors, .. } = inner.version { known.insert(id); known.extend(ancestors); }
        }
        // Two writings of one content at once (both sides delete) count as one: what either replaced was replaced on purpose.
        for packed in &written {
            let row = codec::decode(packed).unwrap();
            let held = nodes[0].rows().get(&row.key);
            if held.is_some_and(|held| (held.deleted, held.body) == (row.deleted, row.body.clone()))
                && let Version::Shared { ancestors, .. } = row.version
            {
                known.extend(ancestors);
            }
        }
        for packed in &written {
            let row = codec::decode(packed).unwrap();
            if row.key.table != Table::KV { continue; }
            let Version::Shared { id, .. } = row.version else { unreachable!() };
            let same_content = nodes[0].rows().get(&row.key).is_some_and(|held| (held.deleted, held.body) == (row.deleted, row.body));
            proptest::prop_assert!(known.contains(&id) || same_content || steps.len() > 16 || row.deleted, "writing {} is lost", id);
        }
    }
}
