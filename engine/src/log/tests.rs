//! Writing, rotating and reading back.

use super::*;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("shoal-log-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn config(driver: &str, options: &[(&str, &str)]) -> LogConfig {
    let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    LogConfig { driver: driver.to_owned(), options }
}

fn read(config: &LogConfig, folder: &Folder, query: &Query) -> Vec<Entry> {
    let mut entries = Vec::new();
    query
        .read(config, &folder.0, &mut |entry| {
            entries.push(entry);
            Ok(())
        })
        .unwrap();
    entries
}

const T0: Nanos = 1_700_000_000_000_000_000;

#[test]
fn what_was_written_is_read_back_by_both_file_drivers() {
    for driver in ["json-file", "k8s-file"] {
        let (folder, config) = (Folder::new(), config(driver, &[]));
        let mut writer = Writer::open(&config, &folder.0, &Origin::default()).unwrap();
        writer.write(Stream::Stdout, T0, b"a \"quoted\"\t\x01 line\nsecond\n").unwrap();
        writer.write(Stream::Stderr, T0 + 1, b"no newline").unwrap();
        let entries = read(&config, &folder, &Query::default());
        let texts: Vec<_> = entries.iter().map(|entry| String::from_utf8_lossy(&entry.text).into_owned()).collect();
        assert_eq!(texts, ["a \"quoted\"\t\x01 line\n", "second\n", "no newline"], "{driver}");
        assert_eq!((entries[2].stream, entries[2].time), (Stream::Stderr, T0 + 1));
    }
}

#[test]
fn tail_since_and_until_select() {
    let (folder, config) = (Folder::new(), config("", &[]));
    let mut writer = Writer::open(&config, &folder.0, &Origin::default()).unwrap();
    for number in 0..10u64 {
        writer.write(Stream::Stdout, T0 + number, format!("{number}\n").as_bytes()).unwrap();
    }
    let numbers = |query: &Query| -> String {
        read(&config, &folder, query).iter().map(|entry| char::from(entry.text[0])).collect()
    };
    assert_eq!(numbers(&Query { tail: Some(3), ..Query::default() }), "789");
    assert_eq!(numbers(&Query { tail: Some(0), ..Query::default() }), "");
    assert_eq!(numbers(&Query { since: Some(T0 + 4), until: Some(T0 + 6), ..Query::default() }), "456");
}

#[test]
fn rotation_bounds_the_disk_and_keeps_order() {
    let (folder, config) = (Folder::new(), config("json-file", &[("max-size", "1k"), ("max-file", "3")]));
    let mut writer = Writer::open(&config, &folder.0, &Origin::default()).unwrap();
    for number in 0..200 {
        writer.write(Stream::Stdout, T0, format!("line {number}\n").as_bytes()).unwrap();
    }
    let total: u64 = std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(total <= 3 * 1024, "{total} bytes");
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 3);
    let entries = read(&config, &folder, &Query::default());
    assert_eq!(entries.last().unwrap().text, b"line 199\n");
    let first: usize = String::from_utf8_lossy(&entries[0].text)[5..].trim().parse().unwrap();
    assert_eq!(entries.len(), 200 - first, "no line is missing in between");
}

#[test]
fn one_write_larger_than_a_file_is_spread_over_files() {
    for driver in ["json-file", "k8s-file"] {
        let (folder, config) = (Folder::new(), config(driver, &[("max-size", "1k"), ("max-file", "2")]));
        let mut writer = Writer::open(&config, &folder.0, &Origin::default()).unwrap();
        let flood: String = (0..5000).map(|number| format!("line {number}\n")).collect();
        writer.write(Stream::Stdout, T0, flood.as_bytes()).unwrap();
        for file in std::fs::read_dir(&folder.0).unwrap() {
            let bytes = file.unwrap().metadata().unwrap().len();
            assert!(bytes <= 1024, "{driver}: a file of {bytes} bytes");
        }
        assert_eq!(read(&config, &folder, &Query::default()).last().unwrap().text, b"line 4999\n");
    }
}

