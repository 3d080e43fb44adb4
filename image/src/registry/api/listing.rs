//! What a repository holds, page by page: the catalogue, tags, referrers.

use super::reply::{Reply, document, json, set, value, with_link};
use super::{FILTERS, Registry};
use crate::registry::error::{Code, Refusal};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use oci::digest::Digest;
use oci::manifest::media;

/// Names listed in one answer when the client asks for more or says nothing.
const PAGE_MAX: usize = 1000;
/// Bytes of one referrers answer (a registry paginates rather than sends more than a manifest's size).
const REFERRERS_BYTES_MAX: usize = 4 << 20;

impl Registry {
    pub(super) fn catalog(&self, query: &[(String, String)]) -> Reply {
        let (page, next) = page(self.shelf.repositories()?, query, "/v2/_catalog")?;
        Ok(with_link(json(StatusCode::OK, document(&serde_json::json!({ "repositories": page }))), next))
    }

    pub(super) fn tags(&self, repository: &str, query: &[(String, String)]) -> Reply {
        if !self.shelf.exists(repository) {
            return Err(Refusal::new(Code::NameUnknown, "no such repository"));
        }
        let (page, next) = page(self.shelf.tags(repository)?, query, &format!("/v2/{repository}/tags/list"))?;
        Ok(with_link(json(StatusCode::OK, document(&serde_json::json!({ "name": repository, "tags": page }))), next))
    }

    pub(super) fn referrers(&self, repository: &str, subject: &Digest, query: &[(String, String)]) -> Reply {
        let wanted = value(query, "artifactType");
        let mut all = self.shelf.referrers(repository, subject)?;
        if let Some(wanted) = wanted {
            all.retain(|descriptor| descriptor.artifact_type.as_deref() == Some(wanted));
        }
        if let Some(last) = value(query, "last") {
            all.retain(|descriptor| descriptor.digest.to_string().as_str() > last);
        }
        all.sort_by_key(|descriptor| descriptor.digest.to_string());
        // Pages are cut by bytes, as the specification asks.
        let mut bytes = 0;
        let fits = all.iter().take_while(|descriptor| {
            bytes += document(&serde_json::json!(descriptor)).len() + 1;
            bytes < REFERRERS_BYTES_MAX
        });
        let count = fits.count().max(1).min(all.len());
        let next = (count < all.len()).then(|| {
            let mut next = url::form_urlencoded::Serializer::new(String::new());
            next.append_pair("last", &all[count - 1].digest.to_string());
            if let Some(wanted) = wanted {
                next.append_pair("artifactType", wanted);
            }
            format!("/v2/{repository}/referrers/{subject}?{}", next.finish())
        });
        all.truncate(count);
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": all});
        let mut answer = with_link(json(StatusCode::OK, document(&index)), next);
        set(answer.headers_mut(), CONTENT_TYPE, media::OCI_INDEX);
        if wanted.is_some() {
            set(answer.headers_mut(), FILTERS, "artifactType");
        }
        Ok(answer)
    }
}

/// distribution-spec "Listing Tags": "the tags MUST be in lexical order (i.e. case-insensitive alphanumeric order)". Names
/// that differ in case alone are told apart by their bytes, so that `last` names one place.
fn lexical(name: &str) -> (String, &str) {
    (name.to_ascii_lowercase(), name)
}

/// Sorts a list, cuts it by `n` and `last`, and names the next page.
fn page(
    mut all: Vec<String>,
    query: &[(String, String)],
    path: &str,
) -> Result<(Vec<String>, Option<String>), Refusal> {
    let asked = match value(query, "n") {
        Some(text) => {
            let refusal = || Refusal::new(Code::Unsupported, "n must be a number");
            text.parse::<usize>().map_err(|_| refusal().status(StatusCode::BAD_REQUEST))?
        }
        None => PAGE_MAX,
    };
    if let Some(last) = value(query, "last") {
        all.retain(|name| lexical(name) > lexical(last));
    }
    all.sort_by(|one, other| lexical(one).cmp(&lexical(other)));
    let count = asked.min(PAGE_MAX);
    let next = (count > 0 && count < all.len()).then(|| {
        let mut next = url::form_urlencoded::Serializer::new(String::new());
        next.append_pair("n", &count.to_string()).append_pair("last", &all[count - 1]);
        format!("{path}?{}", next.finish())
    });
    all.truncate(count);
    Ok((all, next))
}
