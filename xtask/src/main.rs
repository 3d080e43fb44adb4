//! What people and CI run, by one name each: `cargo xtask VERB`.
//!
//! In: a verb and its arguments. Out: the verb's work, its exit code, and lines that say what ran. It imports nothing of ours:
//! it builds and starts the binaries as a user would.

mod bench;
mod build;
mod ci;
mod counts;
mod dist;
mod docs;
mod fuzz;
mod measure;
mod shell;
mod soak;
mod suite;
mod table;
mod view;
mod vm;

use std::process::ExitCode;

const HELP: &str = "cargo xtask VERB

  build [--debug]       release binaries and the lean static ones, into target/release; --debug: unoptimised, into target/debug
  test [FILTER…]        hermetic tests, then integration tests on the release binaries
  ci                    format, lints, build, every test, the demo: what must pass before a push
  demo [--keep]         the three jobs on real input
  bench NAME [--json F] runtime | image | engine | mesh, side by side with the peers
                        (runtime: --view v1|v2|vm, --vm adds the machine, --build-youki)
  soak NAME [--count N] the long counts: the same code as CI, other numbers (attacks: --minutes M ends it sooner, --write)
  sim --seeds N         the simulator over N seeds (--seed S replays one; --nodes K; --services); --inject CLASS|all: a bug
                        put in and what the checkers say; --figures [N]: the mesh's figures
  fuzz [NAME --seconds N --seed S]  config | mount_options | seccomp | layer | unpack | reference | challenge | request |
                        manifest | frame | message | peer | row | certificate | admission | token | body | ask | want |
                        rows: mutates the seeds of each crate's fuzz/corpus
  vm [--systemd] -- CMD a command in a small virtual machine with pure cgroup v2
  measure               sizes of files and functions, documentation, unsafe blocks
  docs                  docs/cli.md from the definitions of the commands
  dist                  a tarball with install.sh, and its SHA-256, into dist/
  table runtime [CASE]  the runtime suite for runc, crun and ours on cgroup v1, hybrid and v2: docs/runtime-table.md
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    if args.first().map(String::as_str) == Some(bench::MEASURED) {
        return bench::measured(rest);
    }
    if rest.first().is_some_and(|arg| arg == "--help" || arg == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let outcome = match args.first().map(String::as_str) {
        Some("build") if args.iter().any(|arg| arg == "--debug") => build::debug(),
        Some("build") => build::all(),
        Some("test") => ci::test(rest),
        Some("ci") => ci::run(),
        Some("demo") => shell::run("./demo", rest),
        Some("bench") => bench::run(rest),
        Some("soak") => soak::run(rest),
        Some("fuzz") => fuzz::run(rest),
        Some("sim") => shell::cargo(&["run", "--release", "--quiet", "-p", "tests", "--bin", "sim", "--"], rest),
        Some("vm") => vm::run(rest),
        Some("docs") => docs::run(),
        Some("dist") => dist::run(),
        Some("measure") => measure::run(),
        Some("table") => table::run(rest),
        _ => {
            print!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("xtask: {reason}");
            ExitCode::FAILURE
        }
    }
}
