//! `network create`.

use super::pair;
use crate::error::Error;
use clap::Args;
use engine::Engine;
use engine::network::{self, Driver};
use std::net::IpAddr;
use std::process::ExitCode;

/// Create a network
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// How frames move: bridge or macvlan
    #[arg(short, long, default_value = "bridge", value_parser = driver)]
    driver: Driver,
    /// A subnet, as 10.1.0.0/16; repeat it for IPv6
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<String>,
    /// The gateway of a subnet
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,
    /// The part of a subnet that containers get addresses from
    #[arg(long, value_name = "CIDR")]
    ip_range: Vec<String>,
    /// The address of another device, as ROUTER=10.1.0.5
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = pair)]
    aux_address: Vec<(String, String)>,
    /// Give containers IPv6 addresses too
    #[arg(long)]
    ipv6: bool,
    /// Nothing in, nothing out
    #[arg(long)]
    internal: bool,
    /// A label
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// A driver option, as com.docker.network.driver.mtu=1400 or parent=eth0
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    opt: Vec<(String, String)>,
    /// The network's name
    name: String,
}

fn driver(text: &str) -> Result<Driver, String> {
    match text {
        "bridge" => Ok(Driver::Bridge),
        "macvlan" => Ok(Driver::Macvlan),
        _ => Err("this host has bridge and macvlan".to_owned()),
    }
}

/// Makes the network and prints its id.
pub(super) fn run(engine: &Engine, args: &Create) -> Result<ExitCode, Error> {
    let net = |text: &String| {
        text.parse().map_err(|_| Error::new(format!("invalid CIDR address: {text}")).hint("write it as 10.1.0.0/16"))
    };
    let reserved = args
        .aux_address
        .iter()
        .map(|(name, address)| {
            let parsed =
                address.parse().map_err(|_| Error::new(format!("--aux-address {name}: {address} is no address")))?;
            Ok((name.clone(), parsed))
        })
        .collect::<Result<_, Error>>()?;
    let network = engine.networks().create(&network::Create {
        name: args.name.clone(),
        driver: args.driver,
        subnets: args.subnet.iter().map(net).collect::<Result<_, _>>()?,
        gateways: args.gateway.clone(),
        ranges: args.ip_range.iter().map(net).collect::<Result<_, _>>()?,
        reserved,
        internal: args.internal,
        ipv6: args.ipv6,
        labels: args.label.iter().cloned().collect(),
        options: args.opt.iter().cloned().collect(),
    })?;
    engine.network_event(&network, "create", None);
    println!("{}", network.id);
    Ok(ExitCode::SUCCESS)
}
