//! `shoal image serve`.

use super::registry_args::block_on;
use crate::commands::Global;
use crate::commands::mesh::client::{At, Client, encode};
use crate::error::Error;
use image::registry::{Registry, Shelf, access::Users, serve};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Be a registry: OCI distribution 1.1 over this store
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen; port 0 picks one and prints it
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:4701",
        env = "SHOAL_REGISTRY_LISTEN",
        hide_env_values = true
    )]
    listen: SocketAddr,
    /// Serve TLS with this certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Ask for user and password; a file made by `htpasswd -B`
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// Never point a tag at another manifest
    #[arg(long)]
    immutable_tags: bool,
    /// Write a line of JSON for every write to this file, or to standard error with `-`
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Refuse every write
    #[arg(long)]
    read_only: bool,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let folder = store.path().join("registry");
    let shelf = Shelf::open(&folder, Arc::new(store))
        .map_err(|error| Error::new(format!("failed to open the registry at {}: {error}", folder.display())))?;
    let users = match &args.htpasswd {
        Some(path) => Some(
            Users::open(path)
                .map_err(|error| Error::new(format!("failed to read the users of {}: {error}", path.display())))?,
        ),
        None => None,
    };
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(serve::tls(certificate, key)?),
        _ => None,
    };
    if users.is_some() && tls.is_none() && !args.listen.ip().is_loopback() {
        eprintln!("shoal: passwords travel unprotected: add --tls-cert and --tls-key");
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut registry = Registry::new(shelf, users, args.read_only)
        .reporting(|cause| eprintln!("shoal: registry: {cause}"))
        .fixed_tags(args.immutable_tags);
    let log = args.access_log.as_deref().map(access_log).transpose()?;
    let tell = teller(Client::new(global, &At::default())?);
    registry = registry.logging(move |line| {
        if let Some(log) = &log {
            log(line);
        }
        if let Some(repository) = pushed(line) {
            tell(repository);
        }
    });
    let registry = Arc::new(registry);
    block_on(async {
        let listener = tokio::net::TcpListener::bind(args.listen)
            .await
            .map_err(|error| Error::new(format!("failed to listen on {}: {error}", args.listen)))?;
        println!("listening on {scheme}://{}/v2/", listener.local_addr()?);
        serve::serve(registry, listener, tls, stopped()).await?;
        Ok(ExitCode::SUCCESS)
    })?
}

/// Repositories that wait to be told of: more pushes than that at once are told of by their first.
const TELLS_MAX: usize = 64;

/// Tells this host's node, if one runs, what was pushed: mirrors that read it look at once instead of in their time.
fn teller(client: Client) -> impl Fn(String) + Send + Sync {
    let (sender, receiver) = std::sync::mpsc::sync_channel::<String>(TELLS_MAX);
    std::thread::spawn(move || {
        while let Ok(repository) = receiver.recv() {
            // Without a node nobody mirrors by it.
            let _ = client.send("POST", &format!("/v1/pushes?repository={}", encode(&repository)), &[]);
        }
    });
    move |repository| {
        let _ = sender.try_send(repository);
    }
}

/// The repository that a line of the log says a manifest was written to.
fn pushed(line: &str) -> Option<String> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    if line["method"] != "PUT" || line["status"] != 201 {
        return None;
    }
    let path = line["path"].as_str()?.strip_prefix("/v2/")?;
    path.rsplit_once("/manifests/").map(|(repository, _)| repository.to_owned())
}

/// Opens the log. A line that cannot be written is said on standard error, and the registry goes on.
fn access_log(path: &Path) -> Result<impl Fn(&str) + Send + Sync + use<>, Error> {
    let file = if path.as_os_str() == "-" {
        None
    } else {
        let file = std::fs::File::options().create(true).append(true).open(path);
        Some(file.map_err(|error| Error::from(error).context(format!("failed to open {}", path.display())))?)
    };
    Ok(move |line: &str| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // `{"client":…}` becomes `{"time":…,"client":…}`: seconds since 1970.
        let line = format!("{{\"time\":{now},{}\n", line.strip_prefix('{').unwrap_or(line));
        let written = match &file {
            Some(file) => {
                let mut file: &std::fs::File = file;
                file.write_all(line.as_bytes())
            }
            None => std::io::stderr().write_all(line.as_bytes()),
        };
        if let Err(error) = written {
            eprintln!("shoal: registry: failed to write the access log: {error}");
        }
    })
}

/// Waits for SIGINT or SIGTERM.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_manifest_is_a_push_and_nothing_else_is() {
        let line = |method: &str, path: &str, status: u16| {
            serde_json::json!({"method": method, "path": path, "status": status}).to_string()
        };
        assert_eq!(pushed(&line("PUT", "/v2/shop/web/manifests/v1", 201)).as_deref(), Some("shop/web"));
        assert_eq!(pushed(&line("PUT", "/v2/shop/web/manifests/v1", 400)), None);
        assert_eq!(pushed(&line("DELETE", "/v2/shop/web/manifests/v1", 201)), None);
        assert_eq!(pushed(&line("PUT", "/v2/shop/web/blobs/uploads/1", 201)), None);
        assert_eq!(pushed("no line"), None);
    }
}
