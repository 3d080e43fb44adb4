//! Admission over `/shoal/admit/2`: ask, offer, proof, certificate, on one stream. In: a token (joiner) or the token rows
//! (admitter). Out: certificates. The only protocol unknown peers are answered on.

use std::time::Duration;

use futures::{AsyncWriteExt as _, StreamExt as _};
use libp2p::identity::ed25519;
use libp2p::{PeerId, Stream, StreamProtocol};
use tokio::sync::{mpsc, oneshot};

use super::lanes::read_frame;
use super::{Event, Task, node_of};
use crate::admission::{self, Certificate, Challenge, REVOKED_SUFFIX, Token, TokenRow};
use crate::id::ClusterId;
use crate::membership::Role;
use crate::table::{Body, Key, Table};
use crate::wire::{self, ADMIT, ADMIT_MAX, Admission as Words};

/// The whole exchange.
const ADMIT_TIME: Duration = Duration::from_secs(5);
/// Strangers served at once.
const STRANGERS_MAX: usize = 32;

/// What a stranger asks with.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) cluster: ClusterId,
    pub(crate) token: u64,
    pub(crate) key: [u8; 32],
}

/// What the admitter needs to go on.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) public: [u8; 32],
    pub(crate) own_key: [u8; 32],
}

async fn say(stream: &mut Stream, words: &Words) -> Result<(), String> {
    stream.write_all(&wire::frame(&words.encode())).await.map_err(|error| error.to_string())?;
    stream.flush().await.map_err(|error| error.to_string())
}

async fn hear(stream: &mut Stream) -> Result<Words, String> {
    let frame = read_frame(stream, ADMIT_MAX).await?.ok_or("the peer closed the stream")?;
    Words::decode(&frame).map_err(|_| "a malformed admission message".to_owned())
}

/// Proves a token's secret to a member and returns the certificates it grants, our own first. `Err((true, …))` means that
/// the member has refused: it will again.
pub(crate) async fn join(
    mut control: libp2p_stream::Control,
    peer: PeerId,
    own: [u8; 32],
    token: &Token,
    nonce: [u8; 16],
) -> Result<Vec<Vec<u8>>, (bool, String)> {
    let work = async {
        let soft = |words: String| (false, words);
        let protocol = StreamProtocol::new(ADMIT);
        let mut stream = control.open_stream(peer, protocol).await.map_err(|error| soft(error.to_string()))?;
        let cluster = token.cluster();
        say(&mut stream, &Words::Ask { cluster, token: token.id, nonce }).await.map_err(soft)?;
        let (chain, theirs) = match hear(&mut stream).await.map_err(soft)? {
            Words::Offer { chain, nonce } => (chain, nonce),
            Words::Refused(why) => return Err((true, why)),
            _ => return Err(soft("an unexpected admission message".into())),
        };
        let (_, admitter) = node_of(&peer).ok_or_else(|| soft("the peer's key is not Ed25519".into()))?;
        check(&chain, cluster, &admitter)
            .map_err(|error| (false, format!("the node that answered is not of the token's cluster: {error}")))?;
        let challenge =
            Challenge { cluster, token: token.id, joiner: own, admitter, joiner_nonce: nonce, admitter_nonce: theirs };
        let proof = challenge.proof(&admission::token_key(&token.secret));
        say(&mut stream, &Words::Proof(proof)).await.map_err(soft)?;
        match hear(&mut stream).await.map_err(soft)? {
            Words::Granted(chain) => {
                check(&chain, cluster, &own)
                    .map_err(|error| soft(format!("the certificate it gave is not right: {error}")))?;
                Ok(chain)
            }
            Words::Refused(why) => Err((true, why)),
            _ => Err(soft("an unexpected admission message".into())),
        }
    };
    tokio::time::timeout(ADMIT_TIME, work).await.unwrap_or_else(|_| Err((false, "no answer in time".into())))
}

