//! Server-sent events: the node's journal, which resumes by number, and tables, whose watchers first get every row there
//! is (so that a lost connection misses nothing whatever its last id was).

use super::reply::{Body, Problem, events as respond};
use super::{Call, Context, keys};
use crate::node::cluster::Told;
use hyper::Response;
use p2p::mesh::Change;
use p2p::table::{Row, Table};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A comment is sent this often, so that a connection that died is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Says that entries are missing.
const RESET: &str = "event: reset\ndata: {}\n\n";

/// Streams the journal from `Last-Event-ID` on, from now on without it. `event: reset` says that entries are missing.
pub(super) fn events(context: &Arc<Context>, call: &Call) -> Response<Body> {
    let journal = Arc::clone(&context.journal);
    let watcher = Watcher::new(context, call);
    let mut pending = VecDeque::new();
    let next = match &call.last_event_id {
        Some(id) => journal.after(id).unwrap_or_else(|| {
            pending.push_back(RESET.to_owned());
            journal.next()
        }),
        None => journal.next(),
    };
    pending.push_front(": listening\n\n".to_owned());
    respond(futures::stream::unfold((watcher, next, pending), move |(mut watcher, mut next, mut pending)| async move {
        if let Some(text) = pending.pop_front() {
            return Some((text, (watcher, next, pending)));
        }
        if !watcher.may_go_on().await {
            return None;
        }
        let journal = Arc::clone(&watcher.context.journal);
        match tokio::time::timeout(KEEP_ALIVE, journal.read(next)).await {
            Ok(entries) => {
                if entries.first().is_some_and(|entry| entry.serial > next) {
                    pending.push_back(RESET.to_owned());
                }
                for entry in &entries {
                    let id = journal.id(entry.serial);
                    pending.push_back(format!("id: {id}\nevent: {}\ndata: {}\n\n", entry.kind, entry.data));
                    next = entry.serial + 1;
                }
            }
            Err(_) => pending.push_back(": still here\n\n".to_owned()),
        }
        let text = pending.pop_front().unwrap_or_default();
        Some((text, (watcher, next, pending)))
    }))
}

/// Somebody who watches: what was allowed at the beginning is looked at again now and then.
struct Watcher {
    context: Arc<Context>,
    who: String,
    looked: tokio::time::Instant,
}

impl Watcher {
    fn new(context: &Arc<Context>, call: &Call) -> Self {
        Self { context: Arc::clone(context), who: call.actor.who.clone(), looked: tokio::time::Instant::now() }
    }

    /// Whether the watcher's token still stands; cheap between two looks.
    async fn may_go_on(&mut self) -> bool {
        if self.looked.elapsed() < KEEP_ALIVE {
            return true;
        }
        self.looked = tokio::time::Instant::now();
        keys::stands(&self.context, &self.who).await
    }
}

/// Streams a table: `row` for each row there is, `synced`, then `row` and `gone` as they come. The ids count the events of
/// this stream; a watcher that returns gets the whole table again.
pub(super) async fn table(
    context: &Arc<Context>,
    table: Table,
    prefix: String,
    call: &Call,
    show: fn(&Row) -> Value,
) -> Result<Response<Body>, Problem> {
    let mut changes = context.mesh.watch(table).await?;
    let (mesh, mut watcher) = (context.mesh.clone(), Watcher::new(context, call));
    let (sender, receiver) = tokio::sync::mpsc::channel::<String>(64);
    tokio::spawn(async move {
        let mut serial = 0u64;
        let mut again = true;
        let mut told = Told::default();
        loop {
            if std::mem::take(&mut again) {
                let Ok(rows) = mesh.rows_with(table, &prefix, true).await else { return };
                // After a gap: first what went meanwhile.
                let missing = told.missing(table, &rows).into_iter();
                let gone =
                    missing.map(|key| ("gone", serde_json::json!({"key": key.id, "id": key.id, "deleted": true})));
                let texts = gone.chain(rows.iter().map(|row| ("row", show(row))));
                let synced = std::iter::once(("synced", serde_json::json!({"rows": rows.len()})));
                for (kind, value) in texts.chain(synced) {
                    serial += 1;
                    if sender.send(format!("id: {serial}\nevent: {kind}\ndata: {value}\n\n")).await.is_err() {
                        return;
                    }
                }
            }
            if !watcher.may_go_on().await {
                return;
            }
            let text = match tokio::time::timeout(KEEP_ALIVE, changes.recv()).await {
                Ok(Some(Change::Row(row))) if row.key.id.starts_with(&prefix) => {
                    serial += 1;
                    told.saw(&row);
                    let kind = if row.deleted { "gone" } else { "row" };
                    format!("id: {serial}\nevent: {kind}\ndata: {}\n\n", show(&row))
                }
                Ok(Some(Change::Gone(key))) if key.id.starts_with(&prefix) => {
                    serial += 1;
                    told.gone(&key);
                    format!("id: {serial}\nevent: gone\ndata: {}\n\n", serde_json::json!({"id": key.id}))
                }
                Ok(Some(Change::Lagged)) => {
                    again = true;
                    continue;
                }
                Ok(Some(_)) => continue,
                Ok(None) => return,
                Err(_) => ": still here\n\n".to_owned(),
            };
            if sender.send(text).await.is_err() {
                return;
            }
        }
    });
    Ok(respond(futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|text| (text, receiver))
    })))
}
