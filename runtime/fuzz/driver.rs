//! The driver of the fuzz targets on the stable toolchain: `cargo xtask fuzz TARGET --seconds N [--seed S]`.
//!
//! In: a target, its corpus of small seeds, a seed of the random numbers. Out: nothing but counts, or the input that broke
//! an invariant, kept under the temporary folder. An input whose outcome is of a new class joins the pool that is mutated:
//! the part that coverage plays in cargo-fuzz. Without arguments (as a test) every target gets a fixed number of rounds.

#[path = "random.rs"]
mod random;
#[path = "targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use random::Random;
use targets::{TARGETS, Target};

/// Mutations of each target as a test: a few seconds unoptimised.
const ROUNDS: u64 = 4_000;

/// An input that takes longer is a finding: the longest seed needs a millisecond.
const SLOW: Duration = Duration::from_secs(2);

/// Longest input: what a bundle could reasonably be, and what keeps a round quick.
const LEN_MAX: usize = 16 * 1024;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        words.get(at + 1)?.parse::<u64>().ok()
    };
    if words.iter().any(|word| word == "--list") {
        TARGETS.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let seed = number("--seed").unwrap_or(1);
    let seconds = number("--seconds");
    let chosen = words.first().filter(|word| !word.starts_with("--"));
    for (name, target) in TARGETS.iter().filter(|(name, _)| chosen.is_none_or(|chosen| chosen == name)) {
        let mut session = Session::new(name, *target, seed);
        session.corpus();
        let begun = Instant::now();
        match seconds {
            Some(seconds) => {
                while begun.elapsed() < Duration::from_secs(seconds) {
                    session.round();
                }
            }
            None => (0..number("--rounds").unwrap_or(ROUNDS)).for_each(|_| session.round()),
        }
        println!(
            "fuzz {name} seed={seed} seconds={} inputs={} classes={} pool={} broken=0",
            begun.elapsed().as_secs(),
            session.inputs,
            session.classes.len(),
            session.pool.len()
        );
    }
}

struct Session {
    name: &'static str,
    target: Target,
    random: Random,
    pool: Vec<Vec<u8>>,
    classes: BTreeSet<String>,
    inputs: u64,
}

impl Session {
    fn new(name: &'static str, target: Target, seed: u64) -> Self {
        Self { name, target, random: Random::new(seed), pool: Vec::new(), classes: BTreeSet::new(), inputs: 0 }
    }

    /// Reads and tries the seeds.
    fn corpus(&mut self) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(self.name);
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(&folder).expect("the corpus is checked in").flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            let bytes = std::fs::read(&file).expect("a seed is readable");
            self.attempt(&bytes);
            self.pool.push(bytes);
        }
        assert!(!self.pool.is_empty(), "{} has no seeds", folder.display());
    }

    fn round(&mut self) {
        let mut input = self.pool[self.random.below(self.pool.len())].clone();
        for _ in 0..=self.random.below(4) {
            let other = &self.pool[self.random.below(self.pool.len())];
            input = self.random.mutate(&input, other);
        }
        input.truncate(LEN_MAX);
        if self.attempt(&input) {
            self.pool.push(input);
        }
    }

    /// Runs one input; returns whether its outcome is new.
    fn attempt(&mut self, input: &[u8]) -> bool {
        self.inputs += 1;
        let begun = Instant::now();
        let outcome = std::panic::catch_unwind(|| (self.target)(input));
        let took = begun.elapsed();
        match outcome {
            Ok(class) if took < SLOW => self.classes.insert(class),
            Ok(_) => self.keep(input, &format!("took {took:?}")),
            Err(_) => self.keep(input, "broke an invariant"),
        }
    }

    fn keep(&self, input: &[u8], why: &str) -> ! {
        let path = std::env::temp_dir().join(format!("shoal-fuzz-{}-{}", self.name, self.inputs));
        std::fs::write(&path, input).expect("the temporary folder is writable");
        panic!("{} input {} {why}; kept as {}", self.name, self.inputs, path.display());
    }
}
