//! Which images may be used: a containers `policy.json` and cosign signatures in, yes or a refusal out.
//!
//! Keys are files of this host and everything is verified here: no transparency log and no certificate authority is asked.
//! Understood: `insecureAcceptAnything`, `reject`, `sigstoreSigned` with a key. Anything else refuses the image it applies
//! to, because a requirement that is not understood is not met. Payload format: containers/image "simple signing".

use crate::remote::{self, client::Repository};
use oci::descriptor::Descriptor;
use oci::digest::Digest;
use oci::manifest::{Manifest, media};
use oci::reference::Reference;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes of a policy file or a key.
const FILE_MAX: u64 = 1 << 20;
/// Bytes of one signed payload.
const PAYLOAD_MAX: u64 = 1 << 20;
/// Signatures looked at for one image.
const SIGNATURES_MAX: usize = 64;
/// cosign's layer type for a signed payload.
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// cosign's artifact type when signatures are referrers.
const ARTIFACT_TYPE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// The annotation with the signature, base64.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// A policy file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
    #[serde(skip)]
    path: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Requirement {
    #[serde(rename = "type")]
    kind: String,
    key_path: Option<PathBuf>,
    key_paths: Option<Vec<PathBuf>>,
    key_data: Option<String>,
    signed_identity: Option<Identity>,
    /// Whatever else it asks for; a requirement with parts that are not understood is not met.
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    #[serde(rename = "type")]
    kind: String,
    docker_reference: Option<String>,
    docker_repository: Option<String>,
    prefix: Option<String>,
    signed_prefix: Option<String>,
}

/// Why an image is refused, or the policy is not usable.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file could not be used.
    #[error("failed to use {}: {reason}", path.display())]
    File {
        /// The policy or a key.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A `reject` rule.
    #[error("{} rejects it (rule for {scope})", path.display())]
    Rejected {
        /// The policy.
        path: PathBuf,
        /// The rule that applied.
        scope: String,
    },
    /// A rule this program does not understand.
    #[error("{} asks for `{kind}` (rule for {scope}), which is not supported", path.display())]
    Unsupported {
        /// The policy.
        path: PathBuf,
        /// The rule that applied.
        scope: String,
        /// What it asks for.
        kind: String,
    },
    /// No signature fits.
    #[error("{digest} has no signature that {} accepts (rule for {scope}): {reason}", path.display())]
    Unsigned {
        /// The image.
        digest: String,
        /// The policy.
        path: PathBuf,
        /// The rule that applied.
        scope: String,
        /// What was found.
        reason: String,
    },
    /// The registry could not be asked.
    #[error("failed to fetch the signatures of {digest}")]
    Remote {
        /// The image.
        digest: String,
        /// Why.
        source: Box<remote::Error>,
    },
}

