//! Names of containers: which are allowed, who holds one, and how one is made up.
//!
//! A name is a file `data/names/NAME` that holds an id; two commands cannot both create it. A name whose container is
//! gone (its folder has no record and nobody holds its lock) may be taken over.

use crate::file::FileError;
use crate::host::process;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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
        let mut claim = Err(io::ErrorKind::AlreadyExists.into());
        for _ in 0..8 {
            claim = fs::hard_link(&temporary, &path);
            if !matches!(&claim, Err(error) if error.kind() == io::ErrorKind::AlreadyExists) {
                break;
            }
            match self.holder(name)? {
                Some(holder) if self.is_alive(&holder) => {
                    fs::remove_file(&temporary).ok();
                    return Ok(Claim::Taken(holder));
                }
                Some(_) => drop(fs::remove_file(&path)),
                None => {}
            }
        }
        fs::remove_file(&temporary).ok();
        claim.map_err(FileError::io("claim the name", &path))?;
        Ok(Claim::Ours)
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

    /// A container lives when it has a record, or when somebody is making it at this moment.
    fn is_alive(&self, id: &str) -> bool {
        let folder = self.containers.join(id);
        if folder.join("record.json").exists() {
            return true;
        }
        let Ok(lock) = fs::File::open(folder.join("lock")) else { return false };
        nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock).is_err()
    }
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
}
