//! The simulator from the command line. In: seeds and sizes, a bug to put in, or the wish for figures. Out: a line for every
//! promise that was broken with the command that replays it; exit code 1 when there is one.

use std::process::ExitCode;

use tests::sim::{figures, inject, random, services};

const HELP: &str = "usage: sim --seed S | --seeds N [--from S]   random histories of 3 to 7 machines, or of
           [--nodes K] [--services]        K machines; --services: services on top, 7 machines unless told
       sim --inject CLASS|all              a bug put in, and what the checker says of it
       sim --figures [NODES]               the mesh's figures, at 1,000 machines unless told";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let text = |flag: &str| words.iter().position(|word| word == flag).map(|at| words.get(at + 1));
    let value = |flag: &str| text(flag).map(|text| text.and_then(|text| text.parse::<u64>().ok()));
    if let Some(class) = text("--inject") {
        return inject(class.map_or("all", String::as_str));
    }
    if let Some(count) = value("--figures") {
        figures::all(usize::try_from(count.unwrap_or(1_000)).unwrap_or(1_000));
        return ExitCode::SUCCESS;
    }
    let nodes = match value("--nodes") {
        None => None,
        Some(Some(nodes @ 2..=2_000)) => usize::try_from(nodes).ok(),
        Some(_) => return usage(),
    };
    let (from, seeds) = match (value("--seed"), value("--seeds")) {
        (Some(Some(seed)), None) => (seed, 1),
        (None, Some(Some(seeds))) => (value("--from").flatten().unwrap_or(1), seeds),
        _ => return usage(),
    };
    let with_services = words.iter().any(|word| word == "--services");
    let mut broken = 0;
    for seed in from..from + seeds {
        let outcome = if with_services {
            let replay = format!("replay with: cargo xtask sim --services --seed {seed}");
            services::history(seed, nodes.unwrap_or(7), None).map_err(|why| format!("seed {seed}: {why}\n{replay}"))
        } else {
            random::seed(seed, nodes)
        };
        if let Err(words) = outcome {
            println!("{words}");
            broken += 1;
        }
    }
    println!("{seeds} seeds from {from}: {broken} broken");
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage() -> ExitCode {
    eprintln!("{HELP}");
    ExitCode::from(2)
}

fn inject(name: &str) -> ExitCode {
    let classes: Vec<_> = inject::CLASSES.iter().filter(|class| name == "all" || class.name == name).collect();
    if classes.is_empty() {
        let known: Vec<_> = inject::CLASSES.iter().map(|class| class.name).collect();
        eprintln!("sim: no bug is called {name}; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let mut missed = 0;
    for class in classes {
        let without = class.without();
        let caught = class.caught().filter(|said| class.checkers.iter().any(|checker| said.starts_with(checker)));
        let said = caught.clone().unwrap_or_else(|| "NOT CAUGHT".to_owned());
        println!("inject {} without: {} with: {said}", class.name, without.as_ref().err().map_or("ok", |why| why));
        missed += usize::from(caught.is_none() || without.is_err());
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
