//! Calls about services: specs are shared rows that any node writes; what runs of them is read from instance rows.

use super::kv::{soon, word};
use super::reply::{Body, Problem, json};
use super::view::{Done, InstanceView, RouteView, ServiceView};
use super::{Call, Context};
use crate::core::Core;
use crate::model::{InstanceRow, Liveness, Ms, Node, Phase, RolloutRow, RolloutState, ServiceRow};
use crate::node::cluster;
use crate::node::pin::pin as pin_image;
use crate::place::lacks_network;
use crate::port::LogWish;
use crate::reconcile::{Standing, wanted};
use crate::rollout::rolled_back;
use crate::route::table;
use crate::service::{Port, PortMode, Protocol, Service, ServiceSpec};
use crate::steward::{Dice, mix};
use hyper::Response;
use p2p::table::{Body as RowBody, Key, Row, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

type Answer = Result<Response<Body>, Problem>;

/// Ports that the mesh gives when `published` is 0, as docker's.
const PORTS_FROM: u16 = 30_000;
const PORTS_COUNT: usize = 2_768;
/// How long an answer waits for the core to know of a write, and how often it looks: rows come within milliseconds.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);
const SHOWN_LOOK: Duration = Duration::from_millis(5);
/// The most log lines of one instance in an answer.
const TAIL_MAX: usize = 10_000;

const GUARANTEE: &str = "available: connected, as many instances as wanted, briefly more while duplicates resolve; \
    cut into sides, up to as many on each side";

pub(super) async fn list(context: &Context) -> Answer {
    let look = |core: &Core, _| -> Vec<ServiceView> {
        core.services().map(|(row, service)| view(core, row, service)).collect()
    };
    Ok(json(200, &context.handle.look(look).await.ok_or_else(Problem::ending)?))
}

pub(super) async fn get(context: &Context, call: &Call) -> Answer {
    Ok(json(200, &find(context, call.part("name")).await?))
}

pub(super) async fn create(context: &Context, call: &Call) -> Answer {
    let mut spec: ServiceSpec = call.json()?;
    spec.clone().accept_new().map_err(|error| Problem::new(422, "refused", error.to_string()))?;
    let name = spec.name.clone();
    if context.mesh.get(Key::global(Table::SERVICE, &name)).await?.is_some() {
        return Err(Problem::conflict(format!("service {name} exists; change it with `shoal service update {name}`")));
    }
    networks_exist(context, &spec, &[]).await?;
    let mut warnings = if call.off("resolve") { Vec::new() } else { pinned(context, &mut spec).await };
    // Two at once on this node do not choose one port both.
    let _one = one_at_a_time(context, &spec).await;
    settle_ports(context, &mut spec).await?;
    warnings.extend(held_ports(context, &spec, &[]).await?);
    let service = spec.clone().accept_new().map_err(|error| Problem::new(422, "refused", error.to_string()))?;
    let now = context.clock.wall();
    let id = Dice::new(now ^ mix(&context.mesh.id().to_string(), &name)).id(now);
    let row = ServiceRow {
        v: 1,
        id,
        generation: 1,
        spec,
        previous: None,
        rolled_back: false,
        created_ms: now,
        updated_ms: now,
        extra: BTreeMap::new(),
    };
    if call.flag("dry_run") {
        let look = move |core: &Core, _| ServiceView { warnings, ..view(core, &row, &service) };
        return Ok(json(200, &context.handle.look(look).await.ok_or_else(Problem::ending)?));
    }
    let durability = write(context, call, &row, None).await?;
    answer(context, 201, &name, durability, warnings).await
}

/// Says what a tag means now.
pub(super) async fn pin(context: &Context, call: &Call) -> Answer {
    let image = call.query.get("image").ok_or_else(|| Problem::bad_request("image= names no image"))?;
    Ok(json(200, &pin_image(&context.mesh, &context.worker.port(), image).await))
}

/// Held while published ports are chosen and written; a service without any waits for nobody.
async fn one_at_a_time<'a>(context: &'a Context, spec: &ServiceSpec) -> Option<tokio::sync::MutexGuard<'a, ()>> {
    match spec.ports.iter().any(|port| port.mode == PortMode::Ingress) {
        true => Some(context.ports.lock().await),
        false => None,
    }
}

