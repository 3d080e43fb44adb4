//! Every command's flags in one table: what help prints, what a command line is checked by.
//!
//! In: the words after a command. Out: the same words in one spelling (`-bundle x`, `--bundle=x` and `-b x` become `--bundle x`,
//! `--detach=false` disappears), or runc's refusal with the command's help. Takes no decision about a container.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// How many words a command takes beside its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// This many.
    Exactly(usize),
    /// From this many to that many.
    Between(usize, usize),
    /// This many; the first ends the flags, because what follows belongs to another program.
    AtLeast(usize),
}

/// One flag: long name, short letter, whether a value follows, what it is for.
pub(crate) type Flag = (&'static str, &'static str, bool, &'static str);

/// One command.
#[derive(Debug)]
pub(crate) struct Usage {
    /// Its name.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// What follows its flags, in words and as a number.
    pub words: (&'static str, Words),
    flags: &'static [&'static [Flag]],
}

/// Why the words are not those of the command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// `-h` or `--help`: no error.
    Help,
    /// What to say, and whether it is about a flag.
    Said(String),
}

const ID: (&str, Words) = ("<container-id>", Words::Exactly(1));

const BUNDLE: &[Flag] = &[("bundle", "b", true, "the bundle's folder (default: the current folder)")];
const CONSOLE: &[Flag] = &[
    ("console-socket", "", true, "a unix socket that gets the terminal's master end"),
    ("pidfd-socket", "", true, "a unix socket that gets a descriptor of the first process"),
    ("pid-file", "", true, "a file for the number of the first process"),
];
const MAKE: &[Flag] = &[
    ("no-pivot", "", false, "do not use pivot_root (for a root file system on a ramdisk)"),
    ("no-new-keyring", "", false, "keep the caller's session keyring"),
    ("preserve-fds", "", true, "hand over this many descriptors beyond the standard three and LISTEN_FDS"),
    ("plan", "", false, "print what would be done, as JSON, and do nothing"),
];
const RUN: &[Flag] = &[
    ("detach", "d", false, "do not stay until the process ends"),
    ("keep", "", false, "do not delete the container when it has ended"),
    ("no-subreaper", "", false, "do not adopt the container's orphans"),
    ("batch", "", false, "take words ID=BUNDLE, or - for lines of them on the standard input, and start them all"),
];
const EXEC: &[Flag] = &[
    ("cwd", "", true, "the folder to start in"),
    ("env", "e", true, "a variable NAME=VALUE (may be given more than once)"),
    ("tty", "t", false, "give the process a terminal"),
    ("user", "u", true, "UID[:GID]"),
    ("additional-gids", "g", true, "one more group (may be given more than once)"),
    ("process", "p", true, "a file with the process as in config.json"),
    ("detach", "d", false, "do not stay until the process ends"),
    ("process-label", "", true, "the SELinux label of the process"),
    ("apparmor", "", true, "the AppArmor profile of the process"),
    ("no-new-privs", "", false, "no privileges by execve"),
    ("cap", "c", true, "one more capability (may be given more than once)"),
    ("preserve-fds", "", true, "hand over this many descriptors beyond the standard three and LISTEN_FDS"),
    ("cgroup", "", true, "a cgroup below the container's, [CONTROLLERS:]PATH"),
    ("ignore-paused", "", false, "allow it in a paused container, where it waits"),
];
const CHECKPOINT: &[Flag] = &[
    ("image-path", "", true, "the folder of the image files (default: checkpoint)"),
    ("work-path", "", true, "the folder of CRIU's log"),
    ("parent-path", "", true, "the earlier images of a chain, relative to --image-path"),
    ("tcp-established", "", false, "keep open TCP connections"),
    ("tcp-skip-in-flight", "", false, "leave out TCP connections that are being made"),
    ("ext-unix-sk", "", false, "allow unix sockets to the outside"),
    ("shell-job", "", false, "allow a terminal of the outside"),
    ("lazy-pages", "", false, "bring memory when it is used"),
    ("file-locks", "", false, "keep file locks"),
    ("manage-cgroups-mode", "", true, "soft, full, strict or ignore (default: soft)"),
    ("empty-ns", "", true, "make this namespace, but leave it empty: network"),
    ("auto-dedup", "", false, "give back the pages of parent images that are not needed"),
    ("link-remap", "", false, "keep open files that were removed by a link"),
];
const DUMP: &[Flag] = &[
    ("leave-running", "", false, "do not stop the container afterwards"),
    ("page-server", "", true, "ADDRESS:PORT of CRIU's page server"),
    ("pre-dump", "", false, "write the memory alone and go on"),
    ("status-fd", "", true, "a descriptor that is told when lazy pages are ready"),
];
const RESTORE: &[Flag] = &[
    ("detach", "d", false, "do not stay until the process ends"),
    ("no-subreaper", "", false, "do not adopt the container's orphans"),
    ("no-pivot", "", false, "do not use pivot_root (for a root file system on a ramdisk)"),
    ("lsm-profile", "", true, "TYPE:NAME of the security profile"),
    ("lsm-mount-context", "", true, "the SELinux context of mounts"),
];
const RESTORE_CONSOLE: &[Flag] = &[CONSOLE[0], CONSOLE[2]];
const UPDATE: &[Flag] = &[
    (
        "resources",
        "r",
        true,
        "a file with limits as in config.json, or - for the standard input; the other flags are then ignored",
    ),
    ("blkio-weight", "", true, "share of block I/O, 10 to 1000"),
    ("cpu-period", "", true, "length of a period of the CPU quota, in µs"),
    ("cpu-quota", "", true, "CPU time in a period, in µs"),
    ("cpu-burst", "", true, "CPU time that may be saved up, in µs"),
    ("cpu-share", "", true, "share of the CPU"),
    ("cpu-rt-period", "", true, "length of a period of real-time processes, in µs"),
    ("cpu-rt-runtime", "", true, "CPU time of real-time processes in a period, in µs"),
    ("cpuset-cpus", "", true, "CPUs to use"),
    ("cpuset-mems", "", true, "memory nodes to use"),
    ("memory", "", true, "memory, in bytes"),
    ("memory-reservation", "", true, "soft limit of memory, in bytes"),
    ("memory-swap", "", true, "memory and swap together, in bytes; -1 for no limit"),
    ("kernel-memory", "", true, "ignored: kernels no longer offer it"),
    ("kernel-memory-tcp", "", true, "ignored: kernels no longer offer it"),
    ("cpu-idle", "", true, "1: run only when nobody else wants to"),
    ("pids-limit", "", true, "number of processes"),
    ("l3-cache-schema", "", true, "Intel RDT schema of the L3 cache"),
    ("mem-bw-schema", "", true, "Intel RDT schema of memory bandwidth"),
];
const FORMAT: &[Flag] = &[("format", "f", true, "table or json (default: table)")];