/// Checks a chain for this key.
fn check(chain: &[Vec<u8>], cluster: ClusterId, key: &[u8; 32]) -> Result<(), String> {
    let chain: Result<Vec<Certificate>, _> = chain.iter().map(|bytes| Certificate::from_bytes(bytes)).collect();
    let chain = chain.map_err(|error| error.to_string())?;
    let leaf = admission::check_chain(&chain, cluster, admission::verify_ed25519).map_err(|error| error.to_string())?;
    if leaf.subject == *key { Ok(()) } else { Err("it is another node's".into()) }
}

/// Answers strangers from now on. `nonce` draws a fresh random number for each.
pub(crate) fn listen(
    control: &mut libp2p_stream::Control,
    events: mpsc::Sender<Event>,
    nonce: fn() -> [u8; 16],
) -> Result<(), String> {
    let mut streams =
        control.accept(StreamProtocol::new(ADMIT)).map_err(|_| "admission is served already".to_owned())?;
    tokio::spawn(async move {
        let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(STRANGERS_MAX));
        while let Some((peer, mut stream)) = streams.next().await {
            let Ok(slot) = std::sync::Arc::clone(&slots).acquire_owned().await else { return };
            let events = events.clone();
            tokio::spawn(async move {
                let work = async {
                    if let Err(why) = admit(&mut stream, peer, &events, nonce()).await {
                        let _ = say(&mut stream, &Words::Refused(why)).await;
                    }
                    let _ = stream.close().await;
                };
                let _ = tokio::time::timeout(ADMIT_TIME, work).await;
                drop(slot);
            });
        }
    });
    Ok(())
}

async fn admit(stream: &mut Stream, peer: PeerId, events: &mpsc::Sender<Event>, nonce: [u8; 16]) -> Result<(), String> {
    let (_, key) = node_of(&peer).ok_or("only Ed25519 keys can join")?;
    let Words::Ask { cluster, token, nonce: theirs } = hear(stream).await? else {
        return Err("an unexpected admission message".into());
    };
    let ask = Ask { cluster, token, key };
    let stopped = |_| "this node is stopping".to_owned();
    let (answer, wait) = oneshot::channel();
    events.send(Event::Offer(ask.clone(), answer)).await.map_err(|_| "this node is stopping")?;
    let offer = wait.await.map_err(stopped)??;
    say(stream, &Words::Offer { chain: offer.chain, nonce }).await?;
    let Words::Proof(proof) = hear(stream).await? else { return Err("an unexpected admission message".into()) };
    let challenge =
        Challenge { cluster, token, joiner: key, admitter: offer.own_key, joiner_nonce: theirs, admitter_nonce: nonce };
    if !challenge.is_proof(&offer.public, &proof) {
        return Err(admission::AdmissionError::WrongSecret.to_string());
    }
    let (answer, wait) = oneshot::channel();
    events.send(Event::Grant(ask, answer)).await.map_err(|_| "this node is stopping")?;
    let chain = wait.await.map_err(stopped)??;
    say(stream, &Words::Granted(chain)).await
}

impl Task {
    pub(crate) fn token_key(id: u64) -> Key {
        Key::global(Table::TOKEN, format!("{id:016x}"))
    }

    /// The row that says that a token is revoked. It stands beside the token's own, which every admission may write: a revocation
    /// that is concurrent with one must not lose against it.
    pub(crate) fn revoked_key(id: u64) -> Key {
        Key::global(Table::TOKEN, format!("{id:016x}{REVOKED_SUFFIX}"))
    }

    fn token_row(&self, ask: &Ask) -> Result<TokenRow, String> {
        if let Some(why) = &self.expelled {
            return Err(format!("it admits nobody any more: {why}"));
        }
        let ours = self.cluster.cluster;
        if ask.cluster != ours {
            let error = admission::AdmissionError::ForeignCluster { theirs: ask.cluster, ours };
            return Err(format!("the token is of another cluster: {error}"));
        }
        let subject = crate::id::NodeId::of_key(&ask.key);
        if self.node.replica().is_evicted(subject) {
            return Err(admission::AdmissionError::Revoked(subject).to_string());
        }
        if self.node.role(self.node.id()) < Role::Member {
            return Err(admission::AdmissionError::MayNotAdmit(self.node.id()).to_string());
        }
        let unknown = || admission::AdmissionError::UnknownToken.to_string();
        let row = self.node.get(&Self::token_key(ask.token)).ok_or_else(unknown)?;
        let mut row: TokenRow = row.body.parse().map_err(|_| unknown())?;
        row.revoked |= self.node.get(&Self::revoked_key(ask.token)).is_some();
        // Whoever was admitted by this token and lost the answer may ask for it again.
        let again = self.held_certificate(ask).is_some();
        match row.check(self.clock.now().wall_ms) {
            Err(admission::AdmissionError::Spent) if again => Ok(row),
            Err(error) => Err(error.to_string()),
            Ok(()) => Ok(row),
        }
    }

