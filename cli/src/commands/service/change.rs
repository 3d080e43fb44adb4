//! `shoal service update|scale|rollback|rm`.

use super::each;
use super::list::warn;
use super::options::{Shared, parse_env, parse_label, parse_mount, parse_port, words};
use super::wait::{Wait, wait_for};
use crate::commands::Global;
use crate::commands::mesh::client::{At, Client, encode};
use crate::commands::mesh::show::{Form, print_document};
use crate::error::Error;
use clap::Args;
use scheduler::node::api::view::{Done, ServiceView};
use scheduler::service::{Mode, ServiceSpec};
use std::process::ExitCode;
use std::time::Duration;

/// Attempts of one change that others' changes come in between of, and the pause between two.
const CHANGES_MAX: u32 = 5;
const CHANGE_AGAIN: Duration = Duration::from_millis(100);

/// `shoal service update`
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Another image
    #[arg(long)]
    image: Option<String>,
    /// Another command
    #[arg(long, value_name = "COMMAND")]
    args: Option<String>,
    /// Another number of instances
    #[arg(long, value_name = "N")]
    replicas: Option<u32>,
    /// Replace every instance although nothing changed
    #[arg(long)]
    force: bool,
    /// Keep the tag of --image as it is: do not ask what it means now
    #[arg(long)]
    no_resolve_image: bool,
    /// Go back to the spec before the last change
    #[arg(long)]
    rollback: bool,
    /// Set a variable of its containers
    #[arg(long, value_name = "KEY=VALUE")]
    env_add: Vec<String>,
    /// Remove a variable
    #[arg(long, value_name = "KEY")]
    env_rm: Vec<String>,
    /// Set a label of the service
    #[arg(long, value_name = "KEY=VALUE")]
    label_add: Vec<String>,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Set a label of its containers
    #[arg(long, value_name = "KEY=VALUE")]
    container_label_add: Vec<String>,
    /// Remove a label of its containers
    #[arg(long, value_name = "KEY")]
    container_label_rm: Vec<String>,
    /// Add a mount: type=…,source=…,target=…
    #[arg(long, value_name = "MOUNT")]
    mount_add: Vec<String>,
    /// Remove the mount at a target
    #[arg(long, value_name = "TARGET")]
    mount_rm: Vec<String>,
    /// Publish a port
    #[arg(long, value_name = "PORT")]
    publish_add: Vec<String>,
    /// The port inside
    #[arg(long, value_name = "TARGET")]
    publish_rm: Vec<u16>,
    /// Add a constraint on nodes
    #[arg(long, value_name = "EXPRESSION")]
    constraint_add: Vec<String>,
    /// Remove a constraint
    #[arg(long, value_name = "EXPRESSION")]
    constraint_rm: Vec<String>,
    /// Add a preference for spreading
    #[arg(long, value_name = "PREFERENCE")]
    placement_pref_add: Vec<String>,
    /// Remove a preference
    #[arg(long, value_name = "PREFERENCE")]
    placement_pref_rm: Vec<String>,
    /// Connect it to a network
    #[arg(long, value_name = "NETWORK")]
    network_add: Vec<String>,
    /// Disconnect it from a network
    #[arg(long, value_name = "NETWORK")]
    network_rm: Vec<String>,
    #[command(flatten)]
    shared: Shared,
    #[command(flatten)]
    wait: Wait,
    /// Check, and print what the spec would be
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    at: At,
    /// The service
    service: String,
}

/// `shoal service scale`
#[derive(Debug, Args)]
pub(crate) struct Scale {
    /// SERVICE=REPLICAS
    #[arg(required = true, value_name = "SERVICE=REPLICAS")]
    wishes: Vec<String>,
    #[command(flatten)]
    wait: Wait,
    /// Check only
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    at: At,
}

/// `shoal service restart`
#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// The services
    #[arg(required = true)]
    services: Vec<String>,
    #[command(flatten)]
    wait: Wait,
    /// Check only
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    at: At,
}

/// `shoal service rollback`
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The service
    service: String,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    at: At,
}

/// `shoal service rm`
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// The services
    #[arg(required = true)]
    services: Vec<String>,
    /// Say what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    at: At,
}

