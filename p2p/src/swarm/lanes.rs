//! The standing streams to each peer, one per lane, so that heartbeats never queue behind rows. In: messages. Out: frames.
//! A peer that does not read loses messages of its own lane (repair brings rows back); nobody waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{PeerId, Stream, StreamProtocol};
use tokio::sync::{mpsc, oneshot};

use super::doors::{Admitted, Door, Pass};
use super::{Event, node_of};
use crate::id::NodeId;
use crate::wire::{self, FRAME_MAX, Lane, Message};

/// Frames that may wait for a slow peer in one lane: a full repair answer (4 MiB in 16 KiB frames) and a little more.
pub const QUEUE_MAX: usize = 320;
/// Bytes that may wait for a slow peer in one lane: one full repair answer and the frames of some rows.
pub const QUEUE_BYTES_MAX: usize = crate::sync::ANSWER_MAX + 8 * FRAME_MAX;
/// Streams one member may hold open towards us in one lane: its own one, and those of connections that are just dying.
const INBOUND_MAX: usize = 4;

/// How long to wait before a lane's stream is opened again, each time: what waits in it is the hello, which is said once.
const OPEN_AGAIN: [Duration; 4] = [Duration::from_millis(10); 4];
/// A stream that ends sooner after it was opened was not taken: where many come at once, only one waits at each door.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);
/// How long to wait before it is opened again, with the same words first.
const TAKEN_AGAIN: Duration = Duration::from_millis(50);
/// How often: within the time in which a hello is waited for.
const TAKEN_TRIES: usize = 20;
/// How long what waits for a peer may still go out after its connection was hung up.
const LINGER: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Outlet {
    number: u64,
    queue: mpsc::Sender<Vec<u8>>,
    /// Bytes that wait in it.
    waiting: Arc<AtomicUsize>,
    /// Dropped with it: its writer may be waiting for a peer that never reads again, and nothing else tells it.
    _gone: oneshot::Sender<()>,
}

/// The outgoing streams.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    outlets: BTreeMap<(NodeId, Lane), Outlet>,
    next: u64,
    /// Bytes sent, by lane, for metrics.
    pub(crate) bytes: BTreeMap<&'static str, u64>,
    /// Frames sent.
    pub(crate) frames: u64,
    /// Messages dropped because a peer does not read.
    pub(crate) dropped: u64,
}

impl Lanes {
    /// Queues a message; opens the lane's stream when there is none.
    pub(crate) fn send(
        &mut self,
        to: NodeId,
        peer: PeerId,
        message: &Message,
        control: &libp2p_stream::Control,
        events: &mpsc::Sender<Event>,
    ) {
        let lane = message.lane();
        let frame = wire::frame(&message.encode());
        *self.bytes.entry(lane.protocol()).or_default() += frame.len() as u64;
        let next = &mut self.next;
        let outlet = self.outlets.entry((to, lane)).or_insert_with(|| {
            *next += 1;
            let (queue, frames) = mpsc::channel(QUEUE_MAX);
            let waiting = Arc::new(AtomicUsize::new(0));
            let (_gone, gone) = oneshot::channel();
            let outlet = Outlet { number: *next, queue, waiting: Arc::clone(&waiting), _gone };
            let (number, work) = (*next, write(control.clone(), peer, lane, (frames, waiting)));
            let events = events.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = work => {}
                    () = linger(gone) => {}
                }
                let _ = events.send(Event::LaneClosed(to, lane, number)).await;
            });
            outlet
        });
        let length = frame.len();
        // Counted before it is queued: its writer may take it at once.
        let fits = outlet.waiting.fetch_add(length, Ordering::Relaxed) + length <= QUEUE_BYTES_MAX;
        if fits && outlet.queue.try_send(frame).is_ok() {
            self.frames += 1;
        } else {
            outlet.waiting.fetch_sub(length, Ordering::Relaxed);
            self.dropped += 1;
        }
    }

    /// A lane's stream has ended; the next message opens another.
    pub(crate) fn closed(&mut self, peer: NodeId, lane: Lane, number: u64) {
        if self.outlets.get(&(peer, lane)).is_some_and(|outlet| outlet.number == number) {
            self.outlets.remove(&(peer, lane));
        }
    }

    /// The connection has ended.
    pub(crate) fn close(&mut self, peer: NodeId) {
        for lane in wire::LANES {
            self.outlets.remove(&(peer, lane));
        }
    }
}

/// Resolves a while after the outlet is gone: what is queued may still go out.
async fn linger(gone: oneshot::Receiver<()>) {
    let _ = gone.await;
    tokio::time::sleep(LINGER).await;
}

