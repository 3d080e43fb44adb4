//! The record of a network on disk: made, found, listed, removed. In: a folder and a request. Out: [`Network`]. One flock
//! guards the choice of subnets while networks are made or removed; no container's start ever waits for it but the first.

use super::ipam::absent;
use super::{DEFAULT, Error, Member, Networks, Step, plan};
use crate::host::netlink::{Family, Socket, link, route};
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

/// The version of `network.json`.
const VERSION: u32 = 1;
/// A bound for records that are read: none comes near it.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// How a network moves frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge with addresses, NAT and published ports.
    #[default]
    Bridge,
    /// Links with addresses of their own on an interface of the host.
    Macvlan,
}

impl std::fmt::Display for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
        })
    }
}

/// One subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The addresses.
    pub subnet: IpNet,
    /// The bridge's address, or the router's on a macvlan.
    pub gateway: IpAddr,
    /// The part that containers get addresses from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<IpNet>,
    /// Addresses of other devices, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reserved: BTreeMap<String, IpAddr>,
}

/// A network as recorded in `data/networks/NAME/network.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Format version.
    pub version: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// The name, unique on this host.
    pub name: String,
    /// How it moves frames.
    pub driver: Driver,
    /// When it was made, nanoseconds since 1970.
    pub created: u64,
    /// IPv4 first.
    pub subnets: Vec<Subnet>,
    /// Nothing in, nothing out.
    #[serde(default)]
    pub internal: bool,
    /// Whether containers get IPv6 addresses.
    #[serde(default)]
    pub ipv6: bool,
    /// The MTU, or that of the interface with the default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The host's interface below a macvlan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The bridge's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bridge: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Driver options as given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// What a newer shoal wrote.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// `com.docker.network.bridge.enable_icc`: false keeps containers of one network apart.
const OPTION_ICC: &str = "com.docker.network.bridge.enable_icc";
/// `com.docker.network.bridge.enable_ip_masquerade`.
const OPTION_MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
/// `com.docker.network.bridge.name`.
const OPTION_NAME: &str = "com.docker.network.bridge.name";
/// `com.docker.network.bridge.gateway_mode_ipv4`: `routed` opens containers to other hosts without published ports.
const OPTION_GATEWAY_MODE: &str = "com.docker.network.bridge.gateway_mode_ipv4";
/// `com.docker.network.driver.mtu`, also `mtu`.
const OPTION_MTU: &str = "com.docker.network.driver.mtu";
/// `parent` of a macvlan.
const OPTION_PARENT: &str = "parent";

impl Network {
    fn flag(&self, option: &str, default: bool) -> bool {
        self.options.get(option).map_or(default, |value| value == "true" || value == "1")
    }

    /// Returns whether containers of this network may talk to each other.
    pub fn talks(&self) -> bool {
        self.flag(OPTION_ICC, true)
    }

    /// Returns whether traffic that leaves takes the host's address.
    pub fn masquerades(&self) -> bool {
        self.flag(OPTION_MASQUERADE, true) && !self.routed()
    }

    /// Returns whether other hosts reach containers without published ports.
    pub fn routed(&self) -> bool {
        self.options.get(OPTION_GATEWAY_MODE).is_some_and(|mode| mode == "routed")
    }

    /// Returns whether a resolver answers names on this network: on every bridge but the default one.
    pub fn has_names(&self) -> bool {
        self.name != DEFAULT && self.driver == Driver::Bridge
    }
}

/// What `network create` asked for.
#[derive(Debug, Clone, Default)]
pub struct Create {
    /// The name.
    pub name: String,
    /// `-d`.
    pub driver: Driver,
    /// `--subnet`, in order.
    pub subnets: Vec<IpNet>,
    /// `--gateway`, each within one subnet.
    pub gateways: Vec<IpAddr>,
    /// `--ip-range`, each within one subnet.
    pub ranges: Vec<IpNet>,
    /// `--aux-address NAME=ADDRESS`.
    pub reserved: BTreeMap<String, IpAddr>,
    /// `--internal`.
    pub internal: bool,
    /// `--ipv6`.
    pub ipv6: bool,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `-o`.
    pub options: BTreeMap<String, String>,
}

