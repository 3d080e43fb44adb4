//! The known attacks, row by row: which tests hold them off, how many rounds were run, and what came of it.
//!
//! In: the number of rounds of a race, and how long all may take. Out: a table, and with `--write` the page
//! `docs/attacks.md`. The rows are those of the published advisories; the tests are cases of the runtime suite, each run in
//! a process of its own. The races take turns of some hundred rounds, so that a run that is cut short has tried each as often
//! as every other; the page says how often that was.

use crate::shell::{self, Result};
use crate::suite;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// An attack: its name, what is tried, what must hold, and the cases of the suite that try it.
struct Attack {
    id: &'static str,
    tried: &'static str,
    holds: &'static str,
    cases: &'static [&'static str],
}

/// Cases that are tests of the suite of this name, and not of the runtime's.
const ROOTLESS: &str = "rootless::";

/// Cases below this module are races and run as often as told.
const RACES: &str = "raced::";

const ATTACKS: &[Attack] = &[
    Attack {
        id: "CVE-2019-5736",
        tried: "the payload is `/proc/self/exe`, then `/proc/PID/exe` is opened for writing in a loop",
        holds: "the host's binary is unchanged",
        cases: &[
            "security::cve_2019_5736_the_binary_cannot_be_opened_for_writing",
            "raced::cve_2019_5736_the_binary_is_never_open_for_writing_while_exec_goes_on",
        ],
    },
    Attack {
        id: "remounted later",
        tried: "the binary lies on a read-only mount; `/proc/PID/exe` is kept open, the mount is made writable",
        holds: "what was kept cannot be written",
        cases: &["security::a_mount_that_becomes_writable_later_shows_no_binary_to_write"],
    },
    Attack {
        id: "CVE-2019-16884, CVE-2019-19921",
        tried: "a fake procfs by a volume over `/proc`",
        holds: "the label reaches the real one, or the start is refused",
        cases: &["security::cve_2019_16884_a_volume_over_proc_is_refused"],
    },
    Attack {
        id: "look-alike of procfs",
        tried: "the mounted `/proc` is moved within the root file system before its files are masked; a look-alike takes its place",
        holds: "the start is refused, and what was to be masked is",
        cases: &[
            "security::a_look_alike_in_place_of_proc_is_refused",
            "security::a_proc_moved_away_before_the_masks_is_refused",
            "security::a_link_to_proc_among_the_readonly_paths_uncovers_nothing",
        ],
    },
    Attack {
        id: "CVE-2019-18837, CVE-2023-27561, CVE-2023-28642",
        tried: "an image with `/proc` or `/sys` as a symbolic link",
        holds: "refused; nothing is made on the host",
        cases: &[
            "security::cve_2019_18837_proc_and_sys_as_symlinks_make_nothing_outside",
            "security::cve_2023_28642_proc_and_sys_as_symlinks_are_refused",
            "raced::cve_2023_27561_a_swapped_proc_is_never_a_link",
        ],
    },
    Attack {
        id: "GHSA-g54h",
        tried: "a configuration without device rules",
        holds: "device nodes are unusable",
        cases: &["security::ghsa_g54h_without_device_rules_nodes_are_unusable"],
    },
    Attack {
        id: "CVE-2021-30465, CVE-2024-45310",
        tried: "a racer swaps a directory and a symbolic link in a shared volume while mount points are made",
        holds: "no host path appears, nothing is created on the host",
        cases: &[
            "raced::cve_2021_30465_a_swapped_mount_point_makes_nothing_on_the_host",
            "raced::cve_2024_45310_a_swapped_parent_makes_no_file_on_the_host",
        ],
    },
    Attack {
        id: "CVE-2021-43784",
        tried: "70,000 id mappings, paths of 100 KB",
        holds: "a clean error",
        cases: &["security::cve_2021_43784_many_id_mappings_are_a_clean_error"],
    },
    Attack {
        id: "CVE-2022-29162, CVE-2022-27650",
        tried: "exec with and without `--cap`",
        holds: "the inheritable set is empty",
        cases: &["exec::exec_keeps_the_inheritable_set_empty", "exec::exec_adds_capabilities"],
    },
    Attack {
        id: "CVE-2016-9962",
        tried: "a process of the container looks into an exec that is entering",
        holds: "it cannot",
        cases: &["raced::cve_2016_9962_an_exec_cannot_be_looked_into_from_its_user_namespace"],
    },
    Attack {
        id: "create into a joined user and pid namespace",
        tried: "a container of a pod with CAP_SYS_PTRACE in its user namespace looks into the next one's first process",
        holds: "it cannot",
        cases: &["raced::cve_2016_9962_a_create_into_a_joined_user_and_pid_namespace_cannot_be_looked_into"],
    },
    Attack {
        id: "userns create seen by a host-pid container",
        tried: "root without capabilities in the host's pid namespace looks into the first process of a new user namespace",
        holds: "it cannot",
        cases: &["raced::a_new_user_namespace_cannot_be_looked_into_from_the_hosts_pid_namespace"],
    },
    Attack {
        id: "CVE-2023-25809",
        tried: "rootless without a cgroup namespace",
        holds: "no write into the user's slice",
        cases: &["rootless::without_a_cgroup_namespace_the_callers_cgroup_is_read_only"],
    },
    Attack {
        id: "CVE-2024-21626",
        tried: "working directory `/proc/self/fd/N`; the caller leaks a descriptor of `/`",
        holds: "refused; the payload has 0, 1, 2 and preserved descriptors only, also while created",
        cases: &[
            "security::cve_2024_21626_a_cwd_through_a_descriptor_is_refused",
            "security::cve_2024_21626_a_leaked_descriptor_is_not_passed",
            "hostile::a_program_is_never_found_through_a_descriptor_of_the_host",
            "hostile::a_created_container_holds_no_descriptor_of_the_host",
        ],
    },
    Attack {
        id: "CVE-2025-31133",
        tried: "`/dev/null` of the root file system is replaced while files are masked",
        holds: "the masked file is empty and not writable",
        cases: &[
            "security::cve_2025_31133_a_masked_file_is_not_writable_when_dev_null_is_a_link",
            "raced::cve_2025_31133_a_swapped_dev_null_masks_all_the_same",
        ],
    },
    Attack {
        id: "CVE-2025-52565",
        tried: "`/dev/pts/N` is swapped under `/dev/console`",
        holds: "the console is a terminal of ours",
        cases: &["raced::cve_2025_52565_a_swapped_console_is_a_terminal_of_ours"],
    },
    Attack {
        id: "CVE-2025-52881",
        tried: "mounts over `/proc/self/attr` and `/proc/sys` redirect writes",
        holds: "writes reach the real file or fail",
        cases: &["raced::cve_2025_52881_a_swapped_mount_over_procfs_takes_no_write"],
    },
    Attack {
        id: "CVE-2026-30892",
        tried: "`exec --user` in odd spellings",
        holds: "exactly that user, or an error",
        cases: &["exec::exec_user_is_exact_or_an_error"],
    },
    Attack {
        id: "CVE-2026-41579, CVE-2026-47766",
        tried: "`/dev` of the root file system is a symbolic link, no mount over it",
        holds: "no node outside",
        cases: &["security::cve_2026_41579_a_dev_symlink_makes_no_node_outside"],
    },
    Attack {
        id: "ids and paths",
        tried: "`../x`, `a/b`, 1,025 characters, `exec --cgroup ../../`, hostile links below `--root`",
        holds: "refused",
        cases: &[
            "bad_input::hostile_ids_are_refused",
            "cgroups::a_cgroups_path_with_dots_stays_inside",
            "security::a_cgroup_for_exec_cannot_climb",
            "security::links_under_the_root_lead_nowhere",
        ],
    },
    Attack {
        id: "generated root file systems",
        tried: "every standard path is a link, a fifo or a device",
        holds: "nothing outside is reached",
        cases: &["security::standard_paths_as_links_fifos_and_files_never_reach_the_host"],
    },
];

