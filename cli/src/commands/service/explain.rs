//! `shoal service explain`: what of a service is not as wanted, and what it waits for, slot by slot.

use super::wait::state_word;
use crate::commands::Global;
use crate::commands::mesh::client::{At, Client, encode};
use crate::error::Error;
use clap::Args;
use scheduler::model::{Health, Liveness, Phase, RolloutState};
use scheduler::node::api::view::{InstanceView, ServiceView};
use scheduler::quantity::{show_ago, show_duration_ms};
use std::process::ExitCode;

/// `shoal service explain`
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The service
    service: String,
    #[command(flatten)]
    at: At,
}

/// Says what is not as wanted, and why.
pub(crate) fn run(global: &Global, explain: &Explain) -> Result<ExitCode, Error> {
    let client = Client::new(global, &explain.at)?;
    let view: ServiceView = client.get(&format!("/v1/services/{}", encode(&explain.service)))?;
    let path = format!("/v1/instances?service={}", encode(&view.service.spec.name));
    let instances: Vec<InstanceView> = client.get(&path)?;
    lines(&view, &instances).iter().for_each(|line| println!("{line}"));
    Ok(ExitCode::SUCCESS)
}

/// Everything there is to say, line by line.
fn lines(view: &ServiceView, instances: &[InstanceView]) -> Vec<String> {
    let name = &view.service.spec.name;
    let mut out =
        vec![format!("{name}: {}/{} running, {} with the wanted template", view.running, view.wanted, view.current)];
    out.extend(view.no_fit.clone());
    out.extend(
        view.lost_ports
            .iter()
            .map(|lost| format!("{lost}, which is older: publish another (--publish-rm, --publish-add)")),
    );
    out.extend(rollout(view));
    let mut slots: Vec<&str> = instances.iter().map(|instance| instance.name.as_str()).collect();
    slots.dedup();
    for slot in slots {
        let of_slot: Vec<&InstanceView> = instances.iter().filter(|instance| instance.name == slot).collect();
        out.extend(waits_for(view, &of_slot).map(|what| format!("{slot} {what}")));
    }
    for instance in instances.iter().filter(|instance| instance.instance.phase == Phase::Failed) {
        let row = &instance.instance;
        let code = row.exit_code.map(|code| format!("exit code {code}"));
        let why = if row.message.is_empty() { code.unwrap_or_default() } else { row.message.clone() };
        let ago = show_ago(instance.age_ms).to_lowercase();
        out.push(format!("{} on {} failed {ago}: {why}", instance.name, instance.node_name));
    }
    out
}

/// How the last update stands, unless it has ended well and long been forgotten.
fn rollout(view: &ServiceView) -> Option<String> {
    let rollout = view.rollout.as_ref()?;
    let name = &view.service.spec.name;
    let word = state_word(rollout.state);
    let message = if rollout.message.is_empty() { String::new() } else { format!(": {}", rollout.message) };
    Some(match rollout.state {
        RolloutState::Updating | RolloutState::RollbackStarted if view.current == view.wanted => {
            let config = if rollout.state == RolloutState::Updating {
                &view.service.spec.update
            } else {
                &view.service.spec.rollback
            };
            let monitor = show_duration_ms(config.monitor_ms);
            format!(
                "update {word}{message}: every slot has its new template, and is watched for {monitor} before it counts as done"
            )
        }
        RolloutState::Updating | RolloutState::RollbackStarted => {
            format!("update {word}{message}: {} of {} slots have the new template and work", view.current, view.wanted)
        }
        RolloutState::Paused | RolloutState::RollbackPaused => format!(
            "update {word}{message}: nothing is replaced until the next change (mend it: shoal service update {name} …; go back: shoal \
             service rollback {name})"
        ),
        RolloutState::Completed | RolloutState::RollbackCompleted if rollout.message.is_empty() => return None,
        RolloutState::Completed | RolloutState::RollbackCompleted => format!("update {word}{message}"),
    })
}