impl Networks {
    /// Makes a network's record; the bridge itself comes with its first container.
    pub fn create(&self, request: &Create) -> Result<Network, Error> {
        check_name(&request.name)?;
        fs::create_dir_all(&self.data).step(|| format!("make {}", self.data.display()))?;
        let _lock = self.lock()?;
        self.create_locked(request)
    }

    fn lock(&self) -> Result<Flock<File>, Error> {
        let path = self.data.join(".lock");
        let file = File::create(&path).step(|| format!("make {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::Io { step: format!("lock {}", path.display()), source: errno.into() })
    }

    /// Keeps a network from being removed while a container is connected to it.
    pub(crate) fn hold(&self, network: &Network) -> Result<Flock<File>, Error> {
        self.lock_one(network, FlockArg::LockShared)
    }

    fn lock_one(&self, network: &Network, how: FlockArg) -> Result<Flock<File>, Error> {
        let folder = self.data.join(&network.name);
        let path = folder.join("lock");
        let missing = || Error::NotFound { name: network.name.clone() };
        let file = absent(File::create(&path)).step(|| format!("make {}", path.display()))?.ok_or_else(missing)?;
        let lock = Flock::lock(file, how)
            .map_err(|(_, errno)| Error::Io { step: format!("lock {}", path.display()), source: errno.into() })?;
        // Removed while this waited, and perhaps made anew under the same name.
        let same = read(&folder)?.is_some_and(|now| now.id == network.id);
        if same { Ok(lock) } else { Err(missing()) }
    }

    fn create_locked(&self, request: &Create) -> Result<Network, Error> {
        if self.data.join(&request.name).exists() {
            return Err(Error::Exists { name: request.name.clone() });
        }
        let id = new_id().step(|| "read random bytes for the network's id".to_owned())?;
        let taken = self.taken()?;
        let network = draw_up(request, &id, &taken, self.salt, crate::time::now())?;
        self.check_bridge(&network)?;
        let draft = self.data.join(format!(".new-{id}"));
        let write = || -> std::io::Result<()> {
            fs::create_dir(&draft)?;
            fs::write(draft.join("network.json"), serde_json::to_vec_pretty(&network)?)?;
            File::open(draft.join("network.json"))?.sync_all()?;
            fs::rename(&draft, self.data.join(&request.name))
        };
        write().step(|| format!("write the record of network {}", request.name))?;
        Ok(network)
    }

    /// Refuses a bridge whose name an interface of the host or another network has.
    fn check_bridge(&self, network: &Network) -> Result<(), Error> {
        let name = &network.bridge;
        if name.is_empty() {
            return Ok(());
        }
        if let Some(other) = self.list()?.into_iter().find(|other| other.bridge == *name) {
            return Err(Error::Invalid { reason: format!("bridge {name} is that of network {}", other.name) });
        }
        let step = || format!("look up bridge {name}");
        let mut socket = Socket::open(Family::Route).step(step)?;
        match link::find(&mut socket, name).step(step)? {
            Some(_) => Err(Error::Invalid {
                reason: format!("{name} is an interface of this host already: give the network's bridge another name"),
            }),
            None => Ok(()),
        }
    }

    /// What a new subnet must not overlap: the host's routes and addresses, and the networks of these roots.
    fn taken(&self) -> Result<Vec<IpNet>, Error> {
        let mut taken = Socket::open(Family::Route)
            .and_then(|mut socket| route::networks_in_use(&mut socket))
            .step(|| "list this host's routes".to_owned())?;
        taken.extend(self.list()?.iter().flat_map(|network| network.subnets.iter().map(|subnet| subnet.subnet)));
        Ok(taken)
    }

    /// Finds a network by name, id or a prefix of its id. The default one is made when it is first asked for.
    pub fn find(&self, name: &str) -> Result<Network, Error> {
        if is_name(name)
            && let Some(network) = read(&self.data.join(name))?
        {
            return Ok(network);
        }
        if name == DEFAULT {
            return self.make_default();
        }
        let mut found: Vec<Network> =
            self.list()?.into_iter().filter(|network| !name.is_empty() && network.id.starts_with(name)).collect();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Error::NotFound { name: name.to_owned() }),
            count => Err(Error::Ambiguous { name: name.to_owned(), count }),
        }
    }

