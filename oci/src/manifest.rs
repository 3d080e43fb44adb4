//! Manifests and indexes, OCI's and docker's schema 2, as typed views next to their raw bytes.
//!
//! In: bytes and the media type that someone declared for them. Out: a [`Manifest`] that is one thing and not two. The
//! bytes are never re-encoded: what is pushed or saved is what came in, so digests stay.

use crate::descriptor::Descriptor;
use crate::digest::{Algorithm, Digest};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The largest manifest or index that is read, in bytes: distribution-spec's minimum that registries accept.
pub const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Media types by their specification's names.
pub mod media {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, plain tar.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// OCI layer that need not be pushed, plain tar.
    pub const OCI_LAYER_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    /// OCI layer that need not be pushed, gzip.
    pub const OCI_LAYER_FOREIGN_GZIP: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    /// OCI layer that need not be pushed, zstd.
    pub const OCI_LAYER_FOREIGN_ZSTD: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
    /// The empty JSON object.
    pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// Docker manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer, plain tar.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer, zstd.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
    /// Docker layer that lives elsewhere.
    pub const DOCKER_LAYER_FOREIGN_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    /// Docker layer that lives elsewhere, plain.
    pub const DOCKER_LAYER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
    /// Docker manifest, schema 1: too old, and not self-describing. Known only to be refused clearly.
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
    /// Docker manifest, schema 1, signed.
    pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// Every type of manifest and index that is accepted from a registry, preferred first.
    pub const MANIFESTS: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

    /// Whether this type is a manifest of one image or artifact.
    #[must_use]
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether this type is an index or a manifest list.
    #[must_use]
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, OCI_INDEX | DOCKER_LIST)
    }

    /// Whether this type is a file-system layer that this program can unpack.
    #[must_use]
    pub fn is_layer(media_type: &str) -> bool {
        matches!(
            media_type,
            OCI_LAYER | OCI_LAYER_GZIP | OCI_LAYER_ZSTD | DOCKER_LAYER | DOCKER_LAYER_GZIP | DOCKER_LAYER_ZSTD
        ) || is_foreign_layer(media_type)
    }

    /// Whether this type is a layer that may have to be fetched from its own URLs and need not be pushed.
    #[must_use]
    pub fn is_foreign_layer(media_type: &str) -> bool {
        matches!(
            media_type,
            OCI_LAYER_FOREIGN
                | OCI_LAYER_FOREIGN_GZIP
                | OCI_LAYER_FOREIGN_ZSTD
                | DOCKER_LAYER_FOREIGN
                | DOCKER_LAYER_FOREIGN_GZIP
        )
    }

    /// Whether this type is an image config.
    #[must_use]
    pub fn is_image_config(media_type: &str) -> bool {
        matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
    }
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Larger than [`MANIFEST_BYTES_MAX`].
    #[error("manifest has {bytes} bytes, more than the {MANIFEST_BYTES_MAX} that are accepted")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// Not JSON, or not of the shape its type demands.
    #[error("manifest {digest} is not valid")]
    Json {
        /// The digest of the bytes.
        digest: Digest,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
    /// Another schema.
    #[error(
        "manifest {digest} has schemaVersion {version}: only 2 is supported (docker schema 1 images must be re-pushed by a current tool)"
    )]
    Schema {
        /// The digest of the bytes.
        digest: Digest,
        /// What it says.
        version: String,
    },
    /// Declared as one type, calls itself another.
    #[error("manifest {digest} was declared as {declared} but says it is {embedded}")]
    TypeMismatch {
        /// The digest of the bytes.
        digest: Digest,
        /// The type from the outside (a header or a descriptor).
        declared: String,
        /// The type in the document.
        embedded: String,
    },
    /// Could be read as a manifest and as an index.
    #[error("manifest {digest} has both \"{first}\" and \"{second}\": it could be read in two ways and is refused")]
    Ambiguous {
        /// The digest of the bytes.
        digest: Digest,
        /// One telling field.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A type that is neither manifest nor index.
    #[error("manifest {digest} has the media type \"{media_type}\", which is neither an image manifest nor an index")]
    UnknownType {
        /// The digest of the bytes.
        digest: Digest,
        /// The type.
        media_type: String,
    },
    /// A descriptor in it has no media type.
    #[error("manifest {digest} has a descriptor without mediaType ({child})")]
    UntypedChild {
        /// The digest of the bytes.
        digest: Digest,
        /// The digest in the descriptor.
        child: String,
    },
}

