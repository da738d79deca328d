//! `bosh-agent compile-package`: compiles one package, from its source and its compiled dependencies, without a release.
//!
//! ```text
//! check paths → hash the inputs → check the space → work directory → sandbox → install the dependencies → compile::compile
//!             → place the result: sync, read back, rename
//! ```
//!
//! `places` checks the paths, `inputs` reads the source and the dependencies, `place` writes the result, `record` collects the facts for
//! the report. The inputs belong to the caller: nothing changes, moves or removes them.

mod inputs;
mod install;
mod place;
mod places;
pub(super) mod record;

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use self::inputs::PackageFiles;
use self::inputs::{ALGORITHMS, Input};
use self::places::Places;
use self::record::OnePackageRecord;
use super::assemble;
use super::error::OfflineError;
use super::failure::PackageFailure;
use super::isolation;
use super::options::Options;
use super::package_events::PackageEvents;
use super::progress::Progress;
use super::report_file::ReportFile;
use super::run::Outcome;
use super::script_warnings;
use super::setup;
use super::space;
use super::stemcell;
use super::written_file::check_target;
use crate::compile::{
    self, CompileError, Compiled, Context, Dependency, Job, WorkDirectory, find_error,
};
use crate::diag::Chain;
use crate::fs::{self, LeasedFile};
use crate::package_job::{PackageJob, PhaseName, ScriptUser};
use crate::runtime;

/// Compiles one package, whose paths are absolute. The options must have no inputs, and must agree with `job`.
pub async fn compile_package(
    job: PackageJob,
    files: PackageFiles,
    options: Options,
    progress: Arc<Progress>,
    cancel: &CancellationToken,
) -> Outcome {
    let record = Arc::new(OnePackageRecord::new(&job, &files.log));
    let places = match check_report(&job, &files, &options).await {
        Ok(places) => places,
        Err(error) => {
            return Outcome {
                written: Vec::new(),
                result: Err(error),
                report: None,
            };
        }
    };
    let mut call = Call {
        job,
        options,
        progress,
        record: Arc::clone(&record),
        cancel,
        files,
    };
    let result = call.run(places).await;
    let result = match cancel.is_cancelled() {
        // A stop can cause various errors. Report the stop instead.
        true if result.is_err() => Err(OfflineError::Stopped),
        _ => result,
    };
    Outcome {
        written: match result {
            Ok(()) => vec![call.files.output],
            Err(_) => Vec::new(),
        },
        result,
        report: call
            .files
            .report
            .map(|file| ReportFile::of_package(file, record)),
    }
}

/// Checks the path of the report, and removes the report of an earlier run, so that no program takes it for the report of this run. If this
/// fails, nothing may be written to the path.
async fn check_report(
    job: &PackageJob,
    files: &PackageFiles,
    options: &Options,
) -> Result<Places, OfflineError> {
    let (job, files, options) = (job.clone(), files.clone(), options.clone());
    let checking = runtime::spawn_blocking("report", move || {
        let places = Places::new(&job, &files, &options);
        places.check_report()?;
        if let Some(report) = &files.report {
            // Fail now instead of after the compilation.
            check_target("write the report to", report)?;
            fs::remove_abandoned_writes(fs::parent(report));
            fs::remove_file_if_there(report)?;
        }
        Ok::<_, OfflineError>(places)
    });
    checking.await?
}

/// One run.
struct Call<'a> {
    job: PackageJob,
    files: PackageFiles,
    options: Options,
    progress: Arc<Progress>,
    record: Arc<OnePackageRecord>,
    cancel: &'a CancellationToken,
}