#[test]
fn lines_without_an_end_are_cut_at_their_largest_size() {
    let mut lines = Lines::default();
    let mut got = Vec::new();
    lines.push(b"ab", &mut |text| got.push(text.to_vec()));
    assert!(got.is_empty());
    lines.push(b"c\nd", &mut |text| got.push(text.to_vec()));
    lines.push(&vec![b'x'; LINE_BYTES_MAX], &mut |text| got.push(text.to_vec()));
    assert_eq!(got[0], b"abc\n");
    assert_eq!(got[1].len(), LINE_BYTES_MAX + 1);
    lines.finish(&mut |_| panic!("nothing is left"));
}

#[test]
fn labels_variables_and_the_tag_are_written_beside_each_line() {
    let options = [("labels", "colour, none"), ("env", "A"), ("tag", "{{.Name}}-{{.ID}}")];
    let config = config("json-file", &options);
    let labels = [("colour".to_owned(), "blue".to_owned()), ("other".to_owned(), "x".to_owned())].into();
    let record = Named { id: &"ab".repeat(32), name: "box", image: "bb:1", image_id: "sha256:cd" };
    let env = ["A=1".to_owned(), "B=2".to_owned()];
    let attributes = config.attributes(&record, &labels, &env);
    let folder = Folder::new();
    let origin = Origin { attributes, ..Origin::default() };
    Writer::open(&config, &folder.0, &origin).unwrap().write(Stream::Stdout, T0, b"x\n").unwrap();
    let line = std::fs::read_to_string(folder.0.join("container-json.log")).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let expected = serde_json::json!({"colour": "blue", "A": "1", "tag": "box-abababababab"});
    assert_eq!((&line["attrs"], line["log"].as_str()), (&expected, Some("x\n")));
    assert_eq!(read(&config, &folder, &Query::default())[0].text, b"x\n");
}

#[test]
fn unknown_drivers_and_options_are_refused() {
    assert!(config("fluentd", &[]).check().is_err());
    assert!(config("json-file", &[("max-size", "big")]).check().is_err());
    assert!(config("json-file", &[("max-file", "0")]).check().is_err());
    assert!(config("none", &[("tag", "x")]).check().is_err());
    assert!(config("json-file", &[("tag", "{{.Colour}}")]).check().is_err());
    assert!(config("json-file", &[("tag", "{{.Name}}/{{.ID}}"), ("labels", "a,b")]).check().is_ok());
    assert!(config("k8s-file", &[("max-size", "10m"), ("max-file", "2")]).check().is_ok());
}

#[test]
fn a_follower_misses_nothing_while_the_log_rotates_faster_than_it_looks() {
    let (folder, config) = (Folder::new(), config("json-file", &[("max-size", "1k"), ("max-file", "4")]));
    let mut writer = Writer::open(&config, &folder.0, &Origin::default()).unwrap();
    let mut next = 0;
    let mut write = |count: usize| {
        for _ in 0..count {
            writer.write(Stream::Stdout, T0, format!("line {next}\n").as_bytes()).unwrap();
            next += 1;
        }
    };
    write(5);
    // About 14 lines a file: a rotation, three at once, two at once, then more than are kept.
    let mut bursts = [10, 30, 20, 200].into_iter();
    let (mut got, mut gaps) = (Vec::new(), Vec::new());
    let query = Query::default();
    query
        .read_and_follow(
            &config,
            &folder.0,
            &mut |entry| {
                let number: usize = String::from_utf8_lossy(&entry.text)[5..].trim().parse().unwrap();
                if entry.after_gap {
                    gaps.push(number);
                }
                got.push(number);
                Ok(())
            },
            &mut || match bursts.next() {
                Some(count) => {
                    write(count);
                    Follow::Wait
                }
                None => Follow::Stop,
            },
        )
        .unwrap();
    let [gap] = gaps[..] else { panic!("told of {gaps:?}") };
    let held = got.iter().position(|number| *number == gap).unwrap();
    assert!(held >= 65 && gap > held, "only the last burst is too much: {got:?}");
    assert!(got.iter().copied().eq((0..held).chain(gap..265)), "{got:?}");
}

