//! What the registry refuses, in the words of distribution-spec "Error Codes": a code, a status, a JSON body.

use http::StatusCode;

/// The codes of the specification (and docker's three more that clients know).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The blob is unknown to this repository.
    BlobUnknown,
    /// The upload is not valid.
    BlobUploadInvalid,
    /// No such upload.
    BlobUploadUnknown,
    /// The digest is malformed or does not match.
    DigestInvalid,
    /// A manifest names a blob or manifest that this repository does not have.
    ManifestBlobUnknown,
    /// The manifest is not valid.
    ManifestInvalid,
    /// No such manifest.
    ManifestUnknown,
    /// The repository's name is not valid.
    NameInvalid,
    /// No such repository.
    NameUnknown,
    /// The tag is not valid.
    TagInvalid,
    /// A length or a range is not right.
    SizeInvalid,
    /// Credentials are needed.
    Unauthorized,
    /// The credentials do not allow this.
    Denied,
    /// The operation is not offered.
    Unsupported,
    /// Too much at once.
    TooManyRequests,
    /// The registry itself failed.
    Unknown,
}

impl Code {
    /// The code as it is written in the body.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::TagInvalid => "TAG_INVALID",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown
            | Self::BlobUploadUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown
            | Self::ManifestBlobUnknown => StatusCode::NOT_FOUND,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// One refusal.
#[derive(Debug)]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// The status; the code's own unless replaced.
    pub status: StatusCode,
    /// A sentence for people.
    pub message: String,
    /// Headers that belong to it (`Range`, `WWW-Authenticate`, `Allow` …).
    pub headers: Vec<(http::HeaderName, String)>,
    /// What the operator should read and no client: the failure of the host behind it.
    pub cause: Option<String>,
}

impl Refusal {
    /// Builds a refusal with the code's own status.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, status: code.status(), message: message.into(), headers: Vec::new(), cause: None }
    }

    /// Replaces the status.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: http::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The JSON body.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let one = serde_json::json!({"code": self.code.text(), "message": self.message, "detail": null});
        serde_json::json!({ "errors": [one] }).to_string().into_bytes()
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        // The disk's words may hold paths of this host; clients get the kind only, the operator all of it.
        let full = error.kind() == std::io::ErrorKind::StorageFull || error.kind() == std::io::ErrorKind::QuotaExceeded;
        if full {
            let refusal = Self::new(Code::Unknown, "the registry's disk is full");
            return Self { cause: Some(error.to_string()), ..refusal.status(StatusCode::INSUFFICIENT_STORAGE) };
        }
        let refusal = Self::new(Code::Unknown, format!("the registry failed: {}", error.kind()));
        Self { cause: Some(error.to_string()), ..refusal }
    }
}
