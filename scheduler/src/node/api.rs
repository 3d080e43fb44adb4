//! The node's API: HTTP/1.1 with JSON on a unix socket, and over TLS when asked. In: requests of people and programs. Out: what this node knows,
//! and writes to the table. Every call has a role it needs, a request id, and errors as RFC 9457 problems.

mod keys;
mod kv;
mod mesh;
mod mirrors;
mod nodes;
mod reply;
pub mod route;
mod services;
mod stream;
pub mod tls;
pub mod view;

use super::containers::Worker;
use super::journal::Journal;
use super::mirror::Pushes;
use super::{Clock, End, Handle};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use p2p::Mesh;
use p2p::mesh::Actor;
use reply::{Body, Problem};
use route::Op;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, oneshot};

/// The largest request body: a backup of a mesh with a hundred thousand small rows fits.
const BODY_BYTES_MAX: usize = 64 << 20;
/// The largest body of calls that bring no backup and no value: a service with all its lists full.
const BODY_BYTES_USUAL: usize = 4 << 20;
/// How long a body may take to arrive.
const BODY_WITHIN: std::time::Duration = std::time::Duration::from_secs(60);
/// Connections at a time; watchers hold one each.
const CONNECTIONS_MAX: usize = 512;
/// The longest a write waits for this node's own disk before its outcome is called unknown. For peers the mesh waits far
/// shorter, and answers `local`.
pub(super) const WRITE_WAIT_MS: u64 = 10_000;

/// What a caller may do. Later ones may do what earlier ones may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks.
    #[default]
    Reader,
    /// Changes services, keys and nodes.
    Operator,
}

/// Everything a call may need.
#[derive(Debug)]
pub struct Context {
    pub(super) mesh: Mesh,
    pub(super) handle: Handle,
    pub(super) worker: Worker,
    pub(super) journal: Arc<Journal>,
    pub(super) pushes: Arc<Pushes>,
    pub(super) clock: Clock,
    pub(super) socket: PathBuf,
    /// Where the API is reached over TLS, if it is.
    pub(super) told: Option<tls::Told>,
    /// Held from choosing ports to the core's knowing of it.
    pub(super) ports: tokio::sync::Mutex<()>,
    ended: Mutex<Option<oneshot::Sender<End>>>,
    requests: AtomicU64,
    failures: AtomicU64,
}

impl Context {
    /// Joins the parts of a node that the API shows. `ended` is sent when a call ends the node.
    #[expect(clippy::too_many_arguments, reason = "the parts of a node, each once")]
    pub(crate) fn new(
        mesh: Mesh,
        handle: Handle,
        worker: Worker,
        journal: Arc<Journal>,
        pushes: Arc<Pushes>,
        clock: Clock,
        ended: oneshot::Sender<End>,
        socket: PathBuf,
        told: Option<tls::Told>,
    ) -> Arc<Self> {
        Arc::new(Self {
            mesh,
            handle,
            worker,
            journal,
            pushes,
            clock,
            socket,
            told,
            ports: tokio::sync::Mutex::default(),
            ended: Mutex::new(Some(ended)),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// The id of a request: the caller's own, or the next of this node.
    fn request_id(&self, given: Option<&str>) -> String {
        let serial = self.requests.fetch_add(1, Ordering::Relaxed);
        match given {
            Some(id) if id.len() <= 64 => id.to_owned(),
            _ => format!("{:x}-{serial:x}", self.clock.now()),
        }
    }

    /// Ends the node once the answer to this call is out.
    pub(super) fn end(&self, end: End) {
        if let Some(ended) = self.ended.lock().expect("no holder panics").take() {
            tokio::spawn(async move {
                // The answer is a few hundred bytes on a local socket.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                let _ = ended.send(end);
            });
        }
    }
}

/// One call, its parts taken apart.
#[derive(Debug)]
pub(super) struct Call {
    /// What the path's braces matched.
    pub(super) path: BTreeMap<&'static str, String>,
    /// The query's pairs.
    pub(super) query: BTreeMap<String, String>,
    /// The body.
    pub(super) body: Vec<u8>,
    /// The last event a watcher has seen.
    pub(super) last_event_id: Option<String>,
    /// Who calls.
    pub(super) actor: Actor,
}

impl Call {
    /// Returns a part of the path that the route names.
    pub(super) fn part(&self, name: &str) -> &str {
        self.path.get(name).map_or("", String::as_str)
    }

    /// Says whether a query flag is set.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.query.get(name).is_some_and(|value| matches!(value.as_str(), "" | "1" | "true"))
    }

    /// Says whether a query flag is switched off.
    pub(super) fn off(&self, name: &str) -> bool {
        self.query.get(name).is_some_and(|value| matches!(value.as_str(), "0" | "false"))
    }

    /// Reads the body as JSON.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Problem::bad_request(format!("the body is not what was expected: {error}")))
    }
}

/// Serves the socket until it is dropped.
pub(crate) async fn serve(listener: std::os::unix::net::UnixListener, context: Arc<Context>) {
    let Ok(listener) = tokio::net::UnixListener::from_std(listener) else { return };
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        let uid = stream.peer_cred().map_or_else(|_| "?".to_owned(), |cred| cred.uid().to_string());
        let actor = Actor { who: format!("uid {uid}"), from: "unix".to_owned() };
        let context = Arc::clone(&context);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (context, actor) = (Arc::clone(&context), actor.clone());
                // The socket is the owner's alone, so whoever connects is an operator.
                async move { Ok::<_, std::convert::Infallible>(answer(&context, request, actor, Role::Operator).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ = connection.await;
            drop(permit);
        });
    }
}

