//! The simulator over many seeds, in pieces. In: how many seeds. Out: a line a piece, and every promise that was broken with
//! its replay. What has been done is kept in a file, so that a soak that was ended goes on where it was; the file belongs to
//! one build and is begun anew by another.

use crate::shell::{self, Result};
use std::path::PathBuf;
use std::process::Command;

/// One kind of history: what it is called, its flags, its seeds by default, the seeds of one piece.
struct Kind {
    name: &'static str,
    flags: &'static [&'static str],
    seeds: u32,
    piece: u32,
}

const KINDS: [Kind; 3] = [
    Kind { name: "7-nodes", flags: &["--nodes", "7"], seeds: 10_000, piece: 100 },
    Kind { name: "1000-nodes", flags: &["--nodes", "1000"], seeds: 100, piece: 1 },
    Kind { name: "services", flags: &["--services", "--nodes", "7"], seeds: 1_000, piece: 50 },
];

/// Runs what is left of every kind: `[--count N]` seeds of seven nodes (a hundredth of it of a thousand, a tenth of services),
/// `[--only NAME]`, `[--fresh]`.
pub(crate) fn run(count: u32, args: &[String]) -> Result<()> {
    shell::cargo(&["build", "--release", "-q", "-p", "tests", "--bin", "sim"], &[])?;
    let program = shell::target().join("release/sim");
    let build = shell::output("sha256sum", &[&program.to_string_lossy()])?;
    let build = build.get(..16).unwrap_or_default().to_owned();
    let only = crate::bench::value(args, "--only");
    let mut broken = Vec::new();
    for kind in KINDS.iter().filter(|kind| only.is_none_or(|only| only == kind.name)) {
        let seeds = kind.seeds * count / KINDS[0].seeds;
        let kept = Kept { path: shell::target().join(format!("soak-sim-{}", kind.name)), build: build.clone() };
        let mut done = if args.iter().any(|arg| arg == "--fresh") { 0 } else { kept.read() };
        while done < seeds {
            let piece = kind.piece.min(seeds - done);
            let mut command = Command::new(&program);
            command.args(kind.flags).args(["--from", &(done + 1).to_string(), "--seeds", &piece.to_string()]);
            if let Err(why) = shell::status(command) {
                broken.push(why);
            }
            done += piece;
            kept.write(done)?;
        }
        println!("soak sim {}: {done} of {seeds} seeds", kind.name);
    }
    if broken.is_empty() { Ok(()) } else { Err(format!("pieces with broken promises:\n{}", broken.join("\n"))) }
}

/// How far a kind is.
struct Kept {
    path: PathBuf,
    build: String,
}

impl Kept {
    fn read(&self) -> u32 {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let (build, done) = text.trim().split_once(' ').unwrap_or_default();
        if build == self.build { done.parse().unwrap_or(0) } else { 0 }
    }

    fn write(&self, done: u32) -> Result<()> {
        std::fs::write(&self.path, format!("{} {done}\n", self.build))
            .map_err(|error| format!("{}: {error}", self.path.display()))
    }
}
