//! How often each repeated test runs: in CI, and in a soak. One table, so that a note can quote both.

use crate::shell::Result;

/// A repeated test and its counts.
#[derive(Debug)]
pub(crate) struct Count {
    /// Name of the soak.
    pub(crate) name: &'static str,
    /// What one round is.
    pub(crate) round: &'static str,
    /// The number in CI.
    pub(crate) ci: u32,
    /// The number in a soak.
    pub(crate) soak: u32,
    /// The variable by which a suite learns the number, where it is a suite.
    pub(crate) variable: Option<&'static str>,
}

/// Every repeated test.
pub(crate) const COUNTS: &[Count] = &[
    Count {
        name: "runtime",
        round: "run of a no-op, then a census of descriptors, mounts, cgroups and processes",
        ci: 100,
        soak: 10_000,
        variable: None,
    },
    Count {
        name: "attacks",
        round: "round of each racing attack of docs/attacks.md",
        ci: 25,
        soak: 10_000,
        variable: Some("SHOAL_ROUNDS"),
    },
    Count {
        name: "crash",
        round: "stride: every n-th system call of create, run, start, exec and delete is a kill point",
        ci: 9,
        soak: 1,
        variable: Some("SHOAL_CRASH_STRIDE"),
    },
    Count {
        name: "engine",
        round: "kill -9 of a process of the engine at a random point, then rm -f and a census of the host",
        ci: 20,
        soak: 200,
        variable: None,
    },
    Count {
        name: "many",
        round: "`run -d` at the same time, then as many `rm -f`, none of which may fail",
        ci: 20,
        soak: 500,
        variable: Some("SHOAL_AT_ONCE"),
    },
    Count {
        name: "flood",
        round: "MB that a container logs while another one goes on, bounded by rotation",
        ci: 100,
        soak: 1_000,
        variable: Some("SHOAL_LOG_MB"),
    },
    Count {
        name: "image",
        round: "operation of push, pull, delete and gc side by side, clients and the server killed with -9",
        ci: 40,
        soak: 1_000,
        variable: Some("SHOAL_IMAGE_OPERATIONS"),
    },
    Count {
        name: "load",
        round: "request through a node's published port during updates, a drain and an agent's restart",
        ci: 2_000,
        soak: 20_000,
        variable: Some("SHOAL_LOAD_REQUESTS"),
    },
    Count {
        name: "kills",
        round: "node killed under load, its replicas replaced and routed",
        ci: 2,
        soak: 10,
        variable: Some("SHOAL_LOAD_KILLS"),
    },
    Count {
        name: "sim",
        round: "seed of 7 simulated nodes; a hundredth as many of 1,000, a tenth with services (--only NAME, --fresh)",
        ci: 200,
        soak: 10_000,
        variable: None,
    },
];

/// The row of one soak.
pub(crate) fn of(name: &str) -> Result<&'static Count> {
    COUNTS.iter().find(|count| count.name == name).ok_or_else(|| format!("no soak is called {name}"))
}

/// The variables that give the suites their numbers for CI.
pub(crate) fn for_ci() -> impl Iterator<Item = (&'static str, String)> {
    COUNTS.iter().filter_map(|count| count.variable.map(|variable| (variable, count.ci.to_string())))
}
