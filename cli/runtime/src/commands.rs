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

/// Runs `command` with its arguments; the exit code.
pub(crate) fn dispatch(global: &Global, log: &Log, command: &str, rest: Vec<OsString>) -> Result<u8, Failure> {
    let context = Context { global, log };
    let mut words = vec![OsString::from(command)];
    words.extend(rest);
    let parser = lexopt::Parser::from_iter(words);
    if matches!(command, "create" | "run" | "exec" | "restore" | "mounts") {
        // These send a process into a container.
        runtime::host::seal::ensure()?;
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
        "help" => {
            print!("{HELP}");
            Ok(0)
        }
        other => Err(Failure::usage(format!("No help topic for '{other}'"))),
    }
}

/// Whether `command` looks at containers.
fn needs_root(command: &str) -> bool {
    !matches!(command, "spec" | "features" | "version" | "help")
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

const HELP: &str = "\
NAME:
   shoal-runtime - Open Container Initiative runtime

USAGE:
   shoal-runtime [global options] command [command options] [arguments...]

COMMANDS:
   create      create a container from a bundle
   run         create and start a container
   start       execute the process of a created container
   exec        execute another process in a container
   pause       stop all processes of a container
   resume      let them go on
   ps          list the processes of a container
   checkpoint  write a running container to files (CRIU)
   restore     make a container from such files
   mounts      add mounts to a running container, or remove them
   update      change the limits of a container
   events      output what a container uses, and when it lacks memory
   spec        write a new config.json
   features    output what this runtime can do
   state       output the state of a container
   list        list the containers of this root
   kill        send a signal to a container's first process
   delete      delete what a container holds

GLOBAL OPTIONS:
   --root value            where containers are recorded
   --log value             the log file (default: stderr)
   --log-format value      text or json
   --debug                 log what happens
   --systemd-cgroup        let systemd make cgroups
   --cgroup-manager value  cgroupfs, systemd or disabled
   --rootless value        true, false or auto
   --help, -h              show help
   --version, -v           print the version
";
