//! Device rules as an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`. bpf(2), kernel `include/uapi/linux/bpf.h`
//!
//! The program is a chain of comparisons from the last rule to the first: it ends at the first rule that settles the
//! request. Neighbours that settle everything about devices of one kind in the same way share their comparisons and their
//! answer: the kernel follows every branch before it accepts a program, which is most of what loading one costs. It calls
//! no helper and has no loop.

use super::{Access, Devices, Kind, Rule};

// Operation codes, kernel Documentation/bpf/standardization/instruction-set.rst.
const LOAD_WORD: u8 = 0x61;
const MOVE_REG: u8 = 0xbf;
const MOVE_IMM: u8 = 0xb7;
const AND_IMM: u8 = 0x57;
const SHIFT_RIGHT_IMM: u8 = 0x77;
const JUMP32_NOT_EQUAL_IMM: u8 = 0x56;
const JUMP32_EQUAL_IMM: u8 = 0x16;
const EXIT: u8 = 0x95;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// One instruction as the kernel's `struct bpf_insn` lays it out on a little-endian machine.
fn instruction(code: u8, target: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    let [offset_low, offset_high] = offset.to_le_bytes();
    let [a, b, c, d] = immediate.to_le_bytes();
    let registers = if cfg!(target_endian = "little") { source << 4 | target } else { target << 4 | source };
    if cfg!(target_endian = "little") {
        u64::from_ne_bytes([code, registers, offset_low, offset_high, a, b, c, d])
    } else {
        u64::from_ne_bytes([code, registers, offset_high, offset_low, d, c, b, a])
    }
}

/// The program for the rules.
pub fn program(rules: &[Rule]) -> Vec<u64> {
    // struct bpf_cgroup_dev_ctx { u32 access_type /* access << 16 | type */, major, minor }
    let mut code = vec![
        instruction(LOAD_WORD, TYPE, CONTEXT, 0, 0),
        instruction(MOVE_REG, ACCESS, TYPE, 0, 0),
        instruction(AND_IMM, TYPE, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_IMM, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    let mut last = false;
    let mut rest = rules.iter().rev().peekable();
    while let Some(rule) = rest.next() {
        match *rule {
            Rule::Everything { allow } => {
                last = allow;
                break;
            }
            Rule::Some { allow, devices: Devices { kind, major: Some(major), minor }, access: Access::ALL } => {
                let mut numbers = vec![(major, minor)];
                while let Some(more) = rest.peek().and_then(|next| alike(next, allow, kind))
                    && numbers.len() < GROUP_MAX
                {
                    numbers.push(more);
                    rest.next();
                }
                code.extend(group(allow, kind, &numbers));
            }
            Rule::Some { allow, devices, access } => code.extend(block(allow, devices, access)),
        }
    }
    code.extend(answer(last));
    code
}

/// How many rules share one answer: jumps over a group stay far below the 32,767 instructions they can reach.
const GROUP_MAX: usize = 1024;

/// The numbers of a rule that settles all about devices of `kind` with `allow`.
fn alike(rule: &Rule, allow: bool, kind: Kind) -> Option<(u32, Option<u32>)> {
    match *rule {
        Rule::Some { allow: also, devices, access: Access::ALL } if also == allow && devices.kind == kind => {
            devices.major.map(|major| (major, devices.minor))
        }
        _ => None,
    }
}

/// BPF_DEVCG_DEV_BLOCK is 1, BPF_DEVCG_DEV_CHAR is 2.
fn type_of(kind: Kind) -> i32 {
    if kind == Kind::Block { 1 } else { 2 }
}

/// The code of rules with one answer: a device that none of them names leads behind it.
fn group(allow: bool, kind: Kind, numbers: &[(u32, Option<u32>)]) -> Vec<u64> {
    /// Where a comparison leads when it holds.
    #[derive(Clone, Copy)]
    enum To {
        Answer,
        Behind,
        At(usize),
    }
    let mut tests = vec![(JUMP32_NOT_EQUAL_IMM, TYPE, type_of(kind), To::Behind)];
    let mut runs = numbers.chunk_by(|one, next| one.0 == next.0).peekable();
    while let Some(run) = runs.next() {
        let is_last = runs.peek().is_none();
        let major = run[0].0.cast_signed();
        if run.iter().any(|(_, minor)| minor.is_none()) {
            tests.push(if is_last {
                (JUMP32_NOT_EQUAL_IMM, MAJOR, major, To::Behind)
            } else {
                (JUMP32_EQUAL_IMM, MAJOR, major, To::Answer)
            });
            continue;
        }
        let next = if is_last { To::Behind } else { To::At(tests.len() + 1 + run.len()) };
        tests.push((JUMP32_NOT_EQUAL_IMM, MAJOR, major, next));
        let minors = run.iter().filter_map(|(_, minor)| *minor).map(u32::cast_signed);
        tests.extend(minors.map(|minor| (JUMP32_EQUAL_IMM, MINOR, minor, To::Answer)));
        if let Some(settled) = tests.last_mut().filter(|_| is_last) {
            // What does not hold falls through to the answer.
            (settled.0, settled.3) = (JUMP32_NOT_EQUAL_IMM, To::Behind);
        }
    }
    let end = tests.len();
    let mut code: Vec<u64> = Vec::with_capacity(end + 2);
    for (at, (operation, register, value, to)) in tests.into_iter().enumerate() {
        let target = match to {
            To::Answer => end,
            To::Behind => end + 2,
            To::At(test) => test,
        };
        let distance = i16::try_from(target - at - 1).expect("a group has a bound");
        code.push(instruction(operation, register, 0, distance, value));
    }
    code.extend(answer(allow));
    code
}

fn answer(allow: bool) -> [u64; 2] {
    [instruction(MOVE_IMM, RESULT, 0, 0, i32::from(allow)), instruction(EXIT, 0, 0, 0, 0)]
}

/// The code of one rule; every failed comparison jumps behind it.
fn block(allow: bool, devices: Devices, access: Access) -> Vec<u64> {
    let mut tests = vec![(JUMP32_NOT_EQUAL_IMM, TYPE, type_of(devices.kind))];
    for (register, number) in [(MAJOR, devices.major), (MINOR, devices.minor)] {
        if let Some(number) = number {
            tests.push((JUMP32_NOT_EQUAL_IMM, register, number.cast_signed()));
        }
    }
    let bits = i32::from(access.bits());
    let mut between = Vec::new();
    let settle = match (access == Access::ALL, allow) {
        (true, _) => None,
        // Allowed bits are settled; what remains is for the rules before this one.
        (false, true) => {
            between.push(instruction(AND_IMM, ACCESS, 0, 0, !bits & 7));
            Some((JUMP32_NOT_EQUAL_IMM, ACCESS, 0))
        }
        (false, false) => {
            between.push(instruction(MOVE_REG, SCRATCH, ACCESS, 0, 0));
            between.push(instruction(AND_IMM, SCRATCH, 0, 0, bits));
            Some((JUMP32_EQUAL_IMM, SCRATCH, 0))
        }
    };
    let length = tests.len() + between.len() + usize::from(settle.is_some()) + 2;
    let jump = |at: usize, (code, register, value): (u8, u8, i32)| {
        let behind = i16::try_from(length - at - 1).expect("a block has at most nine instructions");
        instruction(code, register, 0, behind, value)
    };
    let mut code: Vec<u64> = tests.into_iter().enumerate().map(|(at, test)| jump(at, test)).collect();
    code.append(&mut between);
    if let Some(settle) = settle {
        code.push(jump(code.len(), settle));
    }
    code.extend(answer(allow));
    code
}
