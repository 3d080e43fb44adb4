//! The figures G1 to G8 of the mesh, as far as virtual time can measure them. In: a size. Out: one line a figure,
//! `figure NAME ours=V PEER=V ratio=R goal=G met|short`. Peers' values are the published or measured ones they are named by.

use std::time::Instant;

use p2p::id::NodeId;
use p2p::membership::Liveness;
use p2p::node::Dice;
use p2p::sync;
use p2p::table::row::Version;
use p2p::table::{Body, Key, Replica, Row, Table, codec};
use p2p::wire::Message;

use super::net::Profile;
use super::swim::Swim;
use super::world::{Fault, World};

/// Prints one figure. `less` says that less is better.
fn figure(name: &str, ours: f64, peer: Option<(&str, f64)>, goal: f64, less: bool) {
    let met = if less { ours <= goal } else { ours >= goal };
    let peer = peer
        .map_or_else(|| "peer=- ratio=-".to_owned(), |(who, value)| format!("{who}={value} ratio={:.3}", ours / value));
    println!("figure {name} ours={ours:.3} {peer} goal={goal} {}", if met { "met" } else { "short" });
}

/// Processor time of this process so far, in seconds.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn percentile(values: &mut [u64], of_hundred: usize) -> u64 {
    values.sort_unstable();
    let at = (values.len() * of_hundred).div_ceil(100).saturating_sub(1);
    values.get(at).copied().unwrap_or(0)
}

fn settled(seed: u64, count: usize, sites: usize, profile: Profile) -> World {
    let mut world = World::new(seed, count, sites, profile);
    world.start_all();
    world.run(15_000);
    world
}

/// Prints every figure for `count` simulated nodes.
pub fn all(count: usize) {
    merges();
    heal();
    let theirs = swim_death(count);
    cluster(count, 1, Profile::LAN, "lan", &theirs);
    cluster(count, 5, Profile::WAN, "wan", &theirs);
    stalls();
}

/// What SWIM with its defaults costs and takes, measured in this run: `foca` over the same LAN.
#[derive(Debug)]
struct Theirs {
    messages: f64,
    bytes: f64,
    p99_ms: f64,
    last_ms: f64,
}

fn swim_death(count: usize) -> Theirs {
    let mut swim = Swim::new(7, u16::try_from(count).unwrap_or(u16::MAX), Profile::LAN);
    swim.run(10_000);
    let before = swim.sent;
    swim.run(20_000);
    let node_seconds = count as f64 * 20.0;
    let messages = (swim.sent.0 - before.0) as f64 / node_seconds;
    let bytes = 2.0 * (swim.sent.1 - before.1) as f64 / node_seconds;
    let start = swim.now_ms();
    swim.kill(3);
    swim.run(60_000);
    let mut told: Vec<u64> = (0..count)
        .filter(|at| *at != 3)
        .map(|at| {
            let first = swim.downs.iter().find(|(subject, observer, _)| (*subject, *observer) == (3, at));
            first.map_or(60_000, |(_, _, when)| when - start)
        })
        .collect();
    let (p99, last) = (percentile(&mut told, 99), percentile(&mut told, 100));
    Theirs { messages, bytes, p99_ms: p99 as f64, last_ms: last as f64 }
}

/// SWIM's false verdicts with `count` members: at 1 % and 5 % loss per node-hour, and of 100 stalls.
fn swim_false(count: u16) -> (f64, f64, f64) {
    let mut swim = Swim::new(11, count, Profile::LAN);
    swim.run(10_000);
    let mut at_loss = [0.0, 0.0];
    for (slot, loss) in [100, 500].into_iter().enumerate() {
        swim.set_loss(loss);
        swim.downs.clear();
        swim.run(600_000);
        let episodes: std::collections::BTreeSet<(usize, u64)> =
            swim.downs.iter().map(|(subject, _, when)| (*subject, when / 30_000)).collect();
        at_loss[slot] = episodes.len() as f64 / (f64::from(count) * 600.0 / 3_600.0);
    }
    swim.set_loss(0);
    swim.run(60_000);
    let mut dice = Dice(5);
    let mut wrong = 0.0;
    for _ in 0..100 {
        swim.downs.clear();
        let wait = dice.below(1_500);
        swim.run(wait);
        swim.stall(dice.index(usize::from(count)), 3_000);
        swim.run(8_000);
        wrong += f64::from(u8::from(!swim.downs.is_empty()));
    }
    (at_loss[0], at_loss[1], wrong)
}

