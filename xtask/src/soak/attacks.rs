//! The known attacks, row by row: which tests hold them off, how many rounds were run, and what came of it.
//!
//! In: the number of rounds of a race. Out: a table, and with `--write` the page `docs/attacks.md`. The rows are those of
//! the published advisories; the tests are cases of the runtime suite, each run in a process of its own.

use crate::shell::{self, Result};
use crate::suite;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

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
        id: "CVE-2019-16884, CVE-2019-19921",
        tried: "a fake procfs by a volume over `/proc`",
        holds: "the label reaches the real one, or the start is refused",
        cases: &["security::cve_2019_16884_a_volume_over_proc_is_refused"],
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

/// Runs every case, the races `rounds` times, and prints the table.
pub(super) fn run(rounds: u32, write: bool) -> Result<()> {
    let (suite, rootless) = (suite::binary("runtime")?, suite::binary("rootless")?);
    let known = [listed(&suite, "")?, listed(&rootless, ROOTLESS)?].concat();
    let commit = shell::output("git", &["-C", &shell::top().to_string_lossy(), "rev-parse", "--short", "HEAD"])?;
    let mut page = format!(
        "# Known attacks\n\nMade by `cargo xtask soak attacks --count {rounds} --write` at {}; do not edit. Each case is one of \
         `integration/suites/runtime`; a race is run that many rounds here, {} in CI and {} in a full soak.\n\n\
         | attack | what is tried | what must hold | test | rounds | result |\n|---|---|---|---|---|---|\n",
        commit.trim(),
        crate::counts::of("attacks")?.ci,
        crate::counts::of("attacks")?.soak,
    );
    let mut failed = Vec::new();
    for attack in ATTACKS {
        for case in attack.cases {
            let count = if case.starts_with(RACES) { rounds } else { 1 };
            let result = match case.strip_prefix(ROOTLESS) {
                _ if !known.iter().any(|name| name == case) => Err("no test yet".to_owned()),
                Some(test) => one(&rootless, test, rounds),
                None => one(&suite, case, rounds),
            };
            let word = match &result {
                Ok(seconds) => format!("held ({seconds:.0} s)"),
                Err(why) => format!("**{why}**"),
            };
            println!("{:44} {case:84} rounds={count} {word}", attack.id);
            if result.is_err() {
                failed.push(*case);
            }
            let _ =
                writeln!(page, "| {} | {} | {} | `{case}` | {count} | {word} |", attack.id, attack.tried, attack.holds);
        }
    }
    if write {
        let path = shell::top().join("docs/attacks.md");
        std::fs::write(&path, page).map_err(|error| format!("write {}: {error}", path.display()))?;
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("not held off: {}", failed.join(", "))) }
}

/// The tests of a suite, each with `before` in front of its name.
fn listed(suite: &Path, before: &str) -> Result<Vec<String>> {
    let mut list = Command::new(suite);
    list.arg("--list").env("SHOAL_BIN_DIR", shell::bin_dir());
    let output = list.output().map_err(|error| format!("{}: {error}", suite.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(|name| format!("{before}{name}")).collect())
}

/// Runs one case; returns the seconds it took.
fn one(suite: &Path, case: &str, rounds: u32) -> std::result::Result<f64, String> {
    let begun = Instant::now();
    let mut command = Command::new(suite);
    command.args(["--exact", case]).env("SHOAL_ROUNDS", rounds.to_string()).env("SHOAL_BIN_DIR", shell::bin_dir());
    let output = command.output().map_err(|error| format!("does not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() && text.contains("1 passed") {
        return Ok(begun.elapsed().as_secs_f64());
    }
    eprintln!("{text}");
    Err("broken".to_owned())
}
