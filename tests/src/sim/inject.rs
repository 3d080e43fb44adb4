//! Bugs put into the world on purpose, each in the smallest history that shows it. In: a class of bug. Out: what the checkers
//! say without it (nothing) and with it. The cores are the shipped ones: a bug is what a faulty build would do to its disk, to
//! what it receives or to its containers.

use p2p::table::{Key, Table};

use super::net::Profile;
use super::world::{Bug, Fault, World};
use super::{checks, random, services};

/// Seeds in which a bug of a random history must have shown.
const SEEDS: u64 = 40;

/// A class of bugs.
#[derive(Debug, Clone, Copy)]
pub struct Class {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is wrong with the build.
    pub bug: Bug,
    /// The checkers that may be the one to catch it.
    pub checkers: &'static [&'static str],
    history: fn(Option<Bug>) -> Result<(), String>,
}

const fn class(
    name: &'static str,
    bug: Bug,
    checkers: &'static [&'static str],
    history: fn(Option<Bug>) -> Result<(), String>,
) -> Class {
    Class { name, bug, checkers, history }
}

/// Every class.
pub const CLASSES: &[Class] = &[
    class("forgotten-tombstone", Bug::ForgetsTombstones, &["S7"], deleted_past_a_machine_that_was_off),
    class("resurrected-row", Bug::Resurrects, &["S7"], deleted_and_all_started_anew),
    class("wrong-winner", Bug::KeepsItsOwn, &["S3"], written_on_both_sides_of_a_cut),
    class("lost-concurrent-write", Bug::ForgetsConflicts, &["S10"], written_on_both_sides_of_a_cut),
    class("forged-owner", Bug::ForgesOwner, &["S2"], random_history),
    class("unknown-dropped", Bug::ForgetsUnknown, &["S8", "S3"], random_history),
    class("deaf", Bug::Deaf, &["S3", "S10"], random_history),
    class("lying-disk", Bug::LiesAboutDurability, &["S3", "S10"], random_history),
    class("empty-slot", Bug::StartsNothing, &["S4"], random_services),
    class("second-container", Bug::StartsTwice, &["S5"], random_services),
    class("over-reserved", Bug::ClaimsTooMuch, &["S6"], random_services),
];

impl Class {
    /// What the checkers say of the history without the bug.
    ///
    /// # Errors
    /// The promise that is broken although nothing was put in.
    pub fn without(&self) -> Result<(), String> {
        (self.history)(None)
    }

    /// What the checker says that catches it; `None` when nobody does.
    #[must_use]
    pub fn caught(&self) -> Option<String> {
        (self.history)(Some(self.bug)).err()
    }
}

/// Seeds with the bug until one shows it; without, the first of them.
fn random_history(bug: Option<Bug>) -> Result<(), String> {
    match bug {
        None => random::seed(1, None),
        Some(bug) => (1..=SEEDS).try_for_each(|seed| random::seed_with(seed, bug)),
    }
}

fn random_services(bug: Option<Bug>) -> Result<(), String> {
    let seeds = if bug.is_some() { SEEDS } else { 1 };
    (1..=seeds).try_for_each(|seed| services::history(seed, 3, bug))
}

/// Four machines delete a key while the fifth is off; then all start anew.
fn deleted_past_a_machine_that_was_off(bug: Option<Bug>) -> Result<(), String> {
    let mut world = World::new(51, 5, 1, Profile::LAN);
    world.bug = bug;
    world.start_all();
    world.run(5_000);
    let key = Key::global(Table::KV, "x");
    world.put(0, key.clone(), Some(vec![1]));
    world.run(3_000);
    world.fault(&Fault::PowerOff(4));
    world.put(0, key.clone(), None);
    world.run(3_000);
    (0..4).for_each(|at| world.fault(&Fault::PowerOff(at)));
    (0..5).for_each(|at| world.fault(&Fault::Start(at)));
    world.run(20_000);
    checks::roots_are_equal(&world)?;
    checks::nothing_deleted_comes_back(&world, &[key].into())
}

/// Everybody deletes a key; then all start anew from their disks.
fn deleted_and_all_started_anew(bug: Option<Bug>) -> Result<(), String> {
    let mut world = World::new(71, 3, 1, Profile::LAN);
    world.bug = bug;
    world.start_all();
    world.run(5_000);
    let key = Key::global(Table::KV, "x");
    world.put(0, key.clone(), Some(vec![1]));
    world.run(3_000);
    world.put(1, key.clone(), None);
    world.run(3_000);
    (0..3).for_each(|at| world.fault(&Fault::PowerOff(at)));
    (0..3).for_each(|at| world.fault(&Fault::Start(at)));
    world.run(10_000);
    checks::roots_are_equal(&world)?;
    checks::nothing_deleted_comes_back(&world, &[key].into())
}

/// Both halves write one key; everybody is off for a moment; the loser must still be somewhere.
fn written_on_both_sides_of_a_cut(bug: Option<Bug>) -> Result<(), String> {
    let mut world = World::new(61, 4, 1, Profile::LAN);
    world.bug = bug;
    world.start_all();
    world.run(5_000);
    world.fault(&Fault::Halve(vec![0, 1]));
    for at in [0, 3] {
        world.put(at, Key::global(Table::KV, "x"), Some(vec![u8::try_from(at).unwrap_or(9)]));
        // The later one wins.
        world.run(2_500);
    }
    world.fault(&Fault::Heal);
    world.run(20_000);
    (0..4).for_each(|at| world.fault(&Fault::PowerOff(at)));
    (0..4).for_each(|at| world.fault(&Fault::Start(at)));
    world.run(10_000);
    checks::roots_are_equal(&world)?;
    checks::no_acknowledged_write_is_lost(&world)
}
