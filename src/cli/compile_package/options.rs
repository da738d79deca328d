//! The options of a run of one package.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use super::CompilePackage;
use crate::cache;
use crate::cli::compile_flags::with_path;
use crate::cli::options::{source_dates, time_limits};
use crate::cli::this_process::{program, who};
use crate::compile::{self, SourceDateError};
use crate::config::{Environment, Vcap};
use crate::offline::{Options, Purpose, Selection};
use crate::package_job::{JobIsolation, JobNetwork, JobSecondRun, JobSettings, PackageJob};
use crate::process::TimeLimits;
use crate::sandbox::{Isolation, Sharing};

/// The options of a run. Enters a user namespace if the isolation tier may need one. Call this before threads are started, because only a
/// single-threaded process can enter a user namespace.
pub(super) fn options(
    command: &CompilePackage,
    job: &PackageJob,
    environment: &Environment,
) -> Result<Options, SourceDateError> {
    let settings = &job.settings;
    let environment = variables(job, environment);
    let source_dates = source_dates(settings.reproducible, &environment)?;
    let isolation = isolation(settings.isolation);
    // Only options of releases are left to `..`: the default of most others, such as no network, is not that of the flags.
    Ok(Options {
        purpose: Purpose::Compile,
        inputs: Vec::new(),
        reuse: Vec::new(),
        verify_rebuild: false,
        selection: Selection::All,
        output_directory: None,
        report: None,
        timings: None,
        graph: None,
        stemcell: job.stemcell.clone(),
        scratch: sharing(command, settings.shared_scratch),
        work_directory: command.work.work_dir.clone(),
        logs_directory: None,
        vcap: Vcap::new(Path::new(&settings.base_directory)),
        isolation,
        user_namespace: isolation.enter_user_namespace(),
        // There is only one package.
        jobs: Some(NonZeroUsize::MIN),
        memory_per_job: 0,
        make_jobserver: settings.make_jobserver,
        readonly_dependencies: settings.readonly_dependencies,
        protect_host: settings.protect_host,
        network: settings.network == JobNetwork::Host,
        nice: command.limits.nice,
        force: command.script.force,
        grace: command.limits.grace,
        limits: limits(time_limits(&command.limits), settings),
        second_run: match settings.second_run {
            JobSecondRun::Auto => compile::SecondRun::AUTO,
            JobSecondRun::Always => compile::SecondRun::Always,
            JobSecondRun::Never => compile::SecondRun::Never,
        },
        keep_failed: command.keep.keep_failed.clone(),
        program: program(),
        shell: None,
        log_lines: command.messages.log_lines as usize,
        compression_level: settings.compression_level,
        keep_going: false,
        who: who(),
        environment,
        source_dates,
        ..Options::default()
    })
}

/// The time limits of the flags and those of the job: the lower ones.
fn limits(flags: TimeLimits, settings: &JobSettings) -> TimeLimits {
    let lower = |flag: Option<Duration>, job: Option<u64>| {
        flag.into_iter().chain(job.map(Duration::from_secs)).min()
    };
    TimeLimits {
        total: lower(flags.total, settings.timeout_seconds),
        silence: lower(flags.silence, settings.silence_timeout_seconds),
    }
}

/// Who shares the scratch directories of the package.
fn sharing(command: &CompilePackage, is_shared: bool) -> Sharing {
    match &command.work.scratch_dir {
        Some(directory) => Sharing::Kept(directory.clone()),
        None if is_shared => Sharing::Run,
        None => Sharing::Off,
    }
}

/// The variables of the script: those that scripts inherit when `compile` uses a cache, and those of the job.
fn variables(job: &PackageJob, environment: &Environment) -> Environment {
    let variables = job.settings.variables.iter();
    let variables: Vec<_> = variables
        .map(|(name, value)| (name.as_str(), value.into()))
        .collect();
    with_path(cache::inherited(environment)).with(&variables)
}

fn isolation(isolation: JobIsolation) -> Isolation {
    match isolation {
        JobIsolation::Auto => Isolation::Auto,
        JobIsolation::Namespace => Isolation::Namespace,
        JobIsolation::Userns => Isolation::Userns,
        JobIsolation::Landlock => Isolation::Landlock,
        JobIsolation::None => Isolation::None,
    }
}
