//! `linux.seccomp` as a classic BPF program.
//!
//! In: the profile and the architecture of the host. Out: a [`Filter`]: the program, the flags of seccomp(2), whether a
//! notify descriptor comes back. Pure, one pass over the profile, a binary search over the call numbers at run time.
//!
//! The verdicts are libseccomp's, driven as runc drives it (runtime-spec config-linux.md "Seccomp"):
//! - a rule without conditions wins over all rules with conditions for the same call, the first of several wins;
//! - conditions of one rule must all hold, unless two of them look at the same argument: then each is a rule of its own;
//!   among rules with conditions that match at once the first of the document decides;
//! - on 32-bit architectures the low half of an argument is compared;
//! - a rule with the default's action is left out; a name nobody knows is left out and reported;
//! - a call with a number beyond every call that the profile names for its architecture answers ENOSYS, unless the
//!   default lets calls through: a program must be able to find out that the kernel is older than it;
//! - an architecture that is not listed is killed.

mod arch;
mod emit;
#[cfg(test)]
mod machine;
mod table;

use std::collections::BTreeMap;

use oci::spec::{LinuxSeccomp, LinuxSeccompArg};
use seccompiler::BpfProgram;

pub use arch::Arch;
use emit::{Section, Verdict};

/// The most instructions the kernel takes (`BPF_MAXINSNS`).
const INSTRUCTIONS_MAX: usize = 4096;

/// Actions by name, with the value a filter returns; the errno is added. seccomp(2)
pub const ACTIONS: [(&str, u32); 9] = [
    ("SCMP_ACT_KILL", 0x0000_0000),
    ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
    ("SCMP_ACT_KILL_THREAD", 0x0000_0000),
    ("SCMP_ACT_TRAP", 0x0003_0000),
    ("SCMP_ACT_ERRNO", ERRNO),
    ("SCMP_ACT_TRACE", TRACE),
    ("SCMP_ACT_ALLOW", ALLOW),
    ("SCMP_ACT_LOG", LOG),
    ("SCMP_ACT_NOTIFY", NOTIFY),
];

const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const KILL_THREAD: u32 = 0;

/// Operators by name.
pub const OPERATORS: [(&str, Operator); 7] = [
    ("SCMP_CMP_NE", Operator::NotEqual),
    ("SCMP_CMP_LT", Operator::Less),
    ("SCMP_CMP_LE", Operator::LessOrEqual),
    ("SCMP_CMP_EQ", Operator::Equal),
    ("SCMP_CMP_GE", Operator::GreaterOrEqual),
    ("SCMP_CMP_GT", Operator::Greater),
    ("SCMP_CMP_MASKED_EQ", Operator::MaskedEqual),
];

/// Flags by name, with their bit. seccomp(2)
pub const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 1),
    ("SECCOMP_FILTER_FLAG_LOG", 2),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", WAIT_KILLABLE),
];

const TSYNC: u32 = 1;
const SPEC_ALLOW: u32 = 4;
const NEW_LISTENER: u32 = 8;
const TSYNC_ESRCH: u32 = 16;
const WAIT_KILLABLE: u32 = 32;

/// Calls that may not wait for an agent. The new process makes `sendmsg` between the moment the filter is in force and
/// the moment the agent has the descriptor; every later call can wait for the agent. `write` is runc's way of doing the
/// same, and refused for the sake of one verdict about a profile. pidfd_getfd(2) would free `sendmsg`, but needs the
/// right to trace the new process, which a rootless parent does not have over a hidden one.
const BEFORE_HAND_OVER: [&str; 2] = ["sendmsg", "write"];

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `==`
    Equal,
    /// `>=`
    GreaterOrEqual,
    /// `>`
    Greater,
    /// `(argument & value) == valueTwo`
    MaskedEqual,
}

/// One condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    index: u8,
    operator: Operator,
    value: u64,
    /// All ones, but for `MaskedEqual`.
    mask: u64,
}

/// A compiled profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The program for seccomp(2).
    pub program: BpfProgram,
    /// The flags for seccomp(2).
    pub flags: u32,
    /// Whether installing it returns a notify descriptor.
    pub notify: bool,
    /// Names of calls that are not known here; they were left out.
    pub unknown: Vec<String>,
}

/// Why a profile cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    /// A word that is none of those known.
    #[error("linux.seccomp.{field}: unknown {what} {value:?}")]
    Unknown {
        /// Where.
        field: String,
        /// What it should be.
        what: &'static str,
        /// What it is.
        value: String,
    },
    /// A combination that has no meaning.
    #[error("linux.seccomp.{field}: {reason}")]
    Invalid {
        /// Where.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// This host's architecture has no table.
    #[error("seccomp is not supported on this architecture")]
    Host,
    /// The kernel would refuse the program.
    #[error(
        "the seccomp filter has {found} instructions, the kernel accepts {INSTRUCTIONS_MAX}; name fewer calls or architectures"
    )]
    TooLong {
        /// How many.
        found: usize,
    },
}

