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
