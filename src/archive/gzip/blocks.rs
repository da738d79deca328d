//! The helper threads that compress blocks for a gzip writer.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::deflate::{Block, Compressor};

/// The number of compressing threads in this process.
static BUSY: AtomicUsize = AtomicUsize::new(0);

/// The niceness of compressing threads, so that they use only the CPU time that packaging scripts leave idle.
const NICENESS: i32 = 19;

/// A block to compress, and the channel for the result.
type Request = (Block, SyncSender<io::Result<Vec<u8>>>);

/// Both ends of the channel from a writer to its threads. The threads share the receiver.
type Channel = (Sender<Request>, Arc<Mutex<Receiver<Request>>>);

/// The threads that help one writer. A thread starts when there is a block and an idle core. All threads end when the writer is dropped.
#[derive(Debug)]
pub(super) struct Helpers {
    channel: Option<Channel>,
    started: usize,
    limit: usize,
    /// Whether `limit` applies to the threads of all writers together.
    shares_limit: bool,
}

impl Helpers {
    /// Uses at most as many threads as there are cores that no other writer uses.
    pub(super) fn on_idle_cores() -> Self {
        Self::new(
            thread::available_parallelism().map_or(1, NonZero::get),
            true,
        )
    }

    /// Uses at most `threads` threads, regardless of other writers.
    #[cfg(test)]
    pub(super) fn at_most(threads: usize) -> Self {
        Self::new(threads, false)
    }

    fn new(limit: usize, shares_limit: bool) -> Self {
        Self {
            channel: None,
            started: 0,
            limit,
            shares_limit,
        }
    }

    /// How many blocks the helpers may hold: enough that no helper waits for a block, few enough to limit the memory.
    pub(super) fn max_in_flight(&self) -> usize {
        2 * self.started
    }

    /// Gives a block to a helper. Returns the block if there is no helper and none can be started.
    pub(super) fn compress(
        &mut self,
        block: Block,
        level: u32,
    ) -> Result<Receiver<io::Result<Vec<u8>>>, Block> {
        let (sender, receiver) = self.channel.get_or_insert_with(|| {
            let (sender, receiver) = channel();
            (sender, Arc::new(Mutex::new(receiver)))
        });
        if self.started < self.limit
            && (!self.shares_limit || BUSY.load(Ordering::Relaxed) < self.limit)
            && start(Arc::clone(receiver), level)
        {
            self.started += 1;
        }
        if self.started == 0 {
            return Err(block);
        }
        let (answer, compressed) = sync_channel(1);
        match sender.send((block, answer)) {
            Ok(()) => Ok(compressed),
            Err(unsent) => Err(unsent.0.0),
        }
    }
}

/// Starts a thread that compresses blocks until the writer is dropped. Returns `false` if the system refuses another thread.
fn start(requests: Arc<Mutex<Receiver<Request>>>, level: u32) -> bool {
    let work = move || {
        let _busy = Busy::new();
        raise_niceness();
        let mut compressor = Compressor::new(level);
        loop {
            let next = requests
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .recv();
            let Ok((block, answer)) = next else { return };
            // Sending fails if the writer was dropped. The next receive then fails too, and ends this thread.
            let _ = answer.send(compressor.compress(&block).map(<[u8]>::to_vec));
        }
    };
    let builder = thread::Builder::new().name("gzip".to_owned());
    builder.spawn(work).is_ok()
}

/// Lowers the priority of this thread below that of packaging scripts, because other packages wait for scripts, but rarely
/// for archives.
fn raise_niceness() {
    // Raising the niceness needs no privileges. On Linux it affects only the calling thread.
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

/// Counts one compressing thread in [`BUSY`] until it is dropped.
struct Busy;

impl Busy {
    fn new() -> Self {
        BUSY.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.fetch_sub(1, Ordering::Relaxed);
    }
}
