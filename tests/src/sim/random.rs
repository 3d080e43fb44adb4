//! Random histories: one seed, some machines, writes and faults; then everything is healed and the checkers look.
//! In: a seed and a size. Out: nothing, or the promise that was broken with the command that replays it.

use std::collections::BTreeSet;

use p2p::id::NodeId;
use p2p::node::Dice;
use p2p::table::row::Version;
use p2p::table::{Body, Key, Row, Table};

use super::checks;
use super::net::Profile;
use super::world::{Bug, Fault, WALL_START, World};

/// From this size on a history is short and its faults are those of large clusters: what a machine or two do to each other is
/// what thousands of small histories are for.
pub const LARGE: usize = 100;

/// How long a history is, by the number of machines.
#[derive(Debug, Clone, Copy)]
struct Length {
    /// Least steps, and how many more at most.
    steps: (u64, u64),
    /// Between two steps at most, in ms.
    pause_ms: u64,
    /// How long everything is left alone before the checkers look, in ms.
    quiet_ms: u64,
}

impl Length {
    fn of(count: usize) -> Self {
        if count < LARGE {
            Self { steps: (40, 80), pause_ms: 3_000, quiet_ms: 60_000 }
        } else {
            Self { steps: (16, 16), pause_ms: 1_000, quiet_ms: 20_000 }
        }
    }
}

/// Runs one seed with as many machines as the seed says (3 to 7), or so many.
///
/// # Errors
/// The broken promise, and how to replay it.
pub fn seed(seed: u64, count: Option<usize>) -> Result<(), String> {
    let size = count.map_or_else(String::new, |count| format!(" --nodes {count}"));
    run(seed, count, None)
        .map_err(|broken| format!("seed {seed}: {broken}\nreplay with: cargo xtask sim --seed {seed}{size}"))
}

/// Runs one seed with a bug put in, to see that it is caught.
///
/// # Errors
/// The promise it broke.
pub fn seed_with(seed: u64, bug: Bug) -> Result<(), String> {
    run(seed, None, Some(bug))
}

fn unknown_row(writer: NodeId) -> Row {
    Row {
        key: Key::global(Table(900), "of-a-newer-build"),
        version: Version::Shared { generation: 1, time_ms: WALL_START, writer, id: 77, ancestors: vec![] },
        deleted: false,
        body: Body(vec![1, 2, 3, 255]),
    }
}

fn run(seed: u64, count: Option<usize>, bug: Option<Bug>) -> Result<(), String> {
    let mut dice = Dice(seed ^ 0x5eed);
    let drawn = 3 + dice.index(5);
    let count = count.unwrap_or(drawn);
    let length = Length::of(count);
    let profile = if dice.below(2) == 0 { Profile::LAN } else { Profile::WAN };
    let mut world = World::new(seed, count, 1 + dice.index(3), profile);
    world.bug = bug;
    let unknown = unknown_row(world.machines[0].id);
    world.seed_row(0, &unknown);
    world.start_all();
    world.run(5_000);
    let keys: Vec<Key> = (0..6).map(|n| Key::global(Table::KV, format!("k{n}"))).collect();
    for step in 0..length.steps.0 + dice.below(length.steps.1) {
        act(&mut world, &mut dice, &keys, seed, step);
        world.run(dice.below(length.pause_ms));
    }
    world.fault(&Fault::Heal);
    world.fault(&Fault::Loss(0));
    for at in 0..count {
        world.fault(&Fault::Start(at));
    }
    world.run(length.quiet_ms);
    checks::roots_are_equal(&world)?;
    if !world.agrees_on_liveness() {
        return Err("liveness: somebody is believed down that runs".into());
    }
    checks::owned_rows_come_from_their_owner(&world)?;
    checks::unknown_rows_are_preserved(&world, &[unknown])?;
    checks::no_acknowledged_write_is_lost(&world)?;
    // Deletions that follow everything stay, also past machines that were off while they happened.
    let off = dice.index(count);
    world.fault(&Fault::PowerOff(off));
    let mut deleted = BTreeSet::new();
    for key in keys {
        if world.put((off + 1) % count, key.clone(), None) {
            deleted.insert(key);
        }
    }
    world.run(3_000);
    world.fault(&Fault::Start(off));
    world.run(length.quiet_ms.min(20_000));
    checks::nothing_deleted_comes_back(&world, &deleted)?;
    checks::roots_are_equal(&world)
}

/// One step of a history: mostly a write, else a fault.
fn act(world: &mut World, dice: &mut Dice, keys: &[Key], seed: u64, step: u64) {
    let count = world.machines.len();
    let at = dice.index(count);
    match dice.below(24) {
        0..=11 => {
            let key = keys[dice.index(keys.len())].clone();
            world.put(at, key, Some(format!("{seed}-{step}").into_bytes()));
        }
        12..=13 => {
            world.put(at, keys[dice.index(keys.len())].clone(), None);
        }
        14 => {
            let owner = world.machines[at].id;
            world.put(at, Key::owned(Table::INSTANCE, owner, "i"), Some(step.to_be_bytes().to_vec()));
        }
        15 => world.fault(&Fault::Kill(at)),
        16 => world.fault(&Fault::PowerOff(at)),
        17 => world.fault(&Fault::Stall(at, 200 + dice.below(8_000))),
        18 => world.fault(&Fault::CutOneWay(at, (at + 1) % count)),
        19 => {
            let half = (0..count).filter(|_| dice.below(2) == 0).collect();
            world.fault(&Fault::Halve(half));
        }
        20 => world.fault(&Fault::Heal),
        21 => world.fault(&Fault::Skew(at, i64::try_from(dice.below(600_000)).unwrap_or(0) - 300_000)),
        22 => world.fault(&Fault::Loss(dice.below(500))),
        _ => {
            // The one that was drawn, or in a large cluster the next that is off.
            let off = (0..count).map(|step| (at + step) % count).find(|at| !world.runs(*at));
            world.fault(&Fault::Start(off.filter(|_| count >= LARGE).unwrap_or(at)));
        }
    }
}
