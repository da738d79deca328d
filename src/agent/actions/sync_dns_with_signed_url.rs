//! `sync_dns_with_signed_url`: updates the DNS records of this machine from a signed URL.

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::{Map, Value};

use super::sync_dns::{RecordsBlob, SyncDnsError, number, sync};
use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::arguments::{ArgumentError, first, get, object, parsed};
use crate::blobs::{Headers, SignedUrl};
use crate::release::MultiDigest;

pub(in crate::agent) const ACTION: Action = Action::Immediate(|agent, arguments| {
    sync_dns(agent, arguments).map_err(ActionError::new).boxed()
});

async fn sync_dns(agent: &Agent, arguments: &[Value]) -> Result<Value, SyncDnsError> {
    let [argument] = first(arguments)?;
    let nothing = Map::new();
    let argument = object(argument, "sync_dns_with_signed_url")?.unwrap_or(&nothing);
    let url = parsed(get(argument, "signed_url"), "signed_url", SignedUrl::parse)?;
    let digest = get(argument, "multi_digest");
    let digest = parsed(digest, "multi_digest", MultiDigest::parse)?;
    let version = number(get(argument, "version"))?;
    let headers = get(argument, "blobstore_headers");
    let headers = Headers::from_json(headers).map_err(|error| ArgumentError::Invalid {
        what: "blobstore_headers",
        reason: error.to_string(),
    })?;
    sync(agent, &RecordsBlob::Signed(url, headers), &digest, version).await
}
