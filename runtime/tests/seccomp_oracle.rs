//! Our seccomp compiler against libseccomp: the same verdict for every call and argument of random profiles.
//!
//! Needs a C compiler and libseccomp's headers (Debian: `gcc libseccomp-dev`); run with
//! `cargo test -p runtime --features oracle --test seccomp_oracle`.

#[path = "../src/plan/seccomp/machine.rs"]
mod machine;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use machine::{Call, run};
use oci::spec::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};
use runtime::plan::seccomp::{self, ACTIONS, Arch, OPERATORS};
use seccompiler::sock_filter;

/// Profiles a run; each is asked some ten thousand times.
const PROFILES: u64 = 12;

const X86: u32 = 0x4000_0003;
const X86_64: u32 = 0xc000_003e;
const X32_TOKEN: u32 = 0x4000_003e;
const X32_BIT: u32 = 0x4000_0000;

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

fn oracle() -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seccomp_oracle.c");
    let binary = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("seccomp_oracle");
    let built = Command::new("cc").args(["-O1", "-o"]).arg(&binary).args([source, "-lseccomp"]).status();
    assert!(built.is_ok_and(|status| status.success()), "the oracle needs cc and libseccomp-dev");
    binary
}

/// The calls x86_64 has, with a few that only 32-bit architectures have.
fn names() -> Vec<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/plan/seccomp/table.rs")).unwrap();
    let rows = text.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split_once('"'));
    // libseccomp 2.5.4 knows the calls up to number 449.
    let known = |name: &str| Arch::X86_64.number(name).is_none_or(|number| number < 450 && number != 335);
    rows.map(|(name, _)| name.to_owned())
        .filter(|name| {
            known(name) && Arch::parse("SCMP_ARCH_X86").unwrap().number(name).is_none_or(|number| number < 450)
        })
        .collect()
}

const VALUES: [u64; 9] = [0, 1, 2, 40, 0x7f02_0000, 0xffff_ffff, 0x1_0000_0001, 0x8000_0000_0000_0000, u64::MAX];
const ACTION_NAMES: [&str; 6] =
    ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_ERRNO", "SCMP_ACT_TRACE", "SCMP_ACT_ALLOW", "SCMP_ACT_LOG"];

fn random_profile(dice: &mut Dice, names: &[String]) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp {
        default_action: dice.pick(&["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL", "SCMP_ACT_LOG"]).to_owned(),
        architectures: vec!["SCMP_ARCH_X86_64".to_owned()],
        ..LinuxSeccomp::default()
    };
    for other in ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] {
        if dice.below(2) == 0 {
            profile.architectures.push(other.to_owned());
        }
    }
    let share = dice.pick(&[2, 4, 20]);
    for name in names.iter().filter(|name| *name != "socketcall" && *name != "ipc") {
        if dice.below(share) != 0 {
            continue;
        }
        // One action a call: which of two rules wins that match at once is not defined by anybody.
        let action = dice.pick(&ACTION_NAMES);
        let errno_ret = (action == "SCMP_ACT_ERRNO" && dice.below(2) == 0).then_some(13);
        let one = |args| LinuxSyscall { names: vec![name.clone()], action: action.to_owned(), errno_ret, args };
        // Several rules for a call test the same argument for equality: libseccomp merges rules of other shapes into a
        // tree in which some of them no longer match.
        if dice.below(4) == 0 {
            for value in &VALUES[..=dice.below(3)] {
                let arg = LinuxSeccompArg { index: 1, value: *value, value_two: 0, op: "SCMP_CMP_EQ".to_owned() };
                profile.syscalls.push(one(vec![arg]));
            }
        } else {
            profile.syscalls.push(one(random_args(dice)));
        }
    }
    profile
}

fn random_args(dice: &mut Dice) -> Vec<LinuxSeccompArg> {
    if dice.below(3) != 0 {
        return Vec::new();
    }
    let mut indices: Vec<u32> = (0..6).collect();
    (0..=dice.below(3))
        .map(|_| LinuxSeccompArg {
            index: indices.remove(dice.below(indices.len())),
            value: dice.pick(&VALUES[1..]),
            value_two: dice.pick(&VALUES),
            op: dice.pick(&OPERATORS).0.to_owned(),
        })
        .collect()
}

