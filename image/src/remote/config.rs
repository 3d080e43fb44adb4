//! Where a repository may be found: `registries.conf`, containerd's `hosts.toml` and `certs.d` in, [`Endpoint`]s out.
//!
//! Mirrors come first in the order they are written, the registry itself last (unless it is blocked). Reading is all this
//! file does; a file that is not valid is an error with its name, never skipped.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes of one configuration file that are read.
const FILE_MAX: u64 = 1 << 20;

/// One place to ask for a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The base of the API with scheme and without a trailing slash, for example `https://mirror:5000/v2`.
    pub base: String,
    /// `host[:port]` as people write it: the key for credentials.
    pub registry: String,
    /// The repository's name at this place.
    pub repository: String,
    /// How its certificate is judged.
    pub tls: Tls,
    /// Headers of `hosts.toml`, sent with every request to this endpoint only.
    pub headers: Vec<(String, String)>,
    /// Added to every request as `?ns=`, so that a containerd style mirror knows the upstream.
    pub namespace: Option<String>,
    /// Whether this is a mirror: it may serve pulls only, and its failures lead to the next endpoint.
    pub mirror: bool,
    /// Whether tags may be resolved here (else digests only).
    pub resolves_tags: bool,
    /// Whether plain HTTP may be tried when TLS fails to connect (`insecure` registries).
    pub plain_fallback: bool,
}

/// How a registry's certificate is judged, and what we show it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Tls {
    /// No verification at all.
    pub skip_verify: bool,
    /// More authorities, PEM files.
    pub authorities: Vec<PathBuf>,
    /// Our certificate and key, PEM files.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Why configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A file is not valid.
    #[error("{} is not valid: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry is blocked by `registries.conf`.
    #[error("{registry} is blocked by {}", path.display())]
    Blocked {
        /// What was asked for.
        registry: String,
        /// The file that says so.
        path: PathBuf,
    },
}

/// What the user and the host's files say about registries.
#[derive(Debug, Clone, Default)]
pub struct Config {
    registries: Vec<(Registry, PathBuf)>,
    search: Vec<String>,
    aliases: BTreeMap<String, String>,
    hosts_folders: Vec<PathBuf>,
    certs_folders: Vec<PathBuf>,
    /// `--tls-verify=false`: every registry of this command is insecure.
    pub insecure: bool,
}

#[derive(Debug, Clone, Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    unqualified_search_registries: Vec<String>,
    registry: Vec<Registry>,
    aliases: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

