//! What the cases share: a host with the test image, command lines written as one types them. With `SHOAL_ENGINE=podman` the
//! same lines go to podman, so that a case is seen to ask what others promise too.

use integration::image::Builder;
use integration::{Cmd, Host, Outcome, Scratch};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// How long a change may take on two busy cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// The test image's name; `BB` in command lines.
pub(crate) const IMAGE: &str = "localhost/bb:1";

/// The archive of the test image, made once.
pub(crate) fn archive() -> &'static Path {
    static ARCHIVE: OnceLock<(Scratch, PathBuf)> = OnceLock::new();
    let made = || {
        let scratch = Scratch::new("image");
        let mut builder = Builder::busybox(IMAGE);
        let path = builder.archive_in(scratch.path());
        (scratch, path)
    };
    &ARCHIVE.get_or_init(made).1
}

/// A host on which the cases run.
pub(crate) struct Place {
    /// The host.
    pub(crate) host: Host,
    /// The other engine under test, with `SHOAL_ENGINE=podman`.
    podman: Option<Podman>,
}

impl Place {
    /// A host with the image loaded.
    pub(crate) fn new(what: &str) -> Self {
        let host = Host::new(what);
        let podman = match std::env::var("SHOAL_ENGINE").as_deref() {
            Ok("podman") => Some(Podman::new(&host)),
            Ok("shoal" | "") | Err(_) => None,
            Ok(other) => panic!("SHOAL_ENGINE={other}: shoal or podman"),
        };
        let place = Self { host, podman };
        let _ = place.command(["load", "-q", "-i"]).arg(archive()).ok();
        place
    }

    /// The engine's command line.
    fn command<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        match &self.podman {
            Some(podman) => podman.command(&self.host).args(args),
            None => self.host.shoal(args),
        }
    }

    /// The command `shoal LINE`; words are split at spaces, `'…'` holds them together, `BB` is the image, `~` the root folder.
    pub(crate) fn cmd(&self, line: &str) -> Cmd {
        let root = self.host.root().to_string_lossy().into_owned();
        let words = words(line).into_iter().map(|word| match word.as_str() {
            "BB" => IMAGE.to_owned(),
            _ => word.replace('~', &root),
        });
        self.command(words.collect::<Vec<_>>())
    }

    /// Runs `shoal LINE`.
    pub(crate) fn run(&self, line: &str) -> Outcome {
        self.cmd(line).run()
    }

    /// Runs `shoal LINE`, which must succeed, and returns its output without the last line end.
    pub(crate) fn ok(&self, line: &str) -> String {
        self.run(line).expect_success().stdout.trim_end().to_owned()
    }

    /// Runs `shoal run --rm FLAGS BB sh -c SCRIPT` and returns its output.
    pub(crate) fn sh(&self, flags: &str, script: &str) -> String {
        self.cmd(&format!("run --rm {flags} BB sh -c")).arg(script).run().expect_success().stdout.trim_end().to_owned()
    }

    /// Runs `shoal LINE`, which must fail with this code and this text on stderr.
    pub(crate) fn refused(&self, line: &str, code: i32, text: &str) -> Outcome {
        let outcome = self.run(line).expect_code(code);
        assert!(outcome.stderr.contains(text), "{line}: {text:?} is not said: {}", outcome.stderr);
        outcome
    }

    /// `shoal inspect NAME`, its first document.
    pub(crate) fn inspect(&self, name: &str) -> Value {
        let text = self.ok(&format!("inspect {name}"));
        serde_json::from_str::<Value>(&text).expect("inspect prints JSON")[0].clone()
    }

    /// A state's field as text.
    pub(crate) fn state(&self, name: &str, field: &str) -> String {
        self.ok(&format!("inspect -f '{{{{.State.{field}}}}}' {name}"))
    }

    /// Waits until a state's field has this value; the container itself may still be on its way.
    pub(crate) fn await_state(&self, name: &str, field: &str, wanted: &str) {
        let asked = format!("inspect -f '{{{{.State.{field}}}}}' {name}");
        integration::eventually(&format!("{name}: {field} is {wanted}"), PATIENCE, || {
            (self.cmd(&asked).run().stdout.trim() == wanted).then_some(())
        });
    }

    /// The container's first process, by the host's number.
    pub(crate) fn pid(&self, name: &str) -> i32 {
        self.state(name, "Pid").parse().expect("a number")
    }

    /// A value of the container's cgroup: `v1` is controller and file, `v2` the file.
    pub(crate) fn knob(&self, name: &str, v1: (&str, &str), v2: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", self.pid(name))).expect("a running process");
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            let named = controllers.split(',').any(|own| own == v1.0);
            let file = match named {
                true => format!("/sys/fs/cgroup/{}{path}/{}", v1.0, v1.1),
                false => format!("/sys/fs/cgroup{path}/{v2}"),
            };
            if (named || controllers.is_empty())
                && let Ok(value) = std::fs::read_to_string(&file)
            {
                return value.trim().to_owned();
            }
        }
        panic!("neither {v1:?} nor {v2} in {text}");
    }

    /// Writes a file below the root folder and returns its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.host.root().join(name);
        std::fs::write(&path, text).expect("the scratch folder is writable");
        path
    }
}

/// podman on a test's host: folders of its own, and a mount namespace without the cgroup v2 mount of a hybrid host, which its
/// runtime refuses.
struct Podman {
    holder: std::process::Child,
}

impl Podman {
    fn new(host: &Host) -> Self {
        use std::io::Read;
        let conf = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
        std::fs::write(host.root().join("containers.conf"), conf).expect("the scratch folder is writable");
        let script = "for m in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts); do umount \"$m\" || exit 1; done; echo; exec sleep 100000";
        let line = host.cmd("unshare").args(["--mount", "--propagation", "slave", "--", "sh", "-c", script]);
        let mut holder = line.command().stdout(std::process::Stdio::piped()).spawn().expect("unshare is installed");
        let mut ready = [0];
        holder.stdout.as_mut().expect("piped").read_exact(&mut ready).expect("the mount namespace is made");
        Self { holder }
    }

    fn command(&self, host: &Host) -> Cmd {
        let place = |name: &str| host.root().join("podman").join(name).to_string_lossy().into_owned();
        let mounts = format!("--mount=/proc/{}/ns/mnt", self.holder.id());
        let mut line = host.cmd("nsenter").args([&mounts, "--"]).arg(integration::binaries::tool("podman", "podman"));
        for (flag, folder) in
            [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp"), ("--network-config-dir", "net")]
        {
            line = line.args([flag, &place(folder)]);
        }
        line.args(["--cgroup-manager", "cgroupfs", "--storage-driver", "overlay"])
            .env("CONTAINERS_CONF", host.root().join("containers.conf"))
            .deadline(Duration::from_secs(120))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(podman) = &mut self.podman {
            let _ = podman.command(&self.host).args(["rm", "-f", "-a", "-v", "-t", "0"]).attempt();
            // A child of ours; what it may still hold goes with the host.
            let _ = podman.holder.kill();
            let _ = podman.holder.wait();
        }
    }
}

fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for letter in line.chars() {
        match letter {
            '\'' => (quoted, begun) = (!quoted, true),
            ' ' if !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            _ => {
                word.push(letter);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}
