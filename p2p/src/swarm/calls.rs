//! Requests between nodes: one stream a request, one frame there, one back. In: bytes for a peer, or a handler for a
//! protocol. Out: its answer. Only members are answered.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncWriteExt as _, StreamExt as _};
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::OpenStreamError;
use tokio::sync::Semaphore;

use super::doors::{Admitted, Door};
use super::lanes::read_frame;
use super::node_of;
use crate::id::NodeId;
use crate::mesh::{CALL_MAX, Handler, Serve};
use crate::wire;

/// A call that takes longer has failed.
pub const CALL_TIME: Duration = Duration::from_secs(10);
/// Requests of one protocol worked on at once; more wait in their streams.
pub const CALLS_MAX: usize = 64;
/// Requests of one member that wait or are worked on: one that asks for more leaves room for the others.
const CALLS_EACH_MAX: usize = 48;
/// How long to wait before a call whose link broke is made again, each time: a link that is made anew stands by then.
const AGAIN_AFTER: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900)];
/// How long a call waits for its peer's hello, which travels on another stream of the same new connection.
const HELLO_TIME: Duration = Duration::from_secs(3);

/// Calls a peer. When its link breaks before the answer is here, it is called again: two nodes that dial each other close one
/// of their two connections, with whatever was on it. So a handler may see one request twice.
pub(crate) async fn call(
    control: libp2p_stream::Control,
    peer: PeerId,
    protocol: StreamProtocol,
    bytes: Vec<u8>,
) -> Result<Vec<u8>, String> {
    if bytes.len() > CALL_MAX {
        return Err(format!("the request has {} bytes, at most {CALL_MAX} are allowed", bytes.len()));
    }
    let work = async {
        let mut pauses = AGAIN_AFTER.iter();
        loop {
            match once(control.clone(), peer, protocol.clone(), &bytes).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Said(words)) => return Err(words),
                Err(Failure::Link(words)) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return Err(words),
                },
            }
        }
    };
    tokio::time::timeout(CALL_TIME, work).await.unwrap_or_else(|_| Err("no answer within ten seconds".into()))
}

/// Why one attempt failed.
enum Failure {
    /// The peer answered so, or never will answer otherwise.
    Said(String),
    /// The way to it broke.
    Link(String),
}

async fn once(
    mut control: libp2p_stream::Control,
    peer: PeerId,
    protocol: StreamProtocol,
    bytes: &[u8],
) -> Result<Vec<u8>, Failure> {
    let link = |error: std::io::Error| Failure::Link(error.to_string());
    let mut stream = control.open_stream(peer, protocol).await.map_err(|error| match error {
        OpenStreamError::Io(error) => link(error),
        other => Failure::Said(other.to_string()),
    })?;
    stream.write_all(&wire::frame(bytes)).await.map_err(link)?;
    stream.flush().await.map_err(link)?;
    let answer = read_frame(&mut stream, CALL_MAX + 1).await.map_err(Failure::Link)?;
    let answer = answer.ok_or_else(|| Failure::Link("the peer closed the stream without an answer".to_owned()))?;
    let _ = stream.close().await;
    match answer.split_first() {
        Some((0, answer)) => Ok(answer.to_vec()),
        Some((_, words)) => Err(Failure::Said(String::from_utf8_lossy(words).chars().take(1024).collect())),
        None => Err(Failure::Said("an empty answer".to_owned())),
    }
}

/// Whether a peer is linked, waiting for its hello a moment.
pub(crate) async fn is_member(admitted: &Admitted, node: NodeId) -> bool {
    let until = tokio::time::Instant::now() + HELLO_TIME;
    loop {
        if admitted.read().expect("nobody panics while holding it").linked.contains_key(&node) {
            return true;
        }
        if tokio::time::Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Answers a protocol from now on.
pub(crate) fn serve(
    control: &mut libp2p_stream::Control,
    protocol: StreamProtocol,
    serve: Serve,
    admitted: Admitted,
) -> Result<(), String> {
    let name = protocol.to_string();
    let mut streams = control.accept(protocol).map_err(|_| format!("protocol {name} is served already"))?;
    let door = Door::new(admitted.clone(), CALLS_EACH_MAX);
    let serve = Arc::new(serve);
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(CALLS_MAX));
        while let Some((peer, stream)) = streams.next().await {
            let Some((node, _)) = node_of(&peer) else { continue };
            if let Serve::Streams(sender) = &*serve
                && sender.is_closed()
            {
                return;
            }
            // Whoever is not let in finds its stream closed; nobody is waited for here.
            let Some(pass) = door.enter(node) else { continue };
            let (admitted, slots, serve) = (admitted.clone(), Arc::clone(&slots), Arc::clone(&serve));
            tokio::spawn(async move {
                // A slot is taken only for members: a stranger waits for its hello in the strangers' own room.
                if is_member(&admitted, node).await
                    && let Ok(slot) = slots.acquire_owned().await
                {
                    match &*serve {
                        Serve::Calls(handler) => {
                            let work = answer(stream, node, Arc::clone(handler));
                            let _ = tokio::time::timeout(CALL_TIME * 2, work).await;
                        }
                        Serve::Streams(sender) => {
                            let _ = sender.send((node, stream)).await;
                        }
                    }
                    drop(slot);
                }
                drop(pass);
            });
        }
    });
    Ok(())
}

async fn answer(mut stream: Stream, node: NodeId, handler: Handler) -> Result<(), String> {
    let Some(request) = read_frame(&mut stream, CALL_MAX).await? else { return Ok(()) };
    let mut out = Vec::new();
    match handler(node, request).await {
        Ok(bytes) if bytes.len() <= CALL_MAX => {
            out.push(0);
            out.extend_from_slice(&bytes);
        }
        Ok(bytes) => {
            out.push(1);
            out.extend_from_slice(
                format!("the answer has {} bytes, at most {CALL_MAX} are allowed", bytes.len()).as_bytes(),
            );
        }
        Err(words) => {
            out.push(1);
            out.extend_from_slice(words.as_bytes());
        }
    }
    stream.write_all(&wire::frame(&out)).await.map_err(|error| error.to_string())?;
    stream.close().await.map_err(|error| error.to_string())
}
