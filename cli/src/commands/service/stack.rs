//! `shoal stack …`: services from a compose file. A stack is the services whose label names it.

use super::list::{print_instances, print_services};
use super::logs;
use super::wait::{Wait, wait_for};
use crate::commands::Global;
use crate::commands::mesh::client::{At, Client, encode};
use crate::commands::mesh::show::{Entry, Output};
use crate::error::Error;
use clap::{Args, Subcommand, ValueEnum};
use scheduler::compose::{self, STACK_LABEL};
use scheduler::node::api::view::{Done, InstanceView, PinView, ServiceView};
use scheduler::service::ServiceSpec;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `shoal stack …`
#[derive(Debug, Args)]
pub(crate) struct Stack {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make or change the services of a compose file
    #[command(visible_alias = "up")]
    Deploy(Deploy),
    /// Show what deploy would change; exit code 10 when something would
    Plan(Plan),
    /// Check a compose file and print its services as they are understood
    Config(Config),
    /// List stacks
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// List the instances of a stack
    Ps(One),
    /// List the services of a stack
    Services(One),
    /// Print what the instances of a stack wrote
    Logs(Logs),
    /// Remove stacks
    #[command(visible_aliases = ["remove", "down"])]
    Rm(Rm),
}

/// When it is asked what the tags of a file mean now; docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ResolveImage {
    /// Always: a tag that moved replaces instances
    Always,
    /// When the file names another image than before
    Changed,
    /// Never
    Never,
}

#[derive(Debug, Args)]
struct File {
    /// The compose file; `-` for standard input
    #[arg(short = 'c', long = "compose-file", value_name = "FILE", default_value = "compose.yaml")]
    file: PathBuf,
}

#[derive(Debug, Args)]
struct Deploy {
    #[command(flatten)]
    file: File,
    /// Remove services of the stack that are no longer in the file
    #[arg(long)]
    prune: bool,
    /// When to ask what the tags of images mean now
    #[arg(long, value_enum, default_value_t = ResolveImage::Always, value_name = "WHEN")]
    resolve_image: ResolveImage,
    /// Show what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    at: At,
    /// The stack's name, by default the file's `name`
    stack: Option<String>,
}

#[derive(Debug, Args)]
struct Plan {
    #[command(flatten)]
    file: File,
    /// Count services of the stack that are no longer in the file as removed
    #[arg(long)]
    prune: bool,
    /// When to ask what the tags of images mean now
    #[arg(long, value_enum, default_value_t = ResolveImage::Always, value_name = "WHEN")]
    resolve_image: ResolveImage,
    #[command(flatten)]
    at: At,
    /// The stack's name, by default the file's `name`
    stack: Option<String>,
}

#[derive(Debug, Args)]
struct Config {
    #[command(flatten)]
    file: File,
    /// The stack's name, by default the file's `name`
    stack: Option<String>,
}

