//! The D-Bus client and the property mapping against a bus of the test's own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use super::wire::{self, Message, Reader};
use super::*;
use crate::host::cgroup::Manager;

/// The other end of a bus: greets, then answers each call with what `answer` returns.
fn serve(mut stream: UnixStream, mut answer: impl FnMut(&Message) -> Vec<Vec<u8>> + Send + 'static) {
    thread::spawn(move || {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        assert!(line.starts_with(b"\0AUTH EXTERNAL "));
        stream.write_all(b"OK 1234\r\n").unwrap();
        let mut begin = [0; 7];
        stream.read_exact(&mut begin).unwrap();
        assert_eq!(&begin, b"BEGIN\r\n");
        loop {
            let mut head = [0; 16];
            if stream.read_exact(&mut head).is_err() {
                return;
            }
            let mut bytes = vec![0; wire::length(&head).unwrap()];
            bytes[..16].copy_from_slice(&head);
            stream.read_exact(&mut bytes[16..]).unwrap();
            let call = wire::parse(&bytes).unwrap();
            for reply in answer(&call) {
                stream.write_all(&reply).unwrap();
            }
        }
    });
}

fn reply(call: &Message, signature: &str, body: Writer) -> Vec<u8> {
    wire::message(2, 99, &[], Some(call.serial), signature, body)
}

fn text(text: &str) -> Writer {
    let mut body = Writer::default();
    body.string(text);
    body
}

fn removed(job: &str, result: &str) -> Vec<u8> {
    let mut body = Writer::default();
    body.u32(7);
    body.string(job);
    body.string("x.scope");
    body.string(result);
    wire::message(4, 98, &[(1, "/"), (2, MANAGER), (3, "JobRemoved")], None, "uoss", body)
}

fn bus(answer: impl FnMut(&Message) -> Vec<Vec<u8>> + Send + 'static) -> Bus {
    let (ours, theirs) = UnixStream::pair().unwrap();
    serve(theirs, answer);
    Bus::greet(ours, true).unwrap()
}

fn start(bus: &mut Bus, timeout: Duration) -> Result<(), BusError> {
    let mut body = Writer::default();
    body.string("x.scope");
    body.string("replace");
    body.properties(&properties::scope("x.scope", "system.slice", 42, true));
    body.empty_array(8);
    bus.job("StartTransientUnit", "ssa(sv)a(sa(sv))", body, "x.scope", Instant::now() + timeout)
}

#[test]
fn a_job_is_waited_for_even_when_its_end_comes_before_the_answer() {
    for early in [true, false] {
        let mut bus = bus(move |call| match call.member.as_str() {
            "StartTransientUnit" => {
                assert_eq!(call.signature, "ssa(sv)a(sa(sv))");
                assert_eq!(Reader::new(&call.body).string().unwrap(), "x.scope");
                let (end, answer) = (removed("/job/5", "done"), reply(call, "o", text("/job/5")));
                let other = removed("/job/4", "failed");
                if early { vec![other, end, answer] } else { vec![answer, other, end] }
            }
            _ => vec![reply(call, "", Writer::default())],
        });
        start(&mut bus, Duration::from_secs(5)).unwrap();
    }
}

#[test]
fn a_job_that_fails_or_never_ends_is_an_error() {
    let mut failed = bus(|call| match call.member.as_str() {
        "StartTransientUnit" => vec![reply(call, "o", text("/job/5")), removed("/job/5", "failed")],
        _ => vec![reply(call, "", Writer::default())],
    });
    assert!(
        matches!(start(&mut failed, Duration::from_secs(5)), Err(BusError::Job { result, .. }) if result == "failed")
    );
    let mut silent = bus(|call| match call.member.as_str() {
        "StartTransientUnit" => vec![reply(call, "o", text("/job/5"))],
        _ => vec![reply(call, "", Writer::default())],
    });
    assert!(matches!(start(&mut silent, Duration::from_millis(30)), Err(BusError::JobTimeout { .. })));
}

#[test]
fn a_refusal_carries_its_name_and_text() {
    let mut bus = bus(|call| match call.member.as_str() {
        "StartTransientUnit" => {
            let name = "org.freedesktop.systemd1.UnitExists";
            vec![wire::message(3, 9, &[(4, name)], Some(call.serial), "s", text("it is there"))]
        }
        _ => vec![reply(call, "", Writer::default())],
    });
    let error = start(&mut bus, Duration::from_secs(5)).unwrap_err();
    assert!(error.to_string().contains("UnitExists: it is there"), "{error}");
}

#[test]
fn a_property_is_read_from_its_variant() {
    let mut bus = bus(|call| {
        match call.member.as_str() {
            // A variant: the signature "s", then the string.
            "Get" => {
                let mut bytes = vec![1, b's', 0, 0];
                bytes.extend(8u32.to_le_bytes());
                bytes.extend(b"252.17-1\0");
                vec![reply(call, "v", wire::Writer::from_bytes(bytes))]
            }
            _ => vec![reply(call, "", Writer::default())],
        }
    });
    assert_eq!(bus.version().unwrap(), 252);
}

#[test]
fn a_peer_that_hangs_up_or_talks_nonsense_is_an_error() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert!(Bus::greet(ours, true).is_err());
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
    assert!(matches!(Bus::greet(ours, true), Err(BusError::Strange { .. })));
}

#[test]
fn no_bytes_make_the_reader_panic() {
    let whole = wire::call(1, &[(1, "/a"), (3, "M")], "s", text("hello"));
    assert!(wire::parse(&whole).is_some());
    for at in 0..whole.len() {
        let _ = wire::parse(&whole[..at]);
        for value in [0, 1, 7, 0x7f, 0xff] {
            let mut bent = whole.clone();
            bent[at] = value;
            let _ = wire::parse(&bent);
            let _ = bent.first_chunk().and_then(wire::length);
        }
    }
}

#[test]
fn a_unit_is_named_as_the_path_says() {
    let request = |path| Request {
        cgroups_path: path,
        id: "c1",
        manager: Manager::Systemd,
        rootless: false,
        resources: None,
        annotations: &[],
        owner: None,
    };
    let unit = Unit::plan(&request(Some("machine-web.slice:libpod:c1"))).unwrap();
    assert_eq!(unit.path().unwrap(), Path::new("/machine.slice/machine-web.slice/libpod-c1.scope"));
    assert_eq!(Unit::plan(&request(None)).unwrap().path().unwrap(), Path::new("/system.slice/shoal-c1.scope"));
    for path in ["/a/b", "a:b", "a-.slice:b:c", "../x.slice:b:c", "a.slice:b:c/d"] {
        assert!(Unit::plan(&request(Some(path))).is_err(), "{path}");
    }
}

#[test]
fn a_unit_that_systemd_did_not_make_for_the_container_is_never_stopped() {
    let text = r#"{"name": "shoal-c1.scope", "slice": "system.slice", "user": false, "started": false}"#;
    let planned: Unit = serde_json::from_str(text).unwrap();
    assert!(!planned.is_started());
    let before = r#"{"name": "shoal-c1.scope", "slice": "system.slice", "user": false}"#;
    assert!(serde_json::from_str::<Unit>(before).unwrap().is_started(), "a record from before it was kept");
}