impl Config {
    /// Reads the host's files: `/etc/containers/registries.conf` (and `.d`), or the user's own; `$CONTAINERS_REGISTRIES_CONF` replaces both.
    pub fn load(env: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut config = Self {
            hosts_folders: vec!["/etc/containerd/certs.d".into(), "/etc/docker/certs.d".into()],
            certs_folders: vec!["/etc/containers/certs.d".into(), "/etc/docker/certs.d".into()],
            ..Self::default()
        };
        if let Some(folder) = env("SHOAL_CERTS_D") {
            config.hosts_folders.insert(0, folder.clone().into());
            config.certs_folders.insert(0, folder.into());
        }
        let home =
            env("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| env("HOME").map(|h| Path::new(&h).join(".config")));
        if let Some(home) = &home {
            config.certs_folders.insert(0, home.join("containers/certs.d"));
        }
        if let Some(path) = env("CONTAINERS_REGISTRIES_CONF").or_else(|| env("REGISTRIES_CONFIG_PATH")) {
            config.read(Path::new(&path))?;
            return Ok(config);
        }
        let own = home.map(|home| home.join("containers/registries.conf")).filter(|path| path.exists());
        let main = own.unwrap_or_else(|| "/etc/containers/registries.conf".into());
        if main.exists() {
            config.read(&main)?;
        }
        let folder = main.with_extension("conf.d");
        if let Ok(entries) = std::fs::read_dir(&folder) {
            let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            paths.retain(|path| path.extension().is_some_and(|e| e == "conf"));
            paths.sort();
            for path in paths {
                config.read(&path)?;
            }
        }
        Ok(config)
    }

    /// Reads one `registries.conf`; later files win.
    pub fn read(&mut self, path: &Path) -> Result<(), ConfigError> {
        let file: File = parse(path)?;
        if !file.unqualified_search_registries.is_empty() {
            self.search = file.unqualified_search_registries;
        }
        self.aliases.extend(file.aliases);
        for mut registry in file.registry {
            if registry.prefix.is_empty() {
                registry.prefix.clone_from(&registry.location);
            }
            if registry.location.is_empty() && !registry.prefix.starts_with("*.") {
                registry.location.clone_from(&registry.prefix);
            }
            if registry.prefix.is_empty() {
                let reason = "a [[registry]] has neither prefix nor location".to_owned();
                return Err(ConfigError::Invalid { path: path.to_owned(), reason });
            }
            self.registries.retain(|(old, _)| old.prefix != registry.prefix);
            self.registries.push((registry, path.to_owned()));
        }
        Ok(())
    }

    /// Uses `folder` before the host's folders for `hosts.toml` and certificates.
    pub fn certs_folder(&mut self, folder: &Path) {
        self.hosts_folders.insert(0, folder.to_owned());
        self.certs_folders.insert(0, folder.to_owned());
    }

    /// Returns the full names an unqualified `name` (no registry part) may mean, best first: its alias, else one name per search registry.
    pub fn search(&self, name: &str) -> Vec<String> {
        if let Some(full) = self.aliases.get(name) {
            return vec![full.clone()];
        }
        self.search.iter().map(|registry| format!("{registry}/{name}")).collect()
    }

    /// Returns where `registry/repository` may be found, mirrors first. `write` asks for the registry itself only.
    pub fn endpoints(&self, registry: &str, repository: &str, write: bool) -> Result<Vec<Endpoint>, ConfigError> {
        let full = format!("{registry}/{repository}");
        let found = self.registries.iter().filter_map(|(r, path)| Some((prefix_length(&r.prefix, &full)?, r, path)));
        let found = found.max_by_key(|(length, ..)| *length);
        // Blocked is blocked, whatever else is written elsewhere.
        if let Some((_, rule, path)) = found
            && rule.blocked
        {
            return Err(ConfigError::Blocked { registry: full, path: path.clone() });
        }
        // A hosts.toml of this registry says it all; the one for every registry gives way to a rule for this one.
        if let Some(endpoints) = self.hosts_toml(registry, repository, write, found.is_none())? {
            return Ok(endpoints);
        }
        let Some((_, rule, _)) = found else {
            return Ok(vec![self.endpoint(registry, repository, false)?]);
        };
        let mut endpoints = Vec::new();
        if !write {
            for mirror in &rule.mirror {
                let (host, repository) = moved(&rule.prefix, &mirror.location, &full);
                let mut endpoint = self.endpoint(&host, &repository, mirror.insecure)?;
                endpoint.mirror = true;
                let digests_only = rule.mirror_by_digest_only || mirror.pull_from_mirror == "digest-only";
                endpoint.resolves_tags = !digests_only;
                endpoints.push(endpoint);
            }
        }
        let (host, repository) = moved(&rule.prefix, &rule.location, &full);
        endpoints.push(self.endpoint(&host, &repository, rule.insecure)?);
        Ok(endpoints)
    }

    fn endpoint(&self, registry: &str, repository: &str, insecure: bool) -> Result<Endpoint, ConfigError> {
        let insecure = insecure || self.insecure;
        let mut tls = self.certificates(registry)?;
        tls.skip_verify |= insecure;
        // As docker and podman do, loopback needs no TLS; a certificate folder of its own says that it has some.
        let plain = is_loopback(registry) && tls.authorities.is_empty() && tls.client.is_none();
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        Ok(Endpoint {
            base: format!("{}://{host}/v2", if plain && !insecure { "http" } else { "https" }),
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tls,
            headers: Vec::new(),
            namespace: None,
            mirror: false,
            resolves_tags: true,
            plain_fallback: insecure || plain,
        })
    }

    /// `certs.d/HOST[:PORT]/{*.crt, *.cert + *.key}`: docker's and podman's folder of certificates.
    fn certificates(&self, registry: &str) -> Result<Tls, ConfigError> {
        let mut tls = Tls::default();
        for folder in &self.certs_folders {
            let folder = folder.join(registry);
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            for path in paths {
                match path.extension().and_then(|e| e.to_str()) {
                    Some("crt") => tls.authorities.push(path),
                    Some("cert") => {
                        let key = path.with_extension("key");
                        if !key.exists() {
                            let reason = format!("it has no key beside it ({})", key.display());
                            return Err(ConfigError::Invalid { path, reason });
                        }
                        tls.client = Some((path, key));
                    }
                    _ => {}
                }
            }
            if tls != Tls::default() {
                break;
            }
        }
        Ok(tls)
    }

    fn hosts_toml(
        &self,
        registry: &str,
        repository: &str,
        write: bool,
        or_default: bool,
    ) -> Result<Option<Vec<Endpoint>>, ConfigError> {
        let names = [registry.to_owned(), registry.replace(':', "_") + "_", "_default".to_owned()];
        let names = &names[..if or_default { 3 } else { 2 }];
        let files =
            names.iter().flat_map(|name| self.hosts_folders.iter().map(move |f| f.join(name).join("hosts.toml")));
        let Some(path) = files.into_iter().find(|path| path.exists()) else { return Ok(None) };
        let invalid = |reason: String| ConfigError::Invalid { path: path.clone(), reason };
        let document: toml::Table = parse(&path)?;
        let mut endpoints = Vec::new();
        // `toml` is built with its order kept: the order of the file is the order of trial.
        for (url, settings) in document.get("host").and_then(toml::Value::as_table).into_iter().flatten() {
            let settings = settings.as_table().ok_or_else(|| invalid(format!("host.{url} is not a table")))?;
            let capabilities = strings(settings.get("capabilities"));
            let can = |what: &str| capabilities.is_empty() || capabilities.iter().any(|c| c == what);
            if (write && !can("push")) || (!write && !can("pull")) {
                continue;
            }
            let mut endpoint = self.host_endpoint(url, settings, repository, &path)?;
            endpoint.mirror = !write;
            endpoint.resolves_tags = can("resolve");
            endpoint.namespace = Some(registry.to_owned()).filter(|_| !write && endpoint.registry != registry);
            endpoints.push(endpoint);
        }
        match document.get("server").and_then(toml::Value::as_str) {
            Some(server) => {
                let mut endpoint = self.host_endpoint(server, &document, repository, &path)?;
                registry.clone_into(&mut endpoint.registry);
                endpoints.push(endpoint);
            }
            None => endpoints.push(self.endpoint(registry, repository, false)?),
        }
        Ok(Some(endpoints))
    }

    fn host_endpoint(
        &self,
        url: &str,
        settings: &toml::Table,
        repository: &str,
        path: &Path,
    ) -> Result<Endpoint, ConfigError> {
        let folder = path.parent().unwrap_or_else(|| Path::new("/"));
        let whole = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
        let trimmed = whole.trim_end_matches('/');
        let (scheme, rest) = trimmed.split_once("://").unwrap_or(("https", trimmed));
        let host = rest.split('/').next().unwrap_or(rest);
        if host.is_empty() || !matches!(scheme, "http" | "https") {
            let reason = format!("`{url}` is not an http or https URL");
            return Err(ConfigError::Invalid { path: path.to_owned(), reason });
        }
        let flag = |name: &str| settings.get(name).and_then(toml::Value::as_bool).unwrap_or(false);
        let base = if flag("override_path") || trimmed.ends_with("/v2") {
            trimmed.to_owned()
        } else {
            format!("{trimmed}/v2")
        };
        let mut endpoint = self.endpoint(host, repository, flag("skip_verify"))?;
        endpoint.base = base;
        endpoint.plain_fallback = false;
        endpoint.tls.authorities.extend(strings(settings.get("ca")).iter().map(|ca| folder.join(ca)));
        if let Some(client) = settings.get("client").and_then(toml::Value::as_array).and_then(|all| all.first()) {
            let pair = strings(Some(client));
            if let [certificate, key] = pair.as_slice() {
                endpoint.tls.client = Some((folder.join(certificate), folder.join(key)));
            }
        }
        for (name, value) in settings.get("header").and_then(toml::Value::as_table).into_iter().flatten() {
            endpoint.headers.extend(strings(Some(value)).into_iter().map(|value| (name.clone(), value)));
        }
        Ok(endpoint)
    }
}

/// Whether `registry` (host\[:port\]) is this host itself.
pub fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.split(':').next().unwrap_or(registry),
    };
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A string or a list of strings.
fn strings(value: Option<&toml::Value>) -> Vec<String> {
    match value {
        Some(toml::Value::String(one)) => vec![one.clone()],
        Some(toml::Value::Array(many)) => many.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// How much of `full` a prefix covers; `None` when it does not match. `*.example.com` covers sub-domains.
fn prefix_length(prefix: &str, full: &str) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = full.split(['/', ':']).next().unwrap_or(full);
        return host.ends_with(domain).then_some(domain.len());
    }
    let rest = full.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with(['/', ':', '@'])).then_some(prefix.len())
}

