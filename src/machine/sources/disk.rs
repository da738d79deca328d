//! Reads settings from a disk that a cloud attaches to a virtual machine: a config drive or a CD. The disk is mounted only while it is
//! read.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::{DiskSource, Environment};
use crate::diag::Chain;
use crate::process::{self, Program, RunError, Status};
use crate::runtime::{self, TaskFailed};
use crate::{fs, fs::Context as _};

/// The time limit of `mount` and `umount`. A CD drive needs some seconds to spin up.
const LIMIT: Duration = Duration::from_secs(60);

/// The maximum size of the settings in bytes.
const SIZE_LIMIT: u64 = 4 << 20;

/// The directories for mount points, in the order in which they are tried.
const MOUNT_POINTS: [&str; 2] = ["/run", "/tmp"];

/// Why no settings could be read from a disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// No disk is attached.
    #[error("none of these disks exists: {}", paths(disks))]
    Missing {
        /// The paths of the devices.
        disks: Vec<PathBuf>,
    },
    /// The program `mount` failed.
    #[error("`mount {}` {status}: {}", disk.display(), tail.join("\\n"))]
    Mount {
        /// The disk.
        disk: PathBuf,
        /// The status of the program.
        status: Status,
        /// The last lines of the program's output.
        tail: Vec<String>,
    },
    /// A program could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The program `mount` or `umount` is not in `PATH`.
    #[error("there is no program `{0}` in PATH")]
    NoProgram(&'static str),
    /// A program did not end in time.
    #[error("`{0}` takes too long")]
    Slow(&'static str),
    /// The file system of the disk, or a directory for it, cannot be used.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The file is too large for settings.
    #[error("`{}` has {size} bytes; the limit is {SIZE_LIMIT}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The size in bytes.
        size: u64,
    },
    /// The agent was stopped.
    #[error("the agent was stopped")]
    Stopped,
    /// A task panicked.
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

fn paths(disks: &[PathBuf]) -> String {
    let shown: Vec<String> = disks
        .iter()
        .map(|it| format!("`{}`", it.display()))
        .collect();
    shown.join(", ")
}

/// Reads the file from the first disk that has it. Returns its contents, and the disk and the file for messages.
///
/// A mounted disk is unmounted also after `cancel`; the caller must not drop the future.
pub(super) async fn read(
    source: &DiskSource,
    environment: &Environment,
    cancel: &CancellationToken,
) -> Result<(Vec<u8>, String), DiskError> {
    let mut first_error = None;
    for disk in &source.disks {
        if cancel.is_cancelled() {
            return Err(DiskError::Stopped);
        }
        match read_one(disk, &source.file, environment, cancel).await {
            Ok(Some(text)) => {
                return Ok((
                    text,
                    format!("{}:{}", disk.display(), source.file.display()),
                ));
            }
            Ok(None) => {}
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    let disks = source.disks.clone();
    Err(first_error.unwrap_or(DiskError::Missing { disks }))
}

/// Reads the file from a disk; `None` if the disk does not exist.
async fn read_one(
    disk: &Path,
    file: &Path,
    environment: &Environment,
    cancel: &CancellationToken,
) -> Result<Option<Vec<u8>>, DiskError> {
    let (own, path) = (disk.to_owned(), below(file));
    let found = runtime::spawn_blocking("disk", move || fs::metadata(&own).ok());
    match cancel.run_until_cancelled(found).await {
        None => Err(DiskError::Stopped),
        Some(found) => match found? {
            None => Ok(None),
            // Another program has mounted the disk.
            Some(found) if found.is_dir() => read_file(disk.join(path), cancel).await.map(Some),
            Some(_) => {
                let mounted = Mounted::new(disk, environment, cancel).await?;
                let text = read_file(mounted.directory().join(path), cancel).await;
                mounted.unmount(environment).await;
                text.map(Some)
            }
        },
    }
}

/// The path below the root of the disk.
fn below(file: &Path) -> PathBuf {
    file.strip_prefix("/").unwrap_or(file).to_owned()
}

async fn read_file(path: PathBuf, cancel: &CancellationToken) -> Result<Vec<u8>, DiskError> {
    let reading = runtime::spawn_blocking("settings", move || {
        let size = fs::metadata(&path)?.len();
        if size > SIZE_LIMIT {
            return Err(DiskError::TooLong { path, size });
        }
        Ok(fs::read(&path)?)
    });
    match cancel.run_until_cancelled(reading).await {
        Some(read) => read?,
        None => Err(DiskError::Stopped),
    }
}

/// A mounted disk, or one that a stopped `mount` may have mounted. Its mount point is removed only if it is empty. Otherwise, the disk
/// is still mounted there.
struct Mounted(PathBuf);

impl Mounted {
    async fn new(
        disk: &Path,
        environment: &Environment,
        cancel: &CancellationToken,
    ) -> Result<Self, DiskError> {
        let mounted = Self(runtime::spawn_blocking("mount point", mount_point).await??);
        // The cloud controls the contents of the disk, so restrict them. For a regular file, `mount` sets up a loop device.
        let arguments = [
            "-o".into(),
            "ro,nosuid,nodev,noexec".into(),
            disk.into(),
            mounted.directory().into(),
        ];
        let disk = disk.to_owned();
        let error = match run("mount", arguments.into(), environment, cancel).await {
            Ok((status, _)) if status.is_success() => return Ok(mounted),
            Ok((status, tail)) => DiskError::Mount { disk, status, tail },
            // The program may have mounted the disk before it was killed.
            Err(error @ (DiskError::Slow(_) | DiskError::Run(RunError::Stopped))) => {
                if let Err(reason) = mounted.detach(environment).await {
                    tracing::debug!(reason, "a stopped `mount` seems to have mounted nothing");
                }
                error
            }
            Err(error) => error,
        };
        mounted.remove().await;
        Err(error)
    }

    fn directory(&self) -> &Path {
        &self.0
    }

    /// Unmounts the disk. A failure is only logged, because the settings have been read.
    async fn unmount(self, environment: &Environment) {
        if let Err(reason) = self.detach(environment).await {
            tracing::warn!(reason, "failed to unmount the disk with the settings");
        }
        self.remove().await;
    }

    /// Unmounts the disk. If it is still being read, detaches it: it disappears from the directory at once, and is released after the read.
    async fn detach(&self, environment: &Environment) -> Result<(), String> {
        let mut reason = String::new();
        for options in [&[][..], &["-l"]] {
            let arguments = options.iter().map(OsString::from);
            let arguments = arguments.chain([self.directory().into()]).collect();
            // Unmounting continues while the agent stops.
            let ignored = CancellationToken::new();
            reason = match run("umount", arguments, environment, &ignored).await {
                Ok((status, _)) if status.is_success() => return Ok(()),
                Ok((status, tail)) => format!("`umount` {status}: {}", tail.join("\\n")),
                Err(error) => Chain(&error).to_string(),
            };
        }
        Err(reason)
    }

    /// Removes the mount point, which is empty unless the disk is still mounted.
    async fn remove(self) {
        let removing = runtime::spawn_blocking("mount point", move || fs::remove_dir(&self.0));
        let reason = match removing.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => Chain(&error).to_string(),
            Err(error) => Chain(&error).to_string(),
        };
        tracing::warn!(
            reason,
            "failed to remove the mount point of the disk with the settings"
        );
    }
}

/// Creates a directory in `/run` or, if that fails, in `/tmp`.
fn mount_point() -> fs::Result<PathBuf> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix(".bosh-agent-disk-");
    let [first, second] = MOUNT_POINTS;
    let made = builder
        .tempdir_in(first)
        .or_else(|_| builder.tempdir_in(second));
    let made = made.at("make a directory in", Path::new(second))?;
    Ok(made.keep())
}

/// Runs a program to its end. If it takes too long, or at `cancel`, kills it and waits for its end.
async fn run(
    name: &'static str,
    arguments: Vec<OsString>,
    environment: &Environment,
    cancel: &CancellationToken,
) -> Result<(Status, Vec<String>), DiskError> {
    let file = process::find_program(name, environment).ok_or(DiskError::NoProgram(name))?;
    let program = Program {
        file,
        arguments,
        environment: environment.clone(),
    };
    let killing = cancel.child_token();
    let mut running = pin!(process::run_to_end(&program, &killing));
    let ended = match tokio::time::timeout(LIMIT, &mut running).await {
        Ok(ended) => ended?,
        Err(_) => {
            killing.cancel();
            let _ = running.await;
            return Err(DiskError::Slow(name));
        }
    };
    Ok((ended.status, ended.tail))
}

#[cfg(test)]
mod tests;