/// Compiles a profile for a host.
pub fn compile(profile: &LinuxSeccomp, host: Arch) -> Result<Filter, SeccompError> {
    let default = action("defaultAction", &profile.default_action, profile.default_errno_ret)?;
    if default == NOTIFY {
        return Err(invalid("defaultAction", "SCMP_ACT_NOTIFY cannot be used as default action"));
    }
    let rules = Rules::read(profile, default)?;
    let mut sections: BTreeMap<u32, Vec<Section>> = BTreeMap::new();
    for arch in architectures(profile, host)? {
        sections.entry(arch.audit()).or_default().push(rules.section(arch, default, stub_applies(profile, default)));
    }
    let program = emit::program(&sections, default, host);
    if program.len() > INSTRUCTIONS_MAX {
        return Err(SeccompError::TooLong { found: program.len() });
    }
    if rules.notify && profile.listener_path.as_deref().unwrap_or("").is_empty() {
        return Err(invalid("listenerPath", "SCMP_ACT_NOTIFY needs the path of an agent's socket"));
    }
    Ok(Filter { program, flags: flags(profile, rules.notify)?, notify: rules.notify, unknown: rules.unknown })
}

/// runc's condition for the ENOSYS answer: not where calls pass by default, and not where ENOSYS is the default.
fn stub_applies(profile: &LinuxSeccomp, default: u32) -> bool {
    let passes = matches!(default & 0xffff_0000, ALLOW | LOG | TRACE);
    !passes && profile.default_errno_ret != Some(enosys())
}

fn enosys() -> u32 {
    libc::ENOSYS.unsigned_abs()
}

fn architectures(profile: &LinuxSeccomp, host: Arch) -> Result<Vec<Arch>, SeccompError> {
    let mut found = vec![host];
    for (index, name) in profile.architectures.iter().enumerate() {
        let arch = Arch::parse(name).ok_or_else(|| SeccompError::Unknown {
            field: format!("architectures[{index}]"),
            what: "architecture",
            value: name.clone(),
        })?;
        if arch.is_little_endian() != host.is_little_endian() {
            return Err(invalid(
                &format!("architectures[{index}]"),
                format!("{name} has another byte order than this host"),
            ));
        }
        if !found.contains(&arch) {
            found.push(arch);
        }
    }
    Ok(found)
}

fn flags(profile: &LinuxSeccomp, notify: bool) -> Result<u32, SeccompError> {
    // As runc: the default is for a profile that does not speak of flags; an empty list is its word for none.
    let mut bits = if profile.flags.is_none() { SPEC_ALLOW } else { 0 };
    for (index, name) in profile.flags.iter().flatten().enumerate() {
        let known = FLAGS.iter().find(|(known, _)| known == name);
        bits |= known.map(|(_, bit)| *bit).ok_or_else(|| SeccompError::Unknown {
            field: format!("flags[{index}]"),
            what: "flag",
            value: name.clone(),
        })?;
    }
    if !notify {
        // The kernel refuses it without a listener, and without one there is nothing to wait for.
        return Ok(bits & !WAIT_KILLABLE);
    }
    // A listener and TSYNC go together only if the answer cannot be mistaken for a thread id.
    let esrch = if bits & TSYNC != 0 { TSYNC_ESRCH } else { 0 };
    Ok(bits | NEW_LISTENER | esrch)
}

fn invalid(field: &str, reason: impl Into<String>) -> SeccompError {
    SeccompError::Invalid { field: field.to_owned(), reason: reason.into() }
}

/// The value a filter returns for an action.
fn action(field: &str, name: &str, errno: Option<u32>) -> Result<u32, SeccompError> {
    let known = ACTIONS.iter().find(|(known, _)| *known == name);
    let Some((_, value)) = known else {
        return Err(SeccompError::Unknown { field: field.to_owned(), what: "action", value: name.to_owned() });
    };
    match (*value, errno) {
        (ERRNO | TRACE, Some(errno)) if errno > 0xffff => Err(invalid(field, format!("errno {errno} is out of range"))),
        (ERRNO | TRACE, errno) => Ok(value | errno.unwrap_or(libc::EPERM.unsigned_abs())),
        (_, Some(errno)) => Err(invalid(field, format!("{name} takes no errno, but {errno} is given"))),
        (_, None) => Ok(*value),
    }
}

/// The rules of a profile, read once for all architectures.
struct Rules<'a> {
    rules: Vec<Rule<'a>>,
    unknown: Vec<String>,
    notify: bool,
}

struct Rule<'a> {
    /// Rows of the table.
    calls: Vec<(&'a str, &'static [i32; table::COLUMNS])>,
    value: u32,
    /// Alternatives; none means no condition at all.
    conditions: Vec<Vec<Condition>>,
    /// Left out because the default does the same; its calls still count as known to the profile.
    redundant: bool,
}

