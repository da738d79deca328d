//! How messages are printed.

use super::annotations::Annotations;

/// How messages are printed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Messages {
    /// Whether stderr is a terminal, which shows bars.
    pub is_terminal: bool,
    /// Whether the output of packaging scripts is printed.
    pub is_verbose: bool,
    /// Which CI system reads the output.
    pub annotations: Annotations,
}
