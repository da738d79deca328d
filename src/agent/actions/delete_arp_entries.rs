//! `delete_arp_entries`: removes IP addresses that now belong to other machines from this machine's
//! ARP cache.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::{Action, ActionResult};
use crate::agent::Agent;
use crate::agent::short_requests::arp_addresses;
use crate::diag::Chain;
use crate::machine::bootstrap::Platform;
use crate::machine::program::{ProgramError, run_program};

pub(in crate::agent) const ACTION: Action =
    Action::Immediate(|agent, arguments| delete_arp_entries(agent, arguments).boxed());

/// The time limit of the program `ip` for one address.
const LIMIT: Duration = Duration::from_secs(5);

/// The time limit of a request.
const TOTAL: Duration = Duration::from_secs(30);

/// Deletes the entries. Failures are only logged, because entries that stay expire later.
async fn delete_arp_entries(agent: &Agent, arguments: &[Value]) -> ActionResult {
    let addresses = arp_addresses(arguments)?;
    if agent.platform() == Platform::Dummy {
        return Ok(json!({}));
    }
    let deleting = tokio::time::timeout(TOTAL, delete(agent, addresses));
    let stopping = agent.tasks().stopping();
    if let Some(Err(_)) = stopping.run_until_cancelled(deleting).await {
        tracing::warn!("timed out while deleting ARP entries");
    }
    Ok(json!({}))
}

async fn delete(agent: &Agent, addresses: BTreeSet<IpAddr>) {
    for address in addresses {
        let arguments = ["neigh", "flush", "to", &address.to_string()].map(Into::into);
        let deleted = run_program(&agent.programs(), "ip", arguments.into(), LIMIT).await;
        if let Err(error) = &deleted {
            let error = Chain(error);
            tracing::warn!(%address, %error, "failed to delete ARP entries");
        }
        if matches!(deleted, Err(ProgramError::Missing { .. })) {
            return;
        }
    }
}
