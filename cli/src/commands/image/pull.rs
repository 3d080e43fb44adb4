//! `shoal pull`.

use super::registry_args::{ProgressArgs, RegistryArgs, block_on, policy};
use crate::commands::Global;
use crate::error::Error;
use crate::progress::Reporter;
use image::pull::PullOptions;
use image::remote::transport::Limits;
use oci::{Platform, Reference};
use std::path::PathBuf;
use std::process::ExitCode;

/// Download an image and name it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// NAME[:TAG][@DIGEST]
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Choose this platform of an index [default: this host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", env = "DOCKER_DEFAULT_PLATFORM", hide_env_values = true)]
    platform: Option<Platform>,
    /// Download every platform of an index
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Download every tag of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Judge signatures by this containers policy.json [default: the user's, then /etc/containers/policy.json]
    #[arg(long, value_name = "FILE")]
    signature_policy: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let config = args.registry.config()?;
    let options = PullOptions {
        platform: args.platform.clone(),
        all_platforms: args.all_platforms,
        identity: args.registry.identity(),
        limits: Limits::default(),
        policy: policy(args.signature_policy.as_ref())?,
        config,
    };
    let names = candidates(&args.image, &options)?;
    let reporter = Reporter::new(args.progress.progress, args.progress.quiet, "Pull complete");
    block_on(async {
        if args.all_tags {
            let reference = &names[0];
            let transport = image::remote::transport::Transport::new(
                options.config.clone(),
                options.identity.clone(),
                options.limits,
            );
            let repository = image::remote::client::Repository::open(
                std::sync::Arc::new(transport),
                reference.registry(),
                reference.repository(),
                false,
            )?;
            for tag in repository.tags().await? {
                let reference = reference.with_tag(&tag)?;
                one(&store, &reference, &options, &reporter, args.progress.quiet).await?;
                super::happened(global, "pull", reference.familiar(), reference.familiar_name());
            }
            return Ok(ExitCode::SUCCESS);
        }
        let mut failure = None;
        for reference in &names {
            match one(&store, reference, &options, &reporter, args.progress.quiet).await {
                Ok(()) => {
                    super::happened(global, "pull", reference.familiar(), reference.familiar_name());
                    return Ok(ExitCode::SUCCESS);
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::new(format!("{} names no image", args.image))))
    })?
}

async fn one(
    store: &image::Store,
    reference: &Reference,
    options: &PullOptions,
    reporter: &Reporter,
    quiet: bool,
) -> Result<(), Error> {
    use image::progress::{Event, Progress as _};
    let before = store.image(reference).ok().flatten().map(|image| image.target.digest);
    let tag = reference.identifier();
    reporter.event(Event::Message(&format!("{tag}: Pulling from {}", reference.repository())));
    let image = image::pull::pull_ready(store, reference, options, reporter).await.map_err(|error| {
        let hint = error.hint();
        let error = Error::from(error);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })?;
    if let (Some(wanted), Ok(Some(is))) = (&options.platform, store.platform(&image))
        && wanted.rank(&is).is_none()
    {
        eprintln!("shoal: {} is an image for {is}, not for {wanted}: there is no other", reference.familiar());
    }
    if !quiet {
        println!("Digest: {}", image.target.digest);
        let newer = before != Some(image.target.digest);
        let status = if newer { "Downloaded newer image" } else { "Image is up to date" };
        println!("Status: {status} for {}", reference.familiar());
    }
    println!("{reference}");
    Ok(())
}

/// What a name may mean: itself when it names a registry, else the aliases and search registries of `registries.conf`.
fn candidates(text: &str, options: &PullOptions) -> Result<Vec<Reference>, Error> {
    let reference: Reference = text.parse()?;
    if oci::reference::names_registry(text) {
        return Ok(vec![reference]);
    }
    let name = text.split(['@', ':']).next().unwrap_or(text);
    let rest = &text[name.len()..];
    let found = options.config.search(name);
    if found.is_empty() {
        return Ok(vec![reference]);
    }
    found.iter().map(|full| format!("{full}{rest}").parse().map_err(Error::from)).collect()
}
