//! Reads and writes that fail after a cancellation.

use std::io::{self, Read, Write};

use tokio_util::sync::CancellationToken;

/// A reader or writer that fails once its token is canceled.
#[derive(Debug)]
pub struct Cancellable<T> {
    inner: T,
    cancel: CancellationToken,
}

impl<T> Cancellable<T> {
    /// Wraps `inner`.
    pub fn new(inner: T, cancel: &CancellationToken) -> Self {
        Self {
            inner,
            cancel: cancel.clone(),
        }
    }

    /// Unwraps the reader or writer.
    pub fn into_inner(self) -> T {
        self.inner
    }

    fn check(&self) -> io::Result<()> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("stopped"));
        }
        Ok(())
    }
}

impl<T: Read> Read for Cancellable<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.read(buffer)
    }
}

impl<T: Write> Write for Cancellable<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
