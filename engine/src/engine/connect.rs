//! `network connect`, `disconnect`, `reload`: a container's networks change while it runs, and stay changed.

use super::{Container, Engine};
use crate::error::EngineError;
use crate::monitor::protocol::{Client, Request};
use crate::network::{Attach, Attachment, Mode, Networks};
use crate::wish::Endpoint;
use std::path::PathBuf;
use std::time::Duration;

/// How long a monitor may take to hear that the networks have changed.
const HEARD: Duration = Duration::from_secs(2);

/// In a container's data folder while a running one is being connected: what is made then may not be on record yet.
pub(super) const CONNECTING: &str = "connecting";

impl Engine {
    /// Connects a container to one more network, now when it runs and at every later start. Returns warnings.
    pub fn network_connect(
        &self,
        network: &str,
        container: &str,
        wanted: &Endpoint,
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
        // Also where it is only written down now: a start must not be what finds it wrong.
        let mac = wanted.mac.as_deref().map(super::launch::mac).transpose()?;
        let mut warnings = Vec::new();
        if locked.is_active() {
            let mut attachments = self.attachments(&locked.container);
            let leads_out = self.way_out(&attachments)?.is_none() && !network.internal;
            let mark = locked.container.data.join(CONNECTING);
            std::fs::write(&mark, "").map_err(EngineError::io(format!("write {}", mark.display())))?;
            let mut attachment = networks.attach(
                &network,
                &Attach {
                    container: locked.container.record.id.clone(),
                    name: locked.container.record.name.clone(),
                    netns: namespace(&locked.container),
                    ip: wanted.ip,
                    ip6: wanted.ip6,
                    mac,
                    aliases: wanted.aliases.clone(),
                    dns: locked.container.record.wish.dns.iter().filter_map(|text| text.parse().ok()).collect(),
                    default_route: leads_out,
                    ..Attach::default()
                },
            )?;
            if leads_out && let Err(error) = self.publish_on(&networks, &locked.container, &mut attachment) {
                networks.disconnect(&attachment, &namespace(&locked.container))?;
                return Err(error);
            }
            warnings.append(&mut attachment.warnings);
            attachments.push(attachment);
            self.save_attachments(&locked.container, &attachments)?;
            std::fs::remove_file(&mark).map_err(EngineError::io(format!("remove {}", mark.display())))?;
        }
        names.push(network.name.clone());
        let wish = &mut locked.container.record.wish;
        wish.networks = names;
        wish.endpoints.insert(network.name.clone(), wanted.clone());
        locked.save_record()?;
        tell(&locked.container);
        self.network_event(&network, "connect", Some(locked.container.id()));
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
        let way_out = self.way_out(&attachments)?;
        let led_out = way_out.is_some_and(|at| attachments[at].network_id == network.id);
        let (gone, mut kept): (Vec<Attachment>, Vec<Attachment>) =
            attachments.into_iter().partition(|attachment| attachment.network_id == network.id);
        if gone.is_empty() && !names.contains(&network.name) && !force {
            return Err(locked.container.state_error(format!("is not on network {}", network.name)));
        }
        for attachment in &gone {
            networks.disconnect(attachment, &namespace(&locked.container))?;
        }
        self.save_attachments(&locked.container, &kept)?;
        if led_out && let Some(at) = self.way_out(&kept)? {
            // As at a start without the network that is gone.
            networks.lead_out(&kept[at], &namespace(&locked.container))?;
            self.publish_on(&networks, &locked.container, &mut kept[at])?;
            self.save_attachments(&locked.container, &kept)?;
        }
        names.retain(|name| *name != network.name);
        if names.is_empty() {
            // Only loopback is left, also after the next start.
            names.push("none".to_owned());
        }
        locked.container.record.wish.networks = names;
        locked.container.record.wish.endpoints.remove(&network.name);
        locked.save_record()?;
        tell(&locked.container);
        self.network_event(&network, "disconnect", Some(locked.container.id()));
        Ok(())
    }

    /// Publishes a running container's ports on an attachment. The monitor has held them since the start.
    fn publish_on(
        &self,
        networks: &Networks,
        container: &Container,
        attachment: &mut Attachment,
    ) -> Result<(), EngineError> {
        attachment.ports = networks.publish(attachment, &self.ports(container)?)?;
        Ok(networks.rename(attachment, container.name())?)
    }

    /// Which attachment leads out and has the published ports.
    fn way_out(&self, attachments: &[Attachment]) -> Result<Option<usize>, EngineError> {
        let networks = self.networks();
        let internal = |attachment: &Attachment| networks.find(&attachment.network_id).map(|network| network.internal);
        let internal = attachments.iter().map(internal).collect::<Result<Vec<_>, _>>()?;
        Ok(super::launch::outward(internal.into_iter()))
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

/// The monitor watches the resolvers of the container's networks. One that does not hear it watches those of before.
fn tell(container: &Container) {
    if let Ok(mut client) = Client::connect(&container.run) {
        client.send(&Request::NetworksChanged).and_then(|()| client.reply_within(HEARD)).ok();
    }
}

fn namespace(container: &Container) -> PathBuf {
    container.run.join("netns")
}