/// Says whether the spec before a change that replaces nothing is what people go back to: not while the template from before
/// the last update may still be wanted back, and not for a number of replicas, which no way back changes.
async fn is_way_back(context: &Context, before: &ServiceRow, spec: &ServiceSpec) -> Result<bool, Problem> {
    let (name, id) = (before.spec.name.clone(), before.id.clone());
    let look = move |core: &Core, _| core.rollout(&name).filter(|row| row.service_id == id).map(|row| row.state);
    let state = context.handle.look(look).await.ok_or_else(Problem::ending)?;
    let settled = matches!(state, None | Some(RolloutState::Completed | RolloutState::RollbackCompleted));
    let scaled = ServiceSpec { mode: spec.mode, ..before.spec.clone() };
    Ok(settled && *spec != scaled)
}

/// Refuses a network that no node has; those in `before` were accepted.
async fn networks_exist(context: &Context, spec: &ServiceSpec, before: &[String]) -> Result<(), Problem> {
    let port = context.worker.port();
    let own = tokio::task::spawn_blocking(move || port.stock()).await.ok().flatten();
    let own: BTreeSet<String> = own.map(|stock| stock.networks.into_iter().collect()).unwrap_or_default();
    let new: Vec<String> =
        spec.template.networks.iter().filter(|name| !before.contains(name) && !own.contains(*name)).cloned().collect();
    let look = move |core: &Core, _| -> Option<String> {
        let lacks = |name: &String, node: &Node| lacks_network(std::slice::from_ref(name), node).is_some();
        new.into_iter().find(|name| core.placeable().all(|node| lacks(name, node)))
    };
    match context.handle.look(look).await.ok_or_else(Problem::ending)? {
        None => Ok(()),
        Some(name) => {
            let text = format!(
                "no node has a network {name}; make it where the service shall run: shoal network create {name}"
            );
            Err(Problem::new(422, "refused", text))
        }
    }
}

/// Says which published ports programs of hosts listen on: through those hosts the service answers in their place.
async fn held_ports(context: &Context, spec: &ServiceSpec, before: &[Port]) -> Result<Vec<String>, Problem> {
    let new = spec.ports.iter().filter(|port| port.mode == PortMode::Ingress && !before.contains(port));
    let ports: Vec<(u16, Protocol)> = new.map(|port| (port.published, port.protocol)).collect();
    if ports.is_empty() {
        return Ok(Vec::new());
    }
    let look = |core: &Core, _| -> Vec<(String, String)> {
        let alive = core.placeable().filter(|node| node.liveness == Liveness::Alive);
        alive.map(|node| (node.id.clone(), node.name().to_owned())).collect()
    };
    let nodes = context.handle.look(look).await.ok_or_else(Problem::ending)?;
    let me = context.mesh.id().to_string();
    let asked = nodes.iter().map(|(id, _)| cluster::ask_listens(&context.mesh, &me, id, &ports));
    let mut held: BTreeMap<(u16, Protocol), Vec<&str>> = BTreeMap::new();
    for ((_, name), taken) in nodes.iter().zip(futures::future::join_all(asked).await) {
        taken.into_iter().for_each(|port| held.entry(port).or_default().push(name));
    }
    let say = |((port, protocol), names): ((u16, Protocol), Vec<&str>)| {
        let (protocol, names) = (protocol.name(), names.join(", "));
        format!(
            "port {port}/{protocol} is in use by a program of {names}: through there the service answers in its place"
        )
    };
    Ok(held.into_iter().map(say).collect())
}

/// Gives a service's image its digest; returns why it could not.
async fn pinned(context: &Context, spec: &mut ServiceSpec) -> Vec<String> {
    let pin = pin_image(&context.mesh, &context.worker.port(), &spec.template.image).await;
    spec.template.image = pin.image;
    pin.warning.into_iter().collect()
}

