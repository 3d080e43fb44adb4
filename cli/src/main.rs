//! The command `shoal`: parses arguments, composes the crates, prints results.

#![recursion_limit = "256"]

// First: its `println!` is that of all others.
#[macro_use]
mod output;
mod commands;
mod config;
mod error;
mod progress;
mod usage;
mod words;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use std::ffi::OsString;
use std::process::ExitCode;

/// Containers on one host and on many: no daemon, no leader.
#[derive(Debug, Parser)]
#[command(name = "shoal", version, disable_help_subcommand = true)]
struct Args {
    #[command(flatten)]
    global: commands::Global,
    #[command(subcommand)]
    command: commands::Command,
}

/// The definition of every command, with the overview as the first page of help.
fn definition() -> clap::Command {
    let mut command = Args::command();
    if has_empty_variables() {
        command = blind(command);
    }
    let overview = commands::about::overview(&command);
    command.override_help(overview)
}

fn has_empty_variables() -> bool {
    std::env::vars_os().any(|(_, value)| value.is_empty())
}

/// Without the variables that are empty.
fn blind(command: clap::Command) -> clap::Command {
    blind_to(command, &|name| std::env::var_os(name).is_some_and(|value| value.is_empty()))
}

/// The command and all below it, without the variables that count as none: an empty one is as one that is not there.
fn blind_to(command: clap::Command, is_none: &dyn Fn(&std::ffi::OsStr) -> bool) -> clap::Command {
    let command = command.mut_args(|arg| match arg.get_env().is_some_and(is_none) {
        true => arg.env(clap::builder::Resettable::Reset),
        false => arg,
    });
    command.mut_subcommands(|below| blind_to(below, is_none))
}

/// The definition of the one verb that these words name, where it is one that is said often: a tenth of the work of all. Good
/// for nothing but reading these very words; help and whatever is wrong with them is a matter of [`definition`].
fn lean(words: &[OsString]) -> Option<clap::Command> {
    let verb = commands::engine::definition(words::verb(words)?)?;
    let command = clap::Command::new("shoal").disable_help_subcommand(true).subcommand_required(true);
    let command = <commands::Global as clap::Args>::augment_args(command).subcommand(verb);
    Some(if has_empty_variables() { blind(command) } else { command })
}

/// Reads a command line: its words, fenced, and what they mean.
fn read(given: &[OsString]) -> (Vec<OsString>, Result<clap::ArgMatches, clap::Error>) {
    let by = |definition: clap::Command| {
        let words = words::fenced(&definition, given.to_vec());
        let matches = definition.try_get_matches_from(line(&words));
        (words, matches)
    };
    match lean(given).map(by) {
        Some((words, Ok(matches))) => (words, Ok(matches)),
        _ => by(definition()),
    }
}

fn main() -> ExitCode {
    let refused = |error: clap::Error| {
        let code = usage_code(&error, std::env::args().skip(1));
        usage::report(&error);
        ExitCode::from(code)
    };
    let given: Vec<OsString> = std::env::args_os().skip(1).collect();
    let (words, matches) = match read(&given) {
        (words, Ok(matches)) => (words, matches),
        (_, Err(error)) => return refused(error),
    };
    let matches = match with_defaults(&words, matches) {
        Ok(Ok(matches)) => matches,
        Ok(Err(error)) => return refused(error),
        Err(error) => return error.code(verb_code(std::env::args().skip(1)).unwrap_or(1)).report(),
    };
    let args = match Args::from_arg_matches(&matches) {
        Ok(args) => args,
        Err(error) => return refused(error),
    };
    match commands::run(&args.global, args.command) {
        Ok(code) => code,
        Err(error) => error.report(),
    }
}

/// The whole line again: this program's name and the words.
fn line(words: &[OsString]) -> impl Iterator<Item = OsString> {
    let program = std::env::args_os().next().unwrap_or_else(|| "shoal".into());
    std::iter::once(program).chain(words.iter().cloned())
}

/// The command line with the flags of `config.toml` that it did not give itself.
fn with_defaults(
    words: &[OsString],
    matches: clap::ArgMatches,
) -> Result<Result<clap::ArgMatches, clap::Error>, error::Error> {
    if matches!(matches.subcommand_name(), Some("help" | "completion" | "man")) {
        return Ok(Ok(matches));
    }
    let root = matches.get_one::<std::path::PathBuf>("root");
    let roots = engine::Roots::from_option(root.map(std::path::PathBuf::as_path))?;
    let files = roots.configs();
    if !files.iter().any(|file| file.exists()) {
        // The usual case, without the cost of the definitions.
        return Ok(Ok(matches));
    }
    let definition = definition();
    let config = config::Config::read(&files, &definition)?;
    let Some(words) = config.apply(words, &definition, &matches) else { return Ok(Ok(matches)) };
    Ok(definition.try_get_matches_from(line(&words)))
}

