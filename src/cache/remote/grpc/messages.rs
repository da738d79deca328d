//! What is stored for a package on a server of the Remote Execution API, and under which digest. Pure.
//!
//! The action of a package has no inputs. Its command, which is never run, is `bosh-agent package NAME KEY`, so that the digest of the
//! action follows from name and key. The standard output of its result is the description of the package, as in a local cache. The
//! files of the package are output files, so that servers keep them as long as the result.

use bazel_remote_apis::build::bazel::remote::execution::v2 as api;
use prost::Message as _;

use crate::cache::entry::{Content, Entry};
use crate::cache::key::Key;
use crate::release::digest::BlobDigests;

/// The digest function of all blobs.
pub(super) const SHA256: i32 = api::digest_function::Value::Sha256 as i32;

/// A small blob.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub sha256: String,
    pub data: Vec<u8>,
}

impl Blob {
    pub(super) fn new(data: Vec<u8>) -> Self {
        Self {
            sha256: BlobDigests::of(&data).sha256().to_owned(),
            data,
        }
    }

    pub(super) fn digest(&self) -> api::Digest {
        api::Digest {
            hash: self.sha256.clone(),
            size_bytes: signed(self.data.len() as u64),
        }
    }

    pub(super) fn into_request(self) -> api::batch_update_blobs_request::Request {
        api::batch_update_blobs_request::Request {
            digest: Some(self.digest()),
            data: self.data,
            ..Default::default()
        }
    }
}

/// The action of a package, and its command.
pub(super) fn action(name: &str, key: &Key) -> [Blob; 2] {
    let command = api::Command {
        arguments: ["bosh-agent", "package", name, key.as_str()]
            .map(str::to_owned)
            .into(),
        ..Default::default()
    };
    let command = Blob::new(command.encode_to_vec());
    let action = api::Action {
        command_digest: Some(command.digest()),
        input_root_digest: Some(Blob::new(Vec::new()).digest()),
        ..Default::default()
    };
    [Blob::new(action.encode_to_vec()), command]
}

/// The result of a package's action. `text` is its description.
pub(super) fn result(entry: &Entry, text: &Blob) -> api::ActionResult {
    let file = |path: &str, digest| api::OutputFile {
        path: path.to_owned(),
        digest: Some(digest),
        ..Default::default()
    };
    let log = entry.log.as_ref().map(|log| file("log", digest(log)));
    let files = std::iter::once(file("package", digest(&entry.blob))).chain(log);
    api::ActionResult {
        output_files: files.collect(),
        stdout_raw: text.data.clone(),
        stdout_digest: Some(text.digest()),
        ..Default::default()
    }
}

pub(super) fn digest(content: &Content) -> api::Digest {
    api::Digest {
        hash: content.sha256.clone(),
        size_bytes: signed(content.size),
    }
}

/// The name of a blob for a download.
pub(super) fn download(instance: &str, sha256: &str, size: u64) -> String {
    format!("{}blobs/{sha256}/{size}", prefix(instance))
}

/// A new name of a blob for an upload.
pub(super) fn upload(instance: &str, sha256: &str, size: u64) -> String {
    let id = uuid::Uuid::new_v4();
    format!("{}uploads/{id}/blobs/{sha256}/{size}", prefix(instance))
}

fn prefix(instance: &str) -> String {
    match instance {
        "" => String::new(),
        name => format!("{name}/"),
    }
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_a_known_action_never_changes() {
        // It does not depend on the format of keys.
        let key = "bda7793394ba3ef18e6a14003471799a4f6fd789b0f941fabdd235dba85bb056";
        let [action, command] = action("app", &Key::parse(key).unwrap());
        assert_eq!(
            (action.sha256.as_str(), command.sha256.as_str()),
            (
                "bcee838d0343b27cbba5bb1c17eae3e2ef1a6cf14880ad9af80c4dfd6c434047",
                "1030efc556a09b0ca2c25e013e9d93410fbb60f098bd206d99047afb761702ab"
            )
        );
    }

    #[test]
    fn resource_names_begin_with_the_instance() {
        assert_eq!(download("", "ab", 1), "blobs/ab/1");
        assert_eq!(download("team/a", "ab", 1), "team/a/blobs/ab/1");
        let name = upload("team", "ab", 1);
        assert!(name.starts_with("team/uploads/") && name.ends_with("/blobs/ab/1"));
        assert!(upload("", "ab", 1).starts_with("uploads/"));
    }
}
