//! `update_settings`: changes trusted certificates, the message bus and the blobstore.

use std::path::Path;

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Action, ActionError};
use crate::agent::arguments::{ArgumentError, first};
use crate::agent::tasks::Cancellation;
use crate::agent::{Agent, Live};
use crate::blobs::BlobsError;
use crate::config::json::JsonError;
use crate::config::{Environment, MissingSetting, UpdateSettings};
use crate::machine::bootstrap::Platform;
use crate::machine::settings::LoadError;
use crate::machine::trusted_certs::{self, TrustError, UpdateProgram};
use crate::process::{self, Program, RunError, Status};
use crate::runtime::{self, TaskFailed};
use crate::tls::{self, TlsError};

pub(in crate::agent) const ACTION: Action = Action::Task {
    run: |agent, arguments, _| {
        update_settings(agent, arguments)
            .map_err(ActionError::new)
            .boxed()
    },
    cancellation: Cancellation::Unsupported,
    resumes: true,
};

#[derive(Debug, thiserror::Error)]
enum UpdateSettingsError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error("Extracting method arguments from payload: Unmarshalling action argument")]
    Settings(#[from] JsonError),
    #[error("Getting blobstore")]
    Blobstore(#[from] BlobsError),
    #[error("Getting mbus handler")]
    Bus(#[from] TlsError),
    #[error("Getting mbus handler")]
    Missing(#[from] MissingSetting),
    #[error("Getting mbus handler: {0}")]
    Urls(String),
    #[error("Updating certificates")]
    Certificates(#[from] TrustError<UpdateProgramError>),
    #[error("Saving update settings")]
    Save(#[from] LoadError),
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

/// Installs the trusted certificates, saves the changes, and uses them. After a change of the bus or
/// the blobstore, the Go agent exits, and misses the requests that arrive before its next start. This
/// agent opens a new connection, and uses the old one until the new one is established.
async fn update_settings(agent: &Agent, arguments: &[Value]) -> Result<Value, UpdateSettingsError> {
    let [update] = first(arguments)?;
    let update = UpdateSettings::from_json(update)?;
    let _changing = agent.state.changing.lock().await;
    let live = agent.live();
    let merged = live.update.merge(&update);
    let new = Live {
        settings: live.settings.clone(),
        update: merged.settings,
    };
    // Check the settings before saving them. With invalid ones, the agent could not reach its
    // Director after a restart.
    let own = agent.clone();
    let (bus_changed, blobstores_changed) = (merged.bus_changed, merged.blobstores_changed);
    let checking = runtime::spawn_blocking("settings", move || {
        if blobstores_changed {
            own.blobs_of(&new)?;
        }
        if bus_changed {
            new.settings.check_bus(&new.update)?;
            let urls = new.settings.bus_urls(&new.update);
            let urls = urls.into_iter().cloned().collect();
            (own.state.check_urls)(urls).map_err(UpdateSettingsError::Urls)?;
            let bus = new.settings.bus_certificate(&new.update);
            tls::check(&bus.certificate, &bus.private_key, &bus.ca)?;
        }
        Ok::<_, UpdateSettingsError>(new)
    });
    let new = checking.await??;
    if agent.platform() == Platform::Linux {
        trust(&update.trusted_certs, &agent.state.environment).await?;
    }
    // A client loads the system's certificates when it is created, so new certificates need a new
    // client.
    let blobs = match blobstores_changed || merged.certificates_changed {
        true => {
            let (own, live) = (agent.clone(), new.clone());
            Some(runtime::spawn_blocking("blobs", move || own.blobs_of(&live)).await??)
        }
        false => None,
    };
    agent.state.store.save_update(&new.update).await?;
    if bus_changed || blobs.is_some() {
        tracing::info!(
            bus = bus_changed,
            blobstores = blobstores_changed,
            certificates = merged.certificates_changed,
            "settings changed"
        );
    }
    agent.adopt(new, blobs, bus_changed);
    Ok(json!("ok"))
}

/// Why `update-ca-certificates` failed.
#[derive(Debug, thiserror::Error)]
enum UpdateProgramError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("`{program}` {status}: {}", tail.join("\\n"))]
    Failed {
        program: &'static str,
        status: Status,
        tail: Vec<String>,
    },
    #[error("`{program}` takes too long")]
    Slow { program: &'static str },
}

async fn trust(
    certificates: &str,
    environment: &Environment,
) -> Result<(), TrustError<UpdateProgramError>> {
    let run = |update: UpdateProgram| async move {
        let program = Program {
            file: update.program.into(),
            arguments: vec![update.argument.into()],
            environment: environment.clone(),
        };
        let cancel = CancellationToken::new();
        let ended = process::run_to_end(&program, &cancel);
        match tokio::time::timeout(update.limit, ended).await {
            Err(_) => Err(UpdateProgramError::Slow {
                program: update.program,
            }),
            Ok(ended) => match ended? {
                ended if ended.status.is_success() => Ok(()),
                ended => Err(UpdateProgramError::Failed {
                    program: update.program,
                    status: ended.status,
                    tail: ended.tail,
                }),
            },
        }
    };
    trusted_certs::install(Path::new(trusted_certs::DIRECTORY), certificates, run).await
}
