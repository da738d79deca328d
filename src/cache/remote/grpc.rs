//! A shared cache on a server of the Remote Execution API. The server's action cache stores the
//! entries of packages, and its content-addressable storage (CAS) stores their files.
//!
//! ```text
//! messages  what is stored for a package, and under which digest (pure)
//! ```

mod messages;

use std::path::Path;
use std::sync::Arc;

use super::credentials::Credentials;
use super::error::RemoteError;
use super::receiver::Receiver;
use crate::cache::entry::{Content, Entry};
use crate::cache::key::Key;
use crate::cache::local::LocalCache;
use crate::http::{Body, Client, Timeouts, Url};
use crate::reapi::{Blob, Code, Digest, Server};

/// The maximum length of an entry in bytes. The entries that the agent writes are shorter.
const LONGEST_ENTRY: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct GrpcServer {
    server: Server,
}

impl GrpcServer {
    /// Creates a client. Reads the netrc file, if there is one.
    pub(super) fn new(
        url: &Url,
        credentials: &Credentials,
        client: &Client,
        timeouts: [Timeouts; 2],
    ) -> Self {
        Self {
            server: Server::new(url, credentials.headers(url), client, timeouts),
        }
    }

    pub(super) async fn find(&self, name: &str, key: &Key) -> Result<Option<Entry>, RemoteError> {
        self.server.capabilities().await?;
        let [action, _] = messages::action(name, key);
        let Some(result) = self.server.action_result(&action.digest).await? else {
            return Ok(None);
        };
        let digest = result.stdout_digest.as_ref().and_then(Digest::parse);
        let text = match (result.stdout_raw, digest) {
            (inline, _) if !inline.is_empty() => inline,
            (_, Some(digest)) => match self.server.read_small(&digest, LONGEST_ENTRY).await? {
                Some(text) => text,
                None => return Ok(None),
            },
            (_, None) => Vec::new(),
        };
        let entry = Entry::decode(&text, name, key);
        entry.map(Some).map_err(|kind| RemoteError::Wrong {
            file: format!("the result of action {}", action.digest.sha256),
            problem: kind.to_string(),
        })
    }

    /// Fetches a content into a local cache; `false` if the server does not have the content.
    pub(super) async fn fetch(
        &self,
        content: &Content,
        into: &Arc<LocalCache>,
    ) -> Result<bool, RemoteError> {
        let digest = messages::digest(content);
        let Some(mut parts) = self.server.read(&digest).await? else {
            return Ok(false);
        };
        let mut receiver = Receiver::new(content, into);
        loop {
            match parts.next().await {
                Ok(Some(part)) => receiver.push(part).await?,
                Ok(None) => break,
                Err(error) if error.code() == Some(Code::NotFound) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        receiver.finish().await.map(|()| true)
    }

    /// Stores a package: its files, the blobs of its action, and then the action's result with the
    /// package's entry.
    pub(super) async fn store(
        &self,
        entry: &Entry,
        files: &[(&Content, &Path)],
    ) -> Result<(), RemoteError> {
        let capabilities = *self.server.capabilities().await?;
        if !capabilities.is_updatable {
            return Err(RemoteError::Unsuitable("it does not accept action results"));
        }
        let text = Blob::new(entry.encode()?);
        let [action, command] = messages::action(&entry.parts.name, &entry.key());
        let result = messages::result(entry, &text);
        let action_digest = action.digest.clone();
        let small = [text, action, command];
        let contents = files
            .iter()
            .map(|(content, file)| (messages::digest(content), *file));
        let contents: Vec<(Digest, &Path)> = contents.collect();
        let digests = contents.iter().map(|(digest, _)| digest);
        let all = small.iter().map(|blob| &blob.digest).chain(digests);
        let missing = self.server.missing(all).await?;
        for (digest, file) in &contents {
            if missing.contains(&digest.sha256) {
                let body = Body::file(file).await?;
                self.server.write(digest, body).await?;
            }
        }
        let small = small.into_iter();
        let small = small.filter(|blob| missing.contains(&blob.digest.sha256));
        let batch = capabilities.batch;
        self.server.store_small(small.collect(), batch).await?;
        let updating = self.server.update_action_result(&action_digest, result);
        let Err(error) = updating.await else {
            return Ok(());
        };
        let (name, key) = (&entry.parts.name, entry.key());
        match error.code() {
            Some(Code::AlreadyExists) => Ok(()),
            // Some servers refuse to overwrite an existing result.
            Some(Code::PermissionDenied | Code::FailedPrecondition | Code::Aborted) => {
                match self.find(name, &key).await {
                    Ok(Some(found)) if found.can_replace(entry) => Ok(()),
                    _ => Err(error.into()),
                }
            }
            _ => Err(error.into()),
        }
    }
}
