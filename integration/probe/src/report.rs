//! What a process sees of itself and its surroundings, as one JSON document with a member a section.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::process::ExitCode;

/// A section's name and what fills it.
type Section = (&'static str, fn() -> Value);

/// Every section, in the order in which the report has them.
const SECTIONS: &[Section] = &[
    ("args", args),
    ("env", env),
    ("cwd", cwd),
    ("ids", ids),
    ("maps", maps),
    ("namespaces", namespaces),
    ("status", status),
    ("limits", limits),
    ("mounts", mounts),
    ("cgroup", cgroup),
    ("fds", fds),
    ("tty", tty),
    ("uts", uts),
    ("oom", oom),
    ("scheduler", scheduler),
    ("signals", signals),
    ("keyring", keyring),
    ("devices", devices),
    ("links", links),
    ("clock", clock),
    ("personality", personality),
    ("labels", labels),
    ("root", root),
];

/// Prints the named sections, or all.
pub fn print(names: &[&str]) -> ExitCode {
    let mut report = Map::new();
    for (name, fill) in SECTIONS {
        if names.is_empty() || names.contains(name) {
            report.insert((*name).to_owned(), fill());
        }
    }
    println!("{}", Value::Object(report));
    ExitCode::SUCCESS
}

fn text(path: &str) -> Value {
    fs::read(path).map_or(Value::Null, |bytes| json!(String::from_utf8_lossy(&bytes).trim_end()))
}

fn args() -> Value {
    json!(std::env::args().collect::<Vec<_>>())
}

fn env() -> Value {
    json!(std::env::vars().collect::<BTreeMap<_, _>>())
}

fn cwd() -> Value {
    json!(std::env::current_dir().ok())
}

fn ids() -> Value {
    let mut groups = vec![0; 1024];
    // SAFETY: the calls take no pointer except getgroups, whose buffer holds as many entries as it is told.
    unsafe {
        let count = libc::getgroups(1024, groups.as_mut_ptr());
        groups.truncate(usize::try_from(count).unwrap_or(0));
        let umask = libc::umask(0);
        libc::umask(umask);
        json!({
            "uid": libc::getuid(), "euid": libc::geteuid(), "gid": libc::getgid(), "egid": libc::getegid(),
            "groups": groups, "umask": umask, "pid": libc::getpid(), "ppid": libc::getppid(),
            "pgid": libc::getpgrp(), "sid": libc::getsid(0)
        })
    }
}

fn maps() -> Value {
    json!({"uid": text("/proc/self/uid_map"), "gid": text("/proc/self/gid_map"), "setgroups": text("/proc/self/setgroups")})
}

fn namespaces() -> Value {
    let names = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    json!(
        names
            .map(|name| (name, fs::read_link(format!("/proc/self/ns/{name}")).ok()))
            .into_iter()
            .collect::<BTreeMap<_, _>>()
    )
}

/// `/proc/self/status` as a map: capability sets, seccomp mode, NoNewPrivs, Cpus_allowed and the rest.
fn status() -> Value {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return Value::Null };
    json!(
        status.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k, v.trim())).collect::<BTreeMap<_, _>>()
    )
}

/// Soft and hard limit by the number that `setrlimit(2)` uses; `null` stands for unlimited.
fn limits() -> Value {
    let names = [
        ("RLIMIT_CPU", 0),
        ("RLIMIT_FSIZE", 1),
        ("RLIMIT_DATA", 2),
        ("RLIMIT_STACK", 3),
        ("RLIMIT_CORE", 4),
        ("RLIMIT_RSS", 5),
        ("RLIMIT_NPROC", 6),
        ("RLIMIT_NOFILE", 7),
        ("RLIMIT_MEMLOCK", 8),
        ("RLIMIT_AS", 9),
        ("RLIMIT_LOCKS", 10),
        ("RLIMIT_SIGPENDING", 11),
        ("RLIMIT_MSGQUEUE", 12),
        ("RLIMIT_NICE", 13),
        ("RLIMIT_RTPRIO", 14),
        ("RLIMIT_RTTIME", 15),
    ];
    let finite = |value: u64| (value != libc::RLIM_INFINITY).then_some(value);
    json!(
        names
            .map(|(name, number)| {
                // SAFETY: the structure is a local that the call fills.
                let limit = unsafe {
                    let mut limit: libc::rlimit = std::mem::zeroed();
                    libc::getrlimit(number, &raw mut limit);
                    limit
                };
                (name, json!({"soft": finite(limit.rlim_cur), "hard": finite(limit.rlim_max)}))
            })
            .into_iter()
            .collect::<BTreeMap<_, _>>()
    )
}

/// Mounts in mountinfo's order: destination, root, per-mount options, propagation fields, type, source, super options.
fn mounts() -> Value {
    let Ok(info) = fs::read_to_string("/proc/self/mountinfo") else { return Value::Null };
    json!(info.lines().filter_map(mount).collect::<Vec<_>>())
}

fn mount(line: &str) -> Option<Value> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let right: Vec<&str> = right.split(' ').collect();
    Some(json!({
        "root": left.get(3)?, "destination": left.get(4)?, "options": left.get(5)?.split(',').collect::<Vec<_>>(),
        "propagation": left.get(6..)?, "type": right.first()?, "source": right.get(1)?,
        "super": right.get(2)?.split(',').collect::<Vec<_>>()
    }))
}

