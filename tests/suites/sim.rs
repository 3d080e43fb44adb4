//! The mesh's promises over random histories and named scenarios, in virtual time.

use p2p::membership::Liveness;
use p2p::table::{Key, Table};
use tests::sim::net::Profile;
use tests::sim::{Bug, Fault, World, checks, random};

/// Seeds of one run; `cargo xtask sim --seeds N` runs more.
const SEEDS: u64 = 200;

#[test]
fn no_random_history_breaks_a_promise() {
    for seed in 1..=SEEDS {
        if let Err(broken) = random::seed(seed) {
            panic!("{broken}");
        }
    }
}

#[test]
fn a_seed_replays_the_same_history() {
    let history = || {
        let mut world = World::new(5, 6, 2, Profile::WAN);
        world.start_all();
        world.put(1, Key::global(Table::KV, "x"), Some(vec![1]));
        world.run(3_000);
        world.fault(&Fault::Kill(2));
        world.run(9_000);
        (world.counts.bytes, world.counts.events, world.seen.clone())
    };
    assert_eq!(history(), history());
}

#[test]
fn both_halves_of_a_cluster_write_on_and_agree_within_five_seconds_of_the_heal() {
    let mut world = World::new(21, 20, 2, Profile::LAN);
    world.start_all();
    world.run(5_000);
    world.fault(&Fault::Halve((0..10).collect()));
    world.run(30_000);
    for at in [0, 19] {
        assert!(world.put(at, Key::global(Table::KV, format!("from-{at}")), Some(vec![1])));
    }
    world.run(3_000);
    assert!(world.writes.iter().all(|written| written.acked.is_some()));
    world.fault(&Fault::Heal);
    let took = world.run_until(20_000, |world| world.is_converged() && world.agrees_on_liveness());
    assert!(took.is_some_and(|ms| ms <= 9_000), "{took:?}");
    checks::no_acknowledged_write_is_lost(&world).unwrap();
}

#[test]
fn a_cluster_that_was_off_for_a_month_comes_back_and_nothing_deleted_does() {
    let mut world = World::new(31, 5, 1, Profile::LAN);
    world.start_all();
    world.run(5_000);
    let key = Key::global(Table::KV, "x");
    world.put(0, key.clone(), Some(vec![1]));
    world.run(3_000);
    world.fault(&Fault::PowerOff(4));
    world.put(0, key.clone(), None);
    world.run(3_000);
    for at in 0..4 {
        world.fault(&Fault::PowerOff(at));
    }
    world.run(30 * 86_400_000);
    for at in 0..5 {
        world.fault(&Fault::Start(at));
    }
    world.run(60_000);
    checks::nothing_deleted_comes_back(&world, &[key].into()).unwrap();
    checks::roots_are_equal(&world).unwrap();
    assert!(world.agrees_on_liveness());
    // Everybody has the tombstone now and its day is long over: it is forgotten, and stays so.
    let tombstones: usize =
        world.machines.iter().filter_map(|m| m.node.as_ref()).map(|n| n.replica().rows().tombstones()).sum();
    assert_eq!(tombstones, 0);
}

/// A replacement follows a verdict at once, so a false verdict is a duplicate: at most 3 of 100 stalls may cause one.
#[test]
fn stalls_of_three_seconds_are_not_called_down_in_small_clusters_either() {
    for nodes in [2, 3, 5] {
        let mut world = World::new(51, nodes, 1, Profile::LAN);
        world.start_all();
        world.run(10_000);
        let mut wrong = 0;
        for _ in 0..100 {
            world.seen.clear();
            let at = world.dice().index(nodes);
            let wait = world.dice().below(1_500);
            world.run(wait);
            world.fault(&Fault::Stall(at, 3_000));
            world.run(8_000);
            wrong += usize::from(world.seen.iter().any(|seen| seen.liveness == Liveness::Down));
        }
        assert!(wrong <= 3, "{wrong} of 100 stalls of one of {nodes} nodes");
        // A dead one is known within the period and four seconds.
        for _ in 0..10 {
            let wait = world.dice().below(1_500);
            world.run(wait);
            world.seen.clear();
            let began = world.now_ms();
            world.fault(&Fault::PowerOff(1));
            world.run(6_000);
            let known = world.seen.iter().find(|seen| seen.subject == 1 && seen.liveness == Liveness::Down);
            let after = known.map(|seen| seen.at_ms - began);
            assert!(after.is_some_and(|ms| ms <= if nodes < 5 { 3_900 } else { 4_400 }), "{nodes} nodes: {after:?}");
            world.fault(&Fault::Start(1));
            world.run(10_000);
        }
    }
}

#[test]
fn a_single_operation_is_no_storm() {
    let mut world = World::new(41, 60, 3, Profile::LAN);
    world.start_all();
    world.run(20_000);
    let before = world.counts.bytes;
    world.run(10_000);
    let steady = world.counts.bytes - before;
    for fault in [None, Some(Fault::Kill(7)), Some(Fault::Start(7))] {
        let before = world.counts.bytes;
        match fault {
            Some(fault) => world.fault(&fault),
            None => drop(world.put(3, Key::global(Table::KV, "x"), Some(vec![1; 100]))),
        }
        world.run(10_000);
        let bytes = world.counts.bytes - before;
        assert!(bytes <= 10 * steady, "{bytes} bytes in ten seconds, {steady} when nothing happens");
    }
}

/// Runs seeds with a bug until one is caught; returns what the checker said.
fn caught(bug: Bug, seeds: u64) -> String {
    (1..=seeds).find_map(|seed| random::seed_with(seed, bug).err()).unwrap_or_else(|| panic!("{bug:?} was not caught"))
}

#[test]
fn every_bug_that_is_put_in_is_caught_by_its_checker() {
    for (bug, checkers) in [
        (Bug::KeepsItsOwn, &["S3", "S10"][..]),
        (Bug::Deaf, &["S3", "S10"]),
        (Bug::ForgetsUnknown, &["S8", "S3"]),
        (Bug::ForgesOwner, &["S2"]),
        (Bug::ForgetsConflicts, &["S3", "S10"]),
        (Bug::LiesAboutDurability, &["S3", "S10"]),
    ] {
        let said = caught(bug, 40);
        assert!(checkers.iter().any(|checker| said.starts_with(checker)), "{bug:?}: {said}");
    }
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
    for at in 0..4 {
        world.fault(&Fault::PowerOff(at));
    }
    for at in 0..5 {
        world.fault(&Fault::Start(at));
    }
    world.run(20_000);
    checks::roots_are_equal(&world)?;
    checks::nothing_deleted_comes_back(&world, &[key].into())
}

#[test]
fn a_forgotten_tombstone_is_caught() {
    deleted_past_a_machine_that_was_off(None).unwrap();
    let said = deleted_past_a_machine_that_was_off(Some(Bug::ForgetsTombstones)).unwrap_err();
    assert!(said.starts_with("S7"), "{said}");
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
    }
    world.run(5_000);
    world.fault(&Fault::Heal);
    world.run(20_000);
    for at in 0..4 {
        world.fault(&Fault::PowerOff(at));
    }
    for at in 0..4 {
        world.fault(&Fault::Start(at));
    }
    world.run(10_000);
    checks::roots_are_equal(&world)?;
    checks::no_acknowledged_write_is_lost(&world)
}

#[test]
fn a_lost_concurrent_write_is_caught() {
    written_on_both_sides_of_a_cut(None).unwrap();
    let said = written_on_both_sides_of_a_cut(Some(Bug::ForgetsConflicts)).unwrap_err();
    assert!(said.starts_with("S10"), "{said}");
}
