//! Verdicts become instructions.
//!
//! The numbers of an architecture are cut into intervals with one verdict each; a balanced tree of `>=` comparisons
//! finds the interval; conditions on arguments are tested at its leaf. All jumps lead forward. Documentation/userspace-
//! api/seccomp_filter.rst, Documentation/networking/filter.rst

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, sock_filter};

use super::{Arch, Condition, ERRNO, KILL_THREAD, Operator, enosys};

// Classes and modes of `include/uapi/linux/bpf_common.h`, combined.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_NOT_LESS: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

// struct seccomp_data: nr, arch, instruction pointer, six arguments of 64 bits.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

/// The bit that marks the calls of x32.
const X32_BIT: u32 = 0x4000_0000;

/// What happens to one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Always(u32),
    /// Rules in order: all conditions of one must hold.
    Conditional(Vec<(Vec<Condition>, u32)>),
}

/// The calls of one architecture.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) arch: Arch,
    /// By number.
    pub(super) calls: Vec<(u32, Verdict)>,
    pub(super) default: u32,
    /// The highest number the profile knows; calls beyond it answer ENOSYS. `None` switches that off.
    pub(super) newest: Option<u32>,
}

/// The whole program. Sections that share an audit number are x86_64 and x32.
pub(super) fn program(sections: &BTreeMap<u32, Vec<Section>>, default: u32, host: Arch) -> BpfProgram {
    let mut code = vec![load(ARCH_AT)];
    // The host's own architecture is asked for first.
    let mut ordered: Vec<(&u32, &Vec<Section>)> = sections.iter().collect();
    ordered.sort_by_key(|(audit, _)| **audit != host.audit());
    for (audit, sections) in ordered {
        let body = body(sections, default);
        // `ja` reaches any distance, a conditional jump only 255.
        code.push(instruction(JUMP_EQUAL, 1, 0, *audit));
        code.push(jump(body.len()));
        code.extend(body);
    }
    code.push(ret(KILL_THREAD));
    code
}

fn body(sections: &[Section], default: u32) -> BpfProgram {
    let mut code = vec![load(NUMBER_AT)];
    let x32 = sections.iter().find(|section| section.arch.is_x32());
    let plain = sections.iter().find(|section| !section.arch.is_x32());
    match (plain, x32) {
        (Some(plain), None) if plain.arch == Arch::X86_64 => {
            code.extend(tree(&intervals(plain, 0, Some(X32_BIT)), plain.arch, default))
        }
        (Some(plain), None) => code.extend(tree(&intervals(plain, 0, None), plain.arch, default)),
        (plain, Some(x32)) => {
            let low = match plain {
                Some(plain) => tree(&intervals(plain, 0, None), plain.arch, default),
                None => vec![ret(KILL_THREAD)],
            };
            code.push(instruction(JUMP_NOT_LESS, 0, 1, X32_BIT));
            code.push(jump(low.len()));
            code.extend(low);
            code.extend(tree(&intervals(x32, X32_BIT, None), x32.arch, default));
        }
        (None, None) => code.push(ret(default)),
    }
    code
}

/// Intervals by their first number, each up to the next; neighbours differ. `foreign` is where numbers begin that do
/// not belong to the architecture.
fn intervals(section: &Section, base: u32, foreign: Option<u32>) -> Vec<(u32, Verdict)> {
    let mut found: Vec<(u32, Verdict)> = Vec::new();
    let mut push = |start: u32, verdict: Verdict| match found.last_mut() {
        Some((_, last)) if *last == verdict => {}
        Some((at, last)) if *at == start => *last = verdict,
        _ => found.push((start, verdict)),
    };
    let mut next = 0;
    for (number, verdict) in &section.calls {
        let number = number + base;
        if number > next {
            push(next, Verdict::Always(section.default));
        }
        push(number, verdict.clone());
        next = number + 1;
    }
    match section.newest {
        Some(newest) => {
            // A number below the newest may be without a rule; the gap in between is the default's.
            if newest + base >= next {
                push(next, Verdict::Always(section.default));
            }
            push((newest + base + 1).max(next), Verdict::Always(ERRNO | enosys()));
        }
        None => {
            push(next, Verdict::Always(section.default));
            if let Some(foreign) = foreign {
                push(foreign, Verdict::Always(KILL_THREAD));
                // -1 is no call of x32 but one that a tracer has cancelled.
                push(u32::MAX, Verdict::Always(section.default));
            }
        }
    }
    found
}

fn tree(intervals: &[(u32, Verdict)], arch: Arch, default: u32) -> BpfProgram {
    let mut code = Backwards { code: Vec::with_capacity(2 * intervals.len()), answers: Vec::new(), arch, default };
    let entry = code.tree(intervals);
    if entry + 1 != code.code.len() {
        code.leap(entry);
    }
    code.code.reverse();
    code.code
}

/// How far an answer may lie behind the comparison that leads to it: comparisons reach 255 instructions.
const REACH: usize = 255;

/// A program that is written from its end to its beginning, since jumps lead forward: what is jumped to is there already.
/// Places are counted from the end.
struct Backwards {
    code: BpfProgram,
    /// The place of the last answer with each value: comparisons close to it share it.
    answers: Vec<(u32, usize)>,
    arch: Arch,
    default: u32,
}

impl Backwards {
    fn push(&mut self, instruction: sock_filter) -> usize {
        self.code.push(instruction);
        self.code.len() - 1
    }

    /// The distance from the next instruction to `place`.
    fn distance(&self, place: usize) -> usize {
        self.code.len() - place - 1
    }

