//! The table of calls: method, path, who may, what for. The server dispatches by it and the OpenAPI document is made from
//! it, so neither can lie about the other.

use super::Role;
use super::reply::Problem;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table below says what each does")]
pub enum Op {
    Status,
    Health,
    Metrics,
    Members,
    Evict,
    Leave,
    Down,
    TokenCreate,
    TokenList,
    TokenRevoke,
    ApiTokenCreate,
    ApiTokenList,
    ApiTokenRevoke,
    ConflictList,
    ConflictResolve,
    Backup,
    Restore,
    Rows,
    KvList,
    KvGet,
    KvPut,
    KvDelete,
    NodeList,
    NodeGet,
    NodePatch,
    ServiceList,
    ServiceCreate,
    ServiceGet,
    ServiceUpdate,
    ServiceRemove,
    ServiceRollback,
    ServiceLogs,
    ImagePin,
    Instances,
    MirrorList,
    MirrorAdd,
    MirrorGet,
    MirrorRemove,
    Pushed,
    Routes,
    Events,
    OpenApi,
}

/// One call.
#[derive(Debug)]
pub struct Route {
    /// The method.
    pub method: &'static str,
    /// The path; `{name}` matches one part, `{name*}` the rest.
    pub path: &'static str,
    /// What it does.
    pub op: Op,
    /// Who may.
    pub role: Role,
    /// What for, one line.
    pub summary: &'static str,
    /// Names of the query's parameters.
    pub query: &'static [&'static str],
}

const fn route(
    method: &'static str,
    path: &'static str,
    op: Op,
    role: Role,
    summary: &'static str,
    query: &'static [&'static str],
) -> Route {
    Route { method, path, op, role, summary, query }
}

use Role::{Operator, Reader};

/// Every call there is.
pub const ROUTES: &[Route] = &[
    route("GET", "/v1/status", Op::Status, Reader, "What this node is and what it sees of the mesh", &[]),
    route("GET", "/v1/health", Op::Health, Reader, "Whether this node serves", &[]),
    route("GET", "/v1/metrics", Op::Metrics, Reader, "Metrics in Prometheus text", &[]),
    route("GET", "/v1/members", Op::Members, Reader, "Every member with its liveness and distance", &[]),
    route("DELETE", "/v1/members/{node}", Op::Evict, Operator, "Evict a node for ever", &[]),
    route("POST", "/v1/leave", Op::Leave, Operator, "Leave the mesh and end this node", &[]),
    route("POST", "/v1/down", Op::Down, Operator, "End this node; it stays a member", &[]),
    route("GET", "/v1/tokens", Op::TokenList, Reader, "Admission tokens, without their secrets", &[]),
    route("POST", "/v1/tokens", Op::TokenCreate, Operator, "Make an admission token", &[]),
    route("DELETE", "/v1/tokens/{id}", Op::TokenRevoke, Operator, "Revoke an admission token", &[]),
    route("GET", "/v1/api-tokens", Op::ApiTokenList, Reader, "Tokens for the API over TLS, without secrets", &[]),
    route("POST", "/v1/api-tokens", Op::ApiTokenCreate, Operator, "Make a token for the API over TLS", &[]),
    route("DELETE", "/v1/api-tokens/{id}", Op::ApiTokenRevoke, Operator, "Revoke a token for the API", &[]),
    route("GET", "/v1/conflicts", Op::ConflictList, Reader, "Concurrent writings that lost", &[]),
    route("POST", "/v1/conflicts/{id}", Op::ConflictResolve, Operator, "End a conflict", &["take"]),
    route("GET", "/v1/backup", Op::Backup, Operator, "Every shared row as one document", &[]),
    route("POST", "/v1/restore", Op::Restore, Operator, "Write the rows of a backup as edits", &[]),
    route("GET", "/v1/rows/{table}", Op::Rows, Reader, "Rows of a table; watch=1 follows it", &["prefix", "watch"]),
    route("GET", "/v1/kv", Op::KvList, Reader, "Keys below a prefix; watch=1 follows them", &["prefix", "watch"]),
    route("GET", "/v1/kv/{key*}", Op::KvGet, Reader, "The value of a key, as bytes", &[]),
    route("PUT", "/v1/kv/{key*}", Op::KvPut, Operator, "Write the body as the value of a key", &[]),
    route("DELETE", "/v1/kv/{key*}", Op::KvDelete, Operator, "Delete a key", &[]),
    route("GET", "/v1/nodes", Op::NodeList, Reader, "Nodes with labels, means and availability", &[]),
    route("GET", "/v1/nodes/{node}", Op::NodeGet, Reader, "One node by id, beginning of an id, or name", &[]),
    route("PATCH", "/v1/nodes/{node}", Op::NodePatch, Operator, "Change availability and labels of a node", &[]),
    route("GET", "/v1/services", Op::ServiceList, Reader, "Services with what runs of them", &[]),
    route("POST", "/v1/services", Op::ServiceCreate, Operator, "Make a service", &["dry_run", "resolve"]),
    route("GET", "/v1/services/{name}", Op::ServiceGet, Reader, "One service", &[]),
    route(
        "PUT",
        "/v1/services/{name}",
        Op::ServiceUpdate,
        Operator,
        "Change a service",
        &["generation", "dry_run", "resolve"],
    ),
    route("DELETE", "/v1/services/{name}", Op::ServiceRemove, Operator, "Remove a service and its instances", &[]),
    route(
        "POST",
        "/v1/services/{name}/rollback",
        Op::ServiceRollback,
        Operator,
        "Bring the spec before the last change back",
        &[],
    ),
    route(
        "GET",
        "/v1/services/{name}/logs",
        Op::ServiceLogs,
        Reader,
        "What a service's instances wrote",
        &["tail", "since", "times"],
    ),
    route("GET", "/v1/images/pin", Op::ImagePin, Operator, "What an image's tag means now", &["image"]),
    route("GET", "/v1/instances", Op::Instances, Reader, "Instances, of a service or on a node", &["service", "node"]),
    route("GET", "/v1/mirrors", Op::MirrorList, Reader, "Standing mirrors with how far they are", &[]),
    route("POST", "/v1/mirrors", Op::MirrorAdd, Operator, "Make a standing mirror", &[]),
    route("GET", "/v1/mirrors/{name}", Op::MirrorGet, Reader, "One standing mirror", &[]),
    route(
        "DELETE",
        "/v1/mirrors/{name}",
        Op::MirrorRemove,
        Operator,
        "End a standing mirror; what it copied stays",
        &[],
    ),
    route("POST", "/v1/pushes", Op::Pushed, Operator, "Tell that something was pushed to a registry", &["repository"]),
    route("GET", "/v1/routes", Op::Routes, Reader, "Published ports and names with what is behind them", &[]),
    route("GET", "/v1/events", Op::Events, Reader, "What happens, as server-sent events", &[]),
    route("GET", "/v1/openapi.json", Op::OpenApi, Reader, "This description", &[]),
];

