//! `config.toml`: defaults of the user's for flags, below flags and variables, and never passed over silently.

use crate::case::Place;

#[test]
fn the_file_gives_defaults_that_a_flag_overrules() {
    let place = Place::new("config");
    let _ = place.file("config.toml", "version = 1\n[run]\nhostname = \"filed\"\nenv = [\"FROM=file\"]\ninit = true\n");
    assert_eq!(
        place.sh("", "hostname; echo $FROM; cat /proc/1/cmdline | tr '\\0' ' ' | cut -d' ' -f1"),
        "filed\nfile\n/sbin/docker-init"
    );
    assert_eq!(place.sh("-h given -e FROM=line", "hostname; echo $FROM"), "given\nline");
    let _ = place.file("config.toml", "version = 1\n[ps]\nquiet = true\n[exec]\nworkdir = \"/tmp\"\n");
    let id = place.ok("run -d --name box BB sleep 1000");
    assert_eq!(place.ok("ps"), id[..12]);
    assert_eq!(place.ok("container exec box pwd"), "/tmp");
}

#[test]
fn a_key_that_means_nothing_is_refused_with_its_line() {
    let place = Place::new("config-bad");
    let _ = place.file("config.toml", "version = 1\n\n[run]\nhostnme = \"x\"\n");
    let said = place.refused("run --rm BB true", 125, "hostnme").stderr;
    assert!(said.contains("config.toml:4:1") && said.contains("did you mean \"hostname\"?"), "{said}");
    place.refused("ps", 1, "config.toml:4:1");
    let _ = place.file("config.toml", "version = 3\n");
    place.refused("ps", 1, "version 1");
    let _ = place.file("config.toml", "version = 1\n[run]\nmemory = 12 13\n");
    place.refused("ps", 1, "config.toml:3:");
}
