//! The words in `mounts[].options`: one table, used to read them and to tell `features` what is known.
//! runtime-spec config.md "Linux mount options"

use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME,
};

use super::mounts::{Propagation, PropagationFlag};
use crate::host::sys::mount::Attr;

/// What one word means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing.
    Nothing,
    /// Once a flag of mount(2), for which the kernel's way to make mounts has no place and no use; taken as other
    /// runtimes take it, and not told by `features`.
    Obsolete,
    /// Attribute bits to set after clearing others.
    Attribute {
        /// Bits to set.
        set: u64,
        /// Bits to clear.
        clear: u64,
    },
    /// A bind mount; with all below it or without.
    Bind {
        /// With all below it.
        recursive: bool,
    },
    /// How mounts below it spread.
    Propagate(PropagationFlag),
    /// A flag of the file system itself, passed on under the same name.
    Filesystem,
    /// Fill a new tmpfs with what the directory held.
    CopyUp,
    /// Map ids; with all below it or without.
    IdMap {
        /// With all below it.
        recursive: bool,
    },
}

const fn set(bits: u64) -> Meaning {
    Meaning::Attribute { set: bits, clear: 0 }
}

const fn clear(bits: u64) -> Meaning {
    Meaning::Attribute { set: 0, clear: bits }
}

const fn atime(bits: u64) -> Meaning {
    Meaning::Attribute { set: bits, clear: MOUNT_ATTR__ATIME }
}

/// Attributes: each also exists with an `r` before it, for a whole tree.
const ATTRIBUTES: [(&str, Meaning); 18] = [
    ("ro", set(MOUNT_ATTR_RDONLY)),
    ("rw", clear(MOUNT_ATTR_RDONLY)),
    ("nosuid", set(MOUNT_ATTR_NOSUID)),
    ("suid", clear(MOUNT_ATTR_NOSUID)),
    ("nodev", set(MOUNT_ATTR_NODEV)),
    ("dev", clear(MOUNT_ATTR_NODEV)),
    ("noexec", set(MOUNT_ATTR_NOEXEC)),
    ("exec", clear(MOUNT_ATTR_NOEXEC)),
    ("nodiratime", set(MOUNT_ATTR_NODIRATIME)),
    ("diratime", clear(MOUNT_ATTR_NODIRATIME)),
    ("nosymfollow", set(MOUNT_ATTR_NOSYMFOLLOW)),
    ("symfollow", clear(MOUNT_ATTR_NOSYMFOLLOW)),
    ("noatime", atime(MOUNT_ATTR_NOATIME)),
    ("atime", atime(MOUNT_ATTR_RELATIME)),
    ("relatime", atime(MOUNT_ATTR_RELATIME)),
    ("norelatime", atime(MOUNT_ATTR_STRICTATIME)),
    ("strictatime", atime(MOUNT_ATTR_STRICTATIME)),
    ("nostrictatime", atime(MOUNT_ATTR_RELATIME)),
];

/// Everything else.
const WORDS: [(&str, Meaning); 27] = [
    ("defaults", Meaning::Nothing),
    ("bind", Meaning::Bind { recursive: false }),
    ("rbind", Meaning::Bind { recursive: true }),
    ("private", Meaning::Propagate(PropagationFlag::Private)),
    ("shared", Meaning::Propagate(PropagationFlag::Shared)),
    ("slave", Meaning::Propagate(PropagationFlag::Slave)),
    ("unbindable", Meaning::Propagate(PropagationFlag::Unbindable)),
    ("rprivate", Meaning::Propagate(PropagationFlag::Private)),
    ("rshared", Meaning::Propagate(PropagationFlag::Shared)),
    ("rslave", Meaning::Propagate(PropagationFlag::Slave)),
    ("runbindable", Meaning::Propagate(PropagationFlag::Unbindable)),
    ("sync", Meaning::Filesystem),
    ("async", Meaning::Filesystem),
    ("dirsync", Meaning::Filesystem),
    ("lazytime", Meaning::Filesystem),
    ("nolazytime", Meaning::Filesystem),
    ("mand", Meaning::Filesystem),
    ("nomand", Meaning::Filesystem),
    ("silent", Meaning::Obsolete),
    ("loud", Meaning::Obsolete),
    ("iversion", Meaning::Obsolete),
    ("noiversion", Meaning::Obsolete),
    ("acl", Meaning::Obsolete),
    ("noacl", Meaning::Obsolete),
    ("tmpcopyup", Meaning::CopyUp),
    ("idmap", Meaning::IdMap { recursive: false }),
    ("ridmap", Meaning::IdMap { recursive: true }),
];

