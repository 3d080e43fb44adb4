//! Everyday docker, one promise of its documentation a case: listing, looking, networks, volumes, images, and the flags of
//! `run` that show an effect at once. docs/docker-cases.md names the page of each.

use crate::case::{PATIENCE, Place};
use integration::eventually;

#[test]
fn a_detached_run_prints_the_whole_id_and_comes_back_at_once() {
    let place = Place::new("ev-id");
    let id = place.ok("run -d BB sleep 1000");
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(place.ok("ps -q"), id[..12]);
}

#[test]
fn ps_shows_what_runs_all_the_latest_or_the_last_few() {
    let place = Place::new("ev-ps");
    for name in ["one", "two"] {
        let _ = place.ok(&format!("run --name {name} BB true"));
    }
    let _ = place.ok("run -d --name three BB sleep 1000");
    let names = |flags: &str| place.ok(&format!("ps {flags} --format '{{{{.Names}}}}'"));
    assert_eq!(names(""), "three");
    assert_eq!(names("-a"), "three\ntwo\none");
    assert_eq!(names("-l"), "three");
    assert_eq!(names("-n 2"), "three\ntwo");
}

#[test]
fn ps_filters_by_status_and_exit_code() {
    let place = Place::new("ev-status");
    let _ = place.run("run --name bad BB sh -c 'exit 3'");
    let _ = place.ok("run --name good BB true");
    let _ = place.ok("create --name new BB true");
    let names = |filter: &str| place.ok(&format!("ps -a --filter {filter} --format '{{{{.Names}}}}'"));
    assert_eq!(names("exited=3"), "bad");
    assert_eq!(names("status=created"), "new");
    assert_eq!(names("status=exited"), "good\nbad");
}

#[test]
fn ps_filters_by_ancestor_volume_and_network() {
    let place = Place::new("ev-filters");
    let _ = place.ok("network create red");
    let _ = place.ok("run -d --name one -v data:/d BB sleep 1000");
    let _ = place.ok("run -d --name two --network red BB sleep 1000");
    let names = |filter: &str| place.ok(&format!("ps --filter {filter} --format '{{{{.Names}}}}'"));
    assert_eq!(names("volume=data"), "one");
    assert_eq!(names("network=red"), "two");
    assert_eq!(names("ancestor=localhost/bb:1"), "two\none");
    assert_eq!(names("ancestor=nothing"), "");
}

#[test]
fn ps_filters_by_what_came_before_and_since() {
    let place = Place::new("ev-since");
    for name in ["one", "two", "three"] {
        let _ = place.ok(&format!("create --name {name} BB true"));
    }
    let names = |filter: &str| place.ok(&format!("ps -a --filter {filter} --format '{{{{.Names}}}}'"));
    assert_eq!(names("before=two"), "one");
    assert_eq!(names("since=two"), "three");
}

#[test]
fn several_filters_of_one_key_widen_and_of_two_keys_narrow() {
    let place = Place::new("ev-and-or");
    let _ = place.ok("create --name one -l a=1 BB true");
    let _ = place.ok("create --name two -l a=2 -l b=1 BB true");
    let names = |flags: &str| place.ok(&format!("ps -a {flags} --format '{{{{.Names}}}}'"));
    assert_eq!(names("--filter name=one --filter name=two"), "two\none");
    assert_eq!(names("--filter name=one --filter label=b=1"), "");
    assert_eq!(names("--filter label=a --filter name=two"), "two");
}

#[test]
fn prune_takes_stopped_containers_alone() {
    let place = Place::new("ev-prune");
    let gone = place.run("run -d BB true").expect_success().stdout;
    let _ = place.ok("run -d --name stays BB sleep 1000");
    place.await_state(gone.trim(), "Status", "exited");
    let said = place.ok("container prune -f");
    assert!(said.contains(gone.trim()), "{said}");
    assert_eq!(place.ok("ps -a --format '{{.Names}}'"), "stays");
}

#[test]
fn rm_goes_on_after_a_name_it_does_not_know() {
    let place = Place::new("ev-rm");
    let _ = place.ok("create --name one BB true");
    let outcome = place.run("rm nobody one").expect_code(1);
    assert!(outcome.stdout.contains("one") && outcome.stderr.contains("nobody"), "{outcome:?}");
    assert_eq!(place.ok("ps -aq"), "");
}

