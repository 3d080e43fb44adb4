//! The simulator from the command line: `sim --seed S` replays one, `sim --seeds N [--from S]` runs many, `sim --figures [N]`
//! prints the mesh's figures at N nodes (1,000 when not told).

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| {
        words.iter().position(|word| word == flag).map(|at| words.get(at + 1).and_then(|text| text.parse::<u64>().ok()))
    };
    if let Some(count) = value("--figures") {
        tests::sim::figures::all(usize::try_from(count.unwrap_or(1_000)).unwrap_or(1_000));
        return ExitCode::SUCCESS;
    }
    let (from, seeds) = match (value("--seed"), value("--seeds")) {
        (Some(Some(seed)), None) => (seed, 1),
        (None, Some(Some(seeds))) => (value("--from").flatten().unwrap_or(1), seeds),
        _ => {
            eprintln!("usage: sim --seed S | --seeds N [--from S] | --figures [NODES]");
            return ExitCode::from(2);
        }
    };
    let mut broken = 0;
    for seed in from..from + seeds {
        if let Err(words) = tests::sim::random::seed(seed) {
            println!("{words}");
            broken += 1;
        }
    }
    println!("{seeds} seeds from {from}: {broken} broken");
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
