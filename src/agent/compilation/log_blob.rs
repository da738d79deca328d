//! Uploads the log of a package for the Director, which appends the log of a failed package to the task's error.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
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
use crate::diag::{Chain, printable_lines};
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
            // Setting cannot fail, because only this line sets the value.
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
                tracing::warn!(%package, "timed out while uploading the log of the packaging script");
                None
            }
        }
    }
}

/// Whether the request failed because its script failed.
fn is_of_script(reason: &Reason) -> bool {
    match reason {
        Reason::Script(_) => true,
        Reason::Full { source, .. } => is_of_script(source),
        _ => false,
    }
}

/// Writes both streams to one file of about `limit` bytes. Of a longer stream, the middle is left out.
fn write(logs: &Logs, limit: u64, to: &Path) -> fs::Result<()> {
    let [stdout, stderr] = [&logs.stdout, &logs.stderr].map(|path| Stream::open(path));
    let (stdout, stderr) = (stdout?, stderr?);
    let of_stdout = stdout
        .size
        .min((limit / 2).max(limit.saturating_sub(stderr.size)));
    let of_stderr = stderr.size.min(limit - of_stdout.min(limit));
    let mut text = String::new();
    for (name, stream, kept) in [("stdout", stdout, of_stdout), ("stderr", stderr, of_stderr)] {
        let size = stream.size;
        let header = format!("--- {name} of the packaging script ({size} bytes) ---\n");
        text.extend([header, stream.excerpt(kept)?, "\n".to_owned()]);
    }
    fs::write(to, text.as_bytes())
}

/// A stream's log, opened without following links: a script can put a FIFO, or a link to a secret, at its path.
struct Stream {
    path: PathBuf,
    /// `None` if there is something other than a file at the path.
    file: Option<File>,
    /// In bytes.
    size: u64,
}

impl Stream {
    fn open(path: &Path) -> fs::Result<Self> {
        let file = fs::open_regular_to_read(path)?;
        let size = match &file {
            Some(file) => file.metadata().at("read", path)?.len(),
            None => 0,
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
        })
    }

    /// About `kept` bytes as text: the lines in the first quarter of them from the start of the file, the others from its end. The Director
    /// stores the text as JSON and in a database, and prints it, so it is valid UTF-8 without control characters.
    fn excerpt(self, kept: u64) -> fs::Result<String> {
        let Some(mut file) = self.file else {
            return Ok("[it is not a file]\n".to_owned());
        };
        let mut read = |from: u64, length: u64| {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(from)).at("read", &self.path)?;
            let mut part = Read::by_ref(&mut file).take(length);
            part.read_to_end(&mut bytes).at("read", &self.path)?;
            Ok::<_, fs::Error>(bytes)
        };
        if kept >= self.size {
            return Ok(shown(&read(0, self.size)?));
        }
        let (head, tail) = (kept / 4, kept - kept / 4);
        let (head, tail) = (read(0, head)?, read(self.size - tail, tail)?);
        let (head, tail) = (whole_lines_at_start(&head), whole_lines_at_end(&tail));
        let left_out = self.size - (head.len() + tail.len()) as u64;
        let (head, tail) = (shown(head), shown(tail));
        Ok(format!(
            "{head}\n[... {left_out} bytes left out ...]\n{tail}"
        ))
    }
}

/// The bytes up to the last end of a line, or all if there is none.
fn whole_lines_at_start(bytes: &[u8]) -> &[u8] {
    memchr::memrchr(b'\n', bytes).map_or(bytes, |end| &bytes[..end])
}

/// The bytes after the first end of a line, or all if there is none.
fn whole_lines_at_end(bytes: &[u8]) -> &[u8] {
    memchr::memchr(b'\n', bytes).map_or(bytes, |end| &bytes[end + 1..])
}

fn shown(bytes: &[u8]) -> String {
    printable_lines(&String::from_utf8_lossy(bytes)).into_owned()
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
        let lines = "first\nsecond\nthird\nfourth\n";
        let cut = written("", lines, 16);
        assert!(
            cut.ends_with("firs\n[... 15 bytes left out ...]\nfourth\n\n"),
            "{cut}"
        );
    }

    #[test]
    fn excerpt_is_text_without_control_characters() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("stream");
        fs::write(&path, b"\xff\0\x1b[31mred\n\xc3\xa4").unwrap();
        let excerpt = |kept| Stream::open(&path).unwrap().excerpt(kept).unwrap();
        assert_eq!(excerpt(100), "\u{fffd}\\0\\u{1b}[31mred\n\u{e4}");
        // The last character is cut in two.
        assert!(excerpt(1).ends_with("\u{fffd}"));
    }

    #[test]
    fn planted_links_and_pipes_are_not_read() {
        let scratch = tempfile::tempdir().unwrap();
        let (secret, link) = (scratch.path().join("secret"), scratch.path().join("link"));
        fs::write(&secret, b"secret").unwrap();
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        let pipe = scratch.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [&link, &pipe] {
            let excerpt = Stream::open(path).and_then(|stream| stream.excerpt(100));
            assert!(excerpt.is_err() || excerpt.unwrap() == "[it is not a file]\n");
        }
    }
}
