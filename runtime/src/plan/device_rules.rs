//! Which device numbers a container may use, as rules, as lines for cgroup v1, as an eBPF program for cgroup v2.
//!
//! In: `linux.resources.devices`. Out: the same decision in the three shapes. Pure. Rules count in order and the last
//! one that matches decides, for each of read, write and mknod alone; what no rule names is denied; the devices every
//! container needs come last and are always allowed. runtime-spec config-linux.md "Device allow list"

mod emulate;
mod program;

use oci::spec::LinuxDeviceCgroup;

pub use emulate::{Emulated, Line};
pub use program::program;

/// Character or block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `c`
    Char,
    /// `b`
    Block,
}

/// A set of `m`, `r` and `w`, with the bits of `BPF_DEVCG_ACC_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access(u8);

impl Access {
    /// Everything.
    pub const ALL: Self = Self(7);
    /// Make a node.
    pub const MKNOD: Self = Self(1);
    /// Read.
    pub const READ: Self = Self(2);
    /// Write.
    pub const WRITE: Self = Self(4);

    /// Reads `rwm` in any order.
    pub fn parse(text: &str) -> Option<Self> {
        text.bytes().try_fold(Self(0), |access, byte| match byte {
            b'm' => Some(Self(access.0 | 1)),
            b'r' => Some(Self(access.0 | 2)),
            b'w' => Some(Self(access.0 | 4)),
            _ => None,
        })
    }

    /// The bits.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// What is in both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this one only.
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether nothing is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (bit, letter) in [(2, "r"), (4, "w"), (1, "m")] {
            if self.0 & bit != 0 {
                out.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// Devices: a kind and numbers, `None` for every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Devices {
    /// The major number.
    pub major: Option<u32>,
    /// The minor number.
    pub minor: Option<u32>,
    /// Character or block.
    pub kind: Kind,
}

impl Devices {
    /// Whether every device of `other` is among these.
    pub fn covers(&self, other: &Self) -> bool {
        self.kind == other.kind
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
    }

    /// Whether some device is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind && meet(self.major, other.major) && meet(self.minor, other.minor)
    }
}

impl std::fmt::Display for Devices {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let kind = if self.kind == Kind::Char { 'c' } else { 'b' };
        write!(out, "{kind} {}:{}", number(self.major), number(self.minor))
    }
}

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// All devices, everything: forgets every rule before it.
    Everything {
        /// Allow, or deny.
        allow: bool,
    },
    /// Some devices.
    Some {
        /// Allow, or deny.
        allow: bool,
        /// Which.
        devices: Devices,
        /// To do what.
        access: Access,
    },
}

/// Why the device rules cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// A rule that is not one.
    #[error("linux.resources.devices[{index}]: {field} {value:?}: {reason}")]
    Rule {
        /// Its place in the list.
        index: usize,
        /// The field.
        field: &'static str,
        /// What it says.
        value: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// cgroup v1 cannot say "all but these".
    #[error(
        "device rule {rule} cannot be expressed in cgroup v1: it makes a hole in the rule {wide}; list what is to be \
         allowed instead, or use a host with cgroup v2"
    )]
    Hole {
        /// The rule that makes the hole.
        rule: String,
        /// The rule it makes it in.
        wide: String,
    },
    /// A line of `devices.list` that the kernel does not document.
    #[error("devices.list has an unexpected line {line:?}")]
    List {
        /// The line.
        line: String,
    },
}

const fn allow(kind: Kind, major: Option<u32>, minor: Option<u32>, access: Access) -> Rule {
    Rule::Some { allow: true, devices: Devices { major, minor, kind }, access }
}

/// What every container may use: any node may be made, and the devices of runtime-spec config-linux.md "Default
/// Devices" (with every terminal below `/dev/pts`, of which one is bound to `/dev/console`) may be used.
pub const DEFAULTS: [Rule; 10] = [
    allow(Kind::Char, None, None, Access::MKNOD),
    allow(Kind::Block, None, None, Access::MKNOD),
    allow(Kind::Char, Some(1), Some(3), Access::ALL),
    allow(Kind::Char, Some(1), Some(5), Access::ALL),
    allow(Kind::Char, Some(1), Some(7), Access::ALL),
    allow(Kind::Char, Some(1), Some(8), Access::ALL),
    allow(Kind::Char, Some(1), Some(9), Access::ALL),
    allow(Kind::Char, Some(5), Some(0), Access::ALL),
    allow(Kind::Char, Some(5), Some(2), Access::ALL),
    allow(Kind::Char, Some(136), None, Access::ALL),
];

/// The rules of a container: deny everything, then the bundle's in order, then the defaults.
pub fn rules(devices: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, DeviceError> {
    let mut rules = vec![Rule::Everything { allow: false }];
    for (index, device) in devices.iter().enumerate() {
        rules.extend(rule(index, device)?);
    }
    rules.extend(DEFAULTS);
    Ok(rules)
}

fn rule(index: usize, device: &LinuxDeviceCgroup) -> Result<Vec<Rule>, DeviceError> {
    let wrong = |field, value: &str, reason| DeviceError::Rule { index, field, value: value.to_owned(), reason };
    let text = device.access.as_deref().filter(|text| !text.is_empty()).unwrap_or("rwm");
    let access = Access::parse(text).ok_or_else(|| wrong("access", text, "only r, w and m are known"))?;
    let number = |field, value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => {
            u32::try_from(value).map(Some).map_err(|_| wrong(field, &value.to_string(), "not a device number"))
        }
    };
    let (major, minor) = (number("major", device.major)?, number("minor", device.minor)?);
    let kinds: &[Kind] = match device.kind.as_deref().unwrap_or("a") {
        "a" | "" => &[Kind::Char, Kind::Block],
        "c" | "u" => &[Kind::Char],
        "b" => &[Kind::Block],
        other => return Err(wrong("type", other, "a, b or c expected")),
    };
    if kinds.len() == 2 && major.is_none() && minor.is_none() && access == Access::ALL {
        return Ok(vec![Rule::Everything { allow: device.allow }]);
    }
    let one = |kind: &Kind| Rule::Some { allow: device.allow, devices: Devices { major, minor, kind: *kind }, access };
    Ok(kinds.iter().map(one).collect())
}

/// The plain meaning of the rules: whether a device may be used so. The other shapes are tested against it.
pub fn allowed(rules: &[Rule], device: &Devices, access: Access) -> bool {
    let mut left = access;
    for rule in rules.iter().rev() {
        match *rule {
            Rule::Everything { allow } => return allow,
            Rule::Some { allow, devices, access } if devices.covers(device) => {
                if !allow && !left.and(access).is_empty() {
                    return false;
                }
                left = left.minus(access);
                if left.is_empty() {
                    return true;
                }
            }
            Rule::Some { .. } => {}
        }
    }
    false
}

#[cfg(test)]
mod tests;
