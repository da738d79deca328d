//! The settings and the state of the interactive shells that are opened in the sandboxes of packages (`--shell`).

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::process::{LastLines, Terminal};
use crate::release::Name;

/// When and on which terminal a shell is opened.
#[derive(Debug, Clone)]
pub struct Shell {
    /// When a shell is opened.
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

/// The shells of a run. One shell at a time is open.
#[derive(Debug)]
pub struct Shells {
    pub(super) shell: Shell,
    /// Ends an open shell when this token is canceled. The failure of another package does not cancel this token.
    pub(super) cancel: CancellationToken,
    /// Locked while a shell is open.
    pub(super) turn: Mutex<()>,
}

impl Shells {
    /// No shell is open yet. `cancel` ends an open shell.
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
