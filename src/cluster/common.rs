//! The inputs that are the same for all actions of a run.

use std::path::PathBuf;
use std::sync::Arc;

use crate::package_job::{JobSettings, ScriptUser};
use crate::reapi::{Digest, Server};
use crate::release::Slug;

/// A file on this machine whose digest is known.
#[derive(Debug, Clone)]
pub(crate) struct KnownFile {
    pub path: PathBuf,
    pub digest: Digest,
}

/// The inputs that are the same for all actions of a run.
#[derive(Debug)]
pub(crate) struct Common {
    pub server: Arc<Server>,
    /// The program that compiles a package on another machine.
    pub program: KnownFile,
    /// The properties that a machine must have, as names and values.
    pub platform: Vec<(String, String)>,
    /// The time limit of an action, in seconds.
    pub timeout: Option<u64>,
    pub stemcell: Option<Slug>,
    /// The user that must run scripts. `None` if any user may.
    pub script_user: Option<ScriptUser>,
    pub settings: JobSettings,
    /// Whether results of unrestricted earlier runs are used.
    pub accepts_unrestricted: bool,
    /// How many of the last lines of a script are kept, at most.
    pub log_lines: usize,
}