#[derive(Debug, Args)]
struct Ls {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
struct One {
    /// The stack
    stack: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
struct Logs {
    /// The stack
    stack: String,
    #[command(flatten)]
    which: logs::Which,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
struct Rm {
    /// The stacks
    #[arg(required = true)]
    stacks: Vec<String>,
    /// Name the services that would go
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    at: At,
}

/// Runs one verb.
pub(crate) fn run(global: &Global, stack: Stack) -> Result<ExitCode, Error> {
    match stack.verb {
        Verb::Deploy(deploy) => run_deploy(global, &deploy),
        Verb::Plan(plan) => {
            let client = Client::new(global, &plan.at)?;
            let (name, specs) = read(&plan.file.file, plan.stack.as_deref())?;
            let steps = steps(&client, &name, specs, plan.prune, plan.resolve_image)?;
            steps.iter().for_each(|step| println!("{step}"));
            Ok(if steps.iter().any(|step| !matches!(step, Step::Same(_))) {
                ExitCode::from(10)
            } else {
                ExitCode::SUCCESS
            })
        }
        Verb::Config(config) => {
            let (_, specs) = read(&config.file.file, config.stack.as_deref())?;
            print!("{}", serde_yaml_ng::to_string(&specs)?);
            Ok(ExitCode::SUCCESS)
        }
        Verb::Ls(ls) => list(global, &ls),
        Verb::Ps(one) => {
            let client = Client::new(global, &one.at)?;
            let mut views: Vec<InstanceView> = Vec::new();
            for service in services_of(&client, &one.stack)? {
                let path = format!("/v1/instances?service={}", encode(&service.service.spec.name));
                views.extend(client.get::<Vec<InstanceView>>(&path)?);
            }
            print_instances(&one.output, &views)
        }
        Verb::Services(one) => {
            let client = Client::new(global, &one.at)?;
            print_services(&one.output, &services_of(&client, &one.stack)?)
        }
        Verb::Logs(some) => {
            let client = Client::new(global, &some.at)?;
            let names = services_of(&client, &some.stack)?.into_iter().map(|view| view.service.spec.name);
            logs::print(&client, &names.collect::<Vec<_>>(), &some.which)
        }
        Verb::Rm(rm) => remove(global, &rm),
    }
}

/// Reads the file; the stack's name is the argument, else the file's.
fn read(file: &Path, stack: Option<&str>) -> Result<(String, Vec<ServiceSpec>), Error> {
    let (shown, text) = if file.as_os_str() == "-" {
        ("<stdin>".to_owned(), std::io::read_to_string(std::io::stdin())?)
    } else {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Error::new(format!("failed to read {}: {error}", file.display())))?;
        (file.display().to_string(), text)
    };
    let folder = std::path::absolute(
        file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")),
    )?;
    let environment = |name: &str| std::env::var(name).ok();
    let parsed = compose::parse(&shown, &text, stack, &folder, &environment)?;
    parsed.warnings.iter().for_each(|warning| eprintln!("WARNING: {warning}"));
    Ok((parsed.stack, parsed.services))
}

/// What deploying does to one service.
enum Step {
    Create(Box<ServiceSpec>),
    Update(Box<ServiceSpec>, u64),
    Same(String),
    Remove(String),
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Create(spec) => write!(f, "create    {}", spec.name),
            Self::Update(spec, _) => write!(f, "update    {}", spec.name),
            Self::Same(name) => write!(f, "unchanged {name}"),
            Self::Remove(name) => write!(f, "remove    {name}"),
        }
    }
}

/// Gives an image of the file its digest. One that was pinned before and that nobody knows now keeps what it was pinned to.
fn pinned(client: &Client, image: &str, before: Option<&str>, when: ResolveImage) -> Result<String, Error> {
    let tag = |image: &str| image.split('@').next().and_then(|name| name.parse::<oci::Reference>().ok());
    let before = before.filter(|before| before.contains('@') && tag(before) == tag(image));
    match (when, before) {
        (ResolveImage::Changed | ResolveImage::Never, Some(before)) => return Ok(before.to_owned()),
        (ResolveImage::Never, None) => return Ok(image.to_owned()),
        _ => {}
    }
    let pin: PinView = client.get(&format!("/v1/images/pin?image={}", encode(image)))?;
    if let Some(warning) = &pin.warning {
        eprintln!("WARNING: {warning}");
    }
    Ok(before.filter(|_| pin.warning.is_some()).map_or(pin.image, str::to_owned))
}

fn steps(
    client: &Client,
    stack: &str,
    specs: Vec<ServiceSpec>,
    prune: bool,
    when: ResolveImage,
) -> Result<Vec<Step>, Error> {
    let mut there: BTreeMap<String, ServiceView> =
        of_stack(client, stack)?.into_iter().map(|view| (view.service.spec.name.clone(), view)).collect();
    let mut out = Vec::new();
    let mut asked: BTreeMap<(String, Option<String>), String> = BTreeMap::new();
    for mut spec in specs {
        let before = there.get(&spec.name).map(|view| view.service.spec.template.image.clone());
        let key = (spec.template.image.clone(), before);
        spec.template.image = match asked.get(&key) {
            Some(image) => image.clone(),
            None => {
                let image = pinned(client, &key.0, key.1.as_deref(), when)?;
                asked.insert(key, image.clone());
                image
            }
        };
        let Some(view) = there.remove(&spec.name) else {
            out.push(Step::Create(Box::new(spec)));
            continue;
        };
        // Numbers that the mesh chose or that a forced update counted stay.
        let before = &view.service.spec;
        spec.template.force = before.template.force;
        for port in spec.ports.iter_mut().filter(|port| port.published == 0) {
            let same = |old: &&scheduler::service::Port| (old.target, old.protocol) == (port.target, port.protocol);
            port.published = before.ports.iter().find(same).map_or(0, |old| old.published);
        }
        spec.extra.clone_from(&before.extra);
        spec.template.extra.clone_from(&before.template.extra);
        out.push(if spec == *before {
            Step::Same(spec.name)
        } else {
            Step::Update(Box::new(spec), view.service.generation)
        });
    }
    if prune {
        out.extend(there.into_keys().map(Step::Remove));
    }
    Ok(out)
}

