//! Parses the arguments of the methods `ssh`, `upload_blob`, `remove_file`, `sync_dns`,
//! `sync_dns_with_signed_url`, `delete_arp_entries` and `run_script`. No I/O.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::arguments::{ArgumentError, first, get, object, parsed, text, texts};
use crate::blobs::{BlobId, Headers, SignedUrl};
use crate::machine::bootstrap::{LOGS_BUNDLE, TEMPORARY};
use crate::release::MultiDigest;

/// The arguments of `ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshRequest {
    /// Creates a user.
    Setup {
        /// The name of the user.
        user: String,
        /// The public key with which the user logs in.
        key: String,
    },
    /// Removes users.
    Cleanup {
        /// A regular expression for the names of the users.
        pattern: String,
    },
    /// A command that does not exist.
    Unknown,
}

impl SshRequest {
    /// Parses the arguments: command, parameters.
    ///
    /// # Errors
    /// If the arguments are invalid.
    pub fn parse(arguments: &[Value]) -> Result<Self, ArgumentError> {
        let [command, parameters] = first(arguments)?;
        let nothing = Map::new();
        let parameters = object(parameters, "ssh")?.unwrap_or(&nothing);
        let parameter =
            |name| Ok::<_, ArgumentError>(text(get(parameters, name), name)?.to_owned());
        Ok(match text(command, "command")? {
            "setup" => Self::Setup {
                user: parameter("user")?,
                key: parameter("public_key")?,
            },
            "cleanup" => Self::Cleanup {
                pattern: parameter("user_regex")?,
            },
            _ => Self::Unknown,
        })
    }
}

/// The argument of `upload_blob`.
#[derive(Clone, PartialEq, Eq)]
pub struct UploadedBlob {
    /// The ID of the blob.
    pub id: BlobId,
    /// The digest of the contents.
    pub digest: MultiDigest,
    /// The contents, which may be a secret.
    pub contents: Vec<u8>,
}

impl fmt::Debug for UploadedBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadedBlob")
            .field("id", &self.id)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl UploadedBlob {
    /// Parses the argument.
    ///
    /// # Errors
    /// If it is invalid. The text contains no part of the contents.
    pub fn parse(arguments: &[Value]) -> Result<Self, ArgumentError> {
        let [argument] = first(arguments)?;
        let nothing = Map::new();
        let argument = object(argument, "upload_blob")?.unwrap_or(&nothing);
        Ok(Self {
            id: parsed(get(argument, "blob_id"), "blob_id", BlobId::parse)?,
            digest: parsed(get(argument, "checksum"), "checksum", MultiDigest::parse)?,
            contents: parsed(get(argument, "payload"), "payload", |text| {
                STANDARD.decode(text).map_err(|_| "it is not base64")
            })?,
        })
    }
}

/// The arguments of `sync_dns` or `sync_dns_with_signed_url`.
#[derive(Debug, Clone)]
pub struct DnsRequest {
    /// Where the records are.
    pub blob: RecordsBlob,
    /// The digest of the records.
    pub digest: MultiDigest,
    /// The version of the records.
    pub version: u64,
}

/// Where DNS records are fetched from.
#[derive(Debug, Clone)]
pub enum RecordsBlob {
    /// The blobstore that the settings name.
    Blobstore(BlobId),
    /// A signed URL.
    Signed(SignedUrl, Headers),
}

impl DnsRequest {
    /// Parses the arguments of `sync_dns`: blob ID, digest, version.
    ///
    /// # Errors
    /// If the arguments are invalid.
    pub fn of_blob(arguments: &[Value]) -> Result<Self, ArgumentError> {
        let [id, digest, version] = first(arguments)?;
        Ok(Self {
            blob: RecordsBlob::Blobstore(parsed(id, "blob_id", BlobId::parse)?),
            digest: parsed(digest, "digest", MultiDigest::parse)?,
            version: number(version)?,
        })
    }

    /// Parses the argument of `sync_dns_with_signed_url`.
    ///
    /// # Errors
    /// As [`of_blob`](Self::of_blob).
    pub fn of_signed_url(arguments: &[Value]) -> Result<Self, ArgumentError> {
        let [argument] = first(arguments)?;
        let nothing = Map::new();
        let argument = object(argument, "sync_dns_with_signed_url")?.unwrap_or(&nothing);
        let url = parsed(get(argument, "signed_url"), "signed_url", SignedUrl::parse)?;
        let digest = get(argument, "multi_digest");
        let digest = parsed(digest, "multi_digest", MultiDigest::parse)?;
        let version = number(get(argument, "version"))?;
        let headers = get(argument, "blobstore_headers");
        let headers = Headers::from_json(headers).map_err(|error| ArgumentError::Invalid {
            what: "blobstore_headers",
            reason: error.to_string(),
        })?;
        Ok(Self {
            blob: RecordsBlob::Signed(url, headers),
            digest,
            version,
        })
    }
}

fn number(version: &Value) -> Result<u64, ArgumentError> {
    version.as_u64().ok_or_else(|| ArgumentError::Invalid {
        what: "version",
        reason: "it is not a number".to_owned(),
    })
}

/// Parses the argument of `delete_arp_entries`. Texts that are not addresses are left out.
///
/// # Errors
/// If the argument has a wrong type.
pub fn arp_addresses(arguments: &[Value]) -> Result<BTreeSet<IpAddr>, ArgumentError> {
    let [argument] = first(arguments)?;
    let nothing = Map::new();
    let argument = object(argument, "delete_arp_entries")?.unwrap_or(&nothing);
    let addresses = texts(get(argument, "ips"), "ips")?;
    Ok(addresses.iter().filter_map(|it| it.parse().ok()).collect())
}

/// Checks the arguments of `run_script`: name, options.
///
/// # Errors
/// If the arguments are invalid.
pub fn check_script(arguments: &[Value]) -> Result<(), ArgumentError> {
    let [name, options] = first(arguments)?;
    text(name, "script name")?;
    object(options, "options")?;
    Ok(())
}

/// The file that `remove_file` may remove: one that is directly in `directory` and that no running
/// operation of the agent uses.
#[must_use]
pub fn removable_file(directory: &Path, path: &str) -> Option<PathBuf> {
    let name = path.strip_prefix(directory.to_str()?)?.strip_prefix('/')?;
    let is_plain = !name.contains(['/', '\0']) && !matches!(name, "" | "." | "..");
    // Other files with this prefix belong to running operations of the agent.
    let is_in_use = name.starts_with(TEMPORARY) && !name.starts_with(LOGS_BUNDLE);
    (is_plain && !is_in_use).then(|| directory.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_directly_in_the_directory_are_removed() {
        let directory = Path::new("/var/vcap/data/tmp");
        for (path, is_there) in [
            ("/var/vcap/data/tmp/logs-1.tgz", true),
            ("/var/vcap/data/tmp/", false),
            ("/var/vcap/data/tmp", false),
            ("/var/vcap/data/tmp/..", false),
            ("/var/vcap/data/tmp/../blobs/x", false),
            ("/var/vcap/data/tmp/a/b", false),
            ("/var/vcap/data/tmpfile", false),
            ("/var/vcap/data/tmp/.bosh-agent-1", false),
            ("/var/vcap/data/tmp/.bosh-agent-logs-bundle-1.tgz", true),
            ("/var/vcap/data/tmp/.bosh-agent-logs-1.tgz", false),
            ("/etc/passwd", false),
            ("logs-1.tgz", false),
            ("", false),
        ] {
            assert_eq!(
                removable_file(directory, path).is_some(),
                is_there,
                "{path}"
            );
        }
    }
}
