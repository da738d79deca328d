//! The spec that a Director applied to this machine, and the files and replies that contain its
//! values.

use std::path::PathBuf;

use crate::config::Vcap;
use crate::config::json::{self, JsonError};
use crate::fs;

mod spec;
mod state;

pub(crate) use spec::NetworkNotFound;
pub use spec::{ApplySpec, UnsupportedWork};
pub(crate) use state::MachineState;

/// The files that identify this machine: the applied spec, and files with its values for jobs.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    vcap: Vcap,
}

/// Why the applied spec cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstanceError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The file is invalid.
    #[error("`{}` cannot be used", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// Why the file is invalid.
        source: JsonError,
    },
}

impl Instance {
    /// The files of an agent with this base directory.
    #[must_use]
    pub(crate) fn new(vcap: &Vcap) -> Self {
        Self { vcap: vcap.clone() }
    }

    /// Loads the last applied spec, if there is one.
    ///
    /// # Errors
    /// If the file cannot be read or is invalid.
    pub(crate) fn spec(&self) -> Result<Option<ApplySpec>, InstanceError> {
        let path = self.vcap.spec();
        let Some(text) = fs::if_there(fs::read(&path))? else {
            return Ok(None);
        };
        match json::parse(&text).and_then(ApplySpec::parse) {
            Ok(spec) => Ok(Some(spec)),
            Err(source) => Err(InstanceError::Contents { path, source }),
        }
    }

    /// Saves the spec, and writes the files from which jobs read the names of their instance.
    /// Blocks until the files are on the disk.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(crate) fn apply(&self, spec: &ApplySpec) -> fs::Result<()> {
        let directory = self.vcap.instance();
        if fs::lookup(&directory)?.is_none() {
            fs::create_dir_all(&directory)?;
            fs::set_mode(&directory, 0o755)?;
        }
        for (name, value) in [
            ("id", &spec.id),
            ("az", &spec.az),
            ("name", &spec.name),
            ("deployment", &spec.deployment),
        ] {
            fs::write_atomic(&directory.join(name), value.as_bytes(), 0o644)?;
        }
        let path = self.vcap.spec();
        fs::create_dir_all(fs::parent(&path))?;
        let text = spec.document().expose().to_string();
        fs::write_atomic(&path, text.as_bytes(), 0o600)
    }

    /// Writes the state of the last heartbeat to `health.json`, which jobs read. Does nothing
    /// before the first apply, when the directory does not exist.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn write_health(&self, job_state: &str) -> fs::Result<()> {
        let text = serde_json::json!({ "state": job_state }).to_string();
        let written = fs::write_atomic(&self.vcap.health(), text.as_bytes(), 0o644);
        fs::if_there(written).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn applied_spec_is_saved_and_written_for_jobs() {
        let scratch = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&scratch.path().join("vcap"));
        let instance = Instance::new(&vcap);
        assert!(instance.spec().unwrap().is_none());
        instance.write_health("running").unwrap();
        assert!(!vcap.health().exists());

        let document = json!({"deployment": "dep", "id": "i-1", "job": {"name": "j"}, "future": [1], "az": null});
        let spec = ApplySpec::parse(document.clone()).unwrap();
        for _ in 0..2 {
            instance.apply(&spec).unwrap();
        }
        assert_eq!(
            *instance.spec().unwrap().unwrap().document().expose(),
            document
        );
        let read = |name: &str| fs::read_lossy(&vcap.instance().join(name)).unwrap();
        assert_eq!(
            ["id", "az", "name", "deployment"].map(read),
            ["i-1", "", "", "dep"]
        );
        let mode =
            |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&vcap.instance()), 0o755);
        assert_eq!(mode(&vcap.instance().join("id")), 0o644);
        assert_eq!(mode(&vcap.spec()), 0o600);

        instance.write_health("running").unwrap();
        assert_eq!(fs::read(&vcap.health()).unwrap(), br#"{"state":"running"}"#);
        fs::write(&vcap.spec(), b"{\"job\": \"x\"").unwrap();
        let error = instance.spec().unwrap_err();
        let path = vcap.spec().display().to_string();
        assert_eq!(error.to_string(), format!("`{path}` cannot be used"));
    }
}
