//! IDs of blobs.

use std::fmt;

use crate::release::name::excerpt;

/// A blob's name in a store. It is also a valid file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlobId(String);

/// The text is not a blob's id. The error contains an excerpt of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" cannot be the id of a blob")]
pub struct InvalidBlobId(String);

impl BlobId {
    /// Parses an id.
    ///
    /// # Errors
    /// If the text is empty, is `.` or `..`, or contains `/` or NUL.
    pub fn parse(text: &str) -> Result<Self, InvalidBlobId> {
        if text.is_empty() || text == "." || text == ".." || text.contains(['/', '\0']) {
            return Err(InvalidBlobId(excerpt(text)));
        }
        Ok(Self(text.to_owned()))
    }

    /// A new ID: a random UUID in lower case, as a Director requires.
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
    fn id_must_be_a_file_name() {
        for text in ["", ".", "..", "a/b", "/etc/passwd", "../x", "a\0"] {
            let error = BlobId::parse(text).unwrap_err();
            let expected = format!("{text:?} cannot be the id of a blob");
            assert_eq!(error.to_string(), expected);
        }
        let error = BlobId::parse(&"/".repeat(1 << 20)).unwrap_err();
        assert!(error.to_string().len() < 500, "{error}");
        assert_eq!(BlobId::parse("..a").unwrap().as_str(), "..a");
    }

    #[test]
    fn new_id_is_a_random_lower_case_uuid() {
        let id = BlobId::random();
        assert_ne!(id, BlobId::random());
        let uuid = uuid::Uuid::parse_str(id.as_str()).unwrap();
        assert_eq!(uuid.get_version(), Some(uuid::Version::Random));
        assert_eq!(id.as_str(), uuid.hyphenated().to_string());
    }
}
