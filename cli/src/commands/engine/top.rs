//! `top` and `port`.

use super::{explain, open};
use crate::commands::Global;
use crate::error::Error;
use crate::output::table::aligned;
use std::fs;
use std::process::ExitCode;

/// Show the processes of a container
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The container
    container: String,
    /// Columns after -o: pid, ppid, uid, user, stat, time, comm, args, vsz, rss, nlwp; other options of ps are refused
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// Show published ports
#[derive(Debug, clap::Args)]
pub(crate) struct PortArgs {
    /// The container
    container: String,
    /// Only this port: PORT[/tcp|udp]
    port: Option<String>,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let container = engine.find(&args.container).map_err(explain)?;
    if !container.state.status.is_active() {
        return Err(Error::new(format!("container {} is not running", container.name())));
    }
    let columns = columns(&args.options)?;
    let mut rows = vec![columns.iter().map(|column| heading(column).to_owned()).collect::<Vec<_>>()];
    for pid in engine.processes(&container) {
        // A process that ended since the list was read has no line.
        if let Some(process) = Process::read(pid) {
            rows.push(columns.iter().map(|column| process.cell(column)).collect());
        }
    }
    print!("{}", aligned(&rows));
    Ok(ExitCode::SUCCESS)
}

fn columns(options: &[String]) -> Result<Vec<String>, Error> {
    const DEFAULT: [&str; 8] = ["uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd"];
    let mut chosen: Vec<String> = Vec::new();
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let list = match option.as_str() {
            "-ef" | "-e" | "-f" | "ef" => continue,
            "aux" | "-aux" => "user,pid,vsz,rss,stat,time,args",
            "-o" | "-eo" | "o" => rest.next().map_or("", String::as_str),
            other => match other.strip_prefix("-o").or_else(|| other.strip_prefix("-eo")) {
                Some(list) => list,
                None => return Err(Error::new(format!("ps option {other:?} is not offered")).hint("use -o COLUMN,…")),
            },
        };
        chosen.extend(list.split(',').map(str::to_lowercase));
    }
    if chosen.is_empty() {
        chosen = DEFAULT.map(str::to_owned).to_vec();
    }
    match chosen.iter().find(|column| heading(column).is_empty()) {
        Some(column) => Err(Error::new(format!("unknown column {column:?}"))),
        None => Ok(chosen),
    }
}

fn heading(column: &str) -> &'static str {
    match column {
        "pid" => "PID",
        "ppid" => "PPID",
        "uid" => "UID",
        "user" => "USER",
        "c" => "C",
        "stime" | "start" => "STIME",
        "tty" => "TTY",
        "time" => "TIME",
        "cmd" => "CMD",
        "comm" => "COMMAND",
        "args" | "command" => "COMMAND",
        "stat" | "s" => "STAT",
        "vsz" => "VSZ",
        "rss" => "RSS",
        "nlwp" => "NLWP",
        _ => "",
    }
}

/// A text that a container chose, without what would command a terminal or forge a line.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

struct Process {
    pid: i32,
    fields: Vec<String>,
    comm: String,
    args: String,
    uid: String,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = stat.rsplit_once(") ")?;
        let comm = plain(head.split_once('(')?.1);
        let raw = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let args = plain(&String::from_utf8_lossy(&raw).trim_end_matches('\0').replace('\0', " "));
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next())?.to_owned();
        Some(Self { pid, fields: tail.split_whitespace().map(str::to_owned).collect(), comm, args, uid })
    }

    fn number(&self, field: usize) -> u64 {
        self.fields.get(field).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn cell(&self, column: &str) -> String {
        /// Clock ticks a second in `/proc`: fixed by the kernel's interface.
        const HERTZ: u64 = 100;
        match column {
            "pid" => self.pid.to_string(),
            "ppid" => self.fields.get(1).cloned().unwrap_or_default(),
            "uid" | "user" => match self.uid.as_str() {
                "0" => "root".to_owned(),
                other => other.to_owned(),
            },
            "c" => "0".to_owned(),
            "stime" | "start" => {
                let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
                let whole = uptime.split(['.', ' ']).next();
                let up: u64 = whole.and_then(|text| text.parse().ok()).unwrap_or(0);
                let age = up.saturating_sub(self.number(19) / HERTZ);
                let time = engine::time::rfc3339(engine::time::now().saturating_sub(age * 1_000_000_000));
                time.get(11..16).unwrap_or_default().to_owned()
            }
            "tty" => {
                let device = self.number(4);
                if device == 0 { "?".to_owned() } else { format!("pts/{}", device & 0xff) }
            }
            "time" => {
                let seconds = (self.number(11) + self.number(12)) / HERTZ;
                format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
            }
            "cmd" | "args" | "command" if !self.args.is_empty() => self.args.clone(),
            "comm" => self.comm.clone(),
            "cmd" | "args" | "command" => format!("[{}]", self.comm),
            "stat" | "s" => self.fields.first().cloned().unwrap_or_default(),
            "vsz" => (self.number(20) / 1024).to_string(),
            "rss" => (self.number(21) * 4).to_string(),
            "nlwp" => self.number(17).to_string(),
            _ => String::new(),
        }
    }
}

pub(crate) fn port(global: &Global, args: &PortArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let container = engine.find(&args.container).map_err(explain)?;
    let wanted = args.port.as_ref().map(|port| if port.contains('/') { port.clone() } else { format!("{port}/tcp") });
    let mut found = false;
    for port in engine.attachments(&container).iter().flat_map(|attachment| &attachment.ports) {
        let key = format!("{}/{}", port.container_port, port.protocol);
        for address in port.host_addresses() {
            let address = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
            match &wanted {
                Some(wanted) if *wanted == key => println!("{address}:{}", port.host_port),
                None => println!("{key} -> {address}:{}", port.host_port),
                Some(_) => continue,
            }
            found = true;
        }
    }
    match wanted {
        Some(wanted) if !found => {
            Err(Error::new(format!("no public port '{wanted}' published for {}", args.container)))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_process_gives_itself_commands_no_terminal() {
        assert_eq!(plain("a\u{1b}[31mRED\nFAKE 1 2\u{9b}é"), "a?[31mRED?FAKE 1 2?é");
    }
}
