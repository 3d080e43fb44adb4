//! One small process per running container: terminal, log, exit code, restart, health. Everything is in
//! [`engine::monitor`]; started with `resolver FOLDER` it answers names on one network ([`engine::network`]); with `--init`
//! it is the first process inside a container (`run --init`); with `hold-namespaces` it keeps a user namespace, with
//! `hold-terminal` the terminal of an exec whose client is gone.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--init" || first == "--") {
        return engine::init::main(&arguments[1..]);
    }
    if arguments.first().is_some_and(|first| first == "resolver") {
        return end(engine::network::resolver_main(&arguments[1..]));
    }
    if arguments.first().is_some_and(|first| first == engine::host::terminal::HOLD) {
        return end(engine::host::terminal::hold());
    }
    if arguments.first().is_some_and(|first| first == engine::host::userns::VERB) {
        return end(engine::host::userns::main(&arguments[1..]));
    }
    end(engine::monitor::main(&arguments))
}

fn end<E: std::fmt::Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shoal-monitor: {error}");
            ExitCode::from(125)
        }
    }
}