async fn answer(context: &Arc<Context>, request: Request<Incoming>, actor: Actor, role: Role) -> Response<Body> {
    let id = context.request_id(request.headers().get("x-request-id").and_then(|value| value.to_str().ok()));
    let mut response = match dispatch(context, request, actor, role).await {
        Ok(response) => response,
        Err(problem) => {
            context.failures.fetch_add(1, Ordering::Relaxed);
            problem.response(&id)
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [("x-request-id", id), ("shoal-node", context.mesh.id().to_string())] {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    }
    response
}

async fn dispatch(
    context: &Arc<Context>,
    request: Request<Incoming>,
    actor: Actor,
    role: Role,
) -> Result<Response<Body>, Problem> {
    let (parts, body) = request.into_parts();
    let (route, path) = route::find(parts.method.as_str(), parts.uri.path())?;
    if role < route.role {
        return Err(Problem::new(403, "not allowed", format!("{} {} needs an operator", route.method, route.path)));
    }
    let query = route::query(parts.uri.query().unwrap_or_default())?;
    let most = if matches!(route.op, Op::Restore | Op::KvPut) { BODY_BYTES_MAX } else { BODY_BYTES_USUAL };
    let body = tokio::time::timeout(BODY_WITHIN, Limited::new(body, most).collect()).await;
    let body = body.map_err(|_| Problem::bad_request("the body did not arrive in time"))?;
    let body = body.map_err(|error| Problem::bad_request(format!("the body could not be read: {error}")))?;
    let last_event_id = parts.headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let call = Call { path, query, body: body.to_bytes().into(), last_event_id, actor };
    match route.op {
        Op::Status => mesh::status(context).await,
        Op::Health => mesh::health(context).await,
        Op::Metrics => mesh::metrics(context).await,
        Op::Members => mesh::members(context).await,
        Op::Evict => mesh::evict(context, &call).await,
        Op::Leave => mesh::leave(context, &call).await,
        Op::Down => mesh::down(context, &call).await,
        Op::TokenCreate => mesh::token_create(context, &call).await,
        Op::TokenList => mesh::token_list(context).await,
        Op::TokenRevoke => mesh::token_revoke(context, &call).await,
        Op::ApiTokenCreate => keys::create(context, &call).await,
        Op::ApiTokenList => keys::list(context).await,
        Op::ApiTokenRevoke => keys::revoke(context, &call).await,
        Op::ConflictList => mesh::conflicts(context).await,
        Op::ConflictResolve => mesh::resolve_conflict(context, &call).await,
        Op::Backup => mesh::backup(context).await,
        Op::Restore => mesh::restore(context, &call).await,
        Op::Rows => kv::rows(context, &call).await,
        Op::KvList => kv::list(context, &call).await,
        Op::KvGet => kv::get(context, &call).await,
        Op::KvPut => kv::put(context, &call).await,
        Op::KvDelete => kv::delete(context, &call).await,
        Op::NodeList => nodes::list(context).await,
        Op::NodeGet => nodes::get(context, &call).await,
        Op::NodePatch => nodes::patch(context, &call).await,
        Op::ServiceList => services::list(context).await,
        Op::ServiceCreate => services::create(context, &call).await,
        Op::ServiceGet => services::get(context, &call).await,
        Op::ServiceUpdate => services::update(context, &call).await,
        Op::ServiceRemove => services::remove(context, &call).await,
        Op::ServiceRollback => services::rollback(context, &call).await,
        Op::ServiceLogs => services::logs(context, &call).await,
        Op::ImagePin => services::pin(context, &call).await,
        Op::Instances => services::instances(context, &call).await,
        Op::MirrorList => mirrors::list(context).await,
        Op::MirrorAdd => mirrors::add(context, &call).await,
        Op::MirrorGet => mirrors::get(context, &call).await,
        Op::MirrorRemove => mirrors::remove(context, &call).await,
        Op::Pushed => mirrors::pushed(context, &call).await,
        Op::Routes => services::routes(context).await,
        Op::Events => Ok(stream::events(context, &call)),
        Op::OpenApi => Ok(reply::json(200, &route::open_api())),
    }
}

#[cfg(test)]
mod tests;
