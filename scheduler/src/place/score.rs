//! How loaded a node would be. Integers only, so that every node computes the same.

use crate::service::Amount;

/// Returns what is left of a capacity, never below zero.
#[must_use]
pub fn free(capacity: &Amount, used: &Amount) -> Amount {
    Amount {
        cpu_nanos: capacity.cpu_nanos.saturating_sub(used.cpu_nanos),
        memory_bytes: capacity.memory_bytes.saturating_sub(used.memory_bytes),
        pids: 0,
    }
}

/// Returns how full the scarcer of processor and memory would be after one more instance, in parts of 65536.
#[must_use]
pub fn load_after(capacity: &Amount, free: &Amount, wish: &Amount) -> u64 {
    let part = |whole: u64, free: u64, wish: u64| {
        let used = whole.saturating_sub(free).saturating_add(wish);
        u64::try_from((u128::from(used) << 16) / u128::from(whole.max(1))).unwrap_or(u64::MAX)
    };
    let cpu = part(capacity.cpu_nanos, free.cpu_nanos, wish.cpu_nanos);
    let memory = part(capacity.memory_bytes, free.memory_bytes, wish.memory_bytes);
    cpu.max(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcer_means_decide() {
        let capacity = Amount { cpu_nanos: 100, memory_bytes: 100, pids: 0 };
        let left = Amount { cpu_nanos: 50, memory_bytes: 90, pids: 0 };
        assert_eq!(load_after(&capacity, &left, &Amount::default()), 65536 / 2);
        assert_eq!(load_after(&Amount::default(), &Amount::default(), &Amount::default()), 0);
    }
}
