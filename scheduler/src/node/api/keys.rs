//! Keys to the API over TLS: tokens with a role, kept as rows that every node has, so a token works at each of them. In: a
//! wish, a header, an id. Out: a token's text (once), a role, an end. The rows hold what checks a secret, not the secret.

use super::kv::{soon, word};
use super::reply::{Body, Problem, json};
use super::view::{ApiTokenAsk, Done, TokenMade};
use super::{Call, Context, Role};
use hyper::Response;
use hyper::header::{AUTHORIZATION, HeaderMap};
use p2p::table::{Body as RowBody, Key, Table};
use serde::{Deserialize, Serialize};

type Answer = Result<Response<Body>, Problem>;

/// What a token's text begins with.
const HEAD: &str = "shoalapi1";
/// Hex digits of a token's id, which is no secret.
const ID_DIGITS: usize = 16;
/// Hex digits of its secret.
const SECRET_DIGITS: usize = 32;

/// A row of the table `api-token`, format 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeyRow {
    /// Format version.
    v: u32,
    role: Role,
    /// When it stops working (ms since 1970); 0 for never.
    expires_ms: u64,
    /// Hash of the secret, as hex.
    verifier: String,
    created_ms: u64,
    /// Who asked for it.
    issuer: String,
    /// Fields of newer builds.
    #[serde(flatten)]
    other: serde_json::Map<String, serde_json::Value>,
}

impl KeyRow {
    fn expired(&self, now: u64) -> bool {
        self.expires_ms != 0 && now >= self.expires_ms
    }
}

/// What checks a secret.
fn verifier(id: &str, secret: &str) -> [u8; 32] {
    blake3::derive_key("shoal 2026 api token verifier", format!("{id} {secret}").as_bytes())
}

/// Takes a token's text apart: id and secret.
fn parts(text: &str) -> Option<(&str, &str)> {
    let digits = text.strip_prefix(HEAD)?;
    let hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (hex && digits.len() == ID_DIGITS + SECRET_DIGITS).then(|| digits.split_at(ID_DIGITS))
}

/// Who calls and what the caller may do, from its `Authorization: Bearer …`.
pub(super) async fn caller(context: &Context, headers: &HeaderMap) -> Result<(String, Role), Problem> {
    let refused = |detail: &str| Problem::new(401, "not authorised", detail);
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let text = header.and_then(|value| value.split_once(' ')).filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    let (_, text) =
        text.ok_or_else(|| refused("send `Authorization: Bearer TOKEN`; `shoal mesh token create --api` makes one"))?;
    // One answer to every wrong token: nobody learns which ids there are.
    let wrong = || refused("the token is not known, was revoked or has expired");
    let (id, secret) = parts(text.trim()).ok_or_else(wrong)?;
    let row = context.mesh.get(Key::global(Table::API_TOKEN, id)).await?.ok_or_else(wrong)?;
    let row: KeyRow = row.body.parse().map_err(|_| wrong())?;
    let kept = blake3::Hash::from_hex(&row.verifier).map_err(|_| wrong())?;
    // Compared in constant time.
    let right = blake3::Hash::from(verifier(id, secret)) == kept;
    if row.v == 1 && right && !row.expired(context.clock.wall()) { Ok((id.to_owned(), row.role)) } else { Err(wrong()) }
}

/// Who shows a token is called so, before its id.
const ACTOR: &str = "api token ";

/// What a caller with this token is called.
pub(super) fn actor(id: &str) -> String {
    format!("{ACTOR}{id}")
}

/// Whether who asked once may go on watching: its token was not revoked and has not expired since. People on the host's own
/// socket have none and may.
pub(super) async fn stands(context: &Context, who: &str) -> bool {
    let Some(id) = who.strip_prefix(ACTOR) else { return true };
    let Ok(Some(row)) = context.mesh.get(Key::global(Table::API_TOKEN, id)).await else { return false };
    row.body.parse::<KeyRow>().is_ok_and(|row| row.v == 1 && !row.expired(context.clock.wall()))
}

pub(super) async fn create(context: &Context, call: &Call) -> Answer {
    let ask: ApiTokenAsk = if call.body.is_empty() { ApiTokenAsk::default() } else { call.json()? };
    if ask.ttl_ms == Some(0) {
        return Err(Problem::bad_request("a token that is good for nothing is not made"));
    }
    let (id, secret) = (hex::encode(rand::random::<[u8; 8]>()), hex::encode(rand::random::<[u8; 16]>()));
    let now = context.clock.wall();
    let row = KeyRow {
        v: 1,
        role: ask.role,
        expires_ms: ask.ttl_ms.map_or(0, |ttl| now.saturating_add(ttl)),
        verifier: hex::encode(verifier(&id, &secret)),
        created_ms: now,
        issuer: call.actor.who.clone(),
        other: serde_json::Map::new(),
    };
    let body = RowBody::json(&row).expect("plain data has a JSON form");
    let (mesh, actor, key) = (context.mesh.clone(), call.actor.clone(), Key::global(Table::API_TOKEN, id.clone()));
    soon(async move { mesh.put_as(actor, key, body).await }).await?;
    Ok(json(201, &TokenMade { token: format!("{HEAD}{id}{secret}") }))
}

pub(super) async fn list(context: &Context) -> Answer {
    let rows = context.mesh.rows(Table::API_TOKEN).await?;
    let shown = rows.iter().filter_map(|row| {
        let mut value = row.body.parse::<serde_json::Value>().ok()?;
        let object = value.as_object_mut()?;
        object.remove("verifier");
        object.insert("id".to_owned(), row.key.id.clone().into());
        Some(value)
    });
    Ok(json(200, &shown.collect::<Vec<_>>()))
}

pub(super) async fn revoke(context: &Context, call: &Call) -> Answer {
    let id = call.part("id").to_owned();
    let (mesh, actor, key) = (context.mesh.clone(), call.actor.clone(), Key::global(Table::API_TOKEN, id.clone()));
    if context.mesh.get(key.clone()).await?.is_none() {
        return Err(Problem::not_found(format!("there is no token {id}; `shoal mesh token ls --api` lists them")));
    }
    let written = soon(async move { mesh.delete(key, Some(actor)).await }).await?;
    Ok(json(200, &Done { subject: id, durability: Some(word(written.durability)), count: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_taken_apart_and_nothing_else_is() {
        let text = format!("{HEAD}{}{}", "0123456789abcdef", "ab".repeat(16));
        assert_eq!(parts(&text), Some(("0123456789abcdef", "ab".repeat(16).as_str())));
        for bad in ["", HEAD, "shoalapi1zz", &text[1..], &format!("{text}0"), &text.replace('a', "A"), "shoalapi1ü"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_row_of_a_newer_build_keeps_its_fields() {
        let text =
            r#"{"v":1,"role":"operator","expires_ms":5,"verifier":"00","created_ms":1,"issuer":"uid 0","new":[1]}"#;
        let row: KeyRow = serde_json::from_str(text).unwrap();
        assert_eq!((row.role, row.expires_ms), (Role::Operator, 5));
        assert!(serde_json::to_string(&row).unwrap().contains(r#""new":[1]"#));
    }
}
