//! Standing mirrors on this node: whose turn it is comes from [`crate::mirror`], the copying from the engine's side. In: rows of
//! policies and of what nodes did. Out: runs, and this node's rows about them.

use super::journal::Journal;
use super::{Clock, Handle};
use crate::core::Core;
use crate::mirror::{Policy, Seen, State, TELL_MS, looks_now, turn};
use crate::model::{Ms, Node, NodeId};
use crate::port::Containers;
use p2p::Mesh;
use p2p::table::{Body, Key, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// How often turns are looked at while there are policies.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Runs of one node at a time: each has connections of its own and the bandwidth of its policy.
const RUNS_MAX: usize = 4;
/// A run that takes longer is told to be under way: the others wait for it.
const TELL_AFTER: Duration = Duration::from_secs(2);

/// Repositories that are remembered while nobody looks: a look takes all of them.
const PUSHES_MAX: usize = 256;

/// What registries said was pushed, until it is looked at.
#[derive(Debug)]
pub(crate) struct Pushes {
    repositories: Mutex<BTreeSet<String>>,
    count: watch::Sender<u64>,
}

impl Pushes {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { repositories: Mutex::default(), count: watch::Sender::new(0) })
    }

    /// Something was pushed to a repository.
    pub(crate) fn tell(&self, repository: &str) {
        let mut repositories = self.repositories.lock().expect("no holder panics");
        if repositories.len() < PUSHES_MAX {
            repositories.insert(repository.to_owned());
        }
        drop(repositories);
        self.count.send_modify(|count| *count += 1);
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.repositories.lock().expect("no holder panics"))
    }
}

/// Everything [`follow`] needs.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) mesh: Mesh,
    pub(crate) port: Arc<dyn Containers>,
    pub(crate) handle: Handle,
    pub(crate) journal: Arc<Journal>,
    pub(crate) clock: Clock,
    pub(crate) me: NodeId,
    pub(crate) pushes: Arc<Pushes>,
}

