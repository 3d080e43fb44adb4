//! Repair: range-based set reconciliation between two nodes, a root check first.
//! In: the rows of one side and what the other says. Out: what to answer. Keeps no state between messages, so that a lost
//! connection loses nothing; the sum, not the order of messages, says when both are equal.

use crate::table::rows::{Class, Position, Rows, Sum};
use crate::wire::{BATCH_MAX, Claim, FRAME_MAX, Message, Span, WireSum};

/// A span with at most this many rows is listed, not split: a listing of it (12 bytes a row) costs about what another
/// round of sixteen sums would.
const LIST_MAX: usize = 24;
/// A span is split so that a part has about this many rows.
const PART_ROWS: u32 = 8;
/// Rows a listing names at most, when the other side has next to nothing there: beyond it sums cost less.
const LISTED_MAX: usize = 512;
/// Claims one message of the other side makes us answer with at most: about 400 KiB; the next round goes on.
pub const CLAIMS_MAX: usize = 16_384;
/// Classes of the other side that are looked at: tables of newer builds in both scopes included.
const CLASSES_MAX: usize = 512;
/// Rows one message of the other side makes us walk over at most: a few milliseconds. An honest message is far below it.
pub const WALK_MAX: usize = 500_000;
/// Parts a span is split into at most, in bits: 1,024 parts of about 25 bytes.
const SPLIT_BITS_MAX: u8 = 10;
/// Bytes of rows one message of the other side makes us send at most; the next round brings the rest.
pub const ANSWER_MAX: usize = 4 * 1024 * 1024;

impl From<Sum> for WireSum {
    fn from(sum: Sum) -> Self {
        Self { count: sum.count, print: sum.print }
    }
}

/// The first message: the sums of everything.
#[must_use]
pub fn root(rows: &Rows) -> Message {
    let (global, site) = rows.root();
    Message::Root(global.into(), site.into())
}

/// Answers a root: nothing when equal, else the sums of all classes. `same_site` lets rows of the site take part.
#[must_use]
pub fn on_root(rows: &Rows, global: WireSum, site: WireSum, same_site: bool) -> Option<Message> {
    let (my_global, my_site) = rows.root();
    if global == my_global.into() && (!same_site || site == my_site.into()) {
        return None;
    }
    Some(Message::Sums(classes(rows, same_site).map(|(class, sum)| (class.0, sum.into())).collect()))
}

fn classes(rows: &Rows, same_site: bool) -> impl Iterator<Item = (Class, Sum)> + '_ {
    rows.sums().filter(move |(class, _)| same_site || !class.sited())
}

/// Answers the sums of all classes with claims on those that differ.
#[must_use]
pub fn on_sums(rows: &Rows, theirs: &[(u16, WireSum)], same_site: bool) -> Vec<Message> {
    let mut claims = Vec::new();
    let mut differ = |class: Class, mine: Sum, theirs: WireSum| {
        if theirs != mine.into() {
            claim(rows, Span { class: class.0, bits: 0, prefix: 0 }, theirs.count, &mut claims);
        }
    };
    for (class, mine) in classes(rows, same_site) {
        let theirs = theirs.iter().find(|(other, _)| *other == class.0).map(|(_, sum)| *sum).unwrap_or_default();
        differ(class, mine, theirs);
    }
    for (class, sum) in theirs.iter().take(CLASSES_MAX) {
        let class = Class(*class);
        if rows.sum(class).count == 0 && !class.table().is_hot() && (same_site || !class.sited()) {
            differ(class, Sum::default(), *sum);
        }
    }
    spans(claims)
}

/// Positions a span covers, both ends included; `None` for a malformed one.
fn bounds(span: Span) -> Option<(Position, Position)> {
    if span.bits > 64 {
        return None;
    }
    let mask = if span.bits == 0 { 0 } else { u64::MAX << (64 - u32::from(span.bits)) };
    let base = Class(span.class).first();
    let first = base | u128::from(span.prefix & mask) << 48;
    Some((first, first | u128::from(!mask) << 48 | ((1 << 48) - 1)))
}

