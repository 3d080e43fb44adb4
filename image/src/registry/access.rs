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

/// Wrong passwords in a row before the next try must wait.
const FREE_FAILURES: u32 = 5;
/// The longest wait; it doubles from one second.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Pairs of client and user whose failures are remembered.
const FAILURES_MAX: usize = 4096;

/// Wrong passwords of one client for one user.
#[derive(Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    /// How long the next try must still wait.
    fn wait(&self) -> Duration {
        let Some(over) = self.count.checked_sub(FREE_FAILURES) else { return Duration::ZERO };
        let wait = Duration::from_secs(1 << over.min(10)).min(WAIT_MAX);
        wait.saturating_sub(self.last.elapsed())
    }
}

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
    /// What an unknown user is compared with: as costly as the costliest of the file.
    nobody: String,
    failures: HashMap<(String, String), Failures>,
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

    /// The user of an `Authorization` header that was accepted lately; `None` when it must be checked.
    pub fn known(&self, authorization: Option<&str>) -> Result<Option<String>, Refusal> {
        let Some((user, password)) = authorization.and_then(decode) else {
            return Err(challenge("credentials are needed"));
        };
        self.reload()?;
        let key = self.key(&user, &password);
        let mut state = self.state();
        state.accepted.retain(|_, at| at.elapsed() < REMEMBERED_FOR);
        Ok(state.accepted.contains_key(&key).then_some(user))
    }

    /// Judges an `Authorization` header of a client; returns the user. Who was wrong too often must wait before the next
    /// try. Blocking (bcrypt): call it off the event loop, and few at once.
    pub fn check(&self, authorization: Option<&str>, client: &str) -> Result<String, Refusal> {
        if let Some(user) = self.known(authorization)? {
            return Ok(user);
        }
        let Some((user, password)) = authorization.and_then(decode) else {
            return Err(challenge("credentials are needed"));
        };
        let guess = (client.to_owned(), user.clone());
        let (hash, nobody) = {
            let state = self.state();
            let wait = state.failures.get(&guess).map_or(Duration::ZERO, Failures::wait);
            if !wait.is_zero() {
                let seconds = (wait.as_secs() + 1).to_string();
                let message = format!("too many wrong passwords: try again in {seconds} s");
                return Err(Refusal::new(Code::TooManyRequests, message).header(http::header::RETRY_AFTER, seconds));
            }
            (state.hashes.get(&user).cloned(), state.nobody.clone())
        };
        // An unknown user costs the same time as a wrong password.
        let right = bcrypt::verify(&password, hash.as_deref().unwrap_or(&nobody)).unwrap_or(false);
        let mut state = self.state();
        if !right || hash.is_none() {
            if state.failures.len() >= FAILURES_MAX {
                state.failures.retain(|_, failures| failures.last.elapsed() < REMEMBERED_FOR);
            }
            if state.failures.len() >= FAILURES_MAX {
                state.failures.clear();
            }
            let failures = state.failures.entry(guess).or_insert_with(|| Failures { count: 0, last: Instant::now() });
            if failures.last.elapsed() > REMEMBERED_FOR {
                failures.count = 0;
            }
            failures.count += 1;
            failures.last = Instant::now();
            return Err(challenge("user or password is wrong"));
        }
        state.failures.remove(&guess);
        if state.accepted.len() < REMEMBERED_MAX {
            let key = self.key(&user, &password);
            state.accepted.insert(key, Instant::now());
        }
        Ok(user)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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
        // `$2y$12$…`: the digits are the cost.
        let cost = |hash: &String| hash.get(4..6).and_then(|digits| digits.parse::<u32>().ok());
        let cost = hashes.values().filter_map(cost).max().unwrap_or(bcrypt::DEFAULT_COST).clamp(4, 31);
        let nobody = format!("$2b${cost:02}$abcdefghijklmnopqrstuuPBFUoLwAdOYSWSyMmFrwQoqAEyz0HaS");
        let failures = std::mem::take(&mut state.failures);
        *state = State { modified, hashes, nobody, failures, accepted: HashMap::new() };
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
        assert!(users.check(Some(&header("me:secret")), "c").is_ok());
        assert!(users.check(Some(&header("me:secret")), "c").is_ok());
        for bad in [header("me:wrong"), header("you:secret"), header("me"), "Bearer x".into(), String::new()] {
            assert_eq!(users.check(Some(&bad), "c").unwrap_err().code, Code::Unauthorized, "{bad}");
        }
        assert_eq!(users.check(None, "c").unwrap_err().status.as_u16(), 401);
        std::fs::write(&path, "").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(users.check(Some(&header("me:secret")), "c").is_err());
    }

    #[test]
    fn guessing_gets_slow_for_the_guesser_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("htpasswd");
        std::fs::write(&path, format!("me:{}\n", bcrypt::hash("secret", 5).unwrap())).unwrap();
        let users = Users::open(&path).unwrap();
        assert!(users.state().nobody.starts_with("$2b$05$"), "as costly as the file's own");
        let header = |pair: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        let ask = |client: &str, pair: &str| users.check(Some(&header(pair)), client).map_err(|refusal| refusal.code);
        for _ in 0..FREE_FAILURES {
            assert_eq!(ask("a", "me:guess"), Err(Code::Unauthorized));
        }
        assert_eq!(ask("a", "me:guess"), Err(Code::TooManyRequests));
        assert_eq!(ask("a", "me:secret"), Err(Code::TooManyRequests), "not even the right one is tried");
        assert_eq!(ask("b", "me:secret"), Ok("me".to_owned()), "somebody else is not held up");
        assert_eq!(ask("a", "me:secret"), Ok("me".to_owned()), "and what was accepted is remembered");
        // A user who does not exist is treated the same.
        for _ in 0..FREE_FAILURES {
            assert_eq!(ask("a", "you:guess"), Err(Code::Unauthorized));
        }
        assert_eq!(ask("a", "you:guess"), Err(Code::TooManyRequests));
    }

    #[test]
    fn a_weak_hash_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("htpasswd");
        std::fs::write(&path, "\nme:{SHA}abc\n").unwrap();
        assert!(Users::open(&path).unwrap_err().to_string().contains(":2: only bcrypt"));
    }
}
