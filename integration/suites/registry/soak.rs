//! Random pushes, pulls, deletions and collections side by side, clients and the server killed with SIGKILL: nothing that was
//! acknowledged is lost, and nothing stays behind.
//!
//! In: `SHOAL_IMAGE_OPERATIONS` (how many; `cargo xtask soak image` sets it) and `SHOAL_SOAK_SEED`. Out: one line of counts.
//! Each worker owns one repository and keeps what each of its names may point at: one digest after an answer, several
//! after a kill, since a process that was killed may have been done.

use crate::place::{Process, shoal};
use integration::image::Builder;
use integration::{Outcome, Scratch, eventually};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Operations when nobody says how many: some twenty seconds.
const OPERATIONS: u64 = 40;
/// Workers that do them side by side, each with a repository of its own: more than there are cores.
const WORKERS: usize = 4;
/// Tags of each repository, few, so that they are written again and again.
const TAGS: usize = 3;
/// A client that takes longer hangs.
const HANG: Duration = Duration::from_secs(120);
/// Older than any time that the store gives what is unfinished.
const LONG_AGO: Duration = Duration::from_secs(30 * 24 * 3600);

/// A generator (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16;
        usize::try_from(drawn).expect("48 bits") % end.max(1)
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// What a name may point at; `None`: nothing.
type Maybe = BTreeSet<Option<String>>;

/// An image that workers push.
struct Image {
    archive: PathBuf,
    digest: String,
}

/// Everything the workers share.
struct Rig {
    server: PathBuf,
    client: PathBuf,
    address: String,
    process: Mutex<Option<Process>>,
    /// Grows when the server is killed and when it is there again.
    lives: AtomicU64,
    images: Vec<Image>,
    left: AtomicU64,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

/// How a client ended.
enum End {
    /// It said so.
    Done(String),
    /// It failed, with what it said.
    Failed(String),
    /// It was killed, or the server was: it may have been done.
    Unknown,
}

fn serve(root: &Path, address: &str) -> (Process, String) {
    let serve = shoal(root, &["image", "serve", "--listen", address]);
    let mut child = serve
        .command()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("shoal starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("stdout is piped");
    BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
    let address = line.trim().split("://").nth(1).and_then(|rest| rest.strip_suffix("/v2/"));
    (Process(child), address.unwrap_or_else(|| panic!("not an address: {line:?}")).to_owned())
}

/// Images that share layers, so that one's deletion could take another's.
fn images(folder: &Path, random: &mut Random) -> Vec<Image> {
    let layers: Vec<Vec<u8>> = (0..10)
        .map(|n| {
            let mut data = vec![0; (32 << 10) << random.below(7)];
            std::fs::File::open("/dev/urandom")
                .and_then(|mut file| file.read_exact(&mut data))
                .expect("every kernel has it");
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("noise-{n}"), data.as_slice()).expect("memory");
            tar.into_inner().expect("memory")
        })
        .collect();
    (0..8)
        .map(|n| {
            let mut builder = Builder::new("soak:1");
            builder.config["Labels"] = serde_json::json!({ "n": n.to_string() });
            for _ in 0..2 + random.below(3) {
                builder.layer(&layers[random.below(layers.len())]);
            }
            let archive = folder.join(format!("image-{n}.tar"));
            let digest = builder.write(&archive);
            Image { archive, digest }
        })
        .collect()
}

impl Rig {
    fn count(&self, what: &'static str) {
        *self.counts.lock().expect("no worker panics with it").entry(what).or_default() += 1;
    }

    /// Kills the server and starts it again where it was.
    fn kill_server(&self) {
        let mut process = self.process.lock().expect("no worker panics with it");
        self.lives.fetch_add(1, Ordering::SeqCst);
        let mut old = process.take().expect("it runs");
        old.0.kill().expect("it runs");
        let _ = old.0.wait().expect("a child of ours");
        drop(old);
        *process = Some(serve(&self.server, &self.address).0);
        self.lives.fetch_add(1, Ordering::SeqCst);
        self.count("server kills");
    }

    /// Runs a client of ours, and kills it at random when `killable`.
    fn run(&self, random: &mut Random, args: &[&str], killable: bool) -> End {
        let lives = self.lives.load(Ordering::SeqCst);
        let cmd = shoal(&self.client, args);
        let deadline = (killable && random.one_in(4)).then(|| Duration::from_millis(5 << random.below(8)));
        let (status, stdout, stderr) = run(&mut cmd.command(), deadline);
        if status.signal() == Some(9) {
            self.count("client kills");
            return End::Unknown;
        }
        if status.success() {
            return End::Done(stdout);
        }
        if lives != self.lives.load(Ordering::SeqCst) || lives % 2 == 1 { End::Unknown } else { End::Failed(stderr) }
    }

