//! Names of containers: which are allowed, who holds one, and how one is made up.
//!
//! A name is a file `data/names/NAME` that holds an id; two commands cannot both create it. A name whose container is
//! gone (its folder has no record and nobody holds its lock) may be taken over.

use crate::file::FileError;
use crate::host::process;
use nix::fcntl::{Flock, FlockArg};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Held for the moment in which a dead holder's name is taken over.
const TAKEOVER: &str = "#takeover.lock";

/// The names of one data folder.
#[derive(Debug, Clone)]
pub struct Names {
    folder: PathBuf,
    containers: PathBuf,
}

/// What came of asking for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is ours now.
    Ours,
    /// It belongs to the container with this id.
    Taken(String),
}

impl Names {
    /// The names below a data folder.
    pub fn below(data: &Path) -> Self {
        Self { folder: data.join("names"), containers: data.join("containers") }
    }

    /// Takes a name for a container.
    pub fn claim(&self, name: &str, id: &str) -> Result<Claim, FileError> {
        fs::create_dir_all(&self.folder).map_err(FileError::io("make", &self.folder))?;
        let path = self.folder.join(name);
        // Written aside and linked: whoever sees the name also sees the id.
        let temporary = self.folder.join(format!("#{id}"));
        fs::File::create(&temporary)
            .and_then(|mut file| file.write_all(id.as_bytes()))
            .map_err(FileError::io("write", &temporary))?;
        let claim = self.link(&temporary, &path, name);
        fs::remove_file(&temporary).ok();
        claim.map_err(FileError::io("claim the name", &path))
    }

    fn link(&self, temporary: &Path, path: &Path, name: &str) -> io::Result<Claim> {
        let is_taken =
            |result: &io::Result<()>| matches!(result, Err(error) if error.kind() == io::ErrorKind::AlreadyExists);
        let first = fs::hard_link(temporary, path);
        if !is_taken(&first) {
            return first.map(|()| Claim::Ours);
        }
        // Two that take over the same dead holder's name must not each remove what the other has just made.
        let lock = fs::File::create(self.folder.join(TAKEOVER))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
        loop {
            match self.holder(name).map_err(io::Error::other)? {
                Some(holder) if self.is_alive(&holder) => return Ok(Claim::Taken(holder)),
                Some(_) => match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
                None => {}
            }
            let again = fs::hard_link(temporary, path);
            if !is_taken(&again) {
                return again.map(|()| Claim::Ours);
            }
        }
    }