fn short(position: Position) -> u64 {
    u64::try_from((position >> 48) & u128::from(u64::MAX)).expect("64 bits are left")
}

/// The half of a fingerprint that listings carry.
fn half(print: u64) -> u32 {
    u32::try_from(print & u64::from(u32::MAX)).expect("32 bits are left")
}

/// Says what we have of a span: its rows when they are few on either side, else the sums of its parts.
fn claim(rows: &Rows, span: Span, their_count: u32, out: &mut Vec<(Span, Claim)>) {
    let Some((first, last)) = bounds(span) else { return };
    let mut items: Vec<(Position, u64)> = rows.range(first, last).collect();
    let few = their_count as usize <= LIST_MAX / 4 && items.len() <= LISTED_MAX;
    if items.len() <= LIST_MAX || few || span.bits > 52 {
        // Keys so alike that a part cannot be split further are listed as far as a listing goes.
        items.truncate(LISTED_MAX);
        let list = items.iter().map(|(at, print)| (short(*at), half(*print))).collect();
        out.push((span, Claim::Items(list)));
        return;
    }
    let rows_here = u32::try_from(items.len()).unwrap_or(u32::MAX).max(their_count);
    let mut split = 4u8;
    while split < SPLIT_BITS_MAX && rows_here >> split > PART_ROWS {
        split += 1;
    }
    let bits = span.bits + split;
    let mut at = 0;
    for part in 0..1u64 << split {
        let part = Span { class: span.class, bits, prefix: span.prefix | part << (64 - u32::from(bits)) };
        let Some((_, last)) = bounds(part) else { return };
        let mut sum = WireSum::default();
        while let Some((position, print)) = items.get(at).filter(|(position, _)| *position <= last) {
            let _ = position;
            sum = WireSum { count: sum.count + 1, print: sum.print.wrapping_add(*print) };
            at += 1;
        }
        out.push((part, Claim::Sum(sum)));
    }
}

/// Packs claims into messages of bounded size.
fn spans(claims: Vec<(Span, Claim)>) -> Vec<Message> {
    let mut messages = Vec::new();
    let (mut batch, mut size) = (Vec::new(), 0);
    for (span, claim) in claims {
        size += 32 + if let Claim::Items(items) = &claim { items.len() * 16 } else { 0 };
        batch.push((span, claim));
        if size > FRAME_MAX / 4 {
            messages.push(Message::Spans(std::mem::take(&mut batch)));
            size = 0;
        }
    }
    if !batch.is_empty() {
        messages.push(Message::Spans(batch));
    }
    messages
}

/// Answers claims: finer claims where sums differ, rows and wants where lists do.
#[must_use]
pub fn on_spans(rows: &Rows, theirs: &[(Span, Claim)], same_site: bool) -> Vec<Message> {
    let (mut claims, mut send, mut want) = (Vec::new(), Vec::new(), Vec::new());
    let mut walked = 0;
    for (span, claimed) in theirs {
        if walked > WALK_MAX || claims.len() > CLAIMS_MAX {
            break;
        }
        let class = Class(span.class);
        if class.table().is_hot() || (class.sited() && !same_site) {
            continue;
        }
        let Some((first, last)) = bounds(*span) else { continue };
        match claimed {
            Claim::Sum(sum) => {
                let mut mine = WireSum::default();
                for (_, print) in rows.range(first, last) {
                    mine = WireSum { count: mine.count + 1, print: mine.print.wrapping_add(print) };
                }
                walked += mine.count as usize;
                if mine != *sum {
                    claim(rows, *span, sum.count, &mut claims);
                }
            }
            Claim::Items(items) => {
                let mut items: std::collections::BTreeMap<u64, u32> = items.iter().copied().collect();
                for (at, print) in rows.range(first, last) {
                    walked += 1;
                    if walked > WALK_MAX {
                        break;
                    }
                    match items.remove(&short(at)) {
                        Some(theirs) if theirs == half(print) => {}
                        Some(_) => {
                            send.push(at);
                            want.push((span.class, short(at)));
                        }
                        None => send.push(at),
                    }
                }
                want.extend(items.into_keys().map(|hash| (span.class, hash)));
            }
        }
    }
    let mut messages = spans(claims);
    messages.extend(want.chunks(2048).map(|wants| Message::Want(wants.to_vec())));
    messages.extend(pack(rows, send.into_iter()));
    messages
}

