//! Calls about standing mirrors: policies are shared rows, how far they are is told by the nodes that run them.

use super::kv::{soon, word};
use super::reply::{Body, Problem, json};
use super::view::{Done, MirrorView};
use super::{Call, Context};
use crate::core::Core;
use crate::mirror::Policy;
use crate::model::{Liveness, NodeId};
use crate::node::cluster;
use crate::node::mirror::{policies, read_states};
use crate::steward::{Dice, mix};
use hyper::Response;
use p2p::table::{Body as RowBody, Key, Row, Table};
use std::collections::BTreeMap;

type Answer = Result<Response<Body>, Problem>;

pub(super) async fn list(context: &Context) -> Answer {
    Ok(json(200, &views(context).await?))
}

pub(super) async fn get(context: &Context, call: &Call) -> Answer {
    Ok(json(200, &find(context, call.part("name")).await?))
}

pub(super) async fn add(context: &Context, call: &Call) -> Answer {
    let mut policy: Policy = call.json()?;
    policy.v = 1;
    policy.check().map_err(|reason| Problem::new(422, "refused", format!("mirror {}: {reason}", policy.name)))?;
    let (name, key) = (policy.name.clone(), Key::global(Table::MIRROR_POLICY, &policy.name));
    if context.mesh.get(key.clone()).await?.is_some() {
        return Err(Problem::conflict(format!("mirror {name} exists; `shoal image mirror rm {name}` ends it")));
    }
    let now = context.clock.wall();
    policy.id = Dice::new(now ^ mix(&context.mesh.id().to_string(), &name)).id(now);
    policy.created_ms = now;
    let (mesh, actor) = (context.mesh.clone(), call.actor.clone());
    let body = RowBody::json(&policy).expect("plain data has a JSON form");
    let wanted = key.clone();
    let check = move |get: &dyn Fn(&Key) -> Option<Row>| get(&wanted).is_none();
    let written = soon(async move { mesh.put_if(Some(actor), key, body, check).await }).await?;
    let durability = Some(word(written.durability));
    Ok(json(201, &MirrorView { policy, node_name: None, state: None, durability }))
}

pub(super) async fn remove(context: &Context, call: &Call) -> Answer {
    let name = find(context, call.part("name")).await?.policy.name;
    let (mesh, actor, key) = (context.mesh.clone(), call.actor.clone(), Key::global(Table::MIRROR_POLICY, &name));
    let written = soon(async move { mesh.delete(key, Some(actor)).await }).await?;
    Ok(json(200, &Done { subject: name, durability: Some(word(written.durability)), count: None }))
}

/// Tells every living node that something was pushed; whose turn it is looks at once.
pub(super) async fn pushed(context: &Context, call: &Call) -> Answer {
    let Some(repository) = call.query.get("repository") else {
        return Err(Problem::bad_request("repository= names none"));
    };
    context.pushes.tell(repository);
    let look = |core: &Core, _| -> Vec<NodeId> {
        core.nodes().filter(|node| node.liveness == Liveness::Alive).map(|node| node.id.clone()).collect()
    };
    let me = context.mesh.id().to_string();
    for node in context.handle.look(look).await.ok_or_else(Problem::ending)?.into_iter().filter(|node| *node != me) {
        let (mesh, repository) = (context.mesh.clone(), repository.clone());
        tokio::spawn(async move { cluster::tell_pushed(&mesh, &node, &repository).await });
    }
    Ok(json(200, &Done { subject: repository.clone(), durability: None, count: None }))
}

async fn find(context: &Context, name: &str) -> Result<MirrorView, Problem> {
    let found = views(context).await?.into_iter().find(|view| view.policy.name == name);
    found.ok_or_else(|| Problem::not_found(format!("no mirror {name}; `shoal image mirror ls` lists them")))
}

/// Every policy with the newest that a node said of it: who runs now first, then who ended last.
async fn views(context: &Context) -> Result<Vec<MirrorView>, Problem> {
    let policies = policies(&context.mesh).await.ok_or_else(Problem::ending)?;
    let states = read_states(&context.mesh).await.ok_or_else(Problem::ending)?;
    let look = |core: &Core, _| -> BTreeMap<NodeId, (String, bool)> {
        core.nodes().map(|node| (node.id.clone(), (node.name().to_owned(), node.liveness == Liveness::Alive))).collect()
    };
    let nodes = context.handle.look(look).await.ok_or_else(Problem::ending)?;
    let view = |policy: Policy| {
        let lives = |node: &NodeId| nodes.get(node).is_some_and(|(_, lives)| *lives);
        let of_policy = states.iter().filter(|(_, state)| state.policy_id == policy.id);
        let newest =
            of_policy.max_by_key(|(node, state)| (state.running && lives(node), state.ended_ms, state.began_ms));
        let (node_name, state) = match newest {
            Some((node, state)) => {
                let mut state = state.clone();
                // A node that died in the middle runs nothing.
                state.running &= lives(node);
                (Some(nodes.get(node).map_or_else(|| node.clone(), |(name, _)| name.clone())), Some(state))
            }
            None => (None, None),
        };
        MirrorView { policy, node_name, state, durability: None }
    };
    Ok(policies.into_iter().map(view).collect())
}