/// What stands before the command.
pub(crate) const GLOBAL: Usage = Usage {
    name: "",
    about: "Open Container Initiative runtime",
    words: ("command [command options] [arguments...]", Words::AtLeast(0)),
    flags: &[&[
        ("root", "", true, "where containers are recorded (default: /run/shoal-runtime)"),
        ("log", "", true, "the log file (default: the standard error)"),
        ("log-format", "", true, "text or json (default: text)"),
        ("debug", "", false, "log what happens"),
        ("systemd-cgroup", "", false, "let systemd make cgroups"),
        ("cgroup-manager", "", true, "cgroupfs, systemd or disabled"),
        ("rootless", "", true, "true, false or auto (default: auto)"),
        ("criu", "", true, "ignored: the criu of PATH is used"),
        ("version", "v", false, "print the version"),
    ]],
};

/// Every command, in the order of help.
pub(crate) const COMMANDS: &[Usage] = &[
    Usage { name: "create", about: "create a container from a bundle", words: ID, flags: &[BUNDLE, CONSOLE, MAKE] },
    Usage { name: "run", about: "create and start a container", words: ID, flags: &[BUNDLE, CONSOLE, MAKE, RUN] },
    Usage { name: "start", about: "execute the process of a created container", words: ID, flags: &[] },
    Usage {
        name: "exec",
        about: "execute another process in a container",
        words: ("<container-id> <command> [arguments...]", Words::AtLeast(1)),
        flags: &[CONSOLE, EXEC],
    },
    Usage { name: "pause", about: "stop all processes of a container", words: ID, flags: &[] },
    Usage { name: "resume", about: "let them go on", words: ID, flags: &[] },
    Usage {
        name: "ps",
        about: "list the processes of a container",
        words: ("<container-id> [ps options]", Words::AtLeast(1)),
        flags: &[FORMAT],
    },
    Usage {
        name: "checkpoint",
        about: "write a running container to files (CRIU)",
        words: ID,
        flags: &[CHECKPOINT, DUMP],
    },
    Usage {
        name: "restore",
        about: "make a container from such files",
        words: ID,
        flags: &[BUNDLE, RESTORE_CONSOLE, CHECKPOINT, RESTORE],
    },
    Usage {
        name: "mounts",
        about: "add mounts to a running container, or remove them",
        words: ("add|remove <container-id> FILE|-|DESTINATION...", Words::Between(3, usize::MAX)),
        flags: &[],
    },
    Usage { name: "update", about: "change the limits of a container", words: ID, flags: &[UPDATE] },
    Usage {
        name: "events",
        about: "output what a container uses, and when it lacks memory",
        words: ID,
        flags: &[&[
            ("interval", "", true, "time between two outputs (default: 5s)"),
            ("stats", "", false, "output what it uses once, and end"),
        ]],
    },
    Usage {
        name: "spec",
        about: "write a new config.json",
        words: ("", Words::Exactly(0)),
        flags: &[BUNDLE, &[("rootless", "", false, "one for a user without privileges")]],
    },
    Usage { name: "features", about: "output what this runtime can do", words: ("", Words::Exactly(0)), flags: &[] },
    Usage { name: "state", about: "output the state of a container", words: ID, flags: &[] },
    Usage {
        name: "list",
        about: "list the containers of this root",
        words: ("", Words::Exactly(0)),
        flags: &[FORMAT, &[("quiet", "q", false, "names alone")]],
    },
    Usage {
        name: "kill",
        about: "send a signal to a container's first process",
        words: ("<container-id> [signal]", Words::Between(1, 2)),
        flags: &[&[("all", "a", false, "send it to every process of the container")]],
    },
    Usage {
        name: "delete",
        about: "delete what a container holds",
        words: ID,
        flags: &[&[("force", "f", false, "kill what runs; no error when there is no such container")]],
    },
    Usage { name: "man", about: "output the manual page", words: ("", Words::Exactly(0)), flags: &[] },
    Usage {
        name: "completion",
        about: "output the completion of a shell",
        words: ("bash|zsh|fish", Words::Exactly(1)),
        flags: &[],
    },
];

