//! What the cases share: a host with the test image, command lines written as one types them.

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
}

impl Place {
    /// A host with the image loaded.
    pub(crate) fn new(what: &str) -> Self {
        let host = Host::new(what);
        let _ = host.shoal(["load", "-q", "-i"]).arg(archive()).ok();
        Self { host }
    }

    /// The command `shoal LINE`; words are split at spaces, `'…'` holds them together, `BB` is the image, `~` the root folder.
    pub(crate) fn cmd(&self, line: &str) -> Cmd {
        let root = self.host.root().to_string_lossy().into_owned();
        let words = words(line).into_iter().map(|word| match word.as_str() {
            "BB" => IMAGE.to_owned(),
            _ => word.replace('~', &root),
        });
        self.host.shoal(words.collect::<Vec<_>>())
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

    /// Waits until a state's field has this value.
    pub(crate) fn await_state(&self, name: &str, field: &str, wanted: &str) {
        integration::eventually(&format!("{name}: {field} is {wanted}"), PATIENCE, || {
            (self.state(name, field) == wanted).then_some(())
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
