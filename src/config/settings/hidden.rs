//! A wrapper for values that may contain secrets.

use std::fmt;

/// A value that always prints as `[redacted]`, for example options of a blobstore or a settings document.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hidden<T>(T);

impl<T> Hidden<T> {
    /// Hides a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns the value. It may be sent to the peer or written to the file for which it is meant,
    /// but never to a log or an error.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
