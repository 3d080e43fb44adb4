//! Addresses of one network: one file an address, made by `link(2)`, so the file system is the lock. In: a folder, a subnet,
//! a container. Out: an address that nobody else holds. No daemon, no database.

use super::plan;
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The leases of one network.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    folder: PathBuf,
    /// Where a living container has a folder named by its id: a lease without one is stale.
    containers: PathBuf,
}

/// Why no address was given.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The wanted address belongs to this container.
    Taken(String),
    /// Every address of the subnet is held.
    Exhausted,
    /// The folder could not be used.
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Leases {
    /// Names the leases below a network's run-time folder.
    pub(crate) fn new(network_run: &Path, containers: &Path) -> Self {
        Self { folder: network_run.join("leases"), containers: containers.to_owned() }
    }

    /// Takes the wanted address, or the next free one. A container that asks again keeps what it has.
    pub(crate) fn take(
        &self,
        container: &str,
        subnet: IpNet,
        range: Option<IpNet>,
        reserved: Vec<IpAddr>,
        wanted: Option<IpAddr>,
    ) -> Result<IpAddr, Refusal> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        fs::create_dir_all(&self.folder)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Written first and linked into place, so that nobody ever reads a lease without its holder.
        let draft = self.folder.join(format!(".{}-{number}-{container}", std::process::id()));
        fs::write(&draft, container)?;
        let taken = match wanted {
            Some(address) => self.take_one(&draft, container, address).map(|()| address),
            None => self.take_next(&draft, container, subnet, range, reserved),
        };
        fs::remove_file(&draft)?;
        taken
    }

    fn take_one(&self, draft: &Path, container: &str, address: IpAddr) -> Result<(), Refusal> {
        if self.link(draft, address)? || self.reclaim(draft, container, address)? {
            return Ok(());
        }
        Err(Refusal::Taken(self.holder(address)?.unwrap_or_default()))
    }

    fn take_next(
        &self,
        draft: &Path,
        container: &str,
        subnet: IpNet,
        range: Option<IpNet>,
        reserved: Vec<IpAddr>,
    ) -> Result<IpAddr, Refusal> {
        let family = if subnet.addr().is_ipv4() { "last4" } else { "last6" };
        let hint = self.folder.with_file_name(family);
        let last = fs::read_to_string(&hint).ok().and_then(|text| text.trim().parse().ok());
        let candidates: Vec<IpAddr> = plan::candidates(subnet, range, reserved, last).collect();
        for address in &candidates {
            if self.link(draft, *address)? {
                // A hint only: two writers at once cost a few more tries, never an address.
                fs::write(&hint, address.to_string())?;
                return Ok(*address);
            }
        }
        for address in &candidates {
            if self.reclaim(draft, container, *address)? {
                return Ok(*address);
            }
        }
        Err(Refusal::Exhausted)
    }

    fn link(&self, draft: &Path, address: IpAddr) -> io::Result<bool> {
        match fs::hard_link(draft, self.path(address)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes over an address whose holder is gone, or is this container. Under a lock, for two that reclaim at once.
    fn reclaim(&self, draft: &Path, container: &str, address: IpAddr) -> io::Result<bool> {
        let lock = File::create(self.folder.with_file_name("reclaim.lock"))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
        match self.holder(address)? {
            Some(holder) if holder == container => return Ok(true),
            // The folder of a container is made before its first lease and removed after its last.
            Some(holder) if !holder.is_empty() && !self.containers.join(&holder).exists() => self.remove(address)?,
            Some(_) => return Ok(false),
            None => {}
        }
        self.link(draft, address)
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.folder.join(address.to_string())
    }

    /// Returns the container that holds an address.
    pub(crate) fn holder(&self, address: IpAddr) -> io::Result<Option<String>> {
        absent(fs::read_to_string(self.path(address)))
    }

    /// Gives an address back if this container holds it.
    pub(crate) fn give_back(&self, container: &str, address: IpAddr) -> io::Result<()> {
        if self.holder(address)?.as_deref() == Some(container) { self.remove(address) } else { Ok(()) }
    }

    /// Returns every address that a container holds.
    pub(crate) fn of(&self, container: &str) -> io::Result<Vec<IpAddr>> {
        Ok(self.all()?.into_iter().filter(|(_, holder)| holder == container).map(|(address, _)| address).collect())
    }

    /// Removes what a killed process of this container has written and not yet linked.
    pub(crate) fn remove_drafts(&self, container: &str) -> io::Result<()> {
        let Some(entries) = absent(fs::read_dir(&self.folder))? else { return Ok(()) };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(&format!("-{container}"))) {
                absent(fs::remove_file(entry.path()))?;
            }
        }
        Ok(())
    }

    /// Returns every lease: address and holder.
    pub(crate) fn all(&self) -> io::Result<Vec<(IpAddr, String)>> {
        let Some(entries) = absent(fs::read_dir(&self.folder))? else { return Ok(Vec::new()) };
        let mut leases = Vec::new();
        for entry in entries {
            let Some(address) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            leases.extend(self.holder(address)?.map(|holder| (address, holder)));
        }
        leases.sort();
        Ok(leases)
    }

    fn remove(&self, address: IpAddr) -> io::Result<()> {
        absent(fs::remove_file(self.path(address))).map(|_| ())
    }
}