    fn make_default(&self) -> Result<Network, Error> {
        fs::create_dir_all(&self.data).step(|| format!("make {}", self.data.display()))?;
        let _lock = self.lock()?;
        if let Some(network) = read(&self.data.join(DEFAULT))? {
            return Ok(network);
        }
        self.create_locked(&Create { name: DEFAULT.to_owned(), ..Create::default() })
    }

    /// Lists the networks, by name. The default one is listed once it was made.
    pub fn list(&self) -> Result<Vec<Network>, Error> {
        let entries = absent(fs::read_dir(&self.data)).step(|| format!("list {}", self.data.display()))?;
        let mut networks = Vec::new();
        for entry in entries.into_iter().flatten() {
            let entry = entry.step(|| format!("list {}", self.data.display()))?;
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                networks.extend(read(&entry.path())?);
            }
        }
        networks.sort_by(|a: &Network, b| a.name.cmp(&b.name));
        Ok(networks)
    }

    /// Removes a network without containers: its record, its bridge, its firewall elements.
    pub fn remove(&self, name: &str) -> Result<Network, Error> {
        let network = self.find(name)?;
        if network.name == DEFAULT {
            return Err(Error::Predefined { name: network.name });
        }
        let _lock = self.lock()?;
        // Waits for containers that are just being connected; those that come later find no network.
        let _alone = self.lock_one(&network, FlockArg::LockExclusive)?;
        let members = self.members(&network)?;
        let alive: Vec<&str> = members
            .iter()
            .filter(|member| crate::name::lives(&self.containers.join(&member.attachment.container)))
            .map(|member| member.name.as_str())
            .collect();
        if !alive.is_empty() {
            return Err(Error::InUse { name: network.name, containers: alive.join(", ") });
        }
        crate::host::attach::dismantle(&network)?;
        // The record goes first by rename: a name never points at half a network.
        let gone = self.data.join(format!(".old-{}", network.id));
        let clear = || -> std::io::Result<()> {
            fs::rename(self.data.join(&network.name), &gone)?;
            fs::remove_dir_all(&gone)?;
            absent(fs::remove_dir_all(self.run_folder(&network.id))).map(|_| ())
        };
        clear().step(|| format!("remove the record of network {}", network.name))?;
        Ok(network)
    }
}

/// Decides what a new network is. Pure.
fn draw_up(request: &Create, id: &str, taken: &[IpNet], salt: u64, now: u64) -> Result<Network, Error> {
    let invalid = |reason: String| Error::Invalid { reason };
    let option = |name: &str| request.options.get(name);
    let mtu = option(OPTION_MTU)
        .or_else(|| option("mtu"))
        .map(|text| {
            text.parse::<u32>()
                .ok()
                .filter(|mtu| (68..=65_535).contains(mtu))
                .ok_or_else(|| invalid(format!("mtu {text} is not between 68 and 65535")))
        })
        .transpose()?;
    check_options(request)?;
    let subnets = draw_subnets(request, id, taken, salt)?;
    let bridge = match request.driver {
        Driver::Bridge => option(OPTION_NAME).cloned().unwrap_or_else(|| plan::bridge_name(id)),
        Driver::Macvlan => String::new(),
    };
    if bridge.len() > 15 || bridge.contains(['/', ' ']) {
        return Err(invalid(format!(
            "{bridge} is no name for an interface: at most 15 characters, no slash, no space"
        )));
    }
    Ok(Network {
        version: VERSION,
        id: id.to_owned(),
        name: request.name.clone(),
        driver: request.driver,
        created: now,
        ipv6: subnets.iter().any(|subnet| subnet.subnet.addr().is_ipv6()),
        subnets,
        internal: request.internal,
        mtu,
        parent: option(OPTION_PARENT).cloned(),
        bridge,
        labels: request.labels.clone(),
        options: request.options.clone(),
        unknown: BTreeMap::new(),
    })
}

