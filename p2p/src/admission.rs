//! Who may be in: certificates chained to the cluster's root, revocations, tokens, and the proof of a token's secret.
//! In: keys, bytes of peers, times and random numbers as arguments. Out: verdicts and bytes to send. Never draws randomness.
//!
//! The proof is a signature, by a key that only the token's secret makes, over both nonces and **both public keys that the
//! Noise handshake authenticated**, so a
//! proof relayed by somebody in between is worth nothing: its connection has another key. The secret is never sent.

use libp2p::identity::ed25519;
use serde::{Deserialize, Serialize};

use crate::id::{ClusterId, NodeId};
use crate::membership::Role;
use crate::table::codec::Reader;

/// Longest chain from a node to the root: more means that every admission was made by the newest node.
pub const CHAIN_MAX: usize = 64;
/// Bytes of a certificate. Format `certificate/1`.
pub const CERTIFICATE_LEN: usize = 1 + 16 + 32 + 32 + 1 + 8 + 8 + 64;
/// Bytes of a revocation. Format `revocation/1`.
pub const REVOCATION_LEN: usize = 1 + 16 + 8 + 32 + 1 + 8 + 64;
/// Most addresses a token carries.
pub const TOKEN_ADDRESSES_MAX: usize = 8;
const FORMAT: u8 = 1;
const TOKEN_HEAD: &str = "shoal1";

/// Checks an Ed25519 signature: (public key, message, signature). An argument, so that a simulation of a thousand nodes
/// need not do a million curve multiplications.
pub type Verify = fn(&[u8; 32], &[u8], &[u8; 64]) -> bool;

/// The real check.
#[must_use]
pub fn verify_ed25519(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    ed25519::PublicKey::try_from_bytes(key).is_ok_and(|key| key.verify(message, signature))
}

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// Bytes that are no certificate, revocation or token.
    #[error("read a {0}: it is malformed")]
    Malformed(&'static str),
    /// A certificate of another cluster.
    #[error("it belongs to cluster {theirs}, this is {ours}")]
    ForeignCluster {
        /// Theirs.
        theirs: ClusterId,
        /// Ours.
        ours: ClusterId,
    },
    /// A chain that does not lead to the root.
    #[error("the certificate of {subject} does not lead to the cluster's root: {reason}")]
    Chain {
        /// Whose.
        subject: NodeId,
        /// Where it breaks.
        reason: &'static str,
    },
    /// A certificate shown by somebody whose key it is not for.
    #[error("the certificate is for {subject}, the connection is from {peer}")]
    NotYours {
        /// Whom it is for.
        subject: NodeId,
        /// Who showed it.
        peer: NodeId,
    },
    /// The node was evicted or left.
    #[error("node {0} was evicted or left; it needs a new identity and a new token")]
    Revoked(NodeId),
    /// A certificate signed by a node that was evicted, which no member holds.
    #[error("the certificate of {subject} is by {issuer}, which was evicted or left; join again through another node")]
    IssuerRevoked {
        /// Whose certificate.
        subject: NodeId,
        /// Who signed it.
        issuer: NodeId,
    },
    /// The token has expired.
    #[error("the token has expired; make a new one with `shoal mesh token create`")]
    Expired,
    /// The token was used as often as it may be.
    #[error("the token was already used; make a new one with `shoal mesh token create`")]
    Spent,
    /// The token was revoked, or no member has heard of it.
    #[error("the token is not known or was revoked; make a new one with `shoal mesh token create`")]
    UnknownToken,
    /// Somebody revoked it.
    #[error("the token was revoked; make a new one with `shoal mesh token create`")]
    RevokedToken,
    /// The proof is wrong.
    #[error("the token's secret is wrong")]
    WrongSecret,
    /// The certifying node may not admit.
    #[error("node {0} may not admit others")]
    MayNotAdmit(NodeId),
}

/// That `subject` is a member, said by `issuer`. It does not expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// The member's public key.
    pub subject: [u8; 32],
    /// The public key that signed: the root's, or a member's that may admit.
    pub issuer: [u8; 32],
    /// What the member may do.
    pub role: Role,
    /// The token it came in by; 0 for the first node.
    pub token: u64,
    /// When, by the issuer's clock.
    pub issued_ms: u64,
    /// The issuer's signature over everything above.
    pub signature: [u8; 64],
}

fn role_byte(role: Role) -> u8 {
    match role {
        Role::Reader => 0,
        Role::Member => 1,
        Role::Operator => 2,
    }
}

fn role_of(byte: u8) -> Option<Role> {
    [Role::Reader, Role::Member, Role::Operator].get(usize::from(byte)).copied()
}

