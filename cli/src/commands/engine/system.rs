//! `system df`, `system prune`, `system info`; `generate systemd`; `boot`.

use super::container::{confirmed, prune};
use super::{explain, info, open, ps};
use crate::commands::Global;
use crate::error::Error;
use crate::output::table::aligned;
use clap::Subcommand;
use engine::record::Status;
use engine::restart::Policy;
use engine::wish::human_decimal;
use std::process::ExitCode;

/// `shoal system …`
#[derive(Debug, Subcommand)]
pub(crate) enum System {
    /// Show disk usage
    Df,
    /// Remove containers that do not run, networks and images that nobody uses
    Prune(PruneArgs),
    /// Show what this engine is and runs on
    Info(info::InfoArgs),
}

/// Remove containers that do not run, networks and images that nobody uses
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Every image that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Volumes without a name, too
    #[arg(long)]
    volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only these: label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// `shoal generate …`
#[derive(Debug, Subcommand)]
pub(crate) enum Generate {
    /// Print the AppArmor profile of containers, for `apparmor_parser -r`
    Apparmor,
    /// Write a systemd unit that starts and stops a container
    Systemd {
        /// The container
        container: String,
    },
}

/// Start what should run after a reboot; for any init system to call
#[derive(Debug, clap::Args)]
pub(crate) struct BootArgs {}