impl Policy {
    /// Reads a policy file.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        let text = read(path)?;
        let mut policy: Self = serde_json::from_str(&text)
            .map_err(|error| PolicyError::File { path: path.to_owned(), reason: error.to_string() })?;
        path.clone_into(&mut policy.path);
        if policy.default.is_empty() {
            return Err(PolicyError::File { path: path.to_owned(), reason: "`default` is empty".to_owned() });
        }
        Ok(policy)
    }

    /// Reads the user's or the host's policy (`containers/policy.json`); `None` when there is none.
    pub fn of_host(env: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, PolicyError> {
        let home =
            env("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| env("HOME").map(|h| Path::new(&h).join(".config")));
        let own = home.map(|home| home.join("containers/policy.json"));
        let host = PathBuf::from("/etc/containers/policy.json");
        own.into_iter().chain([host]).find(|path| path.exists()).map(|path| Self::read(&path)).transpose()
    }

    /// The rule for an image: its scope and what it requires. The most specific scope of the transport wins, then its empty
    /// scope, then the default.
    fn rule(&self, transport: &str, scopes: Vec<String>) -> (String, &[Requirement]) {
        if let Some(rules) = self.transports.get(transport) {
            for scope in scopes {
                if let Some(rule) = rules.get(&scope) {
                    return (if scope.is_empty() { transport.to_owned() } else { scope }, rule);
                }
            }
        }
        ("default".to_owned(), &self.default)
    }

    /// Judges an image that no registry stands behind. Signatures are not looked for there, so that a rule that asks for
    /// one refuses it.
    pub fn check_local(&self, local: Local<'_>) -> Result<(), PolicyError> {
        let (transport, scopes) = local.scopes();
        let (scope, rule) = self.rule(transport, scopes);
        for requirement in rule {
            match requirement.kind.as_str() {
                "insecureAcceptAnything" => {}
                "reject" => return Err(PolicyError::Rejected { path: self.path.clone(), scope }),
                kind => {
                    let kind = format!("{kind} for {transport}");
                    return Err(PolicyError::Unsupported { path: self.path.clone(), scope, kind });
                }
            }
        }
        if rule.is_empty() {
            return Err(PolicyError::Rejected { path: self.path.clone(), scope });
        }
        Ok(())
    }

    /// Whether this image may come from anywhere: its rule asks for nothing that only its registry can show.
    #[must_use]
    pub fn accepts_unseen(&self, reference: &Reference) -> bool {
        let (_, rule) = self.rule("docker", scopes_of(reference));
        !rule.is_empty() && rule.iter().all(|requirement| requirement.kind == "insecureAcceptAnything")
    }

    /// Judges an image that was found at `repository`. Every requirement of its rule must be met.
    pub async fn check(
        &self,
        reference: &Reference,
        digest: &Digest,
        repository: &Repository,
    ) -> Result<(), PolicyError> {
        let (scope, rule) = self.rule("docker", scopes_of(reference));
        let mut signatures = None;
        for requirement in rule {
            match requirement.kind.as_str() {
                "insecureAcceptAnything" => {}
                "reject" => return Err(PolicyError::Rejected { path: self.path.clone(), scope }),
                "sigstoreSigned" if requirement.rest.is_empty() => {
                    if signatures.is_none() {
                        let found = signatures_of(digest, repository).await;
                        let digest = digest.to_string();
                        signatures =
                            Some(found.map_err(|source| PolicyError::Remote { digest, source: Box::new(source) })?);
                    }
                    let found = signatures.as_deref().unwrap_or_default();
                    requirement.judge(reference, digest, found)?.map_err(|reason| PolicyError::Unsigned {
                        digest: digest.to_string(),
                        path: self.path.clone(),
                        scope: scope.clone(),
                        reason,
                    })?;
                }
                kind => {
                    let parts: Vec<_> = requirement.rest.keys().map(String::as_str).collect();
                    let kind =
                        if parts.is_empty() { kind.to_owned() } else { format!("{kind} with {}", parts.join(", ")) };
                    return Err(PolicyError::Unsupported { path: self.path.clone(), scope, kind });
                }
            }
        }
        if rule.is_empty() {
            return Err(PolicyError::Rejected { path: self.path.clone(), scope });
        }
        Ok(())
    }
}

/// A place of this host that images come from, as containers-policy.json(5) tells them apart.
#[derive(Debug, Clone, Copy)]
pub enum Local<'a> {
    /// `oci:DIRECTORY[:NAME]`.
    Layout(&'a Path, Option<&'a str>),
    /// `oci-archive:FILE[:NAME]`.
    OciArchive(&'a Path, Option<&'a str>),
    /// A docker archive, which only the transport's own rule can mean.
    DockerArchive,
    /// `dir:DIRECTORY`.
    Dir(&'a Path),
    /// This host's store; the image's name there, if it has one.
    Store(Option<&'a Reference>),
}

impl Local<'_> {
    /// The transport, and its scopes from the most specific to the empty one.
    fn scopes(&self) -> (&'static str, Vec<String>) {
        let below = |path: &Path, name: Option<&str>| {
            // Policies are written with absolute paths without links.
            let path =
                std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned());
            let named = name.map(|name| format!("{}:{name}", path.display()));
            let parents = path.ancestors().filter(|parent| parent.parent().is_some());
            let parents = parents.map(|parent| parent.display().to_string());
            named.into_iter().chain(parents).chain([String::new()]).collect()
        };
        match self {
            Self::Layout(path, name) => ("oci", below(path, *name)),
            Self::OciArchive(path, name) => ("oci-archive", below(path, *name)),
            Self::DockerArchive => ("docker-archive", vec![String::new()]),
            Self::Dir(path) => ("dir", below(path, None)),
            Self::Store(name) => ("containers-storage", name.map_or_else(|| vec![String::new()], scopes_of)),
        }
    }
}

