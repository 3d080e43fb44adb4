//! The system call filter. runtime-spec config-linux.md "Seccomp"

use super::document::document;

document! {
    /// A filter: a default and exceptions.
    pub struct LinuxSeccomp {
        /// What happens to calls no rule names, as `SCMP_ACT_ERRNO`.
        pub default_action: String,
        /// The errno of the default action.
        pub default_errno_ret: Option<u32>,
        /// Architectures the rules are for, as `SCMP_ARCH_X86_64`; the native one is always among them.
        pub architectures: Vec<String>,
        /// As `SECCOMP_FILTER_FLAG_LOG`. Runtimes choose when the field is absent; an empty list means none.
        pub flags: Option<Vec<String>>,
        /// The socket of the agent that gets the notify descriptor.
        pub listener_path: Option<String>,
        /// Opaque text for that agent.
        pub listener_metadata: Option<String>,
        /// The exceptions.
        pub syscalls: Vec<LinuxSyscall>,
    }
}

document! {
    /// One exception.
    pub struct LinuxSyscall {
        /// The system calls, by name.
        pub names: Vec<String>,
        /// What happens.
        pub action: String,
        /// The errno of that action.
        pub errno_ret: Option<u32>,
        /// Conditions that must all hold.
        pub args: Vec<LinuxSeccompArg>,
    }
}

document! {
    /// One condition on an argument.
    pub struct LinuxSeccompArg {
        /// Which argument, 0 to 5.
        pub index: u32,
        /// What it is compared with.
        pub value: u64,
        /// The second operand of `SCMP_CMP_MASKED_EQ`.
        pub value_two: u64,
        /// As `SCMP_CMP_EQ`.
        pub op: String,
    }
}