#[test]
fn wait_prints_each_exit_code() {
    let place = Place::new("ev-wait");
    let _ = place.ok("run -d --name one BB sh -c 'exit 1'");
    let _ = place.ok("run -d --name two BB sh -c 'exit 2'");
    assert_eq!(place.ok("wait one two"), "1\n2");
}

#[test]
fn start_attached_ends_with_the_containers_code() {
    let place = Place::new("ev-start");
    let _ = place.ok("create --name box BB sh -c 'echo out; exit 9'");
    let outcome = place.run("start -a box").expect_code(9);
    assert_eq!(outcome.stdout, "out\n");
}

#[test]
fn one_command_stops_starts_and_restarts_many() {
    let place = Place::new("ev-many");
    for name in ["one", "two"] {
        let _ = place.ok(&format!("run -d --name {name} BB sleep 1000"));
    }
    assert_eq!(place.ok("stop -t 0 one two"), "one\ntwo");
    assert_eq!(place.ok("ps -q"), "");
    assert_eq!(place.ok("start one two"), "one\ntwo");
    let pid = place.pid("one");
    let _ = place.ok("restart -t 0 one two");
    assert_ne!(place.pid("one"), pid);
    assert_eq!(place.ok("ps -q").lines().count(), 2);
}

#[test]
fn an_invalid_name_is_refused_before_anything_is_made() {
    let place = Place::new("ev-name");
    for name in ["a/b", "-x", "a b"] {
        let _ = place.run(&format!("create --name '{name}' BB true")).expect_failure();
    }
    assert_eq!(place.ok("ps -aq"), "");
}

#[test]
fn an_image_can_be_named_by_its_id_or_the_beginning_of_it() {
    let place = Place::new("ev-image-id");
    let id = place.ok("images -q --no-trunc");
    let bare = id.lines().next().expect("an image").trim_start_matches("sha256:");
    assert_eq!(place.ok(&format!("run --rm {bare} echo by-id")), "by-id");
    assert_eq!(place.ok(&format!("run --rm {} echo by-beginning", &bare[..12])), "by-beginning");
}

#[test]
fn names_of_hosts_are_added_and_the_gateway_has_one() {
    let place = Place::new("ev-hosts");
    let hosts = place.sh("--add-host db:10.1.2.3 --add-host gate:host-gateway", "cat /etc/hosts");
    assert!(hosts.lines().any(|line| line.split_whitespace().eq(["10.1.2.3", "db"])), "{hosts}");
    let gate = hosts.lines().find(|line| line.split_whitespace().nth(1) == Some("gate")).expect("a line");
    assert!(gate.split_whitespace().next().expect("an address").parse::<std::net::Ipv4Addr>().is_ok(), "{gate}");
}

#[test]
fn the_resolver_file_has_the_servers_searches_and_options_given() {
    let place = Place::new("ev-dns");
    let text = place.sh("--dns 192.0.2.1 --dns-search example.org --dns-option ndots:3", "cat /etc/resolv.conf");
    for line in ["nameserver 192.0.2.1", "search example.org", "options ndots:3"] {
        assert!(text.lines().any(|own| own == line), "{line}: {text}");
    }
}

#[test]
fn a_hardware_address_is_the_one_given() {
    let place = Place::new("ev-mac");
    assert_eq!(place.sh("--mac-address 02:42:ac:11:22:33", "cat /sys/class/net/eth0/address"), "02:42:ac:11:22:33");
}

#[test]
fn without_a_network_there_is_no_route() {
    let place = Place::new("ev-none");
    assert_eq!(place.sh("--network none", "ip route | wc -l"), "0");
    assert!(!place.run("run --rm --network none BB ping -c 1 -W 1 10.88.0.1").status.success());
}

#[test]
fn a_volume_stays_writable_in_a_read_only_container() {
    let place = Place::new("ev-ro");
    assert_eq!(place.sh("--read-only -v data:/d", "touch /d/file && touch /file || echo refused"), "refused");
}

#[test]
fn dropping_all_capabilities_leaves_none_and_adding_one_leaves_one() {
    let place = Place::new("ev-caps");
    let held = |flags: &str| place.sh(flags, "grep CapEff /proc/self/status | cut -f2");
    assert_eq!(held("--cap-drop ALL"), "0000000000000000");
    assert_eq!(held("--cap-drop ALL --cap-add CHOWN"), "0000000000000001");
    let _ = place.run("run --rm --cap-drop ALL BB chown 1 /etc/passwd").expect_failure();
}

