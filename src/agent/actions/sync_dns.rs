//! `sync_dns`: updates the DNS records of this machine from a blob.

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::{Value, json};

use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::arguments::ArgumentError;
use crate::agent::short_requests::{DnsRequest, RecordsBlob};
use crate::blobs::{BlobError, Persistence};
use crate::fs;
use crate::machine::bootstrap::Platform;
use crate::machine::dns::{DnsError, DnsRecords, LONGEST, beginning, saved_version};
use crate::runtime::{self, TaskFailed};

pub(in crate::agent) const ACTION: Action = Action::Immediate(|agent, arguments| {
    sync_dns(agent, arguments).map_err(ActionError::new).boxed()
});

/// The prefix of fetched records. If the agent is killed, its next start removes them.
const TEMPORARY: &str = ".bosh-agent-dns-";

#[derive(Debug, thiserror::Error)]
pub(super) enum SyncDnsError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error("fetching new DNS records")]
    Fetch(#[from] BlobError),
    #[error("the DNS records have more than {LONGEST} bytes")]
    TooLong,
    #[error(transparent)]
    Records(#[from] DnsError),
    #[error("saving DNS records")]
    Save(#[from] fs::Error),
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

async fn sync_dns(agent: &Agent, arguments: &[Value]) -> Result<Value, SyncDnsError> {
    sync(agent, DnsRequest::of_blob(arguments)?).await
}

/// Fetches and saves records, unless the machine has them or newer ones.
pub(super) async fn sync(agent: &Agent, request: DnsRequest) -> Result<Value, SyncDnsError> {
    let version = request.version;
    if !is_new(agent, version).await? {
        return Ok(json!("synced"));
    }
    let data = agent.data();
    let making = runtime::spawn_blocking("dns", move || data.private_file(TEMPORARY, ""));
    let file = making.await??;
    let (blobs, stopping) = (agent.blobs(), agent.tasks().stopping());
    let (digest, to, brief) = (&request.digest, file.path(), Persistence::Brief);
    match &request.blob {
        RecordsBlob::Blobstore(id) => blobs.get(id, digest, to, brief, stopping).await?,
        RecordsBlob::Signed(url, headers) => {
            let fetching = blobs.get_signed(url, headers, digest, to, brief, stopping);
            fetching.await?;
        }
    }
    let reading = runtime::spawn_blocking("dns", move || {
        let (text, is_whole) = beginning(file.path(), LONGEST)?;
        match is_whole {
            true => Ok(DnsRecords::parse(text, version)?),
            false => Err(SyncDnsError::TooLong),
        }
    });
    let records = reading.await??;
    let _changing = agent.state.changing_system.lock().await;
    // Another request may have saved newer records meanwhile.
    if !is_new(agent, version).await? {
        return Ok(json!("synced"));
    }
    let (vcap, root) = (agent.vcap().clone(), agent.state.root.clone());
    let platform = agent.platform();
    let saving = runtime::spawn_blocking("dns", move || {
        if platform == Platform::Linux {
            records.write_hosts(&root)?;
        }
        Ok::<_, SyncDnsError>(records.save(&vcap, platform)?)
    });
    saving.await??;
    Ok(json!("synced"))
}

/// Whether this version is newer than the saved one.
async fn is_new(agent: &Agent, version: u64) -> Result<bool, TaskFailed> {
    let vcap = agent.vcap().clone();
    let reading = runtime::spawn_blocking("dns", move || saved_version(&vcap));
    Ok(reading.await?.is_none_or(|saved| saved < version))
}
