//! Puts the process under its landlock rules, right before it executes its program.
//!
//! Paths are the container's, looked up as its user. What the kernel does not know is left out unless the document says
//! otherwise; rules that are in force are never lifted again.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::super::room::is_directory;
use super::super::sys::landlock as sys;
use crate::error::{During, Error, Result};
use crate::plan::landlock::{FILE_RIGHTS, Landlock, NETWORK_RIGHTS, OF_A_FILE, known_to};

/// Applies `wanted` to this process.
pub(super) fn confine(wanted: &Landlock) -> Result<()> {
    let lack = |hint: &str| Error::HostLack { what: "landlock".into(), hint: hint.to_owned() };
    let version = match sys::version() {
        Ok(version) => version,
        // Not in this kernel, or not switched on.
        Err(Errno::ENOSYS | Errno::EOPNOTSUPP) if !wanted.strict => return Ok(()),
        Err(Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            return Err(lack("add it to the kernel's lsm= list, or leave disableBestEffort out"));
        }
        Err(errno) => return Err(errno).during(|| "ask for landlock's version"),
    };
    let (files, network) = (known_to(&FILE_RIGHTS, version), known_to(&NETWORK_RIGHTS, version));
    if wanted.strict && (wanted.files & !files, wanted.network & !network) != (0, 0) {
        return Err(lack(
            "the kernel is too old for some of the rights; leave disableBestEffort out to do without them",
        ));
    }
    let (files, network) = (wanted.files & files, wanted.network & network);
    if (files, network) == (0, 0) {
        return Ok(());
    }
    let rules = sys::ruleset(files, network).during(|| "make the landlock rules")?;
    for (rights, path) in &wanted.paths {
        let operation = || format!("allow what is below {path} (landlock)");
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let below = nix::fcntl::open(path.as_str(), flags, Mode::empty()).during(operation)?;
        let of_it = if is_directory(below.as_fd()).during(operation)? { u64::MAX } else { OF_A_FILE };
        match rights & files & of_it {
            0 => {}
            rights => sys::allow_path(rules.as_fd(), rights, below.as_fd()).during(operation)?,
        }
    }
    for (rights, port) in &wanted.ports {
        match rights & network {
            0 => {}
            rights => {
                sys::allow_port(rules.as_fd(), rights, *port).during(|| format!("allow port {port} (landlock)"))?
            }
        }
    }
    sys::restrict_self(rules.as_fd()).during(|| "put the process under its landlock rules")
}
