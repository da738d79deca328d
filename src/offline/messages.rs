//! The settings for printing messages.

use super::annotations::Annotations;
use super::command::Command;
use super::paint::Paint;

/// The settings for printing messages.
#[derive(Debug, Clone, Copy, Default)]
pub struct Messages {
    /// Whether stderr is a terminal, which shows bars and short fingerprints.
    pub is_terminal: bool,
    /// Whether only warnings and errors are printed.
    pub is_quiet: bool,
    /// Whether the output of packaging scripts is printed.
    pub is_verbose: bool,
    /// The colors of messages.
    pub paint: Paint,
    /// Which CI system reads the output.
    pub annotations: Annotations,
    /// The command whose flags messages name.
    pub command: Command,
}
