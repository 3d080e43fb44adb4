//! What is written to each controller's files for `linux.resources`, for the v1 and the v2 interface.
//!
//! One file a controller, each with `apply_v1` and `apply_v2`. Zero means "not set" wherever runc reads it so, because
//! engines write zeros for absent values.

pub(super) mod blkio;
pub(super) mod cpu;
pub(super) mod cpuset;
pub(super) mod devices;
pub(super) mod freezer;
pub(super) mod hugetlb;
pub(super) mod memory;
pub(super) mod network;
pub(super) mod pids;
pub(super) mod rdma;
pub(super) mod unified;

/// A number that is set and not zero.
fn some<T: Copy + Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value != T::default())
}

/// -1 as v2 writes it; every other number as it is.
fn max_or(value: i64) -> String {
    if value == -1 { "max".to_owned() } else { value.to_string() }
}
