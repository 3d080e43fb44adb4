//! Platforms: what an image was built for, what a host or a user asks for, and which candidate fits best.
//!
//! In: `linux/arm64/v8`, the `platform` object of an index. Out: a normalised [`Platform`] and a rank. Never asks the host
//! anything beyond what the program was compiled for.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a platform: write OS/ARCH[/VARIANT], such as linux/amd64 or linux/arm/v7")]
pub struct PlatformError {
    /// What was written.
    text: String,
}

/// An operating system and a processor architecture.
///
/// image-spec image-index.md "platform". Text that was parsed is normalised (`x86_64` → `amd64`); JSON is kept as it is
/// and normalised when it is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Go's name of the architecture: `amd64`, `arm64`.
    pub architecture: String,
    /// Go's name of the operating system: `linux`.
    pub os: String,
    /// The version of the operating system (Windows images).
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that are needed.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// The variant of the processor: `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Fields that this version does not know; kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Platform {
    /// A platform from its names, normalised.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, variant) = normalise(architecture, variant.unwrap_or_default());
        Self {
            architecture,
            os: normalise_os(os),
            os_version: None,
            os_features: Vec::new(),
            variant: (!variant.is_empty()).then_some(variant),
            extra: Map::new(),
        }
    }

    /// The platform this program runs on.
    #[must_use]
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// How well `candidate` serves someone who wants `self`: lower is better, 0 is exact, `None` means it does not run.
    ///
    /// Within an architecture an older variant runs on a newer processor: arm v7 takes v7, v6, v5; amd64 v3 takes v3, v2,
    /// v1. What names no variant means the architecture's base line (arm v7, arm64 v8, amd64 v1).
    #[must_use]
    pub fn rank(&self, candidate: &Self) -> Option<u32> {
        let (wanted_arch, wanted_variant) = normalise(&self.architecture, self.variant.as_deref().unwrap_or_default());
        let (arch, variant) = normalise(&candidate.architecture, candidate.variant.as_deref().unwrap_or_default());
        if normalise_os(&self.os) != normalise_os(&candidate.os) || wanted_arch != arch {
            return None;
        }
        if let Some(version) = &self.os_version
            && candidate.os_version.as_ref().is_some_and(|other| other != version)
        {
            return None;
        }
        match (level(&wanted_arch, &wanted_variant), level(&arch, &variant)) {
            (Some(wanted), Some(has)) => wanted.checked_sub(has),
            _ if wanted_variant == variant => Some(0),
            _ => None,
        }
    }

    /// The index of the best of `candidates`; the first among equals. Entries without a platform fit last.
    pub fn best<'a>(&self, candidates: impl IntoIterator<Item = Option<&'a Self>>) -> Option<usize> {
        candidates
            .into_iter()
            .enumerate()
            .filter_map(|(index, candidate)| match candidate {
                Some(candidate) => self.rank(candidate).map(|rank| (rank, index)),
                None => Some((u32::MAX, index)),
            })
            .min()
            .map(|(_, index)| index)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// Parses `OS/ARCH[/VARIANT]`, `ARCH` (of the host's system) or `OS` (on the host's architecture).
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let refused = || PlatformError { text: text.chars().take(80).collect() };
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !parts.iter().all(word) {
            return Err(refused());
        }
        match parts[..] {
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            [one] if is_os(one) => Ok(Self::new(one, std::env::consts::ARCH, None)),
            [one] if is_architecture(one) => Ok(Self::new("linux", one, None)),
            _ => Err(refused()),
        }
    }
}

/// The systems that a single word may name.
fn is_os(word: &str) -> bool {
    matches!(normalise_os(word).as_str(), "linux" | "windows" | "darwin" | "freebsd" | "netbsd" | "openbsd" | "solaris")
}

/// The architectures that a single word may name.
fn is_architecture(word: &str) -> bool {
    let (architecture, _) = normalise(word, "");
    matches!(
        architecture.as_str(),
        "386"
            | "amd64"
            | "arm"
            | "arm64"
            | "loong64"
            | "mips"
            | "mips64"
            | "mips64le"
            | "mipsle"
            | "ppc64"
            | "ppc64le"
            | "riscv64"
            | "s390x"
            | "wasm"
    )
}

fn normalise_os(os: &str) -> String {
    let os = os.to_ascii_lowercase();
    if os == "macos" { "darwin".into() } else { os }
}

/// Go's names for architecture and variant, without variants that say no more than the architecture.
fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf" | "armv7l", _) => ("arm", "v7"),
        ("armel" | "armv6l", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        ("powerpc64le", variant) => ("ppc64le", variant),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.to_owned(), variant.to_owned())
}

/// The place of a variant on its architecture's ladder; `None` where there is no ladder.
fn level(architecture: &str, variant: &str) -> Option<u32> {
    let base = match architecture {
        "amd64" => "v1",
        "arm64" => "v8",
        "arm" => "v7",
        _ => return None,
    };
    let variant = if variant.is_empty() { base } else { variant };
    // "v8.2" is level 82, "v8" is level 80: minor versions of arm64 order within the major one.
    let (major, minor) = match variant.strip_prefix('v')?.split_once('.') {
        Some((major, minor)) => (major, minor),
        None => (variant.strip_prefix('v')?, "0"),
    };
    let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
    (major < 100 && minor < 10).then_some(major * 10 + minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn aliases_come_out_under_one_name() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(platform(text).to_string(), shown);
        }
        for text in ["", "/", "linux/", "linux//v7", "vax", "a/b/c/d", "linux/am d64", "../x"] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_older_variant_fits_worse_and_a_newer_one_does_not_fit() {
        let arm = platform("linux/arm/v7");
        assert_eq!(arm.rank(&platform("linux/arm/v7")), Some(0));
        assert!(arm.rank(&platform("linux/arm/v6")) > Some(0));
        assert!(arm.rank(&platform("linux/arm/v5")) > arm.rank(&platform("linux/arm/v6")));
        assert_eq!(arm.rank(&platform("linux/arm/v8")), None);
        assert_eq!(arm.rank(&platform("linux/arm64")), None);
        assert_eq!(platform("linux/amd64").rank(&platform("linux/amd64/v3")), None);
        assert!(platform("linux/amd64/v3").rank(&platform("linux/amd64")).is_some());
        assert_eq!(platform("linux/arm64").rank(&platform("linux/arm64/v8.2")), None);
        assert_eq!(platform("linux/s390x").rank(&platform("linux/s390x")), Some(0));
        assert_eq!(platform("linux/amd64").rank(&platform("windows/amd64")), None);
    }

    #[test]
    fn the_best_candidate_is_the_closest_and_the_first_among_equals() {
        let list =
            [platform("linux/arm/v6"), platform("linux/arm/v7"), platform("linux/amd64"), platform("linux/arm/v7")];
        assert_eq!(platform("linux/arm/v7").best(list.iter().map(Some)), Some(1));
        assert_eq!(platform("linux/ppc64le").best(list.iter().map(Some)), None);
        assert_eq!(platform("linux/ppc64le").best([Some(&list[0]), None]), Some(1));
    }

    #[test]
    fn unknown_fields_of_the_json_survive() {
        let text = r#"{"architecture":"amd64","os":"windows","os.version":"10.0","x.new":1}"#;
        let platform: Platform = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&platform).unwrap(), text);
    }
}
