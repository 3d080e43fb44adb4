//! A runtime under measurement, and all of them taking turns.

use super::super::bundle::{Bundle, NO_OP};
use crate::shell::Result;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A runtime under measurement.
#[derive(Debug)]
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
}

/// Everything the figures of one view are taken with. Ours is the first tool.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) tools: Vec<Tool>,
    pub(super) bundle: Bundle,
    pub(super) view: String,
}

impl Bench {
    /// Ours.
    pub(super) fn ours(&self) -> &Tool {
        &self.tools[0]
    }

    /// The goal of a figure against `tool`: goals are set against crun, and against runc where crun does not start.
    pub(super) fn goal(&self, tool: &Tool, goal: f64) -> Option<f64> {
        let reference = self.tools.get(1).filter(|first| first.name != "youki");
        reference.is_some_and(|reference| reference.name == tool.name).then_some(goal)
    }

    /// Rounds of each tool after its warm-up: enough for a stable minimum on a shared machine, fewer in a slow one.
    pub(super) fn rounds(&self, usual: usize) -> usize {
        if self.view == "vm" { usual.div_ceil(3) } else { usual }
    }
}

impl Tool {
    /// The command `TOOL --root DIR VERB…`.
    pub(super) fn line(&self, bundle: &Bundle, args: &[&str]) -> Vec<OsString> {
        let root = bundle.root().join(self.name);
        let head = [self.path.clone().into(), "--root".into(), root.into_os_string()];
        head.into_iter().chain(args.iter().map(OsString::from)).collect()
    }

    /// The command that runs the bundle's container under the id `id`.
    pub(super) fn run(&self, bundle: &Bundle, verb: &str, id: &str) -> Vec<OsString> {
        let mut line = self.line(bundle, &[verb, "--bundle"]);
        line.extend([bundle.path().as_os_str().to_owned(), id.into()]);
        line
    }

    /// `run` under an id of this round.
    pub(super) fn run_once(&self, bundle: &Bundle, round: usize) -> Vec<OsString> {
        self.run(bundle, "run", &format!("bench-{}-{}-{round}", std::process::id(), self.name))
    }

    /// The floor program on the bundle's root file system.
    pub(super) fn floor(&self, bundle: &Bundle) -> Vec<OsString> {
        let rootfs = bundle.path().join("rootfs").into_os_string();
        [self.path.clone().into(), "floor".into(), rootfs, NO_OP[0].into(), NO_OP[1].into()].into()
    }
}

/// Lets the tools take turns, `warm + rounds` times; what the first `warm` turns give is dropped.
///
/// A tool that fails once is out of the rest; its place in the answer says how.
pub(super) fn interleave<T>(
    tools: &[&Tool],
    rounds: usize,
    warm: usize,
    mut turn: impl FnMut(&Tool, usize) -> Result<T>,
) -> Vec<Result<Vec<T>>> {
    let mut all: Vec<Result<Vec<T>>> = tools.iter().map(|_| Ok(Vec::new())).collect();
    for round in 0..warm + rounds {
        for (tool, kept) in tools.iter().zip(&mut all) {
            let Ok(list) = kept else { continue };
            match turn(tool, round) {
                Ok(value) if round >= warm => list.push(value),
                Ok(_) => {}
                Err(why) => *kept = Err(format!("{} fails or hangs in round {round}: {why}", tool.name)),
            }
        }
    }
    all
}

/// Finds a program in PATH and where Debian puts runtimes.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([Path::new("/usr/sbin").to_owned()])
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
}