fn array<const N: usize>(reader: &mut Reader<'_>) -> Option<[u8; N]> {
    reader.take(N).ok()?.try_into().ok()
}

impl Certificate {
    /// Issues a certificate with the issuer's key.
    #[must_use]
    pub fn issue(
        cluster: ClusterId,
        subject: [u8; 32],
        role: Role,
        token: u64,
        now_ms: u64,
        issuer: &ed25519::Keypair,
    ) -> Self {
        let issuer_key = issuer.public().to_bytes();
        let mut it = Self { cluster, subject, issuer: issuer_key, role, token, issued_ms: now_ms, signature: [0; 64] };
        it.signature = issuer.sign(&it.signed_part()).try_into().expect("an Ed25519 signature has 64 bytes");
        it
    }

    fn signed_part(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CERTIFICATE_LEN);
        out.push(FORMAT);
        out.extend_from_slice(&self.cluster.0.to_be_bytes());
        out.extend_from_slice(&self.subject);
        out.extend_from_slice(&self.issuer);
        out.push(role_byte(self.role));
        out.extend_from_slice(&self.token.to_be_bytes());
        out.extend_from_slice(&self.issued_ms.to_be_bytes());
        out
    }

    /// The certificate as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.signed_part();
        out.extend_from_slice(&self.signature);
        out
    }

    /// Reads a certificate; its signature is not checked yet.
    ///
    /// # Errors
    /// [`AdmissionError::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AdmissionError> {
        let read = || {
            let mut reader = Reader::new(bytes);
            if bytes.len() != CERTIFICATE_LEN || reader.byte().ok()? != FORMAT {
                return None;
            }
            Some(Self {
                cluster: ClusterId(u128::from_be_bytes(array(&mut reader)?)),
                subject: array(&mut reader)?,
                issuer: array(&mut reader)?,
                role: role_of(reader.byte().ok()?)?,
                token: reader.word().ok()?,
                issued_ms: reader.word().ok()?,
                signature: array(&mut reader)?,
            })
        };
        read().ok_or(AdmissionError::Malformed("certificate"))
    }

    /// Whom it is for.
    #[must_use]
    pub fn node(&self) -> NodeId {
        NodeId::of_key(&self.subject)
    }

    /// Whether the issuer's signature holds.
    #[must_use]
    pub fn is_signed(&self, verify: Verify) -> bool {
        verify(&self.issuer, &self.signed_part(), &self.signature)
    }

    /// Whether the holder of this certificate may have issued the other one: it is the key that signed it, it may admit, and
    /// it gave no more than it has.
    #[must_use]
    pub fn may_issue(&self, other: &Self) -> bool {
        self.subject == other.issuer && self.role >= Role::Member && self.role >= other.role
    }
}

/// Checks a chain, leaf first: each certificate is signed by the next one's subject, which may admit, and the last by the
/// key whose hash is the cluster's id. Returns the leaf.
///
/// # Errors
/// See [`AdmissionError`].
pub fn check_chain(chain: &[Certificate], cluster: ClusterId, verify: Verify) -> Result<&Certificate, AdmissionError> {
    let leaf = chain.first().ok_or(AdmissionError::Malformed("chain"))?;
    let broken = |reason| AdmissionError::Chain { subject: leaf.node(), reason };
    if chain.len() > CHAIN_MAX {
        return Err(broken("it is too long; let an older node admit"));
    }
    for (at, certificate) in chain.iter().enumerate() {
        if certificate.cluster != cluster {
            return Err(AdmissionError::ForeignCluster { theirs: certificate.cluster, ours: cluster });
        }
        if !certificate.is_signed(verify) {
            return Err(broken("a signature is wrong"));
        }
        match chain.get(at + 1) {
            Some(next) if next.subject != certificate.issuer => return Err(broken("a link is missing")),
            Some(next) if !next.may_issue(certificate) => return Err(broken("an issuer may not admit")),
            Some(_) => {}
            None if ClusterId::of_root(&certificate.issuer) != cluster => {
                return Err(broken("its end is not the root"));
            }
            None => {}
        }
    }
    Ok(leaf)
}

/// That `subject` is out for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Who is out.
    pub subject: NodeId,
    /// The public key that says so: a member's that may admit, or the subject's own.
    pub issuer: [u8; 32],
    /// Whether the subject left by itself.
    pub left: bool,
    /// When, by the issuer's clock.
    pub at_ms: u64,
    /// The issuer's signature.
    pub signature: [u8; 64],
}

