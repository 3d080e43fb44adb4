//! Capabilities by name: docker's default set, `--cap-add`, `--cap-drop`, `--privileged`.

use super::ConversionError;

/// Every capability of Linux 6.18, in the kernel's order. capabilities(7)
pub const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has when nothing is said; docker's fourteen.
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

/// The set after additions and removals, in the kernel's order. A removal wins over `ALL` added, an addition over `ALL`
/// removed.
pub fn effective(privileged: bool, add: &[String], drop: &[String]) -> Result<Vec<String>, ConversionError> {
    let add = add.iter().map(|name| canonical(name)).collect::<Result<Vec<_>, _>>()?;
    let drop = drop.iter().map(|name| canonical(name)).collect::<Result<Vec<_>, _>>()?;
    let base: &[&str] = match () {
        () if privileged || add.contains(&"ALL") => &ALL,
        () if drop.contains(&"ALL") => &[],
        () => &DEFAULT,
    };
    let has = |name: &&str| (base.contains(name) || add.contains(name)) && !drop.contains(name);
    Ok(ALL.iter().filter(|name| has(name)).map(|name| (*name).to_owned()).collect())
}

/// `net_admin`, `CAP_NET_ADMIN`, `all` → the kernel's spelling.
fn canonical(name: &str) -> Result<&'static str, ConversionError> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if bare == "ALL" {
        return Ok("ALL");
    }
    ALL.iter()
        .find(|known| &known[4..] == bare)
        .copied()
        .ok_or_else(|| ConversionError::Capability { name: name.to_owned() })
}
