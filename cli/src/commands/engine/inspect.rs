//! `shoal inspect`: docker's document of a container, from its record and its state.

use super::{explain, open};
use crate::commands::Global;
use crate::error::Error;
use crate::output::template::Template;
use engine::wish::{MountKind, MountWish};
use engine::{Container, Engine, EngineError};
use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// Look into containers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Include sizes
    #[arg(short, long)]
    size: bool,
    /// Only objects of this kind
    #[arg(long, value_name = "KIND", value_parser = ["container", "image", "network", "volume"])]
    r#type: Option<String>,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let (mut found, mut failed) = (Vec::new(), false);
    for name in &args.names {
        match one(&engine, name, args) {
            Ok(value) => found.push(value),
            Err(error) => {
                error.report();
                failed = true;
            }
        }
    }
    match args.format.as_deref() {
        None | Some("json") if args.format.is_some() => println!("{}", Value::Array(found)),
        None | Some("json") => println!("{}", serde_json::to_string_pretty(&found)?),
        Some(text) => {
            let template = Template::parse(text)?;
            for value in &found {
                println!("{}", template.render(value)?);
            }
        }
    }
    Ok(ExitCode::from(u8::from(failed)))
}

fn one(engine: &Engine, name: &str, args: &Args) -> Result<Value, Error> {
    let kind = args.r#type.as_deref();
    if kind.is_none_or(|kind| kind == "container") {
        match engine.find(name) {
            Ok(container) => return Ok(document(engine, &container, args.size)),
            Err(EngineError::NoSuchContainer { .. }) if kind.is_none() => {}
            Err(error) => return Err(explain(error)),
        }
    }
    if kind.is_none_or(|kind| kind == "network")
        && let Ok(network) = engine.networks().find(name)
    {
        let members = engine.networks().members(&network)?;
        return Ok(crate::commands::network::inspect::document(&network, &members));
    }
    if kind.is_none_or(|kind| kind == "image")
        && let Ok(store) = engine.images()
        && let Ok(image) = store.find(name)
    {
        let config = store.config(&image)?;
        return Ok(json!({
            "Id": image.id.to_string(),
            "Author": config.author.clone().unwrap_or_default(),
            "RepoTags": image.names.iter().map(oci::Reference::familiar).collect::<Vec<_>>(),
            "RepoDigests": image.digests.iter().map(oci::Reference::familiar).collect::<Vec<_>>(),
            "Created": config.created,
            "Architecture": config.architecture,
            "Os": config.os,
            "Size": image.packed_size(),
            "Config": serde_json::to_value(&config.config)?,
            "RootFS": serde_json::to_value(&config.rootfs)?,
        }));
    }
    Err(Error::new(format!("no such object: {name}")))
}

/// `SOURCE:TARGET[:OPTIONS]`, as `-v` takes it.
fn bind(mount: &MountWish) -> String {
    let mut options = mount.options.clone();
    if mount.read_only {
        options.insert(0, "ro".to_owned());
    }
    let options = if options.is_empty() { String::new() } else { format!(":{}", options.join(",")) };
    format!("{}:{}{options}", mount.source, mount.target)
}

