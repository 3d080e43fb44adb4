//! The device cgroup of v1 as the kernel keeps it: a default and a list of exceptions.
//!
//! From what a cgroup has and what it should have follows the shortest list of lines to write: rules that stay are not
//! touched, so a running container never loses a device for a moment. Documentation/admin-guide/cgroup-v1/devices.rst

use std::collections::BTreeMap;

use super::{Access, DeviceError, Devices, Kind, Rule};

/// A default and its exceptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulated {
    /// Whether devices without an exception are allowed.
    pub allow: bool,
    exceptions: BTreeMap<Devices, Access>,
}

/// One write to `devices.allow` or `devices.deny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// To `devices.allow`, or to `devices.deny`.
    pub allow: bool,
    /// What is written.
    pub text: String,
}

impl Emulated {
    /// The state that the rules describe.
    pub fn from_rules(rules: &[Rule]) -> Result<Self, DeviceError> {
        let mut state = Self { allow: false, exceptions: BTreeMap::new() };
        for rule in rules {
            match *rule {
                Rule::Everything { allow } => state = Self { allow, exceptions: BTreeMap::new() },
                Rule::Some { allow, devices, access } if allow == state.allow => state.remove(devices, access)?,
                Rule::Some { devices, access, .. } => state.add(devices, access),
            }
        }
        Ok(state)
    }

    /// The state that `devices.list` shows. A cgroup that allows by default hides its exceptions there.
    pub fn from_list(text: &str) -> Result<Self, DeviceError> {
        let mut state = Self { allow: false, exceptions: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.is_empty()) {
            match parse_line(line).ok_or_else(|| DeviceError::List { line: line.to_owned() })? {
                None => state = Self { allow: true, exceptions: BTreeMap::new() },
                Some((devices, access)) if !state.allow => state.add(devices, access),
                Some(_) => {}
            }
        }
        Ok(state)
    }

    fn add(&mut self, devices: Devices, access: Access) {
        let entry = self.exceptions.entry(devices).or_default();
        *entry = entry.or(access);
    }

    /// Takes devices out of the exceptions: from every narrower one too; out of a wider one v1 cannot.
    fn remove(&mut self, devices: Devices, access: Access) -> Result<(), DeviceError> {
        for (wide, has) in &self.exceptions {
            if wide.overlaps(&devices) && !devices.covers(wide) && !has.and(access).is_empty() {
                return Err(DeviceError::Hole { rule: format!("{devices} {access}"), wide: format!("{wide} {has}") });
            }
        }
        for (found, has) in &mut self.exceptions {
            if devices.covers(found) {
                *has = has.minus(access);
            }
        }
        self.exceptions.retain(|_, access| !access.is_empty());
        Ok(())
    }

    /// The writes that lead from this state to the target.
    pub fn transition(&self, target: &Self) -> Vec<Line> {
        let mut lines = Vec::new();
        // What a cgroup denies while it allows by default cannot be read back: start over.
        let start_over = self.allow || self.allow != target.allow;
        if start_over {
            lines.push(Line { allow: target.allow, text: "a".to_owned() });
        }
        let none = BTreeMap::new();
        let old = if start_over { &none } else { &self.exceptions };
        let mut push = |allow, from: &BTreeMap<Devices, Access>, to: &BTreeMap<Devices, Access>| {
            for (devices, has) in from {
                let only_here = has.minus(to.get(devices).copied().unwrap_or_default());
                if !only_here.is_empty() {
                    lines.push(Line { allow, text: format!("{devices} {only_here}") });
                }
            }
        };
        push(target.allow, old, &target.exceptions);
        push(!target.allow, &target.exceptions, old);
        lines
    }

    /// Whether a cgroup that shows `shown` in `devices.list` is in this state, as far as that can be seen.
    pub fn is_shown_by(&self, shown: &Self) -> bool {
        self.allow == shown.allow && (self.allow || self.exceptions == shown.exceptions)
    }
}

/// `c 1:3 rwm`; `Some(None)` is the line of a cgroup that allows by default, `a *:* rwm`.
fn parse_line(line: &str) -> Option<Option<(Devices, Access)>> {
    let mut words = line.split_ascii_whitespace();
    let kind = match words.next()? {
        "a" => return Some(None),
        "b" => Kind::Block,
        "c" => Kind::Char,
        _ => return None,
    };
    let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
    let (major, minor) = words.next()?.split_once(':')?;
    let devices = Devices { major: number(major)?, minor: number(minor)?, kind };
    let access = Access::parse(words.next()?).filter(|access| !access.is_empty())?;
    Some(Some((devices, access)))
}
