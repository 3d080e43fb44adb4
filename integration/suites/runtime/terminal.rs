//! Terminals: the console socket, the size, job control. runc's docs/terminals.md.

use crate::case::cases;
use crate::subject::{SOON, Subject};
use integration::bundle::Bundle;
use integration::eventually;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::json;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

cases! { "terminal":
    the_console_arrives_over_the_socket,
    the_console_size_is_set,
    exec_gets_a_console_of_its_own,
    a_terminal_without_a_console_socket_is_refused_when_detached,
    a_console_socket_without_a_terminal_is_refused ["crun": "1.8 ignores the socket"],
}

/// Takes the terminal that a runtime sends to a console socket.
fn receive(listener: &UnixListener) -> std::fs::File {
    let (stream, _) = listener.accept().expect("the runtime connects");
    let mut data = [0_u8; 4096];
    let mut data = [std::io::IoSliceMut::new(&mut data)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut data, Some(&mut space), MsgFlags::empty()).expect("a message");
    for control in message.cmsgs().expect("whole control data") {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            #[expect(unsafe_code, reason = "a received descriptor has no owner until it is given one")]
            // SAFETY: the kernel made this descriptor for us in recvmsg; nobody else owns it.
            return std::fs::File::from(unsafe { OwnedFd::from_raw_fd(descriptors[0]) });
        }
    }
    panic!("no descriptor came over the console socket");
}

/// Reads the terminal until it holds `wanted`.
fn read_until(mut console: std::fs::File, wanted: &str) -> String {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = console.read(&mut buffer) {
            if send.send(String::from_utf8_lossy(&buffer[..count]).into_owned()).is_err() {
                return;
            }
        }
    });
    let mut text = String::new();
    eventually(&format!("the terminal shows {wanted}"), SOON, || {
        text.extend(receive.try_iter());
        text.contains(wanted).then(|| text.clone())
    })
}

fn the_console_arrives_over_the_socket(subject: &Subject) {
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "tty; test -t 0 && test -t 1 && test -t 2 && ls -l /dev/console | cut -c1 && echo all-tty; sleep 1000",
    ]);
    bundle.config["process"]["terminal"] = true.into();
    bundle.write();
    let path = bundle.path().join("console.sock");
    let listener = UnixListener::bind(&path).expect("a short path");
    let _ = subject
        .cmd(["run", "--detach", "--console-socket"])
        .arg(&path)
        .arg("--bundle")
        .arg(bundle.path())
        .arg(bundle.id())
        .ok();
    let text = read_until(receive(&listener), "all-tty");
    let _ = subject.cmd(["delete", "--force", bundle.id()]).ok();
    assert!(text.contains("/dev/pts/0") || text.contains("/dev/console"), "{text}");
}

fn the_console_size_is_set(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "stty size; sleep 1000"]);
    bundle.config["process"]["terminal"] = true.into();
    bundle.config["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    bundle.write();
    let path = bundle.path().join("console.sock");
    let listener = UnixListener::bind(&path).expect("a short path");
    let _ = subject
        .cmd(["run", "--detach", "--console-socket"])
        .arg(&path)
        .arg("--bundle")
        .arg(bundle.path())
        .arg(bundle.id())
        .ok();
    let text = read_until(receive(&listener), "\n");
    let _ = subject.cmd(["delete", "--force", bundle.id()]).ok();
    assert!(text.contains("33 77"), "{text}");
}

fn exec_gets_a_console_of_its_own(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let path = bundle.path().join("console.sock");
    let listener = UnixListener::bind(&path).expect("a short path");
    let _ = subject
        .cmd(["exec", "--tty", "--detach", "--console-socket"])
        .arg(&path)
        .args([&container.id, "sh", "-c", "tty; echo shown; sleep 1000"])
        .ok();
    let text = read_until(receive(&listener), "shown");
    assert!(text.contains("/dev/pts/"), "{text}");
}

fn a_terminal_without_a_console_socket_is_refused_when_detached(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "pause"]);
    bundle.config["process"]["terminal"] = true.into();
    bundle.write();
    let _ = subject.cmd(["create", "--bundle"]).arg(bundle.path()).arg(bundle.id()).run().expect_failure();
    let _ = subject.cmd(["state", bundle.id()]).run().expect_failure();
}

fn a_console_socket_without_a_terminal_is_refused(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    bundle.write();
    let path = bundle.path().join("console.sock");
    let _listener = UnixListener::bind(&path).expect("a short path");
    let outcome = subject
        .cmd(["create", "--console-socket"])
        .arg(&path)
        .arg("--bundle")
        .arg(bundle.path())
        .arg(bundle.id())
        .run();
    let _ = subject.cmd(["delete", "--force", bundle.id()]).run();
    let _ = outcome.expect_failure();
}