    /// Sends a DELETE; `None` when no answer came.
    fn delete(&self, path: &str) -> Option<u16> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(HANG)).expect("a number");
        write!(stream, "DELETE {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).ok()?;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.split(' ').nth(1)?.parse().ok()
    }
}

/// Runs a process to its end, or kills it after `kill`.
fn run(command: &mut Command, kill: Option<Duration>) -> (ExitStatus, String, String) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // One that hangs ends with the test.
    let mut process = Process(command.spawn().expect("shoal starts"));
    let begun = Instant::now();
    // What these commands say fits into a pipe.
    let status = eventually("the command ends", HANG, || {
        if let Some(status) = process.0.try_wait().expect("a child of ours") {
            return Some(status);
        }
        kill.filter(|kill| begun.elapsed() >= *kill).map(|_| {
            process.0.kill().expect("a child of ours");
            process.0.wait().expect("a child of ours")
        })
    });
    let text = |pipe: Option<&mut dyn std::io::Read>| {
        let mut text = String::new();
        let _ = pipe.expect("it is piped").read_to_string(&mut text);
        text
    };
    let stdout = text(process.0.stdout.as_mut().map(|pipe| pipe as _));
    (status, stdout, text(process.0.stderr.as_mut().map(|pipe| pipe as _)))
}

/// One worker: what it knows of its repository, there and here.
struct Worker<'a> {
    rig: &'a Rig,
    repository: String,
    random: Random,
    /// By tag.
    there: BTreeMap<String, Maybe>,
    /// By tag, in the clients' store.
    here: BTreeMap<String, Maybe>,
}

fn known(digest: &str) -> Maybe {
    Maybe::from([Some(digest.to_owned())])
}

