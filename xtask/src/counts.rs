//! How often each repeated test runs: in CI, and in a soak. One table, so that a note can quote both.

/// A repeated test and its counts.
#[derive(Debug)]
pub(crate) struct Count {
    /// Name of the soak.
    pub(crate) name: &'static str,
    /// What one round is.
    pub(crate) round: &'static str,
    /// Rounds in CI.
    pub(crate) ci: u32,
    /// Rounds in a soak.
    pub(crate) soak: u32,
}

/// Every repeated test.
pub(crate) const COUNTS: &[Count] = &[Count {
    name: "runtime",
    round: "run of a no-op, then a census of descriptors, mounts, cgroups and processes",
    ci: 100,
    soak: 10_000,
}];