/// The cgroup membership, and every readable control file below /sys/fs/cgroup at most 64 KiB each.
fn cgroup() -> Value {
    let mut files = BTreeMap::new();
    let mut folders = vec!["/sys/fs/cgroup".to_owned()];
    while let Some(folder) = folders.pop() {
        // A container sees a few dozen folders; a host's whole tree is not a report.
        if files.len() > 2_000 {
            break;
        }
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path().to_string_lossy().into_owned();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() => {
                    if let Ok(value) = fs::read(&path)
                        && value.len() < 65_536
                    {
                        files.insert(path, String::from_utf8_lossy(&value).trim_end().to_owned());
                    }
                }
                _ => {}
            }
        }
    }
    json!({"membership": text("/proc/self/cgroup"), "files": files})
}

/// Open descriptors and what they point at, without the one this listing opens.
fn fds() -> Value {
    let listing = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let all: BTreeMap<String, String> = listing
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), target.to_string_lossy().into_owned()))
        })
        .filter(|(_, target)| !target.starts_with("/proc/") || !target.ends_with("/fd"))
        .collect();
    json!(all)
}

fn tty() -> Value {
    // SAFETY: ttyname_r writes at most the length it is given into a local; the ioctl fills a local structure.
    let name = |fd| unsafe {
        let mut buffer = [0_i8; 256];
        (libc::ttyname_r(fd, buffer.as_mut_ptr().cast(), buffer.len()) == 0)
            .then(|| CStr::from_ptr(buffer.as_ptr().cast()).to_string_lossy().into_owned())
    };
    // SAFETY: as above.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        (libc::ioctl(0, libc::TIOCGWINSZ, &raw mut size) == 0).then_some([size.ws_row, size.ws_col])
    };
    // SAFETY: takes a descriptor, returns a number.
    let foreground = unsafe { libc::tcgetpgrp(0) };
    json!({"stdin": name(0), "stdout": name(1), "stderr": name(2), "size": size, "foreground": foreground})
}

fn uts() -> Value {
    json!({"hostname": text("/proc/sys/kernel/hostname"), "domainname": text("/proc/sys/kernel/domainname")})
}

fn oom() -> Value {
    json!({"score_adj": text("/proc/self/oom_score_adj")})
}

fn scheduler() -> Value {
    // SAFETY: the structures are locals of the size that is passed; the calls return numbers.
    unsafe {
        let mut param: libc::sched_param = std::mem::zeroed();
        libc::sched_getparam(0, &raw mut param);
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
        let cpus: Vec<usize> = (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &set)).collect();
        json!({
            "policy": libc::sched_getscheduler(0), "priority": param.sched_priority,
            "nice": libc::getpriority(libc::PRIO_PROCESS, 0),
            "ioprio": libc::syscall(libc::SYS_ioprio_get, 1, 0), "cpus": cpus,
        })
    }
}

/// Signals that are ignored or blocked: a container must start with none.
fn signals() -> Value {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return Value::Null };
    json!(
        status
            .lines()
            .filter(|line| line.starts_with("Sig"))
            .filter_map(|line| line.split_once(":\t"))
            .collect::<BTreeMap<_, _>>()
    )
}

fn keyring() -> Value {
    // KEYCTL_GET_KEYRING_ID (0) of KEY_SPEC_SESSION_KEYRING (-3), not made when missing.
    // SAFETY: only numbers go in and out.
    let id = unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) };
    json!({"session": id})
}

/// Device nodes below /dev: kind, numbers, mode, owner.
fn devices() -> Value {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let nodes: BTreeMap<String, Value> = fs::read_dir("/dev")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let data = entry.metadata().ok()?;
            let kind = data.file_type();
            let kind = if kind.is_char_device() { "c" } else if kind.is_block_device() { "b" } else { return None };
            let (major, minor) = (libc::major(data.rdev()), libc::minor(data.rdev()));
            let value = json!({"kind": kind, "major": major, "minor": minor, "mode": data.mode() & 0o7777, "uid": data.uid(), "gid": data.gid()});
            Some((entry.file_name().to_string_lossy().into_owned(), value))
        })
        .collect();
    json!(nodes)
}

fn links() -> Value {
    let names = ["/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/ptmx", "/dev/core"];
    json!(names.map(|name| (name, fs::read_link(name).ok())).into_iter().collect::<BTreeMap<_, _>>())
}

fn clock() -> Value {
    json!({"offsets": text("/proc/self/timens_offsets")})
}

fn personality() -> Value {
    // SAFETY: 0xffffffff asks without changing anything.
    json!(unsafe { libc::personality(0xffff_ffff) })
}

fn labels() -> Value {
    json!({"current": text("/proc/self/attr/current"), "exec": text("/proc/self/attr/exec")})
}

/// What is writable of the root and of the paths that containers mask or protect.
fn root() -> Value {
    let writable = |path: &str| {
        let name = std::ffi::CString::new(path).expect("no NUL in a literal");
        // SAFETY: the name is NUL-terminated and outlives the call.
        unsafe { libc::access(name.as_ptr(), libc::W_OK) == 0 }
    };
    json!({
        "entries": fs::read_dir("/").into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<std::collections::BTreeSet<_>>(),
        "writable": {"/": writable("/"), "/proc/sys": writable("/proc/sys"), "/sys": writable("/sys")},
        "kcore": fs::metadata("/proc/kcore").map(|data| data.len()).ok(),
    })
}
