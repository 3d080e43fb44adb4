//! `-u` and `--group-add`: names and numbers against the text of `/etc/passwd` and `/etc/group`. Pure.

use oci::spec::User;

/// Why a user or group cannot be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// No such user in the image.
    #[error("unable to find user {name}: no matching entries in passwd file")]
    User {
        /// As given.
        name: String,
    },
    /// No such group in the image.
    #[error("unable to find group {name}: no matching entries in group file")]
    Group {
        /// As given.
        name: String,
    },
    /// A number outside 0 … 2^31-1.
    #[error("invalid id {text:?}: ids are numbers from 0 to 2147483647")]
    Range {
        /// As given.
        text: String,
    },
}

/// A user with everything a process needs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Account {
    /// Numeric ids with supplementary groups.
    pub user: User,
    /// The home directory, `/` when unknown.
    pub home: String,
}

/// Looks up `USER[:GROUP]`; empty means root.
pub fn resolve(text: &str, extra_groups: &[String], passwd: &str, group: &str) -> Result<Account, AccountError> {
    let (user, wanted_group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let user = if user.is_empty() { "0" } else { user };
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(|fields| fields.len() >= 6)
        .find(|fields| fields[0] == user || (is_number(user) && fields[2] == user));
    let uid = match &entry {
        Some(fields) => number(fields[2])?,
        None if is_number(user) => number(user)?,
        None => return Err(AccountError::User { name: user.to_owned() }),
    };
    let name = entry.as_ref().map(|fields| fields[0]);
    let gid = match wanted_group {
        Some(wanted) if !wanted.is_empty() => group_id(wanted, group)?,
        _ => entry.as_ref().map_or(Ok(0), |fields| number(fields[3]))?,
    };
    let mut additional_gids = Vec::new();
    if wanted_group.is_none()
        && let Some(name) = name
    {
        for line in group.lines() {
            let fields: Vec<_> = line.split(':').collect();
            if let [_, _, id, members, ..] = fields[..]
                && members.split(',').any(|member| member == name)
                && let Ok(id) = number(id)
            {
                additional_gids.push(id);
            }
        }
    }
    for extra in extra_groups {
        additional_gids.push(group_id(extra, group)?);
    }
    additional_gids.sort_unstable();
    additional_gids.dedup();
    let home = entry.as_ref().map(|fields| fields[5]).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(Account { user: User { uid, gid, additional_gids, ..User::default() }, home })
}

fn group_id(text: &str, group: &str) -> Result<u32, AccountError> {
    let found = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (name == text).then_some(id)
    });
    match found {
        Some(id) => number(id),
        None if is_number(text) => number(text),
        None => Err(AccountError::Group { name: text.to_owned() }),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Ids are plain decimal digits: signs, blanks and other bases are refused, not guessed.
fn number(text: &str) -> Result<u32, AccountError> {
    let refuse = || AccountError::Range { text: text.to_owned() };
    if !is_number(text) {
        return Err(refuse());
    }
    text.parse::<u32>().ok().filter(|id| *id <= 0x7fff_ffff).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\naudio:x:29:web,x\nwheel:x:10:root\n";

    fn ids(text: &str) -> (u32, u32, Vec<u32>) {
        let user = resolve(text, &[], PASSWD, GROUP).unwrap().user;
        (user.uid, user.gid, user.additional_gids)
    }

    #[test]
    fn names_and_numbers_are_found_with_their_groups() {
        assert_eq!(ids("web"), (33, 34, vec![29]));
        assert_eq!(ids("33"), (33, 34, vec![29]));
        assert_eq!(ids(""), (0, 0, vec![10]));
        assert_eq!(ids("1000"), (1000, 0, vec![]));
        assert_eq!(ids("web:audio"), (33, 29, vec![]));
        assert_eq!(ids("1000:2000"), (1000, 2000, vec![]));
        assert_eq!(resolve("web", &[], PASSWD, GROUP).unwrap().home, "/srv");
    }

    #[test]
    fn odd_spellings_are_errors_not_root() {
        for bad in ["0x0", " 0", "-1", "nobody", "web:nogroup", "4294967296", "2147483648", "0 "] {
            assert!(resolve(bad, &[], PASSWD, GROUP).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn added_groups_are_looked_up() {
        let user = resolve("web", &["wheel".into(), "77".into()], PASSWD, GROUP).unwrap().user;
        assert_eq!(user.additional_gids, [10, 29, 77]);
        assert!(resolve("web", &["ghosts".into()], PASSWD, GROUP).is_err());
    }
}
