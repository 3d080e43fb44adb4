//! The long counts: the same code as the tests, other numbers.

mod census;
mod runtime;

use crate::counts::COUNTS;
use crate::shell::Result;

/// Runs one soak by name.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let Some(name) = args.first() else {
        for count in COUNTS {
            println!("{:10} ci {:>6}  soak {:>6}  {}", count.name, count.ci, count.soak, count.round);
        }
        return Ok(());
    };
    let count = COUNTS.iter().find(|count| count.name == name).ok_or_else(|| format!("no soak is called {name}"))?;
    let rounds = match args.get(1).map(String::as_str) {
        Some("--ci") => count.ci,
        Some("--count") => args.get(2).and_then(|text| text.parse().ok()).ok_or("--count takes a number")?,
        _ => count.soak,
    };
    match name.as_str() {
        "runtime" => runtime::run(rounds),
        _ => Err(format!("{name} has no code here")),
    }
}
