//! `checkpoint` and `restore`, with runc's flags.

use lexopt::{Arg, Parser, ValueExt};
use runtime::host::checkpoint::{self, CgroupMode, Options};
use runtime::host::delete;
use runtime::host::foreground::{self, Signals};

use super::create::{Flags, prepare};
use super::{Context, Failure, need_id};

/// Where images go when nobody says.
const IMAGE_PATH: &str = "checkpoint";

/// Reads a flag that both commands have; false if `flag` is none.
fn common(flag: &str, parser: &mut Parser, options: &mut Options) -> Result<bool, Failure> {
    match flag {
        "image-path" => options.image_path = parser.value()?.into(),
        "work-path" => options.work_path = Some(parser.value()?.into()),
        "parent-path" => options.parent_path = Some(parser.value()?.string()?),
        "tcp-established" => options.tcp_established = true,
        "tcp-skip-in-flight" => options.tcp_skip_in_flight = true,
        "ext-unix-sk" => options.ext_unix_sk = true,
        "shell-job" => options.shell_job = true,
        "file-locks" => options.file_locks = true,
        "lazy-pages" => options.lazy_pages = true,
        "auto-dedup" => options.auto_dedup = true,
        "link-remap" => options.link_remap = true,
        "manage-cgroups-mode" => {
            options.cgroups = match parser.value()?.string()?.as_str() {
                "soft" | "" => CgroupMode::Soft,
                "full" => CgroupMode::Full,
                "strict" => CgroupMode::Strict,
                "ignore" => CgroupMode::Ignore,
                other => return Err(Failure::usage(format!("Invalid manage-cgroups-mode value: {other:?}"))),
            }
        }
        "empty-ns" => match parser.value()?.string()?.as_str() {
            "network" => options.empty_network = true,
            other => return Err(Failure::usage(format!("namespace {other:?} is not supported"))),
        },
        _ => return Ok(false),
    }
    Ok(true)
}

/// `checkpoint [flags] ID`.
#[inline(never)]
pub(crate) fn checkpoint(context: &Context<'_>, mut parser: Parser) -> Result<u8, Failure> {
    let (mut id, mut options) = (None, Options { image_path: IMAGE_PATH.into(), ..Options::default() });
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("leave-running") => options.leave_running = true,
            Arg::Long("pre-dump") => options.pre_dump = true,
            Arg::Long("status-fd") => options.status_fd = Some(parser.value()?.parse()?),
            Arg::Long("page-server") => options.page_server = Some(page_server(&parser.value()?.string()?)?),
            Arg::Long(flag) => {
                let flag = flag.to_owned();
                if !common(&flag, &mut parser, &mut options)? {
                    return Err(Arg::Long(&flag).unexpected().into());
                }
            }
            Arg::Value(value) if id.is_none() => id = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    for error in checkpoint::checkpoint(&context.root(), &need_id(id)?, &options)? {
        context.log.warn(&error.to_string());
    }
    Ok(0)
}

fn page_server(text: &str) -> Result<(String, u16), Failure> {
    let parsed = text.rsplit_once(':').and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    parsed.ok_or_else(|| Failure::usage("Use --page-server ADDRESS:PORT to specify page server"))
}

/// `restore [flags] ID`; its exit code is the process's.
#[inline(never)]
pub(crate) fn restore(context: &Context<'_>, mut parser: Parser) -> Result<u8, Failure> {
    let (mut flags, mut options) = (Flags::default(), Options { image_path: IMAGE_PATH.into(), ..Options::default() });
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('b') | Arg::Long("bundle") => flags.bundle = Some(parser.value()?.into()),
            Arg::Long("console-socket") => flags.console_socket = Some(parser.value()?.into()),
            Arg::Long("pid-file") => flags.pid_file = Some(parser.value()?.into()),
            Arg::Long("no-pivot") => flags.options.no_pivot = true,
            Arg::Short('d') | Arg::Long("detach") => flags.detach = true,
            Arg::Long("no-subreaper") => flags.no_subreaper = true,
            Arg::Long("lsm-profile") => options.lsm_profile = Some(parser.value()?.string()?),
            Arg::Long("lsm-mount-context") => options.lsm_mount_context = Some(parser.value()?.string()?),
            Arg::Long(flag) => {
                let flag = flag.to_owned();
                if !common(&flag, &mut parser, &mut options)? {
                    return Err(Arg::Long(&flag).unexpected().into());
                }
            }
            Arg::Value(value) if flags.id.is_none() => flags.id = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let request = flags.request(context)?;
    let prepared = prepare(context, &request)?;
    let signals = if flags.detach { None } else { Some(Signals::take()?) };
    let wants_relay = prepared.plan.process.terminal && request.console_socket.is_none() && !flags.detach;
    let (relay, terminal) =
        if wants_relay { foreground::relay().map(|(a, b)| (Some(a), Some(b)))? } else { (None, None) };
    if !flags.detach && !flags.no_subreaper {
        foreground::become_subreaper()?;
    }
    let restored = checkpoint::restore(&request, &prepared, terminal, &options)?;
    restored.warnings.iter().for_each(|warning| context.log.warn(warning));
    let Some(signals) = signals else { return Ok(0) };
    let ended = foreground::accompany(&restored.born, &signals, relay.as_ref(), None, || restored.directory.unlock());
    if !restored.directory.lock_again()? {
        return Ok(u8::try_from(ended?).unwrap_or(1));
    }
    let odd = delete::destroy(restored.directory, &restored.record);
    let code = ended?;
    for error in odd? {
        context.log.warn(&error.to_string());
    }
    Ok(u8::try_from(code).unwrap_or(1))
}
