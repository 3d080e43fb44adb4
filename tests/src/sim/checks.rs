//! The checkers. In: a world after quiet. Out: which promise is broken, in words, or nothing.

use std::collections::{BTreeMap, BTreeSet};

use p2p::table::row::Version;
use p2p::table::{Key, Row, Table, codec};

use super::world::World;

/// S2: owned rows are written by their owner only: nobody holds a later version of a row than its owner has written.
///
/// # Errors
/// In words.
pub fn owned_rows_come_from_their_owner(world: &World) -> Result<(), String> {
    for machine in &world.machines {
        let Some(node) = &machine.node else { continue };
        for (_, packed) in node.replica().rows().all() {
            let row = codec::decode(packed).map_err(|error| error.to_string())?;
            let Version::Owned { owner, epoch, .. } = row.version else { continue };
            let Some(of) = world.machine_of(owner) else {
                return Err(format!("S2: {} is owned by nobody", row.key));
            };
            if row.key.owner() != Some(owner) || epoch > of.epoch {
                return Err(format!(
                    "S2: {} at {} has version ({owner}, {epoch}) that its owner never wrote",
                    row.key, machine.id
                ));
            }
        }
    }
    Ok(())
}

/// S3: equal root at every running machine.
///
/// # Errors
/// In words, with the tables that differ.
pub fn roots_are_equal(world: &World) -> Result<(), String> {
    let nodes: Vec<_> = world.machines.iter().filter_map(|machine| machine.node.as_ref()).collect();
    let Some(first) = nodes.first() else { return Ok(()) };
    for node in &nodes {
        if node.replica().rows().root().0 != first.replica().rows().root().0 {
            let sums = |node: &p2p::node::Node| -> BTreeMap<_, _> { node.replica().rows().sums().collect() };
            let (a, b) = (sums(first), sums(node));
            let differ: BTreeSet<String> = a
                .iter()
                .chain(&b)
                .filter(|(class, _)| a.get(class) != b.get(class))
                .map(|(class, _)| {
                    format!("{} {:?}/{:?}", class.table(), a.get(class).map(|s| s.count), b.get(class).map(|s| s.count))
                })
                .collect();
            return Err(format!("S3: {} and {} differ in {differ:?}", first.id(), node.id()));
        }
    }
    Ok(())
}

/// S7: a key whose last writing was a deletion that followed everything else is gone everywhere.
///
/// # Errors
/// In words.
pub fn nothing_deleted_comes_back(world: &World, deleted: &BTreeSet<Key>) -> Result<(), String> {
    for machine in &world.machines {
        let Some(node) = &machine.node else { continue };
        if let Some(key) = deleted.iter().find(|key| node.get(key).is_some()) {
            return Err(format!("S7: {key} came back at {}", machine.id));
        }
    }
    Ok(())
}

/// S8: rows of tables and with fields that are not known stay as they were, byte for byte.
///
/// # Errors
/// In words.
pub fn unknown_rows_are_preserved(world: &World, rows: &[Row]) -> Result<(), String> {
    for machine in &world.machines {
        let Some(node) = &machine.node else { continue };
        for row in rows {
            if node.replica().rows().get(&row.key).as_ref() != Some(row) {
                return Err(format!("S8: {} is not as it was at {}", row.key, machine.id));
            }
        }
    }
    Ok(())
}

/// S10: every acknowledged write is in state, among the ancestors of what stands, or in a conflict row.
///
/// # Errors
/// In words.
pub fn no_acknowledged_write_is_lost(world: &World) -> Result<(), String> {
    let Some(node) = world.machines.iter().find_map(|machine| machine.node.as_ref()) else { return Ok(()) };
    let mut known: BTreeSet<u64> = BTreeSet::new();
    let note = |row: &Row, known: &mut BTreeSet<u64>| {
        if let Version::Shared { id, ancestors, .. } = &row.version {
            known.insert(*id);
            known.extend(ancestors);
        }
    };
    for (_, packed) in node.replica().rows().all() {
        let row = codec::decode(packed).map_err(|error| error.to_string())?;
        note(&row, &mut known);
        if row.key.table == Table::CONFLICT
            && let Ok(lost) = codec::decode(&row.body.0)
        {
            note(&lost, &mut known);
        }
    }
    for written in world.writes.iter().filter(|written| written.acked.is_some()) {
        let Version::Shared { id, generation, .. } = &written.row.version else { continue };
        if known.contains(id) {
            continue;
        }
        // Beyond sixteen ancestors a writing is known only through those that descend from it.
        let descends = descended(world, *id, &known);
        if !descends {
            return Err(format!(
                "S10: {} generation {generation} ({:?}) of machine {} is lost",
                written.row.key, written.acked, written.at
            ));
        }
    }
    Ok(())
}

/// Whether a writing is known, or one that descends from it. The same content written twice at once (two deletions of one
/// day) is one writing: either stands for both, and for what both were written over.
fn descended(world: &World, id: u64, known: &BTreeSet<u64>) -> bool {
    let mut frontier = vec![id];
    let mut seen = BTreeSet::new();
    while let Some(id) = frontier.pop() {
        if known.contains(&id) {
            return true;
        }
        if !seen.insert(id) {
            continue;
        }
        let named = |written: &&super::world::Written| matches!(written.row.version, Version::Shared { id: other, .. } if other == id);
        let this = world.writes.iter().find(named);
        for written in &world.writes {
            let Version::Shared { id: next, ancestors, .. } = &written.row.version else { continue };
            let twin = this.is_some_and(|this| {
                (&this.row.key, this.row.deleted, &this.row.body)
                    == (&written.row.key, written.row.deleted, &written.row.body)
            });
            if twin || ancestors.contains(&id) {
                frontier.push(*next);
            }
        }
    }
    false
}
