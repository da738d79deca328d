//! Decodes a compressed stream, whatever it is, and checks its end.

use std::fmt;
use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

use super::source::Source;
use super::{Compression, DecodeError};
use crate::archive::CHUNK;

/// How much memory a stream may ask for (xz's dictionary, zstd's window), in bytes as a power of two: 256 MiB.
/// `xz -9` wants 65 MiB, `zstd --ultra -22` 128 MiB.
const MEMORY_LOG: u32 = 28;

/// Decodes what it reads, however it is compressed: several gzip members, bzip2 or xz streams or zstd frames in a row are
/// read as one, and zeros may follow the last.
///
/// Every error carries a [`DecodeError`], unless the input itself could not be read.
pub struct Decoder<R: Read> {
    stream: Stream<R>,
    compression: Compression,
    failed: bool,
}

/// What is being decoded: one member of a kind.
enum Stream<R: Read> {
    Plain(Source<R>),
    Gzip(Box<GzDecoder<Source<R>>>),
    Bzip2(bzip2::bufread::BzDecoder<Source<R>>),
    Xz(liblzma::bufread::XzDecoder<Source<R>>),
    Zstd(zstd::stream::read::Decoder<'static, Source<R>>),
    Ended,
}

impl<R: Read> fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Decoder<R> {
    /// Looks at the beginning of `input` and makes ready to decode it.
    ///
    /// # Errors
    /// When the input is empty, of no known kind, or cannot be read.
    pub fn new(input: R) -> io::Result<Self> {
        let mut source = Source::new(input);
        let beginning = source.peek(Compression::BEGINNING)?;
        if beginning.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                DecodeError::Empty,
            ));
        }
        let compression = Compression::of(beginning)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, DecodeError::Unknown))?;
        Ok(Self {
            stream: Stream::member(compression, source)?,
            compression,
            failed: false,
        })
    }

    /// How the data is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Reads what remains, to the very end of the input.
    ///
    /// A reader of tar stops at the archive's end, which comes before the compression's checksum and length: without
    /// this they would not be looked at.
    ///
    /// # Errors
    /// When the rest is damaged, ends early, is followed by other bytes than zeros, or cannot be read.
    pub fn finish(mut self) -> io::Result<()> {
        let mut rest = vec![0; CHUNK];
        while self.read(&mut rest)? > 0 {}
        Ok(())
    }

    /// After the end of a member: the next one, or the end.
    fn next_member(&mut self) -> io::Result<()> {
        let Some(mut source) = std::mem::replace(&mut self.stream, Stream::Ended).into_source()
        else {
            return Ok(());
        };
        loop {
            let available = source.fill_buf()?;
            let zeros = available.iter().take_while(|byte| **byte == 0).count();
            if zeros == 0 {
                break;
            }
            source.consume(zeros);
        }
        let beginning = source.peek(6)?;
        if beginning.is_empty() {
            return Ok(());
        }
        if Compression::of(beginning) != Some(self.compression) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                DecodeError::TrailingBytes {
                    compression: self.compression,
                },
            ));
        }
        self.stream = Stream::member(self.compression, source)?;
        Ok(())
    }

    /// Says what an error of a decoder means.
    fn explain(&self, error: io::Error) -> io::Error {
        if self.stream.source().is_none_or(|source| source.failed) {
            return error;
        }
        let compression = self.compression;
        // The libraries say these only in words; tests hold them to it.
        let words = error.to_string();
        let kind = error.kind();
        let explained = if kind == io::ErrorKind::UnexpectedEof {
            DecodeError::EndsEarly { compression }
        } else if words.contains("checksum") {
            DecodeError::Checksum { compression }
        } else if words.contains("memory") {
            DecodeError::Memory {
                compression,
                limit: 1 << (MEMORY_LOG - 20),
            }
        } else {
            DecodeError::Damaged {
                compression,
                source: error,
            }
        };
        let kind = if kind == io::ErrorKind::UnexpectedEof {
            kind
        } else {
            io::ErrorKind::InvalidData
        };
        io::Error::new(kind, explained)
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.failed {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                DecodeError::Failed {
                    compression: self.compression,
                },
            ));
        }
        loop {
            let read = match &mut self.stream {
                Stream::Plain(source) => return source.read(buffer),
                Stream::Ended => return Ok(0),
                Stream::Gzip(member) => member.read(buffer),
                Stream::Bzip2(member) => member.read(buffer),
                Stream::Xz(member) => member.read(buffer),
                Stream::Zstd(member) => member.read(buffer),
            };
            let next = match read {
                Ok(0) => self.next_member(),
                Ok(read) => return Ok(read),
                Err(error) => Err(self.explain(error)),
            };
            if let Err(error) = next {
                self.failed = true;
                return Err(error);
            }
        }
    }
}

impl<R: Read> Stream<R> {
    fn member(compression: Compression, source: Source<R>) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(source),
            Compression::Gzip => Self::Gzip(Box::new(GzDecoder::new(source))),
            Compression::Bzip2 => Self::Bzip2(bzip2::bufread::BzDecoder::new(source)),
            Compression::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(1 << MEMORY_LOG, 0)?;
                Self::Xz(liblzma::bufread::XzDecoder::new_stream(source, stream))
            }
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?.single_frame();
                decoder.window_log_max(MEMORY_LOG)?;
                Self::Zstd(decoder)
            }
        })
    }

    fn source(&self) -> Option<&Source<R>> {
        match self {
            Self::Plain(source) => Some(source),
            Self::Gzip(member) => Some(member.get_ref()),
            Self::Bzip2(member) => Some(member.get_ref()),
            Self::Xz(member) => Some(member.get_ref()),
            Self::Zstd(member) => Some(member.get_ref()),
            Self::Ended => None,
        }
    }

    fn into_source(self) -> Option<Source<R>> {
        match self {
            Self::Plain(source) => Some(source),
            Self::Gzip(member) => Some(member.into_inner()),
            Self::Bzip2(member) => Some(member.into_inner()),
            Self::Xz(member) => Some(member.into_inner()),
            Self::Zstd(member) => Some(member.finish()),
            Self::Ended => None,
        }
    }
}
