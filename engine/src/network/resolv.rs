//! A container's `resolv.conf`. In: the host's file, the networks' resolvers, what the user gave. Out: text. Pure.

use std::fmt::Write;
use std::net::IpAddr;

/// What `--dns`, `--dns-search` and `--dns-option` gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `--dns`.
    pub servers: Vec<IpAddr>,
    /// `--dns-search`; `.` alone means none.
    pub search: Vec<String>,
    /// `--dns-option`.
    pub options: Vec<String>,
}

/// The lines of a `resolv.conf` that matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conf {
    /// `nameserver`, in order; zones (`%eth0`) are cut off.
    pub servers: Vec<IpAddr>,
    /// The last `search` or `domain` line.
    pub search: Vec<String>,
    /// Every `options` line.
    pub options: Vec<String>,
}

/// Reads a `resolv.conf`; what it does not know it leaves out, as resolvers do.
pub fn parse(text: &str) -> Conf {
    let mut conf = Conf::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let address: Option<IpAddr> =
                    words.next().and_then(|word| word.split('%').next()).and_then(|word| word.parse().ok());
                conf.servers.extend(address);
            }
            Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
            Some("options") => conf.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    conf
}

/// Writes a container's `resolv.conf`. `resolvers` are those of its networks: with one, it alone is named, and `--dns` goes
/// to it. Without, `--dns` or the host's servers; those on loopback cannot be reached from a namespace of its own and are left
/// out unless `on_host`.
pub fn conf(host: &str, resolvers: &[IpAddr], wanted: &Wanted, on_host: bool) -> String {
    let host = parse(host);
    let servers: Vec<IpAddr> = match () {
        () if !resolvers.is_empty() => resolvers.to_vec(),
        () if !wanted.servers.is_empty() => wanted.servers.clone(),
        () => host.servers.into_iter().filter(|address| on_host || !address.is_loopback()).collect(),
    };
    let search = match wanted.search.as_slice() {
        [] => host.search,
        [only] if only == "." => Vec::new(),
        some => some.to_vec(),
    };
    let mut options = if wanted.options.is_empty() { host.options } else { wanted.options.clone() };
    if !resolvers.is_empty() && !options.iter().any(|option| option.starts_with("ndots")) {
        options.push("ndots:0".to_owned());
    }
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    for (word, values) in [("search", search), ("options", options)] {
        if !values.is_empty() {
            let _ = writeln!(text, "{word} {}", values.join(" "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# by hand\nnameserver 127.0.0.53\nnameserver 192.0.2.53 # office\nnameserver fe80::1%eth0\nsearch a.example b.example\noptions edns0 trust-ad\n";

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_hosts_servers_come_without_loopback() {
        assert_eq!(
            conf(HOST, &[], &Wanted::default(), false),
            "nameserver 192.0.2.53\nnameserver fe80::1\nsearch a.example b.example\noptions edns0 trust-ad\n"
        );
    }

    #[test]
    fn a_networks_resolver_stands_alone_and_names_without_dots_are_asked_first() {
        let wanted = Wanted {
            servers: vec![ip("9.9.9.9")],
            search: vec![".".to_owned()],
            options: vec!["timeout:1".to_owned()],
        };
        assert_eq!(conf(HOST, &[ip("10.93.0.1")], &wanted, false), "nameserver 10.93.0.1\noptions timeout:1 ndots:0\n");
        assert!(
            conf(HOST, &[], &Wanted::default(), true).starts_with("nameserver 127.0.0.53\n"),
            "the host's own network"
        );
        assert_eq!(conf(HOST, &[], &wanted, false), "nameserver 9.9.9.9\noptions timeout:1\n");
    }

    #[test]
    fn nonsense_lines_are_left_out() {
        assert_eq!(parse("nameserver\nnameserver x\nfoo bar\n\u{0}"), Conf::default());
    }
}
