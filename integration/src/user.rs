//! A user of the host without any right, made for one test.

use crate::{Cmd, binaries};
use std::ffi::OsStr;
use std::path::Path;

/// An account that exists as long as this value; Debian's useradd gives it subordinate ids.
#[derive(Debug)]
pub struct User {
    /// Its name, unique on this machine.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
}

impl User {
    /// Makes the account.
    ///
    /// # Panics
    /// When useradd(8) is missing or fails.
    pub fn new(what: &str) -> Self {
        let name = format!("shoal-{what}-{}", std::process::id());
        let _ = Cmd::new(binaries::tool("useradd", "passwd")).args(["--no-create-home", "--user-group", &name]).ok();
        let id = |flag: &str| Cmd::new("id").args([flag, &name]).ok().trim().parse().expect("a number");
        Self { uid: id("-u"), gid: id("-g"), name }
    }

    /// Returns the first subordinate id and their number in `file`, as `/etc/subuid`.
    ///
    /// # Panics
    /// When there are none.
    pub fn subordinate(&self, file: &str) -> (u32, u32) {
        let text = std::fs::read_to_string(file).expect("uidmap is installed");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{}:", self.name)));
        let (first, count) = line.expect("useradd gives subordinate ids").split_once(':').expect("FIRST:COUNT");
        (first.parse().expect("a number"), count.parse().expect("a number"))
    }

    /// What stands before a command line to run it as this user, in an environment of `env` alone.
    pub fn words(&self, env: &[&str]) -> Vec<String> {
        let ids = ["setpriv".into(), format!("--reuid={}", self.uid), format!("--regid={}", self.gid)];
        let clean = ["--clear-groups", "/usr/bin/env", "-i"].map(str::to_owned);
        ids.into_iter().chain(clean).chain(env.iter().map(|word| (*word).to_owned())).collect()
    }

    /// Gives everything below `path` to this user.
    pub fn own(&self, path: &Path) {
        let _ = Cmd::new("chown").args(["-R", "-h", &format!("{}:{}", self.uid, self.gid)]).arg(path).ok();
    }

    /// Whether this user can execute `program`.
    pub fn can_execute(&self, program: impl AsRef<OsStr>) -> bool {
        let words = self.words(&["PATH=/usr/bin:/bin"]);
        Cmd::new(&words[0]).args(&words[1..]).args(["test", "-x"]).arg(program).run().status.success()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = Cmd::new(binaries::tool("userdel", "passwd")).arg(&self.name).attempt();
    }
}
