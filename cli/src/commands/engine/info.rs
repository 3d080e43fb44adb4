//! `info` and `version`.

use super::{explain, open};
use crate::commands::Global;
use crate::error::Error;
use crate::output::template::Template;
use engine::record::Status;
use serde_json::{Value, json};
use std::fs;
use std::process::ExitCode;

/// Show what this engine is and runs on
#[derive(Debug, clap::Args)]
pub(crate) struct InfoArgs {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Show the version
#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

pub(crate) fn version(args: &VersionArgs) -> Result<ExitCode, Error> {
    let version = env!("CARGO_PKG_VERSION");
    let kernel = read("/proc/sys/kernel/osrelease");
    let arch = oci::platform::Platform::host().architecture;
    let one = json!({"Version": version, "Os": "linux", "Arch": arch, "KernelVersion": kernel});
    let value = json!({"Client": one, "Server": one});
    show(&value, args.format.as_deref(), || {
        format!("shoal version {version}\nOS/Arch:  linux/{arch}\nKernel:   {kernel}\n")
    })
}

pub(crate) fn info(global: &Global, args: &InfoArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let (containers, _) = engine.all().map_err(explain)?;
    let count =
        |wanted: &[Status]| containers.iter().filter(|container| wanted.contains(&container.state.status)).count();
    let images = engine.images().map_err(explain)?.images()?.len();
    let cgroup = if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "2" } else { "1" };
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("Linux")
        .trim_matches('"')
        .to_owned();
    let roots = engine.roots();
    let value = json!({
        "Containers": containers.len(),
        "ContainersRunning": count(&[Status::Running, Status::Restarting]),
        "ContainersPaused": count(&[Status::Paused]),
        "ContainersStopped": count(&[Status::Created, Status::Exited, Status::Dead]),
        "Images": images,
        "Driver": "overlay2",
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": cgroup,
        "DefaultRuntime": "shoal-runtime",
        "KernelVersion": read("/proc/sys/kernel/osrelease"),
        "OperatingSystem": system,
        "OSType": "linux",
        "Architecture": std::env::consts::ARCH,
        "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
        "MemTotal": super::stats::host_memory(),
        "DockerRootDir": roots.data,
        "RunRoot": roots.run,
        "Name": read("/proc/sys/kernel/hostname"),
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "SecurityOptions": security_options(),
        "Warnings": warnings(),
    });
    show(&value, args.format.as_deref(), || {
        let text = |key: &str| value[key].as_str().map_or_else(|| value[key].to_string(), str::to_owned);
        let memory = engine::wish::human_bytes(super::stats::host_memory());
        format!(
            "Containers: {}\n Running: {}\n Paused: {}\n Stopped: {}\nImages: {}\nServer Version: {}\nStorage Driver: {}\nLogging Driver: {}\nCgroup Driver: {}\nCgroup Version: {}\nDefault Runtime: {}\nKernel Version: {}\nOperating System: {}\nOSType: {}\nArchitecture: {}\nCPUs: {}\nTotal Memory: {memory}\nName: {}\nData: {}\nRun: {}\n",
            text("Containers"),
            text("ContainersRunning"),
            text("ContainersPaused"),
            text("ContainersStopped"),
            text("Images"),
            text("ServerVersion"),
            text("Driver"),
            text("LoggingDriver"),
            text("CgroupDriver"),
            text("CgroupVersion"),
            text("DefaultRuntime"),
            text("KernelVersion"),
            text("OperatingSystem"),
            text("OSType"),
            text("Architecture"),
            text("NCPU"),
            text("Name"),
            text("DockerRootDir"),
            text("RunRoot"),
        ) + &format!("Security Options:\n {}\n", security_options().join("\n "))
            + &warnings().iter().map(|line| format!("WARNING: {line}\n")).collect::<String>()
    })
}

/// What confines containers by default.
fn security_options() -> Vec<String> {
    let mut options = vec!["name=seccomp,profile=builtin".to_owned()];
    options.extend(engine::lsm::apparmor_default().map(|profile| format!("name=apparmor,profile={profile}")));
    options
}

/// What the host could confine containers by, and does not.
fn warnings() -> Vec<&'static str> {
    let mut warnings = Vec::new();
    if engine::lsm::has_apparmor() && engine::lsm::apparmor_default().is_none() {
        warnings.push(
            "no AppArmor profile for containers is loaded, so they run unconfined by it: shoal generate apparmor | apparmor_parser -r",
        );
    }
    if engine::lsm::has_selinux() {
        warnings.push(
            "containers run with the SELinux label of who starts them unless --security-opt label=type:T gives another",
        );
    }
    warnings
}

fn show(value: &Value, format: Option<&str>, text: impl FnOnce() -> String) -> Result<ExitCode, Error> {
    match format {
        None => print!("{}", text()),
        Some("json") => println!("{value}"),
        Some(format) => println!("{}", Template::parse(format)?.render(value)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