pub(super) async fn update(context: &Context, call: &Call) -> Answer {
    let mut spec: ServiceSpec = call.json()?;
    let before = find(context, call.part("name")).await?.service;
    if spec.name != before.spec.name {
        return Err(Problem::bad_request("a service cannot be renamed; make a new one"));
    }
    if let Some(wanted) = call.query.get("generation")
        && *wanted != before.generation.to_string()
    {
        let text = format!("the service is at generation {}, not {wanted}: somebody changed it", before.generation);
        return Err(Problem::conflict(text));
    }
    // Fields that a newer node wrote stay as they were; new ones that this version does not know are refused.
    let unknown = |new: &BTreeMap<String, serde_json::Value>, old: &BTreeMap<String, serde_json::Value>| {
        new.iter().find(|(key, value)| old.get(*key) != Some(value)).map(|(key, _)| key.clone())
    };
    let template = unknown(&spec.template.extra, &before.spec.template.extra);
    if let Some(field) = unknown(&spec.extra, &before.spec.extra).or(template) {
        return Err(Problem::new(422, "refused", format!("{field}: this version of shoal does not know the field")));
    }
    if spec.template != before.spec.template {
        spec.check_placeholders().map_err(|error| Problem::new(422, "refused", error.to_string()))?;
    }
    // What a tag means is asked when the image is named, not when something else changes.
    let named = call.flag("resolve") || spec.template.image != before.spec.template.image;
    let mut warnings = if named && !call.off("resolve") { pinned(context, &mut spec).await } else { Vec::new() };
    networks_exist(context, &spec, &before.spec.template.networks).await?;
    let _one = one_at_a_time(context, &spec).await;
    settle_ports(context, &mut spec).await?;
    warnings.extend(held_ports(context, &spec, &before.spec.ports).await?);
    let accept =
        |spec: &ServiceSpec| spec.clone().accept().map_err(|error| Problem::new(422, "refused", error.to_string()));
    let (service, old) = (accept(&spec)?, accept(&before.spec)?);
    if spec == before.spec {
        return answer(context, 200, &before.spec.name, "unchanged".to_owned(), warnings).await;
    }
    let changed = service.revision != old.revision;
    let mut row = before.clone();
    if changed || is_way_back(context, &before, &spec).await? {
        row.previous = Some(Box::new(before.spec.clone()));
        row.rolled_back = false;
    }
    row.spec = spec;
    row.generation += 1;
    row.updated_ms = context.clock.wall();
    if call.flag("dry_run") {
        let look = move |core: &Core, _| ServiceView { warnings, ..view(core, &row, &service) };
        return Ok(json(200, &context.handle.look(look).await.ok_or_else(Problem::ending)?));
    }
    let change = Change { before: &before, row: &row, service: &service };
    commit(context, call, change, changed.then_some(RolloutState::Updating), warnings).await
}

pub(super) async fn rollback(context: &Context, call: &Call) -> Answer {
    let before = find(context, call.part("name")).await?.service;
    if before.previous.is_none() {
        return Err(Problem::conflict(format!("service {} has not been changed yet", before.spec.name)));
    }
    let row = rolled_back(&before, context.clock.wall());
    let service = row.spec.clone().accept().map_err(|error| Problem::new(422, "refused", error.to_string()))?;
    let change = Change { before: &before, row: &row, service: &service };
    commit(context, call, change, Some(RolloutState::RollbackStarted), Vec::new()).await
}

/// Looks rows up in the table.
type Lookup<'a> = dyn Fn(&Key) -> Option<Row> + 'a;

/// Whether the service under a name is still what a change was made from; of one that is to be made, that there is none.
fn stands(name: &str, before: Option<&ServiceRow>) -> impl FnOnce(&Lookup<'_>) -> bool + Send + use<> {
    let (key, before) = (Key::global(Table::SERVICE, name), before.cloned());
    move |get| get(&key).and_then(|row| row.body.parse::<ServiceRow>().ok()) == before
}

/// A service as it was, as it shall be, and that accepted.
struct Change<'a> {
    before: &'a ServiceRow,
    row: &'a ServiceRow,
    service: &'a Service,
}

