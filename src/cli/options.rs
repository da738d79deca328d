//! The options of a run, from its flags.

use std::num::NonZeroUsize;
use std::sync::Arc;

use super::compile_flags::{
    Compile, InspectionFlags, IsolationFlag, JobsFlag, LimitFlags, NetworkFlag, ScriptFlags,
    SecondRunFlag, WorkFlags,
};
use super::this_process::{program, who};
use crate::compile::{
    self, SOURCE_DATE_EPOCH, Shell, ShellWhen, SourceDate, SourceDateError, SourceDates,
};
use crate::config::{Environment, Vcap};
use crate::offline::{Options, RemoteOptions, SharedCaches};
use crate::process::{self, Terminal};
use crate::sandbox::{self, UserNamespace};

/// The options of a run. `shared` and `remote` are the shared caches and the remote execution server. `user_namespace` is the user
/// namespace that this process has entered.
pub(super) fn options(
    flags: Compile,
    (shared, remote): (SharedCaches, Option<RemoteOptions>),
    environment: Environment,
    source_dates: SourceDates,
    user_namespace: UserNamespace,
    terminal: Option<Terminal>,
) -> Options {
    // The server has its own.
    let cache = (flags.cache.options(shared, &environment)).filter(|_| remote.is_none());
    let stemcell_images = flags.compilation.images(cache.as_ref(), &environment);
    let documents = flags.results.documents(&flags.compilation.script);
    let script = &flags.compilation.script;
    let environment = variables(script, &environment, cache.is_some(), remote.as_ref());
    Options {
        purpose: flags.plan.purpose(),
        inputs: flags.tarballs,
        reuse: flags.compilation.reuse,
        verify_rebuild: flags.results.verify_rebuild,
        selection: flags.selection.selection(),
        output_directory: flags.results.output_directory,
        report: flags.results.report,
        timings: flags.results.timings,
        documents,
        graph: flags.plan.graph,
        stemcell: flags.compilation.stemcell,
        stemcell_images,
        scratch: sharing(&flags.directories.work),
        work_directory: flags.directories.work.work_dir,
        logs_directory: flags.directories.logs_dir,
        vcap: Vcap::new(&flags.compilation.script.base_directory),
        isolation: tier(flags.isolation.isolation),
        user_namespace,
        jobs: max_jobs(flags.compilation.jobs),
        memory_per_job: flags.compilation.memory_per_job,
        make_jobserver: flags.compilation.script.make_jobserver,
        readonly_dependencies: flags.isolation.readonly_deps,
        protect_host: flags.isolation.protect_host,
        network: flags.isolation.network == NetworkFlag::Host,
        nice: flags.limits.nice,
        force: flags.compilation.script.force,
        grace: flags.limits.grace,
        limits: time_limits(&flags.limits),
        second_run: second_run(flags.isolation.second_run),
        keep_failed: flags.inspection.keep.keep_failed.clone(),
        program: program(),
        shell: shell(flags.inspection, terminal),
        log_lines: flags.output.log_lines as usize,
        cache,
        remote,
        compression_level: flags.results.packing.compression_level,
        keep_going: flags.compilation.keep_going,
        who: who(),
        environment,
        source_dates,
        ..Options::default()
    }
}

/// The variables that scripts inherit.
fn variables(
    script: &ScriptFlags,
    environment: &Environment,
    has_cache: bool,
    remote: Option<&RemoteOptions>,
) -> Environment {
    match remote.is_some_and(|it| it.stores) {
        true => script.variables_for_others(environment),
        false => script.variables(environment, has_cache || remote.is_some()),
    }
}

/// The source dates of packages: `SOURCE_DATE_EPOCH`, if it is set for scripts, or those that `--reproducible` asks for.
pub(super) fn source_dates(
    reproducible: bool,
    environment: &Environment,
) -> Result<SourceDates, SourceDateError> {
    match environment.get(SOURCE_DATE_EPOCH) {
        None if reproducible => Ok(SourceDates::OfEachSource),
        None => Ok(SourceDates::None),
        Some(date) => {
            let date = date.to_str().ok_or(SourceDateError)?;
            SourceDate::parse(date).map(SourceDates::Given)
        }
    }
}

fn max_jobs(jobs: JobsFlag) -> Option<NonZeroUsize> {
    match jobs {
        JobsFlag::Auto => None,
        JobsFlag::Most(jobs) => Some(jobs),
    }
}

pub(super) fn time_limits(limits: &LimitFlags) -> process::TimeLimits {
    process::TimeLimits {
        total: limits.timeout,
        silence: limits.silence_timeout,
    }
}

fn sharing(directories: &WorkFlags) -> sandbox::Sharing {
    match &directories.scratch_dir {
        Some(directory) => sandbox::Sharing::Kept(directory.clone()),
        None if directories.no_shared_scratch => sandbox::Sharing::Off,
        None => sandbox::Sharing::Run,
    }
}

pub(super) fn tier(isolation: IsolationFlag) -> sandbox::Isolation {
    match isolation {
        IsolationFlag::Auto => sandbox::Isolation::Auto,
        IsolationFlag::Namespace => sandbox::Isolation::Namespace,
        IsolationFlag::Userns => sandbox::Isolation::Userns,
        IsolationFlag::Landlock => sandbox::Isolation::Landlock,
        IsolationFlag::None => sandbox::Isolation::None,
    }
}

fn second_run(when: SecondRunFlag) -> compile::SecondRun {
    match when {
        SecondRunFlag::Auto => compile::SecondRun::AUTO,
        SecondRunFlag::Always => compile::SecondRun::Always,
        SecondRunFlag::Never => compile::SecondRun::Never,
    }
}

/// The shell to open, if there is a terminal for it.
fn shell(flags: InspectionFlags, terminal: Option<Terminal>) -> Option<Shell> {
    let when = match flags {
        InspectionFlags {
            shell: Some(package),
            ..
        } => ShellWhen::Instead(package),
        InspectionFlags {
            shell_on_failure: true,
            ..
        } => ShellWhen::AfterFailure,
        InspectionFlags { .. } => return None,
    };
    Some(Shell {
        when,
        terminal: Arc::new(terminal?),
    })
}