impl Revocation {
    /// Signs a revocation.
    #[must_use]
    pub fn issue(cluster: ClusterId, subject: NodeId, left: bool, now_ms: u64, issuer: &ed25519::Keypair) -> Self {
        let mut it =
            Self { cluster, subject, issuer: issuer.public().to_bytes(), left, at_ms: now_ms, signature: [0; 64] };
        it.signature = issuer.sign(&it.signed_part()).try_into().expect("an Ed25519 signature has 64 bytes");
        it
    }

    fn signed_part(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(REVOCATION_LEN);
        out.push(FORMAT);
        out.extend_from_slice(&self.cluster.0.to_be_bytes());
        out.extend_from_slice(&self.subject.0.to_be_bytes());
        out.extend_from_slice(&self.issuer);
        out.push(u8::from(self.left));
        out.extend_from_slice(&self.at_ms.to_be_bytes());
        out
    }

    /// The revocation as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.signed_part();
        out.extend_from_slice(&self.signature);
        out
    }

    /// Reads a revocation; its signature is not checked yet.
    ///
    /// # Errors
    /// [`AdmissionError::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AdmissionError> {
        let read = || {
            let mut reader = Reader::new(bytes);
            if bytes.len() != REVOCATION_LEN || reader.byte().ok()? != FORMAT {
                return None;
            }
            Some(Self {
                cluster: ClusterId(u128::from_be_bytes(array(&mut reader)?)),
                subject: NodeId(reader.word().ok()?),
                issuer: array(&mut reader)?,
                left: reader.byte().ok()? != 0,
                at_ms: reader.word().ok()?,
                signature: array(&mut reader)?,
            })
        };
        read().ok_or(AdmissionError::Malformed("revocation"))
    }

    /// Whether the signature holds.
    #[must_use]
    pub fn is_signed(&self, verify: Verify) -> bool {
        verify(&self.issuer, &self.signed_part(), &self.signature)
    }
}

/// What lets a machine in: shown once, as text. Format `token/1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// BLAKE3 hash of the root's public key; its first half is the cluster's id.
    pub root_hash: [u8; 32],
    /// Which token.
    pub id: u64,
    /// What the joiner proves to know.
    pub secret: [u8; 16],
    /// When it stops working (ms since 1970); 0 for never.
    pub expires_ms: u64,
    /// How often it works; 0 without limit.
    pub uses: u32,
    /// What the joiner may do.
    pub role: Role,
    /// Where members listen, as multiaddresses.
    pub addresses: Vec<String>,
}

impl Token {
    /// The cluster it is for.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        ClusterId(u128::from_be_bytes(self.root_hash[..16].try_into().expect("sixteen of 32 bytes")))
    }

    /// The token as text: `shoal1`, then hex with a check sum.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = postcard::to_allocvec(self).expect("a token is plain data");
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(&sum.as_bytes()[..4]);
        format!("{TOKEN_HEAD}{}", hex::encode(bytes))
    }

    /// Reads a token, with an optional `@HOST:PORT` that is put in front of its addresses.
    ///
    /// # Errors
    /// [`AdmissionError::Malformed`].
    pub fn from_text(text: &str) -> Result<Self, AdmissionError> {
        let bad = || AdmissionError::Malformed("token");
        if text.len() > 8192 {
            return Err(bad());
        }
        let (text, at) =
            text.trim().split_once('@').map_or_else(|| (text.trim(), None), |(token, at)| (token, Some(at)));
        let bytes = hex::decode(text.strip_prefix(TOKEN_HEAD).ok_or_else(bad)?).map_err(|_| bad())?;
        let (payload, sum) = bytes.split_last_chunk::<4>().ok_or_else(bad)?;
        if blake3::hash(payload).as_bytes()[..4] != sum[..] {
            return Err(bad());
        }
        let mut token: Self = postcard::from_bytes(payload).map_err(|_| bad())?;
        token.addresses.truncate(TOKEN_ADDRESSES_MAX);
        if let Some(at) = at {
            token.addresses.insert(0, at.to_owned());
        }
        Ok(token)
    }
}

/// The key that a token's secret makes. Members keep its public half: that checks a proof and admits nobody.
#[must_use]
pub fn token_key(secret: &[u8; 16]) -> ed25519::Keypair {
    let seed = blake3::derive_key("shoal 2026 admission token key", secret);
    let secret = ed25519::SecretKey::try_from_bytes(seed).expect("any 32 bytes are a key");
    ed25519::Keypair::from(secret)
}

