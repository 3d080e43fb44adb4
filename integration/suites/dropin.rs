//! The runtime under the engines people have: podman, docker, containerd, buildah — each unchanged, started by hand.
//!
//! `SHOAL_DROPIN_RUNTIME=/usr/sbin/runc` asks the same of runc: what fails there is the engine's, not ours.

use integration::bundle::fill_rootfs;
use integration::{Cmd, Outcome, Scratch, binaries, eventually};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

/// How long an engine may take to do what it was told, on two busy cores.
const SOON: Duration = Duration::from_secs(60);

fn runtime() -> PathBuf {
    std::env::var_os("SHOAL_DROPIN_RUNTIME").map_or_else(binaries::runtime, PathBuf::from)
}

/// A plain tar of the rootfs that every engine imports.
fn rootfs_tar(scratch: &Scratch) -> PathBuf {
    let (folder, tar) = (scratch.join("rootfs"), scratch.join("rootfs.tar"));
    fill_rootfs(&folder);
    let _ = Cmd::new("tar").arg("-C").arg(&folder).arg("-cf").arg(&tar).arg(".").ok();
    tar
}

/// A command as if typed at a terminal.
fn at_a_terminal(cmd: &Cmd) -> Cmd {
    Cmd::new("script").args(["-q", "-e", "-c", &cmd.line(), "/dev/null"])
}

/// Podman with a store of its own, in a view of cgroups that it accepts (pure v1: it refuses the hybrid one).
struct Podman {
    scratch: Scratch,
}

impl Podman {
    fn new() -> Self {
        let _ = binaries::tool("podman", "podman");
        let podman = Self { scratch: Scratch::new("podman") };
        let limits = "[containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
        std::fs::write(podman.scratch.join("containers.conf"), limits).expect("writable");
        let tar = rootfs_tar(&podman.scratch);
        let _ = podman.cmd(&["import", "-q"]).arg(tar).arg("localhost/box:latest").ok();
        podman
    }

    fn tool(&self, tool: &str, args: &[&str]) -> Cmd {
        let view = "mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; exec \"$@\"";
        Cmd::new("unshare")
            .args(["--mount", "sh", "-c", view, "sh", tool, "--root"])
            .arg(self.scratch.join("store"))
            .arg("--runroot")
            .arg(self.scratch.join("run"))
            .args(["--storage-driver", "vfs"])
            .args(args)
            .env("CONTAINERS_CONF", self.scratch.join("containers.conf"))
    }

    fn cmd(&self, args: &[&str]) -> Cmd {
        let runtime = runtime();
        let mut all = vec!["--cgroup-manager", "cgroupfs", "--runtime", runtime.to_str().expect("a UTF-8 path")];
        all.extend(args);
        self.tool("podman", &all)
    }

    /// A detached container that prints `started` and waits.
    fn detached(&self, name: &str, flags: &[&str]) {
        let mut args = vec!["run", "-d", "--network", "none", "--name", name];
        args.extend(flags);
        args.extend([
            "localhost/box",
            "/bin/sh",
            "-c",
            "echo started; trap 'exit 5' TERM; while :; do sleep 0.1; done",
        ]);
        let _ = self.cmd(&args).ok();
        eventually("it says started", SOON, || {
            self.cmd(&["logs", name]).run().stdout.contains("started").then_some(())
        });
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.cmd(&["rm", "-f", "-t", "0", "-a"]).attempt();
    }
}