/// Finds the route of a request and what its braces match.
pub(super) fn find(method: &str, path: &str) -> Result<(&'static Route, BTreeMap<&'static str, String>), Problem> {
    let mut allowed = Vec::new();
    for route in ROUTES {
        if let Some(parts) = matches(route.path, path)? {
            if route.method == method {
                return Ok((route, parts));
            }
            allowed.push(route.method);
        }
    }
    if allowed.is_empty() {
        return Err(Problem::not_found(format!("there is no {path}; GET /v1/openapi.json lists what there is")));
    }
    Err(Problem::new(405, "method not allowed", format!("{path} takes {}", allowed.join(", "))))
}

fn matches(pattern: &'static str, path: &str) -> Result<Option<BTreeMap<&'static str, String>>, Problem> {
    let mut parts = BTreeMap::new();
    let mut rest = path;
    for wanted in pattern.split('/').skip(1) {
        let Some(after) = rest.strip_prefix('/') else { return Ok(None) };
        if let Some(name) = wanted.strip_prefix('{').and_then(|name| name.strip_suffix("*}")) {
            if after.is_empty() {
                return Ok(None);
            }
            parts.insert(name, decode(after)?);
            return Ok(Some(parts));
        }
        let (part, next) = after.find('/').map_or((after, ""), |at| after.split_at(at));
        match wanted.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            Some(name) if !part.is_empty() => {
                parts.insert(name, decode(part)?);
            }
            None if part == wanted => {}
            _ => return Ok(None),
        }
        rest = next;
    }
    Ok(rest.is_empty().then_some(parts))
}

/// Reads a query's pairs.
pub(super) fn query(text: &str) -> Result<BTreeMap<String, String>, Problem> {
    let mut pairs = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.insert(decode(name)?, decode(&value.replace('+', " "))?);
    }
    Ok(pairs)
}

/// Undoes percent encoding.
fn decode(text: &str) -> Result<String, Problem> {
    let bad = || Problem::bad_request(format!("{text:?} is not percent-encoded UTF-8"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// Describes every call as OpenAPI 3.1.
#[must_use]
pub fn open_api() -> Value {
    let mut paths = serde_json::Map::new();
    for route in ROUTES {
        let path = route.path.replace("*}", "}");
        let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{'));
        let names = in_path.map(|name| name.trim_end_matches('}').trim_end_matches('*'));
        let mut parameters: Vec<Value> = names
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .collect();
        let query = route.query.iter();
        parameters.extend(query.map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}})));
        let problem = json!({"description": "RFC 9457 problem", "content": {"application/problem+json": {}}});
        let operation = json!({
            "summary": route.summary,
            "operationId": format!("{:?}", route.op),
            "parameters": parameters,
            "x-role": format!("{:?}", route.role).to_lowercase(),
            "responses": {"2XX": {"description": "done"}, "default": problem},
        });
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        entry[route.method.to_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "shoal node", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_calls() {
        let found = |method, path| find(method, path).map(|(route, parts)| (route.op, parts));
        assert_eq!(found("GET", "/v1/status").unwrap().0, Op::Status);
        let (op, parts) = found("PUT", "/v1/kv/a/b%20c").unwrap();
        assert_eq!((op, parts["key"].as_str()), (Op::KvPut, "a/b c"));
        assert_eq!(found("GET", "/v1/kv").unwrap().0, Op::KvList);
        assert_eq!(found("POST", "/v1/services/web/rollback").unwrap().0, Op::ServiceRollback);
        assert!(found("POST", "/v1/status").is_err());
        assert!(found("GET", "/v1/services/web/none").is_err());
        assert!(found("GET", "/v1/kv/%zz").is_err());
    }

    #[test]
    fn the_description_holds_every_call() {
        let document = open_api();
        let count: usize =
            document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(count, ROUTES.len());
    }
}
