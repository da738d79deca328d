//! A time limit for peers that neither send nor receive.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A stream that fails if a read or a write is pending and no byte is transferred in either
/// direction for some time.
///
/// This detects a peer that has disappeared. A whole transfer has no time limit, because its time
/// depends on the size of the blob and on the network.
///
/// A server may refuse an upload by sending a response and closing the connection. The response is
/// more useful than the error "broken pipe", so a failed write does not fail the stream: the write
/// stays pending until a read returns the response or the same error.
#[derive(Debug)]
pub(super) struct StallTimeout<T> {
    inner: T,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    /// Whether the timer is running. It starts with the first pending operation after the last
    /// transferred byte.
    waiting: bool,
    write_failed: bool,
}

impl<T> StallTimeout<T> {
    pub(super) fn new(inner: T, limit: Duration) -> Self {
        Self {
            inner,
            limit,
            timer: Box::pin(tokio::time::sleep(limit)),
            waiting: false,
            write_failed: false,
        }
    }

    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if !self.waiting {
            self.timer.as_mut().reset(Instant::now() + self.limit);
            self.waiting = true;
        }
        ready!(self.timer.as_mut().poll(context));
        Poll::Ready(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no data transferred for {} s", self.limit.as_secs_f32()),
        ))
    }

    fn write(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(&mut T, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.write_failed {
            return self.wait(context).map(Err);
        }
        match write(&mut self.inner, context) {
            Poll::Ready(Ok(written)) => {
                // A pending read waits for the same timer, so restart it.
                if self.waiting {
                    self.timer.as_mut().reset(Instant::now() + self.limit);
                }
                Poll::Ready(Ok(written))
            }
            Poll::Ready(Err(error)) if is_gone(&error) => {
                self.write_failed = true;
                self.wait(context).map(Err)
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.wait(context).map(Err),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

impl<T: AsyncRead + Unpin> AsyncRead for StallTimeout<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_read(context, buffer) {
            Poll::Ready(result) => {
                self.waiting = false;
                Poll::Ready(result)
            }
            Poll::Pending => self.wait(context).map(Err),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for StallTimeout<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(context, |inner, context| {
            Pin::new(inner).poll_write(context, buffer)
        })
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(context, |inner, context| {
            Pin::new(inner).poll_write_vectored(context, buffers)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    // Flushing and shutting down a TCP stream does not wait for the peer.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn silent_peer_times_out_and_slow_one_does_not() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut stream = StallTimeout::new(ours, LIMIT);
        let start = Instant::now();
        for _ in 0..3 {
            tokio::time::sleep(LIMIT * 9 / 10).await;
            let (written, read) = tokio::join!(
                async {
                    tokio::time::sleep(LIMIT * 9 / 10).await;
                    theirs.write_u8(1).await
                },
                stream.read_u8()
            );
            written.unwrap();
            assert_eq!(read.unwrap(), 1);
        }
        let before = start.elapsed();
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "no data transferred for 300 s");
        assert!(start.elapsed() - before >= LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn written_byte_restarts_the_timer_of_a_pending_read() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let (mut read, mut write) = tokio::io::split(StallTimeout::new(ours, LIMIT));
        let start = Instant::now();
        let (error, ()) = tokio::join!(read.read_u8(), async {
            tokio::time::sleep(LIMIT / 2).await;
            write.write_u8(1).await.unwrap();
        });
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let waited = start.elapsed();
        assert!(waited >= LIMIT * 3 / 2 && waited < LIMIT * 2, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_stops_reading_times_out() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut stream = StallTimeout::new(ours, LIMIT);
        let error = stream.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn response_before_close_is_readable_after_a_failed_write() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let (mut read, mut write) = tokio::io::split(StallTimeout::new(ours, LIMIT));
        theirs.write_all(b"403").await.unwrap();
        drop(theirs);
        let mut answer = String::new();
        tokio::select! {
            result = write.write_all(&[0; 64]) => panic!("{result:?}"),
            result = read.read_to_string(&mut answer) => { result.unwrap(); }
        }
        assert_eq!(answer, "403");
    }
}
