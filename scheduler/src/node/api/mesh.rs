//! Calls about the mesh itself: status, members, tokens, conflicts, backup, metrics, leaving.

use super::reply::{Body, Problem, build, json};
use super::view::{Done, HealthView, MemberView, TokenAsk, TokenMade};
use super::{Call, Context};
use crate::core::Event;
use crate::node::{End, means};
use hyper::Response;
use p2p::admission::REVOKED_SUFFIX;
use p2p::mesh::{Resolve, TokenWish};
use p2p::table::Table;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a leaving node waits for its containers.
const RETIRE_WITHIN: Duration = Duration::from_secs(20);
/// How often it looks.
const RETIRE_LOOK: Duration = Duration::from_millis(50);

type Answer = Result<Response<Body>, Problem>;

pub(super) async fn status(context: &Context) -> Answer {
    let mut status = serde_json::to_value(context.mesh.status().await?).expect("plain data has a JSON form");
    if let (Some(told), Some(status)) = (&context.told, status.as_object_mut()) {
        status.insert("api".to_owned(), serde_json::to_value(told).expect("plain data has a JSON form"));
    }
    Ok(json(200, &status))
}

pub(super) async fn health(context: &Context) -> Answer {
    // The core's task answers, and the mesh's.
    context.handle.look(|_, _| ()).await.ok_or_else(Problem::ending)?;
    context.mesh.members().await?;
    Ok(json(200, &HealthView { status: "ok".to_owned() }))
}

pub(super) async fn members(context: &Context) -> Answer {
    let mut means = means::of_all(&context.mesh).await?;
    let members = context.mesh.members().await?.into_iter();
    let views: Vec<MemberView> = members
        .map(|member| {
            let means = means.remove(&member.id.to_string());
            MemberView { member, means }
        })
        .collect();
    Ok(json(200, &views))
}

pub(super) async fn evict(context: &Context, call: &Call) -> Answer {
    let wanted = call.part("node").to_owned();
    let members = context.mesh.members().await?;
    let fits = |member: &&p2p::membership::Member| {
        member.name == wanted || (wanted.len() >= 4 && member.id.to_string().starts_with(&wanted))
    };
    let found: Vec<_> = members.iter().filter(fits).collect();
    let node = match found.as_slice() {
        [one] => one.id,
        [] => return Err(Problem::not_found(format!("no node {wanted}; `shoal mesh members` lists them"))),
        _ => return Err(Problem::conflict(format!("{} nodes are called {wanted}; give the id", found.len()))),
    };
    context.mesh.evict(node, call.actor.clone()).await?;
    Ok(json(200, &Done { subject: node.to_string(), durability: None, count: None }))
}

pub(super) async fn leave(context: &Arc<Context>, call: &Call) -> Answer {
    // A task of its own: who asked may go before it has left, and half of it would be a member that runs nothing.
    let (context, actor) = (Arc::clone(context), call.actor.clone());
    let left = tokio::spawn(async move { leave_now(&context, actor).await }).await;
    left.map_err(|_| Problem::ending())?
}

async fn leave_now(context: &Context, actor: p2p::mesh::Actor) -> Answer {
    let subject = context.mesh.id().to_string();
    context.handle.event(Event::Retire).await;
    // Its containers stop first, so that the others replace what is gone and not what runs; a stuck one stops nobody leaving.
    let me = subject.clone();
    let deadline = tokio::time::Instant::now() + RETIRE_WITHIN;
    while tokio::time::Instant::now() < deadline {
        let node = me.clone();
        let busy = context
            .handle
            .look(move |core, _| core.instances().any(|row| row.node == node && !row.phase.ended()))
            .await;
        if busy != Some(true) {
            break;
        }
        tokio::time::sleep(RETIRE_LOOK).await;
    }
    if let Err(error) = context.mesh.leave(actor).await {
        // A member that refuses everything would be of no use to anybody.
        context.handle.event(Event::Stay).await;
        return Err(error.into());
    }
    context.end(End::Left);
    Ok(json(200, &Done { subject, durability: None, count: None }))
}

pub(super) async fn down(context: &Context, call: &Call) -> Answer {
    context.journal.note("down", &context.mesh.id().to_string(), &format!("asked for by {}", call.actor.who));
    context.end(End::Down);
    Ok(json(200, &Done { subject: context.socket.display().to_string(), durability: None, count: None }))
}

pub(super) async fn token_create(context: &Context, call: &Call) -> Answer {
    let ask: TokenAsk = if call.body.is_empty() { TokenAsk::default() } else { call.json()? };
    if ask.uses == Some(0) || ask.ttl_ms == Some(0) {
        return Err(Problem::bad_request("a token that is good for nothing is not made"));
    }
    let wish = TokenWish { role: ask.role, ttl_ms: ask.ttl_ms, uses: ask.uses };
    let token = context.mesh.token_create(wish, call.actor.clone()).await?;
    Ok(json(201, &TokenMade { token }))
}

