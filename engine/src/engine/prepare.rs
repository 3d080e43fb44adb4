//! A record and what is true of the host become the runtime's document.

use super::{Container, Engine};
use crate::account;
use crate::error::EngineError;
use crate::host::netns;
use crate::host::rootfs::{Program, Rootfs};
use crate::lsm;
use crate::network::Mode;
use crate::record::Record;
use crate::wish::{Device, DeviceRate, Resources, Wish};
use oci::conversion::{self, Namespace, Seccomp, capability};
use oci::spec::{
    LinuxBlockIo, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxIdMapping, LinuxMemory, LinuxPids, LinuxResources,
    LinuxSeccomp, LinuxThrottleDevice, Mount, PosixRlimit, Spec,
};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Where the container sees `shoal-monitor` when `--init` is asked for; docker's place.
const INIT: &str = "/sbin/docker-init";

/// How many ids a range of `--userns auto` has.
const IDS: u32 = 65_536;
/// Where those ranges begin: above every ordinary user and the usual subordinate ranges.
const IDS_FIRST: u32 = 0x1000_0000;
/// How many ranges there are; the last one ends below 2^31.
const IDS_SLOTS: u32 = 16_000;

/// How many nodes of a directory given to `--device` are offered.
const DEVICES_MAX: usize = 4096;

/// What was made for a container before its document is written.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// The root file system's path.
    pub(super) rootfs: String,
    /// The network namespace's file; `None` for the host's.
    pub(super) netns: Option<String>,
    /// Volumes, binds, tmpfs, generated files.
    pub(super) mounts: Vec<Mount>,
}

/// Program and arguments as the image and the user want them.
pub(super) fn argv(record: &Record) -> Result<Vec<String>, EngineError> {
    let (wish, image) = (&record.wish, &record.defaults);
    Ok(conversion::argv(&image.entrypoint, &image.cmd, wish.entrypoint.as_deref(), &wish.command)?)
}

/// The host name: the wish's, else the short id.
pub(super) fn hostname(record: &Record) -> String {
    if record.wish.hostname.is_empty() {
        record.id.get(..12).unwrap_or(&record.id).to_owned()
    } else {
        record.wish.hostname.clone()
    }
}

