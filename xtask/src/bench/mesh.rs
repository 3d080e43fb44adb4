//! The mesh with real processes: a switch, N hosts as network namespaces, one node each; then the same hosts with one `serf`
//! agent each. In: how many. Out: figures of joins, rest, changes, deaths and evictions. Everything it made is removed.
//!
//! The simulated figures (1,000 nodes, loss, stalls, the healed cut) come from `cargo xtask sim --figures`.

mod rig;
mod serf;

use super::figure::Figures;
use crate::shell::Result;
use rig::{Node, Rig};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Deaths that are timed: the percentile is over all that survive them.
const DEATHS: usize = 4;
/// Changes that are timed.
const CHANGES: usize = 8;
/// How long rest is watched.
const REST: Duration = Duration::from_secs(20);
/// Ethernet's, IP's and TCP's headers, time stamps included: what a packet has beside what went through the socket.
const PACKET_OVERHEAD: u64 = 14 + 20 + 32;
/// No step takes longer, or it counts as this long.
const LONGEST: Duration = Duration::from_secs(90);

/// Runs the benchmark: `[--nodes N]`, 50 by default; `--no-serf` leaves the compared side out; `--json FILE` keeps the figures.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let mut figures = Figures::default();
    let measured = measure(args, &mut figures);
    if let Some(path) = super::value(args, "--json") {
        std::fs::write(path, figures.json()?).map_err(|error| format!("write {path}: {error}"))?;
    }
    measured
}

fn measure(args: &[String], figures: &mut Figures) -> Result<()> {
    let count = super::value(args, "--nodes");
    let count: usize = count.map_or(Ok(50), |text| text.parse().map_err(|_| format!("--nodes {text:?}")))?;
    if !(5..=200).contains(&count) {
        return Err("--nodes takes 5 to 200".into());
    }
    let mut rig = Rig::new(count)?;
    joins(&mut rig, figures)?;
    rest(&rig, figures);
    changes(&rig, figures)?;
    let ours = deaths(&mut rig, figures)?;
    eviction(&rig, figures)?;
    rig.end_nodes();
    if args.iter().any(|arg| arg == "--no-serf") {
        figures.unmeasured("g1_death_known_p99_ms", "the compared side was left out (--no-serf)");
        return Ok(());
    }
    match serf::deaths(&rig, DEATHS) {
        Ok(mut theirs) => {
            figures.ratio(&format!("g1_death_known_p99_ms_{count}"), "ms", ours, "serf", p99(&mut theirs), Some(1.0));
        }
        Err(reason) => figures.unmeasured(&format!("g1_death_known_p99_ms_{count}"), &reason),
    }
    Ok(())
}

fn p99(values: &mut [f64]) -> f64 {
    percentile(values, 99)
}

fn percentile(values: &mut [f64], of_hundred: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * of_hundred).div_ceil(100).saturating_sub(1);
    values.get(at).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a benchmark are far below 2^52")]
fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1_000.0
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
fn number(count: u64) -> f64 {
    count as f64
}

/// G15: the first node, then all others at once.
fn joins(rig: &mut Rig, figures: &mut Figures) -> Result<()> {
    let count = rig.nodes.len();
    rig.nodes[0].up(None)?;
    let token = rig.nodes[0].shoal(&["mesh", "token", "create"])?;
    let token = token.split_whitespace().last().ok_or("no token was printed")?.to_owned();
    let began = Instant::now();
    rig.nodes[1].up(Some(&token))?;
    rig::until(LONGEST, || rig.nodes[0].count("/v1/nodes", "arch") >= 2);
    figures.bound(&format!("g15_token_to_placeable_ms_{count}"), "ms", ms(began.elapsed()), 3_000.0);
    let began = Instant::now();
    let starting: Vec<_> = rig.nodes[2..].iter().map(|node| node.up_command(Some(&token)).spawn()).collect();
    for child in starting {
        let mut child = child.map_err(|error| format!("start a node: {error}"))?;
        let status = child.wait().map_err(|error| format!("wait for a node: {error}"))?;
        if !status.success() {
            return Err("a node did not join; its log lies below its root".into());
        }
    }
    let placeable = rig::until(LONGEST, || rig.nodes[0].count("/v1/nodes", "arch") >= count);
    let all = rig::until(LONGEST, || rig.nodes.iter().all(|node| node.alive() == Some(count)));
    if !placeable || !all {
        let seen: Vec<_> = rig.nodes.iter().map(|node| node.alive().unwrap_or(0)).collect();
        let told = rig.nodes[0].count("/v1/nodes", "arch");
        return Err(format!(
            "{count} nodes did not find each other in {LONGEST:?}: each sees {seen:?}, {told} placeable"
        ));
    }
    figures.bound(&format!("g15_joins_at_once_ms_{}", count - 2), "ms", ms(began.elapsed()), 10_000.0);
    Ok(())
}