fn check_options(request: &Create) -> Result<(), Error> {
    let known: &[&str] = match request.driver {
        Driver::Bridge => &[OPTION_ICC, OPTION_MASQUERADE, OPTION_NAME, OPTION_GATEWAY_MODE, OPTION_MTU, "mtu"],
        Driver::Macvlan => &[OPTION_PARENT, OPTION_MTU, "mtu", "macvlan_mode"],
    };
    for (name, value) in &request.options {
        if !known.contains(&name.as_str()) {
            return Err(Error::Invalid {
                reason: format!("driver {} has no option {name}; it knows {}", request.driver, known.join(", ")),
            });
        }
        let fits = match name.as_str() {
            OPTION_ICC | OPTION_MASQUERADE => matches!(value.as_str(), "true" | "false" | "1" | "0"),
            OPTION_GATEWAY_MODE => matches!(value.as_str(), "nat" | "routed"),
            "macvlan_mode" => value == "bridge",
            _ => !value.is_empty(),
        };
        if !fits {
            return Err(Error::Invalid { reason: format!("option {name} cannot be {value:?}") });
        }
    }
    if request.driver == Driver::Macvlan && request.subnets.is_empty() {
        return Err(Error::Invalid {
            reason: "a macvlan network needs --subnet: the addresses of the parent's own network".to_owned(),
        });
    }
    Ok(())
}

fn draw_subnets(request: &Create, id: &str, taken: &[IpNet], salt: u64) -> Result<Vec<Subnet>, Error> {
    let invalid = |reason: String| Error::Invalid { reason };
    let mut nets = request.subnets.clone();
    if request.driver == Driver::Bridge {
        for (at, net) in nets.iter().enumerate() {
            if let Some(other) = taken.iter().chain(&nets[..at]).find(|other| plan::overlap(net, other)) {
                return Err(invalid(format!("subnet {net} overlaps {other}, which this host already uses")));
            }
        }
        let only_v6_asked = request.ipv6 && !nets.is_empty();
        if !only_v6_asked && nets.iter().all(|net| net.addr().is_ipv6()) {
            let default = request.name == DEFAULT;
            let free = plan::free_subnet4(taken, default, salt)
                .ok_or_else(|| Error::NoSubnet { name: request.name.clone() })?;
            nets.insert(0, IpNet::V4(free));
        }
    }
    if request.ipv6 && !nets.iter().any(|net| net.addr().is_ipv6()) {
        nets.push(IpNet::V6(plan::subnet6(id)));
    }
    for net in &nets {
        if *net != net.trunc() {
            return Err(invalid(format!("{net} is not a network's address; {} is", net.trunc())));
        }
        if net.max_prefix_len() - net.prefix_len() < 2 {
            return Err(invalid(format!("subnet {net} has no room for a gateway and a container")));
        }
    }
    nets.sort_by_key(|net| net.addr().is_ipv6());
    let outside = |what: &str, address: String| invalid(format!("{what} {address} is in none of the subnets"));
    if let Some(gateway) = request.gateways.iter().find(|gateway| !nets.iter().any(|net| net.contains(*gateway))) {
        return Err(outside("gateway", gateway.to_string()));
    }
    if let Some(range) = request.ranges.iter().find(|range| !nets.iter().any(|net| net.contains(*range))) {
        return Err(outside("ip-range", range.to_string()));
    }
    if let Some(address) = request.reserved.values().find(|address| !nets.iter().any(|net| net.contains(*address))) {
        return Err(outside("aux-address", address.to_string()));
    }
    Ok(nets
        .into_iter()
        .map(|subnet| Subnet {
            subnet,
            gateway: request
                .gateways
                .iter()
                .copied()
                .find(|gateway| subnet.contains(gateway))
                .unwrap_or_else(|| plan::first_address(&subnet)),
            range: request.ranges.iter().copied().find(|range| subnet.contains(range)),
            reserved: request
                .reserved
                .iter()
                .filter(|(_, address)| subnet.contains(*address))
                .map(|(name, address)| (name.clone(), *address))
                .collect(),
        })
        .collect())
}

fn is_name(name: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && name.bytes().all(rest) && name.len() <= 128
}

fn check_name(name: &str) -> Result<(), Error> {
    if matches!(name, "host" | "none" | "default" | "container") {
        return Err(Error::Invalid { reason: format!("{name} is a pre-defined network") });
    }
    if !is_name(name) {
        return Err(Error::Invalid {
            reason: format!("invalid network name {name:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed, at most 128"),
        });
    }
    Ok(())
}

