//! `update_settings`: certificates to trust, another bus, another blobstore.

use std::path::Path;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::agent::arguments::take;
use crate::agent::tasks::Outcome;
use crate::agent::{Agent, Live};
use crate::config::{Environment, UpdateSettings};
use crate::diag::Chain;
use crate::machine::bootstrap::Platform;
use crate::machine::trusted_certs::{self, Refresh, TrustError};
use crate::process::{self, Program, RunError, Status};
use crate::tls;

/// Saves the change, then has it hold. The Go agent ends here where the bus or the blobstore has changed, and misses what a
/// Director asks meanwhile; this one connects anew and goes on answering on the old connection until the new one is up.
pub(in crate::agent) async fn update_settings(agent: &Agent, arguments: &[Value]) -> Outcome {
    let [update] = take(arguments).map_err(|error| error.to_string())?;
    let update = UpdateSettings::from_json(update).map_err(|error| {
        format!(
            "Extracting method arguments from payload: Unmarshalling action argument: {}",
            Chain(&error)
        )
    })?;
    let _turn = agent.inner.changing.lock().await;
    let live = agent.live();
    let merged = live.update.merge(&update);
    let new = Live {
        settings: live.settings.clone(),
        update: merged.settings,
    };
    // Refused before they are saved: with certificates that are none, no later start of the agent would reach its Director.
    let blobs = agent
        .blobs_of(&new)
        .map_err(|error| format!("Getting blobstore: {}", Chain(&error)))?;
    if merged.bus_changed {
        let bus = new.settings.bus_certificate(&new.update);
        tls::check(&bus.certificate, &bus.private_key, &bus.ca)
            .map_err(|error| format!("Getting mbus handler: {}", Chain(&error)))?;
    }
    if agent.platform() == Platform::Linux {
        trust(&update.trusted_certs, &agent.inner.environment)
            .await
            .map_err(|error| format!("Updating certificates: {}", Chain(&error)))?;
    }
    let saved = agent.inner.store.save_update(&new.update).await;
    saved.map_err(|error| format!("Saving update settings: {}", Chain(&error)))?;
    if merged.bus_changed || merged.blobstores_changed {
        tracing::info!(
            bus = merged.bus_changed,
            blobstores = merged.blobstores_changed,
            "settings changed"
        );
    }
    agent.adopt(new, blobs, merged.bus_changed);
    Ok(json!("ok"))
}

/// Why the program did not make the system trust new certificates.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
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
) -> Result<(), TrustError<RefreshError>> {
    let run = |refresh: Refresh| async move {
        let program = Program {
            file: refresh.program.into(),
            arguments: vec![refresh.argument.into()],
            environment: environment.clone(),
        };
        let cancel = CancellationToken::new();
        let ended = process::run_to_end(&program, &cancel);
        match tokio::time::timeout(refresh.limit, ended).await {
            Err(_) => Err(RefreshError::Slow {
                program: refresh.program,
            }),
            Ok(ended) => match ended? {
                ended if ended.status.is_success() => Ok(()),
                ended => Err(RefreshError::Failed {
                    program: refresh.program,
                    status: ended.status,
                    tail: ended.tail,
                }),
            },
        }
    };
    trusted_certs::install(Path::new(trusted_certs::DIRECTORY), certificates, run).await
}
