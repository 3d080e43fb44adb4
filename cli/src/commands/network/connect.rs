//! `network connect` and `network disconnect`.

use super::warn;
use crate::error::Error;
use clap::Args;
use engine::Engine;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

/// Connect a container to a network
#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The IPv4 address
    #[arg(long)]
    ip: Option<Ipv4Addr>,
    /// The IPv6 address
    #[arg(long)]
    ip6: Option<Ipv6Addr>,
    /// A further name on the network
    #[arg(long)]
    alias: Vec<String>,
    /// The hardware address
    #[arg(long, value_name = "MAC")]
    mac_address: Option<String>,
    /// The network
    network: String,
    /// The container
    container: String,
}

/// Disconnect a container from a network
#[derive(Debug, Args)]
pub(crate) struct Disconnect {
    /// Succeed when it is not connected
    #[arg(short, long)]
    force: bool,
    /// The network
    network: String,
    /// The container
    container: String,
}

pub(super) fn connect(engine: &Engine, args: &Connect) -> Result<ExitCode, Error> {
    let wanted = engine::wish::Endpoint {
        ip: args.ip,
        ip6: args.ip6,
        aliases: args.alias.clone(),
        mac: args.mac_address.clone(),
    };
    warn(&engine.network_connect(&args.network, &args.container, &wanted)?);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn disconnect(engine: &Engine, args: &Disconnect) -> Result<ExitCode, Error> {
    engine.network_disconnect(&args.network, &args.container, args.force)?;
    Ok(ExitCode::SUCCESS)
}