#[test]
fn a_privileged_container_sees_devices_and_may_mount() {
    let place = Place::new("ev-priv");
    assert_eq!(place.sh("--privileged", "mount -t tmpfs none /mnt 2>/dev/null || mount -t tmpfs none /tmp; test -e /dev/loop-control -o -e /dev/kmsg && echo devices"), "devices");
}

#[test]
fn a_stop_signal_is_told_and_used() {
    let place = Place::new("ev-signal");
    let _ = place.ok(
        "run -d --name box --stop-signal USR2 BB sh -c 'trap \"exit 12\" USR2; echo up; while :; do sleep 0.05; done'",
    );
    eventually("it is up", PATIENCE, || place.ok("logs box").contains("up").then_some(()));
    let _ = place.ok("stop box");
    assert_eq!(place.state("box", "ExitCode"), "12");
}

#[test]
fn variables_of_an_exec_can_come_from_a_file() {
    let place = Place::new("ev-exec");
    let _ = place.file("env", "# a comment\nONE=1\nTWO=a b\n");
    let _ = place.ok("run -d --name box BB sleep 1000");
    assert_eq!(place.ok("exec --env-file ~/env box sh -c 'echo $ONE $TWO'"), "1 a b");
}

#[test]
fn exec_reads_its_input_to_the_end() {
    let place = Place::new("ev-exec-i");
    let _ = place.ok("run -d --name box BB sleep 1000");
    let input = "line\n".repeat(20_000);
    assert_eq!(place.cmd("exec -i box wc -l").input(input).ok().trim(), "20000");
}

#[test]
fn a_healthy_container_says_so_in_ps_and_can_be_filtered() {
    let place = Place::new("ev-health");
    let _ = place.ok("run -d --name well --health-cmd true --health-interval 100ms BB sleep 1000");
    eventually("it is healthy", PATIENCE, || place.ok("ps --format '{{.Status}}'").contains("(healthy)").then_some(()));
    assert_eq!(place.ok("ps --filter health=healthy --format '{{.Names}}'"), "well");
    assert_eq!(place.ok("ps --filter health=unhealthy -q"), "");
}

#[test]
fn restarts_are_counted() {
    let place = Place::new("ev-count");
    let _ = place.ok("run -d --name box --restart on-failure:2 BB sh -c 'exit 4'");
    place.await_state("box", "Status", "exited");
    assert_eq!(place.ok("inspect -f '{{.RestartCount}} {{.State.ExitCode}}' box"), "2 4");
}

#[test]
fn a_restart_policy_can_be_changed_while_it_runs() {
    let place = Place::new("ev-update");
    let _ = place.ok("run -d --name box BB sleep 1000");
    let _ = place.ok("update --restart on-failure:5 box");
    assert_eq!(
        place.ok("inspect -f '{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}' box"),
        "on-failure 5"
    );
}

#[test]
fn inspect_tells_limits_labels_and_times() {
    let place = Place::new("ev-inspect");
    let _ = place.ok("run --name box -m 64m -l a=b BB true");
    assert_eq!(place.ok("inspect -f '{{.HostConfig.Memory}}' box"), "67108864");
    assert!(place.ok("inspect -f '{{json .Config.Labels}}' box").contains("\"a\":\"b\""));
    let seen = place.inspect("box");
    let (started, finished) = (&seen["State"]["StartedAt"], &seen["State"]["FinishedAt"]);
    assert!(started.as_str() < finished.as_str(), "{started} {finished}");
}

#[test]
fn a_network_lists_its_containers_and_goes_only_when_empty() {
    let place = Place::new("ev-net");
    let _ = place.ok("network create red");
    let _ = place.ok("run -d --name box --network red BB sleep 1000");
    assert!(place.ok("network inspect red").contains("\"box\""));
    let _ = place.run("network rm red").expect_failure();
    let _ = place.ok("rm -f box");
    assert_eq!(place.ok("network rm red"), "red");
    assert!(!place.ok("network ls --format '{{.Name}}'").lines().any(|name| name == "red"));
}

