//! Addresses as people write them and as libp2p wants them. In: `HOST:PORT`, `[V6]:PORT`, multiaddresses. Out: multiaddresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// Reads one address. A host name becomes `/dns/NAME/tcp/PORT` and is resolved when it is dialled.
///
/// # Errors
/// Words for the user.
pub fn parse(text: &str) -> Result<Multiaddr, String> {
    if text.starts_with('/') {
        return text.parse().map_err(|error| format!("address {text:?}: {error}"));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(from_socket(socket));
    }
    let bad = || format!("address {text:?}: write HOST:PORT, [IPV6]:PORT or a multiaddress");
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port.parse().map_err(|_| bad())?;
    if host.is_empty() || host.len() > 253 || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
    {
        return Err(bad());
    }
    Ok(Multiaddr::empty().with(Protocol::Dns(host.into())).with(Protocol::Tcp(port)))
}

/// Whether an address leads through a relay.
#[must_use]
pub fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::P2pCircuit))
}

/// Whether an address means this host alone.
#[must_use]
pub fn is_local(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback() || (ip.segments()[0] & 0xffc0) == 0xfe80,
        _ => false,
    }
}

/// The socket a plain address leads to; `None` when it leads through a relay, or to a name.
#[must_use]
pub fn socket(address: &Multiaddr) -> Option<SocketAddr> {
    if is_circuit(address) {
        return None;
    }
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::from(ip),
        Protocol::Ip6(ip) => IpAddr::from(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// An address as people write it: `HOST:PORT` where it is one.
#[must_use]
pub fn shown(address: &Multiaddr) -> String {
    socket(address).map_or_else(|| address.to_string(), |socket| socket.to_string())
}

fn from_socket(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip()).with(Protocol::Tcp(socket.port()))
}

/// Multiaddresses of these texts with host names resolved; what cannot be read or resolved is left out.
pub async fn resolve(texts: &[String]) -> Vec<Multiaddr> {
    let mut found = Vec::new();
    for text in texts {
        let Ok(address) = parse(text) else { continue };
        let mut parts = address.iter();
        let named = match (parts.next(), parts.next()) {
            (Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)), Some(Protocol::Tcp(port))) => {
                Some((name.to_string(), port))
            }
            _ => None,
        };
        match named {
            None => found.push(address),
            Some((name, port)) => {
                let rest: Vec<Protocol<'_>> = address.iter().skip(2).collect();
                let Ok(sockets) = tokio::net::lookup_host((name.as_str(), port)).await else { continue };
                for socket in sockets.take(4) {
                    found.push(rest.iter().cloned().fold(from_socket(socket), Multiaddr::with));
                }
            }
        }
    }
    found
}

/// IPv4 networks of this host's own bridges: the same addresses lie behind them on every host, so that nobody is found there.
#[derive(Debug, Clone, Default)]
pub struct Bridges(Vec<(u32, u32)>);

impl Bridges {
    /// Those of this network namespace.
    #[must_use]
    pub fn here() -> Self {
        let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
        Self::read(&routes, |link| std::path::Path::new("/sys/class/net").join(link).join("bridge").exists())
    }

    /// Reads the networks that lie on bridges out of `/proc/net/route`, whose numbers have the order of bytes of this machine.
    fn read(routes: &str, is_bridge: impl Fn(&str) -> bool) -> Self {
        let network = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok().map(u32::from_be);
            let (link, gateway) = (words.first()?, number(2)?);
            let (address, mask) = (number(1)?, number(7)?);
            (gateway == 0 && mask != 0 && is_bridge(link)).then_some((address, mask))
        };
        Self(routes.lines().skip(1).filter_map(network).collect())
    }

    fn has(&self, address: &Multiaddr) -> bool {
        match address.iter().next() {
            Some(Protocol::Ip4(ip)) => self.0.iter().any(|(network, mask)| u32::from(ip) & mask == *network),
            _ => false,
        }
    }
}

/// What a node tells others to dial: what it was told to advertise, else where it listens, its own bridges and then loopback
/// last.
#[must_use]
pub fn told(advertise: &[String], listening: &BTreeSet<Multiaddr>, bridges: &Bridges) -> Vec<String> {
    if !advertise.is_empty() {
        return advertise.to_vec();
    }
    let mut found: Vec<&Multiaddr> = listening.iter().collect();
    found.sort_by_key(|address| (is_local(address), bridges.has(address)));
    found.into_iter().take(8).map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        assert_eq!(parse("10.0.0.1:4700").unwrap().to_string(), "/ip4/10.0.0.1/tcp/4700");
        assert_eq!(parse("[::]:4700").unwrap().to_string(), "/ip6/::/tcp/4700");
        assert_eq!(shown(&parse("[::1]:4700").unwrap()), "[::1]:4700");
        assert_eq!(shown(&parse("node-1:4700").unwrap()), "/dns/node-1/tcp/4700");
        assert_eq!(parse("node-1.example:4700").unwrap().to_string(), "/dns/node-1.example/tcp/4700");
        assert_eq!(parse("/ip4/1.2.3.4/tcp/5").unwrap().to_string(), "/ip4/1.2.3.4/tcp/5");
        for bad in ["", "host", "host:99999", ":4700", "ho st:1", "/nonsense/1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_is_told_last_and_advertised_addresses_alone() {
        let listening = ["/ip4/127.0.0.1/tcp/1", "/ip4/192.0.2.1/tcp/1"].iter().map(|a| a.parse().unwrap()).collect();
        let none = Bridges::default();
        assert_eq!(told(&[], &listening, &none), ["/ip4/192.0.2.1/tcp/1", "/ip4/127.0.0.1/tcp/1"]);
        assert_eq!(told(&["me:1".into()], &listening, &none), ["me:1"]);
    }

    #[test]
    fn a_hosts_own_bridges_are_told_behind_its_links() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\n\
            eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
            docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\n\
            sh-default\t00005C0A\t00000000\t0001\t0\t0\t0\t0000FFFF\ntorn\n";
        let bridges = Bridges::read(routes, |link| link != "eth0");
        let all = ["/ip4/10.92.0.1/tcp/1", "/ip4/172.17.0.1/tcp/1", "/ip4/192.168.1.5/tcp/1", "/ip4/127.0.0.1/tcp/1"];
        let listening: BTreeSet<Multiaddr> = all.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(told(&[], &listening, &bridges), [all[2], all[0], all[1], all[3]]);
    }
}