impl Usage {
    /// The command of that name.
    pub(crate) fn of(name: &str) -> Option<&'static Self> {
        COMMANDS.iter().find(|usage| usage.name == name)
    }

    /// Its flags.
    pub(crate) fn flags(&self) -> impl Iterator<Item = &Flag> {
        self.flags.iter().copied().flatten()
    }

    /// The help of this command.
    pub(crate) fn help(&self) -> String {
        let (name, about, words) = (self.name, self.about, self.words.0);
        let mut text = String::from("NAME:\n   shoal-runtime ");
        if name.is_empty() {
            text.push_str(&format!("- {about}\n\nUSAGE:\n   shoal-runtime [global options] {words}\n\nCOMMANDS:\n"));
            for usage in COMMANDS {
                text.push_str(&format!("   {:<10}  {}\n", usage.name, usage.about));
            }
            text.push_str("   help, h     show this list, or the help of one command\n\nGLOBAL OPTIONS:\n");
        } else {
            text.push_str(&format!(
                "{name} - {about}\n\nUSAGE:\n   shoal-runtime {name} [command options] {words}\n\nOPTIONS:\n"
            ));
        }
        let left = |(long, short, value, _): &Flag| {
            let value = if *value { " value" } else { "" };
            if short.is_empty() { format!("--{long}{value}") } else { format!("--{long}{value}, -{short}{value}") }
        };
        let help: Flag = ("help", "h", false, "show help");
        let width = self.flags().map(|flag| left(flag).len()).max().unwrap_or(0).max(left(&help).len());
        for flag in self.flags().chain([&help]) {
            text.push_str(&format!("   {:width$}  {}\n", left(flag), flag.3));
        }
        text
    }

    /// Brings the words after the command into one spelling.
    pub(crate) fn check(&self, given: Vec<OsString>) -> Result<Vec<OsString>, Wrong> {
        let (mut plain, mut words) = (Vec::new(), 0);
        let mut given = given.into_iter();
        let mut flags_end = false;
        while let Some(word) = given.next() {
            let is_flag = word.as_bytes().starts_with(b"-") && word != OsStr::new("-") && !flags_end;
            if !is_flag {
                words += 1;
                flags_end |= matches!(self.words.1, Words::AtLeast(_));
                plain.push(word);
            } else if word == OsStr::new("--") {
                flags_end = true;
                plain.push(word);
            } else {
                self.flag(&word, &mut given, &mut plain)?;
            }
        }
        if plain.iter().any(|word| word == OsStr::new("--batch")) {
            return Ok(plain);
        }
        let name = self.name;
        let said = match self.words.1 {
            Words::Exactly(number) if words != number => format!("requires exactly {number} argument(s)"),
            Words::Between(least, _) | Words::AtLeast(least) if words < least => {
                format!("requires a minimum of {least} argument(s)")
            }
            Words::Between(_, most) if words > most => format!("requires a maximum of {most} argument(s)"),
            _ => return Ok(plain),
        };
        Err(Wrong::Said(format!("shoal-runtime: {name:?} {said}")))
    }

    fn flag(
        &self,
        word: &OsStr,
        given: &mut impl Iterator<Item = OsString>,
        plain: &mut Vec<OsString>,
    ) -> Result<(), Wrong> {
        let bytes = word.as_bytes();
        let bare = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-")).unwrap_or(bytes);
        let (name, value) = match bare.iter().position(|&byte| byte == b'=') {
            Some(at) => (&bare[..at], Some(&bare[at + 1..])),
            None => (bare, None),
        };
        if matches!(name, b"h" | b"help") {
            return Err(Wrong::Help);
        }
        let shown = || String::from_utf8_lossy(name).into_owned();
        let known = self.flags().find(|(long, short, ..)| name == long.as_bytes() || name == short.as_bytes());
        let Some((long, _, takes_value, _)) = known else {
            return Err(Wrong::Said(format!("flag provided but not defined: -{}", shown())));
        };
        let long_word = OsString::from(format!("--{long}"));
        match (takes_value, value) {
            (true, None) => {
                let value = given.next();
                let value = value.ok_or_else(|| Wrong::Said(format!("flag needs an argument: -{}", shown())))?;
                plain.push(joined(&long_word, value.as_bytes()));
            }
            (true, Some(value)) => plain.push(joined(&long_word, value)),
            (false, None | Some(b"true" | b"1" | b"t" | b"T" | b"TRUE" | b"True")) => plain.push(long_word),
            // The one flag for which "not given" and "no" differ: config.json may say yes.
            (false, Some(b"false" | b"0" | b"f" | b"F" | b"FALSE" | b"False")) => {
                if *long == "no-new-privs" {
                    plain.push(joined(&long_word, b"false"));
                }
            }
            (false, Some(value)) => {
                let value = String::from_utf8_lossy(value).into_owned();
                return Err(Wrong::Said(format!("invalid boolean value {value:?} for -{}", shown())));
            }
        }
        Ok(())
    }
}

