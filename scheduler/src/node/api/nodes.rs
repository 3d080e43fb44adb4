//! Calls about nodes: what they have, and what operators say about them.

use super::kv::{soon, word};
use super::reply::{Body, Problem, json};
use super::services::shown;
use super::view::{Done, NodePatch, NodeView};
use super::{Call, Context};
use crate::core::Core;
use crate::model::{Node, NodePolicy};
use crate::node::means;
use crate::node::merged_labels;
use crate::service::Amount;
use hyper::Response;
use p2p::table::{Body as RowBody, Key, Row, Table};
use std::collections::BTreeMap;

type Answer = Result<Response<Body>, Problem>;

pub(super) async fn list(context: &Context) -> Answer {
    Ok(json(200, &views(context).await?))
}

pub(super) async fn get(context: &Context, call: &Call) -> Answer {
    Ok(json(200, &find(context, call.part("node")).await?))
}

pub(super) async fn patch(context: &Context, call: &Call) -> Answer {
    let wish: NodePatch = call.json()?;
    let node = find(context, call.part("node")).await?;
    for key in wish.label_add.keys().chain(&wish.label_rm) {
        crate::service::check_name(key).map_err(|reason| Problem::bad_request(format!("label: {reason}")))?;
    }
    let id = node.id.clone();
    let look = move |core: &Core, _| {
        core.nodes().find(|known| known.id == id).map(|known| (known.policy.clone(), known.facts.labels.clone()))
    };
    let (mut policy, own) = context.handle.look(look).await.flatten().ok_or_else(Problem::ending)?;
    let before = policy.clone();
    policy.v = 1;
    if let Some(availability) = wish.availability {
        policy.availability = availability;
    }
    for (key, value) in wish.label_add {
        policy.hidden_labels.retain(|hidden| *hidden != key);
        policy.labels.insert(key, value);
    }
    for key in wish.label_rm {
        let was_there = policy.labels.remove(&key).is_some();
        if own.contains_key(&key) && !policy.hidden_labels.contains(&key) {
            policy.hidden_labels.push(key);
        } else if !was_there {
            return Err(Problem::not_found(format!("{} has no label {key}", node.name)));
        }
    }
    let durability = write(context, call, &node.id, &policy, before).await?;
    Ok(json(200, &Done { subject: node.name, durability: Some(durability), count: None }))
}

/// Writes what is said of a node over what was said before.
async fn write(
    context: &Context,
    call: &Call,
    id: &str,
    policy: &NodePolicy,
    before: NodePolicy,
) -> Result<String, Problem> {
    let (mesh, actor) = (context.mesh.clone(), call.actor.clone());
    let body = RowBody::json(policy).expect("plain data has a JSON form");
    let key = Key::global(Table::NODE_POLICY, id);
    let said = key.clone();
    let check = move |get: &dyn Fn(&Key) -> Option<Row>| {
        get(&said).and_then(|row| row.body.parse::<NodePolicy>().ok()).unwrap_or_default() == before
    };
    let written = soon(async move { mesh.put_if(Some(actor), key, body, check).await }).await?;
    let (id, policy) = (id.to_owned(), policy.clone());
    shown(context, move |core| core.nodes().find(|node| node.id == id).is_none_or(|node| node.policy == policy)).await;
    Ok(word(written.durability))
}

/// Returns the node with this id, beginning of an id (four digits at least), or name; `self` is the one that was asked.
pub(super) async fn find(context: &Context, wanted: &str) -> Result<NodeView, Problem> {
    let views = views(context).await?;
    let fits = |view: &&NodeView| {
        view.id == wanted
            || view.name == wanted
            || (wanted == "self" && view.is_self)
            || (wanted.len() >= 4 && view.id.starts_with(wanted))
    };
    let found: Vec<&NodeView> = views.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Problem::not_found(format!("no node {wanted}; `shoal node ls` lists them"))),
        _ => Err(Problem::conflict(format!("{} nodes are called {wanted}; give the id", found.len()))),
    }
}

async fn views(context: &Context) -> Result<Vec<NodeView>, Problem> {
    let members = context.mesh.members().await?;
    let addresses: BTreeMap<String, Vec<String>> =
        members.into_iter().map(|member| (member.id.to_string(), member.addresses)).collect();
    let me = context.mesh.id().to_string();
    let mut means = means::of_all(&context.mesh).await?;
    let look = move |core: &Core, _| {
        core.nodes()
            .map(|node| {
                let addresses = addresses.get(&node.id).cloned().unwrap_or_default();
                NodeView { means: means.remove(&node.id), ..view(core, node, &me, addresses) }
            })
            .collect()
    };
    context.handle.look(look).await.ok_or_else(Problem::ending)
}

fn view(core: &Core, node: &Node, me: &str, addresses: Vec<String>) -> NodeView {
    let mut reserved = Amount::default();
    let mut instances = 0;
    for row in core.instances().filter(|row| row.node == node.id && !row.phase.ended()) {
        reserved.cpu_nanos = reserved.cpu_nanos.saturating_add(row.reserved.cpu_nanos);
        reserved.memory_bytes = reserved.memory_bytes.saturating_add(row.reserved.memory_bytes);
        instances += 1;
    }
    NodeView {
        id: node.id.clone(),
        name: node.name().to_owned(),
        site: node.facts.site.clone(),
        liveness: node.liveness,
        availability: node.policy.availability,
        labels: merged_labels(&node.facts, &node.policy),
        arch: node.facts.arch.clone(),
        capacity: node.facts.capacity,
        reserved,
        instances,
        version: node.facts.version.clone(),
        addresses,
        is_self: node.id == me,
        means: None,
    }
}