    /// Removes what killed commands have left: ids written and not yet named, names of containers that are no more.
    pub fn sweep(&self) -> Result<(), FileError> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Ok(()) };
        for entry in entries.flatten() {
            let file = entry.file_name();
            if let Some(name) = file.to_str().filter(|name| !name.starts_with('#')) {
                self.sweep_name(name)?;
                continue;
            }
            let Some(id) = file.to_str().and_then(|name| name.strip_prefix('#')).filter(|id| !id.is_empty()) else {
                continue;
            };
            if file.as_encoded_bytes() != TAKEOVER.as_bytes() && !self.is_alive(id) {
                fs::remove_file(entry.path()).map_err(FileError::io("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    fn sweep_name(&self, name: &str) -> Result<(), FileError> {
        let is_dead = || self.holder(name).map(|holder| holder.is_some_and(|id| !self.is_alive(&id)));
        if !is_dead()? {
            return Ok(());
        }
        let path = self.folder.join(name);
        let remove = || -> io::Result<()> {
            // Nobody takes it over between the second look and the removal.
            let lock = fs::File::create(self.folder.join(TAKEOVER))?;
            let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
            match is_dead().map_err(io::Error::other)? {
                true => fs::remove_file(&path),
                false => Ok(()),
            }
        };
        remove().map_err(FileError::io("remove", &path))
    }

    /// Gives a name back if this container holds it.
    pub fn release(&self, name: &str, id: &str) -> Result<(), FileError> {
        if self.holder(name)?.as_deref() == Some(id) {
            let path = self.folder.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(FileError::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The id of the container with this name.
    pub fn holder(&self, name: &str) -> Result<Option<String>, FileError> {
        let path = self.folder.join(name);
        match fs::read_to_string(&path) {
            Ok(id) => Ok(Some(id.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::io("read", &path)(error)),
        }
    }

    fn is_alive(&self, id: &str) -> bool {
        lives(&self.containers.join(id))
    }
}

/// Whether the container with this data folder lives: it has a record, or somebody is making it at this moment. A folder
/// that a killed command has left is no container.
pub fn lives(folder: &Path) -> bool {
    if folder.join("record.json").exists() {
        return true;
    }
    let Ok(lock) = fs::File::open(folder.join("lock")) else { return false };
    Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_err()
}

/// Whether docker would accept this name: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub fn is_valid(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    name.len() >= 2 && name.len() <= 253 && name.as_bytes()[0].is_ascii_alphanumeric() && name.bytes().all(good)
}

/// Makes up an id: 64 hexadecimal digits.
pub fn new_id() -> String {
    loop {
        let id: String = process::random::<32>().iter().map(|byte| format!("{byte:02x}")).collect();
        // A short id of digits alone would be read as a number by other tools.
        if !id[..12].bytes().all(|byte| byte.is_ascii_digit()) {
            return id;
        }
    }
}

/// Makes up a name from two random numbers: a mood and a fish.
pub fn made_up(random: [u8; 4]) -> String {
    let pick =
        |list: &[&'static str], high: u8, low: u8| list[usize::from(u16::from_be_bytes([high, low])) % list.len()];
    format!("{}_{}", pick(&MOODS, random[0], random[1]), pick(&FISH, random[2], random[3]))
}

const MOODS: [&str; 48] = [
    "agile", "amber", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid", "clever", "coral", "cosmic",
    "crisp", "curious", "daring", "dapper", "eager", "earnest", "fearless", "fleet", "gentle", "glad", "golden",
    "happy", "hardy", "humble", "jolly", "keen", "kind", "lively", "lucid", "lucky", "mellow", "merry", "nimble",
    "noble", "patient", "placid", "proud", "quick", "quiet", "serene", "silver", "steady", "sunny", "swift", "tidy",
    "witty",
];

const FISH: [&str; 56] = [
    "anchovy",
    "angler",
    "barbel",
    "barracuda",
    "bass",
    "betta",
    "bleak",
    "blenny",
    "bonito",
    "bream",
    "brill",
    "burbot",
    "carp",
    "catfish",
    "char",
    "chub",
    "cod",
    "conger",
    "dace",
    "dorado",
    "eel",
    "flounder",
    "garfish",
    "goby",
    "grayling",
    "grouper",
    "gurnard",
    "haddock",
    "hake",
    "halibut",
    "herring",
    "ide",
    "lamprey",
    "ling",
    "loach",
    "mackerel",
    "marlin",
    "minnow",
    "mullet",
    "perch",
    "pike",
    "plaice",
    "pollock",
    "ray",
    "roach",
    "rudd",
    "salmon",
    "sardine",
    "seabass",
    "smelt",
    "sole",
    "sprat",
    "sturgeon",
    "tench",
    "trout",
    "tuna",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_or_ids_of_nothing_are_refused() {
        for good in ["web", "a1", "web-1_x.y", "0a"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "a", ".x", "-x", "a/b", "a b", "..", "ä1", "#x1"] {
            assert!(!is_valid(bad), "{bad}");
        }
        assert!(is_valid(&made_up([1, 2, 3, 4])));
    }

    #[test]
    fn a_name_has_one_holder_until_its_container_is_gone() {
        let data = std::env::temp_dir().join(format!("shoal-names-{}", std::process::id()));
        let names = Names::below(&data);
        fs::create_dir_all(data.join("containers/one")).unwrap();
        fs::write(data.join("containers/one/record.json"), "{}").unwrap();
        assert_eq!(names.claim("web", "one").unwrap(), Claim::Ours);
        assert_eq!(names.claim("web", "two").unwrap(), Claim::Taken("one".into()));
        fs::remove_dir_all(data.join("containers/one")).unwrap();
        assert_eq!(names.claim("web", "two").unwrap(), Claim::Ours);
        names.release("web", "one").unwrap();
        assert_eq!(names.holder("web").unwrap().as_deref(), Some("two"));
        fs::remove_dir_all(&data).unwrap();
    }

    #[test]
    fn a_dead_holders_name_goes_to_one_of_those_who_ask() {
        let data = std::env::temp_dir().join(format!("shoal-names-race-{}", std::process::id()));
        for round in 0..50 {
            let names = Names::below(&data);
            fs::create_dir_all(data.join("names")).unwrap();
            fs::write(data.join("names/web"), "dead").unwrap();
            let won: Vec<Claim> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|number| {
                        let (names, data) = (names.clone(), data.clone());
                        scope.spawn(move || {
                            let id = format!("{round}-{number}");
                            fs::create_dir_all(data.join("containers").join(&id)).unwrap();
                            fs::write(data.join("containers").join(&id).join("record.json"), "{}").unwrap();
                            names.claim("web", &id).unwrap()
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(won.iter().filter(|claim| **claim == Claim::Ours).count(), 1, "{won:?}");
            fs::remove_dir_all(&data).unwrap();
        }
    }

    #[test]
    fn half_made_names_are_swept_and_living_ones_kept() {
        let data = std::env::temp_dir().join(format!("shoal-names-sweep-{}", std::process::id()));
        let names = Names::below(&data);
        fs::create_dir_all(data.join("names")).unwrap();
        fs::create_dir_all(data.join("containers/one")).unwrap();
        fs::write(data.join("containers/one/record.json"), "{}").unwrap();
        for file in ["#one", "#dead", "web"] {
            fs::write(data.join("names").join(file), "one").unwrap();
        }
        names.sweep().unwrap();
        assert!(data.join("names/#one").exists() && data.join("names/web").exists());
        assert!(!data.join("names/#dead").exists());
        fs::remove_dir_all(&data).unwrap();
    }
}