#[test]
fn the_last_lines_are_found_from_the_end_over_blocks_and_files() {
    let (folder, config) = (Folder::new(), config("json-file", &[("max-size", "200k"), ("max-file", "3")]));
    let mut writer = Writer::open(&config, &folder.0, &Origin::default()).unwrap();
    let filler = "x".repeat(1000);
    for number in 0..300u64 {
        writer.write(Stream::Stdout, T0 + number, format!("{number} {filler}\n").as_bytes()).unwrap();
    }
    let numbers = |query: Query| -> Vec<u64> {
        let number = |entry: &Entry| entry.time - T0;
        read(&config, &folder, &query).iter().map(number).collect()
    };
    for tail in [1, 2, 50, 60, 61, 62, 120, 200, 299, 300] {
        let want: Vec<u64> = (300 - tail..300).collect();
        let tail = usize::try_from(tail).unwrap();
        assert_eq!(numbers(Query { tail: Some(tail), ..Query::default() }), want, "tail {tail}");
    }
    assert_eq!(numbers(Query { tail: Some(1000), ..Query::default() }).len(), 300);
    for since in [0, 1, 77, 180, 181, 182, 250, 299, 300] {
        let want: Vec<u64> = (since..300).collect();
        assert_eq!(numbers(Query { since: Some(T0 + since), ..Query::default() }), want, "since {since}");
    }
    assert_eq!(numbers(Query { tail: Some(2), until: Some(T0 + 9), ..Query::default() }), [8, 9]);
}

#[test]
fn a_stuck_syslog_loses_lines_and_not_the_container_and_one_that_is_back_is_told() {
    let folder = Folder::new();
    let path = folder.0.join("log");
    let daemon = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    daemon.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let address = format!("unixgram://{}", path.display());
    let config = config("syslog", &[("syslog-address", &address)]);
    let origin = Origin { attributes: [(TAG.to_owned(), "t".to_owned())].into_iter().collect(), ..Origin::default() };
    let mut writer = Writer::open(&config, &folder.0, &origin).unwrap();
    let received = |daemon: &std::os::unix::net::UnixDatagram| {
        let mut bytes = [0; 256];
        let count = daemon.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    // More than any socket's queue holds: were it waited for, this would never end.
    let flood: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    assert!(writer.write(Stream::Stdout, T0, flood.as_bytes()).is_err(), "the loss is told");
    assert_eq!(received(&daemon), "<30>t: 0");
    while received(&daemon).starts_with("<30>") && {
        let mut byte = [0];
        daemon.set_nonblocking(true).unwrap();
        let more = nix::sys::socket::recv(
            std::os::fd::AsRawFd::as_raw_fd(&daemon),
            &mut byte,
            nix::sys::socket::MsgFlags::MSG_PEEK,
        );
        daemon.set_nonblocking(false).unwrap();
        more.is_ok()
    } {}
    writer.write(Stream::Stdout, T0, b"again\n").unwrap();
    let told = received(&daemon);
    assert!(told.starts_with("<28>t: ") && told.ends_with("lines were lost"), "{told}");
    assert_eq!(received(&daemon), "<30>t: again");
    // The daemon is started anew.
    drop(daemon);
    std::fs::remove_file(&path).unwrap();
    assert!(writer.write(Stream::Stdout, T0, b"nobody\n").is_err());
    let daemon = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    writer.write(Stream::Stderr, T0, b"back\n").unwrap();
    assert_eq!(received(&daemon), "<28>t: 1 lines were lost");
    assert_eq!(received(&daemon), "<27>t: back");
}
