//! The action cache of a server of the Remote Execution API, for packages that this machine compiles (`--remote-cache-only`).

use std::sync::Arc;

use super::error::OfflineError;
use super::options::RemoteOptions;
use super::remote;
use super::stemcell;
use super::store_check::StoreCheck;
use super::this_machine::ThisMachine;
use crate::cluster::Cluster;
use crate::diag::Chain;
use crate::package_job::ScriptUser;

/// The action cache of a server.
#[derive(Debug)]
pub(super) struct ServerCache {
    pub cluster: Arc<Cluster>,
    /// Where the server is, for messages.
    pub server: String,
    /// Whether packages of this machine are stored.
    pub stores: bool,
}

/// Opens the action cache for a run. The last argument is the isolation tier, and whether concurrent scripts share the base directory. `None`
/// if the server cannot be used, which is reported as a warning.
///
/// # Errors
/// If packages of this machine are to be stored, but may not (see [`StoreCheck`]).
pub(super) async fn open(
    here: ThisMachine<'_>,
    remote: &RemoteOptions,
    (isolation, shares_tree): (&str, bool),
) -> Result<Option<ServerCache>, OfflineError> {
    let server = remote.location.to_string();
    let opened = remote::cluster((here.options, here.stemcell), remote).await;
    let (cluster, capabilities) = match opened {
        Ok(opened) => opened,
        Err(OfflineError::Remote { source, .. }) if source.is_of_the_server() => {
            here.progress.warn(&format!(
                "Warning: the action cache of {server} is not used: {}",
                Chain(&source)
            ));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if remote.stores {
        let program = here.options.program.clone();
        let own_program = remote::hashed(program).await?;
        let machine = stemcell::detect(&here.options.vcap).ok();
        let facts = StoreCheck {
            stemcell: here.stemcell,
            machine: machine.as_ref(),
            program: cluster.program(),
            own_program: &own_program.digest,
            user: remote.script_user,
            own_user: match nix::unistd::geteuid().is_root() {
                true => ScriptUser::Root,
                false => ScriptUser::Ordinary,
            },
            isolation,
            shares_tree,
            is_updatable: capabilities.is_updatable,
        };
        let checked = facts.check();
        checked.map_err(|source| OfflineError::StoreRefused {
            server: server.clone(),
            source,
        })?;
    }
    Ok(Some(ServerCache {
        cluster,
        server,
        stores: remote.stores,
    }))
}
