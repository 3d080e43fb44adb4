//! Image references: what users type becomes a fully qualified name.
//!
//! In: `alpine`, `ghcr.io/a/b:1`, `[::1]:5000/x@sha256:…`. Out: a [`Reference`] with registry, repository, tag and digest,
//! normalised as docker does (`docker.io/library/alpine:latest`). Never looks anything up.

use crate::digest::{Digest, DigestError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// The registry of names that name none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of names that have neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// The longest registry + repository, in bytes (distribution's grammar).
const NAME_BYTES_MAX: usize = 255;
/// The longest tag, in bytes (distribution-spec).
const TAG_BYTES_MAX: usize = 128;

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing was written.
    #[error("image reference is empty: write NAME[:TAG][@DIGEST]")]
    Empty,
    /// The registry part is not a host with an optional port.
    #[error("\"{registry}\" in image reference \"{text}\" is not a registry: write HOST[:PORT]")]
    Registry {
        /// The whole text.
        text: String,
        /// The part that was taken as the registry.
        registry: String,
    },
    /// The repository holds upper-case letters.
    #[error("repository \"{repository}\" in image reference \"{text}\" must be lower case")]
    UpperCase {
        /// The whole text.
        text: String,
        /// The repository part.
        repository: String,
    },
    /// The repository is outside the grammar.
    #[error(
        "repository \"{repository}\" in image reference \"{text}\" is not valid: lower-case letters and digits, joined by one of . _ __ - and separated by /"
    )]
    Repository {
        /// The whole text.
        text: String,
        /// The repository part.
        repository: String,
    },
    /// The tag is outside the grammar.
    #[error(
        "tag \"{tag}\" in image reference \"{text}\" is not valid: at most 128 letters, digits, _ . - and not . or - first"
    )]
    Tag {
        /// The whole text.
        text: String,
        /// The tag part.
        tag: String,
    },
    /// The digest is not a digest.
    #[error("image reference \"{text}\"")]
    Digest {
        /// The whole text.
        text: String,
        /// What is wrong with it.
        source: DigestError,
    },
    /// The name would be mistaken for an image id.
    #[error("image reference \"{text}\" is an image id and not a name")]
    Identifier {
        /// The whole text.
        text: String,
    },
    /// Registry and repository are longer than registries accept.
    #[error("image reference \"{text}…\" is too long: registry and repository may have 255 bytes")]
    TooLong {
        /// The first bytes of the text.
        text: String,
    },
}

/// A fully qualified image name. It has a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// A reference from its parts; the same checks as parsing, and no familiar names.
    pub fn from_parts(
        registry: &str,
        repository: &str,
        tag: Option<&str>,
        digest: Option<Digest>,
    ) -> Result<Self, ReferenceError> {
        let text = || format!("{registry}/{repository}");
        if !is_registry(registry) {
            return Err(ReferenceError::Registry { text: text(), registry: registry.to_owned() });
        }
        check_repository(repository, text)?;
        if registry.len() + 1 + repository.len() > NAME_BYTES_MAX {
            return Err(ReferenceError::TooLong { text: text().chars().take(80).collect() });
        }
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(ReferenceError::Tag { text: text(), tag: tag.to_owned() });
        }
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), tag, digest })
    }

    /// The registry: a host with an optional port, such as `docker.io` or `[::1]:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry: `library/alpine`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Registry and repository: `docker.io/library/alpine`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag; present whenever there is no digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that pins the content.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What the distribution API takes as `<reference>`: the digest when there is one, else the tag.
    #[must_use]
    pub fn identifier(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// The same repository with another tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        Self::from_parts(&self.registry, &self.repository, Some(tag), None)
    }

    /// The same name pinned to `digest`; the tag stays.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// The same name without its tag, pinned to `digest`: how docker prints a repo digest.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), tag: None, ..self.clone() }
    }

    /// The same name without its digest; the tag is `latest` when there was none.
    #[must_use]
    pub fn without_digest(&self) -> Self {
        let tag = self.tag.clone().or_else(|| Some(DEFAULT_TAG.to_owned()));
        Self { digest: None, tag, ..self.clone() }
    }

    /// Registry and repository as docker shows them: `alpine`, `user/x`, `ghcr.io/a/b`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        match self.repository.strip_prefix("library/") {
            // A single component stays unambiguous; more than one would read as another repository.
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            // `docker.io/foo.bar/x` must not come back as the registry foo.bar.
            _ if names_registry(&self.repository) => self.name(),
            _ => self.repository.clone(),
        }
    }

    /// The whole reference as docker shows it: `alpine:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let is_hex = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex || text.parse::<Digest>().is_ok() {
            return Err(ReferenceError::Identifier { text: text.to_owned() });
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest =
                    digest.parse().map_err(|source| ReferenceError::Digest { text: text.to_owned(), source })?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // A colon behind the last slash starts a tag; one before it belongs to the registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(ReferenceError::Tag { text: text.to_owned(), tag: tag.to_owned() });
        }
        let (registry, repository) = split_registry(name);
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        if !is_registry(registry) {
            return Err(ReferenceError::Registry { text: text.to_owned(), registry: registry.to_owned() });
        }
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        check_repository(&repository, || text.to_owned())?;
        if registry.len() + 1 + repository.len() > NAME_BYTES_MAX {
            return Err(ReferenceError::TooLong { text: text.chars().take(80).collect() });
        }
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether `text` itself names a registry (`ghcr.io/a/b`, `localhost/x`), as opposed to one assumed for it.
#[must_use]
pub fn names_registry(text: &str) -> bool {
    text.split_once('/').is_some_and(|(first, _)| is_registry_component(first))
}

