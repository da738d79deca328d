//! A second thread that copies the contents of files, while the first thread creates the entries of
//! a tree. This shortens copies of large trees, such as a Go toolchain. Often nothing else can run
//! until such a copy is complete.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::copied_file::{Buffer, CopiedFile};
use super::{Error, Result};

/// Trees with fewer files are copied by one thread, because starting a thread takes as long as
/// copying several files.
const FEW_FILES: usize = 64;

/// The maximum number of files that wait for the second thread. Each has two open descriptors.
const WAITING: usize = 32;

/// The interval between calls of `stop` while the first thread waits for the second.
const INTERVAL: Duration = Duration::from_millis(20);

/// The handle to the second thread, which is started when a tree has many files.
#[derive(Debug, Default)]
pub(super) struct CopyHelper {
    files: usize,
    thread: Option<CopyThread>,
}

#[derive(Debug)]
struct CopyThread {
    waiting: SyncSender<CopiedFile>,
    is_stopped: Arc<AtomicBool>,
    /// Disconnected when the second thread ends.
    ended: Receiver<()>,
    handle: JoinHandle<Result<()>>,
}

impl CopyHelper {
    /// Passes a file to the second thread. Returns the file if the caller must copy it.
    ///
    /// # Errors
    /// The second thread could not copy an earlier file.
    pub(super) fn take(&mut self, file: CopiedFile) -> Result<Option<CopiedFile>> {
        self.files += 1;
        if self.files == FEW_FILES {
            self.thread = CopyThread::start();
        }
        let Some(thread) = &self.thread else {
            return Ok(Some(file));
        };
        match thread.waiting.try_send(file) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(file)) => Ok(Some(file)),
            // The second thread ended early, which means that it failed.
            Err(TrySendError::Disconnected(file)) => {
                self.finish(&|| false)?;
                Ok(Some(file))
            }
        }
    }

    /// Waits until all files are copied.
    ///
    /// # Errors
    /// A file could not be copied, or `stop` returned true.
    pub(super) fn finish(&mut self, stop: &dyn Fn() -> bool) -> Result<()> {
        self.thread.take().map_or(Ok(()), |it| it.finish(stop))
    }
}

/// Stops the second thread if the first one has failed.
impl Drop for CopyHelper {
    fn drop(&mut self) {
        let _the_first_error_was_returned = self.finish(&|| true);
    }
}

impl CopyThread {
    /// Returns `None` if the system allows no more threads.
    fn start() -> Option<Self> {
        let (waiting, files) = sync_channel::<CopiedFile>(WAITING);
        let (running, ended) = sync_channel(0);
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_stopped);
        let builder = thread::Builder::new().name("copy".to_owned());
        let handle = builder.spawn(move || {
            let _running: SyncSender<()> = running;
            let mut buffer = Buffer::default();
            for file in files {
                file.copy(&mut buffer, &|| stop.load(Ordering::Relaxed))?;
            }
            Ok(())
        });
        let handle = handle
            .inspect_err(|error| tracing::debug!(%error, "copying with one thread"))
            .ok()?;
        Some(Self {
            waiting,
            is_stopped,
            ended,
            handle,
        })
    }

    fn finish(self, stop: &dyn Fn() -> bool) -> Result<()> {
        drop(self.waiting);
        loop {
            if stop() {
                self.is_stopped.store(true, Ordering::Relaxed);
            }
            match self.ended.recv_timeout(INTERVAL) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.handle.join().unwrap_or_else(|_| {
            let panicked = std::io::Error::other("the thread panicked");
            Err(Error::new(
                "copy files of",
                std::path::Path::new("a tree"),
                panicked,
            ))
        })
    }
}
