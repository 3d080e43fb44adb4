//! The API over TLS: off unless asked for; a pinned key, tokens with roles, the same rows behind it. By curl, from another host.

use super::{Mesh, Node, PATIENCE};
use integration::eventually;

/// Asks with curl from a node's host; returns the status and the body.
fn ask(from: &Node, pin: &str, token: Option<&str>, method: &str, url: &str) -> (String, String) {
    let mut curl = from.host.cmd("curl").args(["-sk", "--max-time", "10", "--pinnedpubkey", pin, "-X", method, url]);
    curl = curl.args(["-w", "\n%{http_code}", "--data-binary", "value"]);
    if let Some(token) = token {
        curl = curl.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    let out = curl.deadline(PATIENCE).run().stdout;
    let (body, status) = out.rsplit_once('\n').expect("curl writes the status behind the body");
    (status.to_owned(), body.to_owned())
}

fn api_token(node: &Node, more: &[&str]) -> String {
    node.token(&[&["--api"], more].concat())
}

#[test]
fn the_api_over_tls_lets_nobody_in_without_a_token_and_nobody_beyond_its_role() {
    let mesh = Mesh::new(2);
    let (one, two) = (&mesh.nodes[0], &mesh.nodes[1]);
    assert!(one.status()["api"].is_null(), "off unless asked for");
    let _ = two.shoal(["mesh", "down"]).ok();
    eventually("the second node has ended", PATIENCE, || two.agent().is_none().then_some(()));
    let host = two.address.rsplit_once(':').expect("HOST:PORT").0;
    let _ = two.up_with(&["--api", &format!("{host}:4702")]).ok();
    let told = two.status()["api"].clone();
    let (url, pin) = (told["url"].as_str().expect("an address"), told["pin"].as_str().expect("a pin"));
    assert_eq!(url, format!("https://{host}:4702"));
    assert!(two.shoal(["mesh", "status"]).ok().contains(pin), "people are shown what to pin");

    let status = format!("{url}/v1/status");
    let kv = format!("{url}/v1/kv/over/tls");
    // No token, a wrong one, one that is nearly right, and an admission token.
    let reader = api_token(one, &[]);
    let mut wrong = reader.clone();
    let last = if wrong.pop() == Some('0') { '1' } else { '0' };
    wrong.push(last);
    for token in [None, Some("shoalapi1"), Some(wrong.as_str()), Some(one.token(&[]).as_str())] {
        let (code, body) = ask(one, pin, token, "GET", &status);
        assert_eq!(code, "401", "{token:?}: {body}");
    }
    // Made at one node, good at the other; a reader looks and changes nothing.
    eventually("the reader's token is known", PATIENCE, || {
        (ask(one, pin, Some(&reader), "GET", &status).0 == "200").then_some(())
    });
    let (code, body) = ask(one, pin, Some(&reader), "PUT", &kv);
    assert_eq!(code, "403", "{body}");
    let operator = api_token(two, &["--role", "operator"]);
    let (code, body) = ask(one, pin, Some(&operator), "PUT", &kv);
    assert_eq!(code, "200", "{body}");
    assert_eq!(ask(one, pin, Some(&reader), "GET", &kv), ("200".to_owned(), "value".to_owned()));

    // Another key is not talked to; the certificate's file does as well as the pin.
    let other = format!("sha256//{}=", "A".repeat(43));
    assert_eq!(ask(one, &other, Some(&operator), "GET", &status).0, "000");
    let file = told["certificate"].as_str().expect("a file");
    let authorised = format!("Authorization: Bearer {operator}");
    let trusted = one.host.cmd("curl").args(["-s", "--max-time", "10", "--cacert", file, "-H", &authorised, &status]);
    assert!(trusted.deadline(PATIENCE).ok().contains("\"cluster\""));
    let plain = one.host.cmd("curl").args(["-s", "--max-time", "3", &status.replace("https", "http")]).run();
    assert!(!plain.status.success(), "nothing is answered without TLS: {}", plain.stdout);

    // Revoked at one node, refused at the other; the key stays over a restart.
    let id = &operator["shoalapi1".len()..][..16];
    let _ = one.shoal(["mesh", "token", "revoke", "--api", id]).ok();
    eventually("the token is revoked everywhere", PATIENCE, || {
        (ask(one, pin, Some(&operator), "GET", &status).0 == "401").then_some(())
    });
    two.kill();
    let _ = two.up_with(&["--api", &format!("{host}:4702")]).ok();
    assert_eq!(two.status()["api"]["pin"], pin);
}
