//! `delete_arp_entries`: makes this machine forget the hardware addresses of IP addresses that now
//! belong to other machines.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::{Map, Value, json};

use super::{Action, ActionResult};
use crate::agent::Agent;
use crate::agent::arguments::{first, get, object, texts};
use crate::diag::Chain;
use crate::machine::bootstrap::Platform;
use crate::machine::program::run_program;

pub(in crate::agent) const ACTION: Action =
    Action::Immediate(|agent, arguments| delete_arp_entries(agent, arguments).boxed());

/// The time limit of the program `ip` for one address.
const LIMIT: Duration = Duration::from_secs(5);

/// Failures are only logged: without the program `ip`, the entries expire later.
async fn delete_arp_entries(agent: &Agent, arguments: &[Value]) -> ActionResult {
    let [argument] = first(arguments)?;
    let nothing = Map::new();
    let argument = object(argument, "delete_arp_entries")?.unwrap_or(&nothing);
    let addresses = texts(get(argument, "ips"), "ips")?;
    if agent.platform() == Platform::Dummy {
        return Ok(json!({}));
    }
    for address in addresses {
        let Ok(address) = address.parse::<IpAddr>() else {
            tracing::warn!("an address in `ips` is not an IP address");
            continue;
        };
        let arguments = ["neigh", "flush", "to", &address.to_string()].map(Into::into);
        let environment = &agent.state.environment;
        if let Err(error) = run_program("ip", arguments.into(), environment, LIMIT).await {
            let error = Chain(&error);
            tracing::warn!(%address, %error, "failed to delete ARP entries");
        }
    }
    Ok(json!({}))
}
