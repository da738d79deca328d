//! Bodies of requests.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

use crate::fs::{self, Context as _};
use crate::runtime;

/// Size of the parts in which a file is read, in bytes.
const CHUNK: usize = 128 * 1024;

/// The maximum number of chunks that are read ahead.
const AHEAD: usize = 4;

/// The body of a request. It is empty, consists of bytes in memory, or is a file that a separate
/// thread reads while the body is sent.
pub(crate) struct Body {
    /// The number of bytes that are left to send.
    remaining: u64,
    /// A future that must be ready before the first byte is sent.
    start: Option<BoxFuture<'static, ()>>,
    chunks: mpsc::Receiver<fs::Result<Bytes>>,
    _reading: Option<runtime::Task<()>>,
}

impl Body {
    /// An empty body.
    #[must_use]
    pub(crate) fn empty() -> Self {
        Self {
            remaining: 0,
            start: None,
            chunks: mpsc::channel(1).1,
            _reading: None,
        }
    }

    /// A body of these bytes.
    #[must_use]
    pub(crate) fn bytes(bytes: Bytes) -> Self {
        let (sender, chunks) = mpsc::channel(1);
        let remaining = bytes.len() as u64;
        // Do not send an empty chunk, because it would become a frame without data.
        if remaining > 0 {
            let _ = sender.try_send(Ok(bytes));
        }
        Self {
            remaining,
            start: None,
            chunks,
            _reading: None,
        }
    }

    /// The contents of a file. The body has the file's current length: data that is appended later
    /// is not sent, and the request fails if the file gets shorter.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub(crate) async fn file(path: &Path) -> fs::Result<Self> {
        Self::file_from(path, 0).await
    }

    /// The contents of a file after the first `offset` bytes.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub(crate) async fn file_from(path: &Path, offset: u64) -> fs::Result<Self> {
        let own = path.to_owned();
        let opening = runtime::spawn_blocking("open", move || {
            let mut file = fs::open(&own)?;
            let length = file.metadata().at("examine", &own)?.len();
            file.seek(SeekFrom::Start(offset)).at("read", &own)?;
            Ok::<_, fs::Error>((file, length.saturating_sub(offset)))
        });
        let opened = opening.await.map_err(io::Error::other);
        let (file, length) = opened.at("open", path)??;
        let (sender, chunks) = mpsc::channel(AHEAD);
        let path = path.to_owned();
        let reading =
            runtime::spawn_blocking("upload", move || read(&file, length, &path, &sender));
        Ok(Self {
            remaining: length,
            start: None,
            chunks,
            _reading: Some(reading),
        })
    }

    /// The number of bytes that are left to send.
    #[must_use]
    pub(crate) fn length(&self) -> u64 {
        self.remaining
    }

    /// Delays the first byte until `start` is ready.
    pub(super) fn delayed_until(
        mut self,
        start: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.start = Some(Box::pin(start));
        self
    }
}

fn read(mut file: &File, length: u64, path: &Path, to: &mpsc::Sender<fs::Result<Bytes>>) {
    let mut remaining = length;
    while remaining > 0 {
        let length = CHUNK.min(usize::try_from(remaining).unwrap_or(CHUNK));
        let mut chunk = vec![0; length];
        let result = file.read_exact(&mut chunk).at("read", path);
        let failed = result.is_err();
        // Sending fails if the request has ended.
        if to.blocking_send(result.map(|()| chunk.into())).is_err() || failed {
            return;
        }
        remaining -= length as u64;
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = fs::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, fs::Error>>> {
        if let Some(start) = &mut self.start {
            ready!(start.as_mut().poll(context));
            self.start = None;
        }
        let chunk = ready!(self.chunks.poll_recv(context));
        if let Some(Ok(chunk)) = &chunk {
            self.remaining -= chunk.len() as u64;
        }
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn file_is_sent_in_chunks_after_the_start_signal() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        let contents: Vec<u8> = (0..CHUNK * 3 + 5).map(|number| number as u8).collect();
        fs::write(&path, &contents).unwrap();
        let (start, started) = tokio::sync::oneshot::channel::<()>();
        let mut body = Body::file(&path).await.unwrap().delayed_until(async {
            let _ = started.await;
        });
        assert!(futures_util::poll!(std::pin::pin!(body.frame())).is_pending());
        start.send(()).unwrap();
        let mut sent = Vec::new();
        while let Some(frame) = body.frame().await {
            let chunk = frame.unwrap().into_data().unwrap();
            assert!(chunk.len() <= CHUNK);
            sent.extend_from_slice(&chunk);
        }
        assert_eq!(sent, contents);
    }

    #[tokio::test]
    async fn file_is_sent_from_an_offset() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        fs::write(&path, b"0123456789").unwrap();
        for (offset, rest) in [(7, "789"), (10, ""), (11, "")] {
            let body = Body::file_from(&path, offset).await.unwrap();
            assert_eq!(body.length(), rest.len() as u64);
            assert_eq!(body.collect().await.unwrap().to_bytes(), rest);
        }
    }

    #[tokio::test]
    async fn file_truncated_during_the_upload_is_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        fs::write(&path, &vec![0; CHUNK * (AHEAD + 4)]).unwrap();
        let mut body = Body::file(&path).await.unwrap();
        body.frame().await.unwrap().unwrap();
        let file = std::fs::OpenOptions::new();
        fs::open_with(file.clone().write(true), &path)
            .unwrap()
            .set_len(0)
            .unwrap();
        let mut last = Ok(());
        while let Some(frame) = body.frame().await {
            last = frame.map(drop);
        }
        assert_eq!(
            last.unwrap_err().to_string(),
            format!("failed to read `{}`", path.display())
        );
    }

    #[tokio::test]
    async fn empty_body_has_length_zero() {
        let mut body = Body::empty();
        assert_eq!(hyper::body::Body::size_hint(&body).exact(), Some(0));
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn bytes_are_sent_in_one_frame() {
        let mut body = Body::bytes(Bytes::from_static(b"text"));
        assert_eq!(body.length(), 4);
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "text");
        assert!(body.frame().await.is_none());
    }
}
