//! Flags of every verb that talks to a registry, and what they mean for the client.

use crate::error::Error;
use crate::progress::Mode;
use clap::{ArgAction, Args};
use image::policy::Policy;
use image::remote::auth::{self, Credentials};
use image::remote::config::Config;
use image::remote::transport::Identity;
use std::path::PathBuf;

/// Flags of every verb that talks to a registry.
#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    /// Read credentials from this file [default: $REGISTRY_AUTH_FILE, containers' auth.json, ~/.docker/config.json]
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
    /// Use these credentials
    #[arg(long, value_name = "USER:PASSWORD", env = "SHOAL_REGISTRY_CREDS", hide_env_values = true)]
    pub(crate) creds: Option<String>,
    /// Verify certificates and refuse plain HTTP (loopback excepted)
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) tls_verify: bool,
    /// Look for certificates and hosts.toml below this folder first (DIR/HOST[:PORT]/…)
    #[arg(long, value_name = "DIR")]
    pub(crate) cert_dir: Option<PathBuf>,
}

/// Flags of progress.
#[derive(Debug, Args)]
pub(crate) struct ProgressArgs {
    /// Print only the result
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) progress: Mode,
}

impl RegistryArgs {
    /// What the host's files and these flags say about registries.
    pub(crate) fn config(&self) -> Result<Config, Error> {
        let mut config = Config::load(environment)?;
        config.insecure = !self.tls_verify;
        if let Some(folder) = &self.cert_dir {
            config.certs_folder(folder);
        }
        Ok(config)
    }

    /// Who we are.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            explicit: self.creds.as_deref().map(Credentials::from_pair),
            files: auth::default_files(self.authfile.as_deref(), environment),
        }
    }
}

/// The signature policy: `explicit`, else the host's.
pub(crate) fn policy(explicit: Option<&PathBuf>) -> Result<Option<Policy>, Error> {
    Ok(match explicit {
        Some(path) => Some(Policy::read(path)?),
        None => Policy::of_host(environment)?,
    })
}

/// A variable of the environment, unless empty.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs a future on a runtime of two threads: one may hash or write while the other receives.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8))
        .enable_all()
        .build()
        .map_err(|error| Error::new(format!("failed to start the network runtime: {error}")))?;
    Ok(runtime.block_on(future))
}