/// What is proved: that the holder of `joiner`'s key knows the secret, to the holder of `admitter`'s key, now.
#[derive(Debug, Clone, Copy)]
pub struct Challenge {
    /// The cluster.
    pub cluster: ClusterId,
    /// The token.
    pub token: u64,
    /// The key the admitter's end of the Noise handshake saw.
    pub joiner: [u8; 32],
    /// The key the joiner's end of the Noise handshake saw.
    pub admitter: [u8; 32],
    /// The joiner's random number.
    pub joiner_nonce: [u8; 16],
    /// The admitter's random number.
    pub admitter_nonce: [u8; 16],
}

impl Challenge {
    fn signed(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("shoal/admit/2");
        hasher.update(&self.cluster.0.to_be_bytes()).update(&self.token.to_be_bytes());
        hasher.update(&self.joiner).update(&self.admitter);
        hasher.update(&self.joiner_nonce).update(&self.admitter_nonce);
        *hasher.finalize().as_bytes()
    }

    /// The proof by the key of a token's secret.
    #[must_use]
    pub fn proof(&self, key: &ed25519::Keypair) -> Vec<u8> {
        key.sign(&self.signed())
    }

    /// Whether a proof is right, by the public key in the token's row.
    #[must_use]
    pub fn is_proof(&self, public: &[u8; 32], proof: &[u8]) -> bool {
        proof.try_into().is_ok_and(|proof: &[u8; 64]| verify_ed25519(public, &self.signed(), proof))
    }
}

/// Whether another member may admit although this one refused with these words: it may only read itself, was evicted, or has not
/// heard of the token yet. What is spent, expired or revoked is so for all, also for those who have not heard of it.
#[must_use]
pub fn is_of_one_member(refusal: &str) -> bool {
    ["may not admit others", "admits nobody any more", "is not known or was", "is too long; join through"]
        .iter()
        .any(|words| refusal.contains(words))
}

/// Behind a token's id: the key of the row that revokes it. It has the form of the token's own.
pub const REVOKED_SUFFIX: &str = ".revoked";

