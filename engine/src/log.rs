//! A container's log: one driver writes it (in the monitor), one reader answers `logs` (in the client).

mod datagram;
mod journald;
mod json_file;
mod k8s_file;
mod query;
mod rotate;
mod syslog;
mod tailing;

pub use query::{Entry, Follow, Query, QueryError};

use crate::time::Nanos;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The longest line kept in one piece, in bytes: docker's copier cuts at the same length.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

/// `--log-driver` and `--log-opt`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// `json-file` (also when empty), `k8s-file`, `syslog`, `journald`, `none`.
    pub driver: String,
    /// The driver's options, checked by [`LogConfig::check`].
    pub options: BTreeMap<String, String>,
}

/// Why a log configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No such driver.
    #[error("unknown log driver {driver:?}: use json-file, k8s-file, syslog, journald or none")]
    Driver {
        /// What was asked for.
        driver: String,
    },
    /// The driver has no such option, or not this value.
    #[error("log driver {driver}: option {option}={value}: {reason}")]
    Option {
        /// Which driver.
        driver: &'static str,
        /// Which option.
        option: String,
        /// With which value.
        value: String,
        /// What is expected.
        reason: &'static str,
    },
}

impl LogConfig {
    /// The driver's name.
    pub fn driver(&self) -> &str {
        if self.driver.is_empty() { "json-file" } else { &self.driver }
    }

