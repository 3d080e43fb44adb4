//! What can go wrong with a verb, sorted by who must act.

use crate::account::AccountError;
use crate::file::FileError;
use crate::log::{LogError, QueryError};
use crate::wish::WishError;
use std::io;

/// A failed verb.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No container has this name or id.
    #[error("no such container: {name}")]
    NoSuchContainer {
        /// As given.
        name: String,
        /// A name that looks like it.
        similar: Option<String>,
    },
    /// A prefix that several ids share.
    #[error("the id {prefix} is ambiguous: {count} containers begin with it")]
    Ambiguous {
        /// As given.
        prefix: String,
        /// How many.
        count: usize,
    },
    /// Another container has this name.
    #[error("the container name {name:?} is already in use by container {holder}")]
    NameTaken {
        /// The name.
        name: String,
        /// The id of its holder.
        holder: String,
    },
    /// The container is in the wrong state for the verb.
    #[error("container {name} {reason}")]
    State {
        /// Which container.
        name: String,
        /// What is in the way, as `is not running`.
        reason: String,
    },
    /// The user asked for something that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// A bind's path is not there, and was not to be made.
    #[error("bind source path does not exist: {path}")]
    NoSource {
        /// The path of the host.
        path: String,
    },
    /// The container could not be started; the code is `run`'s exit code.
    #[error("{message}")]
    Start {
        /// 125, 126 or 127.
        code: u8,
        /// Why.
        message: String,
    },
    /// A helper program is missing.
    #[error("cannot find {program}: it is looked for in ${variable}, beside shoal itself and along PATH")]
    Helper {
        /// Its name.
        program: &'static str,
        /// The variable that names it.
        variable: &'static str,
    },
    /// A helper program failed.
    #[error("{step}: {message}")]
    Runtime {
        /// What was being done.
        step: String,
        /// What the runtime said.
        message: String,
    },
    /// The image cannot be used.
    #[cfg(feature = "client")]
    #[error("{message}")]
    Image {
        /// What was tried and why it failed.
        message: String,
        /// Whether there simply is no such image here.
        missing: bool,
    },
    /// A flag's text.
    #[error(transparent)]
    Wish(#[from] WishError),
    /// A user or group of the image.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The image and the flags contradict each other.
    #[cfg(feature = "client")]
    #[error(transparent)]
    Conversion(#[from] oci::conversion::ConversionError),
    /// The log's configuration.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Reading the log.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The network.
    #[error(transparent)]
    Network(#[from] crate::network::Error),
    /// The network of a user without root's rights.
    #[cfg(feature = "client")]
    #[error(transparent)]
    Slirp(#[from] crate::host::slirp::SlirpError),
    /// A volume.
    #[cfg(feature = "client")]
    #[error(transparent)]
    Volume(#[from] crate::volume::Error),
    /// A record cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel or the file system refused.
    #[error("{step}: {source}")]
    Io {
        /// What was being done, on what.
        step: String,
        /// Why not.
        source: io::Error,
    },
}

impl EngineError {
    /// Builds the mapping from an I/O error for one step.
    pub fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }
}
