//! The three files every container gets: its host name, its hosts, its resolver.

use super::{Container, Engine};
use crate::error::EngineError;
use crate::network::{Attachment, Mode, resolv};
use oci::spec::Mount;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// The host's resolver file when a local stub listens on a loopback address that containers cannot reach.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

impl Engine {
    /// Writes `hostname`, `hosts` and `resolv.conf` into the data folder and returns their mounts. The container may write to
    /// them without end: the run folder is memory that all containers need.
    pub(super) fn generated_files(
        &self,
        container: &Container,
        mode: &Mode,
        attachments: &[Attachment],
    ) -> Result<Vec<Mount>, EngineError> {
        let wish = &container.record.wish;
        let folder = match mode {
            // One network, one set of files.
            Mode::Container(name) => {
                let other = self.find(name)?;
                // One that was started by an older version has them in its run folder.
                if other.data.join("hosts").exists() { other.data } else { other.run }
            }
            _ => {
                let name = match (mode, wish.uts.as_str()) {
                    (Mode::Host, _) | (_, "host") if wish.hostname.is_empty() => {
                        fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
                    }
                    _ => super::prepare::hostname(&container.record),
                };
                write(&container.data, "hostname", &format!("{name}\n"))?;
                write(&container.data, "hosts", &self.hosts(container, mode, attachments, &name)?)?;
                write(&container.data, "resolv.conf", &self.resolver(container, mode, attachments)?)?;
                container.data.clone()
            }
        };
        let taken = |target: &str| wish.mounts.iter().any(|mount| mount.target.trim_end_matches('/') == target);
        let files = [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")];
        Ok(files
            .into_iter()
            .filter(|(file, target)| !taken(target) && folder.join(file).exists())
            .map(|(file, target)| Mount {
                destination: target.to_owned(),
                kind: Some("bind".to_owned()),
                source: Some(folder.join(file).to_string_lossy().into_owned()),
                options: vec!["bind".to_owned(), "rprivate".to_owned()],
                ..Mount::default()
            })
            .collect())
    }

    fn hosts(
        &self,
        container: &Container,
        mode: &Mode,
        attachments: &[Attachment],
        name: &str,
    ) -> Result<String, EngineError> {
        let wish = &container.record.wish;
        let mut text = match mode {
            Mode::Host => fs::read_to_string("/etc/hosts").unwrap_or_default(),
            _ => "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n".to_owned(),
        };
        let gateway = attachments.iter().find_map(|attachment| attachment.gateways.first().copied());
        for entry in &wish.add_host {
            let Some((host, address)) = entry.split_once([':', '=']) else { continue };
            let address = match address.trim_matches(['[', ']']) {
                "host-gateway" => gateway.unwrap_or_else(|| IpAddr::from([127, 0, 0, 1])).to_string(),
                given => given.to_owned(),
            };
            text.push_str(&format!("{address}\t{host}\n"));
        }
        for link in &wish.links {
            let (target, alias) = link.split_once(':').unwrap_or((link, link));
            let other = self.find(target)?;
            let address = self
                .attachments(&other)
                .iter()
                .find_map(|attachment| attachment.addresses.first().map(ipnet::IpNet::addr));
            let address = address.ok_or_else(|| other.state_error("has no address to link to"))?;
            text.push_str(&format!("{address}\t{alias} {} {}\n", other.short_id(), other.name()));
        }
        let own: Vec<_> = attachments.iter().flat_map(|attachment| &attachment.addresses).collect();
        for address in own {
            let domain = &wish.domainname;
            if domain.is_empty() {
                text.push_str(&format!("{}\t{name}\n", address.addr()));
            } else {
                text.push_str(&format!("{}\t{name}.{domain} {name}\n", address.addr()));
            }
        }
        Ok(text)
    }

    fn resolver(&self, container: &Container, mode: &Mode, attachments: &[Attachment]) -> Result<String, EngineError> {
        let wish = &container.record.wish;
        let server = |text: &String| {
            text.parse::<IpAddr>()
                .map_err(|_| EngineError::Invalid(format!("--dns {text:?}: the address of a server is needed")))
        };
        let wanted = resolv::Wanted {
            servers: wish.dns.iter().map(server).collect::<Result<_, _>>()?,
            search: wish.dns_search.clone(),
            options: wish.dns_options.clone(),
        };
        let resolvers: Vec<IpAddr> =
            attachments.iter().flat_map(|attachment| &attachment.nameservers).copied().collect();
        Ok(resolv::conf(&host_resolver(), &resolvers, &wanted, matches!(mode, Mode::Host)))
    }
}

/// The host's servers; the ones behind a local stub when there is one.
fn host_resolver() -> String {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let stub_only = text.lines().filter(|line| line.starts_with("nameserver")).all(|line| line.contains("127.0.0.53"));
    if stub_only && Path::new(RESOLVED).exists() {
        return fs::read_to_string(RESOLVED).unwrap_or(text);
    }
    text
}

/// Written in place: the file is mounted into a container that may be running.
fn write(folder: &Path, name: &str, text: &str) -> Result<(), EngineError> {
    let path = folder.join(name);
    let written = fs::write(&path, text).and_then(|()| {
        // Whatever the umask of who started it: every user inside reads it.
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
    });
    written.map_err(EngineError::io(format!("write {}", path.display())))
}