/// What one slot waits for; `None` when it is as wanted or its failures say it all.
fn waits_for(view: &ServiceView, instances: &[&InstanceView]) -> Option<String> {
    let lives = |instance: &&&InstanceView| {
        !instance.instance.phase.ended() && !matches!(instance.node_liveness, Liveness::Down | Liveness::Left)
    };
    let current = |instance: &&&InstanceView| instance.instance.revision == view.revision;
    let live: Vec<&&InstanceView> = instances.iter().filter(lives).collect();
    let stopping = live.iter().find(|instance| instance.instance.phase == Phase::Stopping);
    let since = |instance: &InstanceView| show_duration_ms(instance.age_ms / 1000 * 1000);
    if let Some(new) =
        live.iter().copied().find(|instance| current(instance) && instance.instance.phase != Phase::Stopping)
    {
        let row = &new.instance;
        let what = match (row.phase, row.health) {
            _ if row.works() => return None,
            (Phase::Running, Health::Starting) if view.service.spec.template.healthcheck.is_some() => {
                "has not passed its health check yet"
            }
            (Phase::Running, Health::Starting) => "does not listen on its ports yet",
            (Phase::Running, _) => "fails its health check",
            (Phase::Preparing, _) => "fetches its image",
            (Phase::Starting, _) => "is being started",
            _ => "waits for its node to start it",
        };
        return Some(format!("on {} {what} ({})", new.node_name, since(new)));
    }
    if let Some(old) = stopping {
        let grace = show_duration_ms(view.service.spec.template.stop_grace_ms);
        return Some(format!(
            "waits for its instance on {} to stop ({}, it may take {grace}): {}",
            old.node_name,
            since(old),
            old.instance.message
        ));
    }
    let old = live.first()?;
    let under_way = view
        .rollout
        .as_ref()
        .is_some_and(|rollout| matches!(rollout.state, RolloutState::Updating | RolloutState::RollbackStarted));
    let turn = if under_way { ", its turn comes when those before it work" } else { "" };
    Some(format!("on {} has the template from before{turn}", old.node_name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view(state: &str, current: u32) -> ServiceView {
        serde_json::from_value(json!({
            "service": {"v": 1, "id": "sid", "generation": 2, "spec": {"name": "web", "template": {"image": "a"}},
                        "created_ms": 0, "updated_ms": 0},
            "revision": "new", "running": 2, "wanted": 3, "current": current, "guarantee": "",
            "rollout": {"v": 1, "service_id": "sid", "revision": "new", "generation": 2, "state": state,
                        "message": "", "started_ms": 0, "changed_ms": 0},
        }))
        .expect("a view")
    }

    fn instance(name: &str, revision: &str, phase: &str, health: &str) -> InstanceView {
        serde_json::from_value(json!({
            "instance": {"v": 1, "id": "i", "node": "n", "service": "web", "service_id": "sid", "slot": "0", "revision": revision,
                         "image": "a", "reserved": {}, "phase": phase, "health": health, "message": "why",
                         "created_ms": 0, "changed_ms": 0},
            "name": name, "node_name": "n1", "node_liveness": "alive", "desired": true, "age_ms": 4200,
        }))
        .expect("an instance")
    }

    #[test]
    fn an_update_that_stands_still_says_what_it_waits_for() {
        let told =
            |state: &str, current: u32, instances: &[InstanceView]| lines(&view(state, current), instances).join("\n");
        let text = told(
            "updating",
            1,
            &[
                instance("web.1", "new", "running", "none"),
                instance("web.2", "old", "stopping", "none"),
                instance("web.3", "old", "running", "none"),
            ],
        );
        assert_eq!(
            text,
            "web: 2/3 running, 1 with the wanted template\nupdate updating: 1 of 3 slots have the new template and work\n\
             web.2 waits for its instance on n1 to stop (4s, it may take 10s): why\n\
             web.3 on n1 has the template from before, its turn comes when those before it work"
        );
        let text = told("updating", 0, &[instance("web.1", "new", "preparing", "none")]);
        assert!(text.ends_with("web.1 on n1 fetches its image (4s)"), "{text}");
        let text = told("updating", 0, &[instance("web.1", "new", "running", "starting")]);
        assert!(text.ends_with("web.1 on n1 does not listen on its ports yet (4s)"), "{text}");
        assert!(told("updating", 3, &[]).contains("watched for 5s"));
        let text = told("paused", 0, &[instance("web.1", "new", "failed", "none")]);
        assert!(
            text.contains("nothing is replaced until the next change") && text.contains("failed 4 seconds ago: why"),
            "{text}"
        );
        assert_eq!(told("completed", 3, &[instance("web.1", "new", "running", "none")]).lines().count(), 1);
    }
}
