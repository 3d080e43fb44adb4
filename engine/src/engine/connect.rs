//! `network connect`, `disconnect`, `reload`: a container's networks change while it runs, and stay changed.

use super::{Container, Engine};
use crate::error::EngineError;
use crate::network::{Attach, Attachment, Mode};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// What `network connect` asks for beside the two names.
#[derive(Debug, Clone, Default)]
pub struct Connect {
    /// `--ip`.
    pub ip: Option<Ipv4Addr>,
    /// `--ip6`.
    pub ip6: Option<Ipv6Addr>,
    /// `--alias`.
    pub aliases: Vec<String>,
}

impl Engine {
    /// Connects a container to one more network, now when it runs and at every later start. Returns warnings.
    pub fn network_connect(
        &self,
        network: &str,
        container: &str,
        wanted: &Connect,
    ) -> Result<Vec<String>, EngineError> {
        let networks = self.networks();
        let network = networks.find(network)?;
        if crate::roots::rootless().is_some() {
            return Err(EngineError::Invalid(format!(
                "network {}: networks of one's own need root; without it a container has slirp4netns, none or the host's",
                network.name
            )));
        }
        let mut locked = self.lock(container)?;
        let mut names = own_networks(&locked.container)?;
        if names.contains(&network.name) {
            return Err(locked.container.state_error(format!("is on network {} already", network.name)));
        }
        let first = names.is_empty();
        let mut warnings = Vec::new();
        if locked.is_active() {
            let mut attachments = self.attachments(&locked.container);
            let mut attachment = networks.attach(
                &network,
                &Attach {
                    container: locked.container.record.id.clone(),
                    name: locked.container.record.name.clone(),
                    netns: namespace(&locked.container),
                    ip: wanted.ip,
                    ip6: wanted.ip6,
                    aliases: wanted.aliases.clone(),
                    dns: locked.container.record.wish.dns.iter().filter_map(|text| text.parse().ok()).collect(),
                    default_route: first,
                    ..Attach::default()
                },
            )?;
            warnings.append(&mut attachment.warnings);
            attachments.push(attachment);
            self.save_attachments(&locked.container, &attachments)?;
        }
        names.push(network.name.clone());
        locked.container.record.wish.networks = names;
        locked.save_record()?;
        Ok(warnings)
    }

    /// Disconnects a container from a network, now and for every later start. With `force`, a container that holds nothing
    /// of the network is no error.
    pub fn network_disconnect(&self, network: &str, container: &str, force: bool) -> Result<(), EngineError> {
        let networks = self.networks();
        let network = networks.find(network)?;
        let mut locked = self.lock(container)?;
        let mut names = own_networks(&locked.container)?;
        let attachments = self.attachments(&locked.container);
        let (gone, kept): (Vec<Attachment>, Vec<Attachment>) =
            attachments.into_iter().partition(|attachment| attachment.network_id == network.id);
        if gone.is_empty() && !names.contains(&network.name) && !force {
            return Err(locked.container.state_error(format!("is not on network {}", network.name)));
        }
        for attachment in &gone {
            networks.disconnect(attachment, &namespace(&locked.container))?;
        }
        self.save_attachments(&locked.container, &kept)?;
        names.retain(|name| *name != network.name);
        if names.is_empty() {
            // Only loopback is left, also after the next start.
            names.push("none".to_owned());
        }
        locked.container.record.wish.networks = names;
        locked.save_record()
    }

    /// Makes bridges, firewall elements and published ports of running containers present again. Returns warnings.
    pub fn network_reload(&self) -> Result<Vec<String>, EngineError> {
        let (containers, _) = self.all()?;
        let attachments: Vec<Attachment> = containers
            .iter()
            .filter(|container| container.state.status.is_active())
            .flat_map(|container| self.attachments(container))
            .collect();
        Ok(self.networks().reload(&attachments)?)
    }
}

/// The networks that a container joins at its start; none for one with loopback only.
fn own_networks(container: &Container) -> Result<Vec<String>, EngineError> {
    match Mode::parse(&container.record.wish.networks)? {
        Mode::Networks(names) => Ok(names),
        Mode::None => Ok(Vec::new()),
        Mode::Host | Mode::Container(_) => {
            Err(container.state_error("shares another network namespace: it cannot join or leave networks"))
        }
    }
}

fn namespace(container: &Container) -> PathBuf {
    container.run.join("netns")
}