/// Rounds of a race before the next race has its turn.
const TURN: u32 = 250;

/// What came of a case so far.
#[derive(Debug, Clone, Default)]
struct Tried {
    rounds: u32,
    seconds: f64,
    broken: Option<String>,
}

/// Runs every case, the races `rounds` times or until `limit` is over, and prints the table.
pub(super) fn run(rounds: u32, limit: Option<Duration>, write: bool) -> Result<()> {
    let begun = Instant::now();
    // What is tried is what was built now, whatever is committed meanwhile.
    let commit = commit()?;
    let suites = Suites::hold()?;
    let known = [listed(&suites.runtime, "")?, listed(&suites.rootless, ROOTLESS)?].concat();
    let cases = || ATTACKS.iter().flat_map(|attack| attack.cases).copied();
    let mut tried: BTreeMap<&str, Tried> = BTreeMap::new();
    for case in cases() {
        let found = known.iter().any(|name| name == case);
        let broken = (!found).then(|| "no test yet".to_owned());
        let entry = tried.entry(case).or_insert_with(|| Tried { broken, ..Tried::default() });
        if found && !case.starts_with(RACES) {
            suites.turn(case, 1, entry);
            println!("{case:84} {}", word(entry));
        }
    }
    let mut done = 0;
    while done < rounds && limit.is_none_or(|limit| begun.elapsed() < limit) {
        let turn = TURN.min(rounds - done);
        for case in cases().filter(|case| case.starts_with(RACES)) {
            let entry = tried.entry(case).or_default();
            if entry.broken.is_none() {
                suites.turn(case, turn, entry);
            }
        }
        done += turn;
        println!("{done} rounds of every race after {:.0} s", begun.elapsed().as_secs_f64());
        if write {
            save(&tried, rounds, limit, &commit)?;
        }
    }
    for attack in ATTACKS {
        for case in attack.cases {
            let entry = &tried[case];
            println!("{:44} {case:84} rounds={} {}", attack.id, entry.rounds, word(entry));
        }
    }
    if write {
        save(&tried, rounds, limit, &commit)?;
    }
    let failed: Vec<&str> = tried.iter().filter(|(_, entry)| entry.broken.is_some()).map(|(case, _)| *case).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("not held off: {}", failed.join(", "))) }
}

