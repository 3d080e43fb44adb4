//! Whether a process listens on a port, read from its network namespace: nobody connects, nothing shows in its log. In: a
//! process and ports. Out: yes or no.

use crate::service::Protocol;
use std::collections::BTreeSet;

/// `st` of a TCP socket that listens (`TCP_LISTEN`).
const LISTENS: &str = "0A";
/// `st` of a UDP socket that is bound and not connected (`TCP_CLOSE`).
const BOUND: &str = "07";

/// Says whether the network namespace of process `pid` listens on all of `ports` (`8000/tcp,53/udp`). What cannot be read is
/// not waited for.
#[must_use]
pub fn everywhere(pid: i32, ports: &str) -> bool {
    let open = |protocol: &str| -> Option<BTreeSet<u16>> {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{file}"));
        let state = if protocol == "tcp" { LISTENS } else { BOUND };
        let mut found = bound(&read(protocol).ok()?, state);
        // Without IPv6 in the kernel there is no such file.
        found.extend(read(&format!("{protocol}6")).map(|text| bound(&text, state)).unwrap_or_default());
        Some(found)
    };
    let mut wanted = ports.split(',').filter_map(|port| {
        let (number, protocol) = port.split_once('/')?;
        Some((number.parse::<u16>().ok()?, protocol))
    });
    wanted.all(|(number, protocol)| open(protocol).is_none_or(|open| open.contains(&number)))
}

/// Returns those of these ports that a program of this host listens on.
#[must_use]
pub fn taken(ports: &[(u16, Protocol)]) -> Vec<(u16, Protocol)> {
    let open = |protocol: Protocol| -> BTreeSet<u16> {
        let state = if protocol == Protocol::Tcp { LISTENS } else { BOUND };
        let read = |end: &str| std::fs::read_to_string(format!("/proc/self/net/{}{end}", protocol.name()));
        ["", "6"].iter().filter_map(|end| read(end).ok()).flat_map(|text| bound(&text, state)).collect()
    };
    let (tcp, udp) = (open(Protocol::Tcp), open(Protocol::Udp));
    let is_taken = |(port, protocol): &&(u16, Protocol)| match protocol {
        Protocol::Tcp => tcp.contains(port),
        Protocol::Udp => udp.contains(port),
    };
    ports.iter().filter(is_taken).copied().collect()
}

/// Returns the ports in a table of `/proc/net` whose sockets have this state and others can reach: not those of loopback.
fn bound(table: &str, state: &str) -> BTreeSet<u16> {
    let each = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (address, port) = words.next()?.split_once(':')?;
        let found = words.nth(1)?;
        (found == state && !is_loopback(address)).then(|| u16::from_str_radix(port, 16).ok())?
    });
    each.collect()
}

/// Addresses are printed as 32-bit numbers of this machine's byte order.
fn is_loopback(address: &str) -> bool {
    let v4 = |word: &str| u32::from_str_radix(word, 16).is_ok_and(|number| number.to_ne_bytes()[0] == 127);
    match address.len() {
        8 => v4(address),
        32 => {
            let (head, last) = address.split_at(24);
            let one = u32::from_str_radix(last, 16).is_ok_and(|number| number.to_ne_bytes() == [0, 0, 0, 1]);
            let mapped = head.starts_with("0000000000000000") && head != "0".repeat(24);
            (head == "0".repeat(24) && one) || (mapped && v4(last))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0200000A:1F42 0300000A:C001 01 00000000:00000000 00:00000000 00000000     0        0 3
";

    #[test]
    #[cfg(target_endian = "little")]
    fn only_sockets_that_listen_where_others_reach_them_count() {
        assert_eq!(bound(TCP, LISTENS), BTreeSet::from([8000]));
        let six = "head\n 0: 00000000000000000000000001000000:0050 0:0 0A\n 1: 00000000000000000000000000000000:0051 0:0 0A\n";
        assert_eq!(bound(six, LISTENS), BTreeSet::from([81]));
        assert_eq!(bound("head\n 0: 00000000:0035 00000000:0000 07 0\n", BOUND), BTreeSet::from([53]));
        assert_eq!(bound("", LISTENS), BTreeSet::new());
    }

    #[test]
    fn a_process_that_cannot_be_read_is_not_waited_for() {
        assert!(everywhere(-1, "80/tcp"));
    }

    #[test]
    fn this_process_is_seen_to_listen() {
        let socket = std::net::TcpListener::bind("0.0.0.0:0").expect("a port is free");
        let port = socket.local_addr().expect("it is bound").port();
        let me = i32::try_from(std::process::id()).expect("a pid");
        assert!(everywhere(me, &format!("{port}/tcp")));
        assert_eq!(taken(&[(port, Protocol::Tcp), (port, Protocol::Udp)]), [(port, Protocol::Tcp)]);
        drop(socket);
        assert!(!everywhere(me, &format!("{port}/tcp")));
    }
}