impl Engine {
    /// Builds the runtime's document.
    pub(super) fn spec(&self, container: &Container, prepared: &Prepared) -> Result<Spec, EngineError> {
        let (record, wish) = (&container.record, &container.record.wish);
        let root = Rootfs::open(Path::new(&prepared.rootfs))
            .map_err(EngineError::io(format!("open the root file system {}", prepared.rootfs)))?;
        let kept = wish.user.is_empty() && wish.userns == "keep-id";
        let own = kept.then(crate::roots::rootless).flatten().map(|user| format!("{user}:{}", keep_group(user)));
        let user_text = match &own {
            Some(own) => own,
            None if wish.user.is_empty() => &record.defaults.user,
            None => &wish.user,
        };
        let read = |path: &str| root.text(path).map_err(EngineError::io(format!("read the image's {path}")));
        let account = account::resolve(user_text, &wish.group_add, &read("/etc/passwd")?, &read("/etc/group")?)?;
        let mode = Mode::parse(&wish.networks)?;
        let uts = self.uts(container, &mode)?;
        let host_name = if uts == Namespace::Private {
            hostname(record)
        } else {
            nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let mut env = conversion::environment(&record.defaults.env, &wish.env, &host_name, wish.tty);
        if !env.iter().any(|entry| entry.starts_with("HOME=")) {
            env.push(format!("HOME={}", account.home));
        }
        let mut args = argv(record)?;
        if wish.init {
            args.splice(0..0, [INIT.to_owned(), "--".to_owned()]);
        }
        let cwd = [&wish.workdir, &record.defaults.workdir].into_iter().find(|path| !path.is_empty());
        let mut devices = Vec::new();
        let mut device_rules = Vec::new();
        for device in &wish.devices {
            add_device(device, &mut devices, &mut device_rules)?;
        }
        if wish.privileged {
            add_device(
                &Device { host: "/dev".into(), container: "/dev".into(), access: "rwm".into() },
                &mut devices,
                &mut Vec::new(),
            )?;
        }
        for rule in &wish.device_cgroup_rules {
            device_rules.push(device_rule(rule)?);
        }
        let mut security = Security::parse(wish)?;
        if security.apparmor == Confinement::Default && !wish.privileged {
            security.apparmor = lsm::apparmor_default().map_or(Confinement::None, Confinement::Named);
        }
        let (uid_mappings, gid_mappings) = self.id_mappings(container)?;
        let mut mounts = prepared.mounts.clone();
        if wish.init {
            mounts.push(self.init_mount()?);
        }
        let rlimits = wish
            .ulimits
            .iter()
            .map(|limit| PosixRlimit {
                kind: format!("RLIMIT_{}", limit.name.to_ascii_uppercase()),
                soft: u64::try_from(limit.soft).unwrap_or(u64::MAX),
                hard: u64::try_from(limit.hard).unwrap_or(u64::MAX),
            })
            .collect();
        let own_users = crate::roots::rootless().is_some() || !uid_mappings.is_empty();
        let made = conversion::Wish {
            rootfs: prepared.rootfs.clone(),
            read_only: wish.read_only,
            args,
            env,
            cwd: cwd.cloned().unwrap_or_default(),
            user: account.user,
            tty: wish.tty,
            hostname: host_name,
            domainname: wish.domainname.clone(),
            privileged: wish.privileged,
            cap_add: wish.cap_add.clone(),
            cap_drop: wish.cap_drop.clone(),
            seccomp: security.seccomp,
            no_new_privileges: security.no_new_privileges,
            apparmor: match security.apparmor {
                Confinement::Named(profile) => Some(profile),
                Confinement::Default | Confinement::None => None,
            },
            selinux_label: security.selinux_label,
            mount_label: None,
            unmask: security.unmask,
            mask: security.mask,
            network: match &prepared.netns {
                Some(path) => Namespace::Path(path.clone()),
                None => Namespace::Host,
            },
            pid: self.namespace(container, "pid", &wish.pid)?,
            ipc: self.namespace(container, "ipc", &wish.ipc)?,
            uts,
            cgroup: match wish.cgroupns.as_str() {
                "host" => Namespace::Host,
                "private" => Namespace::Private,
                // docker's default on cgroup v1 is the host's, where the other cannot be mounted read-only.
                "" if wish.privileged => Namespace::Host,
                "" => Namespace::Private,
                other => return Err(EngineError::Invalid(format!("--cgroupns {other:?}: use private or host"))),
            },
            uid_mappings,
            gid_mappings,
            mounts,
            devices,
            device_rules,
            resources: resources(&wish.resources)?,
            nano_cpus: wish.resources.nano_cpus,
            rlimits,
            sysctl: wish.sysctls.clone(),
            shm_size: wish.shm_size,
            oom_score_adj: wish.oom_score_adj,
            // Whose cgroups cannot be told without root's rights: the runtime looks for one that the user may use.
            cgroups_path: match crate::roots::rootless() {
                Some(_) if wish.cgroup_parent.is_empty() => String::new(),
                _ => self.cgroup_of(&container.record),
            },
            annotations: wish.annotations.clone(),
            kernel: kernel(),
        };
        let mut spec = conversion::spec(&made)?;
        if wish.privileged || wish.cap_add.iter().any(|name| name.eq_ignore_ascii_case("all")) {
            // "All" is all that this process may hand on; a name that was given and cannot be had is refused by the runtime.
            let capabilities = spec.process.as_mut().and_then(|process| process.capabilities.as_mut());
            capabilities.into_iter().for_each(within_bound);
        }
        if let Some(linux) = spec.linux.as_mut().filter(|_| own_users) {
            // Set when the network namespace was made.
            let given = |name: &String| wish.sysctls.contains_key(name);
            linux.sysctl.retain(|name, _| given(name) || !crate::host::netns::DEFAULTS.contains(&name.as_str()));
        }
        self.shared_memory(container, &mut spec)?;
        Ok(spec)
    }

    /// `--ipc`: whose `/dev/shm` the container sees. A shareable one is a mount of the host that others can bind.
    fn shared_memory(&self, container: &Container, spec: &mut Spec) -> Result<(), EngineError> {
        let wish = &container.record.wish;
        let source = match wish.ipc.as_str() {
            "" | "private" | "host" => return Ok(()),
            "none" => {
                spec.mounts.retain(|mount| mount.destination != "/dev/shm");
                return Ok(());
            }
            "shareable" => {
                let folder = container.run.join("shm");
                fs::create_dir_all(&folder).map_err(EngineError::io(format!("make {}", folder.display())))?;
                let size = if wish.shm_size == 0 { conversion::DEFAULT_SHM_BYTES } else { wish.shm_size };
                let flags =
                    nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC;
                let options = format!("mode=1777,size={size}");
                nix::mount::mount(Some("shm"), &folder, Some("tmpfs"), flags, Some(options.as_str()))
                    .map_err(std::io::Error::from)
                    .map_err(EngineError::io(format!("mount shared memory at {}", folder.display())))?;
                folder
            }
            other => {
                let target = self.find(other.strip_prefix("container:").unwrap_or(other))?;
                match target.record.wish.ipc.as_str() {
                    "host" => Path::new("/dev/shm").to_owned(),
                    "shareable" => target.run.join("shm"),
                    _ => {
                        return Err(target.state_error("keeps its IPC to itself: start it with --ipc shareable"));
                    }
                }
            }
        };
        if wish.mounts.iter().any(|mount| mount.target == "/dev/shm") {
            return Ok(());
        }
        spec.mounts.retain(|mount| mount.destination != "/dev/shm");
        spec.mounts.push(Mount {
            destination: "/dev/shm".to_owned(),
            kind: Some("bind".to_owned()),
            source: Some(source.to_string_lossy().into_owned()),
            options: ["bind", "rprivate", "nosuid", "nodev", "noexec"].map(str::to_owned).to_vec(),
            ..Mount::default()
        });
        Ok(())
    }

    /// The container's cgroup.
    pub(crate) fn cgroup_of(&self, record: &Record) -> String {
        let parent = &record.wish.cgroup_parent;
        if parent.is_empty() {
            format!("{}/{}", self.roots.cgroup(), record.id)
        } else {
            format!("/{}/shoal-{}", parent.trim_matches('/'), record.id)
        }
    }

    /// Another container's namespace is held by a mount of this one's own: a path with a process number would be some other process's
    /// once that container has ended.
    fn namespace(&self, container: &Container, kind: &str, text: &str) -> Result<Namespace, EngineError> {
        match text {
            "" | "private" | "shareable" | "none" => Ok(Namespace::Private),
            "host" => Ok(Namespace::Host),
            other => match other.strip_prefix("container:") {
                Some(name) => {
                    let target = self.find(name)?;
                    let file = container.run.join(format!("ns-{kind}"));
                    let hold = || EngineError::io(format!("hold the {kind} namespace of {}", target.name()));
                    if !target.state.status.is_active()
                        || !netns::pin_of(target.state.process, kind, &file).map_err(hold())?
                    {
                        return Err(target.state_error("is not running: its namespaces cannot be joined"));
                    }
                    Ok(Namespace::Path(file.to_string_lossy().into_owned()))
                }
                None => Err(EngineError::Invalid(format!("--{kind} {other:?}: use host or container:NAME"))),
            },
        }
    }

    /// The host's name is kept with `--network host`, another container's with its network.
    fn uts(&self, container: &Container, mode: &Mode) -> Result<Namespace, EngineError> {
        let wish = &container.record.wish;
        match (wish.uts.as_str(), mode) {
            ("host", _) if !wish.hostname.is_empty() => {
                Err(EngineError::Invalid("-h and --uts host exclude each other".to_owned()))
            }
            ("host", _) => Ok(Namespace::Host),
            ("" | "private", Mode::Host) if wish.hostname.is_empty() => {
                Ok(if wish.privileged { Namespace::Host } else { Namespace::Private })
            }
            ("" | "private", Mode::Container(name)) => self.namespace(container, "uts", &format!("container:{name}")),
            ("" | "private", _) => Ok(Namespace::Private),
            (other, _) => Err(EngineError::Invalid(format!("--uts {other:?}: use host or private"))),
        }
    }

    fn init_mount(&self) -> Result<Mount, EngineError> {
        Ok(Mount {
            destination: INIT.to_owned(),
            kind: Some("bind".to_owned()),
            source: Some(self.monitor()?.to_string_lossy().into_owned()),
            options: vec!["bind".to_owned(), "ro".to_owned(), "nosuid".to_owned(), "nodev".to_owned()],
            ..Mount::default()
        })
    }

    /// The exit code of a start that failed for the program's sake, when the runtime did not say: looked up in the root.
    pub(super) fn start_code(&self, spec: &Spec) -> u8 {
        let (Some(process), Some(root)) = (&spec.process, &spec.root) else { return 125 };
        let Ok(rootfs) = Rootfs::open(Path::new(&root.path)) else { return 125 };
        let path = process.env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
        let program = process.args.first().map_or("", String::as_str);
        match rootfs.program(program, &process.cwd, path.unwrap_or_else(|| &conversion::DEFAULT_PATH[5..])) {
            Program::Executable => 125,
            Program::NotExecutable => 126,
            Program::Missing => 127,
        }
    }

    /// `--userns`: none, all of root's subordinate range, or the caller's own id kept.
    pub(super) fn id_mappings(
        &self,
        container: &Container,
    ) -> Result<(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>), EngineError> {
        let wish = &container.record.wish;
        let one = |container_id, host_id, size| LinuxIdMapping { container_id, host_id, size };
        let (mode, options) = wish.userns.split_once(':').unwrap_or((&wish.userns, ""));
        match mode {
            "" | "host" => Ok((Vec::new(), Vec::new())),
            "keep-id" => {
                let Some(user) = crate::roots::rootless() else {
                    return Err(EngineError::Invalid("--userns keep-id is for users other than root".to_owned()));
                };
                // Outside, which is the user's own namespace, the user is 0 and the subordinate ids follow.
                let keep = |id: u32, known: u32| {
                    let below = id.min(known - 1);
                    let above = known - 1 - below;
                    let ranges = [one(0, 1, below), one(id, 0, 1), one(id + 1, below + 1, above)];
                    ranges.into_iter().filter(|range| range.size > 0).collect::<Vec<_>>()
                };
                let group = keep_group(user);
                Ok((keep(user, ids_known("uid_map")), keep(group, ids_known("gid_map"))))
            }
            "auto" if crate::roots::rootless().is_some() => Err(EngineError::Invalid(
                "--userns auto needs root: without it there are keep-id and host, in a namespace of this user's"
                    .to_owned(),
            )),
            "auto" => {
                let size = match options.strip_prefix("size=") {
                    Some(text) => {
                        text.parse().map_err(|_| EngineError::Invalid(format!("--userns {}: size=N", wish.userns)))?
                    }
                    None if options.is_empty() => 65_536,
                    None => return Err(EngineError::Invalid(format!("--userns {}: size=N", wish.userns))),
                };
                if size == 0 || size > IDS {
                    return Err(EngineError::Invalid(format!("--userns {}: size is from 1 to {IDS}", wish.userns)));
                }
                let start = IDS_FIRST + self.claim_ids(container)? * IDS;
                Ok((vec![one(0, start, size)], vec![one(0, start, size)]))
            }
            other => Err(EngineError::Invalid(format!("--userns {other:?}: use host, auto or keep-id"))),
        }
    }

    /// Takes a range of ids for a container, the same at every start: a file `data/userns/SLOT`, made with O_EXCL, names it.
    fn claim_ids(&self, container: &Container) -> Result<u32, EngineError> {
        let folder = self.roots.data.join("userns");
        let step = || format!("claim a range of user ids below {}", folder.display());
        let own = container.data.join("userns");
        if let Some(slot) = fs::read_to_string(&own).ok().and_then(|text| text.trim().parse().ok()) {
            return Ok(slot);
        }
        fs::create_dir_all(&folder).map_err(EngineError::io(step()))?;
        let first = container.id().bytes().fold(5_381_u32, |sum, byte| sum.wrapping_mul(33) ^ u32::from(byte));
        for turn in 0..IDS_SLOTS {
            let slot = first.wrapping_add(turn) % IDS_SLOTS;
            let path = folder.join(slot.to_string());
            match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(mut file) => {
                    std::io::Write::write_all(&mut file, container.id().as_bytes()).map_err(EngineError::io(step()))?;
                    fs::write(&own, slot.to_string()).map_err(EngineError::io(step()))?;
                    return Ok(slot);
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(EngineError::io(step())(error)),
            }
        }
        Err(EngineError::Invalid(format!(
            "--userns auto: all {IDS_SLOTS} ranges are taken; remove containers that use it"
        )))
    }

    /// The host's number of the container's user 0: the begin of its range with `--userns auto`.
    pub(super) fn first_id(&self, container: &Container) -> u32 {
        let slot = fs::read_to_string(container.data.join("userns")).ok();
        let slot: Option<u32> = slot.and_then(|text| text.trim().parse().ok());
        slot.map_or(0, |slot| IDS_FIRST + slot % IDS_SLOTS * IDS)
    }

    /// The host's number to which mounts map the owner 0 of a container's files; 0 where nothing is mapped by mounts.
    pub(super) fn mapped_from(&self, container: &Container) -> u32 {
        if crate::roots::rootless().is_some() || self.is_shifted(container) { 0 } else { self.first_id(container) }
    }

    /// Gives a removed container's range of ids back.
    pub(super) fn release_ids(&self, container: &Container) {
        if let Ok(slot) = fs::read_to_string(container.data.join("userns")) {
            // A claim that stays only makes one range of thousands unusable.
            fs::remove_file(self.roots.data.join("userns").join(slot.trim())).ok();
        }
    }
}

/// Takes away what this process's own bounding set lacks.
pub(super) fn within_bound(capabilities: &mut oci::spec::LinuxCapabilities) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bound = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let Some(bound) = bound.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()) else { return };
    let held = |name: &String| {
        capability::ALL.iter().position(|known| known == name).is_none_or(|number| bound & (1 << number) != 0)
    };
    for list in [
        &mut capabilities.bounding,
        &mut capabilities.effective,
        &mut capabilities.permitted,
        &mut capabilities.inheritable,
        &mut capabilities.ambient,
    ] {
        list.retain(held);
    }
}

