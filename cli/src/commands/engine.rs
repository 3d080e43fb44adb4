//! The verbs of one host's containers, with docker's spelling: at the top, and again below `shoal container`.

mod attach;
mod container;
mod copy;
mod create;
mod events;
mod exec;
mod flags;
mod info;
mod inspect;
mod lifecycle;
mod logs;
mod ps;
mod run;
mod stats;
mod system;
mod top;
mod update;

use crate::commands::Global;
use crate::error::Error;
use clap::Subcommand;
use engine::{Engine, EngineError, Roots};
use std::io::IsTerminal as _;
use std::process::ExitCode;

/// The verbs of the engine group.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Verb(Verb),
    /// List containers
    Ps(ps::Args),
    /// Look into containers, images, networks and volumes
    Inspect(inspect::Args),
    /// Show what happens
    Events(events::Args),
    /// Show what this engine is and runs on
    Info(info::InfoArgs),
    /// Show the version
    Version(info::VersionArgs),
    /// Manage containers
    #[command(subcommand)]
    Container(container::Container),
    /// Disk usage, pruning, information
    #[command(subcommand)]
    System(system::System),
    /// Health checks
    #[command(subcommand)]
    Healthcheck(Healthcheck),
    /// Write files for other programs
    #[command(subcommand)]
    Generate(system::Generate),
    /// Start what should run after a reboot; for any init system to call
    Boot(system::BootArgs),
}

/// `shoal healthcheck …`
#[derive(Debug, Subcommand)]
pub(crate) enum Healthcheck {
    /// Probe a container's health now: exit code 0 healthy, 1 not
    Run {
        /// The container
        container: String,
    },
}

/// The verbs that also live below `shoal container`.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Run(Box<run::Args>),
    Create(Box<create::Args>),
    Start(attach::StartArgs),
    Stop(lifecycle::StopArgs),
    Restart(lifecycle::RestartArgs),
    Kill(lifecycle::KillArgs),
    Pause(lifecycle::PauseArgs),
    Unpause(lifecycle::UnpauseArgs),
    Rm(lifecycle::RmArgs),
    Wait(lifecycle::WaitArgs),
    Rename(update::RenameArgs),
    Update(update::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Attach(attach::Args),
    Stats(stats::Args),
    Top(top::Args),
    Port(top::PortArgs),
    Cp(copy::CpArgs),
    Diff(copy::DiffArgs),
    Export(copy::ExportArgs),
    Commit(copy::CommitArgs),
}

/// Makes the arguments of a verb.
type Augment = fn(clap::Command) -> clap::Command;

/// The verbs of everyday by themselves.
const EVERYDAY: [(&str, Augment); 25] = [
    ("run", <run::Args as clap::Args>::augment_args),
    ("create", <create::Args as clap::Args>::augment_args),
    ("start", <attach::StartArgs as clap::Args>::augment_args),
    ("stop", <lifecycle::StopArgs as clap::Args>::augment_args),
    ("restart", <lifecycle::RestartArgs as clap::Args>::augment_args),
    ("kill", <lifecycle::KillArgs as clap::Args>::augment_args),
    ("pause", <lifecycle::PauseArgs as clap::Args>::augment_args),
    ("unpause", <lifecycle::UnpauseArgs as clap::Args>::augment_args),
    ("rm", <lifecycle::RmArgs as clap::Args>::augment_args),
    ("wait", <lifecycle::WaitArgs as clap::Args>::augment_args),
    ("rename", <update::RenameArgs as clap::Args>::augment_args),
    ("update", <update::Args as clap::Args>::augment_args),
    ("logs", <logs::Args as clap::Args>::augment_args),
    ("exec", <exec::Args as clap::Args>::augment_args),
    ("attach", <attach::Args as clap::Args>::augment_args),
    ("stats", <stats::Args as clap::Args>::augment_args),
    ("top", <top::Args as clap::Args>::augment_args),
    ("port", <top::PortArgs as clap::Args>::augment_args),
    ("cp", <copy::CpArgs as clap::Args>::augment_args),
    ("diff", <copy::DiffArgs as clap::Args>::augment_args),
    ("export", <copy::ExportArgs as clap::Args>::augment_args),
    ("commit", <copy::CommitArgs as clap::Args>::augment_args),
    ("ps", <ps::Args as clap::Args>::augment_args),
    ("inspect", <inspect::Args as clap::Args>::augment_args),
    ("events", <events::Args as clap::Args>::augment_args),
];

/// The definition of one verb by itself, if it is one of those that are said too often to make all the others first.
pub(crate) fn definition(verb: &str) -> Option<clap::Command> {
    let (name, augment) = EVERYDAY.iter().find(|(name, _)| *name == verb)?;
    Some(augment(clap::Command::new(*name)))
}

/// Runs one verb.
pub(crate) fn run(global: &Global, command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Verb(verb) => run_verb(global, verb),
        Command::Ps(args) => ps::run(global, &args),
        Command::Inspect(args) => inspect::run(global, &args),
        Command::Events(args) => events::run(global, &args),
        Command::Info(args) => info::info(global, &args),
        Command::Version(args) => info::version(&args),
        Command::Container(verb) => container::run(global, verb),
        Command::System(verb) => system::run(global, verb),
        Command::Healthcheck(Healthcheck::Run { container }) => {
            let entry = open(global)?.probe(&container)?;
            // What the container says commands no terminal.
            let output = entry.output.trim_end();
            let terminal = std::io::stdout().is_terminal();
            let shown = |letter: char| if terminal && letter.is_control() && letter != '\n' { '?' } else { letter };
            println!("{}", output.chars().map(shown).collect::<String>());
            Ok(ExitCode::from(u8::from(entry.exit_code != 0)))
        }
        Command::Generate(verb) => system::generate(global, &verb),
        Command::Boot(args) => system::boot(global, &args),
    }
}