/// One image (or artifact): a config and layers. image-spec manifest.md; docker's schema 2 has the same shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    /// Always 2.
    pub schema_version: u32,
    /// What the document calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The kind of artifact, when it is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, base first.
    #[serde(deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Fields that this version does not know; kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Several manifests, one a platform. image-spec image-index.md; docker's manifest list has the same shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageIndex {
    /// Always 2.
    pub schema_version: u32,
    /// What the document calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The kind of artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests, in the publisher's order of preference.
    #[serde(deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest this index says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Fields that this version does not know; kept.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl ImageIndex {
    /// An index that holds `manifests` and nothing else.
    #[must_use]
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media::OCI_INDEX.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            extra: Map::new(),
        }
    }

    /// The manifest that fits `platform` best. Entries that are no image manifest or index are passed over, and so are
    /// attestations (platform `unknown/unknown`).
    #[must_use]
    pub fn select(&self, platform: &crate::Platform) -> Option<&Descriptor> {
        let candidates: Vec<&Descriptor> = self
            .manifests
            .iter()
            .filter(|child| media::is_manifest(&child.media_type) || media::is_index(&child.media_type))
            .collect();
        platform.best(candidates.iter().map(|child| child.platform.as_ref())).map(|index| candidates[index])
    }
}

impl ImageManifest {
    /// A manifest of an image with nothing optional.
    #[must_use]
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        let docker = config.media_type == media::DOCKER_CONFIG;
        Self {
            schema_version: 2,
            media_type: Some(if docker { media::DOCKER_MANIFEST } else { media::OCI_MANIFEST }.to_owned()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
            extra: Map::new(),
        }
    }

    /// Whether this is a file-system image, as opposed to some other artifact.
    #[must_use]
    pub fn is_image(&self) -> bool {
        media::is_image_config(&self.config.media_type)
    }
}

/// What a document is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image or artifact.
    Manifest(Box<ImageManifest>),
    /// Several.
    Index(Box<ImageIndex>),
}

/// A manifest or index: the bytes, their digest and type, and the typed view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    raw: Vec<u8>,
    digest: Digest,
    media_type: String,
    document: Document,
}

impl Manifest {
    /// Reads `raw`. `declared` is the type that a header or descriptor gave, if any; it must agree with the document.
    pub fn parse(raw: Vec<u8>, declared: Option<&str>) -> Result<Self, ManifestError> {
        Self::parse_with(raw, declared, Algorithm::Sha256)
    }

