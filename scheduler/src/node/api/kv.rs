//! Calls about rows: any table to look at, keys and values to write.

use super::reply::{Body, Problem, build, json};
use super::view::{Done, KvView};
use super::{Call, Context, WRITE_WAIT_MS, stream};
use hyper::Response;
use p2p::mesh::{Durability, Error, Written};
use p2p::table::{Key, Row, Table, Version};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

type Answer = Result<Response<Body>, Problem>;

pub(super) async fn rows(context: &Arc<Context>, call: &Call) -> Answer {
    let name = call.part("table");
    let table = Table::named(name).ok_or_else(|| Problem::not_found(format!("there is no table {name}")))?;
    let prefix = call.query.get("prefix").cloned().unwrap_or_default();
    if call.flag("watch") {
        return stream::table(context, table, prefix, call, shown).await;
    }
    let rows = context.mesh.rows_with(table, &prefix, true).await?;
    Ok(json(200, &rows.iter().map(shown).collect::<Vec<_>>()))
}

/// A row as people read it: the body as JSON or text where it is that.
pub(super) fn shown(row: &Row) -> Value {
    let body = row.body.parse::<Value>().ok();
    let body = body.or_else(|| std::str::from_utf8(&row.body.0).ok().map(Value::from));
    json!({
        "table": row.key.table.to_string(),
        "id": row.key.id,
        "scope": row.key.scope,
        "writer": row.version.writer(),
        "version": row.version,
        "deleted": row.deleted,
        "body": if row.deleted { None } else { body },
        "bytes": row.body.0.len(),
    })
}

pub(super) async fn list(context: &Arc<Context>, call: &Call) -> Answer {
    let prefix = call.query.get("prefix").cloned().unwrap_or_default();
    if call.flag("watch") {
        let show = |row: &Row| match row.deleted {
            true => json!({"key": row.key.id, "deleted": true}),
            false => serde_json::to_value(view(row, None)).expect("plain data has a JSON form"),
        };
        return stream::table(context, Table::KV, prefix, call, show).await;
    }
    let rows = context.mesh.rows_with(Table::KV, &prefix, true).await?;
    Ok(json(200, &rows.iter().map(|row| view(row, None)).collect::<Vec<_>>()))
}

pub(super) async fn get(context: &Context, call: &Call) -> Answer {
    let key = call.part("key");
    let row = context.mesh.get(Key::global(Table::KV, key)).await?;
    let row = row.ok_or_else(|| Problem::not_found(format!("there is no key {key}")))?;
    Ok(build(200, "application/octet-stream", row.body.0))
}

pub(super) async fn put(context: &Context, call: &Call) -> Answer {
    let (mesh, actor) = (context.mesh.clone(), call.actor.clone());
    let key = Key::global(Table::KV, call.part("key"));
    let body = call.body.clone();
    let written = soon(async move { mesh.put_as(actor, key, body).await }).await?;
    Ok(json(200, &view(&written.row, Some(word(written.durability)))))
}

pub(super) async fn delete(context: &Context, call: &Call) -> Answer {
    let (mesh, actor, key) = (context.mesh.clone(), call.actor.clone(), Key::global(Table::KV, call.part("key")));
    if context.mesh.get(key.clone()).await?.is_none() {
        return Err(Problem::not_found(format!("there is no key {}", call.part("key"))));
    }
    let written = soon(async move { mesh.delete(key, Some(actor)).await }).await?;
    let durability = Some(word(written.durability));
    Ok(json(200, &Done { subject: call.part("key").to_owned(), durability, count: None }))
}

/// Waits until a write is durable here, and for as long for peers as the mesh does. The write goes on when the caller goes.
/// A disk that does not answer is an error and never `local`.
pub(super) async fn soon(
    write: impl Future<Output = Result<Written, Error>> + Send + 'static,
) -> Result<Written, Problem> {
    let task = tokio::spawn(write);
    match tokio::time::timeout(Duration::from_millis(WRITE_WAIT_MS), task).await {
        Ok(Ok(written)) => Ok(written?),
        Ok(Err(_)) => Err(Problem::ending()),
        Err(_) => Err(Problem::new(
            503,
            "the disk is slow",
            format!(
                "this node's disk has not confirmed the write within {WRITE_WAIT_MS} ms; it may still be kept: look again before it is repeated"
            ),
        )),
    }
}

/// The word for how safe a write is.
pub(super) fn word(durability: Durability) -> String {
    match durability {
        Durability::Replicated => "replicated",
        Durability::Local => "local",
    }
    .to_owned()
}

fn view(row: &Row, durability: Option<String>) -> KvView {
    let generation = match row.version {
        Version::Shared { generation, .. } => generation,
        Version::Owned { seq, .. } => seq,
    };
    KvView {
        key: row.key.id.clone(),
        value: std::str::from_utf8(&row.body.0).ok().map(str::to_owned),
        bytes: row.body.0.len(),
        generation,
        writer: row.version.writer().to_string(),
        durability,
    }
}
