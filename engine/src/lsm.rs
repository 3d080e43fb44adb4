//! AppArmor and SELinux: what this host has of them for containers, and labels put together from their parts.
//!
//! In: the files by which the kernel shows its security modules. Out: the name of a loaded profile, a label. Nothing is loaded
//! and nothing is relabelled.

use std::fs;
use std::path::Path;

/// Profiles made for containers, the first that is loaded counts; podman's have a version behind.
const PROFILES: [&str; 3] = ["shoal-default", "docker-default", "containers-default"];
/// The label of a container's processes where only parts of it are given; docker's and podman's.
const LABEL: [&str; 4] = ["system_u", "system_r", "container_t", "s0"];

/// The profile `shoal-default` as `apparmor_parser` reads it. The kernel takes only what that program has compiled, so loading it
/// is left to the host's administrator.
pub const APPARMOR_PROFILE: &str = include_str!("../apparmor/shoal-default");

/// Whether the kernel confines by AppArmor.
pub fn has_apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

/// Whether the kernel confines by SELinux.
pub fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// The profile for containers that this host has loaded.
pub fn apparmor_default() -> Option<String> {
    if !has_apparmor() {
        return None;
    }
    loaded(&fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default())
}

/// Picks from the kernel's list, a line a profile: `NAME (enforce)`.
fn loaded(list: &str) -> Option<String> {
    let names = || list.lines().filter_map(|line| line.rsplit_once(" (")).map(|(name, _)| name);
    PROFILES.iter().find_map(|wanted| {
        let versioned =
            |name: &&str| name.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        names().find(versioned).map(str::to_owned)
    })
}

/// Puts one part into a label: `user:U`, `role:R`, `type:T`, `level:L`, `filetype:…` is for files and not taken.
pub(crate) fn label(label: Option<&str>, part: &str) -> Result<String, String> {
    let mut parts: Vec<String> = match label {
        Some(label) => label.splitn(4, ':').map(str::to_owned).collect(),
        None => LABEL.map(str::to_owned).to_vec(),
    };
    let at = part.split_once(':').and_then(|(key, value)| {
        let at = ["user", "role", "type", "level"].iter().position(|known| *known == key)?;
        (!value.is_empty()).then_some((at, value))
    });
    let Some((at, value)) = at else {
        return Err("use label=user:, role:, type: or level: with a value, or label=disable".to_owned());
    };
    value.clone_into(parts.get_mut(at).ok_or_else(|| format!("{part} has no place in {label:?}"))?);
    Ok(parts.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_loaded_profile_for_containers_is_taken() {
        let list = "/usr/sbin/cupsd (enforce)\ndocker-default (enforce)\ncontainers-default-0.50.1 (complain)\n";
        assert_eq!(loaded(list).as_deref(), Some("docker-default"));
        assert_eq!(loaded("containers-default-0.50.1 (enforce)\n").as_deref(), Some("containers-default-0.50.1"));
        assert_eq!(loaded("docker-defaults (enforce)\nman (enforce)\n"), None);
    }

    #[test]
    fn the_shipped_profile_has_the_name_that_is_looked_for_and_closes_what_it_opens() {
        assert!(APPARMOR_PROFILE.contains(&format!("profile {} flags", PROFILES[0])));
        let count = |letter: char| APPARMOR_PROFILE.chars().filter(|other| *other == letter).count();
        assert_eq!(count('{'), count('}'));
        let rules = APPARMOR_PROFILE.lines().map(str::trim);
        let rules = rules.filter(|line| !line.is_empty() && !line.starts_with('#') && !line.ends_with(['{', '}']));
        for rule in rules {
            assert!(rule.ends_with(','), "{rule}");
        }
    }

    #[test]
    fn a_label_is_put_together_from_its_parts() {
        let first = label(None, "type:spc_t").unwrap();
        assert_eq!(first, "system_u:system_r:spc_t:s0");
        assert_eq!(label(Some(&first), "level:s0:c1,c2").unwrap(), "system_u:system_r:spc_t:s0:c1,c2");
        for wrong in ["spc_t", "type:", "colour:red"] {
            assert!(label(None, wrong).is_err(), "{wrong}");
        }
    }
}
