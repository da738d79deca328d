//! Blobstores of a Director.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::director::compile_stage::CompiledPackage;
use super::docker::run;
use super::network::Network;
use super::nginx::{Nginx, SIGNATURE, WRITER};
use super::vm::LIMIT;
use crate::common::{directory_outside_tmp, run_tool_with};

/// The storage of the blobs, as the Director sees it.
pub(crate) struct Blobstore {
    kind: Kind,
}

enum Kind {
    Local(TempDir),
    Dav { nginx: Nginx, endpoint: String },
    Signed { nginx: Nginx, endpoint: String },
}

impl Blobstore {
    /// A directory that agent and Director share.
    pub(crate) fn local() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("blobs-")
            .tempdir_in(directory_outside_tmp())
            .unwrap();
        Self {
            kind: Kind::Local(directory),
        }
    }

    /// A WebDAV server with the password of a user who may write, over TLS like BOSH's servers. `None` without nginx.
    pub(crate) fn dav() -> Option<Self> {
        Nginx::start().map(Self::over_tls)
    }

    /// The same in a container with this number in a network.
    pub(crate) fn dav_in(network: &Network, number: u8) -> Option<Self> {
        Nginx::start_in(network, number).map(Self::over_tls)
    }

    fn over_tls(nginx: Nginx) -> Self {
        let endpoint = nginx.endpoint_tls_1_2();
        let kind = Kind::Dav { nginx, endpoint };
        Self { kind }
    }

    /// The same without TLS, for an agent that reaches it by another server: `endpoint` makes its URL from that of the store.
    pub(crate) fn dav_behind(endpoint: impl FnOnce(&str) -> String) -> Option<Self> {
        let nginx = Nginx::start()?;
        let endpoint = endpoint(&nginx.plain_endpoint());
        let kind = Kind::Dav { nginx, endpoint };
        Some(Self { kind })
    }

    /// A store whose blobs are accessed only by signed URLs. `None` without nginx.
    pub(crate) fn signed_urls() -> Option<Self> {
        let nginx = Nginx::start()?;
        let endpoint = nginx.endpoint();
        let kind = Kind::Signed { nginx, endpoint };
        Some(Self { kind })
    }

    /// The same as [`dav_behind`](Self::dav_behind).
    pub(crate) fn signed_urls_behind(endpoint: impl FnOnce(&str) -> String) -> Option<Self> {
        let nginx = Nginx::start()?;
        let endpoint = endpoint(&nginx.plain_endpoint());
        let kind = Kind::Signed { nginx, endpoint };
        Some(Self { kind })
    }

    /// Its part of the settings. With signed URLs, a Director leaves out the credentials.
    pub(crate) fn settings(&self) -> Value {
        match &self.kind {
            Kind::Local(directory) => {
                json!({ "provider": "local", "options": { "blobstore_path": directory.path() } })
            }
            Kind::Dav { nginx, endpoint } => json!({ "provider": "dav", "options": {
                "endpoint": endpoint, "user": WRITER.0, "password": WRITER.1,
                "tls": { "cert": { "ca": nginx.ca() } },
            }}),
            Kind::Signed { nginx, endpoint } => json!({ "provider": "dav", "options": {
                "endpoint": endpoint, "tls": { "cert": { "ca": nginx.ca() } },
            }}),
        }
    }

    /// The secrets that must not appear in any log.
    pub(crate) fn secrets(&self) -> Vec<String> {
        match &self.kind {
            Kind::Local(_) => Vec::new(),
            Kind::Dav { .. } => vec![WRITER.1.to_owned()],
            Kind::Signed { .. } => vec![SIGNATURE.trim_start_matches("st=").to_owned()],
        }
    }

    /// The directory that a container needs at the same path, if there is one.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Local(directory) => Some(directory.path()),
            Kind::Dav { .. } | Kind::Signed { .. } => None,
        }
    }

    /// Whether requests have signed URLs.
    pub(crate) fn signs(&self) -> bool {
        matches!(self.kind, Kind::Signed { .. })
    }

    /// The URL of a blob, signed for reading and writing.
    #[track_caller]
    pub(crate) fn signed_url(&self, id: &str) -> String {
        match &self.kind {
            Kind::Signed { nginx, endpoint } => nginx.signed_url(endpoint, id),
            Kind::Local(_) | Kind::Dav { .. } => panic!("no signed URLs here"),
        }
    }

    /// The path of a blob.
    pub(crate) fn path(&self, id: &str) -> PathBuf {
        match &self.kind {
            Kind::Local(directory) => directory.path().join(id),
            Kind::Dav { nginx, .. } => {
                // The server's directories are the first byte of the id's SHA-1.
                let sum = run_tool_with("sha1sum", &[] as &[&str], id.as_bytes());
                let prefix = String::from_utf8(sum[..2].to_vec()).unwrap();
                nginx.store().join(prefix).join(id)
            }
            Kind::Signed { nginx, .. } => nginx.signed().join(id),
        }
    }

    /// Stores a file under a new id.
    pub(crate) fn put_file(&self, file: &Path) -> String {
        let id = uuid::Uuid::new_v4().to_string();
        let path = self.path(&id);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(file, path).unwrap();
        id
    }

    /// Removes a blob.
    pub(crate) fn remove(&self, id: &str) {
        fs::remove_file(self.path(id)).unwrap();
    }

    /// Compares a result with all digests from the agent.
    #[track_caller]
    pub(crate) fn check(&self, compiled: &CompiledPackage) {
        let path = self.path(&compiled.blob);
        for digest in compiled.digest.split(';') {
            let (algorithm, hex) = digest.split_once(':').unwrap_or(("sha1", digest));
            let sum = run(Command::new(format!("{algorithm}sum")).arg(&path), LIMIT);
            sum.expect_code(0, "reading a compiled package");
            assert_eq!(sum.stdout.split(' ').next(), Some(hex), "{compiled:?}");
        }
    }
}