/// Exit code of a command line that cannot be read: 2, except for verbs whose other codes are the container's own: 125.
fn usage_code(error: &clap::Error, words: impl Iterator<Item = String>) -> u8 {
    if error.exit_code() == 0 { 0 } else { verb_code(words).unwrap_or(2) }
}

/// The code of our own failures where the verb's other codes are the container's.
fn verb_code(mut words: impl Iterator<Item = String>) -> Option<u8> {
    let mut next = || {
        while let Some(word) = words.next() {
            match word.as_str() {
                // Its value is the next word.
                "--root" => drop(words.next()),
                flag if flag.starts_with('-') => {}
                _ => return Some(word),
            }
        }
        None
    };
    let mut verb = next();
    if verb.as_deref() == Some("container") {
        verb = next();
    }
    matches!(verb.as_deref(), Some("run" | "create" | "exec")).then_some(125)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_flag_of_a_verb_with_codes_of_its_own_ends_with_125() {
        let code = |line: &str| {
            let words = || line.split(' ').map(str::to_owned);
            let error = definition().try_get_matches_from(words()).expect_err("it cannot be read");
            usage_code(&error, words().skip(1))
        };
        for line in ["shoal run --nosuch", "shoal --root /x run --nosuch x", "shoal container exec --nosuch x y"] {
            assert_eq!(code(line), 125, "{line}");
        }
        for line in ["shoal ps --nosuch", "shoal --root run ps --nosuch", "shoal nosuch"] {
            assert_eq!(code(line), 2, "{line}");
        }
    }

    #[test]
    fn a_verb_by_itself_is_read_as_among_all() {
        let shape = |command: &clap::Command| {
            let args: Vec<String> = command.get_arguments().map(|arg| format!("{arg:?}")).collect();
            let groups: Vec<String> = command.get_groups().map(|group| format!("{group:?}")).collect();
            let flags = [
                command.is_trailing_var_arg_set(),
                command.is_subcommand_required_set(),
                command.is_args_conflicts_with_subcommands_set(),
                command.is_disable_help_flag_set(),
                command.is_arg_required_else_help_set(),
            ];
            (args, groups, flags)
        };
        let mut all = definition();
        all.build();
        let mut seen = 0;
        for verb in all.get_subcommands() {
            let Some(mut lean) = lean(&[verb.get_name().into()]) else { continue };
            lean.build();
            let alone = lean.find_subcommand(verb.get_name()).expect("the verb");
            assert_eq!(shape(alone), shape(verb), "shoal {}", verb.get_name());
            seen += 1;
        }
        assert!(seen > 20, "{seen}");
    }

    #[test]
    fn an_empty_variable_is_as_none() {
        let blind = blind_to(definition(), &|name| name == "SHOAL_ROOT" || name == "DOCKER_DEFAULT_PLATFORM");
        let run = blind.find_subcommand("run").expect("run");
        assert!(run.get_arguments().find(|arg| arg.get_id() == "platform").expect("a flag").get_env().is_none());
        assert!(blind.get_arguments().find(|arg| arg.get_id() == "root").expect("a flag").get_env().is_none());
        let serve = blind.find_subcommand("image").and_then(|image| image.find_subcommand("serve")).expect("serve");
        assert!(serve.get_arguments().any(|arg| arg.get_env().is_some_and(|name| name == "SHOAL_REGISTRY_LISTEN")));
    }

    #[test]
    fn every_verb_and_every_argument_has_a_help_text() {
        fn look(command: &clap::Command, path: &str, bare: &mut Vec<String>) {
            for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help") {
                let path = format!("{path} {}", below.get_name());
                if below.get_about().is_none() {
                    bare.push(path.clone());
                }
                let args = below.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_help().is_none());
                bare.extend(args.map(|arg| format!("{path} {}", arg.get_id())));
                look(below, &path, bare);
            }
        }
        let mut bare = Vec::new();
        look(&definition(), "shoal", &mut bare);
        assert!(bare.is_empty(), "without help text: {bare:#?}");
    }
}
