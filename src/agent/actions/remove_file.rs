//! `remove_file`: removes an archive of `bundle_logs`. The Go agent removes any path; this agent
//! removes only its own temporary files.

use std::path::PathBuf;

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::{Value, json};

use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::arguments::{ArgumentError, first, text};
use crate::agent::short_requests::removable_file;
use crate::machine::data::ReplacedData;
use crate::runtime::{self, TaskFailed};
use crate::{fs, fs::if_there};

pub(in crate::agent) const ACTION: Action = Action::Immediate(|agent, arguments| {
    remove_file(agent, arguments)
        .map_err(ActionError::new)
        .boxed()
});

#[derive(Debug, thiserror::Error)]
enum RemoveFileError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error("`{path}` is not a temporary file of the agent: these are in `{}`", directory.display())]
    Elsewhere { path: String, directory: PathBuf },
    #[error(transparent)]
    Data(#[from] ReplacedData),
    #[error(transparent)]
    File(#[from] fs::Error),
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

async fn remove_file(agent: &Agent, arguments: &[Value]) -> Result<Value, RemoveFileError> {
    let [path] = first(arguments)?;
    let path = text(path, "path")?.to_owned();
    let (data, own) = (agent.data(), path.clone());
    let removing = runtime::spawn_blocking("remove", move || {
        let directory = data.temporary()?;
        let Some(file) = removable_file(&directory, &own) else {
            let path = own.chars().flat_map(char::escape_debug).collect();
            return Err(RemoveFileError::Elsewhere { path, directory });
        };
        // A link is removed, not its target.
        if_there(fs::remove_file(&file))?;
        Ok(())
    });
    removing.await??;
    Ok(json!(path))
}