/// G3, G4, G5, G1 on one cluster, in this order: quiet, a change, a death.
fn cluster(count: usize, sites: usize, profile: Profile, label: &str, theirs: &Theirs) {
    let (wall, began) = (Instant::now(), cpu_seconds());
    let mut world = settled(7, count, sites, profile);
    let born = 1_000;
    let before = world.counts.clone();
    world.run(20_000);
    let node_seconds = count as f64 * 20.0;
    let messages = (world.counts.messages - before.messages) as f64 / node_seconds;
    // A node's socket carries what it sends and what it receives.
    let bytes = 2.0 * (world.counts.bytes - before.bytes) as f64 / node_seconds;
    figure(&format!("g3_messages_a_second_{label}_{count}"), messages, Some(("foca", theirs.messages)), 5.0, true);
    figure(&format!("g3_bytes_a_second_{label}_{count}"), bytes, Some(("foca", theirs.bytes)), 450.0, true);
    let repair = |world: &World| world.counts.lane_bytes.get(&p2p::wire::Lane::Repair).copied().unwrap_or(0);
    let idle_repair = 2.0
        * (repair(&world) - before.lane_bytes.get(&p2p::wire::Lane::Repair).copied().unwrap_or(0)) as f64
        / node_seconds;
    figure(&format!("g6_repair_bytes_a_second_{label}_{count}"), idle_repair, None, 60.0, true);

    let mut delays = Vec::new();
    let mut sends = Vec::new();
    for change in 0..5 {
        let name = format!("change-{change}");
        world.arrivals.insert(name.clone(), std::collections::BTreeMap::new());
        let (before, start) = (world.counts.payload_sends, world.now_ms());
        let at = world.dice().index(count);
        world.put(at, Key::global(Table::KV, name.clone()), Some(b"value".to_vec()));
        world.run(1_500);
        sends.push((world.counts.payload_sends - before) as f64 / (count - 1) as f64);
        world.run(4_000);
        let arrivals = &world.arrivals[&name];
        delays.extend(arrivals.values().map(|at| at - start));
        delays.extend(std::iter::repeat_n(60_000, count - arrivals.len()));
    }
    figure(
        &format!("g4_change_to_p99_ms_{label}_{count}"),
        percentile(&mut delays, 99) as f64,
        Some(("corrosion-published", 1_000.0)),
        800.0,
        true,
    );
    figure(&format!("g4_change_to_last_ms_{label}_{count}"), percentile(&mut delays, 100) as f64, None, 3_000.0, true);
    let mean = sends.iter().sum::<f64>() / sends.len() as f64;
    figure(&format!("g5_sends_a_change_{label}_{count}"), mean, Some(("iroh-gossip-published", 1.43)), 1.6, true);

    for (how, fault) in [("kill", Fault::Kill(3)), ("power", Fault::PowerOff(4))] {
        let (Fault::Kill(dead) | Fault::PowerOff(dead)) = fault else { continue };
        world.seen.clear();
        let start = world.now_ms();
        world.fault(&fault);
        world.run(16_000);
        let mut told: Vec<u64> = (0..count)
            .filter(|at| world.runs(*at))
            .map(|at| {
                let seen = world
                    .seen
                    .iter()
                    .find(|seen| seen.observer == at && seen.subject == dead && seen.liveness == Liveness::Down);
                seen.map_or(60_000, |seen| seen.at_ms - start)
            })
            .collect();
        figure(
            &format!("g1_{how}_known_p99_ms_{label}_{count}"),
            percentile(&mut told, 99) as f64,
            Some(("foca", theirs.p99_ms)),
            7_000.0,
            true,
        );
        figure(
            &format!("g1_{how}_known_last_ms_{label}_{count}"),
            percentile(&mut told, 100) as f64,
            Some(("foca", theirs.last_ms)),
            15_000.0,
            true,
        );
        let wrong =
            world.seen.iter().filter(|seen| seen.liveness == Liveness::Down && world.runs(seen.subject)).count();
        figure(&format!("g2_false_downs_{how}_{label}_{count}"), wrong as f64, None, 0.0, true);
    }
    let took = cpu_seconds() - began;
    let minute = took * 60_000.0 / (world.now_ms() - born) as f64;
    figure(&format!("g19_cpu_seconds_a_virtual_minute_{label}_{count}"), minute, None, 30.0, true);
    eprintln!(
        "{label} of {count}: {} events, {:.1} s of virtual time in {:.1} s",
        world.counts.events,
        world.now_ms() as f64 / 1e3,
        wall.elapsed().as_secs_f64()
    );
}

