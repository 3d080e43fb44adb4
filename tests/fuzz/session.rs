//! A session of a fuzz target on the stable toolchain, shared by the drivers of the crates that have targets.
//!
//! In: a target, its corpus of small seeds, a seed of the random numbers. Out: nothing but counts, or the input that broke
//! an invariant, kept under the temporary folder. An input whose outcome is of a new class joins the pool that is mutated:
//! the part that coverage plays in cargo-fuzz. Without arguments (as a test) every target gets a fixed number of rounds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::random::Random;

/// A fuzz target: bytes in, the class of their outcome out.
type Target = fn(&[u8]) -> String;

/// Mutations of each target as a test, as far as [`TEST_MAX`] lets them: a few seconds unoptimised.
const ROUNDS: u64 = 4_000;

/// How long a target runs as a test: one that makes files on a busy machine would take minutes.
const TEST_MAX: Duration = Duration::from_secs(8);

/// An input that takes longer is a finding: the longest seed needs a millisecond.
const SLOW: Duration = Duration::from_secs(2);

/// Longest input: what a bundle could reasonably be, and what keeps a round quick.
const LEN_MAX: usize = 16 * 1024;

/// Runs what the command line says of `targets`, whose seeds lie below `corpus`.
pub(crate) fn main(targets: &[(&'static str, Target)], corpus: &Path) {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        words.get(at + 1)?.parse::<u64>().ok()
    };
    if words.iter().any(|word| word == "--list") {
        targets.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let seed = number("--seed").unwrap_or(1);
    let seconds = number("--seconds");
    let chosen = words.first().filter(|word| !word.starts_with("--"));
    for (name, target) in targets.iter().filter(|(name, _)| chosen.is_none_or(|chosen| chosen == name)) {
        let mut session = Session::new(name, *target, seed);
        session.read(&corpus.join(name));
        let begun = Instant::now();
        match seconds {
            Some(seconds) => {
                while begun.elapsed() < Duration::from_secs(seconds) {
                    session.round();
                }
            }
            None => match number("--rounds") {
                Some(rounds) => (0..rounds).for_each(|_| session.round()),
                None => (0..ROUNDS).take_while(|_| begun.elapsed() < TEST_MAX).for_each(|_| session.round()),
            },
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
    fn read(&mut self, folder: &Path) {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(folder).expect("the corpus is checked in").flatten().map(|entry| entry.path()).collect();
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