#[test]
fn unused_networks_are_pruned_and_the_default_stays() {
    let place = Place::new("ev-net-prune");
    let _ = place.ok("network create one");
    let _ = place.ok("network create two");
    let _ = place.ok("run -d --network two BB sleep 1000");
    let _ = place.ok("network prune -f");
    let names = place.ok("network ls --format '{{.Name}}'");
    assert!(!names.lines().any(|name| name == "one") && names.lines().any(|name| name == "two"), "{names}");
}

#[test]
fn a_subnet_a_gateway_and_an_address_are_the_ones_given() {
    let place = Place::new("ev-subnet");
    let _ = place.ok("network create --subnet 10.71.0.0/24 --gateway 10.71.0.254 own");
    let text = place.sh("--network own --ip 10.71.0.7", "ip -4 -o addr show eth0; ip route");
    assert!(text.contains("10.71.0.7/24") && text.contains("default via 10.71.0.254"), "{text}");
}

#[test]
fn containers_of_one_network_find_each_other_by_name() {
    let place = Place::new("ev-names");
    let _ = place.ok("network create web");
    let _ =
        place.ok("run -d --name server --network web BB sh -c 'mkdir /w; echo hello > /w/index.html; httpd -f -h /w'");
    eventually("it answers by its name", PATIENCE, || {
        let said = place.run("run --rm --network web BB wget -q -O - http://server/");
        (said.stdout == "hello\n").then_some(())
    });
}

#[test]
fn two_networks_do_not_reach_each_other() {
    let place = Place::new("ev-apart");
    let _ = place.ok("network create red");
    let _ = place.ok("network create blue");
    let _ = place.ok("run -d --name server --network red BB sleep 1000");
    let address = place.ok("inspect -f '{{.NetworkSettings.Networks.red.IPAddress}}' server");
    let ping = |network: &str| place.run(&format!("run --rm --network {network} BB ping -c 1 -W 1 {address}"));
    assert!(ping("red").status.success());
    assert!(!ping("blue").status.success());
}

#[test]
fn a_volume_without_a_name_gets_one_and_its_create_prints_it() {
    let place = Place::new("ev-volume");
    assert_eq!(place.ok("volume create given"), "given");
    let name = place.ok("volume create");
    assert_eq!(name.len(), 64, "{name}");
    assert_eq!(place.ok("volume ls -q").lines().count(), 2);
}

#[test]
fn volumes_nobody_uses_are_found_and_pruned() {
    let place = Place::new("ev-dangling");
    let _ = place.ok("volume create lonely");
    let _ = place.ok("run -d -v used:/d BB sleep 1000");
    assert_eq!(place.ok("volume ls -q --filter dangling=true"), "lonely");
    let _ = place.ok("volume prune -a -f");
    assert_eq!(place.ok("volume ls -q"), "used");
}

#[test]
fn two_containers_share_a_volume() {
    let place = Place::new("ev-share");
    let _ = place.ok("run -d --name writer -v data:/out BB sh -c 'echo word > /out/file; sleep 1000'");
    eventually("the other sees it", PATIENCE, || {
        (place.run("run --rm -v data:/in:ro BB cat /in/file").stdout == "word\n").then_some(())
    });
}

#[test]
fn a_tag_is_another_name_and_rmi_of_one_leaves_the_other() {
    let place = Place::new("ev-tag");
    let _ = place.ok("tag BB localhost/other:2");
    assert_eq!(place.ok("run --rm localhost/other:2 echo same"), "same");
    let _ = place.ok("rmi localhost/other:2");
    assert_eq!(place.ok("run --rm BB echo still"), "still");
    let _ = place.run("run --rm --pull never localhost/other:2 true").expect_code(125);
}

#[test]
fn an_image_in_use_is_not_removed_without_force() {
    let place = Place::new("ev-rmi");
    let _ = place.ok("create --name box BB true");
    let _ = place.run("rmi BB").expect_failure();
    let _ = place.ok("rm box");
    let _ = place.ok("rmi BB");
    assert_eq!(place.ok("images -q"), "");
}

#[test]
fn images_are_filtered_by_reference_and_formatted() {
    let place = Place::new("ev-images");
    let _ = place.ok("tag BB localhost/web:3");
    let seen = place.ok("images --filter reference=localhost/web --format '{{.Repository}}:{{.Tag}}'");
    assert_eq!(seen, "localhost/web:3");
}

