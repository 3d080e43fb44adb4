//! Driver options of the `local` driver: `type`, `device`, `o`. In: the map. Out: what to mount. Pure.

use super::Error;
use nix::mount::MsFlags;
use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::path::PathBuf;

/// Where a volume's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Its own folder.
    Folder,
    /// A directory of the host: `type=none,o=bind,device=/path`.
    Bind {
        /// The directory.
        device: PathBuf,
    },
    /// A file system: `type=nfs,device=:/export,o=addr=…` or `type=tmpfs,device=tmpfs,o=size=…`.
    Mount {
        /// The file system's type.
        kind: String,
        /// What to mount.
        device: String,
        /// Flags taken out of `o`.
        flags: MsFlags,
        /// What is left of `o`.
        data: String,
    },
}

/// Reads the options; an unknown one, or half of them, is an error.
pub fn parse(options: &BTreeMap<String, String>) -> Result<Source, Error> {
    let invalid = |reason: String| Err(Error::Invalid { reason });
    if let Some(name) = options.keys().find(|name| !matches!(name.as_str(), "type" | "device" | "o" | "size")) {
        return invalid(format!("invalid option: {name:?}; the local driver knows type, device and o"));
    }
    if options.contains_key("size") {
        return invalid(
            "option size needs a file system with project quotas, which this driver does not set up".to_owned(),
        );
    }
    let value = |name: &str| options.get(name).map(String::as_str).unwrap_or_default();
    let (kind, device, text) = (value("type"), value("device"), value("o"));
    if options.is_empty() {
        return Ok(Source::Folder);
    }
    if device.is_empty() && kind != "tmpfs" {
        return invalid("missing device in volume options".to_owned());
    }
    let words: Vec<&str> = text.split(',').filter(|word| !word.is_empty()).collect();
    if words.contains(&"bind") || words.contains(&"rbind") {
        if !device.starts_with('/') {
            return invalid(format!("device {device:?} of a bind volume must be an absolute path"));
        }
        return Ok(Source::Bind { device: PathBuf::from(device) });
    }
    if kind.is_empty() || kind == "none" {
        return invalid("missing type in volume options (or o=bind for a directory of the host)".to_owned());
    }
    let mut flags = MsFlags::empty();
    let mut rest = Vec::new();
    for word in words {
        match flag(word) {
            Some(bit) => flags |= bit,
            None if matches!(word, "rw" | "defaults") => {}
            None => rest.push(word.to_owned()),
        }
    }
    Ok(Source::Mount { kind: kind.to_owned(), device: device.to_owned(), flags, data: rest.join(",") })
}

fn flag(word: &str) -> Option<MsFlags> {
    Some(match word {
        "ro" => MsFlags::MS_RDONLY,
        "nosuid" => MsFlags::MS_NOSUID,
        "nodev" => MsFlags::MS_NODEV,
        "noexec" => MsFlags::MS_NOEXEC,
        "noatime" => MsFlags::MS_NOATIME,
        "nodiratime" => MsFlags::MS_NODIRATIME,
        "relatime" => MsFlags::MS_RELATIME,
        "sync" => MsFlags::MS_SYNCHRONOUS,
        _ => return None,
    })
}

/// Replaces the host name in an NFS volume's `addr=` by its address: the kernel takes addresses only.
pub fn resolve_address(data: &str) -> String {
    data.split(',')
        .map(|word| match word.strip_prefix("addr=") {
            Some(host) if host.parse::<std::net::IpAddr>().is_err() => (host, 0)
                .to_socket_addrs()
                .ok()
                .and_then(|mut found| found.next())
                .map_or_else(|| word.to_owned(), |found| format!("addr={}", found.ip())),
            _ => word.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Source, Error> {
        parse(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn the_documented_forms_are_read() {
        assert_eq!(read(&[]).expect("valid"), Source::Folder);
        assert_eq!(
            read(&[("type", "none"), ("o", "bind"), ("device", "/srv")]).expect("valid"),
            Source::Bind { device: "/srv".into() }
        );
        let expected = Source::Mount {
            kind: "tmpfs".to_owned(),
            device: "tmpfs".to_owned(),
            flags: MsFlags::MS_NOEXEC,
            data: "size=1m,uid=1000".to_owned(),
        };
        assert_eq!(
            read(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,noexec,uid=1000")]).expect("valid"),
            expected
        );
        assert!(matches!(
            read(&[("type", "nfs"), ("device", ":/export"), ("o", "addr=192.0.2.1,rw")]).expect("valid"),
            Source::Mount { data, .. } if data == "addr=192.0.2.1"
        ));
    }

    #[test]
    fn half_or_unknown_options_are_refused() {
        for wrong in [
            &[("type", "nfs")][..],
            &[("device", "/x")],
            &[("o", "bind"), ("device", "x")],
            &[("colour", "red")],
            &[("size", "1g")],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_address_stays_an_address() {
        assert_eq!(resolve_address("addr=192.0.2.1,vers=4"), "addr=192.0.2.1,vers=4");
    }
}