/// A token as the row of the table `token` keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// What the joiner may do.
    pub role: Role,
    /// When it stops working; 0 for never.
    pub expires_ms: u64,
    /// How often it works; 0 without limit.
    pub uses: u32,
    /// How often it has worked.
    pub used: u32,
    /// Whether it was revoked.
    pub revoked: bool,
    /// Who made it.
    pub issuer: NodeId,
    /// The public half of [`token_key`], as hex.
    pub key: String,
    /// Fields of newer builds.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl TokenRow {
    /// Whether the token still works.
    ///
    /// # Errors
    /// Which of its ends it has reached.
    pub fn check(&self, now_ms: u64) -> Result<(), AdmissionError> {
        if self.revoked {
            Err(AdmissionError::RevokedToken)
        } else if self.expires_ms != 0 && now_ms >= self.expires_ms {
            Err(AdmissionError::Expired)
        } else if self.uses != 0 && self.used >= self.uses {
            Err(AdmissionError::Spent)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_token_ends_it_for_all_and_what_ails_one_member_does_not() {
        for (error, of_one) in [
            (AdmissionError::UnknownToken, true),
            (AdmissionError::MayNotAdmit(NodeId(1)), true),
            (AdmissionError::RevokedToken, false),
            (AdmissionError::Spent, false),
            (AdmissionError::Expired, false),
            (AdmissionError::WrongSecret, false),
        ] {
            assert_eq!(is_of_one_member(&error.to_string()), of_one, "{error}");
        }
    }

    fn key(n: u8) -> ed25519::Keypair {
        ed25519::Keypair::from(ed25519::SecretKey::try_from_bytes([n; 32]).unwrap())
    }

    #[test]
    fn a_chain_leads_to_the_root_or_is_refused() {
        let (root, first, second) = (key(1), key(2), key(3));
        let cluster = ClusterId::of_root(&root.public().to_bytes());
        let one = Certificate::issue(cluster, first.public().to_bytes(), Role::Operator, 0, 5, &root);
        let two = Certificate::issue(cluster, second.public().to_bytes(), Role::Member, 9, 6, &first);
        assert_eq!(Certificate::from_bytes(&two.to_bytes()).unwrap(), two);
        let chain = [two.clone(), one.clone()];
        assert_eq!(check_chain(&chain, cluster, verify_ed25519).unwrap(), &two);
        assert!(check_chain(&chain[..1], cluster, verify_ed25519).is_err(), "the end is missing");
        assert!(check_chain(&[], cluster, verify_ed25519).is_err());
        let other = ClusterId::of_root(&key(9).public().to_bytes());
        assert!(matches!(check_chain(&chain, other, verify_ed25519), Err(AdmissionError::ForeignCluster { .. })));
        let mut forged = two.clone();
        forged.role = Role::Operator;
        assert!(check_chain(&[forged, one.clone()], cluster, verify_ed25519).is_err());
        let reader = Certificate::issue(cluster, first.public().to_bytes(), Role::Reader, 0, 5, &root);
        assert!(check_chain(&[two, reader], cluster, verify_ed25519).is_err(), "a reader admits nobody");
        let mut cut = one.to_bytes();
        cut.pop();
        assert!(Certificate::from_bytes(&cut).is_err());
    }

    #[test]
    fn a_proof_is_worth_nothing_on_another_connection() {
        let challenge = Challenge {
            cluster: ClusterId(1),
            token: 2,
            joiner: [3; 32],
            admitter: [4; 32],
            joiner_nonce: [5; 16],
            admitter_nonce: [6; 16],
        };
        let public = token_key(&[7; 16]).public().to_bytes();
        let proof = challenge.proof(&token_key(&[7; 16]));
        assert!(challenge.is_proof(&public, &proof));
        assert!(!challenge.is_proof(&token_key(&[8; 16]).public().to_bytes(), &proof));
        assert!(!Challenge { admitter: [9; 32], ..challenge }.is_proof(&public, &proof), "relayed by another key");
        assert!(!Challenge { admitter_nonce: [0; 16], ..challenge }.is_proof(&public, &proof), "replayed");
        // Whoever reads the row holds the public half, and can prove nothing with it.
        let seed = ed25519::SecretKey::try_from_bytes(public).unwrap();
        let forged = challenge.proof(&ed25519::Keypair::from(seed));
        assert!(!challenge.is_proof(&public, &forged) && !challenge.is_proof(&public, &public));
    }

    #[test]
    fn a_token_reads_back_and_a_mistyped_one_does_not() {
        let token = Token {
            root_hash: [1; 32],
            id: 2,
            secret: [3; 16],
            expires_ms: 4,
            uses: 5,
            role: Role::Member,
            addresses: vec!["/ip4/127.0.0.1/tcp/4700".into()],
        };
        let text = token.to_text();
        assert_eq!(Token::from_text(&text).unwrap(), token);
        let at = Token::from_text(&format!("{text}@10.0.0.1:4700")).unwrap();
        assert_eq!(at.addresses[0], "10.0.0.1:4700");
        for at in [6, 20, text.len() - 1] {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
            assert!(Token::from_text(std::str::from_utf8(&wrong).unwrap()).is_err());
        }
    }

    #[test]
    fn a_token_ends_by_time_by_use_and_by_word() {
        let row = TokenRow {
            role: Role::Member,
            expires_ms: 100,
            uses: 1,
            used: 0,
            revoked: false,
            issuer: NodeId(1),
            key: String::new(),
            other: serde_json::Map::new(),
        };
        assert_eq!(row.check(99), Ok(()));
        assert_eq!(row.check(100), Err(AdmissionError::Expired));
        assert_eq!(TokenRow { used: 1, ..row.clone() }.check(0), Err(AdmissionError::Spent));
        assert_eq!(TokenRow { revoked: true, ..row }.check(0), Err(AdmissionError::RevokedToken));
    }

    #[test]
    fn a_revocation_is_signed() {
        let issuer = key(4);
        let it = Revocation::issue(ClusterId(1), NodeId(2), false, 3, &issuer);
        let mut read = Revocation::from_bytes(&it.to_bytes()).unwrap();
        assert!(read.is_signed(verify_ed25519));
        read.subject = NodeId(3);
        assert!(!read.is_signed(verify_ed25519));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_and_no_text_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), text in ".{0,80}") {
            let _ = (Certificate::from_bytes(&bytes), Revocation::from_bytes(&bytes));
            for length in [CERTIFICATE_LEN, REVOCATION_LEN] {
                let mut sized = bytes.clone();
                sized.resize(length, 1);
                sized[0] = FORMAT;
                if let Ok(certificate) = Certificate::from_bytes(&sized) {
                    proptest::prop_assert_eq!(&certificate.to_bytes(), &sized);
                    proptest::prop_assert!(!certificate.is_signed(verify_ed25519));
                }
                if let Ok(revocation) = Revocation::from_bytes(&sized) {
                    proptest::prop_assert!(!revocation.is_signed(verify_ed25519));
                }
            }
            let sum = blake3::hash(&bytes);
            let framed = [&bytes[..], &sum.as_bytes()[..4]].concat();
            for text in [text.clone(), format!("{TOKEN_HEAD}{}", hex::encode(framed)), format!("{TOKEN_HEAD}{text}")] {
                let _ = Token::from_text(&text);
            }
        }
    }
}