/// One signature of an image, not yet believed.
#[derive(Debug, Clone)]
pub(crate) struct Signature {
    payload: Vec<u8>,
    bytes: Vec<u8>,
}

impl Requirement {
    /// The outer result: the keys are usable. The inner: a signature fits, or why none does.
    fn judge(
        &self,
        reference: &Reference,
        digest: &Digest,
        found: &[Signature],
    ) -> Result<Result<(), String>, PolicyError> {
        let keys = self.keys()?;
        if found.is_empty() {
            return Ok(Err("it is not signed".to_owned()));
        }
        let mut reason = "no signature was made with the key".to_owned();
        for signature in found {
            if !keys.iter().any(|key| key.verifies(&signature.payload, &signature.bytes)) {
                continue;
            }
            match statement(&signature.payload) {
                Some((signed, _)) if signed != *digest => reason = format!("the signature is for {signed}"),
                Some((_, name)) if identity_fits(self.signed_identity.as_ref(), reference, &name) => return Ok(Ok(())),
                Some((_, name)) => reason = format!("the signature is for the name {name:.200}"),
                None => reason = "the signed statement is not valid".to_owned(),
            }
        }
        Ok(Err(reason))
    }

    fn keys(&self) -> Result<Vec<Key>, PolicyError> {
        let mut keys = Vec::new();
        for path in self.key_path.iter().chain(self.key_paths.iter().flatten()) {
            let bad = |reason: &str| PolicyError::File { path: path.clone(), reason: reason.to_owned() };
            keys.push(
                Key::parse(&read(path)?).ok_or_else(|| bad("it is not a PEM public key of ECDSA P-256 or Ed25519"))?,
            );
        }
        if let Some(data) = &self.key_data {
            let bad =
                || PolicyError::File { path: "keyData".into(), reason: "it is no base64 of a PEM public key".into() };
            let pem = decode(data).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad)?;
            keys.push(Key::parse(&pem).ok_or_else(bad)?);
        }
        if keys.is_empty() {
            let reason = "a sigstoreSigned rule needs keyPath, keyPaths or keyData".to_owned();
            return Err(PolicyError::File { path: "policy".into(), reason });
        }
        Ok(keys)
    }
}

/// A public key.
struct Key {
    algorithm: &'static dyn VerificationAlgorithm,
    point: Vec<u8>,
}

impl Key {
    /// Reads a PEM `PUBLIC KEY` (RFC 5280 SubjectPublicKeyInfo). The two algorithms have exactly one DER form each.
    fn parse(pem: &str) -> Option<Self> {
        const P256: &[u8] = &[
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        const ED: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        let body = pem.split_once("-----BEGIN PUBLIC KEY-----")?.1.split_once("-----END PUBLIC KEY-----")?.0;
        let der = decode(&body.chars().filter(|c| !c.is_whitespace()).collect::<String>())?;
        match (der.strip_prefix(P256), der.strip_prefix(ED)) {
            (Some(point), _) if point.len() == 65 => {
                Some(Self { algorithm: &ECDSA_P256_SHA256_ASN1, point: point.to_vec() })
            }
            (_, Some(point)) if point.len() == 32 => Some(Self { algorithm: &ED25519, point: point.to_vec() }),
            _ => None,
        }
    }

    fn verifies(&self, payload: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.point).verify(payload, signature).is_ok()
    }
}

/// The digest and the name a payload speaks of.
fn statement(payload: &[u8]) -> Option<(Digest, String)> {
    let document: serde_json::Value = serde_json::from_slice(payload).ok()?;
    let critical = document.get("critical")?;
    if critical.get("type")?.as_str()? != "cosign container image signature" {
        return None;
    }
    let digest = critical.pointer("/image/docker-manifest-digest")?.as_str()?.parse().ok()?;
    Some((digest, critical.pointer("/identity/docker-reference")?.as_str()?.to_owned()))
}