fn word(tried: &Tried) -> String {
    tried.broken.as_ref().map_or_else(|| format!("held ({:.0} s)", tried.seconds), |why| format!("**{why}**"))
}

fn save(tried: &BTreeMap<&str, Tried>, rounds: u32, limit: Option<Duration>, commit: &str) -> Result<()> {
    let counts = crate::counts::of("attacks")?;
    let asked =
        limit.map_or_else(|| format!("--count {rounds}"), |limit| format!("--minutes {}", limit.as_secs() / 60));
    let mut page = format!(
        "# Known attacks\n\nMade by `cargo xtask soak attacks {asked} --write` at {}; do not edit. Each case is one of \
         `integration/suites/runtime` or `rootless`; a race was run as many rounds as its row says, {} in CI and {} in a full soak.\n\n\
         | attack | what is tried | what must hold | test | rounds | result |\n|---|---|---|---|---|---|\n",
        commit, counts.ci, counts.soak,
    );
    for Attack { id, tried: what, holds, cases } in ATTACKS {
        for case in *cases {
            let entry = &tried[case];
            let _ = writeln!(page, "| {id} | {what} | {holds} | `{case}` | {} | {} |", entry.rounds, word(entry));
        }
    }
    let path = shell::top().join("docs/attacks.md");
    std::fs::write(&path, page).map_err(|error| format!("write {}: {error}", path.display()))
}

/// The commit of the working tree.
fn commit() -> Result<String> {
    let commit = shell::output("git", &["-C", &shell::top().to_string_lossy(), "rev-parse", "--short", "HEAD"])?;
    Ok(commit.trim().to_owned())
}

/// The suites' binaries, copied: a soak runs for hours, and somebody may build meanwhile.
struct Suites {
    folder: PathBuf,
    runtime: PathBuf,
    rootless: PathBuf,
}

impl Suites {
    fn hold() -> Result<Self> {
        let folder = shell::target().join(format!("soak-{}", std::process::id()));
        let copy = |name: &str| {
            let path = folder.join(name);
            std::fs::create_dir_all(&folder)
                .and_then(|()| std::fs::copy(suite::binary(name).map_err(std::io::Error::other)?, &path))
                .map_err(|error| format!("copy the suite {name} to {}: {error}", path.display()))?;
            Ok::<_, String>(path)
        };
        Ok(Self { runtime: copy("runtime")?, rootless: copy("rootless")?, folder })
    }

    /// Runs one case once, with `rounds` for a race, and adds what came of it.
    fn turn(&self, case: &str, rounds: u32, tried: &mut Tried) {
        let begun = Instant::now();
        let (suite, test) = case.strip_prefix(ROOTLESS).map_or((&self.runtime, case), |test| (&self.rootless, test));
        let mut command = Command::new(suite);
        command.args(["--exact", test]).env("SHOAL_ROUNDS", rounds.to_string()).env("SHOAL_BIN_DIR", shell::bin_dir());
        match command.output() {
            Err(error) => tried.broken = Some(format!("does not start: {error}")),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                if !(output.status.success() && text.contains("1 passed")) {
                    eprintln!("{text}");
                    tried.broken = Some("broken".to_owned());
                }
            }
        }
        tried.rounds += rounds;
        tried.seconds += begun.elapsed().as_secs_f64();
    }
}

impl Drop for Suites {
    fn drop(&mut self) {
        // Copies in the build folder: what is left is only room.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The tests of a suite, each with `before` in front of its name.
fn listed(suite: &Path, before: &str) -> Result<Vec<String>> {
    let mut list = Command::new(suite);
    list.arg("--list").env("SHOAL_BIN_DIR", shell::bin_dir());
    let output = list.output().map_err(|error| format!("{}: {error}", suite.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(|name| format!("{before}{name}")).collect())
}
