//! Sets up the compilation of a run: the work directory, the sandbox, the caches, the directory of logs, and the make jobserver.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::cache_directories;
use super::caching::{CallCache, OpenedCache};
use super::dry_run::Compilation;
use super::error::OfflineError;
use super::isolation;
use super::machines::Compiler;
use super::options::Options;
use super::package_events::Listener;
use super::progress::Progress;
use super::space;
use super::this_machine::ThisMachine;
use super::work_directory;
use crate::compile::{Context, Keep, KeptSettings, Shells, Store, WorkDirectory};
use crate::config::Environment;
use crate::diag::{Bytes, Chain};
use crate::fs;
use crate::process::{self, Jobserver, Memory, MemoryOf};
use crate::release::Slug;
use crate::runtime;
use crate::sandbox::{Isolation, PathLookup, Sandbox};

/// The compiler of a run.
pub(super) async fn compiler(here: ThisMachine<'_>) -> Result<Compiler, OfflineError> {
    let ThisMachine {
        options,
        stemcell,
        work_directory,
        progress,
        record,
        cancel,
    } = here;
    prepare_for_failures(options)?;
    let options = &cache_directories::without_unresponsive_cache(options, cancel).await?;
    let cache = open_cache(options, stemcell, work_directory, progress).await?;
    // The sandbox hides the directories from scripts.
    let shared = match &cache {
        Some(cache) => {
            cache_directories::prepare(cache.remotes(), &options.fork_server, cancel).await?
        }
        None => Vec::new(),
    };
    let work = work_directory.path();
    let sandbox = isolation::choose((options, shared), work, progress, cancel).await?;
    let (jobs, line) = jobs(options, sandbox.allows_several());
    announce_jobs(jobs, line, progress);
    record.set_compiler(sandbox.name(), jobs.get());
    let warning = warning_of_noexec(options, &sandbox, work_directory);
    warning.iter().for_each(|it| progress.warn(it));
    let prepared = logs_and_variables(options, work_directory);
    let (logs, variables) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            sandbox.close()?;
            return Err(error.into());
        }
    };
    let with = (sandbox.name(), jobs.get());
    let exposed = sandbox.exposed_secrets();
    let cache = cache.filter(|_| is_protected(options, exposed, progress));
    let cache = cache.map(|opened| CallCache::new(opened, options, with, progress));
    progress.line(&format!(
        "Logs of packaging scripts are kept in {}",
        logs.display()
    ));
    let context = context(
        options,
        sandbox,
        work_directory,
        variables,
        Some(record.listener()),
        (progress, cancel),
    );
    Ok(Compiler {
        context: Arc::new(context),
        jobs,
        logs,
        cache,
        server: None,
        copies_failed_logs: options.logs_directory.is_none(),
        keep_going: options.keep_going,
    })
}

/// Creates the directory for the files of failed packages, so that the run fails now and not after a compilation.
fn prepare_for_failures(options: &Options) -> fs::Result<()> {
    let Some(directory) = &options.keep_failed else {
        return Ok(());
    };
    fs::create_dir_all(directory)?;
    fs::check_writable(directory)
}

/// Whether the caches may be used: packaging scripts cannot write to their directories, or the user accepts that they can. If not, prints
/// a warning. `exposed` are the directories that the sandbox cannot hide.
fn is_protected(options: &Options, exposed: &[PathBuf], progress: &Progress) -> bool {
    let takes_all = options.cache.as_ref().is_some_and(|it| it.unrestricted);
    let Some(directory) = exposed.first().filter(|_| !takes_all) else {
        return true;
    };
    progress.warn(&format!(
        "Warning: the cache is not used: with landlock, packaging scripts can write to `{}`, because it is in HOME, /tmp, /var/tmp or \
         /dev/shm, which all scripts use. Use a directory elsewhere, such as /var/cache/bosh-agent, or --cache-unrestricted if you trust \
         the scripts",
        directory.display()
    ));
    false
}

async fn open_cache(
    options: &Options,
    stemcell: &Slug,
    work_directory: &WorkDirectory,
    progress: &Arc<Progress>,
) -> Result<Option<OpenedCache>, OfflineError> {
    let (options, stemcell, progress) = (options.clone(), stemcell.clone(), Arc::clone(progress));
    let work = work_directory.path().to_owned();
    let opening = move || OpenedCache::open(&options, &stemcell, &work, &progress);
    runtime::spawn_blocking("open cache", opening).await?
}

/// The variables that scripts inherit, and the make jobserver that they name.
pub(super) type Variables = (Environment, Option<Jobserver>);

/// Creates the directory of logs and, if it is wanted, the make jobserver.
fn logs_and_variables(
    options: &Options,
    work_directory: &WorkDirectory,
) -> fs::Result<(PathBuf, Variables)> {
    let wanted = options.logs_directory.as_deref();
    let logs = options.own_logs(work_directory::logs(work_directory, wanted, &options.vcap)?);
    fs::create_dir_all(&logs)?;
    Ok((logs, variables(options, work_directory)?))
}

