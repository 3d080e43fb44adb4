//! One file a command (or a family of them); what they share is here.

mod batch;
mod checkpoint;
mod create;
mod delete;
mod exec;
mod features;
mod freeze;
mod inspect;
mod limits;
mod mounts;
mod run;
mod spec;

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::ValueExt;
use oci::ContainerId;
use runtime::host::state::Root;
use runtime::report::Report;

use crate::args::Global;
use crate::log::Log;
use crate::usage::{GLOBAL, Usage, Wrong};

/// The error that ends a command, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What is said.
    pub error: String,
    /// The exit code: 1, as runc's, unless a command says otherwise.
    pub code: u8,
    /// What a program needs to know, for `--log-format json`.
    pub report: Box<Report>,
}

impl Failure {
    /// A wrong command line.
    pub(crate) fn usage(error: impl Into<String>) -> Self {
        Self { error: error.into(), code: 1, report: Box::new(Report::command_line()) }
    }
}

impl From<runtime::Error> for Failure {
    fn from(error: runtime::Error) -> Self {
        Self { error: error.to_string(), code: 1, report: Box::new(Report::from(&error)) }
    }
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<oci::container_id::ContainerIdError> for Failure {
    fn from(error: oci::container_id::ContainerIdError) -> Self {
        Self::usage(error.to_string())
    }
}

/// What a command gets.
pub(crate) struct Context<'a> {
    /// The global flags.
    pub global: &'a Global,
    /// The log.
    pub log: &'a Log,
}

impl Context<'_> {
    /// Where containers are recorded: `--root`, else `/run/shoal-runtime`, for users below `XDG_RUNTIME_DIR`.
    pub(crate) fn root(&self) -> Root {
        Root::new(self.global.root.clone().unwrap_or_else(default_root))
    }
}

fn default_root() -> PathBuf {
    let user = runtime::host::probe::effective_uid();
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    match own {
        Some(dir) if user != 0 => PathBuf::from(dir).join("shoal-runtime"),
        None if user != 0 => PathBuf::from(format!("/tmp/shoal-runtime-{user}")),
        _ => PathBuf::from("/run/shoal-runtime"),
    }
}

/// Commands that send a process into a container.
const SENDERS: [&str; 5] = ["create", "run", "exec", "restore", "mounts"];

/// Protects this program's file from containers before anything else when `words` may be a command that has to: code
/// that ran before would have to be loaded twice. What fails here fails, and is told, when the command is known.
pub(crate) fn protect_early(words: &[OsString]) -> bool {
    words.iter().any(|word| SENDERS.iter().any(|sender| word == sender)) && runtime::host::seal::ensure(words).is_ok()
}

/// Runs `command` with its arguments; the exit code. Each command is a function of its own (`inline(never)`): together
/// they would have a stack of all their variables at once, page after page.
pub(crate) fn dispatch(global: &Global, log: &Log, command: &str, mut rest: Vec<OsString>) -> Result<u8, Failure> {
    let context = Context { global, log };
    if global.criu {
        log.warn("--criu is ignored: the criu of PATH is used");
    }
    if let Some(usage) = Usage::of(command) {
        rest = match usage.check(rest) {
            Ok(plain) => plain,
            Err(Wrong::Help) => {
                print!("{}", usage.help());
                return Ok(0);
            }
            Err(Wrong::Said(error)) => return Err(incorrect(usage, error)),
        };
    }
    let topic = rest.first().map(|word| word.to_string_lossy().into_owned());
    let mut words = vec![OsString::from(command)];
    words.extend(rest);
    let parser = lexopt::Parser::from_iter(words);
    if SENDERS.contains(&command) && !global.is_protected {
        runtime::host::seal::ensure(&global.words)?;
    }
    if needs_root(command) && global.root.is_none() {
        runtime::host::probe::private_root(&default_root())?;
    }
    match command {
        "create" => create::create(&context, parser),
        "run" => run::run(&context, parser),
        "start" => create::start(&context, parser),
        "state" => inspect::state(&context, parser),
        "exec" => exec::exec(&context, parser),
        "pause" => freeze::pause(&context, parser),
        "resume" => freeze::resume(&context, parser),
        "ps" => freeze::ps(&context, parser),
        "update" => limits::update(&context, parser),
        "checkpoint" => checkpoint::checkpoint(&context, parser),
        "restore" => checkpoint::restore(&context, parser),
        "mounts" => mounts::mounts(&context, parser),
        "events" => limits::events(&context, parser),
        "spec" => spec::spec(&context, parser),
        "features" => features::features(&context, parser),
        "list" => inspect::list(&context, parser),
        "kill" => delete::kill(&context, parser),
        "delete" => delete::delete(&context, parser),
        "version" => {
            println!("shoal-runtime version {}\nspec: {}", env!("CARGO_PKG_VERSION"), oci::spec::OCI_VERSION);
            Ok(0)
        }
        "man" => {
            print!("{}", crate::manual::page());
            Ok(0)
        }
        "completion" => match crate::manual::completion(&topic.unwrap_or_default()) {
            Some(text) => {
                print!("{text}");
                Ok(0)
            }
            None => Err(Failure::usage("completion is there for bash, zsh and fish")),
        },
        "help" | "h" => match topic {
            None => {
                print!("{}", GLOBAL.help());
                Ok(0)
            }
            Some(topic) => match Usage::of(&topic) {
                Some(usage) => {
                    print!("{}", usage.help());
                    Ok(0)
                }
                None => Err(no_topic(&topic)),
            },
        },
        other => Err(no_topic(other)),
    }
}

/// runc's answer to a wrong command line: the help on the standard output, the error on the log.
pub(crate) fn incorrect(usage: &Usage, error: String) -> Failure {
    print!("Incorrect Usage: {error}\n\n{}", usage.help());
    Failure::usage(error)
}

/// runc's answer, and exit code, to a word that is no command.
fn no_topic(word: &str) -> Failure {
    Failure { code: 3, ..Failure::usage(format!("No help topic for '{word}'")) }
}

/// Whether `command` looks at containers.
fn needs_root(command: &str) -> bool {
    Usage::of(command).is_some() && !matches!(command, "spec" | "features")
}

/// The only positional argument of most commands.
pub(crate) fn only_id(mut parser: lexopt::Parser) -> Result<ContainerId, Failure> {
    let mut id = None;
    while let Some(arg) = parser.next()? {
        match arg {
            lexopt::Arg::Value(value) if id.is_none() => id = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    need_id(id)
}

/// Checks the container's name.
pub(crate) fn need_id(id: Option<String>) -> Result<ContainerId, Failure> {
    match id {
        Some(id) => Ok(id.parse()?),
        None => Err(Failure::usage("container id cannot be empty")),
    }
}
