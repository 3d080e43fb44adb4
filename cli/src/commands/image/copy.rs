//! `shoal image copy`.

use super::registry_args::{ProgressArgs, RegistryArgs, block_on, policy};
use crate::commands::Global;
use crate::error::Error;
use crate::progress::Reporter;
use image::copy::{CopyOptions, Place, copy};
use image::pull::PullOptions;
use image::push::PushOptions;
use image::remote::auth::Credentials;
use image::remote::transport::{Identity, Limits};
use oci::{Platform, Reference};
use std::path::PathBuf;
use std::process::ExitCode;

/// Copy an image between registries, layouts, archives, directories and the store
///
/// Places: docker://NAME[:TAG], oci:DIRECTORY[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], dir:DIRECTORY,
/// and a name alone for an image of the store.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the image is
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where it goes
    #[arg(value_name = "DESTINATION")]
    destination: String,
    /// Copy every platform of an index
    #[arg(short, long)]
    all: bool,
    /// Copy this platform of an index [default: this host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", conflicts_with = "all")]
    platform: Option<Platform>,
    /// Copy signatures, SBOMs and whatever else refers to the image too
    #[arg(long)]
    referrers: bool,
    /// Credentials of the source
    #[arg(long, value_name = "USER:PASSWORD")]
    src_creds: Option<String>,
    /// Credentials of the destination
    #[arg(long, value_name = "USER:PASSWORD")]
    dest_creds: Option<String>,
    /// Judge signatures by this containers policy.json [default: the user's, then /etc/containers/policy.json]
    #[arg(long, value_name = "FILE")]
    signature_policy: Option<PathBuf>,
    /// Write the digest to this file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let (from, to): (Place, Place) = (args.source.parse()?, args.destination.parse()?);
    if let (Place::Registry(from), Place::Registry(to)) = (&from, &to) {
        one_side(&args.registry, (from, args.src_creds.is_some()), (to, args.dest_creds.is_some()))?;
    }
    let identity = sided(&args.registry, args.src_creds.as_deref());
    let options = CopyOptions {
        from: PullOptions {
            platform: args.platform.clone(),
            all_platforms: args.all,
            config: args.registry.config()?,
            identity,
            limits: Limits::default(),
            policy: policy(args.signature_policy.as_ref())?,
        },
        to: PushOptions {
            config: args.registry.config()?,
            identity: sided(&args.registry, args.dest_creds.as_deref()),
            limits: Limits::default(),
        },
        all: args.all,
        referrers: args.referrers,
    };
    let reporter = Reporter::new(args.progress.progress, args.progress.quiet, "Copied");
    let outcome = block_on(copy(&store, &from, &to, &options, &reporter))?;
    let (digest, _) = outcome.map_err(|error| {
        let hint = error.hint();
        let error = Error::from(error);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })?;
    if let Some(path) = &args.digestfile {
        std::fs::write(path, digest.to_string())?;
    }
    println!("{digest}");
    Ok(ExitCode::SUCCESS)
}

/// Refuses `--creds` for two registries: each would see what is meant for the other.
pub(crate) fn one_side(
    registry: &RegistryArgs,
    (from, from_own): (&Reference, bool),
    (to, to_own): (&Reference, bool),
) -> Result<(), Error> {
    if registry.creds.is_some() && !from_own && !to_own && from.registry() != to.registry() {
        let names = (from.registry(), to.registry());
        return Err(Error::new(format!(
            "--creds (SHOAL_REGISTRY_CREDS) would be shown to both {} and {}",
            names.0, names.1
        ))
        .hint("say whose they are: --src-creds USER:PASSWORD, --dest-creds USER:PASSWORD")
        .code(2));
    }
    Ok(())
}

/// The identity of one side: its own credentials win over those of the command.
pub(crate) fn sided(registry: &RegistryArgs, own: Option<&str>) -> Identity {
    let mut identity = registry.identity();
    if let Some(pair) = own {
        identity.explicit = Some(Credentials::from_pair(pair));
    }
    identity
}
