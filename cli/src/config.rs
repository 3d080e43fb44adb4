//! `config.toml`: the user's own defaults for flags.
//!
//! In: the files, the definition of every command, the words of one command line. Out: the words with those flags put in that
//! were given neither on the line nor by a variable. A table is a verb (`[run]`, `[service.create]`), a key one of its long
//! flags. Every key of the whole file is held against the definitions: one that means nothing is an error with its place.

use crate::error::Error;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The format that this program reads.
const VERSION: &str = "1";
/// The largest file that is read, in bytes.
const BYTES_MAX: u64 = 1 << 20;
/// Flags that say where the file itself is, or that are no setting.
const NOT_HERE: [&str; 3] = ["root", "help", "version"];

/// One flag's values as words of a command line; none for a switch that is off.
type Values = Vec<Option<String>>;

/// Every flag of every file, by verb and long name. A later file goes over an earlier one.
#[derive(Debug, Default)]
pub(crate) struct Config {
    flags: BTreeMap<(Vec<String>, String), Values>,
}

impl Config {
    /// Reads the files in order, each over the one before; a missing one says nothing.
    pub(crate) fn read(paths: &[PathBuf], definition: &Command) -> Result<Self, Error> {
        let mut config = Self::default();
        for path in paths {
            let text = match read(path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::from(error).context(format!("read {}", path.display()))),
            };
            config.add(&text, definition).map_err(|(at, message)| {
                let (line, column) = place(&text, at);
                Error::new(message).hint("`shoal help VERB` shows its flags").at(path, line, column)
            })?;
        }
        Ok(config)
    }

    fn add(&mut self, text: &str, definition: &Command) -> Result<(), (usize, String)> {
        let table = DeTable::parse(text)
            .map_err(|error| (error.span().map_or(0, |span| span.start), error.message().to_owned()))?;
        let version = table.get_ref().iter().find(|(key, _)| key.get_ref() == "version");
        match version.map(|(_, value)| (value.span().start, value.get_ref())) {
            None => return Err((0, format!("the first line must be `version = {VERSION}`"))),
            Some((_, DeValue::Integer(number))) if number.as_str() == VERSION => {}
            Some((at, _)) => return Err((at, format!("this shoal reads version {VERSION} of config.toml"))),
        }
        for (key, value) in table.get_ref().iter().filter(|(key, _)| key.get_ref() != "version") {
            self.verb(definition, &[], key, value)?;
        }
        Ok(())
    }

    /// A key below the verb at `path`: a verb of its own with a table, or a flag.
    fn verb(
        &mut self,
        command: &Command,
        path: &[String],
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), (usize, String)> {
        let name = key.get_ref().as_ref();
        let at = key.span().start;
        if let (DeValue::Table(table), Some(verb)) = (value.get_ref(), command.find_subcommand(name)) {
            let mut path = path.to_vec();
            path.push(verb.get_name().to_owned());
            return table.iter().try_for_each(|(key, value)| self.verb(verb, &path, key, value));
        }
        let flag = command.get_arguments().find(|arg| names(arg, name));
        let Some(flag) = flag.filter(|_| !path.is_empty() && !NOT_HERE.contains(&name)) else {
            let known: Vec<&str> = match value.get_ref() {
                DeValue::Table(_) => command.get_subcommands().map(Command::get_name).collect(),
                _ => command.get_arguments().filter_map(Arg::get_long).collect(),
            };
            let near = known.into_iter().min_by_key(|word| engine::distance(word, name));
            let near = near.filter(|word| engine::distance(word, name) <= 2 && !NOT_HERE.contains(word));
            let what = match (path, value.get_ref()) {
                (_, DeValue::Table(_)) => format!("shoal {}has no verb {name:?}", words(path)),
                ([], _) => format!("{name:?} stands outside of a verb's table, as `[run]`"),
                _ => format!("shoal {}has no flag --{name}", words(path)),
            };
            return Err((at, near.map_or_else(|| what.clone(), |near| format!("{what}: did you mean {near:?}?"))));
        };
        let values = values(flag, value).map_err(|why| (value.span().start, format!("--{name}: {why}")))?;
        let long = flag.get_long().unwrap_or(name).to_owned();
        self.flags.insert((path.to_vec(), long), values);
        Ok(())
    }

    /// Puts in what was not given. `words` are those after the program's name; `matches` is what they were read as.
    pub(crate) fn apply(
        &self,
        words: &[OsString],
        definition: &Command,
        matches: &ArgMatches,
    ) -> Option<Vec<OsString>> {
        let (mut path, mut command, mut matches) = (Vec::new(), definition, matches);
        while let Some((name, below)) = matches.subcommand() {
            command = command.find_subcommand(name)?;
            path.push(command.get_name().to_owned());
            matches = below;
        }
        let at = end_of_verb(words, path.len())?;
        // `shoal container run` is `shoal run`.
        if path.len() > 1 && path[0] == "container" && definition.find_subcommand(&path[1]).is_some() {
            path.remove(0);
        }
        let mut put_in = Vec::new();
        for ((verb, long), values) in self.flags.iter().filter(|((verb, _), _)| *verb == path) {
            let flag = command.get_arguments().find(|arg| arg.get_long() == Some(long))?;
            debug_assert!(!verb.is_empty(), "a flag belongs to a verb");
            let given = matches.value_source(flag.get_id().as_str());
            if matches!(given, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
                continue;
            }
            put_in.extend(values.iter().map(|value| match value {
                Some(value) => format!("--{long}={value}").into(),
                None => OsString::from(format!("--{long}")),
            }));
        }
        if put_in.is_empty() {
            return None;
        }
        Some(words[..at].iter().cloned().chain(put_in).chain(words[at..].iter().cloned()).collect())
    }
}