/// Creates the make jobserver, if it is wanted.
pub(super) fn variables(
    options: &Options,
    work_directory: &WorkDirectory,
) -> fs::Result<Variables> {
    if !options.make_jobserver {
        return Ok((options.script_environment().clone(), None));
    }
    // Each make runs one job without a token, so the pool has one token less than there are CPUs.
    let tokens = process::processors().get() - 1;
    let pool = Jobserver::make(&work_directory::jobserver(work_directory), tokens)?;
    let (name, value) = Jobserver::variable();
    let environment = options.script_environment().with(&[(name, value.into())]);
    Ok((environment, Some(pool)))
}

/// The context that all packages of a run share.
pub(super) fn context(
    options: &Options,
    sandbox: Sandbox,
    work_directory: &WorkDirectory,
    (environment, jobserver): Variables,
    listener: Option<Listener>,
    (progress, cancel): (&Arc<Progress>, &CancellationToken),
) -> Context {
    let shown = Arc::clone(progress);
    let events = Arc::new(move |event| {
        if let Some(listener) = &listener {
            listener(&event);
        }
        shown.show(event);
    });
    Context {
        vcap: options.vcap.clone(),
        sandbox,
        store: Store::new(&work_directory.store()),
        environment,
        fork_server: options.fork_server.clone(),
        source_dates: options.source_dates,
        grace: options.grace,
        nice: options.nice,
        limits: options.limits,
        second_run: options.second_run,
        keep: keep(options),
        shells: options.shell.clone().map(|it| Shells::new(it, cancel)),
        log_lines: options.log_lines,
        script_lines: progress.script_lines(),
        compression_level: options.compression_level,
        jobserver,
        events,
    }
}

/// Closes the sandbox and removes the files that scripts left. A failure does not affect results, so it is only a warning. Does not block
/// the thread, because the removal may be slow and signals must be handled meanwhile.
pub(super) async fn close(context: Arc<Context>, progress: &Progress) -> Result<(), OfflineError> {
    let closing = runtime::spawn_blocking("close", move || Context::close(context));
    if let Err(error) = closing.await? {
        progress.warn(&format!(
            "Warning: could not remove all files that packaging scripts left: {}. The next run tries again",
            Chain(&error)
        ));
    }
    Ok(())
}

/// Creates the work directory: where the options say, or in the data directory, or in `beside`. Waits for the processes of a killed run
/// to end. Notes in `options` which mounts do not respond.
pub(super) async fn work_directory(
    options: &mut Options,
    beside: &Path,
    (progress, cancel): (&Progress, &CancellationToken),
) -> Result<WorkDirectory, OfflineError> {
    let making = {
        let (wanted, vcap) = (options.work_directory.clone(), options.vcap.clone());
        let (beside, cancel) = (beside.to_owned(), cancel.clone());
        let (isolation, fork_server) = (options.isolation, options.fork_server.clone());
        runtime::spawn_blocking("work directory", move || {
            let mut silent = Vec::new();
            if wanted.is_none() {
                let lookup = PathLookup::at_mounts(&fork_server, &cancel);
                let checked = isolation.check_data(&vcap, &lookup);
                // The file system may not respond, so do not wait for it after a cancellation.
                if cancel.is_cancelled() {
                    return Err(OfflineError::Stopped);
                }
                silent = checked?;
            }
            let stop = || cancel.is_cancelled();
            let made = work_directory::make(wanted.as_deref(), &vcap, &beside, &stop)?;
            Ok::<_, OfflineError>((made, silent))
        })
    };
    let (made, silent) = making.await?.inspect_err(|error| {
        let data = options.vcap.data();
        let wanted = options.work_directory.as_deref();
        space::report_free(progress, error, &[wanted.unwrap_or(&data), beside]);
    })?;
    options.silent = silent;
    Ok(made)
}

/// Removes the work directory. Does not block the thread, because the removal may be slow and signals must be handled meanwhile.
pub(super) async fn remove(work_directory: WorkDirectory, progress: &Progress) {
    let work = work_directory.path().to_owned();
    let removing = runtime::spawn_blocking("work directory", move || work_directory.remove());
    if let Ok(Err(error)) = removing.await {
        let hint = match error.hint() {
            Some(hint) => format!("\nHint: {hint}"),
            None => String::new(),
        };
        progress.warn(&format!(
            "Warning: could not remove `{}`: {}. The next run with this work directory tries again{hint}",
            work.display(),
            Chain(&error),
        ));
    }
}

/// How the directories of failed packages are kept.
fn keep(options: &Options) -> Option<Keep> {
    let directory = options.keep_failed.as_ref()?;
    Some(Keep {
        // Use an absolute path, because the user may be in another directory when reading it.
        directory: fs::canonicalize(directory).unwrap_or_else(|_| directory.clone()),
        settings: KeptSettings {
            base: options.vcap.base().to_string_lossy().into_owned(),
            readonly_dependencies: options.readonly_dependencies,
            protect_host: options.protect_host,
            network: options.network,
            nice: options.nice,
            grace: options.grace,
        },
        program: options.program.clone(),
    })
}