#[test]
fn podman_runs_execs_logs_pauses_stops() {
    let podman = Podman::new();
    let hello =
        podman.cmd(&["run", "--rm", "--network", "none", "localhost/box", "/bin/echo", "hello"]).run().expect_success();
    assert_eq!(hello.stdout, "hello\n");
    let _ = podman
        .cmd(&["run", "--rm", "--network", "none", "localhost/box", "/bin/sh", "-c", "exit 9"])
        .run()
        .expect_code(9);
    let _ = podman.cmd(&["run", "--rm", "--network", "none", "localhost/box", "/no/such"]).run().expect_code(127);
    podman.detached("box", &["--memory", "64m", "--pids-limit", "50"]);
    assert!(podman.cmd(&["exec", "box", "/bin/id"]).ok().contains("uid=0"));
    let _ = podman.cmd(&["exec", "box", "/bin/probe", "exit", "3"]).run().expect_code(3);
    assert_eq!(
        podman.cmd(&["exec", "-e", "A=b", "-w", "/tmp", "box", "/bin/sh", "-c", "echo $A $(pwd)"]).ok(),
        "b /tmp\n"
    );
    let _ = podman.cmd(&["pause", "box"]).ok();
    assert_eq!(podman.cmd(&["inspect", "-f", "{{.State.Status}}", "box"]).ok().trim(), "paused");
    let _ = podman.cmd(&["unpause", "box"]).ok();
    let stats = podman.cmd(&["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "box"]).ok();
    assert!(stats.contains("67.11MB") || stats.contains("64"), "{stats}");
    let _ = podman.cmd(&["stop", "-t", "10", "box"]).ok();
    assert_eq!(podman.cmd(&["inspect", "-f", "{{.State.ExitCode}}", "box"]).ok().trim(), "5");
}

#[test]
fn podman_gives_a_terminal() {
    let podman = Podman::new();
    let run = podman.cmd(&[
        "run",
        "--rm",
        "-it",
        "--network",
        "none",
        "localhost/box",
        "/bin/sh",
        "-c",
        "test -t 0 && tty && stty size; sleep 1",
    ]);
    // Podman attaches beside the start: what a program says before that may not be shown, so it lingers and is asked again.
    eventually("podman shows the terminal", SOON, || {
        at_a_terminal_quoted(&run).run().expect_success().stdout.contains("/dev/pts/").then_some(())
    });
    podman.detached("box", &["-t"]);
    let shown =
        at_a_terminal_quoted(&podman.cmd(&["exec", "-it", "box", "/bin/sh", "-c", "tty"])).run().expect_success();
    assert!(shown.stdout.contains("/dev/pts/"), "{}", shown.stdout);
}

/// `script` takes one line of shell: every word is quoted, and the environment that [`Podman::tool`] sets goes along.
fn at_a_terminal_quoted(cmd: &Cmd) -> Cmd {
    let command = cmd.command();
    let quote = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
    let envs: Vec<String> = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quote(value?))))
        .collect();
    let words: Vec<String> = std::iter::once(command.get_program()).chain(command.get_args()).map(quote).collect();
    Cmd::new("script").args(["-q", "-e", "-c", &format!("{} {}", envs.join(" "), words.join(" ")), "/dev/null"])
}

#[test]
fn podman_runs_health_checks() {
    let podman = Podman::new();
    podman.detached("box", &["--health-cmd", "/bin/probe true", "--health-interval", "disable"]);
    let _ = podman.cmd(&["healthcheck", "run", "box"]).run().expect_success();
}

#[test]
fn buildah_builds_with_it() {
    let podman = Podman::new();
    let file = podman.scratch.join("Containerfile");
    std::fs::write(
        &file,
        "FROM localhost/box\nRUN echo built > /built && probe report ids > /ids\nCMD [\"cat\", \"/built\"]\n",
    )
    .expect("writable");
    let runtime = runtime();
    let _ = podman
        .tool(
            "buildah",
            &["bud", "--isolation", "oci", "--network", "none", "--runtime", runtime.to_str().expect("a UTF-8 path")],
        )
        .args(["--ulimit", "nproc=4096:4096", "--ulimit", "nofile=4096:4096", "-t", "localhost/built", "-f"])
        .arg(&file)
        .arg(podman.scratch.path())
        .ok();
    assert_eq!(
        podman.cmd(&["run", "--rm", "--network", "none", "localhost/built", "/bin/cat", "/built"]).ok(),
        "built\n"
    );
}

/// Something served by a daemon of ours, ended when dropped.
struct Daemon {
    child: Child,
    scratch: Scratch,
}

impl Daemon {
    /// Starts `daemon` in `scratch` and waits until `probe` succeeds.
    fn start(scratch: Scratch, daemon: &Cmd, probe: &Cmd) -> Self {
        let log = std::fs::File::create(scratch.join("log")).expect("writable");
        let child = daemon
            .command()
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", daemon.line()));
        let daemon = Self { child, scratch };
        eventually("the daemon answers", SOON, || probe.run().status.success().then_some(()));
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
        // Shims of containers that a failed test left outlive their daemon: they carry the scratch folder in their command line.
        let _ = Cmd::new("pkill").args(["-KILL", "-f", &self.scratch.path().to_string_lossy()]).attempt();
    }
}

