//! The mesh's promises over random histories and named scenarios, in virtual time.

use p2p::membership::Liveness;
use p2p::table::{Key, Table};
use tests::sim::net::Profile;
use tests::sim::{Fault, World, checks, inject, random, services};

/// Seeds of one run; `cargo xtask sim --seeds N` runs more.
const SEEDS: u64 = 200;
/// The same of histories with services.
const SERVICE_SEEDS: u64 = 10;

#[test]
fn no_random_history_breaks_a_promise() {
    for seed in 1..=SEEDS {
        if let Err(broken) = random::seed(seed, None) {
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

#[test]
fn every_bug_that_is_put_in_is_caught_by_its_checker() {
    for class in inject::CLASSES {
        assert_eq!(class.without(), Ok(()), "{} without the bug", class.name);
        let said = class.caught().unwrap_or_else(|| panic!("{} was not caught", class.name));
        assert!(class.checkers.iter().any(|checker| said.starts_with(checker)), "{}: {said}", class.name);
    }
}

#[test]
fn services_fill_every_slot_once_after_machines_died_stalled_and_were_cut_off() {
    for seed in 1..=SERVICE_SEEDS {
        if let Err(broken) = services::history(seed, 7, None) {
            panic!("seed {seed}: {broken}\nreplay with: cargo xtask sim --services --seed {seed}");
        }
    }
}

#[test]
fn a_large_cluster_keeps_its_promises() {
    random::seed(1, Some(random::LARGE)).unwrap_or_else(|broken| panic!("{broken}"));
}
