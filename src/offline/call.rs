//! The compilation of a run: reads its tarballs, decides what to do with each, compiles, and writes the results.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::assemble;
use super::call_record::CallRecord;
use super::call_report::ReleaseStatus;
use super::checked::CheckedRelease;
use super::documents::{self, Documented};
use super::dry_run;
use super::error::OfflineError;
use super::expected;
use super::ids::ReleaseId;
use super::inputs;
use super::ledger::ReleaseJob;
use super::licenses::{self, FoundLicenses};
use super::machines::Machines;
use super::options::{Options, Purpose, RemoteOptions};
use super::outputs::{LAST_RESORT, output_directories};
use super::plan;
use super::progress::Progress;
use super::releases::{self, Target};
use super::remote;
use super::reuse::{EarlierPackages, Sources};
use super::select::{Input, Selected, Task, Wanted, select};
use super::server_cache;
use super::setup;
use super::shell;
use super::space;
use super::stemcell::CallStemcell;
use super::tarball::Opened;
use super::this_machine::ThisMachine;
use super::verify::WrittenFile;
use super::work_directory;
use crate::compile::WorkDirectory;
use crate::diag::Chain;
use crate::fs::MadeDirectories;
use crate::release::Slug;
use crate::runtime;

/// Compiles the releases of a run. With other purposes in the options, only checks the releases or prints the plan.
pub(super) async fn compile(
    options: Options,
    progress: Arc<Progress>,
    record: &Arc<CallRecord>,
    cancel: &CancellationToken,
    written: &mut Written,
) -> Result<(), OfflineError> {
    record.set_inputs(&options.inputs);
    let stemcell = expected::stemcell(&options, &progress, cancel).await?;
    if let Some(stemcell) = stemcell.known() {
        let image = options.image().and_then(|it| it.digest.clone());
        record.set_stemcell(stemcell.clone(), image);
    }
    let mut call = Call {
        options,
        stemcell,
        progress,
        record,
        cancel,
    };
    let mut made = MadeDirectories::default();
    let outputs = call.output_directories(&mut made)?;
    let first_output = match outputs.first() {
        Some(directory) => directory.clone(),
        None => LAST_RESORT.into(),
    };
    let to = (call.progress.as_ref(), cancel);
    let making = setup::work_directory(&mut call.options, &first_output, to).await;
    let work_directory = making.inspect_err(|_| made.remove_empty())?;
    let result = call.run(&work_directory, outputs, written).await;
    if let Err(error) = &result {
        // Report the free space before the work directory is removed.
        let to = (&call.options, call.progress.as_ref());
        space::report_disks(error, &work_directory, &first_output, to);
    }
    setup::remove(work_directory, &call.progress).await;
    made.remove_empty();
    call.summarize(result.is_ok());
    if call.cancel.is_cancelled() {
        return Err(OfflineError::Stopped);
    }
    result
}

/// The compiled releases that were written, in the order of the inputs.
pub(super) type Written = BTreeMap<ReleaseId, PathBuf>;

/// One run, after the search for its stemcell.
struct Call<'a> {
    options: Options,
    stemcell: CallStemcell,
    progress: Arc<Progress>,
    record: &'a Arc<CallRecord>,
    cancel: &'a CancellationToken,
}

