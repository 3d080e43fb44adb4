//! `shoal mesh token …`: tokens that let machines join, and with `--api` tokens that let callers use the API over TLS.

use super::client::{At, Client, encode};
use super::show::{Entry, Output};
use crate::commands::Global;
use crate::error::Error;
use clap::{Args, Subcommand, ValueEnum};
use p2p::membership::Role;
use scheduler::node::api;
use scheduler::node::api::view::{ApiTokenAsk, Done, TokenAsk, TokenMade};
use scheduler::quantity::parse_duration_ms;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// `shoal mesh token …`
#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token and print it; its secret is shown this once
    Create(Create),
    /// List tokens
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Revoke tokens
    Revoke(Revoke),
}

#[derive(Debug, Args)]
struct Create {
    /// How long it is good for
    #[arg(long, default_value = "24h", value_parser = duration)]
    ttl: u64,
    /// How many joins it is good for, 0 for any number
    #[arg(long, default_value_t = 0)]
    uses: u32,
    /// What the joiner (default: member) or caller (reader) may do
    #[arg(long, value_enum)]
    role: Option<RoleName>,
    /// Make a token for callers of the API over TLS, not for joining
    #[arg(long)]
    api: bool,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    /// Looks only
    Reader,
    /// Takes part, admits and evicts
    Member,
    /// Admits operators too
    Operator,
}

#[derive(Debug, Args)]
struct Ls {
    /// Those for callers of the API over TLS
    #[arg(long)]
    api: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
struct Revoke {
    /// Those for callers of the API over TLS
    #[arg(long)]
    api: bool,
    /// Ids of tokens
    #[arg(required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    at: At,
}

/// Reads a duration for clap.
pub(crate) fn duration(text: &str) -> Result<u64, String> {
    parse_duration_ms(text).map_err(|error| error.to_string())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How often a token was used and may be: `1/3`, `any`. Tokens of the API are not counted.
fn uses(token: &serde_json::Value) -> String {
    let Some(most) = token["uses"].as_u64() else { return "-".to_owned() };
    match most {
        0 => "any".to_owned(),
        most => format!("{}/{most}", token["used"].as_u64().unwrap_or(0)),
    }
}

/// When a token ends, from now.
fn expiry(token: &serde_json::Value, now_ms: u64) -> String {
    if token["revoked"] == true {
        return "revoked".to_owned();
    }
    match token["expires_ms"].as_u64() {
        None | Some(0) => "never".to_owned(),
        Some(at) if at <= now_ms => "expired".to_owned(),
        Some(at) => {
            let seconds = (at - now_ms) / 1_000;
            match seconds {
                0..120 => format!("in {seconds} s"),
                120..7_200 => format!("in {} min", seconds / 60),
                7_200..172_800 => format!("in {} h", seconds / 3_600),
                _ => format!("in {} days", seconds / 86_400),
            }
        }
    }
}

/// Runs one verb.
pub(crate) fn run(global: &Global, token: Token) -> Result<ExitCode, Error> {
    match token.verb {
        Verb::Create(create) if create.api => {
            let role = match create.role {
                None | Some(RoleName::Reader) => api::Role::Reader,
                Some(RoleName::Operator) => api::Role::Operator,
                Some(RoleName::Member) => {
                    return Err(Error::new("--role member is for joining; with --api it is reader or operator").code(2));
                }
            };
            if create.uses > 0 {
                return Err(Error::new("--uses counts joins; a token of the API has none").code(2));
            }
            let ask = ApiTokenAsk { role, ttl_ms: (create.ttl > 0).then_some(create.ttl) };
            let client = Client::new(global, &create.at)?;
            let made: TokenMade = client.send("POST", "/v1/api-tokens", &serde_json::to_vec(&ask)?)?.json()?;
            println!("{}", made.token);
        }
        Verb::Create(create) => {
            let role = match create.role {
                Some(RoleName::Reader) => Role::Reader,
                None | Some(RoleName::Member) => Role::Member,
                Some(RoleName::Operator) => Role::Operator,
            };
            let ask = TokenAsk {
                ttl_ms: (create.ttl > 0).then_some(create.ttl),
                uses: (create.uses > 0).then_some(create.uses),
                role,
            };
            let client = Client::new(global, &create.at)?;
            let made: TokenMade = client.send("POST", "/v1/tokens", &serde_json::to_vec(&ask)?)?.json()?;
            println!("{}", made.token);
        }
        Verb::Ls(ls) => {
            let client = Client::new(global, &ls.at)?;
            let path = if ls.api { "/v1/api-tokens" } else { "/v1/tokens" };
            let tokens: Vec<serde_json::Value> = client.get(path)?;
            let text = |value: &serde_json::Value| match value {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Null => "-".to_owned(),
                other => other.to_string(),
            };
            let entries: Vec<Entry> = tokens
                .iter()
                .map(|token| Entry {
                    id: text(&token["id"]),
                    name: text(&token["id"]),
                    cells: vec![
                        text(&token["id"]),
                        text(&token["role"]),
                        uses(token),
                        expiry(token, now_ms()),
                        text(&token["issuer"]),
                    ],
                })
                .collect();
            ls.output.print(&["ID", "ROLE", "USES", "EXPIRES", "ISSUER"], &entries, &tokens)?;
        }
        Verb::Revoke(revoke) => {
            let client = Client::new(global, &revoke.at)?;
            let kind = if revoke.api { "api-tokens" } else { "tokens" };
            for id in &revoke.ids {
                let done: Done = client.send("DELETE", &format!("/v1/{kind}/{}", encode(id)), &[])?.json()?;
                println!("{}", done.subject);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_says_when_tokens_end_and_how_often_they_were_used() {
        for (token, expected) in [
            (json!({"expires_ms": 0}), "never"),
            (json!({}), "never"),
            (json!({"expires_ms": 5}), "expired"),
            (json!({"expires_ms": 1_000 + 86_400_000}), "in 24 h"),
            (json!({"expires_ms": 1_000 + 90_000}), "in 90 s"),
            (json!({"expires_ms": 1_000 + 86_400_000, "revoked": true}), "revoked"),
        ] {
            assert_eq!(expiry(&token, 1_000), expected, "{token}");
        }
        assert_eq!(uses(&json!({"uses": 3, "used": 1})), "1/3");
        assert_eq!(uses(&json!({"uses": 0, "used": 0})), "any");
        assert_eq!(uses(&json!({"role": "reader"})), "-");
    }
}