    fn leap(&mut self, place: usize) -> usize {
        self.push(jump(self.distance(place)))
    }

    fn answer(&mut self, value: u32) -> usize {
        match self.answers.iter_mut().find(|(known, _)| *known == value) {
            // Half of the reach is left to what stands between the comparison and this.
            Some((_, place)) if self.code.len() - *place < REACH / 2 => *place,
            Some((_, place)) => {
                *place = self.code.len();
                self.push(ret(value))
            }
            None => {
                self.answers.push((value, self.code.len()));
                self.push(ret(value))
            }
        }
    }

    fn tree(&mut self, intervals: &[(u32, Verdict)]) -> usize {
        match intervals {
            [] => self.answer(self.default),
            [(_, Verdict::Always(value))] => self.answer(*value),
            [(_, Verdict::Conditional(rules))] => {
                self.push(ret(self.default));
                for (conditions, value) in rules.iter().rev() {
                    self.code.extend(rule(conditions, *value, self.arch).into_iter().rev());
                }
                self.code.len() - 1
            }
            _ => {
                let (low, high) = intervals.split_at(intervals.len() / 2);
                let (mut right, mut left) = (self.tree(high), self.tree(low));
                // One more for the leap that the other may need.
                if self.distance(right) >= REACH {
                    right = self.leap(right);
                }
                if self.distance(left) > REACH {
                    left = self.leap(left);
                }
                let distance = |place| u8::try_from(self.distance(place)).expect("what is farther is leapt to");
                let (yes, no) = (distance(right), distance(left));
                self.push(instruction(JUMP_NOT_LESS, yes, no, high[0].0))
            }
        }
    }
}

/// Where a comparison leads: on, to the next condition, or to the next rule.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    On,
    Holds,
    Fails,
}

/// All conditions of one rule and its answer; a condition that fails leads behind them.
fn rule(conditions: &[Condition], value: u32, arch: Arch) -> BpfProgram {
    let blocks: Vec<Vec<(sock_filter, To, To)>> = conditions.iter().map(|one| condition(one, arch)).collect();
    let total: usize = blocks.iter().map(Vec::len).sum();
    let mut code = Vec::with_capacity(total + 1);
    let mut end_of_block = 0;
    for block in blocks {
        end_of_block += block.len();
        for (mut step, yes, no) in block {
            let behind = code.len() + 1;
            let distance = |to| {
                let target = match to {
                    To::On => behind,
                    To::Holds => end_of_block,
                    To::Fails => total + 1,
                };
                u8::try_from(target - behind).expect("six conditions are at most 36 instructions")
            };
            if step.code & 0x07 == JUMP {
                (step.jt, step.jf) = (distance(yes), distance(no));
            }
            code.push(step);
        }
    }
    code.push(ret(value));
    code
}

/// One condition as steps with symbolic targets. A wide argument is compared by halves, the high one first.
fn condition(condition: &Condition, arch: Arch) -> Vec<(sock_filter, To, To)> {
    use To::{Fails, Holds, On};
    let at = ARGUMENTS_AT + 8 * u32::from(condition.index);
    let (low_at, high_at) = if arch.is_little_endian() { (at, at + 4) } else { (at + 4, at) };
    let (low, high) = halves(condition.value);
    let (low_mask, high_mask) = halves(condition.mask);
    let mut steps = Vec::with_capacity(6);
    if arch.is_wide() {
        steps.push((load(high_at), On, On));
        if high_mask != u32::MAX {
            steps.push((instruction(AND, 0, 0, high_mask), On, On));
        }
        match condition.operator {
            Operator::Equal | Operator::MaskedEqual => steps.push((test(JUMP_EQUAL, high), On, Fails)),
            Operator::NotEqual => steps.push((test(JUMP_EQUAL, high), On, Holds)),
            Operator::Greater | Operator::GreaterOrEqual => {
                steps.push((test(JUMP_GREATER, high), Holds, On));
                steps.push((test(JUMP_EQUAL, high), On, Fails));
            }
            Operator::Less | Operator::LessOrEqual => {
                steps.push((test(JUMP_GREATER, high), Fails, On));
                steps.push((test(JUMP_EQUAL, high), On, Holds));
            }
        }
    }
    steps.push((load(low_at), On, On));
    if low_mask != u32::MAX {
        steps.push((instruction(AND, 0, 0, low_mask), On, On));
    }
    steps.push(match condition.operator {
        Operator::Equal | Operator::MaskedEqual => (test(JUMP_EQUAL, low), Holds, Fails),
        Operator::NotEqual => (test(JUMP_EQUAL, low), Fails, Holds),
        Operator::Greater => (test(JUMP_GREATER, low), Holds, Fails),
        Operator::GreaterOrEqual => (test(JUMP_NOT_LESS, low), Holds, Fails),
        Operator::Less => (test(JUMP_NOT_LESS, low), Fails, Holds),
        Operator::LessOrEqual => (test(JUMP_GREATER, low), Fails, Holds),
    });
    steps
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn test(code: u16, k: u32) -> sock_filter {
    instruction(code, 0, 0, k)
}

fn load(at: u32) -> sock_filter {
    instruction(LOAD, 0, 0, at)
}

fn jump(distance: usize) -> sock_filter {
    instruction(JUMP, 0, 0, u32::try_from(distance).expect("programs are checked to be short"))
}

fn ret(value: u32) -> sock_filter {
    instruction(RETURN, 0, 0, value)
}
