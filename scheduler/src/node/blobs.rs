//! Images from peers: who holds one, and its bytes in parts. In: an image's name. Out: the image in this node's store, every
//! blob verified there, or why no peer could give it. Parts come from all holders in turn; one that fails is left out.

use super::containers::Worker;
use crate::port::Containers;
use p2p::Mesh;
use p2p::membership::{Liveness, Member, Role};
use p2p::mesh::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The calls of this file, version 1: JSON of [`Want`]; the answer is a descriptor's JSON (empty when the image is not there)
/// or bytes.
pub const PROTOCOL: &str = "/shoal/blob/1";
/// How long peers may take to say whether they hold an image.
const FIND_WITHIN: Duration = Duration::from_secs(2);
/// How often peers are asked while nobody holds it and somebody has not answered: a peer that is busy, or whose link is just
/// being made, has not said no.
const FIND_ROUNDS: usize = 4;
/// The pause between two rounds.
const FIND_AGAIN: Duration = Duration::from_millis(500);
/// The largest part a peer is asked for: two of them fit in a call with room to spare.
pub const PART_BYTES: u64 = 1 << 20;
/// How long a holder may take for a part while there are others: then it is left out, slow or dead.
const OTHERS_WITHIN: Duration = Duration::from_secs(3);
/// How often a part is asked for before the fetch fails; each time of another holder.
const TRIES: usize = 4;

/// What one node asks of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Want {
    /// What the name points at.
    Image {
        /// The image's name as the service says it.
        image: String,
    },
    /// A part of a blob.
    Part {
        /// The blob.
        digest: String,
        /// Where it begins, in bytes.
        offset: u64,
        /// How long it is at most, in bytes.
        bytes: u64,
    },
}

/// Answers peers that want an image.
pub(crate) async fn serve(mesh: &Mesh, port: &Arc<dyn Containers>) -> Result<(), Error> {
    let (port, asked) = (Arc::clone(port), mesh.clone());
    mesh.serve(
        PROTOCOL,
        Arc::new(move |peer, bytes| {
            let (port, mesh) = (Arc::clone(&port), asked.clone());
            Box::pin(async move {
                if mesh.role(peer).await.map_err(|error| error.to_string())? < Role::Member {
                    return Err(format!("node {peer} may only read, and runs nothing"));
                }
                let want: Want = serde_json::from_slice(&bytes).map_err(|error| format!("not understood: {error}"))?;
                let work = move || match want {
                    Want::Image { image } => Ok(port.holds(&image).unwrap_or_default().into_bytes()),
                    Want::Part { digest, offset, bytes } => {
                        port.blob(&digest, offset, bytes.min(PART_BYTES)).map_err(|error| error.to_string())
                    }
                };
                tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
            })
        }),
    )
    .await
}

/// The peers that hold one image, used in turn.
struct Holders {
    mesh: Mesh,
    runtime: tokio::runtime::Handle,
    peers: Mutex<Vec<p2p::NodeId>>,
    turn: AtomicUsize,
}

impl Holders {
    /// Asks one holder for a part. While there are others it has little time; the last has as much as a call may take, unless it
    /// is known to be down.
    async fn part(&self, peer: p2p::NodeId, others: bool, want: Vec<u8>) -> Result<Vec<u8>, Error> {
        let mut call = std::pin::pin!(self.mesh.call(peer, PROTOCOL, want));
        loop {
            if let Ok(answer) = tokio::time::timeout(OTHERS_WITHIN, &mut call).await {
                return answer;
            }
            if others || self.is_down(peer).await {
                let reason = format!("no part within {} s", OTHERS_WITHIN.as_secs());
                return Err(Error::Call { peer, protocol: PROTOCOL.to_owned(), reason });
            }
        }
    }

    async fn is_down(&self, peer: p2p::NodeId) -> bool {
        let down = |member: &Member| member.id == peer && matches!(member.liveness, Liveness::Down | Liveness::Left);
        self.mesh.members().await.is_ok_and(|members| members.iter().any(down))
    }