fn value(action: &str, errno: Option<u32>) -> u32 {
    let value = ACTIONS.iter().find(|(name, _)| *name == action).unwrap().1;
    if matches!(action, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE") { value | errno.unwrap_or(1) } else { value }
}

fn ask_libseccomp(oracle: &PathBuf, profile: &LinuxSeccomp) -> Vec<sock_filter> {
    let mut text = format!("default {}\n", value(&profile.default_action, profile.default_errno_ret));
    for arch in &profile.architectures {
        let token = match arch.as_str() {
            "SCMP_ARCH_X86" => X86,
            "SCMP_ARCH_X32" => X32_TOKEN,
            _ => X86_64,
        };
        text.push_str(&format!("arch {token}\n"));
    }
    for rule in &profile.syscalls {
        text.push_str(&format!("rule {} {} {}", value(&rule.action, rule.errno_ret), rule.names[0], rule.args.len()));
        for arg in &rule.args {
            let operator = OPERATORS.iter().position(|(name, _)| *name == arg.op).unwrap() + 1;
            text.push_str(&format!(" {} {operator} {} {}", arg.index, arg.value, arg.value_two));
        }
        text.push('\n');
    }
    let mut child = Command::new(oracle).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let step = |bytes: &[u8]| sock_filter {
        code: u16::from_le_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_le_bytes(bytes[4..8].try_into().unwrap()),
    };
    output.stdout.chunks_exact(8).map(step).collect()
}

/// runc's answer for calls that are newer than the profile, which it puts in front of libseccomp's program.
fn too_new(profile: &LinuxSeccomp, call: &Call) -> bool {
    if profile.default_action == "SCMP_ACT_ALLOW" || profile.default_action == "SCMP_ACT_LOG" {
        return false;
    }
    let x32 = profile.architectures.iter().any(|arch| arch == "SCMP_ARCH_X32");
    let (name, number) = match call.arch {
        X86 => ("SCMP_ARCH_X86", call.number),
        X86_64 if x32 && call.number & X32_BIT != 0 => ("SCMP_ARCH_X32", call.number & !X32_BIT),
        X86_64 => ("SCMP_ARCH_X86_64", call.number),
        _ => return false,
    };
    if !profile.architectures.iter().any(|arch| arch == name) {
        return false;
    }
    let arch = Arch::parse(name).unwrap();
    let direct = |rule: &&LinuxSyscall| name != "SCMP_ARCH_X86" || !MULTIPLEXED.contains(&rule.names[0].as_str());
    let newest = profile.syscalls.iter().filter(direct).filter_map(|rule| arch.number(&rule.names[0])).max();
    newest.is_some_and(|newest| newest > 0 && number > newest)
}

const MULTIPLEXED: [&str; 32] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
    "semop",
    "semget",
    "semctl",
    "semtimedop",
    "msgsnd",
    "msgrcv",
    "msgget",
    "msgctl",
    "shmat",
    "shmdt",
    "shmget",
    "shmctl",
];

#[test]
fn libseccomp_gives_the_same_verdicts() {
    let (oracle, names) = (oracle(), names());
    let (mut asked, mut differing) = (0u64, Vec::new());
    for seed in 1..=PROFILES {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let profile = random_profile(&mut dice, &names);
        let ours = seccomp::compile(&profile, Arch::X86_64).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let theirs = ask_libseccomp(&oracle, &profile);
        for arch in [X86, X86_64, 0xc000_00b7] {
            for number in
                (0..460).chain([600, X32_BIT, X32_BIT + 1, X32_BIT + 300, X32_BIT + 520, X32_BIT + 600, u32::MAX])
            {
                for _ in 0..3 {
                    let mut args = [0; 6].map(|_: u64| dice.pick(&VALUES));
                    if arch == X86 {
                        args = args.map(|argument| argument & 0xffff_ffff);
                    }
                    if arch == X86 && (number == 102 || number == 117) {
                        args[0] = u64::try_from(dice.below(26)).unwrap();
                    }
                    let call = Call { number, arch, args };
                    let expected = if too_new(&profile, &call) { 0x0005_0026 } else { run(&theirs, &call) };
                    let found = run(&ours.program, &call);
                    asked += 1;
                    if found != expected {
                        differing.push(format!("seed {seed}: {call:x?}: ours {found:#x}, libseccomp {expected:#x}"));
                    }
                }
            }
        }
    }
    assert!(
        differing.is_empty(),
        "{} of {asked} differ, first:\n{}",
        differing.len(),
        differing[..differing.len().min(10)].join("\n")
    );
}
