//! Profiles compiled and judged by an interpreter of classic BPF.

use oci::spec::LinuxSyscall;

use super::machine::{Call, run};
use super::*;

const X86: u32 = 0x4000_0003;
const X86_64: u32 = 0xc000_003e;

fn profile(default: &str, rules: &[LinuxSyscall]) -> LinuxSeccomp {
    LinuxSeccomp { default_action: default.to_owned(), syscalls: rules.to_vec(), ..LinuxSeccomp::default() }
}

fn rule(names: &[&str], action: &str, args: &[(u32, &str, u64, u64)]) -> LinuxSyscall {
    let arg = |(index, op, value, value_two): &(u32, &str, u64, u64)| LinuxSeccompArg {
        index: *index,
        value: *value,
        value_two: *value_two,
        op: (*op).to_owned(),
    };
    LinuxSyscall {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        action: action.to_owned(),
        errno_ret: None,
        args: args.iter().map(arg).collect(),
    }
}

fn ask(filter: &Filter, arch: u32, number: u32, args: [u64; 6]) -> u32 {
    run(&filter.program, &Call { number, arch, args })
}

fn native(profile: &LinuxSeccomp) -> Filter {
    compile(profile, Arch::X86_64).unwrap()
}

const DENIED: u32 = ERRNO | 1;
const NO_SUCH_CALL: u32 = ERRNO | 38;

#[test]
fn the_table_is_sorted_and_knows_the_usual_numbers() {
    assert!(table::SYSCALLS.is_sorted_by(|a, b| a.0 < b.0));
    for (arch, name, number) in [
        ("SCMP_ARCH_X86_64", "openat2", 437),
        ("SCMP_ARCH_X86", "socketcall", 102),
        ("SCMP_ARCH_AARCH64", "openat", 56),
        ("SCMP_ARCH_ARM", "cacheflush", 983_042),
        ("SCMP_ARCH_RISCV64", "riscv_hwprobe", 258),
        ("SCMP_ARCH_X32", "recvmmsg", 537),
    ] {
        assert_eq!(Arch::parse(arch).unwrap().number(name), Some(number), "{arch} {name}");
    }
}

#[test]
fn an_allow_list_denies_the_rest_and_answers_enosys_beyond_it() {
    let filter = native(&profile("SCMP_ACT_ERRNO", &[rule(&["read", "write", "fchmodat2"], "SCMP_ACT_ALLOW", &[])]));
    assert_eq!(ask(&filter, X86_64, 0, [0; 6]), ALLOW);
    assert_eq!(ask(&filter, X86_64, 2, [0; 6]), DENIED);
    assert_eq!(ask(&filter, X86_64, 452, [0; 6]), ALLOW);
    assert_eq!(ask(&filter, X86_64, 451, [0; 6]), DENIED);
    assert_eq!(ask(&filter, X86_64, 453, [0; 6]), NO_SUCH_CALL);
    assert_eq!(ask(&filter, X86, 0, [0; 6]), KILL_THREAD);
    assert_eq!(ask(&filter, X86_64, X32, [0; 6]), NO_SUCH_CALL);
}

const X32: u32 = 0x4000_0000;

#[test]
fn a_deny_list_lets_new_calls_pass_and_kills_x32() {
    let filter = native(&profile("SCMP_ACT_ALLOW", &[rule(&["mount"], "SCMP_ACT_ERRNO", &[])]));
    assert_eq!(ask(&filter, X86_64, 165, [0; 6]), DENIED);
    assert_eq!(ask(&filter, X86_64, 9999, [0; 6]), ALLOW);
    assert_eq!(ask(&filter, X86_64, X32 + 1, [0; 6]), KILL_THREAD);
}

#[test]
fn a_default_of_enosys_needs_no_stub() {
    let mut list = profile("SCMP_ACT_ERRNO", &[rule(&["read"], "SCMP_ACT_ALLOW", &[])]);
    list.default_errno_ret = Some(38);
    let filter = native(&list);
    assert_eq!(ask(&filter, X86_64, 5000, [0; 6]), NO_SUCH_CALL);
    assert_eq!(ask(&filter, X86_64, 1, [0; 6]), NO_SUCH_CALL);
}

#[test]
fn every_operator_compares_all_64_bits() {
    let values = [0u64, 1, 5, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005, 0x5_0000_0001, u64::MAX];
    for value in values {
        for (name, operator) in OPERATORS {
            let args =
                if operator == Operator::MaskedEqual { (2, name, 0xf_0000_000f, value) } else { (2, name, value, 0) };
            let filter = native(&profile("SCMP_ACT_ERRNO", &[rule(&["getpid"], "SCMP_ACT_ALLOW", &[args])]));
            for argument in values {
                let expected = match operator {
                    Operator::NotEqual => argument != value,
                    Operator::Less => argument < value,
                    Operator::LessOrEqual => argument <= value,
                    Operator::Equal => argument == value,
                    Operator::GreaterOrEqual => argument >= value,
                    Operator::Greater => argument > value,
                    Operator::MaskedEqual => argument & 0xf_0000_000f == value & 0xf_0000_000f,
                };
                let verdict = ask(&filter, X86_64, 39, [9, 9, argument, 9, 9, 9]);
                assert_eq!(verdict == ALLOW, expected, "{argument:#x} {name} {value:#x}");
            }
        }
    }
}