#[test]
fn docker_runs_execs_logs_pauses_stops() {
    let _ = binaries::tool("dockerd", "docker.io");
    let scratch = Scratch::new("docker");
    let socket = format!("unix://{}", scratch.join("sock").display());
    let docker = |args: &[&str]| Cmd::new("docker").args(["-H", &socket]).args(args);
    let daemon = Cmd::new("dockerd")
        .args([
            "-H",
            &socket,
            "--bridge",
            "none",
            "--iptables=false",
            "--storage-driver",
            "vfs",
            "--exec-opt",
            "native.cgroupdriver=cgroupfs",
        ])
        .arg("--data-root")
        .arg(scratch.join("data"))
        .arg("--exec-root")
        .arg(scratch.join("exec"))
        .arg("--pidfile")
        .arg(scratch.join("pid"))
        .arg("--add-runtime")
        .arg(format!("shoal={}", runtime().display()));
    let tar = rootfs_tar(&scratch);
    let _daemon = Daemon::start(scratch, &daemon, &docker(&["info"]));
    let _ = docker(&["import"]).arg(tar).arg("box:latest").ok();
    let run = |flags: &[&str], args: &[&str]| -> Outcome {
        docker(&["run", "--runtime", "shoal", "--network", "none"]).args(flags).arg("box").args(args).run()
    };
    assert_eq!(run(&["--rm"], &["/bin/echo", "hello"]).expect_success().stdout, "hello\n");
    let _ = run(&["--rm"], &["/bin/sh", "-c", "exit 9"]).expect_code(9);
    let _ = run(&["--rm"], &["/no/such"]).expect_code(127);
    let waits = ["/bin/sh", "-c", "echo started; trap 'exit 5' TERM; while :; do sleep 0.1; done"];
    let _ = run(
        &[
            "-d",
            "--name",
            "box",
            "--memory",
            "64m",
            "--pids-limit",
            "50",
            "--health-cmd",
            "/bin/probe true",
            "--health-interval",
            "1s",
        ],
        &waits,
    )
    .expect_success();
    eventually("it says started", SOON, || docker(&["logs", "box"]).run().stdout.contains("started").then_some(()));
    assert!(docker(&["exec", "box", "/bin/id"]).ok().contains("uid=0"));
    let _ = docker(&["exec", "box", "/bin/probe", "exit", "3"]).run().expect_code(3);
    let inspect = |format: &str| docker(&["inspect", "-f", format, "box"]).ok().trim().to_owned();
    eventually("it is healthy", SOON, || (inspect("{{.State.Health.Status}}") == "healthy").then_some(()));
    let _ = docker(&["pause", "box"]).ok();
    assert_eq!(inspect("{{.State.Status}}"), "paused");
    let _ = docker(&["unpause", "box"]).ok();
    assert!(docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "box"]).ok().contains("64MiB"));
    let _ = docker(&["update", "--memory", "80m", "--memory-swap", "80m", "box"]).ok();
    assert!(docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "box"]).ok().contains("80MiB"));
    assert!(docker(&["top", "box"]).ok().contains("sleep"));
    let shown = at_a_terminal(&docker(&["exec", "-it", "box", "/bin/tty"])).run().expect_success();
    assert!(shown.stdout.contains("/dev/pts/"), "{}", shown.stdout);
    let _ = docker(&["stop", "-t", "10", "box"]).ok();
    assert_eq!(inspect("{{.State.ExitCode}}"), "5");
    let shown =
        at_a_terminal(&docker(&["run", "--rm", "-it", "--network", "none", "--runtime", "shoal", "box", "/bin/tty"]))
            .run()
            .expect_success();
    assert!(shown.stdout.contains("/dev/pts/"), "{}", shown.stdout);
    let _ = docker(&["rm", "-f", "box"]).ok();
}

#[test]
fn containerd_runs_execs_pauses_kills() {
    let _ = binaries::tool("containerd", "containerd");
    let scratch = Scratch::new("ctr");
    let (config, socket) = (scratch.join("config.toml"), scratch.join("sock"));
    let text = format!(
        "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{0}/sock\"\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{0}/opt\"\n",
        scratch.path().display()
    );
    std::fs::write(&config, text).expect("writable");
    let archive = integration::image::Builder::busybox("localhost/box:latest").archive_in(scratch.path());
    let ctr = |args: &[&str]| Cmd::new("ctr").arg("-a").arg(&socket).args(args);
    let _daemon = Daemon::start(scratch, &Cmd::new("containerd").arg("-c").arg(&config), &ctr(&["version"]));
    let _ = ctr(&["images", "import"]).arg(archive).ok();
    let runtime = runtime();
    let run = |flags: &[&str], id: &str, args: &[&str]| {
        ctr(&["run", "--snapshotter", "native", "--runc-binary"])
            .arg(&runtime)
            .args(flags)
            .args(["localhost/box:latest", id])
            .args(args)
    };
    assert_eq!(run(&["--rm"], "one", &["/bin/echo", "hello"]).ok(), "hello\n");
    let _ = run(&["--rm"], "two", &["/bin/probe", "exit", "9"]).run().expect_code(9);
    let shown = at_a_terminal(&run(&["--rm", "-t"], "tty", &["/bin/tty"])).run().expect_success();
    assert!(shown.stdout.contains("/dev/pts/"), "{}", shown.stdout);
    let _ = run(&["-d", "--memory-limit", "67108864"], "box", &["/bin/probe", "pause"]).ok();
    assert!(ctr(&["tasks", "exec", "--exec-id", "e1", "box", "/bin/id"]).ok().contains("uid=0"));
    let _ = ctr(&["tasks", "pause", "box"]).ok();
    assert!(ctr(&["tasks", "ls"]).ok().contains("PAUSED"));
    let _ = ctr(&["tasks", "resume", "box"]).ok();
    assert!(ctr(&["tasks", "metrics", "box"]).ok().contains("memory"));
    let _ = ctr(&["tasks", "kill", "-s", "SIGKILL", "box"]).ok();
    eventually("it is stopped", SOON, || ctr(&["tasks", "ls"]).ok().contains("STOPPED").then_some(()));
    let _ = ctr(&["tasks", "rm", "box"]).run();
    let _ = ctr(&["containers", "rm", "box"]).ok();
}
