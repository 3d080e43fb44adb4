//! Published ports: the words of `-p` and what they become. In: text. Out: [`PortMapping`]s, in docker's grammar and with its
//! messages. Pure: which host port is free is asked elsewhere.

pub use crate::host::firewall::table::Protocol;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One container port that the user wants published.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// The host's address, `None` for all.
    pub host_ip: Option<IpAddr>,
    /// First and last host port to choose from, `None` for any free one.
    pub host_ports: Option<(u16, u16)>,
    /// The container's port.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// One port as it is published now.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The host's address, `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl PublishedPort {
    /// Returns the host's addresses as docker prints them: the given one, or all of both families.
    pub fn host_addresses(&self) -> Vec<IpAddr> {
        self.host_ip.map_or_else(
            || vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
            |address| vec![address],
        )
    }
}

/// A host port that a process leads to its container, since the kernel cannot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forward {
    /// The host's address and port.
    pub listen: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The container's address and port.
    pub target: SocketAddr,
}

/// Returns which of the published ports of a container with these addresses the kernel cannot lead to it: packets for `[::1]` leave
/// the host by no bridge, and packets of IPv6 reach no container without an address of it.
pub fn forwards(ports: &[PublishedPort], ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> Vec<Forward> {
    let Some(target) = ipv6.map(IpAddr::V6).or_else(|| ipv4.map(IpAddr::V4)) else { return Vec::new() };
    let mut forwards = Vec::new();
    for port in ports.iter().filter(|port| port.protocol != Protocol::Sctp) {
        for address in port.host_addresses().into_iter().filter(IpAddr::is_ipv6) {
            // All addresses include that of loopback.
            if ipv6.is_none() || address.is_loopback() || address.is_unspecified() {
                forwards.push(Forward {
                    listen: SocketAddr::new(address, port.host_port),
                    protocol: port.protocol,
                    target: SocketAddr::new(target, port.container_port),
                });
            }
        }
    }
    forwards
}

/// Leaves out mappings that were given twice; two that want the same port of the host for different ports are refused.
pub fn unique(ports: Vec<PortMapping>) -> Result<Vec<PortMapping>, PortError> {
    let mut all: Vec<PortMapping> = Vec::with_capacity(ports.len());
    // By what they take of the host; beside a range there is room for others.
    let mut taken = std::collections::HashMap::new();
    let mut seen = std::collections::HashSet::new();
    for port in ports {
        if !seen.insert(port.clone()) {
            continue;
        }
        if let Some((host, last)) = port.host_ports
            && host == last
            && let Some(other) = taken.insert((port.host_ip, host, port.protocol), port.container_port)
        {
            return Err(PortError::Twice { host, one: other, other: port.container_port, protocol: port.protocol });
        }
        all.push(port);
    }
    Ok(all)
}

/// A text after `-p` or `--expose` that means no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// One port of the host for two of the container.
    #[error("-p {host}:{one} and -p {host}:{other} both take port {host}/{protocol} of the host")]
    Twice {
        /// The host's port.
        host: u16,
        /// The container's port named first.
        one: u16,
        /// The other.
        other: u16,
        /// Of which protocol.
        protocol: Protocol,
    },
    /// The container's port is missing.
    #[error("no port specified: {text}<empty>")]
    Empty {
        /// What was written.
        text: String,
    },
    /// The container's port is no port.
    #[error("invalid containerPort: {port}")]
    Container {
        /// What was written.
        port: String,
    },
    /// The host's port is no port.
    #[error("invalid hostPort: {port}")]
    Host {
        /// What was written.
        port: String,
    },
    /// The host's address is no address.
    #[error("invalid IP address: {address}")]
    Address {
        /// What was written.
        address: String,
    },
    /// The protocol is not one of three.
    #[error("invalid proto: {protocol} (tcp, udp and sctp can be published)")]
    Protocol {
        /// What was written.
        protocol: String,
    },
    /// The two ranges have different lengths.
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges {
        /// The container's range.
        container: String,
        /// The host's range.
        host: String,
    },
}

/// Reads `[[IP:][HOST[-LAST]]:]CONTAINER[-LAST][/PROTOCOL]`.
pub fn parse(text: &str) -> Result<Vec<PortMapping>, PortError> {
    let (ports, protocol) = split_protocol(text)?;
    let (host_ip, host, container) = split_parts(ports)?;
    if container.is_empty() {
        return Err(PortError::Empty { text: text.to_owned() });
    }
    let (first, last) = range(container).ok_or_else(|| PortError::Container { port: container.to_owned() })?;
    let host_range = match host {
        "" | "0" => None,
        host => Some(range(host).ok_or_else(|| PortError::Host { port: host.to_owned() })?),
    };
    let count = last - first;
    if let Some((low, high)) = host_range
        && high - low != count
        && count != 0
    {
        return Err(PortError::Ranges { container: container.to_owned(), host: host.to_owned() });
    }
    Ok((0..=count)
        .map(|step| PortMapping {
            host_ip,
            host_ports: host_range.map(|(low, high)| if count == 0 { (low, high) } else { (low + step, low + step) }),
            container_port: first + step,
            protocol,
        })
        .collect())
}