#[test]
fn conditions_of_a_rule_hold_together_and_rules_hold_alone() {
    let rules = [
        rule(&["personality"], "SCMP_ACT_ALLOW", &[(0, "SCMP_CMP_EQ", 1, 0), (1, "SCMP_CMP_GT", 7, 0)]),
        rule(&["personality"], "SCMP_ACT_ALLOW", &[(0, "SCMP_CMP_EQ", 2, 0)]),
    ];
    let filter = native(&profile("SCMP_ACT_ERRNO", &rules));
    for (args, expected) in [([1, 8], ALLOW), ([1, 7], DENIED), ([2, 0], ALLOW), ([3, 8], DENIED)] {
        assert_eq!(ask(&filter, X86_64, 135, [args[0], args[1], 0, 0, 0, 0]), expected, "{args:?}");
    }
}

#[test]
fn two_conditions_on_one_argument_are_alternatives() {
    let args = [(0, "SCMP_CMP_EQ", 1, 0), (0, "SCMP_CMP_EQ", 2, 0)];
    let filter = native(&profile("SCMP_ACT_ERRNO", &[rule(&["personality"], "SCMP_ACT_ALLOW", &args)]));
    assert_eq!([1, 2, 3].map(|value| ask(&filter, X86_64, 135, [value, 0, 0, 0, 0, 0])), [ALLOW, ALLOW, DENIED]);
}

#[test]
fn a_rule_without_conditions_wins_wherever_it_stands() {
    let conditional = rule(&["clone"], "SCMP_ACT_ERRNO", &[(0, "SCMP_CMP_EQ", 1, 0)]);
    let plain = rule(&["clone"], "SCMP_ACT_LOG", &[]);
    for rules in [[conditional.clone(), plain.clone()], [plain, conditional]] {
        assert_eq!(ask(&native(&profile("SCMP_ACT_ALLOW", &rules)), X86_64, 56, [1, 0, 0, 0, 0, 0]), LOG);
    }
}