/// One mount as `--mount` would ask for it.
fn asked(mount: &MountWish) -> Value {
    let kind = match mount.kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
    };
    json!({"Type": kind, "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only})
}

/// How mounts made later on one side reach the other.
fn propagation(mount: &MountWish) -> &str {
    let known = ["shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"];
    mount.options.iter().map(String::as_str).find(|option| known.contains(option)).unwrap_or("rprivate")
}

/// What `-p` asked for, by the container's port.
fn bindings(publish: &[String]) -> Value {
    let mut bindings = Map::new();
    for port in publish.iter().filter_map(|text| engine::network::publish::parse(text).ok()).flatten() {
        let host = json!({
            "HostIp": port.host_ip.map(|address| address.to_string()).unwrap_or_default(),
            "HostPort": port.host_ports.map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") }).unwrap_or_default(),
        });
        let key = format!("{}/{}", port.container_port, port.protocol);
        if let Value::Array(known) = bindings.entry(key).or_insert_with(|| json!([])) {
            known.push(host);
        }
    }
    bindings.into()
}

/// docker's `Healthcheck`, times in ns.
fn check(check: &engine::health::Check) -> Value {
    json!({
        "Test": check.test, "Interval": check.interval, "Timeout": check.timeout, "StartPeriod": check.start_period,
        "StartInterval": check.start_interval, "Retries": check.retries,
    })
}

/// docker's document.
pub(crate) fn document(engine: &Engine, container: &Container, size: bool) -> Value {
    let (record, state) = (&container.record, &container.state);
    let wish = &record.wish;
    let time = engine::time::rfc3339;
    let own_command = !wish.command.is_empty() || wish.entrypoint.is_some();
    let entrypoint = wish.entrypoint.as_ref().unwrap_or(&record.defaults.entrypoint);
    let command = if own_command { &wish.command } else { &record.defaults.cmd };
    let argv: Vec<&String> = entrypoint.iter().chain(command).collect();
    let attachments = engine.attachments(container);
    let mut networks = Map::new();
    let mut ports = Map::new();
    for text in wish.expose.iter().chain(&record.defaults.exposed) {
        let key = if text.contains('/') { text.clone() } else { format!("{text}/tcp") };
        ports.insert(key, Value::Null);
    }
    for attachment in &attachments {
        let (v4, v6) = (attachment.ipv4(), attachment.ipv6());
        let length = |v6: bool| {
            attachment.addresses.iter().find(|net| net.addr().is_ipv6() == v6).map_or(0, |net| net.prefix_len())
        };
        let gateway = |v6: bool| {
            attachment
                .gateways
                .iter()
                .find(|gateway| gateway.is_ipv6() == v6)
                .map(ToString::to_string)
                .unwrap_or_default()
        };
        networks.insert(
            attachment.network.clone(),
            json!({
                "NetworkID": attachment.network_id,
                "MacAddress": attachment.mac,
                "IPAddress": v4.map(|address| address.to_string()).unwrap_or_default(),
                "IPPrefixLen": length(false),
                "Gateway": gateway(false),
                "GlobalIPv6Address": v6.map(|address| address.to_string()).unwrap_or_default(),
                "GlobalIPv6PrefixLen": length(true),
                "IPv6Gateway": gateway(true),
                "Aliases": attachment.aliases,
                "DNSNames": [record.name.clone(), container.short_id().to_owned()],
            }),
        );
        for port in &attachment.ports {
            let hosts: Vec<Value> = port
                .host_addresses()
                .iter()
                .map(|address| json!({"HostIp": address.to_string(), "HostPort": port.host_port.to_string()}))
                .collect();
            let key = format!("{}/{}", port.container_port, port.protocol);
            match ports.get_mut(&key) {
                Some(Value::Array(known)) => known.extend(hosts),
                _ => drop(ports.insert(key, hosts.into())),
            }
        }
    }
    let first = attachments.first();
    let mounts: Vec<Value> = wish
        .mounts
        .iter()
        .map(|mount| {
            let (kind, source) = match mount.kind {
                MountKind::Bind => ("bind", mount.source.clone()),
                MountKind::Tmpfs => ("tmpfs", String::new()),
                MountKind::Volume => {
                    let volumes = engine.volumes();
                    let folder = volumes.find(&mount.source).map(|volume| volumes.path(&volume)).unwrap_or_default();
                    ("volume", folder.to_string_lossy().into_owned())
                }
            };
            let mut value = json!({
                "Type": kind, "Source": source, "Destination": mount.target, "Mode": mount.options.join(","),
                "RW": !mount.read_only, "Propagation": if mount.kind == MountKind::Bind { propagation(mount) } else { "" },
            });
            if mount.kind == MountKind::Volume {
                value["Name"] = mount.source.clone().into();
                value["Driver"] = if mount.driver.is_empty() { "local".into() } else { mount.driver.clone().into() };
            }
            value
        })
        .collect();
    let resources = &wish.resources;
    let status = state.status;
    use engine::record::Status;
    let signals = [&wish.stop_signal, &record.defaults.stop_signal];
    let stop_signal = signals.into_iter().find(|text| !text.is_empty()).map_or("SIGTERM", String::as_str);
    let mut document = json!({
        "Id": record.id,
        "Created": time(record.created),
        "Path": argv.first(),
        "Args": argv.iter().skip(1).collect::<Vec<_>>(),
        "State": {
            "Status": status.as_str(),
            "Running": matches!(status, Status::Running | Status::Paused | Status::Restarting),
            "Paused": status == Status::Paused,
            "Restarting": status == Status::Restarting,
            "OOMKilled": state.oom_killed,
            "Dead": status == Status::Dead,
            "Pid": if status.is_active() && status != Status::Restarting { state.process.pid } else { 0 },
            "ExitCode": state.exit_code,
            "Error": state.error,
            "Health": null,
            "StartedAt": time(state.started),
            "FinishedAt": time(state.finished),
        },
        "Image": record.image_id,
        "ResolvConfPath": container.data.join("resolv.conf"),
        "HostnamePath": container.data.join("hostname"),
        "HostsPath": container.data.join("hosts"),
        "LogPath": wish.log.file(&container.data),
        "Name": format!("/{}", record.name),
        "RestartCount": state.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "AppArmorProfile": wish.security_opt.iter().find_map(|text| text.strip_prefix("apparmor=")).unwrap_or_default(),
        "ExecIDs": null,
        "HostConfig": {
            "Binds": wish.mounts.iter().filter(|mount| mount.kind != MountKind::Tmpfs && !mount.anonymous).map(bind).collect::<Vec<_>>(),
            "Mounts": wish.mounts.iter().map(asked).collect::<Vec<_>>(),
            "Links": wish.links,
            "LogConfig": {"Type": wish.log.driver(), "Config": wish.log.options},
            "NetworkMode": wish.networks.first().map_or("bridge", String::as_str),
            "PortBindings": bindings(&wish.publish),
            "RestartPolicy": {"Name": wish.restart.name(), "MaximumRetryCount": match wish.restart { engine::restart::Policy::OnFailure { max } => max, _ => 0 }},
            "AutoRemove": wish.remove,
            "VolumesFrom": wish.volumes_from,
            "CapAdd": wish.cap_add, "CapDrop": wish.cap_drop,
            "CgroupnsMode": if wish.cgroupns.is_empty() { "private" } else { &wish.cgroupns },
            "Dns": wish.dns, "DnsOptions": wish.dns_options, "DnsSearch": wish.dns_search, "ExtraHosts": wish.add_host,
            "GroupAdd": wish.group_add, "IpcMode": if wish.ipc.is_empty() { "private" } else { &wish.ipc },
            "OomScoreAdj": wish.oom_score_adj.unwrap_or(0), "PidMode": wish.pid, "Privileged": wish.privileged,
            "PublishAllPorts": wish.publish_all, "ReadonlyRootfs": wish.read_only, "SecurityOpt": wish.security_opt,
            "UTSMode": wish.uts, "UsernsMode": wish.userns,
            "ShmSize": if wish.shm_size == 0 { oci::conversion::DEFAULT_SHM_BYTES } else { wish.shm_size },
            "Runtime": "shoal-runtime", "Init": wish.init, "CgroupParent": wish.cgroup_parent,
            "Memory": resources.memory.unwrap_or(0), "MemorySwap": resources.memory_swap.or_else(|| resources.memory.map(|memory| memory * 2)).unwrap_or(0),
            "MemoryReservation": resources.memory_reservation.unwrap_or(0), "NanoCpus": resources.nano_cpus.unwrap_or(0),
            "CpuShares": resources.cpu_shares.unwrap_or(0), "CpuPeriod": resources.cpu_period.unwrap_or(0), "CpuQuota": resources.cpu_quota.unwrap_or(0),
            "CpusetCpus": resources.cpuset_cpus, "CpusetMems": resources.cpuset_mems, "PidsLimit": resources.pids,
            "BlkioWeight": resources.blkio_weight.unwrap_or(0), "OomKillDisable": resources.oom_kill_disable,
            "Sysctls": wish.sysctls,
            "Tmpfs": wish.mounts.iter().filter(|mount| mount.kind == MountKind::Tmpfs).map(|mount| (mount.target.clone(), mount.options.join(",").into())).collect::<Map<String, Value>>(),
            "Ulimits": wish.ulimits.iter().map(|limit| json!({"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard})).collect::<Vec<_>>(),
            "Devices": wish.devices.iter().map(|device| json!({"PathOnHost": device.host, "PathInContainer": device.container, "CgroupPermissions": device.access})).collect::<Vec<_>>(),
            "MaskedPaths": if wish.privileged { Vec::new() } else { oci::conversion::MASKED_PATHS.to_vec() },
            "ReadonlyPaths": if wish.privileged { Vec::new() } else { oci::conversion::READONLY_PATHS.to_vec() },
        },
        "GraphDriver": {"Name": "overlay2", "Data": {"UpperDir": engine.upper(container), "MergedDir": container.run.join("rootfs")}},
        "Mounts": mounts,
        "Config": {
            "Hostname": if wish.hostname.is_empty() { container.short_id() } else { &wish.hostname },
            "Domainname": wish.domainname,
            "User": if wish.user.is_empty() { &record.defaults.user } else { &wish.user },
            "AttachStdin": wish.interactive && !wish.detach, "AttachStdout": !wish.detach, "AttachStderr": !wish.detach,
            "Tty": wish.tty, "OpenStdin": wish.interactive, "StdinOnce": wish.interactive && !wish.detach,
            "Env": oci::conversion::environment(&record.defaults.env, &wish.env, "", false).into_iter().filter(|entry| !entry.starts_with("HOSTNAME=")).collect::<Vec<_>>(),
            "Cmd": command, "Image": record.image,
            "Volumes": record.defaults.volumes.iter().map(|path| (path.clone(), json!({}))).collect::<Map<String, Value>>(),
            "WorkingDir": if wish.workdir.is_empty() { &record.defaults.workdir } else { &wish.workdir },
            "Entrypoint": if entrypoint.is_empty() { Value::Null } else { json!(entrypoint) },
            "Labels": record.labels(),
            "StopSignal": stop_signal,
            "StopTimeout": wish.stop_timeout.map(|seconds| i64::try_from(seconds).unwrap_or(-1)),
            "Healthcheck": wish.health.as_ref().or(record.defaults.health.as_ref()).map(check),
            "ExposedPorts": ports.keys().map(|key| (key.clone(), json!({}))).collect::<Map<String, Value>>(),
        },
        "NetworkSettings": {
            "SandboxKey": container.run.join("netns"),
            "Ports": ports,
            "IPAddress": first.and_then(engine::network::Attachment::ipv4).map(|address| address.to_string()).unwrap_or_default(),
            "MacAddress": first.map(|attachment| attachment.mac.clone()).unwrap_or_default(),
            "Gateway": first.and_then(|attachment| attachment.gateways.first()).map(ToString::to_string).unwrap_or_default(),
            "Networks": networks,
        },
    });
    if let Some(health) = &state.health {
        document["State"]["Health"] = json!({
            "Status": health.status.as_str(),
            "FailingStreak": health.failing_streak,
            "Log": health.log.iter().map(|entry| json!({"Start": time(entry.start), "End": time(entry.end), "ExitCode": entry.exit_code, "Output": entry.output})).collect::<Vec<_>>(),
        });
    }
    if size {
        document["SizeRw"] = engine.upper(container).map_or(0, |upper| super::ps::folder_bytes(&upper)).into();
    }
    document
}
