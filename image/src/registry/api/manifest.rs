//! Manifests: read by tag or digest, taken in once everything they name is there, removed.

use super::reply::{Reply, accepted, created, full, set, status, text, value};
use super::{DIGEST, Registry, SUBJECT, TAG};
use crate::registry::error::{Code, Refusal};
use crate::registry::route::{self, Name};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode};
use hyper::body::Body;
use oci::descriptor::Descriptor;
use oci::digest::{Algorithm, Digest};
use oci::manifest::{MANIFEST_BYTES_MAX, Manifest, media};

/// Tags that one manifest push by digest may set.
const TAGS_A_PUSH_MAX: usize = 10;

impl Registry {
    pub(super) fn find(&self, repository: &str, name: &Name) -> Result<Descriptor, Refusal> {
        let found = match name {
            Name::Tag(tag) => self.shelf.tag(repository, tag)?,
            Name::Digest(digest) => self.shelf.manifest(repository, digest)?,
        };
        found.ok_or_else(|| {
            if self.shelf.exists(repository) {
                Refusal::new(Code::ManifestUnknown, "no such manifest in this repository")
            } else {
                Refusal::new(Code::NameUnknown, "no such repository")
            }
        })
    }

    pub(super) fn manifest(&self, repository: &str, name: &Name, headers: &HeaderMap) -> Reply {
        let descriptor = self.find(repository, name)?;
        let raw = crate::source::read(&*self.shelf.blobs, &descriptor.digest, MANIFEST_BYTES_MAX)?
            .ok_or_else(|| Refusal::new(Code::ManifestUnknown, "no such manifest in this repository"))?;
        let etag = format!("\"{}\"", descriptor.digest);
        let unchanged = text(headers, &IF_NONE_MATCH).is_some_and(|all| all.split(',').any(|one| one.trim() == etag));
        let mut answer = status(if unchanged { StatusCode::NOT_MODIFIED } else { StatusCode::OK });
        let own = answer.headers_mut();
        set(own, DIGEST, &descriptor.digest.to_string());
        set(own, ETAG, &etag);
        set(own, CONTENT_TYPE, &descriptor.media_type);
        set(own, CONTENT_LENGTH, &raw.len().to_string());
        if !unchanged {
            *answer.body_mut() = full(raw.into());
        }
        Ok(answer)
    }

    pub(super) async fn put_manifest<B>(
        &self,
        repository: &str,
        name: Name,
        headers: &HeaderMap,
        query: &[(String, String)],
        body: B,
    ) -> Reply
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let raw = self.bounded(body, headers).await?;
        // By digest its algorithm decides; with a tag `?digest=` may name one, else sha256.
        let (expected, mut tags) = match name {
            Name::Digest(digest) => (Some(digest), Vec::new()),
            Name::Tag(tag) => (value(query, "digest").map(route::digest).transpose()?, vec![tag]),
        };
        for tag in query.iter().filter(|(name, _)| name == "tag").take(TAGS_A_PUSH_MAX) {
            tags.push(route::tag(&tag.1)?);
        }
        let algorithm = expected.map_or(Algorithm::Sha256, |digest| digest.algorithm());
        let declared =
            text(headers, &CONTENT_TYPE).map(|text| text.split(';').next().unwrap_or(text).trim().to_owned());
        let manifest = Manifest::parse_with(raw, declared.as_deref(), algorithm)
            .map_err(|error| Refusal::new(Code::ManifestInvalid, error.to_string()))?;
        if let Some(expected) = expected.filter(|expected| expected != manifest.digest()) {
            let message = format!("the manifest is {}, not {expected}", manifest.digest());
            return Err(Refusal::new(Code::DigestInvalid, message));
        }
        let subject = manifest.subject().map(|subject| subject.digest);
        let descriptor = self.off(|| self.shelve(repository, &manifest, subject.as_ref(), &tags)).await?;
        let mut answer = created(&format!("/v2/{repository}/manifests/{}", descriptor.digest), &descriptor.digest);
        if let Some(subject) = subject {
            set(answer.headers_mut(), SUBJECT, &subject.to_string());
        }
        for tag in &tags {
            if let Ok(value) = tag.parse() {
                answer.headers_mut().append(TAG, value);
            }
        }
        Ok(answer)
    }

    /// Stores a manifest and its tags, once everything it names is there.
    pub(super) fn shelve(
        &self,
        repository: &str,
        manifest: &Manifest,
        subject: Option<&Digest>,
        tags: &[String],
    ) -> Result<Descriptor, Refusal> {
        self.check_children(repository, manifest)?;
        let mut descriptor = manifest.descriptor();
        descriptor.platform = None;
        descriptor.artifact_type = manifest.artifact_type().map(str::to_owned);
        descriptor.annotations = manifest.annotations().clone();
        let stays = self.shelf.put_tagged(repository, &descriptor, manifest.raw(), subject, tags, !self.fixed_tags)?;
        match stays {
            None => Ok(descriptor),
            Some(tag) => {
                let message = format!("tag {tag} names another manifest, and tags of this registry do not move");
                Err(Refusal::new(Code::Denied, message).status(StatusCode::CONFLICT))
            }
        }
    }

    /// Every blob and manifest that a manifest names must be in the repository; its subject need not.
    fn check_children(&self, repository: &str, manifest: &Manifest) -> Result<(), Refusal> {
        for child in manifest.children() {
            // Layers from elsewhere may stay elsewhere.
            if media::is_foreign_layer(&child.media_type) || (!child.urls.is_empty() && manifest.image().is_some()) {
                continue;
            }
            let there = if manifest.index().is_some() {
                self.shelf.manifest(repository, &child.digest)?.is_some()
                    || self.shelf.blob(repository, &child.digest)?.is_some()
            } else {
                match self.shelf.renew_blob(repository, &child.digest)? {
                    Some(size) if size != child.size => {
                        let message = format!("{} has {size} bytes, the manifest says {}", child.digest, child.size);
                        return Err(Refusal::new(Code::ManifestInvalid, message));
                    }
                    found => found.is_some(),
                }
            };
            if !there {
                let message = format!("{} is not in this repository: push it first", child.digest);
                return Err(Refusal::new(Code::ManifestBlobUnknown, message));
            }
        }
        Ok(())
    }

    pub(super) fn delete_manifest(&self, repository: &str, name: &Name) -> Reply {
        let descriptor = self.find(repository, name)?;
        match name {
            Name::Tag(tag) => {
                self.shelf.delete_tag(repository, tag)?;
            }
            Name::Digest(digest) => {
                let raw = crate::source::read(&*self.shelf.blobs, digest, MANIFEST_BYTES_MAX)?.unwrap_or_default();
                let parsed = Manifest::parse_with(raw, Some(&descriptor.media_type), digest.algorithm()).ok();
                let subject = parsed.as_ref().and_then(|manifest| manifest.subject()).map(|subject| subject.digest);
                self.shelf.delete_manifest(repository, digest, subject.as_ref())?;
            }
        }
        accepted()
    }
}