/// What a list of options asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// A bind mount, and whether with all below it.
    pub bind: Option<bool>,
    /// Attributes of the mount.
    pub attr: Attr,
    /// Attributes of the mount and all below it.
    pub recursive_attr: Attr,
    /// Propagation changes, in order.
    pub propagation: Vec<Propagation>,
    /// Options of the file system.
    pub filesystem: Vec<(String, Option<String>)>,
    /// Fill a tmpfs with what the directory held.
    pub copy_up: bool,
    /// Map ids, and whether with all below it.
    pub idmap: Option<bool>,
}

/// Reads a list of options; a word of no table is an option of the file system.
pub fn read<'a>(words: impl IntoIterator<Item = &'a str>) -> Options {
    let mut options = Options::default();
    for word in words.into_iter().filter(|word| !word.is_empty()) {
        if let Some(meaning) = find(&WORDS, word) {
            options.apply(word, meaning);
        } else if let Some(Meaning::Attribute { set, clear }) = find(&ATTRIBUTES, word) {
            options.attr = with(options.attr, set, clear);
        } else if let Some(Meaning::Attribute { set, clear }) =
            word.strip_prefix('r').and_then(|word| find(&ATTRIBUTES, word))
        {
            options.recursive_attr = with(options.recursive_attr, set, clear);
        } else {
            let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
            options.filesystem.push((key.to_owned(), value.map(str::to_owned)));
        }
    }
    options
}

/// Every word that does something here, sorted; for `features`.
pub fn known() -> Vec<String> {
    let works = WORDS.iter().filter(|row| row.1 != Meaning::Obsolete);
    let plain = works.chain(&ATTRIBUTES).map(|row| row.0.to_owned());
    let mut words: Vec<String> = plain.chain(ATTRIBUTES.iter().map(|row| format!("r{}", row.0))).collect();
    words.sort();
    words.dedup();
    words
}

fn find(table: &[(&str, Meaning)], word: &str) -> Option<Meaning> {
    table.iter().find(|row| row.0 == word).map(|row| row.1)
}

/// The later word wins over an earlier opposite.
fn with(attr: Attr, set: u64, clear: u64) -> Attr {
    Attr { set: attr.set & !clear | set, clear: attr.clear & !set | clear, ..attr }
}

impl Options {
    fn apply(&mut self, word: &str, meaning: Meaning) {
        match meaning {
            Meaning::Nothing | Meaning::Obsolete | Meaning::Attribute { .. } => {}
            Meaning::Bind { recursive } => self.bind = Some(recursive),
            Meaning::Propagate(flag) => {
                self.propagation.push(Propagation { flag, recursive: word.starts_with('r') });
            }
            Meaning::Filesystem => self.filesystem.push((word.to_owned(), None)),
            Meaning::CopyUp => self.copy_up = true,
            Meaning::IdMap { recursive } => self.idmap = Some(recursive),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_two_opposites_wins() {
        let options = read(["ro", "nosuid", "rw"]);
        assert_eq!((options.attr.set, options.attr.clear), (MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY));
    }

    #[test]
    fn access_time_words_replace_each_other() {
        let options = read(["noatime", "strictatime"]);
        assert_eq!((options.attr.set, options.attr.clear), (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME));
    }

    #[test]
    fn an_r_before_an_attribute_means_the_whole_tree_and_relatime_stays_itself() {
        let options = read(["rro", "rnosuid", "relatime", "rbind", "rslave"]);
        assert_eq!(options.recursive_attr.set, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID);
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.propagation, [Propagation { flag: PropagationFlag::Slave, recursive: true }]);
        assert_eq!(options.attr.clear, MOUNT_ATTR__ATIME);
    }

    #[test]
    fn obsolete_flags_are_taken_and_not_told() {
        assert_eq!(read(["acl", "noacl", "iversion", "silent", "loud"]), Options::default());
        assert!(known().iter().all(|word| !["acl", "iversion", "silent"].contains(&word.as_str())));
    }

    #[test]
    fn other_words_go_to_the_file_system() {
        let options = read(["mode=755", "size=1m", "inode64"]);
        let want = [("mode", Some("755")), ("size", Some("1m")), ("inode64", None)];
        assert_eq!(options.filesystem, want.map(|(key, value)| (key.to_owned(), value.map(str::to_owned))));
    }
}