/// Turns "not found" into `None`.
pub(crate) fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> (PathBuf, Leases) {
        let root = std::env::temp_dir().join(format!("shoal-ipam-{}-{name}", std::process::id()));
        let leases = Leases::new(&root.join("net"), &root.join("containers"));
        for id in ["a", "b", "c"] {
            fs::create_dir_all(root.join("containers").join(id)).expect("a scratch folder");
        }
        (root, leases)
    }

    fn subnet() -> IpNet {
        "10.1.0.0/29".parse().expect("a network")
    }

    #[test]
    fn addresses_come_in_turns_and_are_not_reused_at_once() {
        let (root, leases) = room("turns");
        let gateway: IpAddr = "10.1.0.1".parse().expect("an address");
        let take = |id| leases.take(id, subnet(), None, vec![gateway], None).expect("free").to_string();
        assert_eq!(take("a"), "10.1.0.2");
        assert_eq!(take("b"), "10.1.0.3");
        leases.give_back("a", "10.1.0.2".parse().expect("an address")).expect("removable");
        assert_eq!(take("c"), "10.1.0.4");
        fs::remove_dir_all(root).expect("removable");
    }

    #[test]
    fn a_wanted_address_is_refused_while_its_holder_lives_and_taken_from_the_gone() {
        let (root, leases) = room("wanted");
        let wanted = Some("10.1.0.5".parse().expect("an address"));
        assert!(leases.take("a", subnet(), None, vec![], wanted).is_ok());
        assert!(leases.take("a", subnet(), None, vec![], wanted).is_ok());
        assert!(matches!(leases.take("b", subnet(), None, vec![], wanted), Err(Refusal::Taken(id)) if id == "a"));
        fs::remove_dir(root.join("containers/a")).expect("removable");
        assert!(leases.take("b", subnet(), None, vec![], wanted).is_ok());
        fs::remove_dir_all(root).expect("removable");
    }

    #[test]
    fn a_full_subnet_takes_back_the_leases_of_the_gone_only() {
        let (root, leases) = room("full");
        let take = |id: &str| leases.take(id, subnet(), None, vec![], None);
        for id in ["a", "b", "c", "gone", "a", "b"] {
            take(id).expect("six addresses are free");
        }
        fs::create_dir_all(root.join("containers/d")).expect("a scratch folder");
        assert_eq!(take("d").expect("the gone one's").to_string(), "10.1.0.4");
        assert!(matches!(take("e"), Err(Refusal::Exhausted)));
        assert_eq!(leases.of("a").expect("readable").len(), 2);
        fs::remove_dir_all(root).expect("removable");
    }

    #[test]
    fn a_killed_takers_draft_goes_with_its_container_alone() {
        let (root, leases) = room("drafts");
        leases.take("a", subnet(), None, vec![], None).expect("free");
        let draft = |id: &str| root.join("net/leases").join(format!(".7-0-{id}"));
        for id in ["a", "b"] {
            fs::write(draft(id), id).expect("writable");
        }
        leases.remove_drafts("a").expect("removable");
        assert!(!draft("a").exists() && draft("b").exists());
        assert_eq!(leases.of("a").expect("readable").len(), 1);
        fs::remove_dir_all(root).expect("removable");
    }

    #[test]
    fn takers_at_once_never_share_an_address() {
        let (root, leases) = room("race");
        let wide: IpNet = "10.2.0.0/24".parse().expect("a network");
        let mut all: Vec<IpAddr> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..20).map(|_| leases.take("a", wide, None, vec![], None).expect("free")).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 160);
        fs::remove_dir_all(root).expect("removable");
    }
}