/// Answers wants with rows.
#[must_use]
pub fn on_want(rows: &Rows, wants: &[(u16, u64)], same_site: bool) -> Vec<Message> {
    let found = wants.iter().filter(|(class, _)| same_site || !Class(*class).sited()).flat_map(|(class, hash)| {
        let first = Class(*class).first() | u128::from(*hash) << 48;
        rows.range(first, first | ((1 << 48) - 1)).map(|(at, _)| at)
    });
    pack(rows, found)
}

/// Packs rows into messages of about [`BATCH_MAX`], up to [`ANSWER_MAX`] in all.
pub fn pack(rows: &Rows, positions: impl Iterator<Item = Position>) -> Vec<Message> {
    let mut messages = Vec::new();
    let (mut batch, mut size, mut total) = (Vec::new(), 0, 0);
    for at in positions {
        let Some(packed) = rows.packed(at) else { continue };
        if size > 0 && size + packed.len() > BATCH_MAX {
            messages.push(Message::Rows(std::mem::take(&mut batch)));
            size = 0;
        }
        size += packed.len();
        total += packed.len();
        batch.push(packed.to_vec());
        if total > ANSWER_MAX {
            break;
        }
    }
    if !batch.is_empty() {
        messages.push(Message::Rows(batch));
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;
    use crate::table::{Body, Key, Replica, Table, codec};

    /// Runs repair between two copies until nobody has anything to say; returns (bytes, half round trips).
    fn run(a: &mut Replica, b: &mut Replica) -> (usize, usize) {
        let (mut bytes, mut hops) = (0, 0);
        let mut to_b = vec![root(a.rows())];
        let (mut from, mut to) = (a, b);
        while !to_b.is_empty() {
            hops += 1;
            let mut back = Vec::new();
            for message in &to_b {
                bytes += message.framed_len();
                match message {
                    Message::Root(global, site) => back.extend(on_root(to.rows(), *global, *site, true)),
                    Message::Sums(sums) => back.extend(on_sums(to.rows(), sums, true)),
                    Message::Spans(spans) => back.extend(on_spans(to.rows(), spans, true)),
                    Message::Want(wants) => back.extend(on_want(to.rows(), wants, true)),
                    Message::Rows(rows) => {
                        for row in rows {
                            to.merge(row).unwrap();
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
            to_b = back;
            std::mem::swap(&mut from, &mut to);
        }
        (bytes, hops)
    }

    fn filled(node: u64, rows: u64) -> Replica {
        let mut replica = Replica::new(NodeId(node), "s".into(), 1);
        for n in 0..rows {
            replica.write(Key::global(Table::KV, format!("key-{n}")), Some(Body(vec![1; 40])), 1, n + 1, 1).unwrap();
        }
        replica
    }

    #[test]
    fn equal_copies_cost_one_small_message() {
        let (mut a, mut b) = (filled(1, 1000), filled(1, 1000));
        let (bytes, hops) = run(&mut a, &mut b);
        assert!(bytes <= 100 && hops == 1, "{bytes} bytes, {hops} hops");
    }

    #[test]
    fn any_two_copies_become_equal() {
        for (left, right, common) in
            [(0u64, 5u64, 0u64), (5, 0, 0), (1, 1, 2000), (300, 200, 0), (0, 3000, 10), (40, 40, 500)]
        {
            let (mut a, mut b) = (filled(1, common), filled(1, common));
            for n in 0..left {
                a.write(Key::global(Table::KV, format!("a-{n}")), Some(Body(vec![2; 9])), 2, 10_000 + n, 1).unwrap();
            }
            for n in 0..right {
                let table = if n % 2 == 0 { Table::SERVICE } else { Table::KV };
                b.write(Key::global(table, format!("b-{n}")), Some(Body(vec![3; 9])), 2, 20_000 + n, 1).unwrap();
            }
            run(&mut a, &mut b);
            assert_eq!(a.rows().root(), b.rows().root(), "{left} {right} {common}");
        }
    }

    #[test]
    fn a_cut_with_changes_on_both_sides_heals_in_few_rounds() {
        let (mut a, mut b) = (filled(1, 20_000), filled(1, 20_000));
        let mut changed = 0;
        for n in 0..200u64 {
            for (side, at) in [(&mut a, n), (&mut b, 10_000 + n)] {
                let rows = side
                    .write(Key::global(Table::KV, format!("key-{at}")), Some(Body(vec![9; 40])), 5, 50_000 + at, 1)
                    .unwrap();
                changed += codec::encode(&rows[0]).len();
            }
        }
        let (bytes, hops) = run(&mut a, &mut b);
        assert_eq!(a.rows().root(), b.rows().root());
        assert!(hops <= 8, "{hops} half round trips");
        // Scattered changes are the worst case of ranges; the recent changes a node remembers per peer spare it (see `node`).
        assert!(bytes < changed * 8, "{bytes} bytes for {changed} changed");
    }

    #[test]
    fn a_node_with_next_to_nothing_catches_up_in_frames_that_fit() {
        let (mut a, mut b) = (filled(1, 30_000), filled(1, 0));
        b.write(Key::global(Table::KV, "own"), Some(Body(vec![1])), 2, 90_000, 1).unwrap();
        for message in on_sums(a.rows(), &sums_of(b.rows()), true) {
            assert!(message.framed_len() <= FRAME_MAX, "{} bytes", message.framed_len());
        }
        let mut rounds = 0;
        while a.rows().root() != b.rows().root() {
            let (_, hops) = run(&mut a, &mut b);
            rounds += 1;
            assert!(rounds <= 4 && hops <= 10, "round {rounds}, {hops} half round trips");
        }
    }

    fn sums_of(rows: &Rows) -> Vec<(u16, WireSum)> {
        rows.sums().map(|(class, sum)| (class.0, sum.into())).collect()
    }

    #[test]
    fn what_one_message_costs_is_bounded_whatever_it_claims() {
        let a = filled(1, 20_000);
        let class = Class::of(Table::KV, false).0;
        let whole = Span { class, bits: 0, prefix: 0 };
        let claims = vec![(whole, Claim::Sum(WireSum { count: 9, print: 9 })); 20_000];
        let start = std::time::Instant::now();
        let answers = on_spans(a.rows(), &claims, true);
        assert!(answers.iter().map(Message::framed_len).sum::<usize>() < 4 * ANSWER_MAX);
        assert!(answers.iter().all(|message| message.framed_len() <= FRAME_MAX));
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
        let sums = vec![(900u16, WireSum { count: 1, print: 1 }); 60_000];
        assert!(on_sums(a.rows(), &sums, true).iter().map(Message::framed_len).sum::<usize>() < FRAME_MAX);
    }

    #[test]
    fn malformed_spans_are_harmless() {
        let a = filled(1, 10);
        let span = Span { class: 0xffff, bits: 255, prefix: u64::MAX };
        assert!(
            on_spans(a.rows(), &[(span, Claim::Items(vec![(1, 1)])), (span, Claim::Sum(WireSum::default()))], true)
                .is_empty()
        );
        assert!(on_want(a.rows(), &[(0xffff, 1), (0, 0)], true).is_empty());
    }
}
