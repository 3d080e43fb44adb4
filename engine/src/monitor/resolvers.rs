//! The resolvers of a container's networks, watched by its monitor: one that dies is started anew.
//!
//! In: what connects the container (`network.json`), what each resolver says of itself. Out: handles to poll, a time to look
//! again. All monitors of a network notice at once; they look at different times, and the first of them has it started.

use super::plan::Plan;
use crate::file;
use crate::host::resolver;
use crate::network::Attachment;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How far apart the monitors of a network look after its resolver has ended.
const SPREAD_MS: u32 = 500;
/// When a resolver that could not be started is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// When one that was started, or that another monitor is starting, is asked again who it is.
const SOON: Duration = Duration::from_millis(200);

/// The resolvers of one container.
#[derive(Debug, Default)]
pub(super) struct Resolvers {
    alive: Vec<OwnedFd>,
    /// When they are looked at next.
    pub(super) due: Option<Instant>,
}

impl Resolvers {
    /// What becomes readable when one of them ends.
    pub(super) fn handles(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.alive.iter().map(AsFd::as_fd)
    }

    /// One has ended: looks after a while that is another in every monitor.
    pub(super) fn ended(&mut self) {
        self.alive.clear();
        self.due = Some(Instant::now() + Duration::from_millis(u64::from(std::process::id() % SPREAD_MS)));
    }

    /// Looks at the next turn of the loop.
    pub(super) fn look_anew(&mut self) {
        self.alive.clear();
        self.due = Some(Instant::now());
    }

    /// Finds the resolvers of the container's networks, and starts those that do not run.
    pub(super) fn look(&mut self, plan: &Plan) {
        self.alive.clear();
        self.due = None;
        for folder in folders(plan) {
            match resolver::revive(&folder) {
                Ok(Some(handle)) => self.alive.push(handle),
                // Its names are missed until the next look; the container goes on.
                Ok(None) => self.due = Some(Instant::now() + SOON),
                Err(_) => self.due = Some(self.due.unwrap_or_else(|| Instant::now() + AGAIN)),
            }
        }
    }
}

/// The folders of the networks that have a resolver and this container.
fn folders(plan: &Plan) -> Vec<PathBuf> {
    if plan.networks.as_os_str().is_empty() {
        return Vec::new();
    }
    let attachments: Vec<Attachment> = file::load(&plan.data.join("network.json")).unwrap_or_default();
    let named = attachments.iter().filter(|attachment| !attachment.nameservers.is_empty());
    named.map(|attachment| plan.networks.join(&attachment.network_id)).collect()
}
