//! Digests of blobs, small blobs, and the resource names under which blobs are uploaded and
//! downloaded. No I/O.

use crate::release::digest::BlobDigests;
use bazel_remote_apis::build::bazel::remote::execution::v2 as api;

/// The digest function of all blobs.
pub(super) const SHA256: i32 = api::digest_function::Value::Sha256 as i32;

/// The digest of a blob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    pub sha256: String,
    /// The length of the blob in bytes.
    pub size: u64,
}

impl Digest {
    pub(crate) fn of(data: &[u8]) -> Self {
        Self {
            sha256: BlobDigests::of(data).sha256().to_owned(),
            size: data.len() as u64,
        }
    }

    pub(crate) fn message(&self) -> api::Digest {
        api::Digest {
            hash: self.sha256.clone(),
            size_bytes: i64::try_from(self.size).unwrap_or(i64::MAX),
        }
    }

    /// Converts the digest of a message; `None` if it is not a SHA-256 with a size.
    pub(crate) fn parse(message: &api::Digest) -> Option<Self> {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_sha256 = message.hash.len() == 64 && message.hash.bytes().all(is_digit);
        let size = u64::try_from(message.size_bytes).ok()?;
        is_sha256.then(|| Self {
            sha256: message.hash.clone(),
            size,
        })
    }

    /// The resource name for downloading the blob.
    pub(super) fn download(&self, instance: &str) -> String {
        let Self { sha256, size } = self;
        format!("{}blobs/{sha256}/{size}", prefix(instance))
    }

    /// A new resource name for uploading the blob. Each upload needs its own name.
    pub(super) fn upload(&self, instance: &str) -> String {
        let Self { sha256, size } = self;
        let id = uuid::Uuid::new_v4();
        format!("{}uploads/{id}/blobs/{sha256}/{size}", prefix(instance))
    }
}

fn prefix(instance: &str) -> String {
    match instance {
        "" => String::new(),
        name => format!("{name}/"),
    }
}

/// A blob that is small enough to be kept in memory, and its digest.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub digest: Digest,
    pub data: Vec<u8>,
}

impl Blob {
    pub(crate) fn new(data: Vec<u8>) -> Self {
        Self {
            digest: Digest::of(&data),
            data,
        }
    }

    pub(super) fn into_request(self) -> api::batch_update_blobs_request::Request {
        api::batch_update_blobs_request::Request {
            digest: Some(self.digest.message()),
            data: self.data,
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_names_begin_with_the_instance() {
        let digest = Digest {
            sha256: "ab".to_owned(),
            size: 1,
        };
        assert_eq!(digest.download(""), "blobs/ab/1");
        assert_eq!(digest.download("team/a"), "team/a/blobs/ab/1");
        let name = digest.upload("team");
        assert!(name.starts_with("team/uploads/") && name.ends_with("/blobs/ab/1"));
        assert!(digest.upload("").starts_with("uploads/"));
    }

    #[test]
    fn digest_of_a_message_is_checked() {
        let digest = Digest::of(b"x");
        assert_eq!(Digest::parse(&digest.message()), Some(digest.clone()));
        for (hash, size_bytes) in [
            (digest.sha256.clone(), -1),
            (digest.sha256[1..].to_owned(), 1),
            (digest.sha256.to_uppercase(), 1),
            ("/".repeat(64), 1),
        ] {
            assert_eq!(Digest::parse(&api::Digest { hash, size_bytes }), None);
        }
    }
}
