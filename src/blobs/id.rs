//! The names of blobs.

use std::fmt;

/// A blob's name in a store. It can be the name of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlobId(String);

/// A text that cannot name a blob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be the id of a blob")]
pub struct InvalidBlobId(String);

impl BlobId {
    /// Takes a text that is not empty, is neither `.` nor `..`, and has neither `/` nor NUL in it.
    ///
    /// # Errors
    /// For any other text.
    pub fn parse(text: &str) -> Result<Self, InvalidBlobId> {
        if text.is_empty() || text == "." || text == ".." || text.contains(['/', '\0']) {
            return Err(InvalidBlobId(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    /// A new id that nobody else has: a random UUID in lower case, as the Director insists on.
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().hyphenated().to_string())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_of_a_file_names_no_blob() {
        for text in ["", ".", "..", "a/b", "/etc/passwd", "../x", "a\0"] {
            assert_eq!(
                BlobId::parse(text),
                Err(InvalidBlobId(text.to_owned())),
                "{text:?}"
            );
        }
        assert_eq!(BlobId::parse("..a").unwrap().as_str(), "..a");
    }

    #[test]
    fn a_new_id_is_a_random_uuid_in_lower_case() {
        let id = BlobId::random();
        assert_ne!(id, BlobId::random());
        let uuid = uuid::Uuid::parse_str(id.as_str()).unwrap();
        assert_eq!(uuid.get_version(), Some(uuid::Version::Random));
        assert_eq!(id.as_str(), uuid.hyphenated().to_string());
    }
}
