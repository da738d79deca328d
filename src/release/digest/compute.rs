//! Computes digests of data in memory and of streams.

use std::fmt::Write as _;
use std::io;

use sha1::Digest as _;

use super::Algorithm;

const BUFFER: usize = 128 * 1024;

/// The digests of some data, by the requested algorithms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Digests {
    sha1: Option<String>,
    sha256: Option<String>,
    sha512: Option<String>,
}

impl Digests {
    /// Computes digests of data in memory.
    #[must_use]
    pub fn of(bytes: &[u8], algorithms: &[Algorithm]) -> Self {
        let mut hasher = Hasher::new(algorithms);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Reads a stream to its end. Returns the digests and the number of bytes.
    ///
    /// # Errors
    /// Reading fails.
    pub fn of_reader(reader: impl io::Read, algorithms: &[Algorithm]) -> io::Result<(Self, u64)> {
        let mut hasher = Hasher::new(algorithms);
        let size = read_to_end(reader, |bytes| hasher.update(bytes))?;
        Ok((hasher.finish(), size))
    }

    /// The digest by this algorithm in lower-case hex, if it was computed.
    #[must_use]
    pub fn get(&self, algorithm: Algorithm) -> Option<&str> {
        match algorithm {
            Algorithm::Sha1 => self.sha1(),
            Algorithm::Sha256 => self.sha256(),
            Algorithm::Sha512 => self.sha512(),
        }
    }

    /// The SHA-1 in lower-case hex, if it was computed.
    #[must_use]
    pub fn sha1(&self) -> Option<&str> {
        self.sha1.as_deref()
    }

    /// The SHA-256 in lower-case hex, if it was computed.
    #[must_use]
    pub fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }

    /// The SHA-512 in lower-case hex, if it was computed.
    #[must_use]
    pub fn sha512(&self) -> Option<&str> {
        self.sha512.as_deref()
    }
}

/// Computes several digests of a stream.
#[derive(Debug, Clone)]
pub struct Hasher {
    sha1: Option<sha1::Sha1>,
    sha256: Option<sha2::Sha256>,
    sha512: Option<sha2::Sha512>,
}

impl Hasher {
    /// Creates a hasher for these algorithms, possibly none.
    #[must_use]
    pub fn new(algorithms: &[Algorithm]) -> Self {
        Self {
            sha1: algorithms
                .contains(&Algorithm::Sha1)
                .then(sha1::Sha1::default),
            sha256: algorithms
                .contains(&Algorithm::Sha256)
                .then(sha2::Sha256::default),
            sha512: algorithms
                .contains(&Algorithm::Sha512)
                .then(sha2::Sha512::default),
        }
    }

    /// Creates a hasher for all algorithms.
    #[must_use]
    pub fn all() -> Self {
        Self::new(&Algorithm::ALL)
    }

    /// Adds data.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(hasher) = &mut self.sha1 {
            hasher.update(bytes);
        }
        if let Some(hasher) = &mut self.sha256 {
            hasher.update(bytes);
        }
        if let Some(hasher) = &mut self.sha512 {
            hasher.update(bytes);
        }
    }

    /// The digests of all data so far.
    #[must_use]
    pub fn finish(self) -> Digests {
        Digests {
            sha1: self.sha1.map(|hasher| hex(&hasher.finalize())),
            sha256: self.sha256.map(|hasher| hex(&hasher.finalize())),
            sha512: self.sha512.map(|hasher| hex(&hasher.finalize())),
        }
    }
}

/// The digests of a blob: the SHA-256, which identifies the blob, and other requested ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobDigests {
    sha256: String,
    /// All digests, including the SHA-256.
    all: Digests,
}

impl BlobDigests {
    /// Converts digests. Returns `None` if the SHA-256 was not computed.
    #[must_use]
    pub fn new(digests: Digests) -> Option<Self> {
        let sha256 = digests.sha256.clone()?;
        Some(Self {
            sha256,
            all: digests,
        })
    }

    /// Computes the SHA-256 of data in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = BlobHasher::new(&[]);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Reads a stream to its end. Computes the SHA-256 and other requested digests.
    ///
    /// # Errors
    /// Reading fails.
    pub fn of_reader(reader: impl io::Read, others: &[Algorithm]) -> io::Result<Self> {
        let mut hasher = BlobHasher::new(others);
        read_to_end(reader, |bytes| hasher.update(bytes))?;
        Ok(hasher.finish())
    }

