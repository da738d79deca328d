//! Sets up what packages are compiled with: the sandbox, the directory of logs, the make jobserver.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::OfflineError;
use super::isolation;
use super::options::Options;
use super::progress::Progress;
use super::releases::Compiler;
use super::work_directory::WorkDirectory;
use crate::compile::{Context, Store};
use crate::fs;
use crate::process::{self, Jobserver};
use crate::sandbox::Sandbox;

/// The compiler of a call.
pub(super) async fn compiler(
    options: &Options,
    work_directory: &WorkDirectory,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Compiler, OfflineError> {
    let sandbox = isolation::choose(options, work_directory.path(), progress, cancel).await?;
    let jobs = jobs(options.jobs, &sandbox, progress);
    warn_of_noexec(options, &sandbox, work_directory, progress);
    let logs = match work_directory.logs(options.logs_directory.as_deref(), &options.vcap) {
        Ok(logs) => logs,
        Err(error) => {
            sandbox.close()?;
            return Err(error.into());
        }
    };
    progress.line(&format!(
        "Logs of packaging scripts are kept in {}",
        logs.display()
    ));
    let mut environment = options.environment.clone();
    let mut jobserver = None;
    if options.make_jobserver {
        // Each make has one job without a token.
        let tokens = process::processors().get() - 1;
        match Jobserver::make(&work_directory.jobserver(), tokens) {
            Ok(pool) => jobserver = Some(pool),
            Err(error) => {
                sandbox.close()?;
                return Err(error.into());
            }
        }
        let (name, value) = Jobserver::variable();
        environment = environment.with(&[(name, value.into())]);
    }
    let listener = Arc::clone(progress);
    let context = Arc::new(Context {
        vcap: options.vcap.clone(),
        sandbox,
        store: Store::new(&work_directory.store()),
        environment,
        agent: options.agent.clone(),
        grace: options.grace,
        nice: options.nice,
        limits: options.limits,
        second_run: options.second_run,
        compression_level: options.compression_level,
        jobserver,
        events: Arc::new(move |event| listener.show(event)),
    });
    Ok(Compiler {
        context,
        jobs,
        logs,
        copies_failed_logs: options.logs_directory.is_none(),
        keep_going: options.keep_going,
    })
}

/// How many packages are compiled concurrently. Prints it if there are several.
fn jobs(wanted: Option<NonZeroUsize>, sandbox: &Sandbox, progress: &Progress) -> NonZeroUsize {
    if !sandbox.takes_several() {
        return NonZeroUsize::MIN;
    }
    let jobs = wanted.unwrap_or_else(process::processors);
    if jobs > NonZeroUsize::MIN {
        progress.line(&format!("Compiling up to {jobs} packages concurrently"));
    }
    jobs
}

/// Warns if scripts cannot run what they build.
fn warn_of_noexec(
    options: &Options,
    sandbox: &Sandbox,
    work_directory: &WorkDirectory,
    progress: &Progress,
) {
    let data = options.vcap.data();
    let (directory, option) = match sandbox.is_shared() {
        true => (data.as_path(), "--base-directory"),
        false => (fs::parent(work_directory.path()), "--work-dir"),
    };
    if let Ok(Some(directory)) = fs::noexec(directory) {
        progress.line(&format!(
            "Warning: `{}` is on a file system that is mounted noexec: packaging scripts cannot run programs that they \
             build there. Choose another one with {option}, or mount it with exec (docker: `--tmpfs PATH:exec`)",
            directory.display()
        ));
    }
}
