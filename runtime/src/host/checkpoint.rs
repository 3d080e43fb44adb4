//! `checkpoint` and `restore`: what CRIU must know about a container, and what becomes of it afterwards.
//!
//! Bind mounts, joined namespaces and pipes of the standard streams are external to a checkpoint and are named to CRIU
//! on both ways; the streams' names are kept beside its images in `descriptors.json`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci::ContainerId;
use oci::spec::{Spec, Status};

use super::criu::{self, Kind, Message};
use super::launch::{self, Prepared, Request, read_config};
use super::stage::parent::Born;
use super::state::{self, Directory, Record, Root};
use super::sys::clone::{pidfd_open, unshare};
use super::sys::mount::{self, Attr};
use super::{console, delete, descriptors};
use crate::error::{During, Error, Result};
use crate::plan::mounts::{self, Source};
use crate::plan::namespaces::{Kind as Namespace, Namespaces};

/// Options of both commands, as runc has them.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--image-path`.
    pub image_path: PathBuf,
    /// `--work-path`.
    pub work_path: Option<PathBuf>,
    /// `--parent-path`, relative to the images.
    pub parent_path: Option<String>,
    /// `--leave-running`.
    pub leave_running: bool,
    /// `--tcp-established`.
    pub tcp_established: bool,
    /// `--tcp-skip-in-flight`.
    pub tcp_skip_in_flight: bool,
    /// `--ext-unix-sk`.
    pub ext_unix_sk: bool,
    /// `--shell-job`.
    pub shell_job: bool,
    /// `--file-locks`.
    pub file_locks: bool,
    /// `--lazy-pages`.
    pub lazy_pages: bool,
    /// `--status-fd`.
    pub status_fd: Option<RawFd>,
    /// `--page-server`: address and port.
    pub page_server: Option<(String, u16)>,
    /// `--pre-dump`.
    pub pre_dump: bool,
    /// `--manage-cgroups-mode`.
    pub cgroups: CgroupMode,
    /// `--empty-ns network`.
    pub empty_network: bool,
    /// `--auto-dedup`.
    pub auto_dedup: bool,
    /// `--link-remap`.
    pub link_remap: bool,
    /// `--lsm-profile`, `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// `--lsm-mount-context`.
    pub lsm_mount_context: Option<String>,
}

/// What CRIU does with cgroups (`criu_cg_mode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupMode {
    /// Nothing.
    Ignore = 0,
    /// Restores their properties where it made them.
    #[default]
    Soft = 3,
    /// Restores all properties.
    Full = 4,
    /// Insists that all are as they were.
    Strict = 5,
}

const LOG_LEVEL: i64 = 4;
const DUMP_LOG: &str = "dump.log";
const RESTORE_LOG: &str = "restore.log";

/// Joined namespaces that CRIU can leave to us, and what they are called in images.
const EXTERNAL: [(Namespace, &str); 2] = [(Namespace::Network, "extRootNetNS"), (Namespace::Pid, "extRootPidNS")];

fn directory(path: &Path, make: bool) -> Result<OwnedFd> {
    if make {
        std::fs::create_dir_all(path).during(|| format!("make {}", path.display()))?;
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty()).during(|| format!("open {}", path.display()))
}

impl Options {
    /// The options both ways have in common.
    fn message(&self, log: &str, images: &OwnedFd, work: &OwnedFd) -> Message {
        let mut options = Message::default();
        options
            .number(1, images.as_raw_fd().into())
            .flag(4, self.ext_unix_sk)
            .flag(5, self.tcp_established)
            .flag(7, self.shell_job)
            .flag(8, self.file_locks)
            .number(9, LOG_LEVEL)
            .text(10, log)
            .flag(12, true)
            .flag(16, self.auto_dedup)
            .number(17, work.as_raw_fd().into())
            .flag(18, self.link_remap)
            .flag(24, true)
            .number(34, self.cgroups as i64)
            .flag(46, self.tcp_skip_in_flight)
            .flag(48, self.lazy_pages)
            .flag(50, true);
        if self.empty_network {
            options.number(38, Namespace::Network.flag().cast_signed());
        }
        if let Some(fd) = self.status_fd {
            options.number(49, fd.into());
        }
        if let Some((address, port)) = &self.page_server {
            let mut server = Message::default();
            server.text(1, address).number(2, i64::from(*port));
            options.message(11, &server);
        }
        for (field, text) in [(14, &self.parent_path), (53, &self.lsm_profile), (63, &self.lsm_mount_context)] {
            if let Some(text) = text {
                options.text(field, text);
            }
        }
        options
    }

