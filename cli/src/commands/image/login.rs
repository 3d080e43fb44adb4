//! `shoal login`.

use super::registry_args::{RegistryArgs, block_on, environment};
use crate::commands::Global;
use crate::error::Error;
use image::remote::auth::{AuthFile, Credentials};
use image::remote::client::Repository;
use image::remote::transport::{Identity, Limits, Transport};
use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

/// Check credentials with a registry and store them
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    server: String,
    /// The user
    #[arg(short, long)]
    username: Option<String>,
    /// The password; visible to other processes, so better --password-stdin
    #[arg(short, long, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from stdin
    #[arg(long, requires = "username")]
    password_stdin: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

pub(crate) fn run(_global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let server = host(&args.server);
    let user = match &args.username {
        Some(user) => user.clone(),
        None => ask("Username: ")?,
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => {
            let mut text = String::new();
            std::io::stdin().take(64 << 10).read_to_string(&mut text)?;
            text.trim_end_matches(['\n', '\r']).to_owned()
        }
        None => secret("Password: ")?,
    };
    if user.is_empty() || password.is_empty() {
        return Err(Error::new("user and password must not be empty").code(2));
    }
    let credentials = Credentials::Basic { user: user.clone(), password: password.clone() };
    let identity = Identity { explicit: Some(credentials), files: Vec::new() };
    let transport = Arc::new(Transport::new(args.registry.config()?, identity, Limits::default()));
    block_on(async { Repository::open(transport, &server, "", true)?.ping().await })??;
    let file = AuthFile::pick_for(&server, args.registry.authfile.as_deref(), environment);
    file.store(&server, &user, &password)?;
    println!("Login Succeeded");
    Ok(ExitCode::SUCCESS)
}

/// `https://index.docker.io/v1/` and `docker.io` are one registry; a scheme and a path are not part of its name.
pub(crate) fn host(text: &str) -> String {
    let text = text.trim_start_matches("https://").trim_start_matches("http://");
    let host = text.split('/').next().unwrap_or(text);
    if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io".to_owned() } else { host.to_owned() }
}

fn ask(prompt: &str) -> Result<String, Error> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::new("there is no terminal to ask on")
            .hint("shoal login -u USER --password-stdin REGISTRY")
            .code(2));
    }
    eprint!("{prompt}");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Asks without echo.
fn secret(prompt: &str) -> Result<String, Error> {
    let stdin = std::io::stdin();
    let before = nix::sys::termios::tcgetattr(&stdin).ok();
    if let Some(before) = &before {
        let mut silent = before.clone();
        silent.local_flags.remove(nix::sys::termios::LocalFlags::ECHO);
        nix::sys::termios::tcsetattr(&stdin, nix::sys::termios::SetArg::TCSAFLUSH, &silent)?;
    }
    let answer = ask(prompt);
    if let Some(before) = before {
        nix::sys::termios::tcsetattr(&stdin, nix::sys::termios::SetArg::TCSAFLUSH, &before)?;
        eprintln!();
    }
    answer
}
