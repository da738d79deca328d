//! Uploads the log of a package for the Director, which appends the log of a failed package to the task's error.

use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::Value;

use super::CompileRun;
use super::failure::Reason;
use super::logs::Logs;
use super::on_disk::on_disk;
use super::request::Destination;
use super::state::CompilerState;
use crate::blobs::{BlobId, Persistence};
use crate::diag::Chain;
use crate::fs::{self, Context as _};

/// The time limit of the upload of a log. A failure must not be reported minutes later because the log cannot be uploaded.
const UPLOAD_WITHIN: Duration = Duration::from_secs(30);

impl CompileRun<'_> {
    /// Uploads the log of a failed script.
    pub(super) async fn upload_failed_log(
        &self,
        reason: &Reason,
        logs: Logs,
        state: &CompilerState,
    ) {
        if self.compiler.options.config.upload_failed_log
            && is_of_script(reason)
            && let Some(id) = self.upload_log(logs, state).await
        {
            // This is the only place that sets it.
            let _ = self.failed_log.set(id);
        }
    }

    /// Adds the blob of the log to the result of a compiled package, if the configuration demands it.
    pub(super) async fn with_log_of_success(
        &self,
        mut result: Value,
        logs: Logs,
        state: &CompilerState,
    ) -> Value {
        if self.compiler.options.config.upload_log
            && let Some(id) = self.upload_log(logs, state).await
        {
            result["compile_log_id"] = id.as_str().into();
        }
        result
    }

    /// Uploads the log, unless the Director uses signed URLs: then the agent may have no credentials. A failure is logged.
    async fn upload_log(&self, logs: Logs, state: &CompilerState) -> Option<BlobId> {
        if !matches!(self.request.destination, Destination::Blobstore) {
            return None;
        }
        let (limit, file) = (self.compiler.options.config.log_limit, state.log());
        let to = file.clone();
        let uploading = async {
            on_disk("log", move || write(&logs, limit, &to)).await?;
            let (from, cancel) = (file.as_path(), &self.task.cancel);
            let created = self.with_current_blobs(|blobs| {
                async move { blobs.create(from, Persistence::Brief, cancel).await }.boxed()
            });
            created
                .await
                .map_err(|error| Reason::Upload(Box::new(error)))
        };
        let package = &self.request.name;
        match tokio::time::timeout(UPLOAD_WITHIN, uploading).await {
            Ok(Ok(id)) => Some(id),
            Ok(Err(error)) => {
                tracing::warn!(%package, error = %Chain(&error), "failed to upload the log of the packaging script");
                None
            }
            Err(_) => {
                tracing::warn!(%package, "uploading the log of the packaging script takes too long");
                None
            }
        }
    }
}

/// Whether the script has failed.
fn is_of_script(reason: &Reason) -> bool {
    match reason {
        Reason::Script(_) => true,
        Reason::Full { source, .. } => is_of_script(source),
        _ => false,
    }
}

/// Writes both streams to one file of about `limit` bytes. Of a longer stream, the middle is left out.
fn write(logs: &Logs, limit: u64, to: &Path) -> fs::Result<()> {
    let size = |path: &PathBuf| Ok(fs::metadata(path)?.len());
    let (stdout, stderr) = (size(&logs.stdout)?, size(&logs.stderr)?);
    let of_stdout = stdout.min((limit / 2).max(limit.saturating_sub(stderr)));
    let of_stderr = stderr.min(limit - of_stdout.min(limit));
    let mut out = fs::create(to)?;
    for (name, from, size, kept) in [
        ("stdout", &logs.stdout, stdout, of_stdout),
        ("stderr", &logs.stderr, stderr, of_stderr),
    ] {
        writeln!(out, "--- {name} of the packaging script ({size} bytes) ---").at("write", to)?;
        copy(from, size, kept, &mut out).at("copy", from)?;
    }
    Ok(())
}

/// Copies `kept` of the `size` bytes of a file: a quarter from its start, the rest from its end.
fn copy(from: &Path, size: u64, kept: u64, out: &mut std::fs::File) -> std::io::Result<()> {
    let mut file = fs::open(from).map_err(std::io::Error::other)?;
    let head = if kept < size { kept / 4 } else { size };
    std::io::copy(&mut Read::by_ref(&mut file).take(head), out)?;
    if kept < size {
        writeln!(out, "\n[... {} bytes left out ...]", size - kept)?;
        file.seek(SeekFrom::Start(size - (kept - head)))?;
        std::io::copy(&mut file.take(kept - head), out)?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_streams_lose_their_middle() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        let logs = Logs {
            stdout: path("stdout"),
            stderr: path("stderr"),
        };
        let written = |stdout: &str, stderr: &str, limit| {
            fs::write(&logs.stdout, stdout.as_bytes()).unwrap();
            fs::write(&logs.stderr, stderr.as_bytes()).unwrap();
            write(&logs, limit, &path("log")).unwrap();
            fs::read_lossy(&path("log")).unwrap()
        };
        assert_eq!(
            written("out\n", "err", 100),
            "--- stdout of the packaging script (4 bytes) ---\nout\n\n\
             --- stderr of the packaging script (3 bytes) ---\nerr\n"
        );
        let long: String = ('a'..='z').collect();
        assert_eq!(
            written("out", &long, 15),
            "--- stdout of the packaging script (3 bytes) ---\nout\n\
             --- stderr of the packaging script (26 bytes) ---\nabc\n[... 14 bytes left out ...]\nrstuvwxyz\n"
        );
        let both = written(&long, &long, 16);
        assert_eq!(
            both.matches("ab\n[... 18 bytes left out ...]\nuvwxyz\n")
                .count(),
            2,
            "{both}"
        );
        assert!(!written(&long, &long, 0).contains('z'));
    }
}