impl Call<'_> {
    async fn run(&mut self, places: Places) -> Result<(), OfflineError> {
        places.check_others()?;
        self.check_user()?;
        self.compare_stemcells();
        self.prepare_files().await?;
        let inputs = inputs::read(&self.job, self.cancel).await?;
        self.record.set_inputs(&inputs);
        let output_directory = fs::parent(&self.files.output);
        let to = (self.progress.as_ref(), self.cancel);
        let work_directory = setup::work_directory(&mut self.options, output_directory, to).await?;
        let result = self.compile_in(&work_directory, inputs).await;
        if let Err(error) = &result {
            // Report the free space before the work directory is removed.
            let to = (&self.options, self.progress.as_ref());
            space::report_disks(error, &work_directory, output_directory, to);
        }
        setup::remove(work_directory, &self.progress).await;
        result
    }

    /// Checks that the script runs as the right user, because the owners of installed files depend on it.
    fn check_user(&self) -> Result<(), OfflineError> {
        let user = match nix::unistd::geteuid().is_root() {
            true => ScriptUser::Root,
            false => ScriptUser::Ordinary,
        };
        match self.job.script_user {
            Some(wanted) if wanted != user => Err(OfflineError::ScriptUser { wanted }),
            _ => Ok(()),
        }
    }

    /// Records the stemcell of this machine. Warns if the package is compiled for another one.
    fn compare_stemcells(&self) {
        let Ok(machine) = stemcell::detect(&self.options.vcap) else {
            return;
        };
        if let Some(wanted) = &self.job.stemcell
            && *wanted != machine
        {
            self.warn(format!(
                "Warning: this machine is {machine}, not {wanted}: the package uses its compilers and libraries"
            ));
        }
        self.record.set_machine_stemcell(&machine);
    }

    /// Checks that the files can be written, and removes what earlier runs left.
    async fn prepare_files(&self) -> Result<(), OfflineError> {
        let (files, record) = (self.files.clone(), Arc::clone(&self.record));
        let keep_failed = self.options.keep_failed.clone();
        let preparing = runtime::spawn_blocking("files", move || {
            check_target("write the compiled package to", &files.output)?;
            check_target("write the log to", &files.log)?;
            check_target("replace the log", &compile::first_log(&files.log))?;
            if let Some(directory) = keep_failed {
                // Fail now instead of after the compilation.
                fs::create_dir_all(&directory)?;
                fs::check_writable(&directory)?;
            }
            fs::remove_abandoned(fs::parent(&files.output), assemble::PARTIAL_PREFIX, None);
            // Remove the log instead of truncating it, because hard links to it must not change.
            fs::remove_file_if_there(&files.log)?;
            fs::remove_file_if_there(&compile::first_log(&files.log))?;
            record.set_older_log_removed();
            Ok::<_, OfflineError>(())
        });
        preparing.await?
    }

    async fn compile_in(
        &self,
        work_directory: &WorkDirectory,
        inputs: Vec<Input>,
    ) -> Result<(), OfflineError> {
        let work = work_directory.path();
        let checking = {
            let places = space::places(&self.options, work_directory);
            let (files, work) = (inputs::files(&inputs), work.to_owned());
            runtime::spawn_blocking("space", move || {
                space::check_for_package(&files, &places, &work)
            })
        };
        checking.await??;
        let choosing = (&self.options, Vec::new());
        let sandbox = isolation::choose(choosing, work, &self.progress, self.cancel).await?;
        self.record.set_isolation(sandbox.name());
        if let Some(warning) = setup::warning_of_noexec(&self.options, &sandbox, work_directory) {
            self.warn(warning);
        }
        let variables = match setup::variables(&self.options, work_directory) {
            Ok(variables) => variables,
            Err(error) => {
                sandbox.close()?;
                return Err(error.into());
            }
        };
        let context = Arc::new(setup::context(
            &self.options,
            sandbox,
            work_directory,
            variables,
            Some(self.record.listener()),
            (&self.progress, self.cancel),
        ));
        let result = self.compile_with(&context, inputs).await;
        setup::close(context, &self.progress).await?;
        result
    }

    /// Compiles the package, and writes the result.
    async fn compile_with(
        &self,
        context: &Arc<Context>,
        inputs: Vec<Input>,
    ) -> Result<(), OfflineError> {
        self.progress.line(&format!(
            "The log of the packaging script is {}",
            self.files.log.display()
        ));
        let output = self.files.output.clone();
        let making = runtime::spawn_blocking("output", move || assemble::partial(&output));
        let target = making.await??;
        self.progress.expect(1);
        self.progress
            .start(0, &self.job.name, &self.job.version, &[]);
        self.record.start(PackageEvents::start(PhaseName::Unpack));
        let mut compiled = Err(CompileError::Stopped {
            package: self.job.name.clone(),
        });
        let compiling = async {
            compiled = self.compile(context, &inputs, target.path()).await;
        };
        self.progress.with_reminders(compiling).await;
        let took = self.progress.end(0);
        self.progress.hide_bars();
        self.record.end(compiled.as_ref().ok());
        let compiled = match compiled {
            Ok(compiled) => compiled,
            Err(CompileError::Stopped { .. }) => return Err(OfflineError::Stopped),
            Err(source) => return Err(self.failure(&inputs, source).await),
        };
        self.warn_about(&compiled);
        self.place(target, compiled).await?;
        let (name, version) = (&self.job.name, &self.job.version);
        let after = took.map_or_else(String::new, |took| format!(" after {took}"));
        self.progress.add_compiled(&format!(
            "Finished compiling package {name}/{version}{after}: {}",
            self.files.output.display()
        ));
        Ok(())
    }

    async fn compile(
        &self,
        context: &Arc<Context>,
        inputs: &[Input],
        blob: &Path,
    ) -> Result<Compiled, CompileError> {
        let (source, dependencies) = inputs::source_and_dependencies(inputs);
        let cancel = self.cancel;
        let dependencies = install::all(context, &self.job, dependencies, cancel).await?;
        let dates = self.options.source_dates;
        let source_date = dates.of(&self.job.name, &source.path, cancel).await?;
        let job = self.core_job(source, source_date, dependencies, blob);
        compile::compile(context, job, cancel).await
    }

    fn core_job(
        &self,
        source: &Input,
        source_date: Option<compile::SourceDate>,
        dependencies: Vec<Dependency>,
        blob: &Path,
    ) -> Job {
        Job {
            number: 0,
            name: self.job.name.clone(),
            version: self.job.version.clone(),
            source: source.path.clone(),
            kept: None,
            source_digests: source.digests.clone(),
            source_date,
            dependencies,
            log: self.files.log.clone(),
            stdout_log: None,
            blob: blob.to_owned(),
            is_dependency: false,
            algorithms: ALGORITHMS.to_vec(),
        }
    }

    /// Prints warnings about a compiled package.
    fn warn_about(&self, compiled: &Compiled) {
        let name = &self.job.name;
        let findings = compiled.findings.iter();
        let findings = findings.map(|finding| format!("Warning: package {name}: {finding}"));
        let of_script = compiled.script.iter();
        let of_script = of_script.flat_map(|end| script_warnings::of(name, end));
        findings.chain(of_script).for_each(|it| self.warn(it));
    }

    fn warn(&self, warning: String) {
        self.progress.warn(&warning);
        self.record.add_warning(warning);
    }

    /// Verifies the compiled package and moves it to its output path.
    async fn place(&self, target: LeasedFile, compiled: Compiled) -> Result<(), OfflineError> {
        let (output, cancel) = (self.files.output.clone(), self.cancel.clone());
        let unrestricted = compiled.unrestricted;
        let placing = runtime::spawn_blocking("place", move || {
            place::place(target, &compiled, &output, &cancel)
        });
        let placed = placing.await?;
        let placed = placed.map_err(|source| OfflineError::Place {
            output: self.files.output.clone(),
            source,
        })?;
        self.record.set_compiled(placed.blob, unrestricted);
        if let Some(error) = placed.unsynced {
            self.warn(format!(
                "Warning: the compiled package was written, but its directory could not be written to the disk, so a crash of this machine \
                 may undo it: {}",
                Chain(&error)
            ));
        }
        Ok(())
    }

    /// The failure of the package, with the error line of its log.
    async fn failure(&self, inputs: &[Input], source: CompileError) -> OfflineError {
        let damaged = match &source {
            CompileError::Compiled { package, .. } | CompileError::BlobChanged { package, .. } => {
                inputs.iter().find(|it| it.package == *package)
            }
            _ => inputs.first(),
        };
        let log = self.files.log.clone();
        let reading = runtime::spawn_blocking("failed log", move || {
            let is_there = fs::lookup(&log)?.is_some();
            let line = match is_there {
                true => find_error(&log)?,
                false => None,
            };
            Ok::<_, fs::Error>((is_there.then_some(log), line))
        });
        let (log, error_line) = match reading.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                self.progress.warn(&format!(
                    "Warning: could not read the log of package {}: {}",
                    self.job.name,
                    Chain(&error)
                ));
                (None, None)
            }
            Err(error) => return error.into(),
        };
        OfflineError::Package(Box::new(PackageFailure {
            releases: Vec::new(),
            package: (self.job.name.clone(), self.job.version.clone()),
            blob: damaged.map_or_else(Default::default, |it| (it.path.clone(), it.size)),
            log,
            error_line,
            source: source.into(),
        }))
    }
}