pub(crate) fn run_verb(global: &Global, verb: Verb) -> Result<ExitCode, Error> {
    match verb {
        Verb::Run(args) => run::run(global, *args),
        Verb::Create(args) => create::run(global, *args),
        Verb::Start(args) => attach::start(global, &args),
        Verb::Stop(args) => lifecycle::stop(global, &args),
        Verb::Restart(args) => lifecycle::restart(global, &args),
        Verb::Kill(args) => lifecycle::kill(global, &args),
        Verb::Pause(args) => lifecycle::pause(global, &args),
        Verb::Unpause(args) => lifecycle::unpause(global, &args),
        Verb::Rm(args) => lifecycle::rm(global, &args),
        Verb::Wait(args) => lifecycle::wait(global, &args),
        Verb::Rename(args) => update::rename(global, &args),
        Verb::Update(args) => update::run(global, &args),
        Verb::Logs(args) => logs::run(global, &args),
        Verb::Exec(args) => exec::run(global, args),
        Verb::Attach(args) => attach::run(global, &args),
        Verb::Stats(args) => stats::run(global, &args),
        Verb::Top(args) => top::run(global, &args),
        Verb::Port(args) => top::port(global, &args),
        Verb::Cp(args) => copy::cp(global, &args),
        Verb::Diff(args) => copy::diff(global, &args),
        Verb::Export(args) => copy::export(global, &args),
        Verb::Commit(args) => copy::commit(global, &args),
    }
}

/// Opens the engine of these roots.
pub(crate) fn open(global: &Global) -> Result<Engine, Error> {
    let roots = Roots::from_option(global.root.as_deref())?;
    Engine::open(&roots).map_err(explain)
}

/// Goes into the namespaces in which a user without root's rights is root. Before any thread is started.
pub(crate) fn enter_rootless(global: &Global) -> Result<(), Error> {
    if engine::roots::rootless().is_none() {
        return Ok(());
    }
    let roots = Roots::from_option(global.root.as_deref())?;
    let monitor = Engine::open(&roots).and_then(|engine| engine.monitor()).map_err(explain)?;
    let warnings = engine::host::rootless::enter(&roots, &monitor).map_err(|error| {
        explain(error).hint("a kernel may refuse user namespaces to users: see kernel.unprivileged_userns_clone")
    })?;
    warn(&warnings);
    Ok(())
}

/// Turns an engine's failure into a message with the next command to try.
pub(crate) fn explain(error: EngineError) -> Error {
    let hint = match &error {
        EngineError::NoSuchContainer { similar: Some(name), .. } => Some(format!("did you mean {name:?}?")),
        EngineError::NoSuchContainer { .. } => Some("`shoal ps -a` lists containers".to_owned()),
        EngineError::NameTaken { name, .. } => {
            Some(format!("remove it with `shoal rm -f {name}`, rename it, or use another name"))
        }
        EngineError::NoSource { path } => {
            Some(format!("make it with `mkdir -p {path}`, or bind it with `-v {path}:…`, which makes it"))
        }
        EngineError::Image { missing: true, .. } => {
            Some("`shoal images` lists images; `shoal pull` fetches one".to_owned())
        }
        _ => None,
    };
    let error = Error::from(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Does one thing for each name; goes on after a failure. Prints each name, or what `act` returns.
pub(crate) fn each(
    names: &[String],
    mut act: impl FnMut(&str) -> Result<Option<String>, EngineError>,
) -> Result<ExitCode, Error> {
    let mut failed = false;
    for name in names {
        failed |= !told(act(name));
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// Prints what was done for one name, or why not; whether it was done.
fn told(result: Result<Option<String>, EngineError>) -> bool {
    match result {
        Ok(Some(text)) => println!("{text}"),
        Ok(None) => {}
        Err(error) => {
            explain(error).report();
            return false;
        }
    }
    true
}

/// How many things are done at once: most of the time each is waited for. A removal may hold some sixty descriptors.
const AT_ONCE_MAX: usize = 12;

/// As [`each`], several at once; what is printed keeps the order of the names.
pub(crate) fn each_at_once(
    names: &[String],
    act: impl Fn(&str) -> Result<Option<String>, EngineError> + Sync,
) -> Result<ExitCode, Error> {
    let mut failed = false;
    let next = std::sync::atomic::AtomicUsize::new(0);
    let (done, results) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..names.len().min(AT_ONCE_MAX) {
            let (done, next, act) = (done.clone(), &next, &act);
            scope.spawn(move || {
                while let Some((at, name)) = {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    names.get(at).map(|name| (at, name))
                } {
                    // Nobody listens only when this command is over.
                    done.send((at, act(name))).ok();
                }
            });
        }
        drop(done);
        let (mut waiting, mut printed) = (std::collections::BTreeMap::new(), 0);
        for (at, result) in results {
            waiting.insert(at, result);
            while let Some(result) = waiting.remove(&printed) {
                printed += 1;
                failed |= !told(result);
            }
        }
    });
    Ok(ExitCode::from(u8::from(failed)))
}

/// Prints warnings on stderr.
pub(crate) fn warn(warnings: &[String]) {
    for warning in warnings {
        eprintln!("WARNING: {warning}");
    }
}