/// G3, G14: what a node costs when nothing happens.
fn rest(rig: &Rig, figures: &mut Figures) {
    let count = rig.nodes.len();
    std::thread::sleep(Duration::from_secs(10));
    let before: Vec<_> = rig.nodes.iter().map(Node::cost).collect();
    let began = Instant::now();
    std::thread::sleep(REST);
    let seconds = began.elapsed().as_secs_f64();
    let after: Vec<_> = rig.nodes.iter().map(Node::cost).collect();
    let mean = |of: &dyn Fn(&rig::Cost) -> u64| {
        let sum: u64 = after.iter().zip(&before).map(|(after, before)| of(after).saturating_sub(of(before))).sum();
        number(sum) / (number(count as u64) * seconds)
    };
    let socket = mean(&|cost| cost.wire_bytes.saturating_sub(cost.wire_packets * PACKET_OVERHEAD));
    figures.bound(&format!("g3_socket_bytes_a_second_{count}"), "B", socket, 450.0);
    println!(
        "note on the wire a node has {:.0} bytes in {:.1} packets a second, both directions",
        mean(&|cost| cost.wire_bytes),
        mean(&|cost| cost.wire_packets)
    );
    let frames = mean(&|cost| cost.frames);
    if frames > 0.0 {
        figures.bound(&format!("g3_messages_a_second_{count}"), "", frames, 5.0);
    } else {
        figures.unmeasured(&format!("g3_messages_a_second_{count}"), "this build does not count its frames");
    }
    figures.bound(&format!("g14_cpu_percent_of_a_core_{count}"), "%", mean(&|cost| cost.cpu_us) / 10_000.0, 0.5);
    let mut resident: Vec<f64> = after.iter().map(|cost| number(cost.resident_bytes) / 1e6).collect();
    figures.bound(&format!("g14_resident_mb_{count}"), "MB", percentile(&mut resident, 50), 40.0);
}

/// G4: a key written at one node, until each other one tells it to a watcher.
fn changes(rig: &Rig, figures: &mut Figures) -> Result<()> {
    let count = rig.nodes.len();
    let heard = rig.listen("/v1/kv?watch=1&prefix=bench/", |data| Some(data["key"].as_str()?.to_owned()))?;
    let mut delays = Vec::new();
    for change in 0..CHANGES {
        let key = format!("bench/{change}");
        let began = Instant::now();
        rig.nodes[change * 7 % count].put(&key)?;
        let got = heard.until(LONGEST, count, |(_, said)| *said == key);
        delays.extend(got.values().map(|at| ms(at.saturating_duration_since(began))));
        delays.extend(std::iter::repeat_n(ms(LONGEST), count - got.len()));
        std::thread::sleep(Duration::from_millis(500));
    }
    figures.bound(&format!("g4_change_to_p99_ms_{count}"), "ms", p99(&mut delays), 500.0);
    figures.bound(&format!("g4_change_to_last_ms_{count}"), "ms", percentile(&mut delays, 100), 3_000.0);
    Ok(())
}

/// Who says what of whom.
fn verdict(data: &serde_json::Value) -> Option<String> {
    Some(format!("{} {}", data["subject"].as_str()?, data["message"].as_str()?))
}

/// G1, G2: processes killed one after the other; each comes back before the next.
fn deaths(rig: &mut Rig, figures: &mut Figures) -> Result<f64> {
    let count = rig.nodes.len();
    let heard = rig.listen("/v1/events", verdict)?;
    let mut delays = Vec::new();
    let mut wrong = 0u64;
    for death in 0..DEATHS {
        let victim = 1 + death * 5 % (count - 1);
        let id = rig.nodes[victim].id()?;
        let down = format!("{id} down");
        heard.forget();
        let began = Instant::now();
        rig.nodes[victim].kill()?;
        let got = heard.until(LONGEST, count - 1, |(at, said)| *at != victim && *said == down);
        delays.extend(got.values().map(|at| ms(at.saturating_duration_since(began))));
        delays.extend(std::iter::repeat_n(ms(LONGEST), (count - 1).saturating_sub(got.len())));
        wrong += heard.count(|(_, said)| said.ends_with(" down") && *said != down);
        rig.nodes[victim].up(None)?;
        heard.add(rig, victim, "/v1/events", verdict)?;
        rig::until(LONGEST, || rig.nodes.iter().all(|node| node.alive() == Some(count)));
    }
    let p99 = p99(&mut delays);
    figures.bound(&format!("g1_death_known_p99_ms_{count}"), "ms", p99, 4_000.0);
    figures.bound(&format!("g1_death_known_last_ms_{count}"), "ms", percentile(&mut delays, 100), 15_000.0);
    figures.bound(&format!("g2_false_downs_around_{DEATHS}_deaths_{count}"), "", number(wrong), 0.0);
    Ok(p99)
}

/// G16: an eviction, until each connected node has dropped the evicted one.
fn eviction(rig: &Rig, figures: &mut Figures) -> Result<()> {
    let count = rig.nodes.len();
    let heard = rig.listen("/v1/events", verdict)?;
    let victim = count - 1;
    let id = rig.nodes[victim].id()?;
    let left = format!("{id} left");
    let began = Instant::now();
    let _ = rig.nodes[0].shoal(&["mesh", "evict", &id, "--yes"])?;
    let got: BTreeMap<usize, Instant> = heard.until(LONGEST, count - 1, |(at, said)| *at != victim && *said == left);
    let mut delays: Vec<f64> = got.values().map(|at| ms(at.saturating_duration_since(began))).collect();
    delays.extend(std::iter::repeat_n(ms(LONGEST), (count - 1).saturating_sub(got.len())));
    figures.bound(&format!("g16_eviction_effective_p99_ms_{count}"), "ms", p99(&mut delays), 2_000.0);
    Ok(())
}