/// Whether `text` is a registry: a host name, an IPv4 address or a bracketed IPv6 address, with an optional port.
#[must_use]
pub fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                (None, port.strip_prefix(':').or(if port.is_empty() { None } else { Some("x") }))
            }
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let host_is_valid = host.is_none_or(|host| {
        host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
    });
    host_is_valid && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether `text` is a repository name: distribution-spec's `<name>`.
#[must_use]
pub fn is_repository(text: &str) -> bool {
    //= distribution-spec spec.md "Pulling manifests"
    //# [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*
    text.len() <= NAME_BYTES_MAX && text.split('/').all(is_repository_component)
}

/// Whether `text` is a tag: distribution-spec's `<reference>` as a tag.
#[must_use]
pub fn is_tag(text: &str) -> bool {
    //= distribution-spec spec.md "Pulling manifests"
    //# [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= TAG_BYTES_MAX
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_repository_component(component: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    // Between two alphanumeric runs stands one of: ".", "_", "__", "-"+.
    let mut rest = bytes;
    while let Some(start) = rest.iter().position(|b| !alphanumeric(b)) {
        rest = &rest[start..];
        let length = rest.iter().take_while(|b| !alphanumeric(b)).count();
        let separator = &rest[..length];
        let valid = matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-');
        if !valid {
            return false;
        }
        rest = &rest[length..];
    }
    true
}

fn check_repository(repository: &str, text: impl Fn() -> String) -> Result<(), ReferenceError> {
    if repository.split('/').all(is_repository_component) {
        return Ok(());
    }
    let repository_owned = repository.to_owned();
    Err(if is_repository_ignoring_case(repository) {
        ReferenceError::UpperCase { text: text(), repository: repository_owned }
    } else {
        ReferenceError::Repository { text: text(), repository: repository_owned }
    })
}

fn is_repository_ignoring_case(repository: &str) -> bool {
    repository.to_ascii_lowercase().split('/').all(is_repository_component)
}

/// Docker's rule: the first component is a registry when it could not be a repository's.
fn is_registry_component(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest)) if is_registry_component(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn familiar_names_are_normalised_as_docker_does() {
        for (text, whole, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1"),
            ("127.0.0.1:5000/a/b/c:v_1.0-x", "127.0.0.1:5000/a/b/c:v_1.0-x", "127.0.0.1:5000/a/b/c:v_1.0-x"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
            ("[fd00::2]/x", "[fd00::2]/x:latest", "[fd00::2]/x:latest"),
            ("ghcr.io/o/n", "ghcr.io/o/n:latest", "ghcr.io/o/n:latest"),
            ("Uppercase/x", "Uppercase/x:latest", "Uppercase/x:latest"),
            ("a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest"),
            ("x__y/z---w", "docker.io/x__y/z---w:latest", "x__y/z---w:latest"),
        ] {
            let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(reference.to_string(), whole, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(whole.parse::<Reference>().unwrap(), reference);
            assert_eq!(familiar.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn a_digest_needs_no_tag_and_keeps_one() {
        let pinned: Reference = format!("alpine@{DIGEST}").parse().unwrap();
        assert_eq!(pinned.tag(), None);
        assert_eq!(pinned.to_string(), format!("docker.io/library/alpine@{DIGEST}"));
        assert_eq!(pinned.identifier(), DIGEST);
        let both: Reference = format!("localhost:5000/alpine:3@{DIGEST}").parse().unwrap();
        assert_eq!(both.tag(), Some("3"));
        assert_eq!(both.to_string(), format!("localhost:5000/alpine:3@{DIGEST}"));
        assert_eq!(both.without_digest().identifier(), "3");
        assert_eq!(pinned.without_digest().tag(), Some("latest"));
    }

    #[test]
    fn what_is_outside_the_grammar_is_refused() {
        let long = format!("a/{}", "b".repeat(250));
        let long_tag = format!("a:{}", "b".repeat(129));
        for text in [
            "",
            ":tag",
            "a:",
            "a@",
            "a@sha256:00",
            "Alpine",
            "user/App",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a___b",
            "a.-b",
            "-a",
            "a-",
            "_a/b",
            "a b",
            "a:b c",
            "a:.b",
            "a:-b",
            "https://x.io/a",
            "x.io:port/a",
            "-x.io/a",
            "x..io/a",
            "[::1/a",
            "[zz]/a",
            "[::1]x/a",
            "../a",
            "a/../b",
            "a\n",
            "é",
            &long,
            &long_tag,
            &DIGEST[7..],
            DIGEST,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?} gave {:?}", text.parse::<Reference>());
        }
        assert!(matches!("Alpine".parse::<Reference>(), Err(ReferenceError::UpperCase { .. })));
    }

    #[test]
    fn a_text_without_registry_is_known_as_such() {
        assert!(!names_registry("alpine"));
        assert!(!names_registry("user/app:1"));
        assert!(names_registry("localhost/x"));
        assert!(names_registry("a:5000/x"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_the_canonical_form_is_stable(text in "[a-zA-Z0-9._:/@\\[\\]-]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let again: Reference = reference.to_string().parse().unwrap();
                prop_assert_eq!(&again, &reference);
                prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
                prop_assert!(is_repository(reference.repository()));
                prop_assert!(reference.tag().is_some() || reference.digest().is_some());
            }
        }

        #[test]
        fn every_name_of_the_grammar_parses(
            host in "[a-z0-9]{1,5}(\\.[a-z0-9]{1,5}){1,2}(:[0-9]{1,5})?",
            path in "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}(/[a-z0-9]{1,4}){0,3}",
            tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}",
        ) {
            let reference: Reference = format!("{host}/{path}:{tag}").parse().unwrap();
            prop_assert_eq!(reference.registry(), &host);
            prop_assert_eq!(reference.tag(), Some(tag.as_str()));
        }
    }
}