    /// The certificate this node itself has granted to the asking key for this token.
    fn held_certificate(&self, ask: &Ask) -> Option<Vec<u8>> {
        let subject = crate::id::NodeId::of_key(&ask.key);
        let row = self.node.get(&Key::global(Table::CERTIFICATE, subject.to_string()))?;
        let held = Certificate::from_bytes(&row.body.0).ok()?;
        let ours = held.issuer == self.keypair.public().to_bytes();
        (held.subject == ask.key && held.token == ask.token && ours).then_some(row.body.0)
    }

    pub(crate) fn offer(&self, ask: &Ask) -> Result<Offer, String> {
        let row = self.token_row(ask)?;
        let public = hex::decode(&row.key).ok().and_then(|bytes| bytes.try_into().ok());
        let public: [u8; 32] = public.ok_or("the token's row cannot be read")?;
        Ok(Offer { chain: self.node.setup().chain.clone(), public, own_key: self.keypair.public().to_bytes() })
    }

    pub(crate) fn grant(&mut self, ask: &Ask) -> Result<Vec<Vec<u8>>, String> {
        if let Some((why, _)) = &self.broken {
            // The admission would be forgotten, and the token be good once more.
            return Err(format!("it admits nobody any more until its disk takes writes: {why}"));
        }
        // Looked at again: another stranger may have used the token up meanwhile.
        let mut row = self.token_row(ask)?;
        let subject = crate::id::NodeId::of_key(&ask.key);
        if self.node.public_key(subject).is_some_and(|held| held != ask.key) {
            return Err("another node has the same short id; make a new identity".into());
        }
        if let Some(bytes) = self.held_certificate(ask) {
            return Ok(std::iter::once(bytes).chain(self.node.setup().chain.iter().cloned()).collect());
        }
        if self.node.setup().chain.len() >= admission::CHAIN_MAX {
            return Err("this node's chain of certificates is too long; join through an older node".into());
        }
        let own_role = self.node.role(self.node.id());
        let role = row.role.min(own_role);
        let now = self.clock.now();
        let issuer: &ed25519::Keypair = &self.keypair;
        let certificate = Certificate::issue(self.cluster.cluster, ask.key, role, ask.token, now.wall_ms, issuer);
        let bytes = certificate.to_bytes();
        let put =
            |node: &mut crate::node::Node, key, body| node.put(now, key, Some(body)).map_err(|error| error.to_string());
        // Only what is limited is counted.
        if row.uses > 0 {
            row.used = row.used.saturating_add(1);
            let body = Body::json(&row).map_err(|error| error.to_string())?;
            put(&mut self.node, Self::token_key(ask.token), body)?;
        }
        put(&mut self.node, Key::global(Table::CERTIFICATE, subject.to_string()), Body(bytes.clone()))?;
        self.node.audit(now, &format!("token {:016x}", ask.token), &subject.to_string(), &format!("admit {subject}"));
        let mut chain = vec![bytes];
        chain.extend(self.node.setup().chain.iter().cloned());
        Ok(chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_words_of_a_stranger_panic(kind in 0u8..6, bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let bytes = [&[kind][..], &bytes].concat();
            if let Ok(words) = Words::decode(&bytes)
                && let Words::Offer { chain, .. } | Words::Granted(chain) = words
            {
                proptest::prop_assert!(check(&chain, ClusterId(1), &[1; 32]).is_err());
            }
        }
    }
}
