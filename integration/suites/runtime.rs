//! What an OCI runtime must do, asked of any runtime: `cargo test -p integration --test runtime -- [--runtime PATH] [--table]`.
//!
//! Every case passes against Debian's `runc` (and `crun`, where it starts) unless its `differs` says why not; then ours is
//! judged by the same code. `--table` runs all three and prints one line of JSON a case; `cargo xtask table runtime` makes
//! the table of it.

#[path = "runtime/bad_input.rs"]
mod bad_input;
#[path = "runtime/case.rs"]
mod case;
#[path = "runtime/cgroups.rs"]
mod cgroups;
#[path = "runtime/details.rs"]
mod details;
#[path = "runtime/exec.rs"]
mod exec;
#[path = "runtime/extras.rs"]
mod extras;
#[path = "runtime/hooks.rs"]
mod hooks;
#[path = "runtime/hostile.rs"]
mod hostile;
#[path = "runtime/lifecycle.rs"]
mod lifecycle;
#[path = "runtime/mounts.rs"]
mod mounts;
#[path = "runtime/namespaces.rs"]
mod namespaces;
#[path = "runtime/notify.rs"]
mod notify;
#[path = "runtime/process.rs"]
mod process;
#[path = "runtime/raced.rs"]
mod raced;
#[path = "runtime/seccomp.rs"]
mod seccomp;
#[path = "runtime/security.rs"]
mod security;
#[path = "runtime/subject.rs"]
mod subject;
#[path = "runtime/terminal.rs"]
mod terminal;

use case::Case;
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::PathBuf;
use subject::Subject;

fn main() -> std::process::ExitCode {
    let (ours, libtest): (Vec<String>, Vec<String>) = split(std::env::args().collect());
    let arguments = Arguments::from_iter(libtest);
    let cases = all();
    if ours.iter().any(|arg| arg == "--table") {
        return table(&cases, arguments.filter.as_deref().unwrap_or_default());
    }
    let path = ours
        .iter()
        .find_map(|arg| arg.strip_prefix("--runtime="))
        .map_or_else(integration::binaries::runtime, PathBuf::from);
    let subject = Subject::new(path);
    let trials = cases
        .into_iter()
        .map(|case| {
            let subject = subject.clone();
            Trial::test(case.name, move || {
                if case.differs_for(&subject.name).is_some() {
                    Ok(())
                } else {
                    judge(&case, &subject).map_err(Failed::from)
                }
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn all() -> Vec<Case> {
    [
        lifecycle::CASES,
        process::CASES,
        namespaces::CASES,
        mounts::CASES,
        cgroups::CASES,
        seccomp::CASES,
        hooks::CASES,
        exec::CASES,
        terminal::CASES,
        notify::CASES,
        security::CASES,
        details::CASES,
        hostile::CASES,
        raced::CASES,
        bad_input::CASES,
        extras::CASES,
    ]
    .concat()
}

/// Takes our own two options out of the command line; the rest is libtest's.
fn split(args: Vec<String>) -> (Vec<String>, Vec<String>) {
    let mut ours = Vec::new();
    let mut libtest = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--table" => ours.push(arg),
            "--runtime" => ours.push(format!("--runtime={}", args.next().unwrap_or_default())),
            _ if arg.starts_with("--runtime=") => ours.push(arg),
            _ => libtest.push(arg),
        }
    }
    (ours, libtest)
}

fn judge(case: &Case, subject: &Subject) -> Result<(), String> {
    let judged = std::panic::catch_unwind(|| (case.check)(subject));
    judged.map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "panicked".to_owned())
    })
}

/// One line of JSON a case: why each runtime fails it (null where it passes), and the known differences.
fn table(cases: &[Case], filter: &str) -> std::process::ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let subjects = [
        Subject::new(integration::binaries::tool("runc", "runc")),
        Subject::new(integration::binaries::tool("crun", "crun")),
        Subject::new(integration::binaries::runtime()),
    ];
    let mut failed = 0;
    for case in cases.iter().filter(|case| case.name.contains(filter)) {
        let verdicts = subjects.each_ref().map(|subject| judge(case, subject).err());
        failed += usize::from(verdicts[2].is_some());
        let differs: Vec<_> =
            case.differs.iter().map(|(peer, why)| serde_json::json!({"peer": peer, "why": why})).collect();
        let [runc, crun, ours] = verdicts;
        println!(
            "{}",
            serde_json::json!({"case": case.name, "runc": runc, "crun": crun, "ours": ours, "differs": differs})
        );
    }
    if failed == 0 { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}
