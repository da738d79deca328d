//! Blobstores of a Director.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::director::compile_stage::CompiledPackage;
use super::docker::run;
use super::vm::LIMIT;
use crate::common::directory_outside_tmp;

/// Where blobs are, seen from the Director.
pub(crate) struct Blobstore {
    kind: Kind,
}

enum Kind {
    Local(TempDir),
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

    /// What the settings say of it.
    pub(crate) fn settings(&self) -> Value {
        match &self.kind {
            Kind::Local(directory) => {
                json!({ "provider": "local", "options": { "blobstore_path": directory.path() } })
            }
        }
    }

    /// What must not appear in any log.
    pub(crate) fn secrets(&self) -> Vec<String> {
        match &self.kind {
            Kind::Local(_) => Vec::new(),
        }
    }

    /// The directory that a container must have at the same path, where there is one.
    pub(crate) fn directory(&self) -> &Path {
        match &self.kind {
            Kind::Local(directory) => directory.path(),
        }
    }

    /// Whether requests are to bear signed URLs.
    pub(crate) fn signs(&self) -> bool {
        match &self.kind {
            Kind::Local(_) => false,
        }
    }

    /// The URL for a method and a blob.
    #[track_caller]
    pub(crate) fn signed(&self, method: &str, id: &str) -> String {
        match &self.kind {
            Kind::Local(_) => panic!("no URL for {method} of {id} in a directory"),
        }
    }

    /// Where a blob lies.
    pub(crate) fn path(&self, id: &str) -> PathBuf {
        match &self.kind {
            Kind::Local(directory) => directory.path().join(id),
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

    /// Compares a result with its digests: every one that the agent told.
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
