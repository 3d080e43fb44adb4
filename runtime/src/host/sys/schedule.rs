//! CPU, I/O and memory placement: sched_setattr(2), ioprio_set(2), sched_setaffinity(2), set_mempolicy(2).

use super::check;

/// The kernel's `struct sched_attr`, first version.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Attr {
    /// The size of this structure; filled in by [`set_attr`].
    #[serde(skip)]
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Static priority.
    pub priority: u32,
    /// Nanoseconds, deadline only.
    pub runtime: u64,
    /// Nanoseconds, deadline only.
    pub deadline: u64,
    /// Nanoseconds, deadline only.
    pub period: u64,
}

/// Sets the CPU scheduling of this process.
pub fn set_attr(mut attr: Attr) -> nix::Result<()> {
    attr.size = 48;
    // SAFETY: the structure is at least as long as its size field says and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// Sets the I/O class (1 to 3) and priority of this process.
pub fn set_io_priority(class: u32, priority: u32) -> nix::Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, class << IOPRIO_CLASS_SHIFT | priority) })
        .map(drop)
}

/// Restricts this process to the CPUs of `mask`, a bit each.
pub fn set_affinity(mask: &[u64]) -> nix::Result<()> {
    // SAFETY: the buffer is as long as stated.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) }).map(drop)
}

/// The CPUs of this process, a bit each; at most 8,192.
pub fn affinity() -> nix::Result<Vec<u64>> {
    let mut mask = vec![0u64; 128];
    // SAFETY: the buffer is as long as stated.
    let length =
        check(unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&mask[..]), mask.as_mut_ptr()) })?;
    mask.truncate(usize::try_from(length).unwrap_or(0).div_ceil(size_of::<u64>()));
    Ok(mask)
}

/// Sets the NUMA policy of this process: mode with flags, and the nodes of `mask`, a bit each.
pub fn set_memory_policy(mode: i32, mask: &[u64]) -> nix::Result<()> {
    let bits = mask.len() * u64::BITS as usize;
    let pointer = if mask.is_empty() { std::ptr::null() } else { mask.as_ptr() };
    // The kernel reads one bit less than it is told. SAFETY: the mask has as many bits as it will read.
    let bits = if mask.is_empty() { 0 } else { bits + 1 };
    // SAFETY: as above; an empty mask is NULL with length 0.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) }).map(drop)
}
