//! `create` and `start`.

use std::mem::ManuallyDrop;
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};
use runtime::host::launch::{self, Prepared, Request};
use runtime::host::procfs::real_path;
use runtime::host::start as release;
use runtime::plan::Options;

use runtime::error::words;

use super::{Context, Failure, need_id, only_id};

/// Flags of `create` and `run`.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    /// The container's name.
    pub id: Option<String>,
    /// `--bundle`.
    pub bundle: Option<PathBuf>,
    /// `--console-socket`.
    pub console_socket: Option<PathBuf>,
    /// `--pidfd-socket`.
    pub pidfd_socket: Option<PathBuf>,
    /// `--pid-file`.
    pub pid_file: Option<PathBuf>,
    /// `--no-pivot`, `--no-new-keyring`.
    pub options: Options,
    /// `--preserve-fds`.
    pub preserve_fds: u32,
    /// `--plan`: print what would be done.
    pub plan: bool,
    /// `--detach`.
    pub detach: bool,
    /// `--keep`.
    pub keep: bool,
    /// `--no-subreaper`.
    pub no_subreaper: bool,
    /// `--batch`: `ID=BUNDLE` words, or `-` for lines of them on stdin.
    pub batch: Option<Vec<String>>,
}

impl Flags {
    /// Reads the flags; those of `run` alone only with `run`.
    pub(crate) fn read(mut parser: Parser, run: bool) -> Result<Self, Failure> {
        let mut flags = Self::default();
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Short('b') | Arg::Long("bundle") => flags.bundle = Some(parser.value()?.into()),
                Arg::Long("console-socket") => flags.console_socket = Some(parser.value()?.into()),
                Arg::Long("pidfd-socket") => flags.pidfd_socket = Some(parser.value()?.into()),
                Arg::Long("pid-file") => flags.pid_file = Some(parser.value()?.into()),
                Arg::Long("no-pivot") => flags.options.no_pivot = true,
                Arg::Long("no-new-keyring") => flags.options.no_new_keyring = true,
                Arg::Long("preserve-fds") => flags.preserve_fds = parser.value()?.parse()?,
                Arg::Long("plan") => flags.plan = true,
                Arg::Short('d') | Arg::Long("detach") if run => flags.detach = true,
                Arg::Long("keep") if run => flags.keep = true,
                Arg::Long("no-subreaper") if run => flags.no_subreaper = true,
                Arg::Long("batch") if run => flags.batch = Some(Vec::new()),
                Arg::Value(value) if flags.batch.is_some() => {
                    flags.batch.get_or_insert_default().push(value.string()?);
                }
                Arg::Value(value) if flags.id.is_none() => flags.id = Some(value.string()?),
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(flags)
    }

    /// What the runtime is asked for, once for every container of a batch.
    pub(crate) fn batch_request(&self, context: &Context<'_>, word: &str) -> Result<Request, Failure> {
        let (id, bundle) = word
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("{word:?}: a batch takes words of the form ID=BUNDLE")))?;
        let one = Self {
            id: Some(id.to_owned()),
            bundle: Some(bundle.into()),
            options: self.options,
            preserve_fds: self.preserve_fds,
            ..Self::default()
        };
        // The service is ready when all are: no single one can say that.
        one.request(context).map(|request| Request { notify: None, ..request })
    }

    /// What the runtime is asked for.
    pub(crate) fn request(&self, context: &Context<'_>) -> Result<Request, Failure> {
        let bundle = self.bundle.clone().unwrap_or_else(|| ".".into());
        let bundle = real_path(&bundle)
            .map_err(std::io::Error::from)
            .map_err(|cause| Failure::usage(format!("open the bundle {}: {}", bundle.display(), words(&cause))))?;
        Ok(Request {
            root: context.root(),
            id: need_id(self.id.clone())?,
            bundle,
            console_socket: self.console_socket.clone(),
            pidfd_socket: self.pidfd_socket.clone(),
            pid_file: self.pid_file.clone(),
            options: self.options,
            preserve_fds: self.preserve_fds,
            notify: runtime::host::notify::address(),
            rootless: context.global.rootless,
            cgroup_manager: context.global.cgroup_manager,
        })
    }
}

/// Reads and plans the bundle, telling what is odd about it.
pub(crate) fn prepare(context: &Context<'_>, request: &Request) -> Result<Prepared, Failure> {
    let prepared = launch::prepare(request)?;
    for warning in &prepared.plan.warnings {
        context.log.warn(warning);
    }
    for name in prepared.plan.process.unknown_calls() {
        context.log.debug(&format!("seccomp: the unknown system call {name} is left out"));
    }
    Ok(prepared)
}

/// Prints the plan of a bundle.
pub(crate) fn print_plan(prepared: &Prepared) -> Result<u8, Failure> {
    let text = serde_json::to_string_pretty(&prepared.plan).map_err(|cause| Failure::usage(cause.to_string()))?;
    println!("{text}");
    Ok(0)
}

/// `create`: the process waits for `start`.
#[inline(never)]
pub(crate) fn create(context: &Context<'_>, parser: Parser) -> Result<u8, Failure> {
    let flags = Flags::read(parser, false)?;
    let request = flags.request(context)?;
    // Never taken apart: the process ends with this.
    let prepared = ManuallyDrop::new(prepare(context, &request)?);
    if flags.plan {
        return print_plan(&prepared);
    }
    let launched = ManuallyDrop::new(launch::launch(&request, &prepared, None, true)?);
    launched.warnings.iter().for_each(|warning| context.log.warn(warning));
    Ok(0)
}

/// `start`: the waiting process executes its program.
pub(crate) fn start(context: &Context<'_>, parser: Parser) -> Result<u8, Failure> {
    let id = only_id(parser)?;
    for error in release::start(&context.root(), &id)? {
        context.log.warn(&error.to_string());
    }
    Ok(0)
}
