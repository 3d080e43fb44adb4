//! The architectures a profile can name: their audit number, byte order, width and column of the table.

use super::table::{COLUMNS, SYSCALLS};

/// One architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arch(&'static Row);

#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: &'static str,
    audit: u32,
    column: usize,
}

const LITTLE: u32 = 0x4000_0000;
const WIDE: u32 = 0x8000_0000;
const N32: u32 = 0x2000_0000;

const fn row(name: &'static str, audit: u32, column: usize) -> Row {
    assert!(column < COLUMNS);
    Row { name, audit, column }
}

/// `AUDIT_ARCH_*` of `include/uapi/linux/audit.h`: the ELF machine, the width, the byte order.
static ARCHES: [Row; 19] = [
    row("SCMP_ARCH_X86", 3 | LITTLE, 1),
    row("SCMP_ARCH_X86_64", 62 | WIDE | LITTLE, 0),
    row("SCMP_ARCH_X32", 62 | WIDE | LITTLE, 2),
    row("SCMP_ARCH_ARM", 40 | LITTLE, 4),
    row("SCMP_ARCH_AARCH64", 183 | WIDE | LITTLE, 3),
    row("SCMP_ARCH_MIPS", 8, 10),
    row("SCMP_ARCH_MIPS64", 8 | WIDE, 11),
    row("SCMP_ARCH_MIPS64N32", 8 | WIDE | N32, 12),
    row("SCMP_ARCH_MIPSEL", 8 | LITTLE, 10),
    row("SCMP_ARCH_MIPSEL64", 8 | WIDE | LITTLE, 11),
    row("SCMP_ARCH_MIPSEL64N32", 8 | WIDE | LITTLE | N32, 12),
    row("SCMP_ARCH_PPC", 20, 7),
    row("SCMP_ARCH_PPC64", 21 | WIDE, 6),
    row("SCMP_ARCH_PPC64LE", 21 | WIDE | LITTLE, 6),
    row("SCMP_ARCH_S390", 22, 9),
    row("SCMP_ARCH_S390X", 22 | WIDE, 8),
    row("SCMP_ARCH_PARISC", 15, 13),
    row("SCMP_ARCH_PARISC64", 15 | WIDE, 13),
    row("SCMP_ARCH_RISCV64", 243 | WIDE | LITTLE, 5),
];

/// The selector of a call that old 32-bit architectures make through `socketcall`. `include/uapi/linux/net.h`
fn socketcall(name: &str) -> Option<u32> {
    Some(match name {
        "socket" => 1,
        "bind" => 2,
        "connect" => 3,
        "listen" => 4,
        "accept" => 5,
        "getsockname" => 6,
        "getpeername" => 7,
        "socketpair" => 8,
        "send" => 9,
        "recv" => 10,
        "sendto" => 11,
        "recvfrom" => 12,
        "shutdown" => 13,
        "setsockopt" => 14,
        "getsockopt" => 15,
        "sendmsg" => 16,
        "recvmsg" => 17,
        "accept4" => 18,
        "recvmmsg" => 19,
        "sendmmsg" => 20,
        _ => return None,
    })
}

/// The selector of a call made through `ipc`. `include/uapi/linux/ipc.h`
fn ipc(name: &str) -> Option<u32> {
    Some(match name {
        "semop" => 1,
        "semget" => 2,
        "semctl" => 3,
        "semtimedop" => 4,
        "msgsnd" => 11,
        "msgrcv" => 12,
        "msgget" => 13,
        "msgctl" => 14,
        "shmat" => 21,
        "shmdt" => 22,
        "shmget" => 23,
        "shmctl" => 24,
        _ => return None,
    })
}

impl Arch {
    /// x86_64.
    pub const X86_64: Self = Self(&ARCHES[1]);

    /// Reads `SCMP_ARCH_…`.
    pub fn parse(name: &str) -> Option<Self> {
        ARCHES.iter().find(|row| row.name == name).map(Self)
    }

    /// The architecture this program was built for.
    pub fn host() -> Option<Self> {
        let little = cfg!(target_endian = "little");
        Self::parse(match std::env::consts::ARCH {
            "x86_64" => "SCMP_ARCH_X86_64",
            "x86" => "SCMP_ARCH_X86",
            "aarch64" => "SCMP_ARCH_AARCH64",
            "arm" => "SCMP_ARCH_ARM",
            "riscv64" => "SCMP_ARCH_RISCV64",
            "powerpc64" if little => "SCMP_ARCH_PPC64LE",
            "powerpc64" => "SCMP_ARCH_PPC64",
            "powerpc" => "SCMP_ARCH_PPC",
            "s390x" => "SCMP_ARCH_S390X",
            "mips64" if little => "SCMP_ARCH_MIPSEL64",
            "mips64" => "SCMP_ARCH_MIPS64",
            "mips" if little => "SCMP_ARCH_MIPSEL",
            "mips" => "SCMP_ARCH_MIPS",
            _ => return None,
        })
    }

    /// The names of all architectures, for `features`.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ARCHES.iter().map(|row| row.name)
    }

    /// The name of the profile.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// What the kernel puts into `seccomp_data.arch`.
    pub fn audit(self) -> u32 {
        self.0.audit
    }

    pub(super) fn column(self) -> usize {
        self.0.column
    }

    /// Whether it is x32, which shares its audit number with x86_64 and marks its calls with a bit.
    pub fn is_x32(self) -> bool {
        self.0.name == "SCMP_ARCH_X32"
    }

    /// Whether arguments are 64 bits wide.
    pub(super) fn is_wide(self) -> bool {
        self.0.audit & WIDE != 0 && self.0.audit & N32 == 0 && !self.is_x32()
    }

    pub(super) fn is_little_endian(self) -> bool {
        self.0.audit & LITTLE != 0
    }

    /// Whether the architecture (also) makes calls through others.
    pub(super) fn multiplexes(self) -> bool {
        matches!(
            self.0.name,
            "SCMP_ARCH_X86"
                | "SCMP_ARCH_S390"
                | "SCMP_ARCH_S390X"
                | "SCMP_ARCH_PPC"
                | "SCMP_ARCH_PPC64"
                | "SCMP_ARCH_PPC64LE"
                | "SCMP_ARCH_MIPS"
                | "SCMP_ARCH_MIPSEL"
        )
    }

    /// The call and the selector through which an architecture that multiplexes makes a call.
    pub(super) fn multiplexed(self, name: &str) -> Option<(u32, u32)> {
        let (through, selector) = match (socketcall(name), ipc(name)) {
            (Some(selector), _) => ("socketcall", selector),
            (None, selector) => ("ipc", selector?),
        };
        Some((self.number(through)?, selector))
    }

    /// The number of a call; `None` if the architecture does not have it, or nobody knows the name.
    pub fn number(self, name: &str) -> Option<u32> {
        let row = SYSCALLS.binary_search_by(|(known, _)| (*known).cmp(name)).ok()?;
        u32::try_from(SYSCALLS[row].1[self.0.column]).ok()
    }
}
