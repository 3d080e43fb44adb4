//! `--device HOST[:CONTAINER[:rwm]]` and `--device-read-bps DEVICE:RATE`.

use super::{WishError, bytes};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// One device of the host offered to the container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Device {
    /// Its path on the host; a directory offers everything in it.
    pub host: String,
    /// Its path inside.
    pub container: String,
    /// Some of `r`, `w`, `m`.
    pub access: String,
}

impl FromStr for Device {
    type Err = WishError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(':').collect();
        let is_access = |part: &str| !part.is_empty() && part.bytes().all(|byte| b"rwm".contains(&byte));
        let (host, container, access) = match parts[..] {
            [host] => (host, host, "rwm"),
            [host, access] if is_access(access) => (host, host, access),
            [host, container] => (host, container, "rwm"),
            [host, container, access] if is_access(access) => (host, container, access),
            _ => return Err(WishError::new(text, "a device is HOST[:CONTAINER[:rwm]]")),
        };
        if !host.starts_with('/') || !container.starts_with('/') {
            return Err(WishError::new(text, "device paths are absolute"));
        }
        Ok(Self { host: host.into(), container: container.into(), access: access.into() })
    }
}

/// A rate for one block device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeviceRate {
    /// Its path on the host.
    pub path: String,
    /// Bytes or operations a second.
    pub rate: u64,
}

impl FromStr for DeviceRate {
    type Err = WishError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (path, rate) = text
            .rsplit_once(':')
            .filter(|(path, _)| path.starts_with("/dev/"))
            .ok_or_else(|| WishError::new(text, "a rate is /dev/DEVICE:RATE, as in /dev/sda:1mb"))?;
        Ok(Self { path: path.to_owned(), rate: bytes(rate)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_access_are_told_apart() {
        let device: Device = "/dev/fuse".parse().unwrap();
        assert_eq!((device.container.as_str(), device.access.as_str()), ("/dev/fuse", "rwm"));
        let device: Device = "/dev/a:/dev/b:r".parse().unwrap();
        assert_eq!((device.container.as_str(), device.access.as_str()), ("/dev/b", "r"));
        assert_eq!("/dev/a:rw".parse::<Device>().unwrap().container, "/dev/a");
        for bad in ["", "fuse", "/dev/a:b", "/dev/a:/dev/b:x"] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_carry_units() {
        assert_eq!("/dev/sda:1mb".parse::<DeviceRate>().unwrap().rate, 1 << 20);
        assert!("sda:1".parse::<DeviceRate>().is_err());
    }
}