impl Call<'_> {
    /// The output directory of each input.
    fn output_directories(&self, made: &mut MadeDirectories) -> Result<Vec<PathBuf>, OfflineError> {
        let wanted = self.options.output_directory.as_deref();
        output_directories(&self.options.inputs, wanted, made, &self.progress).inspect_err(
            |error| {
                let directory = wanted.unwrap_or(LAST_RESORT.as_ref());
                space::report_free(&self.progress, error, &[directory]);
            },
        )
    }

    async fn run(
        &self,
        work_directory: &WorkDirectory,
        outputs: Vec<PathBuf>,
        written: &mut Written,
    ) -> Result<(), OfflineError> {
        let tasks = self.tasks(work_directory, outputs).await?;
        let wanted_logs = self.options.logs_directory.as_deref();
        let logs =
            work_directory::logs_of_earlier_runs(work_directory, wanted_logs, &self.options.vcap);
        let logs = self.options.own_logs(logs);
        if let Some(file) = &self.options.graph {
            let of = (tasks.as_slice(), self.options.source_dates);
            dry_run::write_graph(file, of, &logs, (&self.progress, self.cancel)).await?;
        }
        let stemcell = match (self.options.purpose, self.stemcell.known()) {
            (Purpose::Compile, Some(stemcell)) => stemcell,
            _ => {
                plan::check_directories(&self.options)?;
                let to = (self.progress.as_ref(), self.cancel);
                return plan::announce(&tasks, &self.stemcell, &self.options, &logs, to).await;
            }
        };
        let results: Vec<_> = tasks.iter().filter_map(result_of).collect();
        documents::check_results(&self.options.documents, &results)?;
        if !tasks.iter().any(has_sources) {
            return self
                .carry_out_all(tasks, stemcell, None, work_directory, written)
                .await;
        }
        let here = ThisMachine {
            options: &self.options,
            stemcell,
            work_directory,
            progress: &self.progress,
            record: self.record,
            cancel: self.cancel,
        };
        match &self.options.remote {
            None => self.compile_here(tasks, here, None, written).await,
            Some(cache) if cache.cache_only => {
                self.compile_here(tasks, here, Some(cache), written).await
            }
            Some(remote) => self.compile_elsewhere(tasks, here, remote, written).await,
        }
    }

    /// Compiles on this machine. If `server` is given, uses the action cache of this server.
    async fn compile_here(
        &self,
        tasks: Vec<Task>,
        here: ThisMachine<'_>,
        server: Option<&RemoteOptions>,
        written: &mut Written,
    ) -> Result<(), OfflineError> {
        let mut compiler = setup::compiler(here).await?;
        if let Some(server) = server {
            let sandbox = &compiler.context.sandbox;
            let shares_tree = sandbox.is_shared() && compiler.jobs.get() > 1;
            match server_cache::open(here, server, (sandbox.name(), shares_tree)).await {
                Ok(server) => compiler.server = server,
                Err(error) => {
                    setup::close(compiler.context, &self.progress).await?;
                    return Err(error);
                }
            }
        }
        let machines = Some(Machines::Here(&compiler));
        let (stemcell, work_directory) = (here.stemcell, here.work_directory);
        let result = self
            .carry_out_all(tasks, stemcell, machines, work_directory, written)
            .await;
        setup::close(compiler.context, &self.progress).await?;
        result
    }

    /// Compiles on the machines of a server or, if it cannot be used and the options allow that, on this machine.
    async fn compile_elsewhere(
        &self,
        tasks: Vec<Task>,
        here: ThisMachine<'_>,
        remote: &RemoteOptions,
        written: &mut Written,
    ) -> Result<(), OfflineError> {
        let (stemcell, work_directory) = (here.stemcell, here.work_directory);
        let compiler = match remote::compiler(here, remote).await {
            Err(OfflineError::Remote { source, .. })
                if remote.falls_back && source.is_of_the_server() =>
            {
                let reason = Chain(&source).to_string();
                self.progress.warn(&format!(
                    "Warning: the server {} is not used: {reason}. All packages will be compiled on this machine",
                    remote.location
                ));
                self.record.set_given_up(reason);
                return self.compile_here(tasks, here, None, written).await;
            }
            compiler => compiler?,
        };
        let machines = Some(Machines::Elsewhere(&compiler));
        self.carry_out_all(tasks, stemcell, machines, work_directory, written)
            .await
    }

    /// Reads the inputs, and decides what to do with each.
    async fn tasks(
        &self,
        work_directory: &WorkDirectory,
        outputs: Vec<PathBuf>,
    ) -> Result<Vec<Task>, OfflineError> {
        let tarballs = self.options.inputs.iter().cloned().zip(outputs);
        let reuse = self.options.reuse.iter();
        let reuse = reuse.map(|tarball| (tarball.clone(), PathBuf::new()));
        let tarballs = tarballs.chain(reuse).collect();
        let mut inputs =
            inputs::read(tarballs, work_directory, &self.progress, self.cancel).await?;
        self.check_canceled()?;
        let earlier = inputs.split_off(self.options.inputs.len());
        let wanted = Wanted {
            stemcell: &self.stemcell,
            selection: &self.options.selection,
        };
        let Selected { tasks, notes } = select(inputs, wanted)?;
        notes.iter().for_each(|note| self.progress.line(note));
        shell::check(&self.options, &tasks)?;
        let tasks = self.reuse(earlier, tasks).await?;
        let places = space::places(&self.options, work_directory);
        let checking = runtime::spawn_blocking("space", move || {
            space::check_for_tasks(&tasks, &places).map(|()| tasks)
        });
        checking.await?
    }

    /// Takes packages from results of earlier runs (`--reuse`).
    async fn reuse(
        &self,
        earlier: Vec<Input<Opened>>,
        mut tasks: Vec<Task>,
    ) -> Result<Vec<Task>, OfflineError> {
        if earlier.is_empty() {
            return Ok(tasks);
        }
        let (earlier, others) = EarlierPackages::of(earlier, self.stemcell.known())?;
        others.iter().for_each(|note| self.progress.warn(note));
        let sources = match self.options.documents.sboms.is_empty() {
            true => Sources::Removed,
            false => Sources::Kept,
        };
        let reusing = runtime::spawn_blocking("reuse", move || {
            let notes = earlier.take_over(&mut tasks, sources)?;
            Ok::<_, OfflineError>((tasks, notes))
        });
        let (tasks, notes) = reusing.await??;
        notes.iter().for_each(|note| self.progress.line(note));
        Ok(tasks)
    }

    /// Carries out the tasks that compile nothing, then compiles all releases together.
    async fn carry_out_all(
        &self,
        tasks: Vec<Task>,
        stemcell: &Slug,
        machines: Option<Machines<'_>>,
        work_directory: &WorkDirectory,
        written: &mut Written,
    ) -> Result<(), OfflineError> {
        let mut releases = BTreeMap::new();
        tasks.iter().for_each(|task| self.record_release(task));
        self.document_releases(&tasks).await?;
        for task in tasks {
            if let Task::Compile {
                id,
                release,
                output,
            } = task
            {
                let blobs = work_directory::blobs(work_directory, id)?;
                let job = ReleaseJob {
                    release,
                    output,
                    blobs,
                };
                releases.insert(id, job);
            } else if let Some((id, output)) = self.carry_out(task).await? {
                written.insert(id, output);
            }
        }
        let target = Target {
            stemcell,
            one_of_several: self.options.one_of_several(),
            progress: &self.progress,
            record: self.record,
            cancel: self.cancel,
            only: shell::package(&self.options),
        };
        let (compiled, result) = releases::compile_all(&target, releases, machines).await;
        written.extend(compiled);
        result
    }

    /// Records the release of a task for the report.
    fn record_release(&self, task: &Task) {
        let Some((id, release, status)) = release_of(task) else {
            return;
        };
        let output = result_of(task).map_or(release.tarball.as_path(), |(path, _)| path);
        self.record.add_release(id, release, output, status);
    }

    /// Collects what documents about the results need, while the sources are on the disk.
    async fn document_releases(&self, tasks: &[Task]) -> Result<(), OfflineError> {
        let documents = &self.options.documents;
        if !documents.are_wanted() {
            return Ok(());
        }
        for (id, release, status) in tasks.iter().filter_map(release_of) {
            let is_compiled = status == ReleaseStatus::Written;
            if documents.provenance.is_some() && !is_compiled {
                self.progress.warn(&format!(
                    "Warning: no provenance is written for {}: it was compiled before this run",
                    release.tarball.display()
                ));
            }
            let mut documented = Documented {
                release: Arc::clone(release),
                is_compiled,
                licenses: FoundLicenses::default(),
                compiled: BTreeMap::new(),
                uses_server: false,
            };
            if !documents.sboms.is_empty() {
                let (release, cancel) = (Arc::clone(release), self.cancel.clone());
                let finding = move || licenses::find(&release, &cancel);
                documented.licenses = runtime::spawn_blocking("licenses", finding).await?;
                if let Some(warning) = documented.left_out() {
                    self.progress.warn(&warning);
                }
            }
            self.record.set_documented(id, documented);
            self.check_canceled()?;
        }
        Ok(())
    }

    /// Carries out a task without compiling. Returns the result's path, if there is a result.
    async fn carry_out(&self, task: Task) -> Result<Option<(ReleaseId, PathBuf)>, OfflineError> {
        self.check_canceled()?;
        match task {
            Task::Replaced { tarball, by } => {
                self.progress.line(&format!(
                    "{} is an earlier result of {} {}",
                    tarball.display(),
                    by.of.display(),
                    match by.is_rebuilt {
                        true => "and is rebuilt",
                        false => "with another selection and is left out",
                    }
                ));
                Ok(None)
            }
            Task::Unselected { tarball } => {
                self.progress.line(&format!(
                    "Nothing is selected of {}: it is left out",
                    tarball.display()
                ));
                Ok(None)
            }
            Task::InPlace { id, release } => {
                let tarball = release.tarball.clone();
                self.progress.line(&format!(
                    "{} is already compiled for this stemcell and stays unchanged",
                    tarball.display()
                ));
                self.record.results.set_unchanged(id, &release.digests);
                Ok(Some((id, tarball)))
            }
            Task::PassOn {
                id,
                release,
                output,
            } => {
                let written = self.pass_on(release, &output).await?;
                self.record.results.set_written(id, &written);
                Ok(Some((id, output)))
            }
            // `carry_out_all` compiles these releases together.
            Task::Compile { .. } => Ok(None),
        }
    }

    /// Copies a release that is compiled already.
    async fn pass_on(
        &self,
        release: Arc<CheckedRelease>,
        output: &Path,
    ) -> Result<WrittenFile, OfflineError> {
        self.progress.line(&format!(
            "{} is already compiled for this stemcell and is copied unchanged",
            release.tarball.display()
        ));
        let (target, cancel) = (output.to_owned(), self.cancel.clone());
        let copying = runtime::spawn_blocking("pass on", move || {
            assemble::pass_on(&release.tarball, &release.digests, &target, &cancel)
        });
        copying.await?.map_err(|source| OfflineError::Assemble {
            output: output.to_owned(),
            source,
        })
    }

    /// Prints the slowest packages.
    fn summarize(&self, is_complete: bool) {
        // Print nothing after a stop or a shell, because the times then say little about a complete run.
        if self.check_canceled().is_err() || shell::package(&self.options).is_some() {
            return;
        }
        let lines = self.record.summary_lines(is_complete);
        if !lines.is_empty() {
            self.progress.line(&lines.join("\n"));
        }
    }

    fn check_canceled(&self) -> Result<(), OfflineError> {
        if self.cancel.is_cancelled() {
            return Err(OfflineError::Stopped);
        }
        Ok(())
    }
}

