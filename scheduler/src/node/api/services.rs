//! Calls about services: specs are shared rows that any node writes; what runs of them is read from instance rows.

use super::kv::{soon, word};
use super::reply::{Body, Problem, json};
use super::view::{Done, InstanceView, RouteView, ServiceView};
use super::{Call, Context};
use crate::core::{Core, Event};
use crate::model::{InstanceRow, Liveness, Ms, Phase, RolloutRow, RolloutState, ServiceRow};
use crate::node::cluster;
use crate::reconcile::{Standing, wanted};
use crate::rollout::rolled_back;
use crate::route::table;
use crate::service::{PortMode, Protocol, Service, ServiceSpec};
use crate::steward::{Dice, mix};
use hyper::Response;
use p2p::table::{Body as RowBody, Key, Row, Table};
use std::collections::{BTreeMap, BTreeSet};

type Answer = Result<Response<Body>, Problem>;

/// Ports that the mesh gives when `published` is 0, as docker's.
const PORTS_FROM: u16 = 30_000;
const PORTS_COUNT: usize = 2_768;
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
    settle_ports(context, &mut spec).await?;
    let service = spec.clone().accept_new().map_err(|error| Problem::new(422, "refused", error.to_string()))?;
    let now = context.clock.now();
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
        let look = move |core: &Core, _| view(core, &row, &service);
        return Ok(json(200, &context.handle.look(look).await.ok_or_else(Problem::ending)?));
    }
    let durability = write(context, call, &row, None).await?;
    answer(context, 201, &name, durability).await
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
    settle_ports(context, &mut spec).await?;
    let accept =
        |spec: &ServiceSpec| spec.clone().accept().map_err(|error| Problem::new(422, "refused", error.to_string()));
    let (service, old) = (accept(&spec)?, accept(&before.spec)?);
    if spec == before.spec {
        return answer(context, 200, &before.spec.name, "unchanged".to_owned()).await;
    }
    let mut row = before.clone();
    row.previous = Some(Box::new(before.spec.clone()));
    row.rolled_back = false;
    row.spec = spec;
    row.generation += 1;
    row.updated_ms = context.clock.now();
    if call.flag("dry_run") {
        let look = move |core: &Core, _| view(core, &row, &service);
        return Ok(json(200, &context.handle.look(look).await.ok_or_else(Problem::ending)?));
    }
    let changed = service.revision != old.revision;
    commit(context, call, &before, &row, &service, changed.then_some(RolloutState::Updating)).await
}

pub(super) async fn rollback(context: &Context, call: &Call) -> Answer {
    let before = find(context, call.part("name")).await?.service;
    if before.previous.is_none() {
        return Err(Problem::conflict(format!("service {} has not been changed yet", before.spec.name)));
    }
    let row = rolled_back(&before, context.clock.now());
    let service = row.spec.clone().accept().map_err(|error| Problem::new(422, "refused", error.to_string()))?;
    commit(context, call, &before, &row, &service, Some(RolloutState::RollbackStarted)).await
}

/// Looks rows up in the table.
type Lookup<'a> = dyn Fn(&Key) -> Option<Row> + 'a;

/// Whether the service under a name is still what a change was made from; of one that is to be made, that there is none.
fn stands(name: &str, before: Option<&ServiceRow>) -> impl FnOnce(&Lookup<'_>) -> bool + Send + use<> {
    let (key, before) = (Key::global(Table::SERVICE, name), before.cloned());
    move |get| get(&key).and_then(|row| row.body.parse::<ServiceRow>().ok()) == before
}

/// Writes a changed service, and before it how its instances follow; nothing when somebody else changed it meanwhile.
async fn commit(
    context: &Context,
    call: &Call,
    before: &ServiceRow,
    row: &ServiceRow,
    service: &Service,
    state: Option<RolloutState>,
) -> Answer {
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
                // Known here before the service is, so that this node begins no other update.
                context.handle.event(Event::Rollout(name.clone(), rollout)).await;
                let (durability, _) = futures::try_join!(write(context, call, row, Some(before)), soon(put))?;
                return answer(context, 200, &name, durability).await;
            }
        }
    }
    let durability = write(context, call, row, Some(before)).await?;
    answer(context, 200, &name, durability).await
}

pub(super) async fn remove(context: &Context, call: &Call) -> Answer {
    let name = find(context, call.part("name")).await?.service.spec.name;
    let (mesh, actor, key) = (context.mesh.clone(), call.actor.clone(), Key::global(Table::SERVICE, &name));
    let written = soon(async move { mesh.delete(key, Some(actor)).await }).await?;
    context.handle.event(Event::ServiceGone(name.clone())).await;
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
    let tail: usize = std::cmp::min(tail, TAIL_MAX);
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
                context.worker.logs(&view.instance.id, tail).await
            } else {
                cluster::ask_logs(&context.mesh, &view.instance.node, &view.instance.id, tail).await
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
    // Accepted: the table's watcher tells it as well, but the answer to this call shall show it.
    context.handle.event(Event::Service(Box::new(row.clone()))).await;
    Ok(word(written.durability))
}

async fn answer(context: &Context, status: u16, name: &str, durability: String) -> Answer {
    let mut view = find(context, name).await?;
    view.durability = Some(durability);
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
        wanted: wanted(service, core.nodes()).len(),
        current: current.len(),
        rollout: core.rollout(&row.spec.name).filter(|rollout| rollout.service_id == row.id).cloned(),
        no_fit: core.no_fit(&row.spec.name),
        guarantee: GUARANTEE.to_owned(),
        durability: None,
    }
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
