//! Which kernel parameters belong to a container. runtime-spec config-linux.md "Sysctl"
//!
//! A parameter that is not namespaced, or whose namespace is the host's, would change the host: refused.

use super::namespaces::{Kind, Namespaces};
use crate::error::{Error, Result};

const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Refuses `key` unless it is a parameter of a namespace the container has for itself.
pub fn check(key: &str, namespaces: &Namespaces) -> Result<()> {
    let field = || format!("linux.sysctl[{key:?}]");
    let odd = key.split(['.', '/']).any(|part| part.is_empty() || part == "..");
    if odd {
        return Err(Error::refusal(field(), "is no name of a kernel parameter"));
    }
    let dotted = dotted(key);
    let needed = if IPC.contains(&dotted.as_str())
        || dotted.starts_with("kernel.msg_next_id")
        || dotted.starts_with("fs.mqueue.")
    {
        Kind::Ipc
    } else if dotted.starts_with("net.") {
        Kind::Network
    } else if dotted == "kernel.domainname" {
        Kind::Uts
    } else if dotted == "kernel.hostname" {
        return Err(Error::refusal(field(), "use the field hostname instead"));
    } else {
        return Err(Error::refusal(field(), "is not in a separate kernel namespace"));
    };
    if namespaces.is_own(needed) {
        Ok(())
    } else {
        Err(Error::refusal(field(), format!("not allowed in the host's {} namespace", needed.word())))
    }
}

/// The key with dots between its parts; in the slashed form a dot is part of a name (`net/ipv4/conf/eth0.1/…`).
fn dotted(key: &str) -> String {
    if key.find('/') < key.find('.') && key.contains('/') || !key.contains('.') {
        key.replace('.', "\u{1}").replace('/', ".").replace('\u{1}', "/")
    } else {
        key.to_owned()
    }
}

/// The path below `/proc/sys`. sysctl(8): the first separator decides; the other one then stands for itself.
pub fn path(key: &str) -> String {
    dotted(key).replace('.', "\u{1}").replace('/', ".").replace('\u{1}', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_name_the_same_file() {
        assert_eq!(path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(path("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
    }

    #[test]
    fn only_parameters_of_own_namespaces_are_allowed() {
        let own = Namespaces { create: vec![Kind::Network], ..Namespaces::default() };
        assert!(check("net.core.somaxconn", &own).is_ok());
        assert!(check("net/core/somaxconn", &own).is_ok());
        let joined = Namespaces { join: vec![(Kind::Network, "/proc/1/ns/net".into())], ..Namespaces::default() };
        assert!(check("net.core.somaxconn", &joined).is_ok());
        let hosts = Namespaces { hosts: vec![Kind::Network], ..joined };
        assert!(check("net.core.somaxconn", &hosts).is_err(), "the host's own, by its path");
        for bad in
            ["kernel.shmmax", "kernel.panic", "vm.swappiness", "net..x", "../x", "net.../../x", "kernel.hostname"]
        {
            assert!(check(bad, &own).is_err(), "{bad}");
        }
    }
}
