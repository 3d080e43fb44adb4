//! NOTIFY_SOCKET: a service manager hears that the program is ready, and which process of the host it is.

use crate::case::cases;
use crate::subject::{Container, Subject};
use integration::bundle::Bundle;
use integration::{Scratch, eventually};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

cases! { "notify":
    a_service_manager_hears_that_a_container_is_ready_and_its_pid ["crun": "1.8 names no MAINPID"],
    start_waits_until_the_program_is_ready ["crun": "1.8 names no MAINPID"],
    a_program_that_ends_before_it_is_ready_ends_the_wait ["runc": "1.1 waits for its dead child for ever"],
    a_container_cannot_name_processes_or_descriptors_of_the_host ["crun": "1.8 names no MAINPID"],
    a_container_in_the_foreground_is_heard_to_its_end ["runc": "1.1 relays READY alone", "crun": "1.8 relays READY alone"],
    the_socket_of_the_host_is_not_in_the_container ["crun": "1.8 puts its folder over the host's path"],
}

/// How long a word may take to arrive on two busy cores.
const SOON: Duration = Duration::from_secs(20);

/// A service manager: a socket, and what was said there, a datagram each.
struct Manager {
    path: PathBuf,
    said: Arc<Mutex<Vec<String>>>,
    _folder: Scratch,
}

impl Manager {
    fn new() -> Self {
        let folder = Scratch::new("manager");
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("the folder is ours");
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        // Descriptors that come along are dropped by the kernel, which answers a barrier. It ends with the suite.
        let _ = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = socket.recv(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                heard.lock().expect("nobody panics with it").push(text);
            }
        });
        Self { path, said, _folder: folder }
    }

    /// All lines so far.
    fn lines(&self) -> Vec<String> {
        let said = self.said.lock().expect("nobody panics with it");
        said.iter().flat_map(|text| text.lines()).map(str::to_owned).collect()
    }

    fn hears(&self, line: &str) {
        eventually(&format!("the manager hears {line}; so far {:?}", self.lines()), SOON, || {
            self.lines().iter().any(|said| said == line).then_some(())
        });
    }
}

/// A program that says it is ready once the file `/tmp/go` is there, and stays.
const WAITS: [&str; 3] =
    ["sh", "-c", "until [ -e /tmp/go ]; do sleep 0.05; done; probe notify READY=1; exec probe pause"];

fn go(bundle: &Bundle) {
    std::fs::write(bundle.rootfs().join("tmp/go"), "").expect("writable");
}

/// Runs the container of `bundle` for `manager`, which hears that it is ready and its pid.
fn ready<'a>(subject: &'a Subject, bundle: &Bundle, manager: &Manager) -> Container<'a> {
    bundle.write();
    let container = subject.container(bundle);
    let run = subject.cmd(["run", "-d", "--bundle"]).arg(bundle.path()).arg(bundle.id());
    let _ = run.env("NOTIFY_SOCKET", &manager.path).ok();
    hears_ready(&container, manager);
    container
}

fn hears_ready(container: &Container<'_>, manager: &Manager) {
    manager.hears("READY=1");
    manager.hears(&format!("MAINPID={}", container.state()["pid"]));
}

fn a_service_manager_hears_that_a_container_is_ready_and_its_pid(subject: &Subject) {
    let manager = Manager::new();
    let bundle = Bundle::new(&WAITS);
    go(&bundle);
    let _container = ready(subject, &bundle, &manager);
}

fn start_waits_until_the_program_is_ready(subject: &Subject) {
    let manager = Manager::new();
    let bundle = Bundle::new(&WAITS);
    bundle.write();
    let container = subject.container(&bundle);
    let create = subject.cmd(["create", "--bundle"]).arg(bundle.path()).arg(bundle.id());
    let _ = create.env("NOTIFY_SOCKET", &manager.path).ok();
    let start = subject.cmd(["start", bundle.id()]).env("NOTIFY_SOCKET", &manager.path);
    std::thread::scope(|scope| {
        let started = scope.spawn(|| start.ok());
        container.await_status("running");
        assert!(!started.is_finished() && manager.lines().is_empty(), "{:?}", manager.lines());
        go(&bundle);
        let _ = started.join().expect("start ends");
    });
    hears_ready(&container, &manager);
}

fn a_program_that_ends_before_it_is_ready_ends_the_wait(subject: &Subject) {
    let manager = Manager::new();
    let bundle = Bundle::new(&["probe", "true"]);
    bundle.write();
    let container = subject.container(&bundle);
    let run = subject.cmd(["run", "-d", "--bundle"]).arg(bundle.path()).arg(bundle.id());
    let _ = run.env("NOTIFY_SOCKET", &manager.path).deadline(SOON).run();
    container.await_status("stopped");
    let _ = container.cmd("delete").ok();
    assert!(manager.lines().iter().all(|line| !line.starts_with("READY")), "{:?}", manager.lines());
}

fn a_container_cannot_name_processes_or_descriptors_of_the_host(subject: &Subject) {
    let manager = Manager::new();
    let words =
        "probe notify MAINPID=1 FDSTORE=1 NOTIFYACCESS=all; probe notify READY=1 MAINPID=1 FDSTORE=1; exec probe pause";
    let bundle = Bundle::new(&["sh", "-c", words]);
    let _container = ready(subject, &bundle, &manager);
    let foreign = ["MAINPID=1", "FDSTORE=1", "NOTIFYACCESS=all"];
    let lines = manager.lines();
    assert!(!lines.iter().any(|line| foreign.contains(&line.as_str())), "{lines:?}");
}

fn a_container_in_the_foreground_is_heard_to_its_end(subject: &Subject) {
    let manager = Manager::new();
    let words =
        "probe notify STATUS=starting; probe notify READY=1; probe notify STATUS=serving; probe notify STOPPING=1";
    let bundle = Bundle::new(&["sh", "-c", words]);
    bundle.write();
    let _container = subject.container(&bundle);
    let run = subject.cmd(["run", "--bundle"]).arg(bundle.path()).arg(bundle.id());
    let mut command = run.env("NOTIFY_SOCKET", &manager.path).command();
    let mut child = command.spawn().expect("the runtime starts");
    let pid = child.id();
    assert!(child.wait().expect("a child of ours").success());
    // The manager watches the command that stays.
    let expected = ["STATUS=starting", "READY=1", &format!("MAINPID={pid}"), "STATUS=serving", "STOPPING=1"];
    expected.iter().for_each(|line| manager.hears(line));
    assert_eq!(manager.lines(), expected);
}

fn the_socket_of_the_host_is_not_in_the_container(subject: &Subject) {
    let manager = Manager::new();
    let words = "echo $NOTIFY_SOCKET; probe notify READY=1; rm -f $NOTIFY_SOCKET; touch /run/notify/more; ls /run/notify; grep notify /proc/self/mountinfo";
    let bundle = Bundle::new(&["sh", "-c", words]);
    bundle.write();
    let _container = subject.container(&bundle);
    let run = subject.cmd(["run", "--bundle"]).arg(bundle.path()).arg(bundle.id());
    let said = run.env("NOTIFY_SOCKET", &manager.path).run().stdout;
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.first().is_some_and(|line| line.starts_with("/run/notify/")), "{said}");
    // It can neither be removed nor joined by another.
    assert_eq!(lines.iter().filter(|line| !line.contains('/')).count(), 1, "{said}");
    assert!(!said.contains(&manager.path.display().to_string()), "{said}");
    manager.hears("READY=1");
}
