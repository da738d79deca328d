//! The options of a call, from its flags.

use std::num::NonZeroUsize;
use std::sync::Arc;

use super::compile_flags::{
    Compile, DirectoryFlags, InspectionFlags, IsolationFlag, JobsFlag, LimitFlags, NetworkFlag,
    SecondRunFlag,
};
use super::this_process::{SELF, program, who};
use crate::compile::{self, Shell, ShellWhen, SourceDate, SourceDateError, SourceDates};
use crate::config::{Environment, Vcap};
use crate::offline::Options;
use crate::process::{self, Terminal};
use crate::sandbox::{self, UserNamespace};

/// The variable with the source date of all packages.
pub(super) const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The options of a call. `user_namespace` is the one that this process has entered, `terminal` that of this process.
pub(super) fn options(
    flags: Compile,
    environment: Environment,
    source_dates: SourceDates,
    user_namespace: UserNamespace,
    terminal: Option<Terminal>,
) -> Options {
    let Compile {
        tarballs,
        results,
        selection,
        plan,
        compilation,
        isolation,
        limits,
        inspection,
        directories,
        cache,
        output,
    } = flags;
    let cache = cache.options(&environment);
    let environment = compilation.variables(&environment, cache.is_some());
    Options {
        purpose: plan.purpose(),
        inputs: tarballs,
        selection: selection.selection(),
        output_directory: results.output_directory,
        report: results.report,
        timings: results.timings,
        graph: plan.graph,
        stemcell: compilation.stemcell,
        scratch: sharing(&directories),
        work_directory: directories.work_dir,
        logs_directory: directories.logs_dir,
        vcap: Vcap::new(&compilation.base_directory),
        isolation: tier(isolation.isolation),
        user_namespace,
        jobs: most(compilation.jobs),
        memory_per_job: compilation.memory_per_job,
        make_jobserver: compilation.make_jobserver,
        readonly_dependencies: isolation.readonly_deps,
        protect_host: isolation.protect_host,
        network: isolation.network == NetworkFlag::Host,
        nice: limits.nice,
        force: compilation.force,
        grace: limits.grace,
        limits: time_limits(&limits),
        second_run: second_run(isolation.second_run),
        keep_failed: inspection.keep_failed.clone(),
        program: program(),
        shell: shell(inspection, terminal),
        log_lines: output.log_lines as usize,
        cache,
        compression_level: results.compression_level,
        keep_going: compilation.keep_going,
        who: who(),
        environment,
        source_dates,
        agent: SELF.into(),
    }
}

/// The source dates of packages: `SOURCE_DATE_EPOCH`, if it is set, or those that `--reproducible` asks for.
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

fn most(jobs: JobsFlag) -> Option<NonZeroUsize> {
    match jobs {
        JobsFlag::Auto => None,
        JobsFlag::Most(jobs) => Some(jobs),
    }
}

fn time_limits(limits: &LimitFlags) -> process::TimeLimits {
    process::TimeLimits {
        total: limits.timeout,
        silence: limits.silence_timeout,
    }
}

fn sharing(directories: &DirectoryFlags) -> sandbox::Sharing {
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