/// How a compilation would proceed, according to the options. Tries no isolation tier: `auto` is assumed to find one that isolates
/// packages.
pub(super) fn expected_compilation(options: &Options, progress: &Progress) -> Compilation {
    if let Some(remote) = options.remote.as_ref().filter(|it| !it.cache_only) {
        return Compilation {
            jobs: remote.jobs,
            flag: "--remote-jobs",
            is_shared: false,
        };
    }
    let is_parallel = options.jobs.is_some_and(|jobs| jobs > NonZeroUsize::MIN);
    let allows_several = options.isolation != Isolation::None || is_parallel;
    let (jobs, reason) = jobs(options, allows_several);
    if let Some(reason) = reason {
        progress.line(&reason);
    }
    Compilation {
        jobs,
        flag: "--jobs",
        is_shared: matches!(options.isolation, Isolation::Landlock | Isolation::None),
    }
}

/// How many packages are compiled concurrently, and a line that says so if the memory lowers the number.
fn jobs(options: &Options, allows_several: bool) -> (NonZeroUsize, Option<String>) {
    if !allows_several {
        return (NonZeroUsize::MIN, None);
    }
    match options.jobs {
        Some(jobs) => (jobs, None),
        None => {
            let memory = process::memory();
            automatic_jobs(process::processors(), memory, options.memory_per_job)
        }
    }
}

/// Prints how many packages are compiled concurrently, if there are several.
fn announce_jobs(jobs: NonZeroUsize, line: Option<String>, progress: &Progress) {
    if let Some(line) = line {
        progress.line(&line);
    } else if jobs > NonZeroUsize::MIN {
        progress.line(&format!("Compiling up to {jobs} packages concurrently"));
    }
}

/// How many packages are compiled concurrently by default, and a line that says so if the memory lowers the number.
fn automatic_jobs(
    cpus: NonZeroUsize,
    memory: Option<Memory>,
    per_job: u64,
) -> (NonZeroUsize, Option<String>) {
    let lower = memory.map(|memory| (memory, memory.jobs(per_job)));
    let Some((memory, jobs)) = lower.filter(|(_, jobs)| *jobs < cpus) else {
        return (cpus, None);
    };
    let count = match jobs {
        NonZeroUsize::MIN => "one package at a time".to_owned(),
        jobs => format!("up to {jobs} packages concurrently"),
    };
    let of = match memory.of {
        MemoryOf::Machine => "the machine has a memory of",
        MemoryOf::Cgroup => "a cgroup limits the memory to",
    };
    let line = format!(
        "Compiling {count}, although {cpus} CPUs are available: {of} {}, and each package may need {} (--memory-per-job)",
        Bytes(memory.bytes),
        Bytes(per_job)
    );
    (jobs, Some(line))
}

/// The warning if scripts cannot run what they build.
pub(super) fn warning_of_noexec(
    options: &Options,
    sandbox: &Sandbox,
    work_directory: &WorkDirectory,
) -> Option<String> {
    let data = options.vcap.data();
    let (directory, option) = match sandbox.is_shared() {
        true => (data.as_path(), "--base-directory"),
        false => (fs::parent(work_directory.path()), "--work-dir"),
    };
    let directory = fs::noexec(directory).ok().flatten()?;
    Some(format!(
        "Warning: `{}` is on a file system that is mounted noexec: packaging scripts cannot run programs that they \
         build there. Choose another directory with {option}, or mount the file system with exec (docker: `--tmpfs PATH:exec`)",
        directory.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn automatic(cpus: usize, memory: u64, per_job: u64) -> (usize, String) {
        let memory = Memory {
            bytes: memory,
            of: MemoryOf::Cgroup,
        };
        let cpus = NonZeroUsize::new(cpus).unwrap();
        let (jobs, line) = automatic_jobs(cpus, Some(memory), per_job);
        (jobs.get(), line.unwrap_or_default())
    }

    #[test]
    fn memory_lowers_the_number_of_jobs() {
        assert_eq!(
            automatic(8, 2 << 30, 1 << 30),
            (
                2,
                "Compiling up to 2 packages concurrently, although 8 CPUs are available: a cgroup limits the memory to \
                 2.0 GiB, and each package may need 1.0 GiB (--memory-per-job)"
                    .to_owned()
            )
        );
        let (jobs, line) = automatic(2, 256 << 20, 1 << 30);
        assert_eq!(jobs, 1);
        assert!(line.starts_with("Compiling one package at a time, although 2"));
    }

    #[test]
    fn sufficient_or_unknown_memory_does_not_matter() {
        assert_eq!(automatic(2, 2 << 30, 1 << 30), (2, String::new()));
        assert_eq!(automatic(8, 1, 0), (8, String::new()));
        assert_eq!(automatic(1, 1, 1 << 30), (1, String::new()));
        let two = NonZeroUsize::new(2).unwrap();
        assert_eq!(automatic_jobs(two, None, 1), (two, None));
    }
}
