//! Blocks of deflated content, and the threads that make them.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use flate2::{Compress, Compression, FlushCompress, Status};

/// Threads of all writers of this process that compress at the moment.
static BUSY: AtomicUsize = AtomicUsize::new(0);

/// A piece of content.
#[derive(Debug)]
pub(super) struct Block {
    /// What comes before it.
    pub window: Vec<u8>,
    pub content: Vec<u8>,
    /// Whether the stream ends with it.
    pub last: bool,
}

/// Deflates blocks one after another.
#[derive(Debug)]
pub(super) struct Compressor {
    deflate: Compress,
}

impl Compressor {
    pub(super) fn new(level: u32) -> Self {
        Self {
            deflate: Compress::new(Compression::new(level), false),
        }
    }

    /// A block's part of the stream, which ends at a whole byte.
    pub(super) fn compress(&mut self, block: &Block) -> io::Result<Vec<u8>> {
        self.deflate.reset();
        if !block.window.is_empty() {
            self.deflate.set_dictionary(&block.window)?;
        }
        let flush = match block.last {
            true => FlushCompress::Finish,
            false => FlushCompress::Sync,
        };
        // What cannot be compressed grows a little.
        let mut out = Vec::with_capacity(block.content.len() / 2 + 1024);
        loop {
            let taken = usize::try_from(self.deflate.total_in()).unwrap_or(usize::MAX);
            let status = self
                .deflate
                .compress_vec(&block.content[taken..], &mut out, flush)?;
            let is_done = match status {
                Status::StreamEnd => true,
                // With room left the flush is complete.
                Status::Ok | Status::BufError => !block.last && out.len() < out.capacity(),
            };
            if is_done {
                return Ok(out);
            }
            out.reserve(out.capacity().max(1024));
        }
    }
}

type Job = (Block, SyncSender<io::Result<Vec<u8>>>);

/// Where blocks are handed over, and where all threads of a writer take them from.
type Counter = (Sender<Job>, Arc<Mutex<Receiver<Job>>>);

/// The threads that help one writer. They are started when there is work and an idle core, and end with the writer.
#[derive(Debug)]
pub(super) struct Helpers {
    jobs: Option<Counter>,
    started: usize,
    most: usize,
    /// Whether cores that other writers use count as used.
    shares: bool,
}

impl Helpers {
    /// As many as there are cores that no other writer uses.
    pub(super) fn on_idle_cores() -> Self {
        Self::new(
            thread::available_parallelism().map_or(1, NonZero::get),
            true,
        )
    }

    /// At most so many.
    #[cfg(test)]
    pub(super) fn at_most(threads: usize) -> Self {
        Self::new(threads, false)
    }

    fn new(most: usize, shares: bool) -> Self {
        Self {
            jobs: None,
            started: 0,
            most,
            shares,
        }
    }

    /// How many blocks may be on their way: enough that no helper waits, few enough that memory is bounded.
    pub(super) fn in_flight(&self) -> usize {
        2 * self.started
    }

    /// Hands a block to a helper. Where there is none, and none can be started, it is given back.
    pub(super) fn hand(
        &mut self,
        block: Block,
        level: u32,
    ) -> Result<Receiver<io::Result<Vec<u8>>>, Block> {
        let (sender, receiver) = self.jobs.get_or_insert_with(|| {
            let (sender, receiver) = channel();
            (sender, Arc::new(Mutex::new(receiver)))
        });
        if self.started < self.most
            && (!self.shares || BUSY.load(Ordering::Relaxed) < self.most)
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

/// Starts a thread that compresses until its writer is gone. `false` where the system has none to give.
fn start(jobs: Arc<Mutex<Receiver<Job>>>, level: u32) -> bool {
    let work = move || {
        let _busy = Busy::new();
        let mut compressor = Compressor::new(level);
        loop {
            let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((block, answer)) = next else { return };
            // A writer that is gone does not want it any more.
            let _ = answer.send(compressor.compress(&block));
        }
    };
    let builder = thread::Builder::new().name("gzip".to_owned());
    builder.spawn(work).is_ok()
}

/// Counts a thread as long as it works.
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