/// How many ids this process's namespace has, of the map `uid_map` or `gid_map`; one at least.
pub(super) fn ids_known(map: &str) -> u32 {
    let text = fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_default();
    let sizes = text.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u32>().ok());
    sizes.fold(0, u32::saturating_add).max(1)
}

/// The group of a user of the host: the one that is root's in this namespace, as its map says.
fn keep_group(user: u32) -> u32 {
    let text = fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(user)
}

fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).filter_map(|text| text.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Which AppArmor profile confines the container.
#[derive(Debug, Default, PartialEq, Eq)]
enum Confinement {
    /// The one that this host has for containers.
    #[default]
    Default,
    None,
    Named(String),
}

/// `--security-opt`, read.
#[derive(Debug, Default)]
struct Security {
    seccomp: Seccomp,
    no_new_privileges: bool,
    apparmor: Confinement,
    selinux_label: Option<String>,
    unmask: Vec<String>,
    mask: Vec<String>,
}

impl Security {
    fn parse(wish: &Wish) -> Result<Self, EngineError> {
        let mut security = Self::default();
        for text in &wish.security_opt {
            let (key, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
            let paths = || value.split(':').map(str::to_owned);
            match (key, value) {
                ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
                ("no-new-privileges", "false") => security.no_new_privileges = false,
                ("seccomp", "unconfined") => security.seccomp = Seccomp::Unconfined,
                ("seccomp", "builtin" | "default") => security.seccomp = Seccomp::Default,
                ("seccomp", _) => {
                    let profile = wish.seccomp_profile.as_deref().unwrap_or_default();
                    security.seccomp = Seccomp::Profile(seccomp_profile(profile, wish)?);
                }
                ("apparmor", "unconfined") => security.apparmor = Confinement::None,
                ("apparmor", profile) if lsm::has_apparmor() => {
                    security.apparmor = Confinement::Named(profile.to_owned());
                }
                ("apparmor", _) => {
                    return Err(EngineError::Invalid(format!("--security-opt {text}: this host has no AppArmor")));
                }
                ("label", "disable") => security.selinux_label = None,
                ("label", part) if lsm::has_selinux() => {
                    let label = security.selinux_label.take();
                    security.selinux_label = Some(
                        lsm::label(label.as_deref(), part)
                            .map_err(|error| EngineError::Invalid(format!("--security-opt {text}: {error}")))?,
                    );
                }
                ("label", _) => {
                    return Err(EngineError::Invalid(format!("--security-opt {text}: this host has no SELinux")));
                }
                ("systempaths", "unconfined") => security.unmask.push("ALL".to_owned()),
                ("unmask", _) => security.unmask.extend(paths()),
                ("mask", _) => security.mask.extend(paths()),
                _ => {
                    return Err(EngineError::Invalid(format!(
                        "--security-opt {text:?}: use seccomp=, apparmor=, label=, no-new-privileges, systempaths=, mask= or unmask="
                    )));
                }
            }
        }
        Ok(security)
    }
}

/// Reads a profile as docker's file format writes it: `archMap`, conditions by `includes` and `excludes`.
fn seccomp_profile(text: &str, wish: &Wish) -> Result<LinuxSeccomp, EngineError> {
    let invalid = |error: &dyn std::fmt::Display| EngineError::Invalid(format!("--security-opt seccomp: {error}"));
    let mut value: serde_json::Value = serde_json::from_str(text).map_err(|error| invalid(&error))?;
    if let Some(map) = value.get("archMap").and_then(|map| map.as_array()).cloned() {
        let own = match std::env::consts::ARCH {
            "x86_64" => "SCMP_ARCH_X86_64",
            "aarch64" => "SCMP_ARCH_AARCH64",
            _ => "",
        };
        let entry = map.iter().find(|entry| entry["architecture"] == own);
        let mut all: Vec<serde_json::Value> = vec![own.into()];
        all.extend(entry.and_then(|entry| entry["subArchitectures"].as_array()).into_iter().flatten().cloned());
        value["architectures"] = all.into();
    }
    if let Some(rules) = value.get_mut("syscalls").and_then(|rules| rules.as_array_mut()) {
        let held = capability::effective(wish.privileged, &wish.cap_add, &wish.cap_drop)?;
        rules.retain(|rule| applies(rule, &held, kernel()));
        for rule in rules {
            if let Some(name) = rule.get("name").cloned() {
                rule["names"] = vec![name].into();
            }
        }
    }
    serde_json::from_value(value).map_err(|error| invalid(&error))
}

/// Whether a rule of docker's format is meant for this architecture, these capabilities and this kernel.
fn applies(rule: &serde_json::Value, held: &[String], kernel: (u32, u32)) -> bool {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    };
    let texts = |part: &str, key: &str| -> Vec<String> {
        let list = rule.get(part).and_then(|part| part.get(key)).and_then(|list| list.as_array());
        list.into_iter().flatten().filter_map(|text| text.as_str()).map(str::to_owned).collect()
    };
    let new_enough = |part: &str| {
        let text = rule.get(part).and_then(|part| part.get("minKernel")).and_then(|text| text.as_str());
        text.map(|text| {
            let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
            kernel >= (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
        })
    };
    let here = |list: &[String]| list.iter().any(|name| name == architecture);
    let (wanted, refused) = (texts("includes", "arches"), texts("excludes", "arches"));
    (wanted.is_empty() || here(&wanted))
        && !here(&refused)
        && texts("includes", "caps").iter().all(|name| held.contains(name))
        && !texts("excludes", "caps").iter().any(|name| held.contains(name))
        && new_enough("includes") != Some(false)
        && new_enough("excludes") != Some(true)
}

/// Offers a device, or every device below a directory.
fn add_device(
    device: &Device,
    devices: &mut Vec<LinuxDevice>,
    rules: &mut Vec<LinuxDeviceCgroup>,
) -> Result<(), EngineError> {
    let whole = Path::new(&device.host);
    let meta =
        fs::metadata(whole).map_err(|error| EngineError::Invalid(format!("--device {}: {error}", device.host)))?;
    if meta.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(whole)
            .map_err(EngineError::io(format!("read {}", device.host)))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        entries.sort();
        for path in entries {
            let skip = ["pts", "shm", "mqueue", "console", "fd", "stdin", "stdout", "stderr", "ptmx"];
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            // Links would be followed out of the directory; sockets and files are not devices.
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            let kind = meta.file_type();
            if skip.contains(&name) || !(kind.is_dir() || kind.is_char_device() || kind.is_block_device()) {
                continue;
            }
            if devices.len() >= DEVICES_MAX {
                return Err(EngineError::Invalid(format!("--device {}: more than {DEVICES_MAX} devices", device.host)));
            }
            let container = format!("{}/{name}", device.container.trim_end_matches('/'));
            add_device(
                &Device { host: path.to_string_lossy().into_owned(), container, access: device.access.clone() },
                devices,
                rules,
            )?;
        }
        return Ok(());
    }
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return Err(EngineError::Invalid(format!("--device {}: not a device", device.host))),
    };
    let (major, minor) = (i64::from(libc::major(meta.rdev())), i64::from(libc::minor(meta.rdev())));
    devices.push(LinuxDevice {
        path: device.container.clone(),
        kind: kind.to_owned(),
        major: Some(major),
        minor: Some(minor),
        file_mode: Some(meta.mode() & 0o7777),
        uid: Some(meta.uid()),
        gid: Some(meta.gid()),
    });
    rules.push(LinuxDeviceCgroup {
        allow: true,
        kind: Some(kind.to_owned()),
        major: Some(major),
        minor: Some(minor),
        access: Some(device.access.clone()),
    });
    Ok(())
}