    /// Where CRIU's work shows; with lazy pages it waits for who asks for them.
    fn watched(&self) -> Option<&Path> {
        (!self.lazy_pages).then_some(&*self.image_path)
    }

    fn work_path(&self) -> &Path {
        self.work_path.as_deref().unwrap_or(&self.image_path)
    }
}

fn external_mount(options: &mut Message, inside: &str, outside: &str) {
    let mut pair = Message::default();
    pair.text(1, inside).text(2, outside);
    options.message(23, &pair);
}

/// Writes a checkpoint of a running container, which is gone afterwards unless it is to go on.
pub fn checkpoint(root: &Root, id: &ContainerId, options: &Options) -> Result<Vec<Error>> {
    let lock = root.open(id)?;
    let record = lock.record()?;
    match state::status(root, &record) {
        Status::Running | Status::Paused => {}
        status => {
            let reason = format!("Container cannot be checkpointed in {} state", status.as_str());
            return Err(Error::state(reason));
        }
    }
    let spec = read_config(&lock.config()?)?;
    let images = directory(&options.image_path, true)?;
    let work = directory(options.work_path(), true)?;
    let mut message = options.message(DUMP_LOG, &images, &work);
    message
        .number(2, record.pid.into())
        .flag(3, options.leave_running || options.pre_dump)
        .text(13, &record.rootfs)
        .flag(15, options.pre_dump || options.parent_path.is_some());
    for mount in spec.mounts.iter().filter(|mount| is_bind(mount)) {
        let destination = mounts::clean(&mount.destination);
        external_mount(&mut message, &destination, &destination);
    }
    let linux = spec.linux.clone().unwrap_or_default();
    for path in &linux.masked_paths {
        let seen = std::fs::metadata(format!("/proc/{}/root{path}", record.pid));
        if seen.is_ok_and(|seen| !seen.is_dir()) {
            external_mount(&mut message, path, "/dev/null");
        }
    }
    for (kind, name, path) in external_namespaces(&Namespaces::accept(&linux)?) {
        let found = std::fs::metadata(&path).during(|| format!("examine {path}"))?;
        let inode = std::os::unix::fs::MetadataExt::ino(&found);
        message.text(37, &format!("{}[{inode}]:{name}", kind.proc_name()));
    }
    if !options.pre_dump {
        let streams: Vec<String> = (0..3).map(|number| stream(record.pid, number)).collect();
        descriptors::save(images.as_fd(), &streams)?;
    }
    let kind = if options.pre_dump { Kind::PreDump } else { Kind::Dump };
    let inherit: Vec<RawFd> = [images.as_raw_fd(), work.as_raw_fd()].into_iter().chain(options.status_fd).collect();
    criu::ask(kind, &message, &inherit, &options.work_path().join(DUMP_LOG), options.watched(), |_, _| Ok(()))?;
    if options.leave_running || options.pre_dump {
        return Ok(Vec::new());
    }
    delete::destroy(lock, &record)
}

fn is_bind(mount: &oci::spec::Mount) -> bool {
    mount.kind.as_deref() == Some("bind") || mount.options.iter().any(|word| word == "bind" || word == "rbind")
}

fn external_namespaces(namespaces: &Namespaces) -> Vec<(Namespace, &'static str, String)> {
    let external = |(kind, path): &(Namespace, String)| {
        let (_, name) = EXTERNAL.iter().find(|row| row.0 == *kind)?;
        Some((*kind, *name, path.clone()))
    };
    namespaces.join.iter().filter_map(external).collect()
}

/// What a standard stream of a process is.
fn stream(pid: i32, number: u32) -> String {
    let link = std::fs::read_link(format!("/proc/{pid}/fd/{number}"));
    link.map(|path| path.display().to_string()).unwrap_or_default()
}

/// A restored container.
#[derive(Debug)]
pub struct Restored {
    /// Its locked directory.
    pub directory: Directory,
    /// Its record.
    pub record: Record,
    /// Its first process, a child of this one.
    pub born: Born,
    /// What had to be left out.
    pub warnings: Vec<String>,
}

/// Makes a container from a checkpoint.
pub fn restore(
    request: &Request,
    prepared: &Prepared,
    terminal: Option<OwnedFd>,
    options: &Options,
) -> Result<Restored> {
    let console = launch::console_for(prepared.plan.process.terminal, request.console_socket.as_deref(), terminal)?;
    let mut record = launch::record_of(prepared);
    // Before the folders are opened: CRIU works in one of them and mounts there, which it may only in its own namespace.
    stand_on_mount(Path::new(&record.rootfs))?;
    let images = directory(&options.image_path, false)?;
    let work = directory(options.work_path(), true)?;
    let directory = request.root.create(&request.id)?;
    let mut warnings = Vec::new();
    let made = rebuild(prepared, console, options, [&images, &work], &directory, &mut record, &mut warnings);
    let made = made.and_then(|born| {
        if let Some(path) = &request.pid_file {
            launch::write_pid_file(path, born.pid)?;
        }
        Ok(born)
    });
    match made {
        Ok(born) => Ok(Restored { directory, record, born, warnings }),
        Err(error) => {
            // What fails while cleaning up is left for `delete --force`; the first error is what the caller needs.
            let _ = delete::take_back(directory, &record);
            Err(error)
        }
    }
}

