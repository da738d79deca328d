//! Reads from a source ahead of its consumer, on a separate thread.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

/// The number of bytes that are read before a thread is started. For shorter data, a thread costs
/// more than it saves.
const THREAD_AFTER: usize = 1 << 20;

/// The size of a chunk in bytes.
const CHUNK: usize = 256 * 1024;

/// The maximum number of chunks that are read ahead.
const CHUNKS: usize = 4;

/// A reader that moves its source to a thread after reading `THREAD_AFTER` bytes, so that a slow
/// source, such as a decompressor, runs in parallel with its consumer.
///
/// If the reader is dropped, the thread ends after it has read its current chunk.
#[derive(Debug)]
pub struct ReadAhead<R> {
    source: Source<R>,
    /// The number of bytes that were read without a thread since the last attempt to start one.
    read: usize,
}

#[derive(Debug)]
enum Source<R> {
    Here(R),
    Thread(Chunks),
    /// The source is being moved to the thread.
    Moving,
}

/// The side of the thread's channels that receives chunks.
#[derive(Debug)]
struct Chunks {
    full: Receiver<io::Result<Vec<u8>>>,
    /// Returns used chunks to the thread.
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl<R: Read + Send + 'static> ReadAhead<R> {
    /// Wraps `inner`.
    pub fn new(inner: R) -> Self {
        Self {
            source: Source::Here(inner),
            read: 0,
        }
    }

    /// Reads to the end and discards the data. This checks that the source is complete.
    ///
    /// # Errors
    /// If reading fails: the first error of the source.
    pub fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink()).map(drop)
    }

    /// Moves the source to a thread. The source stays here if the system cannot start a thread.
    fn start(&mut self) {
        let Source::Here(inner) = std::mem::replace(&mut self.source, Source::Moving) else {
            return;
        };
        let (hand_over, take_over) = sync_channel::<R>(1);
        let (filled, full) = sync_channel(CHUNKS);
        let (empty, emptied) = channel();
        let builder = thread::Builder::new().name("read ahead".to_owned());
        let started = builder.spawn(move || {
            if let Ok(inner) = take_over.recv() {
                read_all(inner, &emptied, &filled);
            }
        });
        if started.is_err() {
            self.source = Source::Here(inner);
            return;
        }
        for _ in 0..CHUNKS {
            // This cannot fail, because the thread holds the receiver while it waits for the
            // source.
            let _ = empty.send(Vec::new());
        }
        self.source = match hand_over.send(inner) {
            Ok(()) => Source::Thread(Chunks {
                full,
                empty,
                current: Vec::new(),
                taken: 0,
                ended: false,
            }),
            Err(unsent) => Source::Here(unsent.0),
        };
    }
}

/// Reads until the end, which is sent as an empty chunk, or until the first error. A closed channel
/// means that the `ReadAhead` was dropped.
fn read_all(
    mut inner: impl Read,
    empty: &Receiver<Vec<u8>>,
    full: &SyncSender<io::Result<Vec<u8>>>,
) {
    while let Ok(mut chunk) = empty.recv() {
        chunk.resize(CHUNK, 0);
        let mut length = 0;
        let mut failed = None;
        while length < CHUNK {
            match inner.read(&mut chunk[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        chunk.truncate(length);
        if length > 0 && full.send(Ok(chunk)).is_err() {
            return;
        }
        if length < CHUNK {
            let _ = full.send(failed.map_or_else(|| Ok(Vec::new()), Err));
            return;
        }
    }
}

impl Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.current.len() && !self.ended {
            let emptied = std::mem::take(&mut self.current);
            self.taken = 0;
            // Sending fails if the thread has ended. Its last chunks are then still in the channel.
            let _ = self.empty.send(emptied);
            match self.full.recv() {
                Ok(Ok(chunk)) => {
                    self.ended = chunk.is_empty();
                    self.current = chunk;
                }
                Ok(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                // The thread panicked before it reached the end.
                Err(_) => return Err(io::Error::other("the read-ahead thread panicked")),
            }
        }
        let rest = &self.current[self.taken..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        Ok(count)
    }
}

impl<R: Read + Send + 'static> Read for ReadAhead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read >= THREAD_AFTER && matches!(self.source, Source::Here(_)) {
            self.start();
            // If no thread could be started, try again after the next `THREAD_AFTER` bytes.
            self.read = 0;
        }
        match &mut self.source {
            Source::Here(inner) => {
                let count = inner.read(buffer)?;
                self.read += count;
                Ok(count)
            }
            Source::Thread(chunks) => chunks.read(buffer),
            Source::Moving => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns counting bytes in pieces of odd sizes, and optionally fails at the end.
    struct Counting {
        at: usize,
        length: usize,
        fails: bool,
        dropped: Option<Sender<()>>,
    }

    impl Read for Counting {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.at == self.length && self.fails {
                return Err(io::Error::other("the end"));
            }
            let count = buffer.len().min(self.length - self.at).min(10_007);
            for byte in &mut buffer[..count] {
                *byte = self.at as u8;
                self.at += 1;
            }
            Ok(count)
        }
    }

    impl Drop for Counting {
        fn drop(&mut self) {
            if let Some(dropped) = self.dropped.take() {
                let _ = dropped.send(());
            }
        }
    }

    fn counting(length: usize, fails: bool) -> Counting {
        Counting {
            at: 0,
            length,
            fails,
            dropped: None,
        }
    }

    const LENGTHS: [usize; 6] = [
        0,
        1,
        THREAD_AFTER - 1,
        THREAD_AFTER,
        THREAD_AFTER + 3 * CHUNK,
        5_000_001,
    ];

    #[test]
    fn everything_is_read_in_order() {
        for length in LENGTHS {
            let mut read = Vec::new();
            let mut ahead = ReadAhead::new(counting(length, false));
            ahead.read_to_end(&mut read).unwrap();
            assert_eq!(read.len(), length);
            assert!(read.iter().enumerate().all(|(at, byte)| *byte == at as u8));
            assert_eq!(ahead.read(&mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn error_follows_the_data_before_it() {
        for length in LENGTHS {
            let mut read = Vec::new();
            let error = ReadAhead::new(counting(length, true)).read_to_end(&mut read);
            assert_eq!(error.unwrap_err().to_string(), "the end");
            assert_eq!(read.len(), length);
            assert!(ReadAhead::new(counting(length, true)).finish().is_err());
            ReadAhead::new(counting(length, false)).finish().unwrap();
        }
    }

    #[test]
    fn panicking_thread_is_an_error() {
        struct Panicking(usize);
        impl Read for Panicking {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 += buffer.len();
                assert!(self.0 < 2 * THREAD_AFTER);
                Ok(buffer.len())
            }
        }
        let error = ReadAhead::new(Panicking(0)).finish().unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }

    #[test]
    fn dropping_the_reader_drops_the_source() {
        let (dropped, was_dropped) = channel();
        let mut inner = counting(usize::MAX / 2, false);
        inner.dropped = Some(dropped);
        let mut ahead = ReadAhead::new(inner);
        ahead
            .read_exact(&mut vec![0; THREAD_AFTER + CHUNK])
            .unwrap();
        drop(ahead);
        was_dropped.recv().unwrap();
    }
}