impl<'a> Rules<'a> {
    fn read(profile: &'a LinuxSeccomp, default: u32) -> Result<Self, SeccompError> {
        let mut all = Self { rules: Vec::with_capacity(profile.syscalls.len()), unknown: Vec::new(), notify: false };
        for (index, rule) in profile.syscalls.iter().enumerate() {
            let field = format!("syscalls[{index}]");
            let value = action(&format!("{field}.action"), &rule.action, rule.errno_ret)?;
            if rule.names.is_empty() {
                return Err(invalid(&field, "names must not be empty"));
            }
            if value == NOTIFY {
                if let Some(name) = rule.names.iter().find(|name| BEFORE_HAND_OVER.contains(&name.as_str())) {
                    let reason = format!(
                        "SCMP_ACT_NOTIFY cannot be used for the {name} syscall: the agent would be asked before it has its descriptor"
                    );
                    return Err(invalid(&field, reason));
                }
                all.notify = true;
            }
            let conditions = conditions(&field, &rule.args)?;
            let mut calls = Vec::with_capacity(rule.names.len());
            let mut last = 0;
            for name in &rule.names {
                match table::find(name, last) {
                    Some(row) => {
                        calls.push((name.as_str(), &table::SYSCALLS[row].1));
                        last = row;
                    }
                    None => all.unknown.push(name.clone()),
                }
            }
            all.rules.push(Rule { calls, value, conditions, redundant: value == default });
        }
        Ok(all)
    }

    fn section(&self, arch: Arch, default: u32, stub: bool) -> Section {
        let (column, multiplexes) = (arch.column(), arch.multiplexes());
        // By number, then in the order of the document.
        let mut mentions: Vec<(u32, usize, Option<u32>)> = Vec::with_capacity(512);
        let mut newest = 0;
        for (index, rule) in self.rules.iter().enumerate() {
            for (name, numbers) in &rule.calls {
                let number = u32::try_from(numbers[column]).ok();
                let multiplexed = if multiplexes { arch.multiplexed(name) } else { None };
                if let Some(number) = number.filter(|_| multiplexed.is_none()) {
                    newest = newest.max(number);
                }
                if rule.redundant {
                    continue;
                }
                mentions.extend(number.map(|number| (number, index, None)));
                mentions.extend(multiplexed.map(|(call, selector)| (call, index, Some(selector))));
            }
        }
        mentions.sort_by_key(|(number, ..)| *number);
        let call = |same: &[(u32, usize, Option<u32>)]| (same[0].0, self.verdict(same));
        let calls = mentions.chunk_by(|one, next| one.0 == next.0).map(call).collect();
        let newest = Some(newest).filter(|newest| stub && *newest > 0);
        Section { arch, calls, default, newest }
    }

    /// What the rules that mention a call make of it.
    fn verdict(&self, mentions: &[(u32, usize, Option<u32>)]) -> Verdict {
        let mut all = Vec::new();
        for (_, index, selector) in mentions {
            let rule = &self.rules[*index];
            let through = selector.map(|selector| selected(&rule.conditions, selector));
            let conditions = through.as_ref().unwrap_or(&rule.conditions);
            if conditions.is_empty() {
                return Verdict::Always(rule.value);
            }
            for one in conditions {
                if !all.iter().any(|(known, _)| known == one) {
                    all.push((one.clone(), rule.value));
                }
            }
        }
        Verdict::Conditional(all)
    }
}

/// The conditions of a call that an old architecture makes through another one, whose first argument selects it. The
/// others look at arguments that the selector has shifted away, as libseccomp leaves them.
fn selected(conditions: &[Vec<Condition>], selector: u32) -> Vec<Vec<Condition>> {
    let first = Condition { index: 0, operator: Operator::Equal, value: u64::from(selector), mask: u64::MAX };
    if conditions.is_empty() {
        return vec![vec![first]];
    }
    let with = |rule: &Vec<Condition>| {
        let others = rule.iter().filter(|condition| condition.index != 0).copied();
        std::iter::once(first).chain(others).collect()
    };
    conditions.iter().map(with).collect()
}

fn conditions(field: &str, args: &[LinuxSeccompArg]) -> Result<Vec<Vec<Condition>>, SeccompError> {
    if args.is_empty() {
        return Ok(Vec::new());
    }
    let mut all = Vec::with_capacity(args.len());
    for (index, arg) in args.iter().enumerate() {
        all.push(condition(&format!("{field}.args[{index}]"), arg)?);
    }
    let twice = (0..all.len()).any(|at| all[..at].iter().any(|before| before.index == all[at].index));
    Ok(if twice { all.into_iter().map(|one| vec![one]).collect() } else { vec![all] })
}

fn condition(field: &str, arg: &LinuxSeccompArg) -> Result<Condition, SeccompError> {
    let index = u8::try_from(arg.index).ok().filter(|index| *index < 6);
    let index = index.ok_or_else(|| invalid(field, format!("a call has arguments 0 to 5, not {}", arg.index)))?;
    let known = OPERATORS.iter().find(|(name, _)| *name == arg.op);
    let Some((_, operator)) = known else {
        return Err(SeccompError::Unknown { field: format!("{field}.op"), what: "operator", value: arg.op.clone() });
    };
    let (value, mask) = match operator {
        Operator::MaskedEqual => (arg.value_two & arg.value, arg.value),
        _ => (arg.value, u64::MAX),
    };
    Ok(Condition { index, operator: *operator, value, mask })
}

#[cfg(test)]
mod tests;