#[test]
fn save_and_load_go_through_pipes() {
    let place = Place::new("ev-save");
    let saved = place.host.root().join("saved.tar");
    let _ = place.ok("save -o ~/saved.tar BB");
    let bytes = std::fs::read(&saved).expect("saved");
    let _ = place.ok("rmi BB");
    let said = place.cmd("load").input(bytes).run().expect_success();
    assert!(said.stdout.contains("bb:1"), "{said:?}");
    assert_eq!(place.ok("run --rm BB echo back"), "back");
}

#[test]
fn a_root_file_system_is_exported_and_imported() {
    let place = Place::new("ev-export");
    let _ = place.ok("run --name box BB sh -c 'echo kept > /file'");
    let _ = place.ok("export -o ~/box.tar box");
    let _ = place.ok("import ~/box.tar localhost/flat:1");
    assert_eq!(place.ok("run --rm localhost/flat:1 cat /file"), "kept");
}

#[test]
fn a_commit_keeps_files_and_takes_instructions() {
    let place = Place::new("ev-commit");
    let _ = place.ok("run --name box BB sh -c 'echo changed > /file'");
    let _ = place.ok("commit -c 'ENV WORD=hello' -c 'WORKDIR /tmp' box localhost/made:1");
    assert_eq!(place.ok("run --rm localhost/made:1 sh -c 'cat /file; echo $WORD; pwd'"), "changed\nhello\n/tmp");
}

#[test]
fn events_are_filtered_by_container_and_kind() {
    let place = Place::new("ev-events");
    let _ = place.ok("run --name one BB true");
    let _ = place.ok("run --name two BB true");
    let text = place.ok("events --since 1h --until 0s --filter container=one --filter event=start");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("one") && !text.contains("two"), "{text}");
}

#[test]
fn logs_follow_to_the_end_and_since_leaves_the_old_out() {
    let place = Place::new("ev-logs");
    let _ = place.ok("run -d --name box BB sh -c 'echo first; sleep 0.5; echo last'");
    assert_eq!(place.run("logs -f box").stdout, "first\nlast\n");
    assert_eq!(place.ok("logs --tail 1 box"), "last");
    assert_eq!(place.ok("logs --since 2099-01-01T00:00:00Z box"), "");
}

#[test]
fn a_closed_input_ends_an_interactive_run() {
    let place = Place::new("ev-stdin");
    assert_eq!(place.cmd("run --rm -i BB cat").input("to the end").ok(), "to the end");
    assert_eq!(place.cmd("run --rm -i BB sh").input("echo typed; exit 3\n").run().expect_code(3).stdout, "typed\n");
}

#[test]
fn a_port_published_on_one_address_answers_on_that_address_alone() {
    let place = Place::new("ev-port");
    let _ =
        place.ok("run -d --name web -p 127.0.0.1:8090:80 BB sh -c 'mkdir /w; echo hi > /w/index.html; httpd -f -h /w'");
    let get = |url: &str| place.host.cmd("curl").args(["-s", "-m", "2", url]).run().stdout;
    eventually("it answers", PATIENCE, || (get("http://127.0.0.1:8090/") == "hi\n").then_some(()));
    let _ = place.host.cmd("ip").args(["addr", "add", "192.0.2.77/32", "dev", "lo"]).ok();
    assert_eq!(get("http://192.0.2.77:8090/"), "");
    assert_eq!(place.ok("port web 80/tcp"), "127.0.0.1:8090");
}

#[test]
fn exposed_ports_are_published_on_free_ones() {
    let place = Place::new("ev-expose");
    let _ = place.ok("run -d --name web -P --expose 80 --expose 81 BB sh -c 'mkdir /w; echo hi > /w/index.html; httpd -f -p 80 -h /w'");
    let first =
        place.ok("port web 80").lines().next().expect("published").rsplit(':').next().expect("a port").to_owned();
    eventually("the free port answers", PATIENCE, || {
        let url = format!("http://127.0.0.1:{first}/");
        (place.host.cmd("curl").args(["-s", "-m", "2", &url]).run().stdout == "hi\n").then_some(())
    });
    assert_eq!(place.ok("port web").lines().filter(|line| line.contains("0.0.0.0") || !line.contains('[')).count(), 2);
}