#[test]
fn x86_calls_are_filtered_directly_and_through_socketcall() {
    let mut list = profile("SCMP_ACT_ERRNO", &[rule(&["socket", "read", "openat2"], "SCMP_ACT_ALLOW", &[])]);
    list.architectures = vec!["SCMP_ARCH_X86_64".to_owned(), "SCMP_ARCH_X86".to_owned(), "SCMP_ARCH_X32".to_owned()];
    let filter = native(&list);
    assert_eq!(ask(&filter, X86, 359, [0; 6]), ALLOW);
    assert_eq!(ask(&filter, X86, 102, [1, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(ask(&filter, X86, 102, [2, 0, 0, 0, 0, 0]), DENIED);
    assert_eq!(ask(&filter, X86, 3, [0; 6]), ALLOW);
    assert_eq!(ask(&filter, X86_64, X32, [0; 6]), ALLOW);
    assert_eq!(ask(&filter, X86_64, X32 + 1, [0; 6]), DENIED);
    assert_eq!(ask(&filter, X86_64, X32 + 500, [0; 6]), NO_SUCH_CALL);
}

#[test]
fn flags_and_listener() {
    let notify = rule(&["mkdir"], "SCMP_ACT_NOTIFY", &[]);
    let mut list = profile("SCMP_ACT_ALLOW", &[notify]);
    assert!(compile(&list, Arch::X86_64).unwrap_err().to_string().contains("listenerPath"));
    list.listener_path = Some("/run/agent.sock".to_owned());
    list.flags =
        Some(vec!["SECCOMP_FILTER_FLAG_TSYNC".to_owned(), "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV".to_owned()]);
    let filter = native(&list);
    assert!(filter.notify);
    assert_eq!(filter.flags, TSYNC | TSYNC_ESRCH | NEW_LISTENER | WAIT_KILLABLE);
    assert_eq!(native(&profile("SCMP_ACT_ALLOW", &[])).flags, SPEC_ALLOW);
    let none = LinuxSeccomp { flags: Some(Vec::new()), ..profile("SCMP_ACT_ALLOW", &[]) };
    assert_eq!(native(&none).flags, 0, "an empty list is a word for none");
}

#[test]
fn nonsense_is_refused_with_its_place() {
    let errno = |action: &str, errno| LinuxSyscall { errno_ret: Some(errno), ..rule(&["read"], action, &[]) };
    for (rules, text) in [
        (vec![rule(&["read"], "SCMP_ACT_MAYBE", &[])], "syscalls[0].action: unknown action"),
        (vec![rule(&["read"], "SCMP_ACT_ALLOW", &[(6, "SCMP_CMP_EQ", 0, 0)])], "arguments 0 to 5"),
        (vec![rule(&["read"], "SCMP_ACT_ALLOW", &[(0, "SCMP_CMP_IS", 0, 0)])], "syscalls[0].args[0].op"),
        (vec![errno("SCMP_ACT_ALLOW", 3)], "takes no errno"),
        (vec![errno("SCMP_ACT_ERRNO", 70_000)], "out of range"),
        (vec![rule(&[], "SCMP_ACT_ALLOW", &[])], "names must not be empty"),
        (vec![rule(&["write"], "SCMP_ACT_NOTIFY", &[])], "write syscall"),
        (vec![rule(&["mkdir", "sendmsg"], "SCMP_ACT_NOTIFY", &[])], "sendmsg syscall"),
    ] {
        let error = compile(&profile("SCMP_ACT_ERRNO", &rules), Arch::X86_64).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    let mut list = profile("SCMP_ACT_NOTIFY", &[]);
    assert!(compile(&list, Arch::X86_64).is_err());
    list.default_action = "SCMP_ACT_ALLOW".to_owned();
    list.architectures = vec!["SCMP_ARCH_S390X".to_owned()];
    assert!(compile(&list, Arch::X86_64).unwrap_err().to_string().contains("byte order"));
    list.architectures = vec!["SCMP_ARCH_VAX".to_owned()];
    assert!(compile(&list, Arch::X86_64).is_err());
}

#[test]
fn unknown_calls_are_left_out_and_reported() {
    let filter = native(&profile("SCMP_ACT_ERRNO", &[rule(&["read", "nosuchcall"], "SCMP_ACT_ALLOW", &[])]));
    assert_eq!(filter.unknown, ["nosuchcall"]);
}

#[test]
fn an_errno_of_its_own_is_returned() {
    let enosys = LinuxSyscall { errno_ret: Some(38), ..rule(&["clone3"], "SCMP_ACT_ERRNO", &[]) };
    let filter = native(&profile("SCMP_ACT_ALLOW", &[enosys]));
    assert_eq!(ask(&filter, X86_64, 435, [0; 6]), NO_SUCH_CALL);
}

#[test]
fn a_filter_with_every_call_conditional_still_jumps_right() {
    let names: Vec<&str> = table::SYSCALLS.iter().filter(|row| row.1[0] >= 0).map(|row| row.0).collect();
    let rules: Vec<LinuxSyscall> =
        names.iter().map(|name| rule(&[name], "SCMP_ACT_ALLOW", &[(0, "SCMP_CMP_EQ", name.len() as u64, 0)])).collect();
    let filter = native(&profile("SCMP_ACT_ERRNO", &rules));
    for name in &names {
        let number = Arch::X86_64.number(name).unwrap();
        assert_eq!(ask(&filter, X86_64, number, [name.len() as u64, 0, 0, 0, 0, 0]), ALLOW, "{name}");
        assert_eq!(ask(&filter, X86_64, number, [99, 0, 0, 0, 0, 0]), DENIED, "{name}");
    }
}

#[test]
fn a_filter_beyond_the_kernels_limit_is_refused() {
    let rules: Vec<LinuxSyscall> =
        (0..2000).map(|value| rule(&["getpid"], "SCMP_ACT_ALLOW", &[(0, "SCMP_CMP_EQ", value, 0)])).collect();
    assert!(matches!(compile(&profile("SCMP_ACT_ERRNO", &rules), Arch::X86_64), Err(SeccompError::TooLong { .. })));
}

#[test]
fn comparisons_share_answers_that_are_near() {
    let names: Vec<&str> = table::SYSCALLS.iter().filter(|row| row.1[0] >= 0).map(|row| row.0).collect();
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| Arch::X86_64.number(name)).collect();
    numbers.sort_unstable();
    // Every other call: as many intervals as there can be.
    let allowed: Vec<&str> =
        names.iter().copied().filter(|name| Arch::X86_64.number(name).is_some_and(|number| number % 2 == 0)).collect();
    let filter = native(&profile("SCMP_ACT_ERRNO", &[rule(&allowed, "SCMP_ACT_ALLOW", &[])]));
    assert!(filter.program.len() < numbers.len() * 5 / 4, "{} for {} calls", filter.program.len(), numbers.len());
    for number in numbers {
        let wanted = if number % 2 == 0 { ALLOW } else { DENIED };
        let newest = number > numbers_end(&allowed);
        assert_eq!(ask(&filter, X86_64, number, [0; 6]), if newest { NO_SUCH_CALL } else { wanted }, "{number}");
    }
}

/// The highest number among `names`.
fn numbers_end(names: &[&str]) -> u32 {
    names.iter().filter_map(|name| Arch::X86_64.number(name)).max().unwrap()
}
