//! Who we are to a registry: `auth.json`, docker's `config.json` and credential helpers in, [`Credentials`] out.
//!
//! Reading never changes a file. [`AuthFile::store`] and [`AuthFile::erase`] (login, logout) keep every field they do not
//! know and replace the file atomically with mode 0600. No password is ever printed, logged or passed as an argument.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes of an auth file that are read: a thousand logins fit in a tenth of it.
const FILE_MAX: u64 = 4 << 20;
/// docker's historic key for Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// What is shown to a registry.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Credentials {
    /// Nothing.
    #[default]
    Anonymous,
    /// A user and a password (or personal access token).
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// An OAuth2 refresh token (`identitytoken`), traded at the realm for access tokens.
    IdentityToken(String),
    /// A ready bearer token (`registrytoken`).
    Bearer(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(…)",
            Self::IdentityToken(_) => "IdentityToken(…)",
            Self::Bearer(_) => "Bearer(…)",
        })
    }
}

impl Credentials {
    /// Reads `user:password`, the form of `--creds`.
    pub fn from_pair(pair: &str) -> Self {
        let (user, password) = pair.split_once(':').unwrap_or((pair, ""));
        Self::Basic { user: user.to_owned(), password: password.to_owned() }
    }
}

/// Why credentials could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A file could not be read or written.
    #[error("failed to {action} the auth file {}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("the auth file {} is not valid: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A credential helper failed.
    #[error("credential helper {helper} failed for {registry}: {reason}")]
    Helper {
        /// The program.
        helper: String,
        /// The registry asked for.
        registry: String,
        /// What it printed.
        reason: String,
    },
}

/// Finds the credentials for `registry` (host\[:port\]) and `repository` in `files`, the first file that knows wins.
///
/// Keys may name a host, a host with a path (the longest match wins), or a URL.
pub fn find(files: &[PathBuf], registry: &str, repository: &str) -> Result<Credentials, AuthError> {
    for path in files {
        let Some(document) = read(path)? else { continue };
        let found = from_document(&document, path, registry, repository)?;
        if found != Credentials::Anonymous {
            return Ok(found);
        }
    }
    Ok(Credentials::Anonymous)
}

/// Returns the files that are searched, in order: `explicit` alone when given, else `$REGISTRY_AUTH_FILE` alone when set,
/// else containers' `auth.json` (runtime and configuration folder), then docker's `config.json`.
pub fn default_files(explicit: Option<&Path>, env: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    if let Some(path) = explicit {
        return vec![path.to_owned()];
    }
    if let Some(path) = env("REGISTRY_AUTH_FILE").filter(|path| !path.is_empty()) {
        return vec![PathBuf::from(path)];
    }
    let mut files = Vec::new();
    let home = env("HOME").map(PathBuf::from);
    files.extend(env("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("containers/auth.json")));
    let configuration = env("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| home.as_ref().map(|h| h.join(".config")));
    files.extend(configuration.map(|dir| dir.join("containers/auth.json")));
    let docker = env("DOCKER_CONFIG").map(PathBuf::from).or_else(|| home.map(|h| h.join(".docker")));
    files.extend(docker.map(|dir| dir.join("config.json")));
    files
}

fn read(path: &Path) -> Result<Option<Map<String, Value>>, AuthError> {
    let file_error = |source| AuthError::File { action: "read", path: path.to_owned(), source };
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error(error)),
    };
    let invalid = |reason: String| AuthError::Invalid { path: path.to_owned(), reason };
    if size > FILE_MAX {
        return Err(invalid(format!("it is larger than {FILE_MAX} bytes")));
    }
    let bytes = std::fs::read(path).map_err(file_error)?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Some(Map::new()));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(document)) => Ok(Some(document)),
        Ok(_) => Err(invalid("it is not a JSON object".into())),
        Err(error) => Err(invalid(error.to_string())),
    }
}