async fn write(
    mut control: libp2p_stream::Control,
    peer: PeerId,
    lane: Lane,
    (mut frames, waiting): (mpsc::Receiver<Vec<u8>>, Arc<AtomicUsize>),
) {
    // What was written first is kept for a moment: a stream that its peer had no room for is closed without being read.
    let mut first: Option<Vec<u8>> = None;
    for _ in 0..TAKEN_TRIES {
        let Some(stream) = open(&mut control, peer, lane, &frames).await else { return };
        let opened = tokio::time::Instant::now();
        let (mut reader, mut writer) = stream.split();
        if let Some(first) = &first
            && (writer.write_all(first).await.is_err() || writer.flush().await.is_err())
        {
            continue;
        }
        let mut nothing = [0];
        loop {
            let mut frame = tokio::select! {
                frame = frames.recv() => match frame {
                    Some(frame) => frame,
                    None => return,
                },
                // Nobody answers in a lane: this is its end.
                _ = reader.read(&mut nothing) => break,
            };
            // What waits goes together: one record of Noise and one segment instead of several.
            while frame.len() < wire::BATCH_MAX {
                let Ok(more) = frames.try_recv() else { break };
                frame.extend_from_slice(&more);
            }
            waiting.fetch_sub(frame.len(), Ordering::Relaxed);
            let sent = writer.write_all(&frame).await.is_ok() && writer.flush().await.is_ok();
            if opened.elapsed() <= TAKEN_WITHIN {
                first.get_or_insert(frame);
            } else {
                first = None;
            }
            if !sent {
                break;
            }
        }
        if opened.elapsed() > TAKEN_WITHIN || first.is_none() {
            return;
        }
        tokio::time::sleep(TAKEN_AGAIN).await;
    }
}

/// Opens a lane's stream; `None` when it cannot be, or nobody wants it any more.
async fn open(
    control: &mut libp2p_stream::Control,
    peer: PeerId,
    lane: Lane,
    frames: &mpsc::Receiver<Vec<u8>>,
) -> Option<Stream> {
    let mut pauses = OPEN_AGAIN.iter();
    loop {
        match control.open_stream(peer, StreamProtocol::new(lane.protocol())).await {
            Ok(stream) => return Some(stream),
            Err(_) if frames.is_closed() => return None,
            // The way that was taken may be of a connection that is just closing.
            Err(_) => tokio::time::sleep(*pauses.next()?).await,
        }
    }
}

/// Accepts the streams peers open in a lane and reads messages from them. Returns its door, through which they are sent out
/// when their connection ends.
pub(crate) fn listen(
    control: &mut libp2p_stream::Control,
    lane: Lane,
    admitted: Admitted,
    (messages, events): (mpsc::Sender<(NodeId, Message)>, mpsc::Sender<Event>),
) -> Result<Arc<Door>, String> {
    let mut streams = control
        .accept(StreamProtocol::new(lane.protocol()))
        .map_err(|_| format!("protocol {} is served already", lane.protocol()))?;
    let door = Door::new(admitted, INBOUND_MAX);
    let entrance = Arc::clone(&door);
    tokio::spawn(async move {
        while let Some((peer, stream)) = streams.next().await {
            let Some((node, _)) = node_of(&peer) else { continue };
            let Some(pass) = entrance.enter_newest(node) else { continue };
            let (messages, events) = (messages.clone(), events.clone());
            tokio::spawn(async move {
                if let Err(reason) = read(stream, node, lane, pass, &messages).await {
                    let _ = events.send(Event::Bad(node, reason)).await;
                }
            });
        }
    });
    Ok(door)
}

async fn read(
    mut stream: Stream,
    node: NodeId,
    lane: Lane,
    mut pass: Pass,
    messages: &mpsc::Sender<(NodeId, Message)>,
) -> Result<(), String> {
    let left = pass.left();
    tokio::pin!(left);
    loop {
        let frame = tokio::select! {
            frame = read_frame(&mut stream, FRAME_MAX) => frame?,
            () = &mut left => return Ok(()),
        };
        let Some(frame) = frame else { return Ok(()) };
        pass.look_again();
        let message = Message::decode(&frame).map_err(|error| error.to_string())?;
        if message.lane() != lane && !matches!(message, Message::Unknown(_)) {
            return Err(format!("a message that does not belong on {}", lane.protocol()));
        }
        if messages.send((node, message)).await.is_err() {
            return Ok(());
        }
    }
}

/// Reads one frame of at most `most` bytes; `None` when the stream ended, also in the middle.
pub(crate) async fn read_frame(stream: &mut Stream, most: usize) -> Result<Option<Vec<u8>>, String> {
    let mut head = Vec::with_capacity(4);
    let length = loop {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => head.push(byte[0]),
        }
        if let Some((length, _)) = wire::frame_length(&head, most).map_err(|error| error.to_string())? {
            break length;
        }
    };
    // Memory follows what has arrived, not what was announced.
    let mut frame = Vec::new();
    let mut rest = stream.take(length as u64);
    match rest.read_to_end(&mut frame).await {
        Ok(read) if read == length => Ok(Some(frame)),
        _ => Ok(None),
    }
}