impl Worker<'_> {
    fn name(&self, tag: &str) -> String {
        format!("{}/{}:{tag}", self.rig.address, self.repository)
    }

    fn work(&mut self) {
        while self.rig.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let tag = format!("t{}", self.random.below(TAGS));
            match self.random.below(100) {
                0..25 => self.push_archive(&tag),
                25..37 => self.load(&tag),
                37..50 => self.push(&tag),
                50..72 => self.pull(&tag),
                72..78 => self.delete_tag(&tag),
                78..82 => self.delete_manifest(&tag),
                82..89 => self.remove(&tag),
                89..93 => self.collect(false),
                93..97 => self.collect(true),
                _ => self.rig.kill_server(),
            }
        }
    }

    fn image(&mut self) -> (String, String) {
        let image = &self.rig.images[self.random.below(self.rig.images.len())];
        (format!("oci-archive:{}", image.archive.display()), image.digest.clone())
    }

    fn client(&mut self, what: &'static str, args: &[&str]) -> End {
        self.rig.count(what);
        self.rig.run(&mut self.random, args, true)
    }

    fn push_archive(&mut self, tag: &str) {
        let (from, digest) = self.image();
        let to = format!("docker://{}", self.name(tag));
        let end = self.client("pushes", &["image", "copy", "-q", &from, &to]);
        let maybe = self.there.entry(tag.to_owned()).or_insert_with(|| Maybe::from([None]));
        match end {
            End::Done(_) => *maybe = known(&digest),
            End::Unknown => drop(maybe.insert(Some(digest))),
            End::Failed(why) => panic!("push {from} to {to}: {why}"),
        }
    }

    fn load(&mut self, tag: &str) {
        let (from, digest) = self.image();
        let to = format!("store:{}", self.name(tag));
        let end = self.client("loads", &["image", "copy", "-q", &from, &to]);
        let maybe = self.here.entry(tag.to_owned()).or_insert_with(|| Maybe::from([None]));
        match end {
            End::Done(_) => *maybe = known(&digest),
            End::Unknown => drop(maybe.insert(Some(digest))),
            End::Failed(why) => panic!("copy {from} to {to}: {why}"),
        }
    }

    fn push(&mut self, tag: &str) {
        let Some(maybe) = self.here.get(tag).cloned().filter(|maybe| !maybe.contains(&None)) else {
            return self.load(tag);
        };
        let name = self.name(tag);
        let end = self.client("pushes", &["push", "-q", &name]);
        let there = self.there.entry(tag.to_owned()).or_insert_with(|| Maybe::from([None]));
        match end {
            End::Done(_) => *there = maybe,
            End::Unknown => there.extend(maybe),
            End::Failed(why) => panic!("push {name}: {why}"),
        }
    }

    fn pull(&mut self, tag: &str) {
        let name = self.name(tag);
        let there = self.there.get(tag).cloned().unwrap_or_else(|| Maybe::from([None]));
        let end = self.client("pulls", &["pull", "--progress", "plain", &name]);
        let here = self.here.entry(tag.to_owned()).or_insert_with(|| Maybe::from([None]));
        match end {
            End::Done(stdout) => {
                let digest = stdout.lines().find_map(|line| line.strip_prefix("Digest: "));
                let digest = digest.unwrap_or_else(|| panic!("no digest: {stdout}"));
                assert!(there.contains(&Some(digest.to_owned())), "{name} is {digest}, which is none of {there:?}");
                *here = known(digest);
            }
            End::Unknown => here.extend(there.into_iter().flatten().map(Some)),
            End::Failed(why) => {
                assert!(there.contains(&None), "pull {name}, which was pushed ({there:?}): {why}");
                assert!(why.contains("404") || why.contains("no such") || why.contains("not found"), "{name}: {why}");
            }
        }
    }

    fn delete_tag(&mut self, tag: &str) {
        self.rig.count("deletes");
        let lives = self.rig.lives.load(Ordering::SeqCst);
        let answer = self.rig.delete(&format!("/v2/{}/manifests/{tag}", self.repository));
        let killed = lives % 2 == 1 || lives != self.rig.lives.load(Ordering::SeqCst);
        let maybe = self.there.entry(tag.to_owned()).or_insert_with(|| Maybe::from([None]));
        match answer {
            Some(202) => *maybe = Maybe::from([None]),
            Some(404) => assert!(maybe.remove(&None) && maybe.insert(None), "{tag} was pushed: {maybe:?}"),
            _ => {
                assert!(killed, "DELETE answered {answer:?}");
                maybe.insert(None);
            }
        }
    }

    /// Deletes a manifest with every tag that names it.
    fn delete_manifest(&mut self, tag: &str) {
        let Some(Some(digest)) = self.there.get(tag).and_then(|maybe| maybe.first().cloned()) else {
            return self.delete_tag(tag);
        };
        self.rig.count("deletes");
        let lives = self.rig.lives.load(Ordering::SeqCst);
        let answer = self.rig.delete(&format!("/v2/{}/manifests/{digest}", self.repository));
        let killed = lives % 2 == 1 || lives != self.rig.lives.load(Ordering::SeqCst);
        assert!(killed || matches!(answer, Some(202 | 404)), "DELETE answered {answer:?}");
        for maybe in self.there.values_mut().filter(|maybe| maybe.contains(&Some(digest.clone()))) {
            if answer == Some(202) {
                maybe.remove(&Some(digest.clone()));
            } else if answer == Some(404) {
                assert!(maybe.len() > 1, "{digest} was pushed: {maybe:?}");
            }
            maybe.insert(None);
        }
    }

    fn remove(&mut self, tag: &str) {
        let name = self.name(tag);
        let end = self.client("removals", &["rmi", &name]);
        let here = self.here.entry(tag.to_owned()).or_insert_with(|| Maybe::from([None]));
        match end {
            End::Done(_) => *here = Maybe::from([None]),
            End::Unknown => drop(here.insert(None)),
            End::Failed(why) => assert!(here.contains(&None), "rmi {name}, which is {here:?}: {why}"),
        }
    }

    fn collect(&mut self, server: bool) {
        self.rig.count("collections");
        let root = if server { &self.rig.server } else { &self.rig.client };
        let kill = self.random.one_in(3).then(|| Duration::from_millis(5 << self.random.below(7)));
        let (status, _, stderr) = run(&mut shoal(root, &["image", "gc"]).command(), kill);
        assert!(status.success() || status.signal() == Some(9), "gc: {stderr}");
    }
}

/// Every name is what its worker may expect, there and here.
fn check(rig: &Rig, workers: &[Worker<'_>], scratch: &Scratch) {
    for root in [&rig.server, &rig.client] {
        let verify = shoal(root, &["image", "verify"]).deadline(HANG).run();
        assert!(verify.stdout.ends_with("0 problems\n"), "{}: {verify:?}", root.display());
    }
    let fresh = scratch.join("fresh");
    for worker in workers {
        for (tag, maybe) in &worker.there {
            let name = worker.name(tag);
            let outcome = shoal(&fresh, &["pull", "--progress", "plain", &name]).deadline(HANG).run();
            let found = outcome.stdout.lines().find_map(|line| line.strip_prefix("Digest: ")).map(str::to_owned);
            assert!(maybe.contains(&found), "{name}: expected {maybe:?}, {outcome:?}");
        }
        for (tag, maybe) in &worker.here {
            let name = worker.name(tag);
            let format = "{{.Descriptor.digest}}";
            let outcome = shoal(&rig.client, &["image", "inspect", "--format", format, &name]).run();
            let found = outcome.status.success().then(|| outcome.stdout.trim().to_owned());
            assert!(maybe.contains(&found), "{name} here: expected {maybe:?}, {outcome:?}");
        }
    }
}

/// Sets the time of everything below `folder` back.
fn age(folder: &Path) {
    let uploads = std::fs::read_dir(folder.join("uploads")).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in files(folder).into_iter().chain(uploads) {
        if let Ok(file) = std::fs::File::open(&path) {
            let _ = file.set_modified(SystemTime::now() - LONG_AGO);
        }
    }
}

/// Every file below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found
}

