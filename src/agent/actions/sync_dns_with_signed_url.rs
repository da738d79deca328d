//! `sync_dns_with_signed_url`: updates the DNS records of this machine from a signed URL.

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::Value;

use super::sync_dns::{SyncDnsError, sync};
use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::short_requests::DnsRequest;

pub(in crate::agent) const ACTION: Action = Action::Immediate(|agent, arguments| {
    sync_dns(agent, arguments).map_err(ActionError::new).boxed()
});

async fn sync_dns(agent: &Agent, arguments: &[Value]) -> Result<Value, SyncDnsError> {
    sync(agent, DnsRequest::of_signed_url(arguments)?).await
}