    /// The SHA-256 in lower-case hex.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// All computed digests.
    #[must_use]
    pub fn all(&self) -> &Digests {
        &self.all
    }
}

/// Computes the SHA-256 of a stream, and other requested digests.
#[derive(Debug, Clone)]
pub struct BlobHasher {
    sha256: sha2::Sha256,
    /// Computes the other digests, not the SHA-256.
    others: Hasher,
}

impl BlobHasher {
    /// Creates a hasher for SHA-256 and these algorithms.
    #[must_use]
    pub fn new(others: &[Algorithm]) -> Self {
        Self {
            sha256: sha2::Sha256::default(),
            others: Hasher {
                sha256: None,
                ..Hasher::new(others)
            },
        }
    }

    /// Adds data.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.others.update(bytes);
    }

    /// The digests of all data so far.
    #[must_use]
    pub fn finish(self) -> BlobDigests {
        let sha256 = hex(&self.sha256.finalize());
        BlobDigests {
            all: Digests {
                sha256: Some(sha256.clone()),
                ..self.others.finish()
            },
            sha256,
        }
    }
}

/// Reads to the end, and calls `visit` with each piece. Returns the number of bytes.
fn read_to_end(mut reader: impl io::Read, mut visit: impl FnMut(&[u8])) -> io::Result<u64> {
    let (mut buffer, mut size) = (vec![0; BUFFER], 0);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(size),
            Ok(count) => {
                visit(&buffer[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A writer that hashes and counts the data written to another writer.
#[derive(Debug)]
pub struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    count: u64,
}

impl<W> HashingWriter<W> {
    /// Wraps a writer.
    pub fn new(inner: W, hasher: Hasher) -> Self {
        Self {
            inner,
            hasher,
            count: 0,
        }
    }

    /// The number of bytes written so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the inner writer, without flushing it, and the digests of the data so far.
    #[must_use]
    pub fn finish(self) -> (W, Digests) {
        (self.inner, self.hasher.finish())
    }
}

impl<W: io::Write> io::Write for HashingWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        // Hash only the written part: the caller passes the rest again.
        self.hasher.update(&buffer[..written]);
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    // The examples of FIPS 180-2, "abc".
    const SHA1_ABC: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";
    const SHA256_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const SHA512_ABC: &str = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
        2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

    #[test]
    fn published_examples_are_reproduced() {
        let digests = Digests::of(b"abc", &Algorithm::ALL);
        assert_eq!(digests.sha1(), Some(SHA1_ABC));
        assert_eq!(digests.sha256(), Some(SHA256_ABC));
        assert_eq!(digests.sha512(), Some(SHA512_ABC));
        for algorithm in Algorithm::ALL {
            assert_eq!(
                Digests::of(b"abc", &[algorithm]).get(algorithm),
                digests.get(algorithm)
            );
        }
    }

    #[test]
    fn only_requested_digests_are_computed() {
        let digests = Digests::of(b"abc", &[Algorithm::Sha256]);
        assert_eq!(digests.sha1(), None);
        assert_eq!(digests.sha512(), None);
        assert_eq!(Digests::of(b"abc", &[]), Digests::default());
    }

    /// Writes at most three bytes per call.
    struct Slow(Vec<u8>);

    impl io::Write for Slow {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            let n = buffer.len().min(3);
            self.0.extend_from_slice(&buffer[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn readers_and_writers_hash_their_data(data: Vec<u8>) {
            let expected = Digests::of(&data, &Algorithm::ALL);
            let read = Digests::of_reader(data.as_slice(), &Algorithm::ALL)?;
            prop_assert_eq!(&read, &(expected.clone(), data.len() as u64));

            let mut writer = HashingWriter::new(Slow(Vec::new()), Hasher::all());
            writer.write_all(&data)?;
            writer.flush()?;
            prop_assert_eq!(writer.count(), data.len() as u64);
            let (slow, digests) = writer.finish();
            prop_assert_eq!(&slow.0, &data);
            prop_assert_eq!(digests, expected);
        }
    }
}
