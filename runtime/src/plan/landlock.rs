//! Landlock by annotation: a process that confines itself to paths and ports, whatever its user may do.
//!
//! In: the annotation [`ANNOTATION`], a JSON document of the form that is proposed for runtime-spec. Out: bit masks. The
//! specification has no field for it yet; when it has, this reads the field. landlock(7)

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The annotation that holds the document.
pub const ANNOTATION: &str = "org.shoal.landlock";

/// Rights on files by name, in bit order, with the version of the kernel's interface that has them first.
pub const FILE_RIGHTS: [(&str, u32); 16] = [
    ("execute", 1),
    ("write_file", 1),
    ("read_file", 1),
    ("read_dir", 1),
    ("remove_dir", 1),
    ("remove_file", 1),
    ("make_char", 1),
    ("make_dir", 1),
    ("make_reg", 1),
    ("make_sock", 1),
    ("make_fifo", 1),
    ("make_block", 1),
    ("make_sym", 1),
    ("refer", 2),
    ("truncate", 3),
    ("ioctl_dev", 5),
];

/// Rights on TCP ports by name, in bit order.
pub const NETWORK_RIGHTS: [(&str, u32); 2] = [("bind_tcp", 4), ("connect_tcp", 4)];

/// The rights that mean something for what is no directory.
pub const OF_A_FILE: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15;

/// A compiled document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Landlock {
    /// Rights on files that are denied unless a rule allows them.
    pub files: u64,
    /// Rights on ports that are denied unless a rule allows them.
    pub network: u64,
    /// Rights below paths, resolved in the container.
    pub paths: Vec<(u64, String)>,
    /// Rights on ports.
    pub ports: Vec<(u64, u16)>,
    /// Whether every right must be one that the kernel knows.
    pub strict: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    ruleset: Ruleset,
    #[serde(default)]
    rules: Rules,
    #[serde(default)]
    disable_best_effort: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ruleset {
    #[serde(default, rename = "handledAccessFS")]
    files: Vec<String>,
    #[serde(default, rename = "handledAccessNetwork")]
    network: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Rules {
    path_beneath: Vec<PathBeneath>,
    net_port: Vec<NetPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PathBeneath {
    allowed_access: Vec<String>,
    paths: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NetPort {
    allowed_access: Vec<String>,
    ports: Vec<u16>,
}

fn refusal(reason: impl Into<String>) -> Error {
    Error::refusal(format!("annotations[{ANNOTATION:?}]"), reason)
}

/// Reads the annotation, if there is one. A process it is for must not gain privileges, which would lift the rules.
pub fn compile(annotations: &BTreeMap<String, String>, no_new_privileges: bool) -> Result<Option<Landlock>> {
    let Some(text) = annotations.get(ANNOTATION) else { return Ok(None) };
    let document: Document = serde_json::from_str(text).map_err(|cause| refusal(cause.to_string()))?;
    if !no_new_privileges {
        return Err(refusal("needs process.noNewPrivileges: the kernel takes rules from no other process"));
    }
    let files = mask(&FILE_RIGHTS, &document.ruleset.files)?;
    let network = mask(&NETWORK_RIGHTS, &document.ruleset.network)?;
    if files == 0 && network == 0 {
        return Err(refusal("ruleset handles no right at all"));
    }
    let mut compiled =
        Landlock { files, network, paths: Vec::new(), ports: Vec::new(), strict: document.disable_best_effort };
    for rule in &document.rules.path_beneath {
        let allowed = allowed(&FILE_RIGHTS, &rule.allowed_access, files)?;
        for path in &rule.paths {
            if !path.starts_with('/') || path.contains('\0') {
                return Err(refusal(format!("{path:?} is no absolute path")));
            }
            compiled.paths.push((allowed, path.clone()));
        }
    }
    for rule in &document.rules.net_port {
        let allowed = allowed(&NETWORK_RIGHTS, &rule.allowed_access, network)?;
        compiled.ports.extend(rule.ports.iter().map(|port| (allowed, *port)));
    }
    Ok(Some(compiled))
}

fn mask(known: &[(&str, u32)], names: &[String]) -> Result<u64> {
    names.iter().try_fold(0, |mask, name| {
        let bit = known.iter().position(|(known, _)| known == name);
        bit.map(|bit| mask | 1 << bit).ok_or_else(|| refusal(format!("unknown right {name:?}")))
    })
}

/// The kernel refuses a rule for a right that is not handled, or for none.
fn allowed(known: &[(&str, u32)], names: &[String], handled: u64) -> Result<u64> {
    match mask(known, names)? {
        0 => Err(refusal("a rule allows nothing")),
        rights if rights & !handled != 0 => Err(refusal("a rule allows a right that ruleset does not handle")),
        rights => Ok(rights),
    }
}

/// The rights among `known` that version `abi` of the kernel's interface has.
pub fn known_to(known: &[(&str, u32)], abi: u32) -> u64 {
    known.iter().enumerate().filter(|(_, (_, since))| *since <= abi).fold(0, |mask, (bit, _)| mask | 1 << bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Landlock>> {
        compile(&BTreeMap::from([(ANNOTATION.to_owned(), text.to_owned())]), true)
    }

    #[test]
    fn rights_become_bits_and_rules_keep_to_them() {
        let text = r#"{"ruleset": {"handledAccessFS": ["execute", "read_file"], "handledAccessNetwork": ["bind_tcp"]},
            "rules": {"pathBeneath": [{"allowedAccess": ["execute"], "paths": ["/usr", "/bin"]}],
                      "netPort": [{"allowedAccess": ["bind_tcp"], "ports": [80]}]}}"#;
        let paths = vec![(1, "/usr".to_owned()), (1, "/bin".to_owned())];
        let wanted = Landlock { files: 5, network: 1, paths, ports: vec![(1, 80)], strict: false };
        assert_eq!(read(text), Ok(Some(wanted)));
        assert_eq!(compile(&BTreeMap::new(), false), Ok(None));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for bad in [
            "",
            "[]",
            r#"{"ruleset": {}}"#,
            r#"{"ruleset": {"handledAccessFS": ["fly"]}}"#,
            r#"{"ruleset": {"handledAccessFS": ["execute"]}, "more": 1}"#,
            r#"{"ruleset": {"handledAccessFS": ["execute"]}, "rules": {"pathBeneath": [{"allowedAccess": ["read_file"], "paths": ["/"]}]}}"#,
            r#"{"ruleset": {"handledAccessFS": ["execute"]}, "rules": {"pathBeneath": [{"allowedAccess": ["execute"], "paths": ["bin"]}]}}"#,
            r#"{"ruleset": {"handledAccessFS": ["execute"]}, "rules": {"pathBeneath": [{"allowedAccess": [], "paths": ["/"]}]}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let good =
            BTreeMap::from([(ANNOTATION.to_owned(), r#"{"ruleset": {"handledAccessFS": ["execute"]}}"#.to_owned())]);
        assert!(compile(&good, true).is_ok() && compile(&good, false).is_err());
    }

    #[test]
    fn an_older_kernel_knows_fewer_rights() {
        assert_eq!(known_to(&FILE_RIGHTS, 1), (1 << 13) - 1);
        assert_eq!(known_to(&FILE_RIGHTS, 5), (1 << 16) - 1);
        assert_eq!((known_to(&NETWORK_RIGHTS, 3), known_to(&NETWORK_RIGHTS, 4)), (0, 3));
    }
}