    /// Refuses unknown drivers, unknown options and bad values.
    pub fn check(&self) -> Result<(), LogError> {
        let (driver, known): (&'static str, &[&str]) = match self.driver() {
            "json-file" => ("json-file", &["max-size", "max-file", "tag", "labels", "env", "mode"]),
            "k8s-file" => ("k8s-file", &["max-size", "max-file", "path"]),
            "syslog" => ("syslog", &["syslog-address", "syslog-facility", "tag"]),
            "journald" => ("journald", &["tag", "labels", "env"]),
            "none" => ("none", &[]),
            other => return Err(LogError::Driver { driver: other.to_owned() }),
        };
        for (option, value) in &self.options {
            let refuse = |reason| LogError::Option { driver, option: option.clone(), value: value.clone(), reason };
            if !known.contains(&option.as_str()) {
                return Err(refuse("this driver has no such option"));
            }
            match option.as_str() {
                "max-size" if value != "-1" && crate::wish::bytes(value).is_err() => {
                    return Err(refuse("a size such as 10m, or -1"));
                }
                "max-file" if value.parse::<u32>().map_or(true, |count| count == 0) => {
                    return Err(refuse("a number of files, at least 1"));
                }
                "tag" if expand(value, &Named::default()).is_none() => {
                    return Err(refuse(
                        "{{.ID}}, {{.FullID}}, {{.Name}}, {{.ImageID}}, {{.ImageFullID}} or {{.ImageName}}",
                    ));
                }
                "mode" if value != "blocking" => return Err(refuse("only blocking is offered")),
                "syslog-address" if !value.starts_with("unix") && !value.starts_with("udp://") => {
                    return Err(refuse("unixgram:///PATH or udp://HOST:PORT"));
                }
                "syslog-facility" if syslog::facility(value).is_none() => {
                    return Err(refuse("a facility of syslog(3)"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The file this configuration writes below the container's data folder; `None` when there is none to read back.
    pub fn file(&self, data: &Path) -> Option<PathBuf> {
        match self.driver() {
            "json-file" => Some(data.join("container-json.log")),
            "k8s-file" => Some(self.options.get("path").map_or_else(|| data.join("ctr.log"), PathBuf::from)),
            _ => None,
        }
    }

    /// What is written beside each line: the labels and variables that the options name, and the tag.
    pub fn attributes(
        &self,
        named: &Named<'_>,
        labels: &BTreeMap<String, String>,
        env: &[String],
    ) -> BTreeMap<String, String> {
        let mut attributes = BTreeMap::new();
        let wanted = |option: &str| {
            let list = self.options.get(option).map_or("", String::as_str);
            list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        for name in wanted("labels") {
            attributes.extend(labels.get(&name).map(|value| (name, value.clone())));
        }
        for name in wanted("env") {
            let value = env.iter().rev().find_map(|entry| entry.strip_prefix(name.as_str())?.strip_prefix('='));
            attributes.extend(value.map(|value| (name, value.to_owned())));
        }
        if let Some(tag) = self.options.get("tag") {
            attributes.extend(expand(tag, named).map(|tag| (TAG.to_owned(), tag)));
        }
        attributes
    }

    fn max_size(&self) -> u64 {
        self.options.get("max-size").and_then(|text| crate::wish::bytes(text).ok()).unwrap_or(0)
    }

    fn max_file(&self) -> u32 {
        self.options.get("max-file").and_then(|text| text.parse().ok()).unwrap_or(1)
    }
}

/// The attribute that holds the tag.
const TAG: &str = "tag";

/// What a tag can name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Named<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its image as it was asked for.
    pub image: &'a str,
    /// The digest of its image's configuration.
    pub image_id: &'a str,
}

/// Puts in what a tag's template names; `None` where it names something else.
fn expand(template: &str, named: &Named<'_>) -> Option<String> {
    let short = |id: &str| id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
    let (mut text, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once("{{") {
        let (field, behind) = after.split_once("}}")?;
        text.push_str(before);
        text.push_str(&match field.trim() {
            ".ID" => short(named.id),
            ".FullID" => named.id.to_owned(),
            ".Name" => named.name.to_owned(),
            ".ImageID" => short(named.image_id),
            ".ImageFullID" => named.image_id.to_owned(),
            ".ImageName" => named.image.to_owned(),
            _ => return None,
        });
        rest = behind;
    }
    text.push_str(rest);
    Some(text)
}

/// Which of the container's two outputs a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Descriptor 1, and everything of a terminal.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// What names the container in logs that are shared with others.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The container's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// What [`LogConfig::attributes`] has chosen.
    pub attributes: BTreeMap<String, String>,
}

impl Origin {
    /// What the lines are marked with: the tag, else the short id.
    fn tag(&self) -> String {
        self.attributes.get(TAG).cloned().unwrap_or_else(|| self.id.chars().take(12).collect())
    }
}

/// The writing end of one container's log.
#[derive(Debug)]
pub enum Writer {
    /// JSON lines in a file.
    JsonFile(json_file::Writer),
    /// CRI lines in a file.
    K8sFile(k8s_file::Writer),
    /// Datagrams to a syslog socket.
    Syslog(syslog::Writer),
    /// Datagrams to the journal.
    Journald(journald::Writer),
    /// Nothing is kept.
    None,
}

impl Writer {
    /// Opens the log of a container whose data folder is `data`.
    pub fn open(config: &LogConfig, data: &Path, origin: &Origin) -> io::Result<Self> {
        let file = config.file(data).unwrap_or_default();
        let (max_size, max_file) = (config.max_size(), config.max_file());
        Ok(match config.driver() {
            "json-file" => Self::JsonFile(json_file::Writer::open(
                rotate::File::open(&file, max_size, max_file)?,
                &origin.attributes,
            )),
            "k8s-file" => Self::K8sFile(k8s_file::Writer::open(rotate::File::open(&file, max_size, max_file)?)),
            "syslog" => Self::Syslog(syslog::Writer::open(config, origin)?),
            "journald" => Self::Journald(journald::Writer::open(origin)?),
            _ => Self::None,
        })
    }

    /// Appends what one read of the container's output brought: whole lines, or the last part of one.
    /// `lines` yields each piece with whether it ends a line.
    pub fn write(&mut self, stream: Stream, time: Nanos, text: &[u8]) -> io::Result<()> {
        match self {
            Self::JsonFile(writer) => writer.write(stream, time, text),
            Self::K8sFile(writer) => writer.write(stream, time, text),
            Self::Syslog(writer) => writer.write(stream, time, text),
            Self::Journald(writer) => writer.write(stream, time, text),
            Self::None => Ok(()),
        }
    }
}

/// Cuts a byte stream into lines of at most [`LINE_BYTES_MAX`]; what has no newline yet waits for more.
#[derive(Debug, Default)]
pub struct Lines {
    held: Vec<u8>,
}

impl Lines {
    /// Takes in bytes; hands `out` every text that is complete, newline included.
    pub fn push(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) {
        let complete = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let (now, later) = bytes.split_at(complete);
        if !now.is_empty() {
            if self.held.is_empty() {
                out(now);
            } else {
                self.held.extend_from_slice(now);
                out(&std::mem::take(&mut self.held));
            }
        }
        self.held.extend_from_slice(later);
        if self.held.len() >= LINE_BYTES_MAX {
            out(&std::mem::take(&mut self.held));
        }
    }

    /// Hands out what is left when the stream ends.
    pub fn finish(&mut self, out: &mut dyn FnMut(&[u8])) {
        if !self.held.is_empty() {
            out(&std::mem::take(&mut self.held));
        }
    }
}

/// Splits a text into pieces of at most [`LINE_BYTES_MAX`], each ending with a newline or cut.
fn pieces(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|&byte| byte == b'\n').flat_map(|line| line.chunks(LINE_BYTES_MAX))
}

#[cfg(test)]
mod tests;