/// Changes a service.
pub(crate) fn update(global: &Global, update: Update) -> Result<ExitCode, Error> {
    let client = Client::new(global, &update.at)?;
    if update.rollback {
        return roll_back(&client, &update.service, &update.wait);
    }
    let path = format!("/v1/services/{}", encode(&update.service));
    let view = repeated(|| {
        let view: ServiceView = client.get(&path)?;
        let mut spec = view.service.spec;
        change(&update, &mut spec)?;
        let resolve = match (&update.image, update.no_resolve_image) {
            (_, true) => "&resolve=0",
            (Some(_), false) => "&resolve=1",
            (None, false) => "",
        };
        send(&client, &spec, view.service.generation, update.dry_run, resolve)
    })?;
    warn(&view);
    let spec = view.service.spec;
    let name = spec.name.clone();
    if update.dry_run {
        print_document(Form::Json, &spec)?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("{name}");
    wait_for(&client, &[name], &update.wait)
}

/// Looks and changes again while somebody else was faster: every flag says what shall be, whatever stood before.
fn repeated<T>(mut change: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    for _ in 1..CHANGES_MAX {
        match change() {
            Err(error) if error.is_conflict() => std::thread::sleep(CHANGE_AGAIN),
            done => return done,
        }
    }
    change()
}

/// Sends a changed spec; refused when somebody else changed the service meanwhile.
fn send(
    client: &Client,
    spec: &ServiceSpec,
    generation: u64,
    dry_run: bool,
    resolve: &str,
) -> Result<ServiceView, Error> {
    let dry = if dry_run { "&dry_run=1" } else { "" };
    let path = format!("/v1/services/{}?generation={generation}{dry}{resolve}", encode(&spec.name));
    client.send("PUT", &path, &serde_json::to_vec(spec)?)?.json()
}

fn change(update: &Update, spec: &mut ServiceSpec) -> Result<(), Error> {
    if let Some(replicas) = update.replicas {
        replicated(spec, replicas)?;
    }
    let template = &mut spec.template;
    if let Some(image) = &update.image {
        template.image.clone_from(image);
    }
    if let Some(args) = &update.args {
        template.args = words(args);
    }
    template.force += u64::from(update.force);
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    for env in &update.env_add {
        let env = parse_env(env)?;
        template.env.retain(|old| key(old) != key(&env));
        template.env.push(env);
    }
    template.env.retain(|old| !update.env_rm.contains(&key(old)));
    spec.labels.extend(update.label_add.iter().map(|label| parse_label(label)));
    spec.labels.retain(|key, _| !update.label_rm.contains(key));
    template.labels.extend(update.container_label_add.iter().map(|label| parse_label(label)));
    template.labels.retain(|key, _| !update.container_label_rm.contains(key));
    template.mounts.retain(|mount| !update.mount_rm.contains(&mount.target));
    for mount in &update.mount_add {
        let mount = parse_mount(mount)?;
        template.mounts.retain(|old| old.target != mount.target);
        template.mounts.push(mount);
    }
    spec.ports.retain(|port| !update.publish_rm.contains(&port.target));
    for port in &update.publish_add {
        let port = parse_port(port)?;
        spec.ports.retain(|old| (old.target, old.protocol) != (port.target, port.protocol));
        spec.ports.push(port);
    }
    edit(&mut spec.placement.constraints, &update.constraint_add, &update.constraint_rm);
    edit(&mut spec.placement.preferences, &update.placement_pref_add, &update.placement_pref_rm);
    edit(&mut spec.template.networks, &update.network_add, &update.network_rm);
    update.shared.apply(spec)
}

fn edit(list: &mut Vec<String>, add: &[String], remove: &[String]) {
    // `a==b` and `a == b` are the same expression.
    let plain = |text: &str| text.split_whitespace().collect::<String>();
    list.retain(|entry| !remove.iter().any(|gone| plain(gone) == plain(entry)));
    for entry in add {
        if !list.contains(entry) {
            list.push(entry.clone());
        }
    }
}

fn replicated(spec: &mut ServiceSpec, replicas: u32) -> Result<(), Error> {
    match &mut spec.mode {
        Mode::Replicated { replicas: current } => {
            *current = replicas;
            Ok(())
        }
        Mode::Global => Err(Error::new(format!("{} is global: it has one instance a node", spec.name))),
    }
}

/// Changes numbers of replicas.
pub(crate) fn scale(global: &Global, scale: &Scale) -> Result<ExitCode, Error> {
    let client = Client::new(global, &scale.at)?;
    let mut names = Vec::new();
    for wish in &scale.wishes {
        let (name, number) = wish
            .split_once('=')
            .and_then(|(name, number)| Some((name, number.parse::<u32>().ok()?)))
            .ok_or_else(|| Error::new(format!("{wish:?} is not SERVICE=REPLICAS")).code(2))?;
        // Somebody else's change in between is not lost: the number is written into what stands now.
        let spec = repeated(|| {
            let view: ServiceView = client.get(&format!("/v1/services/{}", encode(name)))?;
            let mut spec = view.service.spec;
            replicated(&mut spec, number)?;
            send(&client, &spec, view.service.generation, scale.dry_run, "")?;
            Ok(spec)
        })?;
        println!("{} scaled to {number}", spec.name);
        names.push(spec.name);
    }
    if scale.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    wait_for(&client, &names, &scale.wait)
}

/// Replaces every instance of services, by their rules for updates.
pub(crate) fn restart(global: &Global, restart: &Restart) -> Result<ExitCode, Error> {
    let client = Client::new(global, &restart.at)?;
    let mut names = Vec::new();
    for name in &restart.services {
        let view = repeated(|| {
            let view: ServiceView = client.get(&format!("/v1/services/{}", encode(name)))?;
            let mut spec = view.service.spec;
            spec.template.force += 1;
            send(&client, &spec, view.service.generation, restart.dry_run, "")
        })?;
        println!("{}", view.service.spec.name);
        names.push(view.service.spec.name);
    }
    if restart.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    wait_for(&client, &names, &restart.wait)
}

/// Goes back.
pub(crate) fn rollback(global: &Global, rollback: &Rollback) -> Result<ExitCode, Error> {
    let client = Client::new(global, &rollback.at)?;
    roll_back(&client, &rollback.service, &rollback.wait)
}

fn roll_back(client: &Client, service: &str, wait: &Wait) -> Result<ExitCode, Error> {
    let path = format!("/v1/services/{}/rollback", encode(service));
    let view: ServiceView = client.send("POST", &path, &[])?.json()?;
    println!("{}", view.service.spec.name);
    wait_for(client, &[view.service.spec.name], wait)
}

/// Removes services; goes on with the others when one is not there.
pub(crate) fn rm(global: &Global, rm: &Rm) -> Result<ExitCode, Error> {
    let client = Client::new(global, &rm.at)?;
    each(&rm.services, |name| {
        let path = format!("/v1/services/{}", encode(name));
        if rm.dry_run {
            client.get::<ServiceView>(&path).map(|view| view.service.spec.name)
        } else {
            client.send("DELETE", &path, &[]).and_then(|answer| answer.json::<Done>()).map(|done| done.subject)
        }
    })
}