fn run_deploy(global: &Global, deploy: &Deploy) -> Result<ExitCode, Error> {
    let client = Client::new(global, &deploy.at)?;
    let (stack, specs) = read(&deploy.file.file, deploy.stack.as_deref())?;
    let steps = steps(&client, &stack, specs, deploy.prune, deploy.resolve_image)?;
    let mut names = Vec::new();
    for step in &steps {
        println!("{step}");
        if deploy.dry_run {
            continue;
        }
        match step {
            Step::Create(spec) => {
                client.send("POST", "/v1/services?resolve=0", &serde_json::to_vec(spec)?)?.json::<ServiceView>()?;
                names.push(spec.name.clone());
            }
            Step::Update(spec, generation) => {
                let path = format!("/v1/services/{}?generation={generation}&resolve=0", encode(&spec.name));
                client.send("PUT", &path, &serde_json::to_vec(spec)?)?.json::<ServiceView>()?;
                names.push(spec.name.clone());
            }
            Step::Same(name) => names.push(name.clone()),
            Step::Remove(name) => {
                client.send("DELETE", &format!("/v1/services/{}", encode(name)), &[])?.json::<Done>()?;
            }
        }
    }
    wait_for(&client, &names, &deploy.wait)
}

fn of_stack(client: &Client, stack: &str) -> Result<Vec<ServiceView>, Error> {
    let mut all: Vec<ServiceView> = client.get("/v1/services")?;
    all.retain(|view| view.service.spec.labels.get(STACK_LABEL).is_some_and(|label| label == stack));
    Ok(all)
}

/// The services of a stack; a stack without any is none.
fn services_of(client: &Client, stack: &str) -> Result<Vec<ServiceView>, Error> {
    let services = of_stack(client, stack)?;
    if services.is_empty() {
        return Err(Error::new(format!("no stack {stack}")).hint("shoal stack ls"));
    }
    Ok(services)
}

fn list(global: &Global, ls: &Ls) -> Result<ExitCode, Error> {
    let all: Vec<ServiceView> = Client::new(global, &ls.at)?.get("/v1/services")?;
    let mut stacks: BTreeMap<String, usize> = BTreeMap::new();
    for view in &all {
        if let Some(stack) = view.service.spec.labels.get(STACK_LABEL) {
            *stacks.entry(stack.clone()).or_default() += 1;
        }
    }
    let entries: Vec<Entry> = stacks
        .iter()
        .map(|(stack, count)| Entry {
            id: stack.clone(),
            name: stack.clone(),
            cells: vec![stack.clone(), count.to_string()],
        })
        .collect();
    let values: Vec<serde_json::Value> =
        stacks.iter().map(|(name, count)| serde_json::json!({"name": name, "services": count})).collect();
    ls.output.print(&["NAME", "SERVICES"], &entries, &values)?;
    Ok(ExitCode::SUCCESS)
}

fn remove(global: &Global, rm: &Rm) -> Result<ExitCode, Error> {
    let client = Client::new(global, &rm.at)?;
    for stack in &rm.stacks {
        for view in services_of(&client, stack)? {
            let name = view.service.spec.name;
            if !rm.dry_run {
                client.send("DELETE", &format!("/v1/services/{}", encode(&name)), &[])?.json::<Done>()?;
            }
            println!("{name}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
