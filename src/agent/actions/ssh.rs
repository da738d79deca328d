//! `ssh`: creates and removes users of `bosh ssh`.

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::{Value, json};

use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::arguments::ArgumentError;
use crate::agent::short_requests::SshRequest;
use crate::fs;
use crate::machine::accounts::{AccountError, Accounts};
use crate::machine::bootstrap::Platform;
use crate::machine::network::default_ip;
use crate::runtime::{self, TaskFailed};

pub(in crate::agent) const ACTION: Action =
    Action::Immediate(|agent, arguments| ssh(agent, arguments).map_err(ActionError::new).boxed());

/// The texts are those of the Go agent, if it has one for the case.
#[derive(Debug, thiserror::Error)]
enum SshError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error("Unknown command for SSH method")]
    Command,
    #[error("no user is created, because the agent was started with `-P dummy`")]
    Dummy,
    #[error("Getting host public key")]
    HostKey(#[source] fs::Error),
    #[error("No default ip could be found")]
    NoAddress,
    #[error("Creating user")]
    Create(#[source] AccountError),
    #[error("SSH Cleanup: `user_regex` is missing")]
    NoPattern,
    #[error("SSH Cleanup: Deleting Ephemeral Users")]
    Remove(#[source] AccountError),
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

async fn ssh(agent: &Agent, arguments: &[Value]) -> Result<Value, SshError> {
    match SshRequest::parse(arguments)? {
        SshRequest::Setup { user, key } => setup(agent, &user, &key).await,
        SshRequest::Cleanup { pattern } => cleanup(agent, &pattern).await,
        SshRequest::Unknown => Err(SshError::Command),
    }
}

/// Creates a user who can log in with a key. First reads the host key and the address for the reply,
/// so that no user is left if that fails.
async fn setup(agent: &Agent, user: &str, key: &str) -> Result<Value, SshError> {
    if agent.platform() == Platform::Dummy {
        return Err(SshError::Dummy);
    }
    let accounts = accounts(agent);
    let (own, live) = (accounts.clone(), agent.live());
    let finding = runtime::spawn_blocking("ssh", move || {
        let host_key = own.host_key().map_err(SshError::HostKey)?;
        let address = default_ip(&live.settings).ok_or(SshError::NoAddress)?;
        Ok::<_, SshError>((host_key, address))
    });
    let (host_key, address) = finding.await??;
    let _changing = agent.state.changing_system.lock().await;
    let creating = accounts.create(user, key);
    creating.await.map_err(SshError::Create)?;
    tracing::info!(user, "created a user for `bosh ssh`");
    Ok(json!({
        "command": "setup",
        "status": "success",
        "ip": address,
        "host_public_key": host_key,
    }))
}

/// Removes the users that `setup` created and whose names match a regular expression.
async fn cleanup(agent: &Agent, pattern: &str) -> Result<Value, SshError> {
    // An empty pattern matches every name.
    if pattern.is_empty() {
        return Err(SshError::NoPattern);
    }
    // On the platform `dummy`, `setup` creates no user.
    if agent.platform() == Platform::Linux {
        let _changing = agent.state.changing_system.lock().await;
        let accounts = accounts(agent);
        let removing = accounts.remove_matching(pattern);
        for user in removing.await.map_err(SshError::Remove)? {
            tracing::info!(user, "removed a user of `bosh ssh`");
        }
    }
    Ok(json!({ "command": "cleanup", "status": "success" }))
}

fn accounts(agent: &Agent) -> Accounts {
    Accounts::new(agent.programs(), agent.vcap())
}
