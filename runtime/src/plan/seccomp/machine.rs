//! A classic BPF machine over `struct seccomp_data`, for tests.

use seccompiler::sock_filter;

/// What a call looks like to a filter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) number: u32,
    pub(crate) arch: u32,
    pub(crate) args: [u64; 6],
}

impl Call {
    fn word(&self, at: u32) -> u32 {
        match at {
            0 => self.number,
            4 => self.arch,
            8 | 12 => 0,
            _ => {
                let argument = self.args[usize::try_from((at - 16) / 8).unwrap()];
                u32::try_from(argument >> (8 * (at % 8)) & 0xffff_ffff).unwrap()
            }
        }
    }
}

/// Runs a program as the kernel would; panics on what the kernel refuses.
pub(crate) fn run(program: &[sock_filter], call: &Call) -> u32 {
    let mut accumulator = 0u32;
    let mut at = 0;
    loop {
        let step = &program[at];
        at += 1;
        let holds = match step.code {
            0x20 => {
                accumulator = call.word(step.k);
                continue;
            }
            0x54 => {
                accumulator &= step.k;
                continue;
            }
            0x05 => {
                at += usize::try_from(step.k).unwrap();
                continue;
            }
            0x06 => return step.k,
            0x15 => accumulator == step.k,
            0x25 => accumulator > step.k,
            0x35 => accumulator >= step.k,
            other => panic!("instruction {other:#x}"),
        };
        at += usize::from(if holds { step.jt } else { step.jf });
    }
}
