//! `shoal service create`.

use super::list::warn;
use super::options::{Shared, parse_env, parse_label, parse_mount, parse_port, read_env_file};
use super::wait::{Wait, wait_for};
use crate::commands::Global;
use crate::commands::mesh::client::{At, Client};
use crate::commands::mesh::show::{Form, print_document};
use crate::error::Error;
use clap::{Args, ValueEnum};
use scheduler::node::api::view::ServiceView;
use scheduler::service::{Mode, ServiceSpec};
use std::path::PathBuf;
use std::process::ExitCode;

/// `shoal service create`
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The service's name, by default made of the image's
    #[arg(long)]
    name: Option<String>,
    /// Replicated, or one on every node
    #[arg(long, value_enum, default_value_t = ModeName::Replicated)]
    mode: ModeName,
    /// How many instances
    #[arg(long, value_name = "N", conflicts_with = "global")]
    replicas: Option<u32>,
    /// The same as --mode global
    #[arg(long)]
    global: bool,
    /// An environment variable
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// A file of environment variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// A label of the service
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// A label of the containers
    #[arg(long, value_name = "KEY=VALUE")]
    container_label: Vec<String>,
    /// A mount: type=bind|volume|tmpfs,source=…,target=…
    #[arg(long, value_name = "MOUNT")]
    mount: Vec<String>,
    /// A port on every node: PUBLISHED:TARGET[/udp]
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// A network of the mesh
    #[arg(long, value_name = "NETWORK")]
    network: Vec<String>,
    /// A placement constraint, as 'node.labels.disk == ssd'
    #[arg(long, value_name = "EXPRESSION")]
    constraint: Vec<String>,
    /// A placement preference, as spread=node.site
    #[arg(long, value_name = "PREFERENCE")]
    placement_pref: Vec<String>,
    /// Add a capability
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// Keep the tag as it is: do not ask what it means now
    #[arg(long)]
    no_resolve_image: bool,
    #[command(flatten)]
    shared: Shared,
    #[command(flatten)]
    wait: Wait,
    /// Check, and print what would be made
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    at: At,
    /// The image
    image: String,
    /// The command, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeName {
    Replicated,
    Global,
}

/// Makes the service.
pub(crate) fn run(global: &Global, create: Create) -> Result<ExitCode, Error> {
    let client = Client::new(global, &create.at)?;
    let spec = spec(&create)?;
    spec.clone().accept_new()?;
    let resolve = if create.no_resolve_image { "?resolve=0" } else { "?resolve=1" };
    let path = format!("/v1/services{resolve}{}", if create.dry_run { "&dry_run=1" } else { "" });
    let view: ServiceView = client.send("POST", &path, &serde_json::to_vec(&spec)?)?.json()?;
    warn(&view);
    if create.dry_run {
        print_document(Form::Json, &view.service.spec)?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", view.service.id);
    wait_for(&client, &[view.service.spec.name], &create.wait)
}

fn spec(create: &Create) -> Result<ServiceSpec, Error> {
    let name = match &create.name {
        Some(name) => name.clone(),
        None => name_of(&create.image),
    };
    let mut spec = ServiceSpec::new(&name, &create.image);
    spec.mode = if create.global || create.mode == ModeName::Global {
        if create.replicas.is_some() {
            return Err(Error::new("a global service has one instance a node, not --replicas").code(2));
        }
        Mode::Global
    } else {
        Mode::Replicated { replicas: create.replicas.unwrap_or(1) }
    };
    spec.labels = create.label.iter().map(|label| parse_label(label)).collect();
    spec.ports = create.publish.iter().map(|port| parse_port(port)).collect::<Result<_, _>>()?;
    spec.placement.constraints.clone_from(&create.constraint);
    spec.placement.preferences.clone_from(&create.placement_pref);
    let template = &mut spec.template;
    template.args.clone_from(&create.command);
    for file in &create.env_file {
        template.env.extend(read_env_file(file)?);
    }
    for env in &create.env {
        template.env.push(parse_env(env)?);
    }
    template.labels = create.container_label.iter().map(|label| parse_label(label)).collect();
    template.mounts = create.mount.iter().map(|mount| parse_mount(mount)).collect::<Result<_, _>>()?;
    template.networks.clone_from(&create.network);
    template.cap_add.clone_from(&create.cap_add);
    template.cap_drop.clone_from(&create.cap_drop);
    create.shared.apply(&mut spec)?;
    Ok(spec)
}

/// Makes a name of an image's: the last part, with four digits that differ.
fn name_of(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let base: String = last.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect();
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    format!("{}-{:04x}", if base.is_empty() { "service" } else { &base }, nanos % 0xffff)
}
