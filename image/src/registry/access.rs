//! Who may use the registry: an `htpasswd` file (bcrypt) and a `Basic` header in, yes or a refusal out.
//!
//! The file is read again when it changes. bcrypt costs tens of milliseconds by design, so a pair that was accepted is
//! remembered as a keyed hash for a while; passwords themselves are never kept.

use super::error::{Code, Refusal};
use base64::Engine as _;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// Bytes of the file.
const FILE_MAX: u64 = 1 << 20;
/// How long an accepted pair is believed without bcrypt.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);
/// Accepted pairs remembered.
const REMEMBERED_MAX: usize = 1024;

/// The users of a registry.
#[derive(Debug)]
pub struct Users {
    path: PathBuf,
    salt: [u64; 2],
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    modified: Option<SystemTime>,
    hashes: HashMap<String, String>,
    accepted: HashMap<oci::digest::Digest, Instant>,
}

impl Users {
    /// Reads the file.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let salt = [crate::remote::transport::random(), crate::remote::transport::random()];
        let users = Self { path: path.to_owned(), salt, state: Mutex::default() };
        users.reload()?;
        Ok(users)
    }

    /// Judges an `Authorization` header. Blocking (bcrypt): call it off the event loop.
    pub fn check(&self, authorization: Option<&str>) -> Result<(), Refusal> {
        let Some((user, password)) = authorization.and_then(decode) else {
            return Err(challenge("credentials are needed"));
        };
        self.reload()?;
        let key = self.key(&user, &password);
        let hash = {
            let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            state.accepted.retain(|_, at| at.elapsed() < REMEMBERED_FOR);
            if state.accepted.contains_key(&key) {
                return Ok(());
            }
            state.hashes.get(&user).cloned()
        };
        // An unknown user costs the same time as a wrong password.
        const NOBODY: &str = "$2b$10$abcdefghijklmnopqrstuuPBFUoLwAdOYSWSyMmFrwQoqAEyz0HaS";
        let right = bcrypt::verify(&password, hash.as_deref().unwrap_or(NOBODY)).unwrap_or(false);
        if !right || hash.is_none() {
            return Err(challenge("user or password is wrong"));
        }
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.accepted.len() < REMEMBERED_MAX {
            state.accepted.insert(key, Instant::now());
        }
        Ok(())
    }

    fn key(&self, user: &str, password: &str) -> oci::digest::Digest {
        let [a, b] = self.salt;
        oci::digest::Digest::sha256(format!("{a:x}:{b:x}:{}:{user}:{password}", user.len()).as_bytes())
    }

    fn reload(&self) -> std::io::Result<()> {
        let metadata = std::fs::metadata(&self.path)?;
        let modified = metadata.modified().ok();
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.modified.is_some() && state.modified == modified {
            return Ok(());
        }
        let invalid = |reason: String| std::io::Error::new(std::io::ErrorKind::InvalidData, reason);
        if metadata.len() > FILE_MAX {
            return Err(invalid(format!("{} is larger than {FILE_MAX} bytes", self.path.display())));
        }
        let mut hashes = HashMap::new();
        for (number, line) in std::fs::read_to_string(&self.path)?.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = format!("{}:{}", self.path.display(), number + 1);
            let (user, hash) = line.split_once(':').ok_or_else(|| invalid(format!("{at}: not USER:HASH")))?;
            if !["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|kind| hash.starts_with(kind)) {
                return Err(invalid(format!("{at}: only bcrypt hashes are accepted (htpasswd -B)")));
            }
            hashes.insert(user.to_owned(), hash.to_owned());
        }
        *state = State { modified, hashes, accepted: HashMap::new() };
        Ok(())
    }
}

fn challenge(message: &str) -> Refusal {
    Refusal::new(Code::Unauthorized, message)
        .header(http::header::WWW_AUTHENTICATE, "Basic realm=\"shoal registry\", charset=\"UTF-8\"")
}

fn decode(authorization: &str) -> Option<(String, String)> {
    let (scheme, value) = authorization.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.trim()).ok()?;
    let pair = String::from_utf8(bytes).ok()?;
    let (user, password) = pair.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_pair_is_accepted_and_changes_of_the_file_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("htpasswd");
        let hash = bcrypt::hash("secret", 4).unwrap();
        std::fs::write(&path, format!("# users\nme:{hash}\n")).unwrap();
        let users = Users::open(&path).unwrap();
        let header = |pair: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        assert!(users.check(Some(&header("me:secret"))).is_ok());
        assert!(users.check(Some(&header("me:secret"))).is_ok());
        for bad in [header("me:wrong"), header("you:secret"), header("me"), "Bearer x".into(), String::new()] {
            assert_eq!(users.check(Some(&bad)).unwrap_err().code, Code::Unauthorized, "{bad}");
        }
        assert_eq!(users.check(None).unwrap_err().status.as_u16(), 401);
        std::fs::write(&path, "").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(users.check(Some(&header("me:secret"))).is_err());
    }

    #[test]
    fn a_weak_hash_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("htpasswd");
        std::fs::write(&path, "\nme:{SHA}abc\n").unwrap();
        assert!(Users::open(&path).unwrap_err().to_string().contains(":2: only bcrypt"));
    }
}
