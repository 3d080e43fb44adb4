//! `network inspect`: docker's document.

use crate::error::Error;
use clap::Args;
use engine::network::{Member, Network, Networks};
use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// Show networks in full
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Prints a JSON array; a network that is not there fails the command after the others are printed.
pub(super) fn run(networks: &Networks, args: &Inspect) -> Result<ExitCode, Error> {
    let mut documents = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for name in &args.networks {
        let found = networks.find(name).and_then(|network| Ok((networks.members(&network)?, network)));
        match found {
            Ok((members, network)) => documents.push(document(&network, &members)),
            Err(error) => code = Error::from(error).report(),
        }
    }
    super::print_documents(&documents, args.format.as_deref())?;
    Ok(code)
}

/// docker's document of a network.
pub(crate) fn document(network: &Network, members: &[Member]) -> Value {
    let config: Vec<Value> = network
        .subnets
        .iter()
        .map(|subnet| {
            let mut entry = json!({"Subnet": subnet.subnet, "Gateway": subnet.gateway});
            if let Some(range) = &subnet.range {
                entry["IPRange"] = json!(range);
            }
            if !subnet.reserved.is_empty() {
                entry["AuxiliaryAddresses"] = json!(subnet.reserved);
            }
            entry
        })
        .collect();
    let containers: Map<String, Value> = members
        .iter()
        .map(|member| {
            let attachment = &member.attachment;
            let address = |v4: bool| {
                let found = attachment.addresses.iter().find(|net| net.addr().is_ipv4() == v4);
                found.map(ToString::to_string).unwrap_or_default()
            };
            let entry = json!({
                "Name": member.name,
                "EndpointID": attachment.host_interface,
                "MacAddress": attachment.mac,
                "IPv4Address": address(true),
                "IPv6Address": address(false),
            });
            (attachment.container.clone(), entry)
        })
        .collect();
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": engine::time::rfc3339(network.created),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": network.subnets.iter().any(|subnet| subnet.subnet.addr().is_ipv4()),
        "EnableIPv6": network.ipv6,
        "IPAM": {"Driver": "default", "Options": {}, "Config": config},
        "Internal": network.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": false,
        "Bridge": network.bridge,
        "Containers": containers,
        "Options": network.options,
        "Labels": network.labels,
    })
}
