//! Decodes a compressed stream of any known format, and checks its trailer.

use std::fmt;
use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

use super::input::Input;
use super::{Compression, DecodeError};
use crate::archive::CHUNK;

/// The binary logarithm of the memory limit for decoding (xz's dictionary, zstd's window), in bytes: 28 means 256 MiB.
/// `xz -9` needs 65 MiB, `zstd --ultra -22` 128 MiB.
const MEMORY_LOG: u32 = 28;

/// Decodes an input of any known compression. Decodes consecutive gzip members, bzip2 streams, xz streams or zstd frames as one
/// stream. Only zeros may follow the last of them.
///
/// Each error contains a `DecodeError`, unless the input itself could not be read.
pub struct Decoder<R: Read> {
    member: Member<R>,
    compression: Compression,
    failed: bool,
}

/// The part of the input that is being decoded, such as a gzip member.
enum Member<R: Read> {
    Plain(Input<R>),
    Gzip(Box<GzDecoder<Input<R>>>),
    Bzip2(bzip2::bufread::BzDecoder<Input<R>>),
    Xz(liblzma::bufread::XzDecoder<Input<R>>),
    Zstd(zstd::stream::read::Decoder<'static, Input<R>>),
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
    /// Detects the compression from the beginning of `input`.
    ///
    /// # Errors
    /// If the input is empty, of unknown format, or cannot be read.
    pub fn new(input: R) -> io::Result<Self> {
        let mut input = Input::new(input);
        let beginning = input.peek(Compression::BEGINNING)?;
        if beginning.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                DecodeError::Empty,
            ));
        }
        let compression = Compression::detect(beginning)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, DecodeError::Unknown))?;
        Ok(Self {
            member: Member::new(compression, input)?,
            compression,
            failed: false,
        })
    }

    /// How the data is compressed.
    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// Reads the rest of the input and discards it.
    ///
    /// A reader of tar stops at the end of the archive. The checksum and length of the compressed data come later and would not be
    /// verified without this call.
    ///
    /// # Errors
    /// If the rest is damaged, ends early, is followed by bytes other than zeros, or cannot be read.
    pub fn finish(mut self) -> io::Result<()> {
        let mut rest = vec![0; CHUNK];
        while self.read(&mut rest)? > 0 {}
        Ok(())
    }

    /// Starts the next member, or ends after the last one.
    fn next_member(&mut self) -> io::Result<()> {
        let Some(mut input) = std::mem::replace(&mut self.member, Member::Ended).into_input()
        else {
            return Ok(());
        };
        loop {
            let available = input.fill_buf()?;
            let zeros = available.iter().take_while(|byte| **byte == 0).count();
            if zeros == 0 {
                break;
            }
            input.consume(zeros);
        }
        // The longest magic number, that of xz, has six bytes.
        let beginning = input.peek(6)?;
        if beginning.is_empty() {
            return Ok(());
        }
        if Compression::detect(beginning) != Some(self.compression) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                DecodeError::TrailingBytes {
                    compression: self.compression,
                },
            ));
        }
        self.member = Member::new(self.compression, input)?;
        Ok(())
    }

    /// Converts an error of a decompression library to an error with a `DecodeError` inside. Returns an error of the input unchanged.
    fn explain(&self, error: io::Error) -> io::Error {
        if self.member.input().is_none_or(|input| input.failed) {
            return error;
        }
        let compression = self.compression;
        // The libraries report some problems only in the text of the error. Tests detect changes of the texts.
        let text = error.to_string();
        let kind = error.kind();
        let explained = if kind == io::ErrorKind::UnexpectedEof {
            DecodeError::EndsEarly { compression }
        } else if text.contains("checksum") {
            DecodeError::Checksum { compression }
        } else if text.contains("memory") {
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
            let read = match &mut self.member {
                Member::Plain(input) => return input.read(buffer),
                Member::Ended => return Ok(0),
                Member::Gzip(member) => member.read(buffer),
                Member::Bzip2(member) => member.read(buffer),
                Member::Xz(member) => member.read(buffer),
                Member::Zstd(member) => member.read(buffer),
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

impl<R: Read> Member<R> {
    fn new(compression: Compression, input: Input<R>) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(input),
            Compression::Gzip => Self::Gzip(Box::new(GzDecoder::new(input))),
            Compression::Bzip2 => Self::Bzip2(bzip2::bufread::BzDecoder::new(input)),
            Compression::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(1 << MEMORY_LOG, 0)?;
                Self::Xz(liblzma::bufread::XzDecoder::new_stream(input, stream))
            }
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?.single_frame();
                decoder.window_log_max(MEMORY_LOG)?;
                Self::Zstd(decoder)
            }
        })
    }

    fn input(&self) -> Option<&Input<R>> {
        match self {
            Self::Plain(input) => Some(input),
            Self::Gzip(member) => Some(member.get_ref()),
            Self::Bzip2(member) => Some(member.get_ref()),
            Self::Xz(member) => Some(member.get_ref()),
            Self::Zstd(member) => Some(member.get_ref()),
            Self::Ended => None,
        }
    }

    fn into_input(self) -> Option<Input<R>> {
        match self {
            Self::Plain(input) => Some(input),
            Self::Gzip(member) => Some(member.into_inner()),
            Self::Bzip2(member) => Some(member.into_inner()),
            Self::Xz(member) => Some(member.into_inner()),
            Self::Zstd(member) => Some(member.finish()),
            Self::Ended => None,
        }
    }
}
