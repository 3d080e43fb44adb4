//! The default system call filter: what docker allows, with the same conditions on capabilities, architecture and kernel.
//!
//! The names are data: Moby's default profile as of v28 (`profiles/seccomp`), which also knows the calls up to Linux 6.11.
//! In: the container's capabilities and the host's kernel. Out: one filter without conditions. Everything not named answers
//! EPERM (`clone3` ENOSYS, so that programs fall back to `clone`); AF_VSOCK sockets are refused.

use crate::spec::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};

/// What every container may call.
const ALWAYS: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
    close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat
    faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
    fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
    fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
    getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32
    getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid
    getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday
    getuid getuid32 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy
    io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr llistxattr
    _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret
    mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv
    msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64
    preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink
    readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr rename renameat
    renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr
    sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
    select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid
    setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid
    setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid
    setsockopt set_thread_area set_tid_address setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown sigaltstack
    signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statx symlink
    symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
    timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat utime
    utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

/// What capabilities open.
const BY_CAPABILITY: [(&str, &str); 13] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie lsm_get_self_attr
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl
         quotactl_fd setdomainname sethostname setns statmount syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
];

/// What tracing needs: open since Linux 4.8, where a tracer can no longer evade the filter.
const SINCE_4_8: &str = "process_vm_readv process_vm_writev ptrace";

/// What the architecture of this build adds.
#[cfg(target_arch = "x86_64")]
const BY_ARCHITECTURE: &str = "arch_prctl modify_ldt";
#[cfg(target_arch = "aarch64")]
const BY_ARCHITECTURE: &str = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";
#[cfg(target_arch = "riscv64")]
const BY_ARCHITECTURE: &str = "riscv_flush_icache riscv_hwprobe";
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const BY_ARCHITECTURE: &str = "";

/// The families of this build.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
#[cfg(target_arch = "riscv64")]
const ARCHITECTURES: &[&str] = &["SCMP_ARCH_RISCV64"];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const ARCHITECTURES: &[&str] = &[];

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// `AF_VSOCK`: reaches the hypervisor past every network namespace.
const AF_VSOCK: u64 = 40;
/// `CLONE_NEWNS | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | NEWCGROUP`.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// The filter for a container with these capabilities on a kernel of this version.
pub fn default_profile(capabilities: &[String], kernel: (u32, u32)) -> LinuxSeccomp {
    let has = |name: &str| capabilities.iter().any(|known| known == name);
    let mut names: Vec<String> =
        ALWAYS.split_whitespace().chain(BY_ARCHITECTURE.split_whitespace()).map(str::to_owned).collect();
    if kernel >= (4, 8) {
        names.extend(SINCE_4_8.split_whitespace().map(str::to_owned));
    }
    for (capability, opened) in BY_CAPABILITY {
        if has(capability) {
            names.extend(opened.split_whitespace().map(str::to_owned));
        }
    }
    if has("CAP_PERFMON") {
        names.push("perf_event_open".to_owned());
    }
    names.sort();
    names.dedup();
    let mut syscalls = vec![allow(names, Vec::new())];
    // Every address family but AF_VSOCK: below it and above it.
    for op in ["SCMP_CMP_LT", "SCMP_CMP_GT"] {
        syscalls.push(allow(vec!["socket".to_owned()], vec![argument(0, AF_VSOCK, 0, op)]));
    }
    // The personalities that change nothing dangerous.
    for value in [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        syscalls.push(allow(vec!["personality".to_owned()], vec![argument(0, value, 0, "SCMP_CMP_EQ")]));
    }
    if !has("CAP_SYS_ADMIN") {
        // Threads and processes, but no namespaces. The flags are a pointer in clone3, which a filter cannot see.
        let flags = argument(if cfg!(target_arch = "s390x") { 1 } else { 0 }, NEW_NAMESPACES, 0, "SCMP_CMP_MASKED_EQ");
        syscalls.push(allow(vec!["clone".to_owned()], vec![flags]));
        syscalls.push(LinuxSyscall {
            names: vec!["clone3".to_owned()],
            action: "SCMP_ACT_ERRNO".to_owned(),
            errno_ret: Some(ENOSYS),
            args: Vec::new(),
        });
    }
    LinuxSeccomp {
        default_action: "SCMP_ACT_ERRNO".to_owned(),
        default_errno_ret: Some(EPERM),
        architectures: ARCHITECTURES.iter().map(|name| (*name).to_owned()).collect(),
        syscalls,
        ..LinuxSeccomp::default()
    }
}

fn allow(names: Vec<String>, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    LinuxSyscall { names, action: "SCMP_ACT_ALLOW".to_owned(), errno_ret: None, args }
}

fn argument(index: u32, value: u64, value_two: u64, op: &str) -> LinuxSeccompArg {
    LinuxSeccompArg { index, value, value_two, op: op.to_owned() }
}
