//! Capability names become bit masks. runtime-spec config.md "capabilities"
//!
//! A name this program or this kernel does not know is a warning: it cannot be granted, and nothing else changes.

use std::str::FromStr;

use oci::spec::LinuxCapabilities;
use serde::Serialize;

/// The five sets, a bit a capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// What may ever be had.
    pub bounding: u64,
    /// What is checked.
    pub effective: u64,
    /// What survives execve together with a file's own.
    pub inheritable: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What survives the execve of an ordinary program.
    pub ambient: u64,
}

/// The names this program knows, in bit order.
pub fn names() -> Vec<String> {
    (0..64).map_while(name).collect()
}

/// The name of one bit.
fn name(bit: u8) -> Option<String> {
    caps::all().into_iter().find(|capability| capability.index() == bit).map(|capability| capability.to_string())
}

/// Reads the five sets; unknown names are reported in `warnings` and left out.
pub fn compile(sets: &LinuxCapabilities, warnings: &mut Vec<String>) -> Capabilities {
    let mut unknown = Vec::new();
    let mut read = |names: &[String]| names.iter().fold(0, |mask, name| mask | bit(name, &mut unknown));
    let mut capabilities = Capabilities {
        bounding: read(&sets.bounding),
        effective: read(&sets.effective),
        inheritable: read(&sets.inheritable),
        permitted: read(&sets.permitted),
        ambient: read(&sets.ambient),
    };
    unknown.sort();
    unknown.dedup();
    if !unknown.is_empty() {
        warnings.push(format!("ignoring unknown or unavailable capabilities: {}", unknown.join(" ")));
    }
    // The kernel lets nothing else be ambient. runc's own template asks for more, so this is no warning.
    capabilities.ambient &= capabilities.permitted & capabilities.inheritable;
    capabilities
}

/// The bit of one name; `CAP_` may be missing and case does not matter, as in runc.
fn bit(name: &str, unknown: &mut Vec<String>) -> u64 {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    match caps::Capability::from_str(&full) {
        Ok(capability) => 1 << capability.index(),
        Err(_) => {
            unknown.push(name.to_owned());
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_capability_is_a_warning_and_grants_nothing() {
        let sets = LinuxCapabilities {
            bounding: vec!["CAP_CHOWN".into(), "CAP_OF_TOMORROW".into(), "cap_kill".into()],
            ..LinuxCapabilities::default()
        };
        let mut warnings = Vec::new();
        assert_eq!(compile(&sets, &mut warnings).bounding, 1 | 1 << 5);
        assert_eq!(warnings, ["ignoring unknown or unavailable capabilities: CAP_OF_TOMORROW"]);
    }

    #[test]
    fn every_bit_has_its_name() {
        let names = names();
        assert_eq!((names[0].as_str(), names[40].as_str()), ("CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"));
    }
}