/// Keeps every mirror that is this node's to keep, for as long as the node runs.
pub(crate) async fn follow(context: Context) {
    let Ok(mut changes) = context.mesh.watch(Table::MIRROR_POLICY).await else { return };
    let mut since: BTreeMap<String, Ms> = BTreeMap::new();
    let mut seen: BTreeMap<(NodeId, String), Seen> = BTreeMap::new();
    let running: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let permits = Arc::new(Semaphore::new(RUNS_MAX));
    let mut pushed = context.pushes.count.subscribe();
    // Policies whose source is said to have something new.
    let mut asked: BTreeSet<String> = BTreeSet::new();
    loop {
        pushed.mark_unchanged();
        let repositories = context.pushes.take();
        let Some(policies) = policies(&context.mesh).await else { return };
        let now = context.clock.now();
        since.retain(|id, _| policies.iter().any(|policy| policy.id == *id));
        let Some(states) = read_states(&context.mesh).await else { return };
        let news = |policy: &&Policy| repositories.iter().any(|repository| policy.reads(repository));
        asked.extend(policies.iter().filter(news).map(|policy| policy.id.clone()));
        asked.retain(|id| policies.iter().any(|policy| policy.id == *id));
        note_changes(&mut seen, states, now);
        forget(&context, &policies, &seen, &running).await;
        for policy in &policies {
            let known = *since.entry(policy.id.clone()).or_insert(now);
            let mut of_policy: BTreeMap<NodeId, Seen> = seen
                .iter()
                .filter(|((_, id), _)| *id == policy.id)
                .map(|((node, _), seen)| (node.clone(), seen.clone()))
                .collect();
            let (me, of, told) = (context.me.clone(), policy.clone(), asked.contains(&policy.id));
            let own = of_policy.get(&context.me).map(|seen| seen.state.clone());
            let look = move |core: &Core, _| {
                of_policy.retain(|node, _| !core.is_reader(node));
                // A node that has just started does not know yet who else is at it.
                let places = |node: &&Node| !core.is_reader(&node.id);
                if told && core.settled() && looks_now(&of, &me, core.nodes().filter(places), &of_policy) {
                    return Some(0);
                }
                core.settled().then(|| turn(&of, &me, core.nodes().filter(places), &of_policy, known)).flatten()
            };
            let Some(due) = context.handle.look(look).await else { return };
            let free = {
                let mut running = running.lock().expect("no holder panics");
                due.is_some_and(|at| at <= now) && running.insert(policy.id.clone())
            };
            // Who is at it looks once more when it has ended; another's is no more to do here.
            if free || (told && due != Some(0)) {
                asked.remove(&policy.id);
            }
            if free {
                let (context, policy, running) = (context.clone(), policy.clone(), Arc::clone(&running));
                let permits = Arc::clone(&permits);
                tokio::spawn(async move {
                    run(&context, &policy, own.unwrap_or_default(), &permits).await;
                    running.lock().expect("no holder panics").remove(&policy.id);
                });
            }
        }
        if policies.is_empty() {
            if changes.recv().await.is_none() {
                return;
            }
        } else {
            tokio::select! {
                change = changes.recv() => if change.is_none() { return },
                _ = pushed.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

/// Every policy that is understood; a row that is not is quarantined. `None` when the node ends.
pub(crate) async fn policies(mesh: &Mesh) -> Option<Vec<Policy>> {
    let mut policies = Vec::new();
    for row in mesh.rows_with(Table::MIRROR_POLICY, "", true).await.ok()?.into_iter().filter(|row| !row.deleted) {
        match row.body.parse::<Policy>() {
            Ok(policy) if policy.v == 1 && policy.name == row.key.id => policies.push(policy),
            Ok(policy) => {
                let reason = format!("the row of {} names {} and has version {}", row.key.id, policy.name, policy.v);
                let _ = mesh.quarantine(row.key, reason).await;
            }
            Err(error) => {
                let _ = mesh.quarantine(row.key, error.to_string()).await;
            }
        }
    }
    Some(policies)
}

/// What every node said of its last run; `None` when the node ends.
pub(crate) async fn read_states(mesh: &Mesh) -> Option<Vec<(NodeId, State)>> {
    let rows = mesh.rows_with(Table::MIRROR_STATE, "", true).await.ok()?;
    let live = rows.into_iter().filter(|row| !row.deleted);
    Some(live.filter_map(|row| Some((row.key.owner()?.to_string(), row.body.parse::<State>().ok()?))).collect())
}

/// Keeps the local time at which each row changed; what is gone is forgotten.
fn note_changes(seen: &mut BTreeMap<(NodeId, String), Seen>, states: Vec<(NodeId, State)>, now: Ms) {
    let mut present = BTreeSet::new();
    for (node, state) in states {
        let key = (node, state.policy_id.clone());
        present.insert(key.clone());
        match seen.get_mut(&key) {
            Some(known) if known.state == state => {}
            Some(known) => *known = Seen { state, at: now },
            None => {
                seen.insert(key, Seen { state, at: now });
            }
        }
    }
    seen.retain(|key, _| present.contains(key));
}

/// Drops this node's rows about policies that are gone.
async fn forget(
    context: &Context,
    policies: &[Policy],
    seen: &BTreeMap<(NodeId, String), Seen>,
    running: &Mutex<BTreeSet<String>>,
) {
    let is_gone = |id: &String| {
        !policies.iter().any(|policy| policy.id == *id) && !running.lock().expect("no holder panics").contains(id)
    };
    let gone: Vec<String> =
        seen.keys().filter(|(node, id)| *node == context.me && is_gone(id)).map(|(_, id)| id.clone()).collect();
    for id in gone {
        let key = Key::owned(Table::MIRROR_STATE, context.me.parse().expect("the mesh's own id"), &id);
        let mesh = context.mesh.clone();
        tokio::spawn(async move { mesh.delete(key, None).await });
    }
}

/// One run: looks at the source, copies what is new, tells how it went.
async fn run(context: &Context, policy: &Policy, before: State, permits: &Semaphore) {
    let mut pushed = context.pushes.count.subscribe();
    let permit = permits.acquire().await;
    let mut state = State {
        v: 1,
        policy_id: policy.id.clone(),
        name: policy.name.clone(),
        running: true,
        began_ms: context.clock.wall(),
        bytes_total: before.bytes_total,
        extra: before.extra.clone(),
        // What failed is said until a run has ended better.
        report: before.report.clone(),
        error: before.error.clone(),
        ..State::default()
    };
    let (port, job) = (Arc::clone(&context.port), policy.clone());
    let mut work = tokio::task::spawn_blocking(move || port.mirror(&job));
    let done = tokio::select! {
        done = &mut work => done,
        () = tokio::time::sleep(TELL_AFTER) => {
            tell(context, &state).await;
            work.await
        }
    };
    drop(permit);
    state.running = false;
    state.ended_ms = context.clock.wall();
    (state.report, state.error) = Default::default();
    match done {
        Ok(Ok(report)) => {
            if report.failed > 0 && report.failed == report.tags {
                state.error = report.reasons.first().cloned().unwrap_or_default();
            }
            state.report = report;
        }
        Ok(Err(error)) => state.error = error.to_string(),
        Err(error) => state.error = format!("the run ended: {error}"),
    }
    state.bytes_total += state.report.bytes;
    let news = state.report.copied > 0 || state.error != before.error || state.report.reasons != before.report.reasons;
    if state.report.copied > 0 {
        let Policy { from, to, .. } = policy;
        let text = format!("{} tags, {} bytes from {from} to {to}", state.report.copied, state.report.bytes);
        context.journal.note("mirror", &policy.name, &text);
    }
    for reason in state.report.reasons.iter().chain([&state.error]).filter(|reason| !reason.is_empty() && news) {
        context.journal.note("mirror", &policy.name, &format!("failed: {reason}"));
    }
    // What is as before is told now and then, so that the others know that somebody looks.
    let old = before.running || before.v == 0 || state.ended_ms.saturating_sub(before.ended_ms) >= TELL_MS;
    if news || old || state.ended_ms.saturating_sub(state.began_ms) >= 2_000 {
        tell(context, &state).await;
    }
    // Without a row the turn is this node's at once again.
    let pause = policy.every_ms.min(TELL_MS);
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(pause)) => {}
        _ = pushed.changed() => {}
    }
}

async fn tell(context: &Context, state: &State) {
    let key = Key::owned(Table::MIRROR_STATE, context.me.parse().expect("the mesh's own id"), &state.policy_id);
    let body = Body::json(state).expect("plain data has a JSON form");
    let mesh = context.mesh.clone();
    let mut put = Box::pin(async move { mesh.put(key, body).await });
    // The first poll hands it over; that two peers have it is not worth waiting for.
    if futures::poll!(&mut put).is_pending() {
        tokio::spawn(put);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_counts_from_when_it_changed_here() {
        let state = |ended_ms| State { policy_id: "p".to_owned(), ended_ms, ..State::default() };
        let (mut seen, key) = (BTreeMap::new(), ("a".to_owned(), "p".to_owned()));
        note_changes(&mut seen, vec![("a".to_owned(), state(1))], 10);
        note_changes(&mut seen, vec![("a".to_owned(), state(1))], 20);
        assert_eq!(seen[&key].at, 10);
        note_changes(&mut seen, vec![("a".to_owned(), state(2))], 30);
        assert_eq!(seen[&key].at, 30);
        note_changes(&mut seen, vec![], 40);
        assert!(seen.is_empty());
    }
}