/// Writes a changed service, and before it how its instances follow; nothing when somebody else changed it meanwhile.
async fn commit(
    context: &Context,
    call: &Call,
    change: Change<'_>,
    state: Option<RolloutState>,
    warnings: Vec<String>,
) -> Answer {
    let Change { before, row, service } = change;
    let name = row.spec.name.clone();
    if let Some(state) = state {
        let rollout = RolloutRow {
            v: 1,
            service_id: row.id.clone(),
            revision: service.revision.clone(),
            generation: row.generation,
            state,
            message: String::new(),
            started_ms: row.updated_ms,
            changed_ms: row.updated_ms,
        };
        let (mesh, key) = (context.mesh.clone(), Key::global(Table::ROLLOUT, &name));
        let body = RowBody::json(&rollout).expect("plain data has a JSON form");
        // The first poll hands it to the mesh, so it stands before the service does; only its peers are not waited for twice.
        let check = stands(&name, Some(before));
        let mut put = Box::pin(async move { mesh.put_if(None, key, body, check).await });
        match futures::poll!(&mut put) {
            std::task::Poll::Ready(done) => drop(done?),
            std::task::Poll::Pending => {
                let (durability, _) = futures::try_join!(write(context, call, row, Some(before)), soon(put))?;
                return answer(context, 200, &name, durability, warnings).await;
            }
        }
    }
    let durability = write(context, call, row, Some(before)).await?;
    answer(context, 200, &name, durability, warnings).await
}

pub(super) async fn remove(context: &Context, call: &Call) -> Answer {
    let name = match find(context, call.part("name")).await {
        Ok(view) => view.service.spec.name,
        // A row that this node does not understand stands all the same, and may be unwanted.
        Err(problem) => match context.mesh.get(Key::global(Table::SERVICE, call.part("name"))).await? {
            Some(row) if !row.deleted => row.key.id,
            _ => return Err(problem),
        },
    };
    let (mesh, actor, key) = (context.mesh.clone(), call.actor.clone(), Key::global(Table::SERVICE, &name));
    let written = soon(async move { mesh.delete(key, Some(actor)).await }).await?;
    let gone = name.clone();
    shown(context, move |core| core.service(&gone).is_none()).await;
    let rollout = Key::global(Table::ROLLOUT, &name);
    if context.mesh.get(rollout.clone()).await?.is_some() {
        let mesh = context.mesh.clone();
        soon(async move { mesh.delete(rollout, None).await }).await?;
    }
    let durability = Some(word(written.durability));
    Ok(json(200, &Done { subject: name, durability, count: None }))
}

pub(super) async fn instances(context: &Context, call: &Call) -> Answer {
    let service = match call.query.get("service") {
        Some(name) => Some(find(context, name).await?.service.id),
        None => None,
    };
    let node = match call.query.get("node") {
        Some(name) => Some(super::nodes::find(context, name).await?.id),
        None => None,
    };
    let look = move |core: &Core, now: Ms| -> Vec<InstanceView> {
        let mut views: Vec<InstanceView> = core
            .instances()
            .filter(|row| service.as_ref().is_none_or(|id| row.service_id == *id))
            .filter(|row| node.as_ref().is_none_or(|id| row.node == *id))
            .map(|row| instance_view(core, row, now))
            .collect();
        views.sort_by_key(|view| {
            (view.instance.service.clone(), view.instance.slot.clone(), std::cmp::Reverse(view.instance.id.clone()))
        });
        views
    };
    Ok(json(200, &context.handle.look(look).await.ok_or_else(Problem::ending)?))
}