/// Replaces `prefix` at the front of `full` by `location`, and splits host from repository.
fn moved(prefix: &str, location: &str, full: &str) -> (String, String) {
    let renamed = match (prefix.strip_prefix('*'), location.is_empty()) {
        (_, true) => full.to_owned(),
        (Some(_), false) => format!("{location}/{}", full.split_once('/').map_or("", |(_, rest)| rest)),
        (None, false) => format!("{location}{}", full.strip_prefix(prefix).unwrap_or_default()),
    };
    let (host, repository) = renamed.split_once('/').unwrap_or((&renamed, ""));
    (host.to_owned(), repository.trim_matches('/').to_owned())
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    let invalid = |reason: String| ConfigError::Invalid { path: path.to_owned(), reason };
    if std::fs::metadata(path).map_err(read)?.len() > FILE_MAX {
        return Err(invalid(format!("it is larger than {FILE_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    toml::from_str(&text).map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registries.conf");
        std::fs::write(&path, text).unwrap();
        let mut config = Config::default();
        config.read(&path).unwrap();
        config
    }

    fn bases(config: &Config, registry: &str, repository: &str) -> Vec<String> {
        let all = config.endpoints(registry, repository, false).unwrap();
        all.into_iter().map(|e| format!("{}/{}", e.base, e.repository)).collect()
    }

    #[test]
    fn without_any_file_the_registry_itself_is_asked() {
        let config = Config::default();
        assert_eq!(bases(&config, "docker.io", "library/a"), ["https://registry-1.docker.io/v2/library/a"]);
        assert_eq!(bases(&config, "localhost:5000", "a"), ["http://localhost:5000/v2/a"]);
        assert_eq!(bases(&config, "r.example", "a"), ["https://r.example/v2/a"]);
    }

    #[test]
    fn mirrors_come_first_and_prefixes_move() {
        let config = config(
            "[[registry]]\nprefix='docker.io/library'\nlocation='hub.example/lib'\n\
             [[registry.mirror]]\nlocation='m.example:5000/cache'\ninsecure=true\n\
             [[registry]]\nprefix='*.corp.example'\nlocation='one.example/all'\n",
        );
        assert_eq!(
            bases(&config, "docker.io", "library/a"),
            ["https://m.example:5000/v2/cache/a", "https://hub.example/v2/lib/a"]
        );
        assert_eq!(bases(&config, "docker.io", "libraryx/a"), ["https://registry-1.docker.io/v2/libraryx/a"]);
        assert_eq!(bases(&config, "a.corp.example", "x/y"), ["https://one.example/v2/all/x/y"]);
        let push = config.endpoints("docker.io", "library/a", true).unwrap();
        assert_eq!(push.len(), 1);
        assert!(!push[0].mirror);
    }

    #[test]
    fn a_blocked_registry_is_refused_with_the_file() {
        let config = config("[[registry]]\nlocation='bad.example'\nblocked=true\n");
        assert!(config.endpoints("bad.example", "a", false).unwrap_err().to_string().contains("blocked by"));
    }

    #[test]
    fn hosts_toml_opens_no_blocked_registry_and_its_default_gives_way_to_a_rule() {
        let folder = tempfile::tempdir().unwrap();
        for (name, server) in [("bad.example", "https://way.example"), ("_default", "https://any.example")] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("hosts.toml"), format!("server = '{server}'\n")).unwrap();
        }
        let mut config = config(
            "[[registry]]\nlocation='bad.example'\nblocked=true\n[[registry]]\nprefix='r.example'\nlocation='m.example'\n",
        );
        config.certs_folder(folder.path());
        for write in [false, true] {
            assert!(config.endpoints("bad.example", "a", write).unwrap_err().to_string().contains("blocked by"));
        }
        let base = |registry: &str| config.endpoints(registry, "a", false).unwrap()[0].base.clone();
        assert_eq!(base("r.example"), "https://m.example/v2");
        assert_eq!(base("other.example"), "https://any.example/v2");
    }

    #[test]
    fn hosts_toml_is_read_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join("docker.io");
        std::fs::create_dir(&host).unwrap();
        std::fs::write(
            host.join("hosts.toml"),
            "server = 'https://registry-1.docker.io'\n[host.'http://z:1']\ncapabilities=['pull','resolve']\n\
             [host.'https://a:2/prefix/v2']\ncapabilities=['pull']\noverride_path=true\nca='ca.pem'\n",
        )
        .unwrap();
        let mut config = Config::default();
        config.certs_folder(folder.path());
        let all = config.endpoints("docker.io", "library/x", false).unwrap();
        let bases: Vec<_> = all.iter().map(|e| e.base.as_str()).collect();
        assert_eq!(bases, ["http://z:1/v2", "https://a:2/prefix/v2", "https://registry-1.docker.io/v2"]);
        assert!(all[0].mirror && all[0].resolves_tags && !all[1].resolves_tags && !all[2].mirror);
        assert_eq!(all[0].namespace.as_deref(), Some("docker.io"));
        assert_eq!(all[1].tls.authorities, [host.join("ca.pem")]);
    }

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for yes in ["localhost", "localhost:5000", "127.0.0.1:1", "[::1]:5000", "127.9.9.9"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["localhost.example", "128.0.0.1", "[::2]:1", "r"] {
            assert!(!is_loopback(no), "{no}");
        }
    }
}