pub(crate) fn run(global: &Global, verb: System) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    match verb {
        System::Info(args) => info::info(global, &args),
        System::Prune(args) => prune_all(global, &engine, &args),
        System::Df => {
            let (containers, _) = engine.all().map_err(explain)?;
            let images = engine.images().map_err(explain)?.images()?;
            let used = |id: &str| containers.iter().any(|container| container.record.image_id == id);
            let size =
                |container: &engine::Container| engine.upper(container).map_or(0, |upper| ps::folder_bytes(&upper));
            let active = containers.iter().filter(|container| container.state.status.is_active()).count();
            let (image_bytes, idle) = image_bytes(&images, used);
            let bytes: u64 = containers.iter().map(size).sum();
            let free: u64 = containers.iter().filter(|container| !container.state.status.is_active()).map(size).sum();
            let volumes = engine.volumes();
            let mut local = (0, 0, 0, 0);
            for volume in volumes.list().map_err(|error| Error::new(error.to_string()))? {
                let bytes = ps::folder_bytes(&engine.roots().data.join("volumes").join(&volume.name).join("_data"));
                let idle = volumes.users(&volume.name).map_err(|error| Error::new(error.to_string()))?.is_empty();
                local = (
                    local.0 + 1,
                    local.1 + usize::from(!idle),
                    local.2 + bytes,
                    local.3 + if idle { bytes } else { 0 },
                );
            }
            let (volume_count, volumes_used, volume_bytes, volumes_idle) = local;
            let row = |cells: [String; 5]| cells.to_vec();
            let used_images = images.iter().filter(|image| used(&image.id.to_string())).count();
            print!(
                "{}",
                aligned(&[
                    row(["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"].map(str::to_owned)),
                    row([
                        "Images".into(),
                        images.len().to_string(),
                        used_images.to_string(),
                        human_decimal(image_bytes),
                        reclaimable(idle, image_bytes)
                    ]),
                    row([
                        "Containers".into(),
                        containers.len().to_string(),
                        active.to_string(),
                        human_decimal(bytes),
                        reclaimable(free, bytes)
                    ]),
                    row([
                        "Local Volumes".into(),
                        volume_count.to_string(),
                        volumes_used.to_string(),
                        human_decimal(volume_bytes),
                        reclaimable(volumes_idle, volume_bytes)
                    ]),
                ])
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Bytes of all images, and of what only images have that nothing uses; a blob of several images counts once.
fn image_bytes(images: &[image::ImageRecord], used: impl Fn(&str) -> bool) -> (u64, u64) {
    let mut blobs = std::collections::BTreeMap::new();
    for image in images {
        let used = used(&image.id.to_string());
        for blob in image.layers.iter().chain([&image.config, &image.manifest]) {
            let (_, needed) = blobs.entry(blob.digest).or_insert((blob.size, false));
            *needed |= used;
        }
    }
    let idle = blobs.values().filter(|(_, needed)| !needed).map(|(size, _)| size).sum();
    (blobs.values().map(|(size, _)| size).sum(), idle)
}

/// What could be freed, as docker writes it.
fn reclaimable(bytes: u64, of: u64) -> String {
    if of == 0 {
        return human_decimal(bytes);
    }
    format!("{} ({}%)", human_decimal(bytes), u128::from(bytes) * 100 / u128::from(of))
}

fn prune_all(global: &Global, engine: &engine::Engine, args: &PruneArgs) -> Result<ExitCode, Error> {
    if args.volumes && args.filter.iter().any(|filter| filter.starts_with("until=")) {
        return Err(Error::new("the \"until\" filter is not supported with \"--volumes\"").code(2));
    }
    if let Some(filter) =
        args.filter.iter().find(|text| !["label=", "label!=", "until="].iter().any(|known| text.starts_with(known)))
    {
        return Err(Error::new(format!("invalid filter '{filter}'"))
            .hint("label=, label!= and until= are known")
            .code(2));
    }
    let mut what =
        "This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n"
            .to_owned();
    if args.volumes {
        what.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    what.push_str(if args.all {
        "  - all images without at least one container associated to them\n"
    } else {
        "  - all dangling images\n"
    });
    for filter in &args.filter {
        what.push_str(&format!("\n  Items to be pruned will be filtered with: {filter}\n"));
    }
    if !args.force && !confirmed(&what)? {
        return Ok(ExitCode::FAILURE);
    }
    let (removed, mut bytes) = prune(engine, &args.filter)?;
    if !removed.is_empty() {
        println!("Deleted Containers:\n{}\n", removed.join("\n"));
    }
    crate::commands::network::prune_networks(engine, &args.filter)?;
    if args.volumes {
        bytes += crate::commands::network::prune_volumes(engine, &args.filter)?;
    }
    bytes += crate::commands::image::prune_for_system(global, args.all, &args.filter)?;
    println!("Total reclaimed space: {}", human_decimal(bytes));
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn generate(global: &Global, verb: &Generate) -> Result<ExitCode, Error> {
    let Generate::Systemd { container } = verb else {
        print!("{}", engine::lsm::APPARMOR_PROFILE);
        return Ok(ExitCode::SUCCESS);
    };
    let engine = open(global)?;
    let container = engine.find(container).map_err(explain)?;
    let own = std::env::current_exe()?;
    let root = global.root.as_ref().map_or(String::new(), |root| format!(" --root {}", root.display()));
    let policy = match container.record.wish.restart {
        Policy::No => "no",
        Policy::OnFailure { .. } => "on-failure",
        Policy::Always | Policy::UnlessStopped => "always",
    };
    let (program, name) = (own.display(), container.name());
    let (wait, patience) = match container.record.wish.stop_timeout.unwrap_or(engine::STOP_TIMEOUT_S) {
        engine::wish::FOR_EVER => ("-1".to_owned(), "infinity".to_owned()),
        seconds => (seconds.to_string(), seconds.saturating_add(60).to_string()),
    };
    print!(
        "# container-{name}.service\n[Unit]\nDescription=shoal container {name}\nWants=network-online.target\nAfter=network-online.target\nRequiresMountsFor={}\n\n[Service]\nType=simple\nRestart={policy}\nKillMode=none\nTimeoutStopSec={patience}\nExecStart={program}{root} start --attach {name}\nExecStop={program}{root} stop -t {wait} {name}\n\n[Install]\nWantedBy=default.target\n",
        engine.roots().data.display(),
    );
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn boot(global: &Global, _args: &BootArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let (containers, damaged) = engine.all().map_err(explain)?;
    for container in damaged {
        eprintln!("WARNING: container {container}");
    }
    let mut failed = false;
    for container in containers.iter().rev() {
        let state = &container.state;
        let wanted = match container.record.wish.restart {
            Policy::Always => true,
            Policy::UnlessStopped => !state.stopped_by_hand,
            // As docker: it is for failures of the container, and a restart of the host is none.
            Policy::OnFailure { .. } | Policy::No => false,
        };
        if container.record.wish.remove && state.status == Status::Exited {
            // Its monitor would have taken it away, had it lived.
            if let Err(error) = engine.cleanup(container.id()) {
                explain(error).report();
                failed = true;
            }
            continue;
        }
        if !wanted || state.status.is_active() || state.started == 0 {
            continue;
        }
        match engine.start(container.id()) {
            Ok(warnings) => {
                super::warn(&warnings);
                println!("{}", container.name());
            }
            Err(error) => {
                explain(error).report();
                failed = true;
            }
        }
    }
    Ok(ExitCode::from(u8::from(failed)))
}
