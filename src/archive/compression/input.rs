//! The buffered input of a decoder.

use std::io::{self, BufRead, Read};

use crate::archive::CHUNK;

/// Buffers compressed data, so that a decoder can look ahead. Records whether an error comes from reading the input or from the data.
pub(super) struct Input<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Whether reading failed. The data itself may then be undamaged.
    pub(super) failed: bool,
}

impl<R: Read> Input<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: vec![0; CHUNK].into_boxed_slice(),
            start: 0,
            end: 0,
            failed: false,
        }
    }

    /// Returns the next `wanted` bytes, or fewer at the end of the input, without consuming them.
    pub(super) fn peek(&mut self, wanted: usize) -> io::Result<&[u8]> {
        if self.start + wanted > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < wanted {
            if self.fill()? == 0 {
                break;
            }
        }
        let end = self.end.min(self.start + wanted);
        Ok(&self.buffer[self.start..end])
    }

    /// Reads more into the buffer. Returns the number of bytes, 0 at the end of the input.
    fn fill(&mut self) -> io::Result<usize> {
        loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(read) => {
                    self.end += read;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = true;
                    return Err(error);
                }
            }
        }
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let read = available.len().min(buffer.len());
        buffer[..read].copy_from_slice(&available[..read]);
        self.consume(read);
        Ok(read)
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.fill()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, amount: usize) {
        self.start = self.end.min(self.start + amount);
    }
}