/// The release of a task that has a result, and its status after the result was written.
fn release_of(task: &Task) -> Option<(ReleaseId, &Arc<CheckedRelease>, ReleaseStatus)> {
    match task {
        Task::Compile { id, release, .. } => Some((*id, release, ReleaseStatus::Written)),
        Task::PassOn { id, release, .. } => Some((*id, release, ReleaseStatus::Copied)),
        Task::InPlace { id, release } => Some((*id, release, ReleaseStatus::Unchanged)),
        Task::Replaced { .. } | Task::Unselected { .. } => None,
    }
}

/// The path of the result of a task, if it has one, and whether the run compiles it.
fn result_of(task: &Task) -> Option<(&Path, bool)> {
    match task {
        Task::Compile { output, .. } => Some((output, true)),
        Task::PassOn { output, .. } => Some((output, false)),
        Task::InPlace { release, .. } => Some((&release.tarball, false)),
        Task::Replaced { .. } | Task::Unselected { .. } => None,
    }
}

/// Whether a task compiles packages.
fn has_sources(task: &Task) -> bool {
    match task {
        Task::Compile { release, .. } => !release.manifest.packages.is_empty(),
        Task::PassOn { .. }
        | Task::InPlace { .. }
        | Task::Replaced { .. }
        | Task::Unselected { .. } => false,
    }
}
