//! Device nodes and links in `/dev`. runtime-spec config-linux.md "Devices", "Default Devices", "Dev symbolic links"

use oci::spec::LinuxDevice;
use serde::Serialize;

use super::Step;
use super::mounts::{self, Source};
use super::namespaces::Kind;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::facts::HostFacts;

/// One device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Where, inside.
    pub path: String,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub kind: u32,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Permissions.
    pub mode: u32,
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// Where nodes cannot be made (user namespaces): the host's node at the same path is bound instead.
    pub bind: bool,
}

/// Path, major and minor of the nodes every container has.
const DEFAULT: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Target and path of the links every container has.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Adds the steps for `/dev`, unless a bind mount brings one.
pub fn steps(container: &Container, facts: &HostFacts, steps: &mut Vec<Step>) -> Result<()> {
    let mounts: Vec<_> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Mount(mount) => Some((mounts::clean(&mount.destination), mount)),
            _ => None,
        })
        .collect();
    if mounts.iter().any(|(path, mount)| path == "/dev" && mount.is_bind()) {
        return Ok(());
    }
    let bound = |path: &str| mounts.iter().any(|(other, mount)| other == path && mount.is_bind());
    let bind = container.namespaces.has(Kind::User) || facts.in_user_namespace;
    let configured = container.spec.linux.as_ref().map_or(&[][..], |linux| &linux.devices[..]);
    let configured: Vec<Node> =
        configured.iter().enumerate().map(|(index, device)| node(index, device, bind)).collect::<Result<_>>()?;
    let default = DEFAULT.iter().map(|(path, major, minor)| Node {
        path: (*path).to_owned(),
        kind: libc::S_IFCHR,
        major: *major,
        minor: *minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
        bind,
    });
    let default: Vec<Node> = default.filter(|node| !configured.iter().any(|other| other.path == node.path)).collect();
    // A bind mount on the very path of a node (docker's --device in a user namespace) already is the device.
    let nodes: Vec<Step> =
        default.into_iter().chain(configured).filter(|node| !bound(&node.path)).map(Step::Device).collect();
    let core = facts.has_kcore.then_some(("/proc/kcore", "/dev/core"));
    let links = LINKS.iter().copied().chain(core);
    let links = links.map(|(target, path)| Step::Link { target: target.into(), path: path.into(), replace: false });
    let has_devpts = mounts.iter().any(|(path, mount)| {
        path == "/dev/pts" && matches!(&mount.source, Source::Filesystem { kind, .. } if kind == "devpts")
    });
    let multiplexer = Step::Link { target: "pts/ptmx".into(), path: "/dev/ptmx".into(), replace: true };
    let added: Vec<Step> = nodes.into_iter().chain(has_devpts.then_some(multiplexer)).chain(links).collect();
    steps.extend(added);
    Ok(())
}

fn node(index: usize, device: &LinuxDevice, bind: bool) -> Result<Node> {
    let field = format!("linux.devices[{index}]");
    let kind = match device.kind.as_str() {
        "c" | "u" => libc::S_IFCHR,
        "b" => libc::S_IFBLK,
        "p" => libc::S_IFIFO,
        other => return Err(Error::refusal(format!("{field}.type"), format!("{other:?} is none of c, b, u, p"))),
    };
    if !device.path.starts_with('/') || device.path.contains('\0') {
        return Err(Error::refusal(format!("{field}.path"), format!("{:?} is no absolute path", device.path)));
    }
    let number = |name: &str, value: Option<i64>| match value {
        //= runtime-spec config-linux.md "Devices"
        //# major, minor (int64, REQUIRED unless type is p) - major, minor numbers for the device.
        None if kind == libc::S_IFIFO => Ok(0),
        None => Err(Error::refusal(format!("{field}.{name}"), "is required for this type of device")),
        // The kernel's dev_t has 12 bits of major and 20 of minor.
        Some(value) => u64::try_from(value)
            .ok()
            .filter(|value| *value < 1 << 20)
            .ok_or_else(|| Error::refusal(format!("{field}.{name}"), format!("{value} is no device number"))),
    };
    let (major, minor) = (number("major", device.major)?, number("minor", device.minor)?);
    let mode = device.file_mode.unwrap_or(0o666) & 0o7777;
    let (uid, gid) = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
    super::process::real_id(&format!("{field}.uid"), uid)?;
    super::process::real_id(&format!("{field}.gid"), gid)?;
    Ok(Node { path: mounts::clean(&device.path), kind, major, minor, mode, uid, gid, bind })
}
