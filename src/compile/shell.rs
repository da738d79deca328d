//! The settings and the state of the interactive shells that are opened in the sandboxes of packages (`--shell`).

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::process::{LastLines, Terminal};
use crate::release::Name;

/// When a shell is opened, and where.
#[derive(Debug, Clone)]
pub struct Shell {
    /// For which package, and when.
    pub when: ShellWhen,
    /// The terminal of this process.
    pub terminal: Arc<Terminal>,
}

/// When a shell is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShellWhen {
    /// In place of the script of this package.
    Instead(Name),
    /// After each script that fails.
    AfterFailure,
}

/// The shells of a run, one at a time.
#[derive(Debug)]
pub struct Shells {
    pub(super) shell: Shell,
    /// Ends an open shell when it is canceled. The failure of another package does not cancel it.
    pub(super) cancel: CancellationToken,
    /// Locked while a shell is open.
    pub(super) turn: Mutex<()>,
}

impl Shells {
    /// The shells of a run, in which none is open yet. `cancel` ends an open shell.
    #[must_use]
    pub fn new(shell: Shell, cancel: &CancellationToken) -> Self {
        Self {
            shell,
            cancel: cancel.clone(),
            turn: Mutex::default(),
        }
    }
}

/// A failed run of a script, in whose sandbox a shell is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRun {
    /// The error.
    pub failure: String,
    /// The last lines of the script's output.
    pub tail: LastLines,
    /// The log of the whole output.
    pub log: PathBuf,
}