    /// Like [`Self::parse`], identified by another algorithm's digest.
    pub fn parse_with(raw: Vec<u8>, declared: Option<&str>, algorithm: Algorithm) -> Result<Self, ManifestError> {
        if raw.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge { bytes: raw.len() as u64 });
        }
        let digest = Digest::of(algorithm, &raw);
        let json = |source| ManifestError::Json { digest, source };
        let shape: Shape = serde_json::from_slice(&raw).map_err(json)?;
        if shape.schema_version != 2 {
            return Err(ManifestError::Schema { digest, version: shape.schema_version.to_string() });
        }
        shape.refuse_two_readings(digest)?;
        // A Content-Type may carry parameters: `…+json; charset=utf-8`.
        let declared = declared.map(|text| text.split(';').next().unwrap_or_default().trim()).filter(|t| !t.is_empty());
        let declared = declared.filter(|text| media::is_manifest(text) || media::is_index(text));
        let media_type = match (declared, shape.media_type.as_deref().filter(|text| !text.is_empty())) {
            (Some(declared), Some(embedded)) if declared != embedded => {
                return Err(ManifestError::TypeMismatch {
                    digest,
                    declared: declared.to_owned(),
                    embedded: embedded.to_owned(),
                });
            }
            (_, Some(text)) | (Some(text), None) => text.to_owned(),
            // image-spec: mediaType SHOULD be there; early OCI documents have none.
            (None, None) if shape.manifests.is_some() => media::OCI_INDEX.to_owned(),
            (None, None) => media::OCI_MANIFEST.to_owned(),
        };
        let document = if media::is_manifest(&media_type) {
            Document::Manifest(serde_json::from_slice(&raw).map_err(json)?)
        } else if media::is_index(&media_type) {
            Document::Index(Box::new(serde_json::from_slice(&raw).map_err(json)?))
        } else {
            return Err(ManifestError::UnknownType { digest, media_type });
        };
        let manifest = Self { raw, digest, media_type, document };
        let untyped =
            manifest.children().find(|child| child.media_type.is_empty()).map(|child| child.digest.to_string());
        match untyped {
            Some(child) => Err(ManifestError::UntypedChild { digest, child }),
            None => Ok(manifest),
        }
    }

    /// The bytes as they came in.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The digest of the bytes.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The media type.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The typed view.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The image manifest, unless it is an index.
    #[must_use]
    pub fn image(&self) -> Option<&ImageManifest> {
        match &self.document {
            Document::Manifest(manifest) => Some(manifest),
            Document::Index(_) => None,
        }
    }

    /// The index, unless it is an image manifest.
    #[must_use]
    pub fn index(&self) -> Option<&ImageIndex> {
        match &self.document {
            Document::Index(index) => Some(index),
            Document::Manifest(_) => None,
        }
    }

    /// The manifest or index that this one refers to as its subject.
    #[must_use]
    pub fn subject(&self) -> Option<&Descriptor> {
        match &self.document {
            Document::Manifest(manifest) => manifest.subject.as_ref(),
            Document::Index(index) => index.subject.as_ref(),
        }
    }

    /// The kind of artifact as distribution-spec's referrers API reports it: `artifactType`, else the config's media type.
    #[must_use]
    pub fn artifact_type(&self) -> Option<&str> {
        match &self.document {
            Document::Manifest(manifest) => {
                Some(manifest.artifact_type.as_deref().unwrap_or(&manifest.config.media_type))
            }
            Document::Index(index) => index.artifact_type.as_deref(),
        }
    }

    /// Annotations of the document.
    #[must_use]
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        match &self.document {
            Document::Manifest(manifest) => &manifest.annotations,
            Document::Index(index) => &index.annotations,
        }
    }

    /// Everything this document needs: config then layers, or the manifests of an index. Not the subject.
    pub fn children(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, rest) = match &self.document {
            Document::Manifest(manifest) => (Some(&manifest.config), &manifest.layers),
            Document::Index(index) => (None, &index.manifests),
        };
        config.into_iter().chain(rest)
    }

    /// A descriptor of this document.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest, self.raw.len() as u64)
    }
}

/// The fields that tell what a document is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    schema_version: Value,
    #[serde(default)]
    media_type: Option<String>,
    config: Option<Value>,
    layers: Option<Value>,
    manifests: Option<Value>,
    fs_layers: Option<Value>,
}

impl Shape {
    /// Refuses documents that two readers could take for two things (CVE-2021-41190).
    fn refuse_two_readings(&self, digest: Digest) -> Result<(), ManifestError> {
        let pairs = [
            ("manifests", &self.manifests, "config", &self.config),
            ("manifests", &self.manifests, "layers", &self.layers),
            ("fsLayers", &self.fs_layers, "layers", &self.layers),
            ("fsLayers", &self.fs_layers, "manifests", &self.manifests),
        ];
        for (first, a, second, b) in pairs {
            if a.is_some() && b.is_some() {
                return Err(ManifestError::Ambiguous { digest, first, second });
            }
        }
        Ok(())
    }
}

