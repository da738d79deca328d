//! Stores the blobs that clients upload over HTTPS, one file each, and sends them back. Unlike in
//! the Go agent, the file appears only when the upload is complete.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::body::{RequestBody, RequestBodyError};
use crate::fs::{self, Context, LeasedFile};
use crate::machine::data::{DataDirectory, ReplacedData};
use crate::runtime::{self, TaskFailed};

/// The prefix of unfinished uploads.
const UNFINISHED: &str = ".bosh-agent-upload-";

/// The mode of a blob's file, as in the Go agent.
const MODE: u32 = 0o640;

/// How many bytes of a file are read at once.
const PIECE: usize = 256 << 10;

/// The maximum number of received pieces that wait to be written.
const QUEUE_LEN: usize = 4;

/// The body of a response.
pub(super) type ResponseBody = UnsyncBoxBody<Bytes, UploadedBlobError>;

/// The directory of uploaded blobs.
#[derive(Debug, Clone)]
pub(super) struct UploadedBlobs(DataDirectory);

/// Why a blob cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadedBlobError {
    /// The name is not a valid file name.
    #[error("invalid blob name")]
    Name,
    /// The body is incomplete.
    #[error("the upload of the blob is incomplete")]
    Body(#[source] RequestBodyError),
    /// The disk has less space than the client announced.
    #[error("the blob has {announced} bytes, but only {free} are free")]
    NoSpace {
        /// The announced length in bytes.
        announced: u64,
        /// The free space in bytes.
        free: u64,
    },
    /// A file operation failed.
    #[error("failed to access the file of the blob")]
    File(#[from] fs::Error),
    /// The data directory may not be used.
    #[error(transparent)]
    Data(#[from] ReplacedData),
    /// The task that writes the file panicked.
    #[error("the transfer of the blob failed")]
    Lost(#[source] TaskFailed),
}

/// A stored blob that is open for sending.
#[derive(Debug)]
pub(super) struct OpenBlob {
    file: File,
    path: PathBuf,
    length: u64,
}

/// A part of an upload.
enum UploadPiece {
    Bytes(Bytes),
    /// The upload is complete.
    End,
}

impl UploadedBlobs {
    /// Removes unfinished uploads of an earlier process in the directory, which may be missing.
    pub(super) async fn open(data: DataDirectory) -> Result<Self, UploadedBlobError> {
        let own = data.clone();
        let removing = runtime::spawn_blocking("blobs", move || {
            if let Ok(directory) = own.blobs()
                && directory.is_dir()
            {
                fs::remove_abandoned_files(&directory, UNFINISHED);
            }
        });
        removing.await.map_err(UploadedBlobError::Lost)?;
        Ok(Self(data))
    }

    /// Opens the blob with this name, if it exists.
    pub(super) async fn read(&self, name: &str) -> Result<Option<OpenBlob>, UploadedBlobError> {
        let (data, name) = (self.0.clone(), name.to_owned());
        let reading = runtime::spawn_blocking("blob", move || {
            let path = data.blobs()?.join(name);
            // Opening a file of another kind, such as a FIFO, could block.
            if !fs::lookup(&path)?.is_some_and(|metadata| metadata.is_file()) {
                return Ok(None);
            }
            let file = fs::open(&path)?;
            let length = file.metadata().at("examine", &path)?.len();
            Ok(Some(OpenBlob { file, path, length }))
        });
        reading.await.map_err(UploadedBlobError::Lost)?
    }

    /// Stores the body as a blob with this name, replacing an existing blob.
    pub(super) async fn write(
        &self,
        name: String,
        mut body: RequestBody,
    ) -> Result<(), UploadedBlobError> {
        let data = self.0.clone();
        let announced = body.announced();
        let (pieces, queue) = mpsc::channel(QUEUE_LEN);
        let writing = runtime::spawn_blocking("upload", move || {
            store(&data.blobs()?, &name, announced, queue)
        });
        let received = loop {
            let next = tokio::select! {
                next = body.next() => next,
                // Writing has failed, so no more pieces are accepted.
                () = pieces.closed() => break Ok(()),
            };
            let (piece, is_last) = match next {
                Ok(Some(bytes)) => (UploadPiece::Bytes(bytes), false),
                Ok(None) => (UploadPiece::End, true),
                Err(error) => break Err(UploadedBlobError::Body(error)),
            };
            if pieces.send(piece).await.is_err() || is_last {
                break Ok(());
            }
        };
        drop(pieces);
        let stored = writing.await.map_err(UploadedBlobError::Lost)?;
        received.and(stored)
    }
}

/// Writes the pieces to a temporary file, and renames the file after the last one.
fn store(
    directory: &Path,
    name: &str,
    announced: u64,
    mut pieces: mpsc::Receiver<UploadPiece>,
) -> Result<(), UploadedBlobError> {
    let free = fs::space(directory).map_err(UploadedBlobError::File)?.free;
    if announced > free {
        return Err(UploadedBlobError::NoSpace { announced, free });
    }
    let mut write = || {
        fs::create_dir_all(directory)?;
        let file = LeasedFile::create(directory, UNFINISHED, "")?;
        while let Some(piece) = pieces.blocking_recv() {
            match piece {
                UploadPiece::Bytes(bytes) => {
                    file.file().write_all(&bytes).at("write", file.path())?
                }
                UploadPiece::End => {
                    fs::set_mode(file.path(), MODE)?;
                    return file.persist(&directory.join(name));
                }
            }
        }
        // The upload is incomplete. The sender of the pieces reports why.
        Ok(())
    };
    write().map_err(UploadedBlobError::File)
}

impl OpenBlob {
    /// The length in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The blob's bytes as a response body. The file is read as fast as the client receives.
    pub(super) fn into_body(self) -> ResponseBody {
        let pieces = stream::try_unfold(self, |blob| async move {
            let OpenBlob {
                mut file,
                path,
                length,
            } = blob;
            if length == 0 {
                return Ok(None);
            }
            let reading = runtime::spawn_blocking("blob", move || {
                let mut piece = Vec::new();
                let limit = length.min(PIECE as u64);
                let read = (&mut file).take(limit).read_to_end(&mut piece);
                let read = read.and_then(|read| match read {
                    // The file became shorter than the length that the response announced.
                    0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
                    read => Ok(read as u64),
                });
                let rest = length - read.at("read", &path)?;
                let blob = OpenBlob {
                    file,
                    path,
                    length: rest,
                };
                Ok((Frame::data(Bytes::from(piece)), blob))
            });
            reading
                .await
                .map_err(UploadedBlobError::Lost)?
                .map(Some)
                .map_err(UploadedBlobError::File)
        });
        StreamBody::new(pieces).boxed_unsync()
    }
}