fn rebuild(
    prepared: &Prepared,
    console: Option<OwnedFd>,
    options: &Options,
    [images, work]: [&OwnedFd; 2],
    directory: &Directory,
    record: &mut Record,
    warnings: &mut Vec<String>,
) -> Result<Born> {
    let spec = &prepared.container.spec;
    directory.save_config(&prepared.config)?;
    let mut cgroup = prepared.cgroup.clone();
    record.cgroup = Some(cgroup.planned_state());
    directory.save(record)?;
    if let Err(refused) = cgroup.create() {
        record.cgroup = None;
        return Err(refused.into());
    }
    record.cgroup = Some(cgroup.state());
    directory.save(record)?;
    let mut message = options.message(RESTORE_LOG, images, work);
    message.text(13, &record.rootfs).flag(26, true);
    for home in cgroup.homes() {
        let mut place = Message::default();
        let names = home.controllers.join(",");
        if !names.is_empty() {
            place.text(1, &names);
        }
        let inside = home.dir.strip_prefix(&home.mount).unwrap_or(&home.dir);
        place.text(2, &format!("/{}", inside.display()));
        message.message(25, &place);
    }
    let mut inherit: Vec<RawFd> = [images.as_raw_fd(), work.as_raw_fd()].into_iter().chain(options.status_fd).collect();
    external_sources(prepared, spec, &mut message);
    let mut kept = Vec::new();
    for (_, name, path) in external_namespaces(&prepared.container.namespaces) {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path.as_str(), flags, Mode::empty()).during(|| format!("open {path}"))?;
        inherit_as(&mut message, name, fd.as_raw_fd());
        inherit.push(fd.as_raw_fd());
        kept.push(fd);
    }
    let streams = descriptors::load(images.as_fd());
    for (number, stream) in (0..3).zip(&streams).filter(|(_, stream)| stream.starts_with("pipe:")) {
        inherit_as(&mut message, stream, number);
    }
    let log = options.work_path().join(RESTORE_LOG);
    let answer =
        criu::ask(Kind::Restore, &message, &inherit, &log, options.watched(), |heard, fd| match (&console, fd) {
            (Some(socket), Some(master)) if heard.notification == "orphan-pts-master" => {
                console::send(socket.as_fd(), &master)
            }
            _ => Ok(()),
        })?;
    record.pid = answer.pid;
    record.start_time = state::stat(answer.pid).map_or(0, |(_, start)| start);
    let pidfd = pidfd_open(answer.pid).during(|| "open the restored process")?;
    directory.save(record)?;
    let resources = spec.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
    warnings.extend(cgroup.apply(&resources)?);
    Ok(Born { pid: answer.pid, pidfd })
}

fn external_sources(prepared: &Prepared, spec: &Spec, message: &mut Message) {
    for step in &prepared.plan.steps {
        let crate::plan::Step::Mount(mount) = step else { continue };
        if let Source::Bind { path, .. } = &mount.source {
            external_mount(message, &mounts::clean(&mount.destination), path);
        }
    }
    // Masked files carry this name in the checkpoint.
    if spec.linux.iter().any(|linux| !linux.masked_paths.is_empty()) {
        external_mount(message, "/dev/null", "/dev/null");
    }
}

fn inherit_as(options: &mut Message, name: &str, fd: RawFd) {
    let mut pair = Message::default();
    pair.text(1, name).number(2, fd.into());
    options.message(27, &pair);
}

/// CRIU wants the root to be a mount point: made one in a mount namespace of this process, which ends with it.
fn stand_on_mount(rootfs: &Path) -> Result<()> {
    let operation = || format!("bind mount {} on itself", rootfs.display());
    unshare(Namespace::Mount.flag()).during(operation)?;
    let slave = Attr { propagation: libc::MS_SLAVE, ..Attr::default() };
    mount::setattr_path(b"/", slave, true).during(operation)?;
    let none: Option<&str> = None;
    let flags = nix::mount::MsFlags::MS_BIND | nix::mount::MsFlags::MS_REC;
    nix::mount::mount(Some(rootfs), rootfs, none, flags, none).during(operation)
}