    fn read(&self, digest: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, String> {
        let want = Want::Part { digest: digest.to_owned(), offset, bytes };
        let want = serde_json::to_vec(&want).map_err(|error| error.to_string())?;
        let mut why = "no holder is left".to_owned();
        for _ in 0..TRIES {
            let (peer, others) = {
                let peers = self.peers.lock().expect("no holder panics");
                let Some(count) = std::num::NonZero::new(peers.len()) else { return Err(why) };
                (peers[self.turn.fetch_add(1, Ordering::Relaxed) % count], count.get() > 1)
            };
            let answer = self.runtime.block_on(self.part(peer, others, want.clone()));
            match answer {
                Ok(part) if !part.is_empty() && part.len() as u64 <= bytes => return Ok(part),
                Ok(part) => why = format!("{peer} answered with {} bytes for {bytes}", part.len()),
                Err(error) => why = error.to_string(),
            }
            self.peers.lock().expect("no holder panics").retain(|other| *other != peer);
        }
        Err(why)
    }
}

/// Asks every living peer what a name points at there. Returns who holds what, and how many did not answer.
async fn find(mesh: &Mesh, ask: &[u8]) -> Result<(BTreeMap<String, Vec<p2p::NodeId>>, usize), String> {
    let members = mesh.members().await.map_err(|error| error.to_string())?;
    // What a reader says it holds nobody runs.
    let lives =
        |member: &Member| member.role >= Role::Member && matches!(member.liveness, Liveness::Alive | Liveness::Suspect);
    let asked = members.into_iter().filter(|member| !member.is_self && lives(member)).map(|member| {
        let call = mesh.call(member.id, PROTOCOL, ask.to_vec());
        async move {
            let answer = tokio::time::timeout(FIND_WITHIN, call).await.ok()?.ok()?;
            Some((String::from_utf8(answer).ok()?, member.id))
        }
    });
    let mut found: BTreeMap<String, Vec<p2p::NodeId>> = BTreeMap::new();
    let mut silent = 0;
    for answer in futures::future::join_all(asked).await {
        match answer {
            Some((target, peer)) if !target.is_empty() => found.entry(target).or_default().push(peer),
            Some(_) => {}
            None => silent += 1,
        }
    }
    Ok((found, silent))
}

/// What most of the living peers hold under a name: a descriptor's JSON. `None` when none holds it.
pub(crate) async fn held(mesh: &Mesh, image: &str) -> Option<String> {
    let ask = serde_json::to_vec(&Want::Image { image: image.to_owned() }).ok()?;
    let (found, _) = find(mesh, &ask).await.ok()?;
    found.into_iter().max_by_key(|(_, peers)| peers.len()).map(|(target, _)| target)
}

/// Fetches an image from the peers that hold it. `Ok(false)` when none does.
pub(crate) async fn fetch(mesh: &Mesh, worker: &Worker, image: &str) -> Result<bool, String> {
    let ask = serde_json::to_vec(&Want::Image { image: image.to_owned() }).map_err(|error| error.to_string())?;
    let (mut found, mut silent) = find(mesh, &ask).await?;
    for _ in 1..FIND_ROUNDS {
        if !found.is_empty() || silent == 0 {
            break;
        }
        tokio::time::sleep(FIND_AGAIN).await;
        (found, silent) = find(mesh, &ask).await?;
    }
    if found.is_empty() && silent > 0 {
        return Err(format!("{silent} of them did not say whether they hold it"));
    }
    // One name may point at different things on different nodes: what most hold is meant.
    let Some((target, peers)) = found.into_iter().max_by_key(|(_, peers)| peers.len()) else { return Ok(false) };
    let holders = Holders {
        mesh: mesh.clone(),
        runtime: tokio::runtime::Handle::current(),
        peers: Mutex::new(peers),
        turn: AtomicUsize::new(0),
    };
    let (port, image) = (worker.port(), image.to_owned());
    let read = move || port.fetch(&image, &target, &|digest, offset, bytes| holders.read(digest, offset, bytes));
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(())) => Ok(true),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(format!("the engine's thread ended: {error}")),
    }
}