/// `--device-cgroup-rule 'c 1:3 rwm'`.
fn device_rule(text: &str) -> Result<LinuxDeviceCgroup, EngineError> {
    let refuse =
        || EngineError::Invalid(format!("--device-cgroup-rule {text:?}: TYPE MAJOR:MINOR ACCESS, as in 'c 1:* rwm'"));
    let words: Vec<&str> = text.split_whitespace().collect();
    let [kind @ ("a" | "b" | "c"), numbers, access] = words[..] else { return Err(refuse()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(refuse)?;
    let number = |text: &str| if text == "*" { Ok(None) } else { text.parse().map(Some).map_err(|_| refuse()) };
    if access.is_empty() || !access.bytes().all(|byte| b"rwm".contains(&byte)) {
        return Err(refuse());
    }
    Ok(LinuxDeviceCgroup {
        allow: true,
        kind: Some(kind.to_owned()),
        major: number(major)?,
        minor: number(minor)?,
        access: Some(access.to_owned()),
    })
}

/// The cgroup's part of the document.
pub(super) fn resources(wish: &Resources) -> Result<LinuxResources, EngineError> {
    let memory = LinuxMemory {
        limit: wish.memory,
        reservation: wish.memory_reservation,
        // docker: as much swap as memory when only memory is limited.
        swap: wish
            .memory_swap
            .or_else(|| wish.memory.filter(|memory| *memory > 0).map(|memory| memory.saturating_mul(2))),
        swappiness: wish.memory_swappiness,
        disable_oom_killer: wish.oom_kill_disable.then_some(true),
        ..LinuxMemory::default()
    };
    let cpu = LinuxCpu {
        shares: wish.cpu_shares,
        quota: wish.cpu_quota,
        period: wish.cpu_period,
        cpus: (!wish.cpuset_cpus.is_empty()).then(|| wish.cpuset_cpus.clone()),
        mems: (!wish.cpuset_mems.is_empty()).then(|| wish.cpuset_mems.clone()),
        ..LinuxCpu::default()
    };
    let rates = |rates: &[DeviceRate]| rates.iter().map(rate).collect::<Result<Vec<_>, _>>();
    let block_io = LinuxBlockIo {
        weight: wish.blkio_weight,
        throttle_read_bps_device: rates(&wish.read_bps)?,
        throttle_write_bps_device: rates(&wish.write_bps)?,
        throttle_read_iops_device: rates(&wish.read_iops)?,
        throttle_write_iops_device: rates(&wish.write_iops)?,
        ..LinuxBlockIo::default()
    };
    Ok(LinuxResources {
        memory: (memory != LinuxMemory::default()).then_some(memory),
        cpu: (cpu != LinuxCpu::default()).then_some(cpu),
        pids: wish.pids.map(|limit| LinuxPids { limit: Some(if limit <= 0 { -1 } else { limit }) }),
        block_io: (block_io != LinuxBlockIo::default()).then_some(block_io),
        ..LinuxResources::default()
    })
}

fn rate(rate: &DeviceRate) -> Result<LinuxThrottleDevice, EngineError> {
    let meta = fs::metadata(&rate.path).map_err(|error| EngineError::Invalid(format!("{}: {error}", rate.path)))?;
    if !meta.file_type().is_block_device() {
        return Err(EngineError::Invalid(format!("{}: not a block device", rate.path)));
    }
    Ok(LinuxThrottleDevice {
        major: i64::from(libc::major(meta.rdev())),
        minor: i64::from(libc::minor(meta.rdev())),
        rate: rate.rate,
    })
}