fn new_id() -> std::io::Result<String> {
    use std::fmt::Write;
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn read(folder: &Path) -> Result<Option<Network>, Error> {
    let path = folder.join("network.json");
    let Some(file) = absent(File::open(&path)).step(|| format!("open {}", path.display()))? else { return Ok(None) };
    let mut text = String::new();
    file.take(RECORD_BYTES_MAX).read_to_string(&mut text).step(|| format!("read {}", path.display()))?;
    let network: Network =
        serde_json::from_str(&text).map_err(|error| Error::Record { path: path.clone(), reason: error.to_string() })?;
    if network.version != VERSION {
        return Err(Error::Record {
            path,
            reason: format!("version {} is not {VERSION}: written by a newer shoal", network.version),
        });
    }
    Ok(Some(network))
}

/// Reads the members of a network's run-time folder, by container; a half-gone file is left out.
pub(super) fn members(run: &Path) -> Result<Vec<Member>, Error> {
    let folder = run.join("members");
    let Some(entries) = absent(fs::read_dir(&folder)).step(|| format!("list {}", folder.display()))? else {
        return Ok(Vec::new());
    };
    let mut members = Vec::new();
    for entry in entries {
        let path = entry.step(|| format!("list {}", folder.display()))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let Some(bytes) = absent(fs::read(&path)).step(|| format!("read {}", path.display()))? else { continue };
        let member: Member =
            serde_json::from_slice(&bytes).map_err(|error| Error::Record { path, reason: error.to_string() })?;
        members.push(member);
    }
    members.sort_by(|a, b| a.attachment.container.cmp(&b.attachment.container));
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(request: &Create) -> Result<Network, Error> {
        draw_up(request, &"ab".repeat(32), &["192.0.2.0/24".parse().expect("a network")], 0, 1)
    }

    fn request(name: &str) -> Create {
        Create { name: name.to_owned(), ..Create::default() }
    }

    #[test]
    fn a_plain_network_gets_a_subnet_and_its_first_address_as_gateway() {
        let network = make(&request("web")).expect("valid");
        assert_eq!(network.subnets[0].subnet.to_string(), "10.93.0.0/24");
        assert_eq!(network.subnets[0].gateway.to_string(), "10.93.0.1");
        assert_eq!(network.bridge, "sh-abababababab");
        assert!(!network.ipv6);
    }

    #[test]
    fn ipv6_gets_a_unique_local_subnet() {
        let network = make(&Create { ipv6: true, ..request("web") }).expect("valid");
        assert_eq!(network.subnets.len(), 2);
        assert!(network.ipv6 && network.subnets[1].subnet.to_string().starts_with("fd"));
    }

    #[test]
    fn contradictions_are_refused() {
        let net = |text: &str| text.parse::<IpNet>().expect("a network");
        let wrong = [
            Create { subnets: vec![net("192.0.2.0/25")], ..request("a") },
            Create { subnets: vec![net("10.0.0.1/24")], ..request("a") },
            Create { subnets: vec![net("10.0.0.0/31")], ..request("a") },
            Create {
                subnets: vec![net("10.0.0.0/24")],
                gateways: vec!["10.1.0.1".parse().expect("an address")],
                ..request("a")
            },
            Create { options: [("colour".to_owned(), "red".to_owned())].into(), ..request("a") },
            Create { options: [("mtu".to_owned(), "12".to_owned())].into(), ..request("a") },
            Create { driver: Driver::Macvlan, ..request("a") },
        ];
        for request in wrong {
            assert!(make(&request).is_err(), "{request:?}");
        }
        assert!(check_name("host").is_err() && check_name("../x").is_err() && check_name("a-b.c_d").is_ok());
    }

    #[test]
    fn a_newer_shoals_fields_survive() {
        let mut value = serde_json::to_value(make(&request("web")).expect("valid")).expect("JSON");
        value["colour"] = "red".into();
        let network: Network = serde_json::from_value(value).expect("a record");
        assert_eq!(serde_json::to_value(&network).expect("JSON")["colour"], "red");
    }
}
