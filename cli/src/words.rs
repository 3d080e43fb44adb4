//! Where the flags of a verb end, as docker reads a line: at its first argument that is no flag.
//!
//! In: the words of one command line and the definition of every command. Out: the same words, with `--` behind the image (or
//! the container) of a verb that takes a command, so that `run IMAGE --init` gives `--init` to the container although `run`
//! has a flag of that name. A line that is not understood is left as it is: the parser says what is wrong with it.

use clap::{Arg, ArgAction, Command};
use std::ffi::OsString;

/// The verb of a command line, where nothing but `--root` stands before it.
pub(crate) fn verb(words: &[OsString]) -> Option<&str> {
    let mut words = words.iter();
    loop {
        let word = words.next()?.to_str()?;
        match word {
            "--root" => drop(words.next()?),
            _ if word.starts_with("--root=") => {}
            _ => return (!word.starts_with('-')).then_some(word),
        }
    }
}

/// Puts `--` behind the first argument of a verb whose last one takes all that follows. `words` are those after the program's
/// name.
pub(crate) fn fenced(definition: &Command, words: Vec<OsString>) -> Vec<OsString> {
    let mut words = switched(definition, words);
    if let Some(at) = fence(definition, &words) {
        words.insert(at, "--".into());
    }
    words
}

/// Reads `--rm=true` and `--rm=false` as docker does: a switch that is given, and one that is not, whatever was said before.
fn switched(definition: &Command, words: Vec<OsString>) -> Vec<OsString> {
    let (mut command, mut out) = (definition, Vec::with_capacity(words.len()));
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let Some(text) = word.to_str() else {
            out.push(word);
            break;
        };
        if text.len() > 1 && text.starts_with('-') && text != "--" {
            if let Some((name, on, same)) = switch(definition, command, text) {
                out.retain(|earlier: &OsString| {
                    !earlier.to_str().is_some_and(|earlier| same.iter().any(|name| name == earlier))
                });
                if on {
                    out.push(name.into());
                }
                continue;
            }
            let takes = takes_the_next(definition, command, text);
            out.push(word);
            match takes {
                Some(true) => out.extend(words.next()),
                Some(false) => {}
                None => break,
            }
        } else {
            let below = command.has_subcommands().then(|| command.find_subcommand(text));
            let ends = text == "--"
                || match below {
                    Some(below) => below.map(|below| command = below).is_none(),
                    // What follows the image is the container's.
                    None => command.get_positionals().last().is_some_and(Arg::is_trailing_var_arg_set),
                };
            out.push(word);
            if ends {
                break;
            }
        }
    }
    out.extend(words);
    out
}

/// A switch with a value: its name, whether it is on, and all its names.
fn switch(definition: &Command, command: &Command, word: &str) -> Option<(String, bool, Vec<String>)> {
    let (name, value) = word.split_once('=')?;
    let on = match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        _ => return None,
    };
    let everywhere = definition.get_arguments().filter(|arg| arg.is_global_set());
    let names = |arg: &Arg| -> Vec<String> {
        let long = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
        let short = arg.get_short_and_visible_aliases().unwrap_or_default();
        long.map(|long| format!("--{long}")).chain(short.into_iter().map(|short| format!("-{short}"))).collect()
    };
    let mut switches =
        command.get_arguments().chain(everywhere).filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue));
    let all = switches.find_map(|arg| Some(names(arg)).filter(|names| names.iter().any(|known| known == name)))?;
    Some((name.to_owned(), on, all))
}

/// The place behind the first argument, when something follows it there.
fn fence(definition: &Command, words: &[OsString]) -> Option<usize> {
    let (mut command, mut at) = (definition, 0);
    loop {
        let word = words.get(at)?.to_str()?;
        at += 1;
        if word == "--" {
            // All that follows are arguments as it is.
            return None;
        }
        if word.len() > 1 && word.starts_with('-') {
            at += usize::from(takes_the_next(definition, command, word)?);
        } else if command.has_subcommands() {
            command = command.find_subcommand(word)?;
        } else {
            let last = command.get_positionals().last()?;
            let fences = last.is_trailing_var_arg_set() && command.get_positionals().count() == 2;
            return (fences && at < words.len()).then_some(at);
        }
    }
}

/// Whether the value of a flag, or of the last of a cluster of short ones, is the next word. `None`: there is no such flag.
fn takes_the_next(definition: &Command, command: &Command, word: &str) -> Option<bool> {
    let find = |wanted: &dyn Fn(&Arg) -> bool| {
        let everywhere = definition.get_arguments().filter(|arg| arg.is_global_set());
        command.get_arguments().chain(everywhere).find(|arg| wanted(arg))
    };
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        let names = |arg: &Arg| {
            arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
        };
        return Some(takes_a_value(find(&names)?) && value.is_none());
    }
    let mut letters = word[1..].chars();
    while let Some(letter) = letters.next() {
        let arg = find(&|arg: &Arg| arg.get_short_and_visible_aliases().is_some_and(|all| all.contains(&letter)))?;
        if takes_a_value(arg) {
            // What is left of the cluster is the value.
            return Some(letters.as_str().is_empty());
        }
    }
    Some(false)
}