/// Gathers what a service's instances wrote from the nodes that run them. One that does not answer is named, not hidden.
pub(super) async fn logs(context: &Context, call: &Call) -> Answer {
    let id = find(context, call.part("name")).await?.service.id;
    let tail = match call.query.get("tail") {
        Some(text) => text.parse().map_err(|_| Problem::bad_request(format!("tail={text}: not a number")))?,
        None => TAIL_MAX,
    };
    let since = match call.query.get("since") {
        Some(text) => Some(text.parse().map_err(|_| Problem::bad_request(format!("since={text}: not a number")))?),
        None => None,
    };
    let wish = LogWish { tail: std::cmp::min(tail, TAIL_MAX), since, times: call.flag("times") };
    let look = move |core: &Core, now: Ms| -> Vec<InstanceView> {
        core.instances_of(&id).map(|row| instance_view(core, row, now)).collect()
    };
    let views = context.handle.look(look).await.ok_or_else(Problem::ending)?;
    let me = context.mesh.id().to_string();
    // What has no container yet has written nothing.
    let wrote = |view: &InstanceView| view.instance.phase > Phase::Starting || view.instance.container.is_some();
    let asked = views.into_iter().filter(wrote).map(|view| {
        let me = me.clone();
        async move {
            let lines = if view.node_liveness != Liveness::Alive {
                Err(format!("its node is {}", view.node_liveness.word()))
            } else if view.instance.node == me {
                context.worker.logs(&view.instance.id, wish).await
            } else {
                cluster::ask_logs(&context.mesh, &view.instance.node, &view.instance.id, wish).await
            };
            let (lines, error) = match lines {
                Ok(lines) => (lines, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            let task = format!("{}.{}", view.name, &view.instance.id);
            serde_json::json!({"task": task, "node": view.node_name, "lines": lines, "error": error})
        }
    });
    Ok(json(200, &futures::future::join_all(asked).await))
}

pub(super) async fn routes(context: &Context) -> Answer {
    let look = |core: &Core, _| {
        let nodes = core.nodes().map(|node| (node.id.clone(), node)).collect();
        table::build(core.services().map(|(row, _)| row), core.instances(), &nodes)
    };
    let table = context.handle.look(look).await.ok_or_else(Problem::ending)?;
    let ports: Vec<RouteView> = table
        .ingress
        .into_iter()
        .map(|((published, protocol), ingress)| RouteView { published, protocol, ingress })
        .collect();
    Ok(json(200, &serde_json::json!({"ports": ports, "services": table.services})))
}

/// Gives published ports that were left open a number, and refuses one that another service has.
async fn settle_ports(context: &Context, spec: &mut ServiceSpec) -> Result<(), Problem> {
    let name = spec.name.clone();
    let look = move |core: &Core, _| -> BTreeMap<(u16, Protocol), String> {
        let others = core.services().filter(|(row, _)| row.spec.name != name);
        others
            .flat_map(|(row, _)| row.spec.ports.iter().map(|port| (port, row.spec.name.clone())))
            .filter(|(port, _)| port.mode == PortMode::Ingress && port.published != 0)
            .map(|(port, name)| ((port.published, port.protocol), name))
            .collect()
    };
    let mut taken = context.handle.look(look).await.ok_or_else(Problem::ending)?;
    let begin = usize::try_from(mix(&spec.name, "ports") % 2_768).unwrap_or(0);
    for port in spec.ports.iter_mut().filter(|port| port.mode == PortMode::Ingress) {
        if port.published == 0 {
            let free = (0..PORTS_COUNT)
                .filter_map(|step| u16::try_from((begin + step) % PORTS_COUNT).ok())
                .map(|offset| PORTS_FROM + offset)
                .find(|number| !taken.contains_key(&(*number, port.protocol)));
            port.published = free.ok_or_else(|| Problem::conflict("every port from 30000 to 32767 is taken"))?;
        } else if let Some(other) = taken.get(&(port.published, port.protocol)) {
            let (number, protocol) = (port.published, port.protocol.name());
            return Err(Problem::conflict(format!("port {number}/{protocol} is published by service {other}")));
        }
        taken.insert((port.published, port.protocol), spec.name.clone());
    }
    Ok(())
}

/// Writes a service over what it was made from, `None` for a new one.
async fn write(
    context: &Context,
    call: &Call,
    row: &ServiceRow,
    before: Option<&ServiceRow>,
) -> Result<String, Problem> {
    let (mesh, actor) = (context.mesh.clone(), call.actor.clone());
    let body = RowBody::json(row).expect("plain data has a JSON form");
    let key = Key::global(Table::SERVICE, &row.spec.name);
    let check = stands(&row.spec.name, before);
    let written = soon(async move { mesh.put_if(Some(actor), key, body, check).await }).await?;
    // The answer to this call shall show it; what the table's watcher tells meanwhile may be newer still.
    let (name, id, generation) = (row.spec.name.clone(), row.id.clone(), row.generation);
    shown(context, move |core| match core.service(&name) {
        Some((known, _)) => known.id != id || known.generation >= generation,
        None => false,
    })
    .await;
    Ok(word(written.durability))
}

/// Waits a moment until the core knows what was written: rows come to it from the table alone, in the table's order.
pub(super) async fn shown(context: &Context, is: impl Fn(&Core) -> bool + Clone + Send + 'static) {
    let deadline = tokio::time::Instant::now() + SHOWN_WITHIN;
    while tokio::time::Instant::now() < deadline {
        let is = is.clone();
        if context.handle.look(move |core, _| is(core)).await != Some(false) {
            return;
        }
        tokio::time::sleep(SHOWN_LOOK).await;
    }
}

async fn answer(context: &Context, status: u16, name: &str, durability: String, warnings: Vec<String>) -> Answer {
    let mut view = find(context, name).await?;
    (view.durability, view.warnings) = (Some(durability), warnings);
    Ok(json(status, &view))
}

/// Returns the service with this name, id or beginning of an id.
async fn find(context: &Context, wanted: &str) -> Result<ServiceView, Problem> {
    let name = wanted.to_owned();
    let look = move |core: &Core, _| -> Vec<ServiceView> {
        if let Some((row, service)) = core.service(&name) {
            return vec![view(core, row, service)];
        }
        let by_id = core.services().filter(|(row, _)| name.len() >= 4 && row.id.starts_with(&name));
        by_id.map(|(row, service)| view(core, row, service)).collect()
    };
    let mut found = context.handle.look(look).await.ok_or_else(Problem::ending)?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Problem::not_found(format!("no service {wanted}; `shoal service ls` lists them"))),
        more => Err(Problem::conflict(format!("{more} services have an id that begins with {wanted}"))),
    }
}

