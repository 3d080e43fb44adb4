//! Paths inside a rootfs, resolved by the kernel.
