//! Waiting until services are as wanted: by default on a terminal, never with `--detach`.

use crate::commands::Global;
use crate::commands::mesh::client::{At, Client, encode};
use crate::error::Error;
use clap::Args;
use scheduler::model::RolloutState;
use scheduler::node::api::view::ServiceView;
use scheduler::quantity::parse_duration_ms;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a service must be as wanted before it counts.
const STEADY: Duration = Duration::from_secs(2);

/// Flags of every verb that changes services.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Wait {
    /// Wait until it is as wanted (the default on a terminal)
    #[arg(long)]
    pub(crate) wait: bool,
    /// Do not wait
    #[arg(short, long, conflicts_with = "wait")]
    pub(crate) detach: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub(crate) wait_timeout: String,
}

/// `shoal service wait`
#[derive(Debug, Args)]
pub(crate) struct WaitFor {
    /// The services
    #[arg(required = true)]
    services: Vec<String>,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    wait_timeout: String,
    #[command(flatten)]
    at: At,
}

/// Waits.
pub(crate) fn run(global: &Global, wait: &WaitFor) -> Result<ExitCode, Error> {
    let client = Client::new(global, &wait.at)?;
    let how = Wait { wait: true, detach: false, wait_timeout: wait.wait_timeout.clone() };
    wait_for(&client, &wait.services, &how)
}

/// Waits for services when the flags or the terminal ask for it. Exit code 4 when time runs out.
pub(crate) fn wait_for(client: &Client, names: &[String], wait: &Wait) -> Result<ExitCode, Error> {
    let wanted = wait.wait || (!wait.detach && std::io::stdout().is_terminal());
    if !wanted {
        return Ok(ExitCode::SUCCESS);
    }
    let deadline = Instant::now() + Duration::from_millis(parse_duration_ms(&wait.wait_timeout)?);
    for name in names {
        let mut shown = String::new();
        let (mut since, mut paused): (Option<Instant>, Option<Instant>) = (None, None);
        loop {
            let view: ServiceView = client.get(&format!("/v1/services/{}", encode(name)))?;
            let line = progress(&view);
            if line != shown {
                eprintln!("{name}: {line}");
                shown = line;
            }
            match view.rollout.as_ref().map(|rollout| rollout.state) {
                // What the change before this one ended with may be all that the node has seen yet.
                Some(RolloutState::Paused | RolloutState::RollbackPaused)
                    if paused.get_or_insert_with(Instant::now).elapsed() < STEADY => {}
                Some(state @ (RolloutState::Paused | RolloutState::RollbackPaused)) => {
                    let message = view.rollout.map(|rollout| rollout.message).unwrap_or_default();
                    return Err(Error::new(format!("{name}: {}: {message}", state_word(state)))
                        .hint(format!("why: shoal service explain {name}")));
                }
                Some(RolloutState::Updating | RolloutState::RollbackStarted) => (since, paused) = (None, None),
                // One that starts and ends at once is as wanted for a moment each time.
                _ if view.converged() => {
                    if since.get_or_insert_with(Instant::now).elapsed() >= STEADY {
                        break;
                    }
                }
                _ => since = None,
            }
            if Instant::now() > deadline {
                return Err(Error::new(format!("{name} is not as wanted after {}: {shown}", wait.wait_timeout))
                    .hint(format!("why: shoal service explain {name}"))
                    .code(4));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn progress(view: &ServiceView) -> String {
    let mut line = format!("{}/{} running", view.current, view.wanted);
    if view.running > view.current {
        line.push_str(&format!(", {} more", view.running - view.current));
    }
    if let Some(rollout) = &view.rollout {
        line.push_str(&format!(", {}", state_word(rollout.state)));
    }
    if let Some(why) = &view.no_fit {
        line.push_str(&format!(", {why}"));
    }
    line
}

/// Docker's word for a state of an update.
pub(crate) fn state_word(state: RolloutState) -> &'static str {
    match state {
        RolloutState::Updating => "updating",
        RolloutState::Paused => "paused",
        RolloutState::Completed => "completed",
        RolloutState::RollbackStarted => "rollback_started",
        RolloutState::RollbackPaused => "rollback_paused",
        RolloutState::RollbackCompleted => "rollback_completed",
    }
}