/// Whether a flag cannot be without a value. One that may be takes it behind `=` alone.
fn takes_a_value(arg: &Arg) -> bool {
    arg.get_action().takes_values() && arg.get_num_args().is_none_or(|count| count.min_values() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition;

    fn read(line: &str) -> String {
        let words = line.split(' ').map(OsString::from).collect();
        fenced(&definition(), words).join(std::ffi::OsStr::new(" ")).to_string_lossy().into_owned()
    }

    #[test]
    fn what_follows_the_image_is_the_containers() {
        for (line, expected) in [
            ("run image --init", "run image -- --init"),
            ("run --init image --help", "run --init image -- --help"),
            (
                "run -it --rm -eA=b --net host -v /a:/b -ith name image -c true",
                "run -it --rm -eA=b --net host -v /a:/b -ith name image -- -c true",
            ),
            ("--root /x container run image sh -c x", "--root /x container run image -- sh -c x"),
            ("run --root /x --pull=never image -d", "run --root /x --pull=never image -- -d"),
            ("create --name -x image --rm", "create --name -x image -- --rm"),
            ("exec -it box -d", "exec -it box -- -d"),
            ("service create --replicas 2 image --mode", "service create --replicas 2 image -- --mode"),
            ("run image -- x", "run image -- -- x"),
        ] {
            assert_eq!(read(line), expected);
        }
    }

    #[test]
    fn the_verb_is_found_behind_the_root_alone() {
        let found = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            verb(&words).map(str::to_owned)
        };
        for line in ["run -d ps", "--root /x run", "--root=/x run", "--root run run"] {
            assert_eq!(found(line).as_deref(), Some("run"), "{line}");
        }
        for line in ["--help run", "-V", "--root", "--root /x", "-- run"] {
            assert_eq!(found(line), None, "{line}");
        }
    }

    #[test]
    fn a_switch_may_have_a_value() {
        for (line, expected) in [
            ("run --rm=true -d=1 image", "run --rm -d image"),
            ("run --rm --rm=false --privileged=False image", "run image"),
            ("run --rm=false --rm image", "run --rm image"),
            ("run -d --detach=false image --rm=true", "run image -- --rm=true"),
            ("run -e --rm=true image", "run -e --rm=true image"),
            ("ps --all=t --no-trunc=0", "ps --all"),
            ("logs --follow=maybe box", "logs --follow=maybe box"),
            ("rm box --force=true", "rm box --force"),
            ("run --sig-proxy=false image", "run --sig-proxy=false image"),
        ] {
            assert_eq!(read(line), expected);
        }
    }

    #[test]
    fn every_switch_of_every_verb_may_have_a_value() {
        fn look(definition: &Command, command: &Command, path: &[String]) {
            for arg in command.get_arguments().filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue)) {
                let Some(long) = arg.get_long() else { continue };
                for (value, kept) in [("true", 1), ("false", 0)] {
                    let words = path.iter().map(OsString::from).chain([format!("--{long}={value}").into()]);
                    assert_eq!(
                        switched(definition, words.collect()).len(),
                        path.len() + kept,
                        "{path:?} --{long}={value}"
                    );
                }
            }
            for below in command.get_subcommands() {
                look(definition, below, &[path, &[below.get_name().to_owned()]].concat());
            }
        }
        let definition = definition();
        look(&definition, &definition, &[]);
    }

    #[test]
    fn a_line_without_such_words_is_left_alone() {
        for line in [
            "run image",
            "run -- image --init",
            "run --nosuch image --init",
            "ps -a",
            "cp a b",
            "rm -f a b",
            "nosuch",
            "run -",
            "run",
        ] {
            assert_eq!(read(line), line);
        }
    }

    #[test]
    fn the_parser_gives_the_container_every_word_behind_the_image() {
        let line = fenced(&definition(), ["run", "-i", "image", "--", "--init", "-d"].map(OsString::from).to_vec());
        let matches =
            definition().try_get_matches_from([OsString::from("shoal")].into_iter().chain(line)).expect("a good line");
        let run = matches.subcommand_matches("run").expect("run");
        assert!(!run.get_flag("init"));
        let command: Vec<&String> = run.get_many("command").expect("a command").collect();
        assert_eq!(command, ["--", "--init", "-d"]);
    }
}