/// What is left of a store when everything was removed, besides what a store always has.
fn leaked(root: &Path) -> Vec<String> {
    let store = root.join("data/images");
    const ALWAYS: [&str; 7] =
        ["oci-layout", "index.json", "index.lock", "gc.lock", "gc.turn", "registry/version", "version"];
    let mut left: Vec<String> = files(&store)
        .iter()
        .map(|path| path.strip_prefix(&store).expect("it is below").display().to_string())
        .filter(|path| !ALWAYS.contains(&path.as_str()))
        // Empty and of a bounded number: 256 of each kind.
        .filter(|path| !path.starts_with("registry/locks/"))
        .collect();
    for folder in ["tmp", "leases", "partial", "sending", "layers", "registry/uploads"] {
        let entries = std::fs::read_dir(store.join(folder)).into_iter().flatten().flatten();
        left.extend(entries.map(|entry| format!("{folder}/{}", entry.file_name().to_string_lossy())));
    }
    left
}

#[test]
fn random_pushes_pulls_deletions_and_collections_with_kills_lose_nothing_and_leave_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let operations = number("SHOAL_IMAGE_OPERATIONS").unwrap_or(OPERATIONS);
    let seed = number("SHOAL_SOAK_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}: SHOAL_SOAK_SEED={seed} SHOAL_IMAGE_OPERATIONS={operations}");
    let begun = Instant::now();
    let scratch = Scratch::new("soak");
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let images = images(scratch.path(), &mut random);
    let (server, client) = (scratch.join("server"), scratch.join("client"));
    let (process, address) = serve(&server, "127.0.0.1:0");
    let rig = Rig {
        server,
        client,
        address,
        process: Mutex::new(Some(process)),
        lives: AtomicU64::new(0),
        images,
        left: AtomicU64::new(operations),
        counts: Mutex::default(),
    };
    let mut workers: Vec<Worker<'_>> = (0..WORKERS)
        .map(|n| Worker {
            rig: &rig,
            repository: format!("soak/{n}"),
            random: Random(random.0.wrapping_add(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            there: BTreeMap::new(),
            here: BTreeMap::new(),
        })
        .collect();
    std::thread::scope(|scope| {
        for worker in &mut workers {
            scope.spawn(|| worker.work());
        }
    });
    rig.kill_server();
    check(&rig, &workers, &scratch);
    for root in [&rig.server, &rig.client] {
        let _ = shoal(root, &["image", "gc"]).ok();
    }
    check(&rig, &workers, &scratch);
    let acknowledged: usize = workers.iter().map(|worker| worker.there.len() + worker.here.len()).sum();

    // Everything goes; then nothing may be left but what an empty store has.
    for worker in &workers {
        for tag in worker.there.keys() {
            for digest in rig.images.iter().map(|image| image.digest.clone()).chain([tag.clone()]) {
                let answer = rig.delete(&format!("/v2/{}/manifests/{digest}", worker.repository));
                assert!(matches!(answer, Some(202 | 404)), "DELETE answered {answer:?}");
            }
        }
    }
    let names = shoal(&rig.client, &["images", "-q", "--no-trunc"]).ok();
    for id in names.lines().collect::<BTreeSet<_>>() {
        let _: Outcome = shoal(&rig.client, &["rmi", "-f", id]).run().expect_success();
    }
    let mut process = rig.process.lock().expect("no worker panicked").take().expect("it runs");
    process.0.kill().expect("it runs");
    let _ = process.0.wait().expect("a child of ours");
    for root in [&rig.server, &rig.client] {
        age(&root.join("data/images/registry"));
        age(&root.join("data/images/partial"));
        let collect = || shoal(root, &["image", "gc", "--partial"]).ok();
        let said = collect();
        let left = leaked(root);
        assert!(left.is_empty(), "{} is left in {} after: {said}", left.join(", "), root.display());
    }
    eventually("nothing is mounted", HANG, || {
        integration::scratch::mounts_below(scratch.path()).is_empty().then_some(())
    });
    let counts = rig.counts.lock().expect("no worker panicked");
    let counts: Vec<String> =
        counts.iter().map(|(what, count)| format!("{}={count}", what.replace(' ', "_"))).collect();
    println!(
        "soak image seed={seed} operations={operations} seconds={} {} names_checked={acknowledged} lost=0 problems=0 leaked=0",
        begun.elapsed().as_secs(),
        counts.join(" ")
    );
}