/// containers-policy.json "signedIdentity"; the default is `matchRepoDigestOrExact`.
fn identity_fits(identity: Option<&Identity>, reference: &Reference, signed: &str) -> bool {
    let Ok(named) = signed.parse::<Reference>() else { return false };
    // The tag must be signed too, unless the image was asked for by its digest.
    let exact = |name: &str| has_tag(signed) && named.tag() == reference.tag() && named.name() == name;
    let digest_or_exact = |name: &str| match reference.digest() {
        Some(_) => named.name() == name,
        None => exact(name),
    };
    let name = reference.name();
    let Some(identity) = identity else { return digest_or_exact(&name) };
    match identity.kind.as_str() {
        "matchExact" => exact(&name),
        "matchRepoDigestOrExact" => digest_or_exact(&name),
        "matchRepository" => named.name() == name,
        "exactReference" => identity.docker_reference.as_deref() == Some(signed),
        "exactRepository" => {
            let wanted = identity.docker_repository.as_deref().and_then(|text| text.parse::<Reference>().ok());
            wanted.is_some_and(|wanted| wanted.name() == named.name())
        }
        // The name is rewritten, and then the default rule applies.
        "remapIdentity" => {
            let (Some(prefix), Some(new)) = (&identity.prefix, &identity.signed_prefix) else { return false };
            let rest = name.strip_prefix(prefix.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/'));
            match rest {
                Some(rest) => digest_or_exact(&format!("{new}{rest}")),
                None => digest_or_exact(&name),
            }
        }
        _ => false,
    }
}

fn has_tag(signed: &str) -> bool {
    signed.rsplit('/').next().is_some_and(|last| last.split('@').next().is_some_and(|name| name.contains(':')))
}

/// Scopes of a reference, the most specific first: with tag or digest, repository, each namespace, host, `*.` parents.
fn scopes_of(reference: &Reference) -> Vec<String> {
    let name = reference.name();
    let mut scopes = vec![format!("{name}:{}", reference.tag().unwrap_or_default())];
    scopes.extend(reference.digest().map(|digest| format!("{name}@{digest}")));
    let mut path = name.as_str();
    loop {
        scopes.push(path.to_owned());
        match path.rsplit_once('/') {
            Some((parent, _)) => path = parent,
            None => break,
        }
    }
    let host = reference.registry().split(':').next().unwrap_or_default();
    let mut rest = host;
    while let Some((_, parent)) = rest.split_once('.') {
        scopes.push(format!("*.{parent}"));
        rest = parent;
    }
    scopes.push(String::new());
    scopes
}

/// cosign's two places: the tag `ALG-HEX.sig`, and referrers of the signature artifact type.
async fn signatures_of(digest: &Digest, repository: &Repository) -> remote::Result<Vec<Signature>> {
    let mut manifests = Vec::new();
    match repository.manifest(&format!("{}-{}.sig", digest.algorithm().name(), digest.hex())).await {
        Ok(manifest) => manifests.push(manifest),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    let fits =
        |one: &&Descriptor| one.artifact_type.as_deref() == Some(ARTIFACT_TYPE) && media::is_manifest(&one.media_type);
    // Registries that answer nonsense to an endpoint they do not know still have the tag.
    let referrers = repository.referrers(digest).await.unwrap_or_default();
    for referrer in referrers.iter().filter(fits).take(SIGNATURES_MAX) {
        manifests.push(repository.manifest(&referrer.digest.to_string()).await?);
    }
    let mut signatures = Vec::new();
    for layer in manifests.iter().filter_map(Manifest::image).flat_map(|image| &image.layers) {
        let Some(bytes) = layer.annotations.get(SIGNATURE).and_then(|text| decode(text)) else { continue };
        if layer.media_type != PAYLOAD_TYPE || layer.size > PAYLOAD_MAX || signatures.len() >= SIGNATURES_MAX {
            continue;
        }
        let payload = repository.small_blob(layer, PAYLOAD_MAX).await?.to_vec();
        signatures.push(Signature { payload, bytes });
    }
    Ok(signatures)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text.trim()).ok()
}

fn read(path: &Path) -> Result<String, PolicyError> {
    let bad = |reason: String| PolicyError::File { path: path.to_owned(), reason };
    let size = std::fs::metadata(path).map_err(|error| bad(error.to_string()))?.len();
    if size > FILE_MAX {
        return Err(bad(format!("it is larger than {FILE_MAX} bytes")));
    }
    std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};

    fn pem(prefix: &[u8], point: &[u8]) -> String {
        let der = [prefix, point].concat();
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    fn payload(digest: &Digest, name: &str) -> Vec<u8> {
        serde_json::json!({"critical": {"identity": {"docker-reference": name}, "image": {"docker-manifest-digest": digest.to_string()},
            "type": "cosign container image signature"}, "optional": null})
        .to_string()
        .into_bytes()
    }

    fn requirement(pem: &str, identity: &str) -> Requirement {
        let data = base64::engine::general_purpose::STANDARD.encode(pem);
        serde_json::from_str(&format!(r#"{{"type":"sigstoreSigned","keyData":"{data}"{identity}}}"#)).unwrap()
    }

    const REPOSITORY: &str = r#","signedIdentity":{"type":"matchRepository"}"#;

    #[test]
    fn signatures_of_both_algorithms_are_verified() {
        let random = ring::rand::SystemRandom::new();
        let digest = Digest::sha256(b"image");
        let reference: Reference = "r.example/a/b:1".parse().unwrap();
        let said = payload(&digest, "r.example/a/b");
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let ecdsa = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let prefix = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let key = pem(&prefix, ecdsa.public_key().as_ref());
        let good = Signature { payload: said.clone(), bytes: ecdsa.sign(&random, &said).unwrap().as_ref().to_vec() };
        let judge =
            |rule: &Requirement, digest: &Digest, all: &[Signature]| rule.judge(&reference, digest, all).unwrap();
        let rule = requirement(&key, REPOSITORY);
        assert_eq!(judge(&rule, &digest, std::slice::from_ref(&good)), Ok(()));
        assert!(
            judge(&rule, &Digest::sha256(b"other"), std::slice::from_ref(&good)).unwrap_err().contains("is for sha256")
        );
        assert!(judge(&rule, &digest, &[]).unwrap_err().contains("not signed"));
        // By default the tag must be signed too, which cosign does not do.
        assert!(
            judge(&requirement(&key, ""), &digest, std::slice::from_ref(&good)).unwrap_err().contains("for the name")
        );
        let mut forged = good.clone();
        forged.payload = payload(&digest, "r.example/a/c");
        assert!(judge(&rule, &digest, &[forged]).unwrap_err().contains("no signature was made with the key"));

        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let ed = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let key =
            pem(&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00], ed.public_key().as_ref());
        let signed = Signature { payload: said.clone(), bytes: ed.sign(&said).as_ref().to_vec() };
        assert_eq!(judge(&requirement(&key, REPOSITORY), &digest, &[good, signed]), Ok(()));
    }

    #[test]
    fn the_most_specific_scope_decides() {
        let policy: Policy = serde_json::from_str(
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{"r.example/a":[{"type":"insecureAcceptAnything"}],
                "*.corp.example":[{"type":"insecureAcceptAnything"}],"r.example/a/x:1":[{"type":"signedBy","keyType":"GPGKeys"}]}}}"#,
        )
        .unwrap();
        let scope = |text: &str| policy.rule("docker", scopes_of(&text.parse().unwrap())).0;
        assert_eq!(scope("r.example/a/b/c"), "r.example/a");
        assert_eq!(scope("r.example/a/x:1"), "r.example/a/x:1");
        assert_eq!(scope("r.example/b"), "default");
        assert_eq!(scope("x.y.corp.example:5000/b"), "*.corp.example");
    }

    #[test]
    fn a_remapped_name_must_be_signed_with_its_tag_as_any_other() {
        let identity: Identity =
            serde_json::from_str(r#"{"type":"remapIdentity","prefix":"mirror.example/x","signedPrefix":"r.example"}"#)
                .unwrap();
        let fits = |asked: &str, signed: &str| identity_fits(Some(&identity), &asked.parse().unwrap(), signed);
        assert!(fits("mirror.example/x/a:2", "r.example/a:2"));
        assert!(!fits("mirror.example/x/a:2", "r.example/a:1"), "an old tag's signature");
        assert!(!fits("mirror.example/x/a:2", "r.example/a"));
        let digest = format!("mirror.example/x/a@{}", Digest::sha256(b"a"));
        assert!(fits(&digest, "r.example/a:1"));
        assert!(!fits(&digest, "r.example/b:1"));
        assert!(fits("other.example/a:2", "other.example/a:2"));
        assert!(!fits("other.example/a:2", "other.example/a:1"));
    }

    #[test]
    fn an_unusable_policy_is_refused() {
        assert!(serde_json::from_str::<Policy>(r#"{"default":[{"type":"reject"}],"surprise":1}"#).is_err());
        assert!(Key::parse("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----").is_none());
    }
}