/// `--flag=value` as one word: a value may begin with a dash.
fn joined(flag: &OsStr, value: &[u8]) -> OsString {
    OsString::from_vec([flag.as_bytes(), b"=", value].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: &str, words: &str) -> Result<String, Wrong> {
        let words = words.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect();
        let plain = Usage::of(command).expect("a command").check(words)?;
        Ok(plain.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "))
    }

    fn said(text: &str) -> Result<String, Wrong> {
        Err(Wrong::Said(text.to_owned()))
    }

    #[test]
    fn every_spelling_becomes_one() {
        for words in ["-b dir -d x", "--b dir -detach x", "--bundle=dir --detach=true x", "-bundle dir --detach=1 x"] {
            assert_eq!(check("run", words), Ok("--bundle=dir --detach x".into()), "{words}");
        }
        assert_eq!(check("run", "--detach=false x"), Ok("x".into()));
        assert_eq!(check("update", "--memory-swap -1 x"), Ok("--memory-swap=-1 x".into()));
        assert_eq!(check("exec", "--no-new-privs=false x true"), Ok("--no-new-privs=false x true".into()));
        let global = GLOBAL.check(["-root", "/x", "run", "-b", "y"].map(OsString::from).to_vec());
        assert_eq!(global, Ok(["--root=/x", "run", "-b", "y"].map(OsString::from).to_vec()));
        assert_eq!(check("run", "--detach=maybe x"), said("invalid boolean value \"maybe\" for -detach"));
    }

    #[test]
    fn flags_of_the_executed_program_are_its_own() {
        assert_eq!(check("exec", "-t x ls -l --help"), Ok("--tty x ls -l --help".into()));
        assert_eq!(check("ps", "x -o pid"), Ok("x -o pid".into()));
    }

    #[test]
    fn wrong_words_are_refused_as_runc_does() {
        assert_eq!(check("run", ""), said("shoal-runtime: \"run\" requires exactly 1 argument(s)"));
        assert_eq!(check("exec", ""), said("shoal-runtime: \"exec\" requires a minimum of 1 argument(s)"));
        assert_eq!(check("kill", "x 9 9"), said("shoal-runtime: \"kill\" requires a maximum of 2 argument(s)"));
        assert_eq!(check("run", "--nothing x"), said("flag provided but not defined: -nothing"));
        assert_eq!(check("run", "x -b"), said("flag needs an argument: -b"));
        assert_eq!(check("run", "x -h"), Err(Wrong::Help));
    }

    #[test]
    fn every_limit_of_update_is_a_flag() {
        let update = Usage::of("update").expect("a command");
        let flags: Vec<&str> = update.flags().map(|flag| flag.0).collect();
        for limit in runtime::host::update::FLAGS {
            assert!(flags.contains(&limit), "{limit}");
        }
        assert_eq!(flags.len(), runtime::host::update::FLAGS.len());
        assert!(update.help().contains("--resources value, -r value"));
    }
}
