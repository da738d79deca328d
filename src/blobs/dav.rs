//! Blobs in the Director's own blobstore, an nginx server with the DAV module. The URL of a blob is
//! `ENDPOINT/XX/ID`, where XX is the first byte of the SHA-1 of the ID in hex.

use std::fmt;
use std::path::Path;

use sha1::{Digest as _, Sha1};

use super::options::StoreOptions;
use super::receive::Download;
use super::retry::ATTEMPTS;
use super::{AttemptError, BlobId, StoreProblem};
use crate::config::Secret;
use crate::http::{Body, Client, Headers, StatusCode, Url};

#[derive(Debug)]
pub(super) struct Dav {
    endpoint: Url,
    /// The authorization header.
    headers: Headers,
    attempts: u32,
    client: Client,
}

impl Dav {
    pub(super) fn new(options: StoreOptions<'_>, client: &Client) -> Result<Self, StoreProblem> {
        let text = |name| {
            options.text(name).map_err(|source| StoreProblem::Option {
                provider: "dav",
                source,
            })
        };
        let endpoint = text("endpoint")?.ok_or(StoreProblem::Missing {
            provider: "dav",
            option: "endpoint",
        })?;
        let user = text("user")?.unwrap_or_default();
        let password = Secret::new(text("password")?.unwrap_or_default());
        let headers = if user.is_empty() {
            Headers::new()
        } else {
            Headers::new().with_basic_authorization(&user, &password)
        };
        Ok(Self {
            endpoint: Url::parse(&endpoint).map_err(StoreProblem::Endpoint)?,
            headers,
            // A setting of zero still means one attempt.
            attempts: options.number("retryattempts").unwrap_or(ATTEMPTS).max(1),
            client: client.clone(),
        })
    }

    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(super) async fn get(
        &self,
        id: &BlobId,
        download: &Download<'_>,
    ) -> Result<(), AttemptError> {
        let response = self.client.get(&self.url(id), &self.headers).await?;
        match response.status() {
            StatusCode::OK => download.receive(response).await,
            status => Err(AttemptError::GetRefused {
                blob: id.to_string(),
                status,
            }),
        }
    }

    pub(super) async fn put(&self, from: &Path, id: &BlobId) -> Result<(), AttemptError> {
        let body = Body::file(from).await?;
        let response = self.client.put(&self.url(id), &self.headers, body).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
            status => Err(AttemptError::PutRefused {
                blob: id.to_string(),
                status,
            }),
        }
    }

    fn url(&self, id: &BlobId) -> Url {
        let first = Sha1::digest(id.as_str())[0];
        self.endpoint
            .with_segments(&[&format!("{first:02x}"), id.as_str()])
    }
}

impl fmt::Display for Dav {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dav blobstore {}", self.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::blobs::BlobstoreSettings;
    use crate::config::Environment;
    use crate::tls;

    fn dav(options: Value) -> Result<Dav, StoreProblem> {
        let settings = BlobstoreSettings {
            provider: "dav".to_owned(),
            options,
        };
        let tls = tls::TlsError::SystemRoots("none in this test".to_owned());
        let client = Client::new(Err(tls), &Environment::default());
        Dav::new(settings.options(), &client)
    }

    #[test]
    fn blob_path_has_the_hash_of_its_id() {
        // printf 7ab1 | sha1sum
        let id = BlobId::parse("7ab1").unwrap();
        let store = dav(json!({"endpoint": "https://10.0.0.6:25250/prefix"})).unwrap();
        assert_eq!(
            store.url(&id).to_string(),
            "https://10.0.0.6:25250/prefix/d4/7ab1"
        );
    }

    #[test]
    fn attempts_default_to_three() {
        for (value, attempts) in [
            (json!(null), 3),
            (json!("5"), 5),
            (json!(0), 1),
            (json!({}), 3),
        ] {
            let options = json!({"endpoint": "http://host", "retryAttempts": value});
            assert_eq!(dav(options).unwrap().attempts(), attempts);
        }
    }

    #[test]
    fn invalid_options_are_reported_without_the_password() {
        for (options, message) in [
            (json!({}), "the dav blobstore lacks the option `endpoint`"),
            (
                json!({"endpoint": "user:hunter2@host"}),
                "the endpoint of the dav blobstore cannot be used: not an http or https URL",
            ),
            (
                json!({"endpoint": "http://host", "password": {"hunter2": 1}, "user": "x"}),
                "the dav blobstore cannot be used: the option `password` is not a string",
            ),
        ] {
            let problem = dav(options).unwrap_err();
            assert_eq!(crate::diag::Chain(&problem).to_string(), message);
        }
        let store =
            dav(json!({"endpoint": "http://u:hunter2@h", "user": "u", "password": "hunter2"}));
        let store = store.unwrap();
        assert!(!format!("{store} {store:?}").contains("hunter2"));
    }
}
