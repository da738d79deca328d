//! Blobs that a client uploads and fetches again, each a file. Unlike with the Go agent a file is there whole or not at
//! all.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::body::{Body, BodyError};
use super::routes::ResponseBody;
use crate::fs::{self, Context, LeasedFile};
use crate::runtime::{self, TaskFailed};

/// What unfinished uploads are called.
const UNFINISHED: &str = ".bosh-agent-upload-";

/// Who may read a blob, as with the Go agent.
const MODE: u32 = 0o640;

/// How much of a file is read at once.
const PIECE: usize = 256 << 10;

/// How many pieces of an upload wait for the disk.
const WAITING: usize = 4;

/// The directory of blobs.
#[derive(Debug, Clone)]
pub(super) struct Blobs(Arc<Path>);

/// A blob that was not stored or cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BlobError {
    /// No file can have that name.
    #[error("this is no name for a blob")]
    Name,
    /// The body did not arrive whole.
    #[error("the blob did not arrive")]
    Body(#[source] BodyError),
    /// There is less room than the client wants to send.
    #[error("the blob has {announced} bytes, but only {free} are free")]
    NoSpace {
        /// What the client wants to send.
        announced: u64,
        /// What there is.
        free: u64,
    },
    /// The disk.
    #[error("the blob's file cannot be used")]
    File(#[source] fs::Error),
    /// A bug.
    #[error("the blob was lost on the way")]
    Lost(#[source] TaskFailed),
}

/// A blob that is about to be sent.
#[derive(Debug)]
pub(super) struct Blob {
    file: File,
    path: PathBuf,
    length: u64,
}

/// A part of an upload.
enum Piece {
    Bytes(Bytes),
    /// That was all. Without it the upload is not whole.
    End,
}

impl Blobs {
    /// Makes the directory, and removes what uploads have left in it that were cut off with an earlier agent.
    pub(super) async fn open(directory: PathBuf) -> Result<Self, BlobError> {
        let directory: Arc<Path> = directory.into();
        let there = Arc::clone(&directory);
        runtime::spawn_blocking("blobs", move || {
            fs::create_dir_all(&there)?;
            fs::remove_abandoned(&there, UNFINISHED, None);
            Ok(())
        })
        .await
        .map_err(BlobError::Lost)?
        .map_err(BlobError::File)?;
        Ok(Self(directory))
    }

    /// The blob of this name, if there is one.
    pub(super) async fn read(&self, name: &str) -> Result<Option<Blob>, BlobError> {
        let path = self.0.join(name);
        runtime::spawn_blocking("blob", move || {
            // Anything else than a file could block whoever opens it.
            if !fs::lookup(&path)?.is_some_and(|metadata| metadata.is_file()) {
                return Ok(None);
            }
            let file = fs::open(&path)?;
            let length = file.metadata().at("examine", &path)?.len();
            Ok(Some(Blob { file, path, length }))
        })
        .await
        .map_err(BlobError::Lost)?
        .map_err(BlobError::File)
    }

    /// Stores what comes under this name, in place of what has it.
    pub(super) async fn write(&self, name: String, mut body: Body) -> Result<(), BlobError> {
        let directory = Arc::clone(&self.0);
        let announced = body.announced();
        let (pieces, queue) = mpsc::channel(WAITING);
        let writing =
            runtime::spawn_blocking("upload", move || store(&directory, &name, announced, queue));
        let received = loop {
            let next = tokio::select! {
                next = body.next() => next,
                // The disk failed: nobody takes more.
                () = pieces.closed() => break Ok(()),
            };
            let (piece, is_last) = match next {
                Ok(Some(bytes)) => (Piece::Bytes(bytes), false),
                Ok(None) => (Piece::End, true),
                Err(error) => break Err(BlobError::Body(error)),
            };
            if pieces.send(piece).await.is_err() || is_last {
                break Ok(());
            }
        };
        drop(pieces);
        let stored = writing.await.map_err(BlobError::Lost)?;
        received.and(stored)
    }
}

/// Writes the pieces to a file of another name, which gets its own when all have come.
fn store(
    directory: &Path,
    name: &str,
    announced: u64,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<(), BlobError> {
    let free = fs::space(directory).map_err(BlobError::File)?.free;
    if announced > free {
        return Err(BlobError::NoSpace { announced, free });
    }
    let mut write = || {
        let file = LeasedFile::create(directory, UNFINISHED, "")?;
        while let Some(piece) = pieces.blocking_recv() {
            match piece {
                Piece::Bytes(bytes) => file.file().write_all(&bytes).at("write", file.path())?,
                Piece::End => {
                    fs::set_mode(file.path(), MODE)?;
                    return file.persist(&directory.join(name));
                }
            }
        }
        // Whoever sends knows why it is not whole.
        Ok(())
    };
    write().map_err(BlobError::File)
}

impl Blob {
    /// Bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Its content, read as fast as the client takes it.
    pub(super) fn into_body(self) -> ResponseBody {
        let pieces = stream::try_unfold(self, |blob| async move {
            let Blob {
                mut file,
                path,
                length,
            } = blob;
            if length == 0 {
                return Ok(None);
            }
            let reading = runtime::spawn_blocking("blob", move || {
                let mut piece = Vec::new();
                let most = length.min(PIECE as u64);
                let read = (&mut file).take(most).read_to_end(&mut piece);
                let read = read.and_then(|read| match read {
                    // The response's length was told already.
                    0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
                    read => Ok(read as u64),
                });
                let rest = length - read.at("read", &path)?;
                let blob = Blob {
                    file,
                    path,
                    length: rest,
                };
                Ok((Frame::data(Bytes::from(piece)), blob))
            });
            reading
                .await
                .map_err(BlobError::Lost)?
                .map(Some)
                .map_err(BlobError::File)
        });
        StreamBody::new(pieces).boxed_unsync()
    }
}