/// Reads `PORT[-LAST][/PROTOCOL]` as `--expose` and an image's `ExposedPorts` write it.
pub fn parse_exposed(text: &str) -> Result<Vec<(u16, Protocol)>, PortError> {
    let (ports, protocol) = split_protocol(text)?;
    if ports.is_empty() {
        return Err(PortError::Empty { text: text.to_owned() });
    }
    let (first, last) = range(ports).ok_or_else(|| PortError::Container { port: ports.to_owned() })?;
    Ok((first..=last).map(|port| (port, protocol)).collect())
}

fn split_protocol(text: &str) -> Result<(&str, Protocol), PortError> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(PortError::Protocol { protocol: protocol.to_owned() }),
    };
    Ok((ports, protocol))
}

/// Splits `IP:HOST:CONTAINER`; an IPv6 address may stand in brackets or, with both ports present, without.
fn split_parts(text: &str) -> Result<(Option<IpAddr>, &str, &str), PortError> {
    let Some((front, container)) = text.rsplit_once(':') else { return Ok((None, "", text)) };
    let Some((address, host)) = front.rsplit_once(':') else { return Ok((None, front, container)) };
    if address.is_empty() {
        return Ok((None, host, container));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let ip: IpAddr = bare.parse().map_err(|_| PortError::Address { address: address.to_owned() })?;
    // 0.0.0.0 and :: stay: they ask for one family only.
    Ok((Some(ip), host, container))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse::<u16>().ok())
            .flatten()
            .filter(|port| *port > 0)
    };
    match text.split_once('-') {
        None => port(text).map(|port| (port, port)),
        Some((low, high)) => {
            let (low, high) = (port(low)?, port(high)?);
            (low <= high).then_some((low, high))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> PortMapping {
        let mut all = parse(text).expect("a port");
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    #[test]
    fn every_documented_form_is_read() {
        assert_eq!(one("80").host_ports, None);
        assert_eq!(one("8080:80").host_ports, Some((8080, 8080)));
        assert_eq!(one("127.0.0.1:8080:80").host_ip, Some("127.0.0.1".parse().expect("an address")));
        assert_eq!(one("127.0.0.1::80").host_ports, None);
        assert_eq!(one("[::1]:8080:80/udp").host_ip, Some("::1".parse().expect("an address")));
        assert_eq!(one("53:53/UDP").protocol, Protocol::Udp);
        assert_eq!(one("8000-9000:80").host_ports, Some((8000, 9000)));
        let range = parse("7000-7002:6000-6002").expect("a range");
        assert_eq!(range.len(), 3);
        assert_eq!((range[2].host_ports, range[2].container_port), (Some((7002, 7002)), 6002));
    }

    #[test]
    fn nonsense_is_refused_with_dockers_words() {
        assert_eq!(parse("").expect_err("empty").to_string(), "no port specified: <empty>");
        assert_eq!(parse("80:").expect_err("empty").to_string(), "no port specified: 80:<empty>");
        assert_eq!(parse("80:x").expect_err("letters").to_string(), "invalid containerPort: x");
        assert_eq!(parse("x:80").expect_err("letters").to_string(), "invalid hostPort: x");
        assert_eq!(
            parse("1-2:3-5").expect_err("lengths").to_string(),
            "invalid ranges specified for container and host Ports: 3-5 and 1-2"
        );
        assert!(parse("80/icmp").expect_err("protocol").to_string().starts_with("invalid proto: icmp"));
        for text in ["0", "65536", "9-8", "1.2.3:80:80", "+80", "80-", ":", "a:b:c:d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_kernel_cannot_lead_is_forwarded() {
        let port = |host_ip: Option<&str>| PublishedPort {
            host_ip: host_ip.map(|text| text.parse().expect("an address")),
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        let ports = [port(None), port(Some("::1")), port(Some("fd00::1")), port(Some("127.0.0.1"))];
        let led = |ipv6: Option<&str>| {
            let ipv6 = ipv6.map(|text| text.parse().expect("an address"));
            let list = forwards(&ports, Some(Ipv4Addr::new(10, 0, 0, 2)), ipv6);
            list.iter().map(|forward| format!("{} {}", forward.listen, forward.target)).collect::<Vec<_>>()
        };
        assert_eq!(led(None), ["[::]:8080 10.0.0.2:80", "[::1]:8080 10.0.0.2:80", "[fd00::1]:8080 10.0.0.2:80"]);
        assert_eq!(led(Some("fd91::2")), ["[::]:8080 [fd91::2]:80", "[::1]:8080 [fd91::2]:80"]);
        assert!(forwards(&ports, None, None).is_empty());
    }

    #[test]
    fn a_port_given_twice_is_one_and_one_for_two_is_refused() {
        let all = |texts: &[&str]| unique(texts.iter().flat_map(|text| parse(text).expect("ports")).collect());
        assert_eq!(all(&["80:80", "80:80", "80:80/udp", "127.0.0.1:80:80"]).expect("no conflict").len(), 3);
        assert_eq!(all(&["8000-8010:80", "8000-8010:81", "::70"]).expect("ranges have room").len(), 3);
        let refused = all(&["18095:80", "18095:81"]).expect_err("one port").to_string();
        assert!(refused.contains("18095:80 and -p 18095:81"), "{refused}");
    }

    #[test]
    fn exposed_ports_are_ranges_too() {
        assert_eq!(parse_exposed("80-81/udp").expect("a range"), [(80, Protocol::Udp), (81, Protocol::Udp)]);
        assert!(parse_exposed("/tcp").is_err());
    }
}