fn view(core: &Core, row: &ServiceRow, service: &Service) -> ServiceView {
    let counts = |instance: &&InstanceRow| instance.works() && core.standing_of(service, instance) != Standing::Lost;
    let working: Vec<&InstanceRow> = core.instances_of(&row.id).filter(counts).collect();
    let current: BTreeSet<_> = working
        .iter()
        .filter(|instance| instance.revision == service.revision)
        .map(|instance| &instance.slot)
        .collect();
    ServiceView {
        service: row.clone(),
        revision: service.revision.clone(),
        running: working.len(),
        wanted: wanted(service, core.placeable()).len(),
        current: current.len(),
        rollout: core.rollout(&row.spec.name).filter(|rollout| rollout.service_id == row.id).cloned(),
        no_fit: core.no_fit(&row.spec.name),
        guarantee: GUARANTEE.to_owned(),
        durability: None,
        warnings: Vec::new(),
        lost_ports: lost_ports(core, row),
    }
}

/// Published ports that an older service has: two were made at once, or on two sides of a cut.
fn lost_ports(core: &Core, row: &ServiceRow) -> Vec<String> {
    let age = |row: &ServiceRow| (row.created_ms, row.spec.name.clone());
    let own = age(row);
    let mut lost = Vec::new();
    for port in row.spec.ports.iter().filter(|port| port.mode == PortMode::Ingress) {
        let same = |other: &&Port| {
            other.mode == PortMode::Ingress && (other.published, other.protocol) == (port.published, port.protocol)
        };
        let older = core.services().map(|(other, _)| other).filter(|other| other.id != row.id && age(other) < own);
        if let Some(other) = older.into_iter().find(|other| other.spec.ports.iter().any(|port| same(&port))) {
            lost.push(format!("port {}/{} is service {}'s", port.published, port.protocol.name(), other.spec.name));
        }
    }
    lost
}

fn instance_view(core: &Core, row: &InstanceRow, now: Ms) -> InstanceView {
    let node = core.nodes().find(|node| node.id == row.node);
    let liveness = node.map_or(Liveness::Down, |node| node.liveness);
    let lost = matches!(liveness, Liveness::Down | Liveness::Left);
    InstanceView {
        instance: row.clone(),
        name: row.slot.task_name(&row.service),
        node_name: node.map_or_else(|| row.node.clone(), |node| node.name().to_owned()),
        node_liveness: liveness,
        desired: !lost && !row.phase.ended() && row.phase != Phase::Stopping,
        age_ms: now.saturating_sub(row.changed_ms),
    }
}
