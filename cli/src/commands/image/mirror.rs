//! `shoal image mirror`: once between two repositories, or standing, kept by the mesh.

mod standing;

use super::copy::{one_side, sided};
use super::registry_args::{ProgressArgs, RegistryArgs, block_on, policy};
use crate::commands::Global;
use crate::error::Error;
use crate::progress::Reporter;
use image::copy::{CopyOptions, Place};
use image::mirror::{MirrorOptions, Outcome, mirror};
use image::pull::PullOptions;
use image::push::PushOptions;
use image::remote::transport::Limits;
use oci::{Platform, Reference};
use std::process::ExitCode;

/// Keep the tags of a repository equal somewhere else: once, or for as long as the mesh is told to (`add`)
#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    standing: Option<standing::Verb>,
    /// The repository to read
    #[arg(value_name = "SOURCE", required = true)]
    source: Option<String>,
    /// The repository to write
    #[arg(value_name = "DESTINATION", required = true)]
    destination: Option<String>,
    /// Only this host's platform of an index
    #[arg(long)]
    only_platform: Option<Platform>,
    /// Every platform and everything that refers to an image (signatures, SBOMs)
    #[arg(short, long)]
    all: bool,
    /// Only tags that match this glob; may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// No tag that matches this glob; may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Use at most this many bytes a second in each direction (K, M and G are understood)
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    bandwidth: Option<u64>,
    /// Say what would be copied
    #[arg(long)]
    dry_run: bool,
    /// Credentials of the source
    #[arg(long, value_name = "USER:PASSWORD")]
    src_creds: Option<String>,
    /// Credentials of the destination
    #[arg(long, value_name = "USER:PASSWORD")]
    dest_creds: Option<String>,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    if let Some(verb) = &args.standing {
        return standing::run(global, verb);
    }
    let (Some(from), Some(to)) = (&args.source, &args.destination) else {
        return Err(Error::new("a source and a destination are needed").code(2));
    };
    let (from, to) = (repository(from)?, repository(to)?);
    let store = super::open_store(global)?;
    one_side(&args.registry, (&from, args.src_creds.is_some()), (&to, args.dest_creds.is_some()))?;
    let limits = Limits { bandwidth: args.bandwidth, ..Limits::default() };
    let options = MirrorOptions {
        copy: CopyOptions {
            from: PullOptions {
                platform: args.only_platform.clone(),
                all_platforms: args.only_platform.is_none(),
                config: args.registry.config()?,
                identity: sided(&args.registry, args.src_creds.as_deref()),
                limits,
                policy: policy(None)?,
            },
            to: PushOptions {
                config: args.registry.config()?,
                identity: sided(&args.registry, args.dest_creds.as_deref()),
                limits,
            },
            all: args.only_platform.is_none(),
            referrers: args.all,
        },
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        dry_run: args.dry_run,
    };
    let reporter = Reporter::new(args.progress.progress, args.progress.quiet, "Copied");
    let outcomes = block_on(mirror(&store, &from, &to, &options, &reporter))??;
    let (mut failed, mut bytes) = (0, 0);
    for (tag, outcome) in &outcomes {
        match outcome {
            Outcome::Equal(digest) => println!("{tag} {digest} equal"),
            Outcome::Copied(digest, copied) => {
                bytes += copied.bytes;
                println!("{tag} {digest} {} {}", if args.dry_run { "missing" } else { "copied" }, copied.bytes);
            }
            Outcome::Failed(reason) => {
                failed += 1;
                println!("{tag} - failed {reason}");
            }
        }
    }
    eprintln!("{} tags, {bytes} bytes{}", outcomes.len(), if args.dry_run { " to copy" } else { "" });
    if failed > 0 {
        let all = failed == outcomes.len();
        return Err(Error::new(format!("{failed} of {} tags failed", outcomes.len())).code(if all { 1 } else { 3 }));
    }
    Ok(ExitCode::SUCCESS)
}

fn repository(text: &str) -> Result<Reference, Error> {
    let text = if text.contains("://") { text.to_owned() } else { format!("docker://{text}") };
    match text.parse()? {
        Place::Registry(reference) => Ok(reference),
        _ => Err(Error::new(format!("{text} is not a repository of a registry")).code(2)),
    }
}

/// Reads `100`, `512K`, `10M`, `1G` (powers of 1024).
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| "write a number of bytes, such as 10M".to_owned())?;
    number
        .checked_mul(factor)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "it must be more than 0 and less than 2^64".to_owned())
}
