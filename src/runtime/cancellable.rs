//! Long reads and writes that end when somebody asks.

use std::io::{self, Read, Write};

use tokio_util::sync::CancellationToken;

/// A reader or writer that fails once we are asked to stop.
#[derive(Debug)]
pub struct Cancellable<T> {
    inner: T,
    cancel: CancellationToken,
}

impl<T> Cancellable<T> {
    /// Wraps a reader or writer.
    pub fn new(inner: T, cancel: &CancellationToken) -> Self {
        Self {
            inner,
            cancel: cancel.clone(),
        }
    }

    /// What was wrapped.
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