fn from_document(
    document: &Map<String, Value>,
    path: &Path,
    registry: &str,
    repository: &str,
) -> Result<Credentials, AuthError> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
    let keys = keys(registry, repository);
    if let Some(helpers) = document.get("credHelpers").and_then(Value::as_object)
        && let Some(helper) = keys.iter().find_map(|key| text(helpers.get(key)))
    {
        return ask_helper(&helper, registry);
    }
    if let Some(auths) = document.get("auths").and_then(Value::as_object) {
        let entry = keys.iter().find_map(|key| {
            auths.iter().find(|(name, _)| normal_key(name) == *key).and_then(|(_, entry)| entry.as_object())
        });
        if let Some(entry) = entry {
            let found = from_entry(entry).map_err(|reason| AuthError::Invalid { path: path.to_owned(), reason })?;
            if found != Credentials::Anonymous {
                return Ok(found);
            }
        }
    }
    match text(document.get("credsStore")) {
        Some(helper) => ask_helper(&helper, registry),
        None => Ok(Credentials::Anonymous),
    }
}

fn from_entry(entry: &Map<String, Value>) -> Result<Credentials, String> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Credentials::IdentityToken(token.to_owned()));
    }
    if let Some(token) = text("registrytoken") {
        return Ok(Credentials::Bearer(token.to_owned()));
    }
    if let (Some(user), Some(password)) = (text("username"), text("password")) {
        return Ok(Credentials::Basic { user: user.to_owned(), password: password.to_owned() });
    }
    let Some(auth) = text("auth") else { return Ok(Credentials::Anonymous) };
    let decoded = BASE64.decode(auth.trim()).map_err(|_| "an `auth` is not base64".to_owned())?;
    let pair = String::from_utf8(decoded).map_err(|_| "an `auth` is not UTF-8 inside".to_owned())?;
    let (user, password) = pair.split_once(':').ok_or("an `auth` holds no `user:password`")?;
    Ok(Credentials::Basic { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

/// The keys that may hold credentials for a repository, the most specific first.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = repository;
    while !path.is_empty() {
        keys.push(format!("{registry}/{path}"));
        path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    keys.push(registry.to_owned());
    if matches!(registry, "docker.io" | "registry-1.docker.io" | "index.docker.io") {
        keys.extend(["docker.io", "index.docker.io", "registry-1.docker.io"].map(str::to_owned));
    }
    keys
}

/// `https://host/v1/` → `host`, `host/path` unchanged.
fn normal_key(key: &str) -> &str {
    let Some(rest) = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")) else { return key };
    rest.split('/').next().unwrap_or(rest)
}

fn ask_helper(helper: &str, registry: &str) -> Result<Credentials, AuthError> {
    let server = if registry == "docker.io" { HUB_KEY } else { registry };
    let answer = match run_helper(helper, "get", registry, server.as_bytes()) {
        Ok(answer) => answer,
        // Every helper of docker's kit answers this for a registry it does not know.
        Err(AuthError::Helper { reason, .. }) if reason.contains("credentials not found") => {
            return Ok(Credentials::Anonymous);
        }
        Err(error) => return Err(error),
    };
    let fail = |reason: &str| AuthError::Helper {
        helper: format!("docker-credential-{helper}"),
        registry: registry.to_owned(),
        reason: reason.to_owned(),
    };
    let document: Value = serde_json::from_slice(&answer).map_err(|_| fail("its answer is not JSON"))?;
    let field = |name| document.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (user, secret) = (field("Username"), field("Secret"));
    Ok(match (user.as_str(), secret.is_empty()) {
        (_, true) => Credentials::Anonymous,
        ("<token>", false) => Credentials::IdentityToken(secret),
        (_, false) => Credentials::Basic { user, password: secret },
    })
}

fn run_helper(helper: &str, verb: &str, registry: &str, input: &[u8]) -> Result<Vec<u8>, AuthError> {
    let program = format!("docker-credential-{helper}");
    let fail = |reason: String| AuthError::Helper { helper: program.clone(), registry: registry.to_owned(), reason };
    if helper.is_empty() || !helper.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return Err(fail("its name is not a plain word".into()));
    }
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| fail(format!("it cannot be started: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input is judged by its exit code below.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(|error| fail(error.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Err(fail(String::from_utf8_lossy(&said).trim().chars().take(300).collect()))
}

/// The file `login` writes to and `logout` erases from.
#[derive(Debug, Clone)]
pub struct AuthFile {
    /// Where it is.
    pub path: PathBuf,
}

impl AuthFile {
    /// Every file whose credentials count, in the order in which they are searched.
    pub fn all(explicit: Option<&Path>, env: impl Fn(&str) -> Option<String>) -> Vec<Self> {
        default_files(explicit, env).into_iter().map(|path| Self { path }).collect()
    }

    /// Picks the file where nothing is known of the registry: `explicit`, else `$REGISTRY_AUTH_FILE`, else docker's
    /// `config.json`.
    pub fn pick(explicit: Option<&Path>, env: impl Fn(&str) -> Option<String>) -> Self {
        let files = default_files(explicit, env);
        Self { path: files.into_iter().next_back().unwrap_or_else(|| PathBuf::from("/root/.docker/config.json")) }
    }

    /// Picks the file for `registry`: the one whose credentials are used already, as another would not be looked at; else
    /// as [`AuthFile::pick`].
    pub fn pick_for(registry: &str, explicit: Option<&Path>, env: impl Fn(&str) -> Option<String>) -> Self {
        let files = default_files(explicit, &env);
        let uses = |path: &&PathBuf| {
            // A file that cannot be read is left to the search, which names it.
            let document = read(path).ok().flatten();
            document.is_some_and(|document| knows(&document, registry))
        };
        match files.iter().find(uses) {
            Some(path) => Self { path: path.clone() },
            None => Self::pick(explicit, env),
        }
    }

    /// Stores credentials for `registry`, in the helper the file names for it or in the file itself.
    pub fn store(&self, registry: &str, user: &str, password: &str) -> Result<(), AuthError> {
        let mut document = read(&self.path)?.unwrap_or_default();
        if let Some(helper) = helper_of(&document, registry) {
            let server = file_key(registry);
            let body = serde_json::json!({"ServerURL": server, "Username": user, "Secret": password});
            return run_helper(&helper, "store", registry, body.to_string().as_bytes()).map(drop);
        }
        let auths = document.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        let Some(auths) = auths.as_object_mut() else {
            return Err(AuthError::Invalid { path: self.path.clone(), reason: "`auths` is not an object".into() });
        };
        let auth = BASE64.encode(format!("{user}:{password}"));
        auths.insert(file_key(registry).to_owned(), serde_json::json!({ "auth": auth }));
        self.write(&document)
    }

    /// Forgets `registry`; returns whether it was known.
    pub fn erase(&self, registry: &str) -> Result<bool, AuthError> {
        let Some(mut document) = read(&self.path)? else { return Ok(false) };
        let mut known = false;
        if let Some(helper) = helper_of(&document, registry) {
            known = run_helper(&helper, "erase", registry, file_key(registry).as_bytes()).is_ok();
        }
        let keys = keys(registry, "");
        if let Some(auths) = document.get_mut("auths").and_then(Value::as_object_mut) {
            let before = auths.len();
            auths.retain(|name, _| !keys.iter().any(|key| key == normal_key(name)));
            if auths.len() != before {
                self.write(&document)?;
                known = true;
            }
        }
        Ok(known)
    }

    fn write(&self, document: &Map<String, Value>) -> Result<(), AuthError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let fail = |source| AuthError::File { action: "write", path: self.path.clone(), source };
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        std::fs::create_dir_all(folder).map_err(fail)?;
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = folder.join(name);
        let text = serde_json::to_string_pretty(document).expect("a JSON object is always written");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options
            .open(&temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&temporary, &self.path));
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written.map_err(fail)
    }
}

/// Whether a file answers for `registry` as a whole: it holds an entry, or names a helper that is asked.
fn knows(document: &Map<String, Value>, registry: &str) -> bool {
    let keys = keys(registry, "");
    let auths = document.get("auths").and_then(Value::as_object);
    let held = auths.is_some_and(|auths| auths.keys().any(|name| keys.iter().any(|key| key == normal_key(name))));
    held || helper_of(document, registry).is_some()
}

fn file_key(registry: &str) -> &str {
    if registry == "docker.io" { HUB_KEY } else { registry }
}

fn helper_of(document: &Map<String, Value>, registry: &str) -> Option<String> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
    let own = document.get("credHelpers").and_then(|helpers| text(helpers.get(registry)));
    own.or_else(|| text(document.get("credsStore")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).expect("written");
        (folder, vec![path])
    }

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic { user: user.into(), password: password.into() }
    }

    #[test]
    fn the_longest_key_wins() {
        let (_folder, files) = file(
            r#"{"auths":{"r.example":{"auth":"YTpi"},"r.example/team":{"auth":"Yzpk"},"https://index.docker.io/v1/":{"auth":"ZTpm"}}}"#,
        );
        assert_eq!(find(&files, "r.example", "team/app").unwrap(), basic("c", "d"));
        assert_eq!(find(&files, "r.example", "other/app").unwrap(), basic("a", "b"));
        assert_eq!(find(&files, "docker.io", "library/alpine").unwrap(), basic("e", "f"));
        assert_eq!(find(&files, "elsewhere", "x").unwrap(), Credentials::Anonymous);
    }

    #[test]
    fn a_broken_file_is_named() {
        let (_folder, files) = file("{\"auths\":");
        assert!(find(&files, "r", "x").unwrap_err().to_string().contains("config.json is not valid"));
        let (_folder, files) = file(r#"{"auths":{"r":{"auth":"%%"}}}"#);
        assert!(find(&files, "r", "x").unwrap_err().to_string().contains("not base64"));
    }

    #[test]
    fn login_keeps_unknown_fields_and_logout_removes_only_its_own() {
        use std::os::unix::fs::PermissionsExt as _;
        let (folder, files) = file(r#"{"HttpHeaders":{"X":"y"},"auths":{"other":{"auth":"YTpi"}}}"#);
        let auth = AuthFile { path: files[0].clone() };
        auth.store("r.example:5000", "me", "s:e").unwrap();
        assert_eq!(find(&files, "r.example:5000", "a/b").unwrap(), basic("me", "s:e"));
        assert_eq!(std::fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(auth.erase("r.example:5000").unwrap());
        assert!(!auth.erase("r.example:5000").unwrap());
        assert_eq!(find(&files, "other", "a").unwrap(), basic("a", "b"));
        assert!(std::fs::read_to_string(&files[0]).unwrap().contains("HttpHeaders"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn login_writes_where_credentials_are_found_and_logout_leaves_none() {
        let home = tempfile::tempdir().unwrap();
        let env = |name: &str| match name {
            "HOME" => Some(home.path().display().to_string()),
            _ => None,
        };
        let first = home.path().join(".config/containers/auth.json");
        std::fs::create_dir_all(first.parent().unwrap()).unwrap();
        std::fs::write(&first, r#"{"auths":{"r.example":{"auth":"YTpi"}}}"#).unwrap();
        let files = default_files(None, env);
        // A new password must be the one that is used.
        AuthFile::pick_for("r.example", None, env).store("r.example", "me", "new").unwrap();
        assert_eq!(find(&files, "r.example", "x").unwrap(), basic("me", "new"));
        // What no file knows goes to docker's, where it always went.
        let docker = AuthFile::pick_for("other.example", None, env);
        assert_eq!(docker.path, home.path().join(".docker/config.json"));
        docker.store("r.example", "old", "old").unwrap();
        for file in AuthFile::all(None, env) {
            file.erase("r.example").unwrap();
        }
        assert_eq!(find(&files, "r.example", "x").unwrap(), Credentials::Anonymous);
    }

    #[test]
    fn the_order_of_files_follows_the_environment() {
        let env = |name: &str| match name {
            "HOME" => Some("/h".to_owned()),
            "XDG_RUNTIME_DIR" => Some("/run/user/1".to_owned()),
            _ => None,
        };
        let files = default_files(None, env);
        assert_eq!(
            files,
            ["/run/user/1/containers/auth.json", "/h/.config/containers/auth.json", "/h/.docker/config.json"]
                .map(PathBuf::from)
        );
        assert_eq!(default_files(Some(Path::new("/x")), env), [PathBuf::from("/x")]);
    }

    #[test]
    fn a_helper_with_a_path_in_its_name_is_not_run() {
        let (_folder, files) = file(r#"{"credHelpers":{"r":"../../bin/sh"}}"#);
        assert!(find(&files, "r", "x").unwrap_err().to_string().contains("not a plain word"));
    }
}
