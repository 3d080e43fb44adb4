//! Networks as everyday flags use them; the depth is in the suite `network`.

use crate::case::Place;

#[test]
fn a_server_that_is_no_address_is_refused_and_not_dropped() {
    let place = Place::new("dns");
    place.refused("create --dns dns.example BB true", 125, "--dns");
    assert!(
        place
            .sh("--dns 9.9.9.9 --dns-search a.example", "cat /etc/resolv.conf")
            .contains("nameserver 9.9.9.9\nsearch a.example")
    );
}

#[test]
fn modes_addresses_and_generated_files() {
    let place = Place::new("modes");
    assert_eq!(place.ok("run --rm --network none BB sh -c 'ls /sys/class/net'"), "lo");
    assert!(place.ok("run --rm BB ls /sys/class/net").contains("eth0"));
    assert!(place.ok("run --rm --net host BB ip -o link").contains("lo"));
    let lines = place.sh(
        "--add-host db:10.1.2.3 --dns 192.0.2.7 --dns-search a.example --dns-option ndots:2",
        "cat /etc/hosts /etc/resolv.conf",
    );
    for line in ["10.1.2.3\tdb", "nameserver 192.0.2.7", "search a.example", "options ndots:2"] {
        assert!(lines.contains(line), "{line}: {lines}");
    }
    let _ = place.ok("network create --subnet 10.99.0.0/24 own");
    assert!(
        place
            .sh("--network own --ip 10.99.0.77 --mac-address 02:42:0a:63:00:4d", "ip addr show eth0")
            .contains("10.99.0.77/24")
    );
    place.refused("run --rm --network nowhere BB true", 125, "nowhere");
    place.refused("run --rm --network own --ip 10.98.0.1 BB true", 125, "10.98.0.1");
}

#[test]
fn published_ports_reach_the_container_and_a_taken_one_is_told() {
    let place = Place::new("publish");
    let _ = place.ok("run -d --name web -p 8080:80 -p 127.0.0.1:8081:80 -p 9000-9001:90-91 -p 5353:53/udp BB sh -c 'mkdir /www; echo hello > /www/index.html; httpd -f -p 80 -h /www'");
    let get = |port: &str| {
        place.host.cmd("curl").args(["-s", "--max-time", "2", &format!("http://127.0.0.1:{port}/")]).run().stdout
    };
    integration::eventually("the server answers", crate::case::PATIENCE, || (get("8080") == "hello\n").then_some(()));
    assert_eq!(get("8081"), "hello\n");
    let ports = place.ok("port web");
    assert!(ports.contains("90/tcp -> 0.0.0.0:9000") && ports.contains("53/udp -> 0.0.0.0:5353"), "{ports}");
    let taken = place.run("run -d --name late -p 8080:80 BB true").expect_code(125);
    assert!(taken.stderr.contains("8080") && taken.stderr.contains("web"), "{}", taken.stderr);
    let _ = place.ok("rm -f web late");
    let _ = place.ok("run -d --name next -p 8080:80 BB sleep 1000");
    let random = place.ok("run -d -P --expose 80 BB sleep 1000");
    assert!(place.ok(&format!("port {random}")).contains("80/tcp -> 0.0.0.0:"));
    place.refused("run -d -p 99999:80 BB true", 125, "99999");
    let listener = place.host.cmd("nc").args(["-h"]).run();
    drop(listener);
}

#[test]
fn names_resolve_on_a_network_of_ones_own() {
    let place = Place::new("names");
    let _ = place.ok("network create web");
    let _ = place.ok("run -d --name db --network web --network-alias store BB sleep 1000");
    let address = place.ok("inspect -f '{{.NetworkSettings.Networks.web.IPAddress}}' db");
    for name in ["db", "store"] {
        let found = place.ok(&format!("run --rm --network web BB nslookup {name}"));
        assert!(found.contains(&address), "{name}: {found}");
    }
    let _ = place.run("network rm web").expect_failure();
    let _ = place.ok("rm -f db");
    let _ = place.ok("network rm web");
    assert_eq!(place.ok("network ls -q --filter name=web"), "");
}