/// G2: false verdicts at loss, and after stalls of three seconds.
fn stalls() {
    let count = 50;
    let (one, five, stalled) = swim_false(50);
    let mut world = settled(11, count, 1, Profile::LAN);
    for (loss, goal_hours) in [(100, 200.0), (500, 50.0)] {
        world.fault(&Fault::Loss(loss));
        world.seen.clear();
        world.run(600_000);
        let hours = count as f64 * 600.0 / 3_600.0;
        let downs: std::collections::BTreeSet<(usize, u64)> = world
            .seen
            .iter()
            .filter(|seen| seen.liveness == Liveness::Down)
            .map(|seen| (seen.subject, seen.at_ms / 10_000))
            .collect();
        let goal = if loss == 100 { 0.0 } else { 1.0 };
        figure(
            &format!("g2_false_downs_at_{loss}_of_10000_per_{goal_hours}_h"),
            downs.len() as f64 * goal_hours / hours,
            Some(("foca", goal_hours * if loss == 100 { one } else { five })),
            goal,
            true,
        );
    }
    world.fault(&Fault::Loss(0));
    let mut wrong = 0;
    for _ in 0..100 {
        world.seen.clear();
        let at = world.dice().index(count);
        let wait = world.dice().below(1_500);
        world.run(wait);
        world.fault(&Fault::Stall(at, 3_000));
        world.run(8_000);
        wrong += usize::from(world.seen.iter().any(|seen| seen.liveness == Liveness::Down));
    }
    figure(
        "g2_stalls_of_3_s_called_down_of_100",
        f64::from(u32::try_from(wrong).unwrap_or(u32::MAX)),
        Some(("foca", stalled)),
        3.0,
        true,
    );
}

/// G8: memory and merging.
fn merges() {
    let rows = 100_000u64;
    let packed: Vec<Vec<u8>> = (0..rows)
        .map(|n| {
            codec::encode(&Row {
                key: Key::global(Table::KV, format!("service-{n:06}")),
                version: Version::Shared {
                    generation: 2,
                    time_ms: 1_800_000_000_000 + n,
                    writer: NodeId(n % 50),
                    id: Dice(n).roll(),
                    ancestors: vec![n],
                },
                deleted: false,
                body: Body(vec![7; 32]),
            })
        })
        .collect();
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
    };
    let mut replica = Replica::new(NodeId(1), "s".into(), 1);
    let before = resident();
    let start = cpu_seconds();
    for row in &packed {
        let _ = replica.merge(row);
    }
    let took = (cpu_seconds() - start).max(0.01);
    figure(
        "g8_ram_bytes_a_row",
        (resident() - before) as f64 / rows as f64,
        Some(("automerge-published", 1_819.0)),
        250.0,
        true,
    );
    figure("g8_merges_a_second", rows as f64 / took, Some(("cr-sqlite-published", 4_200.0)), 200_000.0, false);
    let alone = Message::Push { until: NodeId(1), ack: 1, rows: vec![packed[0].clone()] }.framed_len();
    figure("g8_wire_bytes_an_update", alone as f64 - 32.0, Some(("automerge-published", 117.0)), 90.0, true);
    figure(
        "g6_repair_round_bytes_when_equal",
        sync::root(replica.rows()).framed_len() as f64 + super::world::OVERHEAD as f64,
        Some(("negentropy", 341.0)),
        100.0,
        true,
    );
}

/// G7: two nodes with 100,000 rows are cut for a minute and change a thousand each.
fn heal() {
    let mut world = World::new(3, 2, 1, Profile::LAN);
    for n in 0..100_000u64 {
        let row = Row {
            key: Key::global(Table::KV, format!("row-{n}")),
            version: Version::Shared {
                generation: 1,
                time_ms: n,
                writer: NodeId(9),
                id: Dice(n).roll(),
                ancestors: vec![],
            },
            deleted: false,
            body: Body(vec![1; 40]),
        };
        world.seed_row(0, &row);
        world.seed_row(1, &row);
    }
    world.start_all();
    world.run(20_000);
    world.fault(&Fault::Halve(vec![0]));
    world.run(10_000);
    let mut changed = 0u64;
    for at in 0..2 {
        for n in 0..1_000 {
            world.put(at, Key::global(Table::KV, format!("row-{}", at * 50_000 + n * 7)), Some(vec![2; 40]));
            let row = world.writes.last().map(|written| codec::encode(&written.row).len()).unwrap_or(0);
            changed += row as u64;
        }
    }
    world.run(50_000);
    world.fault(&Fault::Heal);
    // From the heal on: the next dial, two hellos, the changes both ways.
    let (before, turns) = (world.counts.bytes, world.counts.turns);
    let took = world.run_until(30_000, World::is_converged);
    // The two hellos are a round trip too.
    let trips = 1.0 + ((world.counts.turns - turns) as f64 / 2.0).ceil();
    figure("g7_round_trips", trips, None, 4.0, true);
    figure("g7_heal_ms", took.unwrap_or(60_000) as f64, None, 2_000.0, true);
    figure("g7_bytes_over_changed_bytes", (world.counts.bytes - before) as f64 / changed as f64, None, 2.0, true);
}
