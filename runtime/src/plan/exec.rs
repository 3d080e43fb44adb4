//! The process of `exec`: what the container was made with, changed by flags. Pure.

use oci::spec::{Process, User};

use crate::error::{Error, Result};

/// What the flags of `exec` change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `--env`, added.
    pub env: Vec<String>,
    /// `--cwd`.
    pub cwd: Option<String>,
    /// `--tty`.
    pub terminal: bool,
    /// `--user`, as `UID[:GID]`.
    pub user: Option<String>,
    /// `--additional-gids`, added.
    pub additional_gids: Vec<u32>,
    /// `--cap`, added.
    pub capabilities: Vec<String>,
    /// `--no-new-privs`.
    pub no_new_privileges: Option<bool>,
    /// `--apparmor`.
    pub apparmor_profile: Option<String>,
    /// `--process-label`.
    pub selinux_label: Option<String>,
}

impl Changes {
    /// The process to execute in a container that was made with `base`.
    pub fn apply(self, base: &Process) -> Result<Process> {
        let mut process = base.clone();
        process.args = self.args;
        process.env.extend(self.env);
        process.terminal = self.terminal;
        process.console_size = None;
        if let Some(cwd) = self.cwd {
            process.cwd = cwd;
        }
        if let Some(user) = self.user {
            let (uid, gid) = parse_user(&user)?;
            process.user = User { uid, gid: gid.unwrap_or(process.user.gid), ..process.user };
        }
        process.user.additional_gids.extend(self.additional_gids);
        if !self.capabilities.is_empty() {
            let sets = process.capabilities.get_or_insert_default();
            // Not inheritable (CVE-2022-29162): a file's own capabilities must not combine with these.
            for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
                set.extend(self.capabilities.iter().cloned());
            }
        }
        if let Some(set) = self.no_new_privileges {
            process.no_new_privileges = set;
        }
        process.apparmor_profile = self.apparmor_profile.or(process.apparmor_profile);
        process.selinux_label = self.selinux_label.or(process.selinux_label);
        Ok(process)
    }
}

/// The process of `exec --process FILE` in a container that was made with `base`: what the file leaves out is the
/// container's, so that a short file does not mean more privileges than the container has.
///
/// `said` is what the file itself says about `noNewPrivileges`, which cannot be told from the read document.
pub fn complete(mut file: Process, said: Option<bool>, base: &Process) -> Process {
    file.capabilities = file.capabilities.or_else(|| base.capabilities.clone());
    let text =
        |own: Option<String>, other: &Option<String>| own.filter(|own| !own.is_empty()).or_else(|| other.clone());
    file.apparmor_profile = text(file.apparmor_profile, &base.apparmor_profile);
    file.selinux_label = text(file.selinux_label, &base.selinux_label);
    if file.rlimits.is_empty() {
        file.rlimits.clone_from(&base.rlimits);
    }
    file.no_new_privileges = said.unwrap_or(base.no_new_privileges);
    file
}

/// Reads `UID` or `UID:GID`: decimal digits only, so that no odd spelling can mean another user (CVE-2026-30892).
fn parse_user(text: &str) -> Result<(u32, Option<u32>)> {
    let wrong = || Error::refusal("--user", format!("{text:?} is neither UID nor UID:GID in decimal numbers"));
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // The greatest number means "no change" to the kernel.
        digits.parse::<u32>().ok().filter(|id| plain && *id != u32::MAX).ok_or_else(wrong)
    };
    match text.split_once(':') {
        None => Ok((number(text)?, None)),
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_spellings_of_a_user_are_refused() {
        assert_eq!(parse_user("1000").expect("a user"), (1000, None));
        assert_eq!(parse_user("1000:50").expect("a user"), (1000, Some(50)));
        for bad in ["", " 1000", "1000:", ":5", "0x3e8", "+5", "-1", "4294967295", "4294967296", "1:2:3", "root"] {
            assert!(parse_user(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_process_file_leaves_out_is_the_containers() {
        let sets = |name: &str| {
            let sets = oci::spec::LinuxCapabilities { bounding: vec![name.into()], ..Default::default() };
            Some(sets)
        };
        let base = Process {
            capabilities: sets("CAP_KILL"),
            apparmor_profile: Some("kept".into()),
            selinux_label: Some("label".into()),
            rlimits: vec![Default::default()],
            no_new_privileges: true,
            ..Process::default()
        };
        let short = complete(Process::default(), None, &base);
        assert_eq!(short, base);
        let own = Process {
            capabilities: sets("CAP_CHOWN"),
            apparmor_profile: Some("own".into()),
            rlimits: vec![Default::default(), Default::default()],
            ..Process::default()
        };
        let whole = complete(own.clone(), Some(false), &base);
        assert_eq!(whole, Process { selinux_label: Some("label".into()), ..own });
    }

    #[test]
    fn added_capabilities_are_never_inheritable() {
        let changes = Changes { capabilities: vec!["CAP_KILL".into()], ..Changes::default() };
        let sets = changes.apply(&Process::default()).expect("applies").capabilities.expect("has sets");
        assert!(sets.inheritable.is_empty() && sets.ambient.is_empty());
        assert_eq!(sets.permitted, ["CAP_KILL"]);
    }
}
