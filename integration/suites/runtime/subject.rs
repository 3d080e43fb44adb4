//! The runtime under test, and a container that deletes itself.

use integration::bundle::Bundle;
use integration::{Cmd, Outcome, Scratch, eventually};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long a state change may take on two busy cores.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A runtime: its binary, its name, and a state folder of its own.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// The file name of the binary: `runc`, `crun`, `shoal-runtime`.
    pub(crate) name: String,
    path: PathBuf,
    root: Arc<Scratch>,
}

impl Subject {
    /// A subject for the binary at `path`.
    pub(crate) fn new(path: PathBuf) -> Self {
        let name = path.file_name().expect("a binary has a name").to_string_lossy().into_owned();
        Self { root: Arc::new(Scratch::new("state")), name, path }
    }

    /// A command of the runtime, with its state folder set.
    pub(crate) fn cmd<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        Cmd::new(&self.path).arg("--root").arg(self.root.path()).args(args)
    }

    /// Returns the state folder.
    pub(crate) fn root(&self) -> &std::path::Path {
        self.root.path()
    }

    /// Returns the binary under test.
    pub(crate) fn binary(&self) -> &std::path::Path {
        &self.path
    }

    /// Runs the bundle's container in the foreground to its end.
    pub(crate) fn run(&self, bundle: &Bundle) -> Outcome {
        bundle.write();
        let _guard = Container { subject: self, id: bundle.id().to_owned() };
        self.cmd(["run", "--bundle"]).arg(bundle.path()).arg(bundle.id()).run()
    }

    /// Runs the bundle and parses what the probe reported.
    pub(crate) fn report(&self, bundle: &Bundle) -> Value {
        let outcome = self.run(bundle).expect_success();
        serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("not a report: {error}\n{}", outcome.stdout))
    }

    /// The bundle's container as it will be: whoever makes it, it is deleted in the end.
    pub(crate) fn container(&self, bundle: &Bundle) -> Container<'_> {
        Container { subject: self, id: bundle.id().to_owned() }
    }

    /// Creates the bundle's container and returns it, parked before its program.
    pub(crate) fn create(&self, bundle: &Bundle) -> Container<'_> {
        bundle.write();
        let container = Container { subject: self, id: bundle.id().to_owned() };
        let outcome = self.cmd(["create", "--bundle"]).arg(bundle.path()).arg(bundle.id()).run();
        let _ = outcome.expect_success();
        container
    }

    /// Creates and starts the bundle's container.
    pub(crate) fn start(&self, bundle: &Bundle) -> Container<'_> {
        let container = self.create(bundle);
        let _ = container.cmd("start").ok();
        container
    }
}

/// A container of the subject; dropped, it is deleted by force.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    subject: &'a Subject,
    pub(crate) id: String,
}

impl Container<'_> {
    /// The command `VERB ID` of the runtime.
    pub(crate) fn cmd(&self, verb: &str) -> Cmd {
        self.subject.cmd([verb, &self.id])
    }

    /// Any command of the runtime that tests this container.
    pub(crate) fn subject_cmd<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        self.subject.cmd(args)
    }

    /// `exec ID ARGS…`, to its end.
    pub(crate) fn exec(&self, args: &[&str]) -> Outcome {
        self.cmd("exec").args(args).run()
    }

    /// The document that `state` prints.
    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.cmd("state").ok()).expect("state prints JSON")
    }

    /// The `status` of [`Container::state`].
    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().expect("status is text").to_owned()
    }

    /// Waits until the container has the status.
    pub(crate) fn await_status(&self, status: &str) {
        eventually(&format!("{} is {status}", self.id), SOON, || (self.status() == status).then_some(()));
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.subject.cmd(["delete", "--force", &self.id]).attempt();
    }
}
