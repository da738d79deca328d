//! The threads that compress blocks.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::deflate::{Block, Compressor};

/// Threads that compress for writers of this process that have not ended.
static BUSY: AtomicUsize = AtomicUsize::new(0);

/// How much nicer than the rest of this program threads are that compress.
const NICER: i32 = 5;

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
        give_way();
        let mut compressor = Compressor::new(level);
        loop {
            let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((block, answer)) = next else { return };
            // A writer that is gone does not want it any more.
            let _ = answer.send(compressor.compress(&block).map(<[u8]>::to_vec));
        }
    };
    let builder = thread::Builder::new().name("gzip".to_owned());
    builder.spawn(work).is_ok()
}

/// Lets packaging scripts go first: others wait for what they make, and seldom for what is compressed.
fn give_way() {
    let now = rustix::process::getpriority_process(None).unwrap_or(0);
    // To be nicer is allowed to everybody. On Linux this is the calling thread's affair alone.
    let _ = rustix::process::setpriority_process(None, (now + NICER).min(19));
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
