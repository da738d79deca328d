//! `remove_file`: removes an archive of `bundle_logs`. The Go agent removes any path; this agent
//! removes only its own temporary files.

use std::path::{Path, PathBuf};

use futures_util::{FutureExt as _, TryFutureExt as _};
use serde_json::{Value, json};

use super::{Action, ActionError};
use crate::agent::Agent;
use crate::agent::arguments::{ArgumentError, first, text};
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
    File(#[from] fs::Error),
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

async fn remove_file(agent: &Agent, arguments: &[Value]) -> Result<Value, RemoveFileError> {
    let [path] = first(arguments)?;
    let path = text(path, "path")?.to_owned();
    let directory = agent.vcap().temporary();
    let Some(file) = file_in(&directory, &path) else {
        let path = path.chars().flat_map(char::escape_debug).collect();
        return Err(RemoveFileError::Elsewhere { path, directory });
    };
    // A link is removed, not its target.
    let removing = runtime::spawn_blocking("remove", move || if_there(fs::remove_file(&file)));
    removing.await??;
    Ok(json!(path))
}

/// The path of a file that is directly in `directory`.
fn file_in(directory: &Path, path: &str) -> Option<PathBuf> {
    let name = path.strip_prefix(directory.to_str()?)?.strip_prefix('/')?;
    let is_plain = !name.contains(['/', '\0']) && !matches!(name, "" | "." | "..");
    // Files with this prefix belong to running operations of the agent.
    let is_in_use = name.starts_with(".bosh-agent-");
    (is_plain && !is_in_use).then(|| directory.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_directly_in_the_directory_are_removed() {
        let directory = Path::new("/var/vcap/data/tmp");
        for (path, is_there) in [
            ("/var/vcap/data/tmp/logs-1.tgz", true),
            ("/var/vcap/data/tmp/", false),
            ("/var/vcap/data/tmp", false),
            ("/var/vcap/data/tmp/..", false),
            ("/var/vcap/data/tmp/../blobs/x", false),
            ("/var/vcap/data/tmp/a/b", false),
            ("/var/vcap/data/tmpfile", false),
            ("/var/vcap/data/tmp/.bosh-agent-1", false),
            ("/etc/passwd", false),
            ("logs-1.tgz", false),
            ("", false),
        ] {
            assert_eq!(file_in(directory, path).is_some(), is_there, "{path}");
        }
    }
}
