//! The package to compile: from flags, or from the file of `--job`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{CompilePackage, absolute};
use crate::cli::compile_flags::{IsolationFlag, NetworkFlag, ScriptFlags, SecondRunFlag};
use crate::cli::{MACHINE, USAGE};
use crate::compile::{self, SOURCE_DATE_EPOCH, SourceDateError};
use crate::config::Environment;
use crate::diag::Chain;
use crate::fs::{self, Context};
use crate::offline::{FailureKind, PackageFiles, is_wrong_path};
use crate::package_job::{
    JobDependency, JobIsolation, JobNetwork, JobSecondRun, JobSettings, PackageJob,
};

/// An error text and its exit code.
type Problem = (String, u8);

/// The job from the flags or from the file of `--job`, with absolute paths.
pub(super) fn of(
    command: &CompilePackage,
    environment: &Environment,
) -> Result<PackageJob, Problem> {
    match &command.package.job {
        Some(file) => from_file(file),
        None => from_flags(command, environment).map_err(|text| (text, USAGE)),
    }
}

fn from_file(file: &Path) -> Result<PackageJob, Problem> {
    let input_error = FailureKind::Input.exit_code();
    let file = absolute(file);
    let json = read(&file).map_err(|error| {
        // The error about a file that is not a regular file does not come from the system.
        let is_irregular = error.source.raw_os_error().is_none();
        let code = match is_wrong_path(&error) || is_irregular {
            true => input_error,
            false => MACHINE,
        };
        (Chain(&error).to_string(), code)
    })?;
    let job = PackageJob::parse(&json).map_err(|error| {
        (
            format!("invalid job `{}`: {error}", file.display()),
            input_error,
        )
    })?;
    Ok(job.below(fs::parent(&file)))
}

fn read(file: &Path) -> fs::Result<Vec<u8>> {
    let mut json = Vec::new();
    let mut opened = fs::open_file(file)?;
    opened.read_to_end(&mut json).at("read", file)?;
    Ok(json)
}

fn from_flags(command: &CompilePackage, environment: &Environment) -> Result<PackageJob, String> {
    let flags = &command.package;
    let (Some(source), Some(name), Some(version)) = (&flags.source, &flags.name, &flags.version)
    else {
        // Not reachable: clap requires these flags if there is no `--job`.
        return Err("--source, --name and --version are missing".to_owned());
    };
    let dependencies = flags.dependency.iter().map(|it| JobDependency {
        blob: absolute(&it.blob),
        ..it.clone()
    });
    let job = PackageJob {
        name: name.clone(),
        version: version.clone(),
        source: absolute(source),
        dependencies: dependencies.collect(),
        stemcell: flags.stemcell.clone(),
        script_user: None,
        settings: settings(command, environment)?,
    };
    job.check().map_err(|problem| problem.to_string())?;
    Ok(job)
}

fn settings(command: &CompilePackage, environment: &Environment) -> Result<JobSettings, String> {
    let base = &command.script.base_directory;
    let base = base
        .to_str()
        .ok_or_else(|| format!("the base directory `{}` is not valid UTF-8", base.display()))?;
    Ok(JobSettings {
        base_directory: base.to_owned(),
        isolation: match command.isolation.isolation {
            IsolationFlag::Auto => JobIsolation::Auto,
            IsolationFlag::Namespace => JobIsolation::Namespace,
            IsolationFlag::Userns => JobIsolation::Userns,
            IsolationFlag::Landlock => JobIsolation::Landlock,
            IsolationFlag::None => JobIsolation::None,
        },
        second_run: match command.isolation.second_run {
            SecondRunFlag::Auto => JobSecondRun::Auto,
            SecondRunFlag::Always => JobSecondRun::Always,
            SecondRunFlag::Never => JobSecondRun::Never,
        },
        readonly_dependencies: command.isolation.readonly_deps,
        protect_host: command.isolation.protect_host,
        network: match command.isolation.network {
            NetworkFlag::Host => JobNetwork::Host,
            NetworkFlag::None => JobNetwork::None,
        },
        shared_scratch: !command.work.no_shared_scratch,
        make_jobserver: command.script.make_jobserver,
        reproducible: command.packing.reproducible,
        compression_level: command.packing.compression_level,
        // The time limits of the flags apply with or without `--job`, so the job repeats none.
        timeout_seconds: None,
        silence_timeout_seconds: None,
        variables: variables(&command.script, environment)?,
    })
}

/// The variables of `--env`, with their values.
fn variables(
    flags: &ScriptFlags,
    environment: &Environment,
) -> Result<BTreeMap<String, String>, String> {
    let mut variables = BTreeMap::new();
    for variable in &flags.env {
        let name = &variable.name;
        let value = variable.value.as_deref().or_else(|| environment.get(name));
        let value = value.ok_or_else(|| {
            format!("the variable `{name}` of --env is not set\nHint: pass --env {name}=VALUE")
        })?;
        let value = value
            .to_str()
            .ok_or_else(|| format!("the value of the variable `{name}` is not valid UTF-8"))?;
        // If a variable is given several times, the last value replaces the others.
        variables.insert(name.clone(), value.to_owned());
    }
    Ok(variables)
}

/// The error about an invalid `SOURCE_DATE_EPOCH`. If the job file sets the variable, the error names the file.
pub(super) fn wrong_source_date(
    job: &PackageJob,
    files: &PackageFiles,
    error: &SourceDateError,
) -> Problem {
    let text = format!("invalid value of the variable `{SOURCE_DATE_EPOCH}`: {error}");
    match &files.job {
        Some(file) if job.settings.variables.contains_key(SOURCE_DATE_EPOCH) => (
            format!("invalid job `{}`: {text}", file.display()),
            FailureKind::Input.exit_code(),
        ),
        _ => (text, USAGE),
    }
}

/// The error text if the path of a file to write is also given for another purpose, or if a file to write is below another such file.
/// Compares paths without resolving links.
pub(super) fn given_twice(job: &PackageJob, files: &PackageFiles) -> Option<String> {
    let read = job.dependencies.iter().map(|it| (&it.blob, "--dependency"));
    let read = std::iter::once((&job.source, "--source")).chain(read);
    let read: BTreeMap<&PathBuf, &str> = read
        .chain(files.job.iter().map(|it| (it, "--job")))
        .collect();
    let first_run_log = compile::first_log(&files.log);
    let report = files.report.iter().map(|it| (it, "--report"));
    let written = [
        (&files.output, "--output"),
        (&files.log, "--log"),
        (&first_run_log, "the log of a first run"),
    ];
    let written: Vec<(&PathBuf, &str)> = written.into_iter().chain(report).collect();
    for (number, (path, flag)) in written.iter().enumerate() {
        let mut earlier = written[..number].iter();
        let same = earlier.clone().find(|(other, _)| other == path);
        if let Some(other_flag) = read.get(path).or(same.map(|(_, flag)| flag)) {
            return Some(format!(
                "`{}` is given for {other_flag} and for {flag}",
                path.display()
            ));
        }
        let is_nested = |other: &Path| path.starts_with(other) || other.starts_with(path.as_path());
        if let Some((other, other_flag)) = earlier.find(|(other, _)| is_nested(other)) {
            return Some(format!(
                "`{}` is given for {other_flag} and `{}` for {flag}: one of them would be a directory",
                other.display(),
                path.display()
            ));
        }
    }
    None
}