/// Reads `null` as the empty value: Go writes it for an empty slice or map.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:b5b2b2c507a0944348e0303114d8d93aaaa081732b86451d9bce1f432a537bc7","size":7023}"#;
    const LAYER: &str = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0","size":32654}"#;

    fn manifest(extra: &str) -> Vec<u8> {
        format!(r#"{{"schemaVersion":2,{extra}"config":{CONFIG},"layers":[{LAYER}]}}"#).into_bytes()
    }

    #[test]
    fn a_manifest_keeps_its_bytes_and_shows_its_parts() {
        let raw = manifest(r#""mediaType":"application/vnd.oci.image.manifest.v1+json", "unknown": [1],"#);
        let parsed = Manifest::parse(raw.clone(), Some(media::OCI_MANIFEST)).unwrap();
        assert_eq!(parsed.raw(), raw);
        assert_eq!(parsed.digest(), &Digest::sha256(&raw));
        assert_eq!(parsed.children().count(), 2);
        assert!(parsed.image().unwrap().is_image());
        assert_eq!(parsed.artifact_type(), Some(media::OCI_CONFIG));
        assert_eq!(parsed.descriptor().size, raw.len() as u64);
    }

    #[test]
    fn documents_without_media_type_are_told_by_their_shape() {
        assert_eq!(Manifest::parse(manifest(""), None).unwrap().media_type(), media::OCI_MANIFEST);
        assert_eq!(Manifest::parse(manifest(""), Some("application/json")).unwrap().media_type(), media::OCI_MANIFEST);
        let index = br#"{"schemaVersion":2,"manifests":null}"#.to_vec();
        assert_eq!(Manifest::parse(index.clone(), Some(media::DOCKER_LIST)).unwrap().media_type(), media::DOCKER_LIST);
        let index = br#"{"schemaVersion":2,"manifests":[]}"#.to_vec();
        assert_eq!(Manifest::parse(index, None).unwrap().media_type(), media::OCI_INDEX);
    }

    #[test]
    fn type_confusion_is_refused() {
        let both = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"manifests":[]}}"#).into_bytes();
        assert!(matches!(Manifest::parse(both, None), Err(ManifestError::Ambiguous { .. })));
        let old = br#"{"schemaVersion":2,"manifests":[],"fsLayers":[]}"#.to_vec();
        assert!(matches!(Manifest::parse(old, None), Err(ManifestError::Ambiguous { .. })));
        assert!(matches!(
            Manifest::parse(manifest(r#""mediaType":"application/vnd.oci.image.index.v1+json","#), None),
            Err(ManifestError::Json { .. })
        ));
        assert!(matches!(
            Manifest::parse(
                manifest(r#""mediaType":"application/vnd.oci.image.manifest.v1+json","#),
                Some(media::DOCKER_MANIFEST)
            ),
            Err(ManifestError::TypeMismatch { .. })
        ));
        assert!(matches!(
            Manifest::parse(manifest(r#""mediaType":"text/plain","#), None),
            Err(ManifestError::UnknownType { .. })
        ));
        let twice = manifest(r#""config":{},"#);
        assert!(Manifest::parse(twice, None).is_err());
        let schema1 = br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec();
        assert!(matches!(Manifest::parse(schema1, None), Err(ManifestError::Schema { .. })));
        let huge = vec![b' '; usize::try_from(MANIFEST_BYTES_MAX).unwrap() + 1];
        assert!(matches!(Manifest::parse(huge, None), Err(ManifestError::TooLarge { .. })));
    }

    #[test]
    fn an_index_selects_by_platform_and_passes_over_attestations() {
        let child = |hex: char, platform: &str| {
            let digest = format!("sha256:{}", hex.to_string().repeat(64)).parse().unwrap();
            let mut descriptor = Descriptor::new(media::OCI_MANIFEST, digest, 1);
            descriptor.platform = Some(serde_json::from_str(platform).unwrap());
            descriptor
        };
        let index = ImageIndex::new(vec![
            child('a', r#"{"os":"unknown","architecture":"unknown"}"#),
            child('b', r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#),
            child('c', r#"{"os":"linux","architecture":"amd64"}"#),
        ]);
        let pick = |text: &str| index.select(&text.parse().unwrap()).map(|child| child.digest.short());
        assert_eq!(pick("linux/amd64").as_deref(), Some("cccccccccccc"));
        assert_eq!(pick("linux/arm64").as_deref(), Some("bbbbbbbbbbbb"));
        assert_eq!(pick("linux/s390x"), None);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(512))]
        #[test]
        fn damaged_documents_are_one_thing_or_refused(
            which in 0usize..2,
            damage in proptest::collection::vec(
                (proptest::prelude::any::<proptest::sample::Index>(), proptest::sample::select(b"{}[]\",:019aAs-/ nul\\".to_vec())), 0..6),
            declared in proptest::option::of(proptest::sample::select(media::MANIFESTS.to_vec())),
        ) {
            let digest = Digest::sha256(b"x");
            let blob = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":7}}"#);
            let mut raw = match which {
                0 => format!(
                    r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
                    media::OCI_MANIFEST, blob(media::OCI_CONFIG), blob(media::OCI_LAYER_GZIP)
                ),
                _ => format!(
                    r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#,
                    media::OCI_INDEX, blob(media::OCI_MANIFEST)
                ),
            }
            .into_bytes();
            for (place, byte) in damage {
                let place = place.index(raw.len());
                raw[place] = byte;
            }
            if let Ok(manifest) = Manifest::parse(raw.clone(), declared) {
                proptest::prop_assert_eq!(manifest.raw(), raw.as_slice());
                proptest::prop_assert!(manifest.digest().matches(&raw));
                proptest::prop_assert_ne!(manifest.image().is_some(), manifest.index().is_some());
                if let Some(declared) = declared {
                    proptest::prop_assert_eq!(manifest.media_type(), declared);
                }
            }
        }
    }
}