/// Where the words of a verb end: behind its last word, whatever alias it was.
fn end_of_verb(words: &[OsString], depth: usize) -> Option<usize> {
    let (mut at, mut left) = (0, depth);
    while left > 0 {
        let word = words.get(at)?.to_str()?;
        at += 1;
        match word {
            // Its value is the next word.
            "--root" => at += 1,
            flag if flag.starts_with('-') => {}
            _ => left -= 1,
        }
    }
    Some(at)
}

fn names(arg: &Arg, name: &str) -> bool {
    arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
}

fn values(flag: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Values, &'static str> {
    let switch = !flag.get_action().takes_values();
    let many = matches!(flag.get_action(), ArgAction::Append | ArgAction::Count);
    let one = |value: &DeValue<'_>| match value {
        DeValue::Boolean(on) if switch => Ok(on.then_some(None)),
        _ if switch => Err("true or false is needed"),
        DeValue::Boolean(on) => Ok(Some(Some(on.to_string()))),
        DeValue::String(text) => Ok(Some(Some(text.to_string()))),
        DeValue::Integer(number) => Ok(Some(Some(number.to_string()))),
        DeValue::Float(number) => Ok(Some(Some(number.to_string()))),
        _ => Err("a text, a number or true or false is needed"),
    };
    match value.get_ref() {
        DeValue::Array(list) if many => {
            let all: Result<Vec<_>, _> = list.iter().map(|value| one(value.get_ref())).collect();
            Ok(all?.into_iter().flatten().collect())
        }
        DeValue::Array(_) => Err("it is given once, not as a list"),
        value => Ok(one(value)?.into_iter().collect()),
    }
}

fn words(path: &[String]) -> String {
    path.iter().map(|word| format!("{word} ")).collect()
}

/// Line and column, from 1, of a byte.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line, before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1)
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition;

    fn applied(text: &str, line: &str) -> Result<String, (usize, String)> {
        let mut config = Config::default();
        config.add(text, &definition())?;
        let words = crate::words::fenced(&definition(), line.split(' ').skip(1).map(OsString::from).collect());
        let whole = std::iter::once(OsString::from("shoal")).chain(words.iter().cloned());
        let matches = definition().try_get_matches_from(whole).expect("a good line");
        let all = config.apply(&words, &definition(), &matches).unwrap_or(words);
        Ok(all.join(std::ffi::OsStr::new(" ")).to_string_lossy().into_owned())
    }

    #[test]
    fn a_flag_that_was_given_wins_over_the_file() {
        let text = "version = 1\n[run]\ninit = true\nshm-size = \"1g\"\nlog-opt = [\"max-size=1m\", \"max-file=2\"]\nrm = false\n";
        let given = |line: &str| applied(text, line).expect("a good file");
        let all = "--init --log-opt=max-size=1m --log-opt=max-file=2 --shm-size=1g";
        assert_eq!(given("shoal run image --init"), format!("run {all} image -- --init"));
        assert_eq!(given("shoal run image sh --init"), format!("run {all} image -- sh --init"));
        assert_eq!(given("shoal container run image"), format!("container run {all} image"));
        assert_eq!(
            given("shoal --root /x run --log-opt a=b --shm-size 2g image"),
            "--root /x run --init --log-opt a=b --shm-size 2g image"
        );
        assert_eq!(given("shoal create image"), "create image");
    }

    #[test]
    fn what_means_nothing_is_refused_with_its_place() {
        let refused = |text: &str| applied(text, "shoal ps").expect_err("a bad file");
        let cases = [
            ("[run]\ninit = true\n", 0, "version = 1"),
            ("version = 2\n", 10, "version 1"),
            ("version = 1\n[run]\nint = true\n", 18, "did you mean \"init\"?"),
            ("version = 1\n[rnu]\n", 13, "did you mean \"run\"?"),
            ("version = 1\n[run]\ninit = \"yes\"\n", 25, "true or false"),
            ("version = 1\n[run]\nmemory = [\"1g\"]\n", 27, "not as a list"),
            ("version = 1\n[run]\nroot = \"/\"\n", 18, "no flag --root"),
            ("version = 1\ninit = true\n", 12, "outside of a verb"),
        ];
        for (text, at, message) in cases {
            let (found, said) = refused(text);
            assert!(said.contains(message), "{text}: {said}");
            assert_eq!(found, at, "{text}: {said}");
        }
        assert_eq!(place("a\nbc\n", 3), (2, 2));
    }
}