pub(super) async fn token_list(context: &Context) -> Answer {
    let rows = context.mesh.rows(Table::TOKEN).await?;
    let revoked: BTreeSet<&str> = rows.iter().filter_map(|row| row.key.id.strip_suffix(REVOKED_SUFFIX)).collect();
    let tokens: Vec<serde_json::Value> = rows
        .iter()
        .filter(|row| !row.key.id.ends_with(REVOKED_SUFFIX))
        .map(|row| {
            let mut value = row.body.parse::<serde_json::Value>().unwrap_or(serde_json::Value::Null);
            if let Some(object) = value.as_object_mut() {
                object.insert("id".to_owned(), row.key.id.clone().into());
                if revoked.contains(row.key.id.as_str()) {
                    object.insert("revoked".to_owned(), true.into());
                }
            }
            value
        })
        .collect();
    Ok(json(200, &tokens))
}

pub(super) async fn token_revoke(context: &Context, call: &Call) -> Answer {
    let id = call.part("id");
    context.mesh.token_revoke(id, call.actor.clone()).await?;
    Ok(json(200, &Done { subject: id.to_owned(), durability: None, count: None }))
}

pub(super) async fn conflicts(context: &Context) -> Answer {
    let conflicts: Vec<serde_json::Value> = context
        .mesh
        .conflicts()
        .await?
        .into_iter()
        .map(|conflict| {
            serde_json::json!({
                "id": conflict.id,
                "key": conflict.key.to_string(),
                "lost": super::kv::shown(&conflict.lost),
                "stands": conflict.stands.as_ref().map(super::kv::shown),
            })
        })
        .collect();
    Ok(json(200, &conflicts))
}

pub(super) async fn resolve_conflict(context: &Context, call: &Call) -> Answer {
    let how = match call.query.get("take").map(String::as_str) {
        Some("lost") => Resolve::TakeLost,
        Some("current") | None => Resolve::KeepCurrent,
        Some(other) => return Err(Problem::bad_request(format!("take={other}: it is lost or current"))),
    };
    let id = call.part("id");
    context.mesh.resolve_conflict(id, how, call.actor.clone()).await?;
    Ok(json(200, &Done { subject: id.to_owned(), durability: None, count: None }))
}

pub(super) async fn backup(context: &Context) -> Answer {
    Ok(build(200, "application/octet-stream", context.mesh.backup().await?))
}

pub(super) async fn restore(context: &Context, call: &Call) -> Answer {
    let count = context.mesh.restore(call.body.clone(), call.actor.clone()).await?;
    Ok(json(200, &Done { subject: "backup".to_owned(), durability: None, count: Some(count) }))
}

pub(super) async fn metrics(context: &Context) -> Answer {
    let status = context.mesh.status().await?;
    let members = context.mesh.members().await?;
    let look = |core: &crate::core::Core, _| {
        let works = core.instances().filter(|row| row.works()).count();
        (core.services().count(), core.instances().count(), works, core.nodes().count())
    };
    let (services, instances, working, nodes) = context.handle.look(look).await.ok_or_else(Problem::ending)?;
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: f64| {
        let _ = writeln!(text, "# HELP shoal_{name} {help}\n# TYPE shoal_{name} gauge\nshoal_{name} {value}");
    };
    #[expect(clippy::cast_precision_loss, reason = "counts of nodes and rows are far below 2^52")]
    let number = |value: usize| value as f64;
    gauge("members_alive", "members that answer", number(status.alive));
    gauge("members_suspect", "members that have not answered lately", number(status.suspect));
    gauge("members_down", "members that do not answer", number(status.down));
    gauge("connections", "standing connections", number(status.connections));
    gauge("rows", "rows held, tombstones included", number(status.rows));
    gauge("tombstones", "tombstones held", number(status.tombstones));
    gauge("quarantined", "rows that are not understood", number(status.quarantined.len()));
    gauge("services", "services known", number(services));
    gauge("instances", "instances known", number(instances));
    gauge("instances_working", "instances that work", number(working));
    gauge("nodes", "nodes known", number(nodes));
    for (name, value) in &status.counters {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let _ = writeln!(text, "# TYPE shoal_mesh_{name}_total counter\nshoal_mesh_{name}_total {value}");
    }
    for (name, counter) in [("requests", &context.requests), ("failures", &context.failures)] {
        let value = counter.load(Ordering::Relaxed);
        let _ = writeln!(text, "# TYPE shoal_api_{name}_total counter\nshoal_api_{name}_total {value}");
    }
    let _ = writeln!(text, "# TYPE shoal_peer_rtt_seconds gauge\n# TYPE shoal_peer_clock_offset_seconds gauge");
    for member in members.iter().filter(|member| !member.is_self) {
        let peer = format!("{{peer=\"{}\",name=\"{}\"}}", member.id, escape(&member.name));
        if let Some(rtt) = member.rtt_us {
            let _ = writeln!(text, "shoal_peer_rtt_seconds{peer} {}.{:06}", rtt / 1_000_000, rtt % 1_000_000);
        }
        if let Some(offset) = member.clock_offset_ms {
            let sign = if offset < 0 { "-" } else { "" };
            let (whole, rest) = (offset.unsigned_abs() / 1000, offset.unsigned_abs() % 1000);
            let _ = writeln!(text, "shoal_peer_clock_offset_seconds{peer} {sign}{whole}.{rest:03}");
        }
    }
    Ok(build(200, "text/plain; version=0.0.4", text.into_bytes()))
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
