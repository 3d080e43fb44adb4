//! Device rules as an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`. bpf(2), kernel `include/uapi/linux/bpf.h`
//!
//! The program is a chain of comparisons from the last rule to the first: it ends at the first rule that settles the
//! request. It calls no helper and has no loop.

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
    for rule in rules.iter().rev() {
        match *rule {
            Rule::Everything { allow } => {
                last = allow;
                break;
            }
            Rule::Some { allow, devices, access } => code.extend(block(allow, devices, access)),
        }
    }
    code.extend(answer(last));
    code
}

fn answer(allow: bool) -> [u64; 2] {
    [instruction(MOVE_IMM, RESULT, 0, 0, i32::from(allow)), instruction(EXIT, 0, 0, 0, 0)]
}

/// The code of one rule; every failed comparison jumps behind it.
fn block(allow: bool, devices: Devices, access: Access) -> Vec<u64> {
    // BPF_DEVCG_DEV_BLOCK is 1, BPF_DEVCG_DEV_CHAR is 2.
    let kind = if devices.kind == Kind::Block { 1 } else { 2 };
    let mut tests = vec![(JUMP32_NOT_EQUAL_IMM, TYPE, kind)];
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
