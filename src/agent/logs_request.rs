//! Parses the arguments of `fetch_logs`, `fetch_logs_with_signed_url` and `bundle_logs`. No I/O.

use serde_json::{Map, Value};

use super::arguments::{ArgumentError, first, get, object, text, texts};
use crate::blobs::{Headers, SignedUrl};

/// A request for logs.
#[derive(Debug, Clone)]
pub struct LogsRequest {
    /// The kinds of logs: `job`, `agent` and `system`, separated by commas.
    pub kinds: String,
    /// Patterns for the paths of files. Empty means all files.
    pub filters: Vec<String>,
}

impl LogsRequest {
    /// Parses the arguments of `fetch_logs`: kinds, filters.
    ///
    /// # Errors
    /// If the arguments are invalid.
    pub fn of_blobs(arguments: &[Value]) -> Result<Self, ArgumentError> {
        let [kinds, filters] = first(arguments)?;
        Self::new(kinds, filters)
    }

    /// Parses the argument of `fetch_logs_with_signed_url`. Also returns where the archive is
    /// uploaded.
    ///
    /// # Errors
    /// As [`of_blobs`](Self::of_blobs).
    pub fn of_signed_url(
        arguments: &[Value],
    ) -> Result<(Self, (SignedUrl, Headers)), ArgumentError> {
        let [argument] = first(arguments)?;
        let nothing = Map::new();
        let argument = object(argument, "fetch_logs_with_signed_url")?.unwrap_or(&nothing);
        let request = Self::new(get(argument, "log_type"), get(argument, "filters"))?;
        let url = text(get(argument, "signed_url"), "signed_url")?;
        let url = SignedUrl::parse(url).map_err(|error| ArgumentError::Invalid {
            what: "signed_url",
            reason: error.to_string(),
        })?;
        let headers = Headers::from_json(get(argument, "blobstore_headers")).map_err(|error| {
            ArgumentError::Invalid {
                what: "blobstore_headers",
                reason: error.to_string(),
            }
        })?;
        Ok((request, (url, headers)))
    }

    /// Parses the argument of `bundle_logs`. Also returns the name of the user who will own the archive;
    /// empty for the user of this process.
    ///
    /// # Errors
    /// As [`of_blobs`](Self::of_blobs).
    pub fn of_bundle(arguments: &[Value]) -> Result<(Self, String), ArgumentError> {
        let [argument] = first(arguments)?;
        let nothing = Map::new();
        let argument = object(argument, "bundle_logs")?.unwrap_or(&nothing);
        let request = Self::new(get(argument, "log_type"), get(argument, "filters"))?;
        let owner = text(get(argument, "owning_user"), "owning_user")?;
        Ok((request, owner.to_owned()))
    }

    fn new(kinds: &Value, filters: &Value) -> Result<Self, ArgumentError> {
        Ok(Self {
            kinds: text(kinds, "log_type")?.to_owned(),
            filters: texts(filters, "filters")?,
        })
    }
}
