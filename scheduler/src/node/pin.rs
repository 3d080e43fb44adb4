//! What a tag means now, so that every instance of a service runs the same bytes. In: an image's name as a person wrote it. Out:
//! the name with the digest that its registry tells, else the one this node's store or the others' have under it; or the name
//! as it was and a warning. Nothing is fetched.

use super::api::view::PinView;
use super::blobs;
use crate::port::Containers;
use oci::{Digest, Reference};
use p2p::Mesh;
use std::sync::Arc;
use std::time::Duration;

/// How long a registry may take to say it: a person waits for the answer.
const REGISTRY_WITHIN: Duration = Duration::from_secs(4);
/// The registry of names that were never meant for one.
const NO_REGISTRY: &str = "localhost";

/// Returns the name with its digest. One that has a digest already, or is none, comes back as it is.
pub(crate) async fn pin(mesh: &Mesh, port: &Arc<dyn Containers>, image: &str) -> PinView {
    let Ok(reference) = image.parse::<Reference>() else { return kept(image, None) };
    if reference.digest().is_some() {
        return kept(image, None);
    }
    let why = match registry(port, &reference, image).await {
        Ok(digest) => return pinned(&reference, digest),
        Err(why) => why,
    };
    match held(mesh, port, image).await {
        Some(digest) => pinned(&reference, digest),
        None => kept(image, Some(&why)),
    }
}

/// Says whether an image can come from this mesh only.
pub(crate) fn names_no_registry(image: &str) -> bool {
    image.parse::<Reference>().is_ok_and(|reference| reference.registry() == NO_REGISTRY)
}

fn pinned(reference: &Reference, digest: Digest) -> PinView {
    PinView { image: reference.with_digest(digest).familiar(), warning: None }
}

/// Docker's warning, with the reason.
fn kept(image: &str, why: Option<&str>) -> PinView {
    let warning = why.map(|why| {
        format!(
            "image {image} could not be accessed on a registry to record its digest, and no node of the mesh holds it. Each node \
             will access {image} independently, possibly leading to different nodes running different versions of the image ({why})"
        )
    });
    PinView { image: image.to_owned(), warning }
}

async fn registry(port: &Arc<dyn Containers>, reference: &Reference, image: &str) -> Result<Digest, String> {
    if reference.registry() == NO_REGISTRY {
        return Err(format!("{NO_REGISTRY}/ names no registry"));
    }
    let (port, image) = (Arc::clone(port), image.to_owned());
    let asked = tokio::task::spawn_blocking(move || port.resolve(&image));
    match tokio::time::timeout(REGISTRY_WITHIN, asked).await {
        Ok(Ok(Ok(digest))) => digest.parse::<Digest>().map_err(|error| error.to_string()),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("its registry did not answer within {} s", REGISTRY_WITHIN.as_secs())),
    }
}

/// What this node's store has under the name, else what most of the others have.
async fn held(mesh: &Mesh, port: &Arc<dyn Containers>, image: &str) -> Option<Digest> {
    let (own, name) = (Arc::clone(port), image.to_owned());
    let here = tokio::task::spawn_blocking(move || own.holds(&name)).await.ok().flatten();
    let target = match here {
        Some(target) => target,
        None => blobs::held(mesh, image).await?,
    };
    digest_of(&target)
}

/// Reads the digest of a descriptor's JSON.
fn digest_of(target: &str) -> Option<Digest> {
    serde_json::from_str::<serde_json::Value>(target).ok()?["digest"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_name_keeps_its_tag_and_one_that_cannot_be_says_why() {
        let digest = Digest::sha256(b"x");
        let shown = |name: &str| pinned(&name.parse().unwrap(), digest).image;
        assert_eq!(shown("localhost/mesh:1"), format!("localhost/mesh:1@{digest}"));
        assert_eq!(shown("nginx"), format!("nginx:latest@{digest}"));
        assert_eq!(shown("10.0.0.1:5000/a/b:v2"), format!("10.0.0.1:5000/a/b:v2@{digest}"));
        let left = kept("a:1", Some("refused"));
        assert_eq!(left.image, "a:1");
        assert!(left.warning.unwrap().ends_with("versions of the image (refused)"));
    }

    #[test]
    fn a_descriptor_tells_its_digest() {
        let digest = Digest::sha256(b"x");
        assert_eq!(digest_of(&format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":1}}"#)), Some(digest));
        assert_eq!(digest_of("{"), None);
    }
}
