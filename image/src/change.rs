//! `--change` of import and commit: one Dockerfile instruction alters an image's config.
//!
//! In: `ENV A=b`, `CMD ["sh"]`. Out: the altered config, or which instruction is wrong and why. Pure.

use oci::config::ContainerConfig;
use serde_json::Value;

/// Why an instruction cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("instruction \"{text}\": {reason}")]
pub struct ChangeError {
    /// The instruction.
    text: String,
    /// What is wrong with it.
    reason: String,
}

/// Applies one instruction.
pub fn apply(config: &mut ContainerConfig, text: &str) -> Result<(), ChangeError> {
    let refused = |reason: &str| ChangeError { text: text.to_owned(), reason: reason.to_owned() };
    let (name, rest) = text.trim().split_once(char::is_whitespace).unwrap_or_else(|| (text.trim(), ""));
    let rest = rest.trim();
    if rest.is_empty() {
        return Err(refused("it has no argument"));
    }
    let empty = || Value::Object(serde_json::Map::new());
    match name.to_ascii_uppercase().as_str() {
        "CMD" => {
            config.cmd =
                Some(command(rest, config.shell.as_deref()).ok_or_else(|| refused("it is no list of strings"))?)
        }
        "ENTRYPOINT" => {
            let words = command(rest, config.shell.as_deref()).ok_or_else(|| refused("it is no list of strings"))?;
            config.entrypoint = Some(words);
        }
        "SHELL" => config.shell = Some(list(rest).ok_or_else(|| refused("it is no JSON list of strings"))?),
        "ENV" => {
            for (key, value) in pairs(rest).map_err(refused)? {
                let prefix = format!("{key}=");
                config.env.retain(|entry| !entry.starts_with(&prefix));
                config.env.push(format!("{key}={value}"));
            }
        }
        "LABEL" => config.labels.extend(pairs(rest).map_err(refused)?),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                config.exposed_ports.insert(self::port(port).ok_or_else(|| refused("it is no port"))?, empty());
            }
        }
        "VOLUME" => {
            let paths = list(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
            for path in paths {
                config.volumes.insert(path, empty());
            }
        }
        "USER" => config.user = rest.to_owned(),
        "WORKDIR" => {
            config.working_dir = if rest.starts_with('/') {
                rest.to_owned()
            } else {
                format!("{}/{rest}", config.working_dir.trim_end_matches('/'))
            };
        }
        "STOPSIGNAL" => config.stop_signal = Some(rest.to_owned()),
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        other => {
            return Err(refused(&format!(
                "{other} is not one of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR"
            )));
        }
    }
    Ok(())
}

/// A JSON list, or a command line for the shell. What begins like a list and is none is a command line, as in docker.
fn command(text: &str, shell: Option<&[String]>) -> Option<Vec<String>> {
    if let Some(list) = list(text) {
        return Some(list);
    }
    let shell = shell.map_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()], <[String]>::to_vec);
    Some([shell, vec![text.to_owned()]].concat())
}

fn list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

/// `80`, `80/tcp`, `8000-8010/udp`.
fn port(text: &str) -> Option<String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let numbers: Option<Vec<u16>> = range.split('-').map(|number| number.parse().ok()).collect();
    let valid = numbers.is_some_and(|numbers| numbers.len() <= 2 && numbers.is_sorted());
    (valid && matches!(protocol.as_str(), "tcp" | "udp" | "sctp")).then(|| format!("{range}/{protocol}"))
}

/// `KEY=value KEY2="two words"`, or the old `KEY value with blanks`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let words = words(text)?;
    let Some(first) = words.first() else { return Err("it names nothing") };
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace).ok_or("it has no value: write KEY=VALUE")?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err("each word must be KEY=VALUE"),
        })
        .collect()
}

/// Words as the shell splits them: blanks separate, quotes and backslashes keep.
fn words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                let next = chars.next().ok_or("it ends in a backslash")?;
                word.get_or_insert_default().push(next);
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_changes_its_field() {
        let mut config = ContainerConfig { env: vec!["A=old".into(), "AB=kept".into()], ..Default::default() };
        for text in [
            "CMD [\"a\", \"b\"]",
            "entrypoint exec it",
            "ENV A=1 B=\"two words\"",
            "ENV C three words",
            "LABEL x=y",
            "EXPOSE 80 53/udp 8000-8010",
            "VOLUME [\"/data\"]",
            "VOLUME /more",
            "USER 1000:1000",
            "WORKDIR /srv",
            "WORKDIR app",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN true",
        ] {
            apply(&mut config, text).unwrap_or_else(|error| panic!("{error}"));
        }
        assert_eq!(config.cmd.unwrap(), ["a", "b"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "exec it"]);
        assert_eq!(config.env, ["AB=kept", "A=1", "B=two words", "C=three words"]);
        assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp", "8000-8010/tcp"]);
        assert_eq!(config.volumes.len(), 2);
        assert_eq!(config.working_dir, "/srv/app");
        assert_eq!(config.on_build, ["RUN true"]);
    }

    #[test]
    fn what_is_no_instruction_says_so() {
        let mut config = ContainerConfig::default();
        for text in ["", "CMD", "RUN x", "EXPOSE x", "EXPOSE 9-8", "ENV A=\"x", "ENV A", "LABEL =x"] {
            assert!(apply(&mut config, text).is_err(), "{text}");
        }
    }
}
