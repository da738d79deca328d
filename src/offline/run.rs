//! One call, from the tarballs to the last line.

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::assemble;
use super::error::OfflineError;
use super::isolation::{self, Isolation};
use super::open::{self, OpenError, Opened, Role};
use super::outputs::{LAST_RESORT, output_directories};
use super::progress::Progress;
use super::release::Release;
use super::releases::{self, Compiler};
use super::select::{Input, Task, select};
use super::space;
use super::stemcell;
use super::workplace::Workplace;
use crate::compile::{Context, SecondRun, Store};
use crate::config::{Environment, Vcap};
use crate::diag::Chain;
use crate::fs::{self, MadeDirectories};
use crate::process::{self, ForkServer, Jobserver};
use crate::release::Slug;
use crate::sandbox::Sandbox;
use crate::{runtime, sandbox};

/// How many ignored files are named.
const CLUTTER_NAMED: usize = 10;

/// How long a read of an input may go on when the call was asked to stop.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// What a call is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// The tarballs.
    pub inputs: Vec<PathBuf>,
    /// Where results go; without it each goes next to its input.
    pub output_directory: Option<PathBuf>,
    /// The stemcell to compile for; without it the one that this is.
    pub stemcell: Option<Slug>,
    /// Where temporary files go.
    pub work_directory: Option<PathBuf>,
    /// Where logs stay.
    pub logs_directory: Option<PathBuf>,
    /// Who shares the scratch directories of packages.
    pub scratch: sandbox::Sharing,
    /// The base directory, `/var/vcap`.
    pub vcap: Vcap,
    /// How packages are kept apart.
    pub isolation: Isolation,
    /// The user namespace that this process has entered for it.
    pub user_namespace: sandbox::Entry,
    /// How many packages are compiled at once, at the most; `None` for as many as there are processors.
    pub jobs: Option<NonZeroUsize>,
    /// Whether all scripts share one pool of jobs for GNU make.
    pub make_jobserver: bool,
    /// Whether scripts are kept from writing into dependencies, where that can be done.
    pub readonly_dependencies: bool,
    /// Whether everything that is not a script's own is read-only for it; it is an error where that cannot be done.
    pub protect_host: bool,
    /// Whether scripts get the network that everybody has.
    pub network: bool,
    /// How much nicer than this program scripts are, from 0 to 19.
    pub nice: i32,
    /// Whether packages of another agent may be removed.
    pub force: bool,
    /// How long scripts get to end when they are told to.
    pub grace: Duration,
    /// How long a script may run.
    pub limit: Option<Duration>,
    /// When a script that failed under rules is run again without them.
    pub second_run: SecondRun,
    /// The gzip level of compiled packages.
    pub compression_level: u32,
    /// What scripts inherit.
    pub environment: Environment,
    /// Forks the parents of scripts.
    pub agent: ForkServer,
    /// Who we are, for others who want to compile here.
    pub who: String,
}

/// Compiles releases, and tells the paths of the results last, in the order of the inputs.
///
/// # Errors
/// See [`OfflineError`]. Results that were complete before the failure stay, and are named in the progress.
pub async fn run(
    options: Options,
    progress: Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<(), OfflineError> {
    let stemcell = match &options.stemcell {
        Some(stemcell) => stemcell.clone(),
        None => stemcell::detect(&options.vcap)?,
    };
    progress.line(&format!("Compiling with stemcell {stemcell}"));
    let mut made = MadeDirectories::default();
    let outputs = output_directories(
        &options.inputs,
        options.output_directory.as_deref(),
        &mut made,
        &progress,
    )
    .inspect_err(|error| {
        let directory = options.output_directory.as_deref();
        tell_free_space(
            &progress,
            error,
            &[directory.unwrap_or(LAST_RESORT.as_ref())],
        );
    })?;
    let beside = outputs
        .first()
        .cloned()
        .unwrap_or_else(|| LAST_RESORT.into());
    let making = {
        let (wanted, vcap) = (options.work_directory.clone(), options.vcap.clone());
        let (beside, cancel) = (beside.clone(), cancel.clone());
        // It may wait for the processes of a run that was killed.
        runtime::spawn_blocking("work directory", move || {
            Workplace::make(wanted.as_deref(), &vcap, &beside, &|| cancel.is_cancelled())
        })
    };
    let workplace = making.await?.map_err(|error| {
        let error = OfflineError::Files(error);
        let data = options.vcap.data();
        let wanted = options.work_directory.as_deref();
        tell_free_space(&progress, &error, &[wanted.unwrap_or(&data), &beside]);
        made.remove_empty();
        error
    })?;
    let call = Call {
        options,
        stemcell,
        progress,
        cancel,
    };
    let mut written = Vec::new();
    let result = call.run(&workplace, outputs, &mut written).await;
    if let Err(error) = &result {
        // Looked at before anything is removed.
        call.tell_of_disks(error, &workplace, &beside);
    }
    let work = workplace.path().to_owned();
    let removed = workplace.remove();
    made.remove_empty();
    if let Err(error) = &removed {
        call.progress.line(&format!(
            "Warning: could not remove `{}`: {}. The next run with this work directory tries again{}",
            work.display(),
            Chain(error),
            hint(error)
        ));
    }
    // Last, and one for each release: scripts read the path from here.
    for output in &written {
        call.progress.line(&format!(
            "Finished archiving compiled tarball {}",
            output.display()
        ));
    }
    if call.cancel.is_cancelled() {
        return Err(OfflineError::Stopped);
    }
    result
}

/// One line about the files of operating systems and tools in a tarball.
fn clutter(opened: &Opened) -> Option<String> {
    let found = &opened.clutter;
    let named: Vec<String> = found
        .iter()
        .take(CLUTTER_NAMED)
        .map(|path| format!("`{}`", open::shown(path).escape_debug()))
        .collect();
    let (what, more) = match found.len() {
        0 => return None,
        1 => ("a file that is".to_owned(), String::new()),
        count if count > CLUTTER_NAMED => (
            format!("{count} files that are"),
            format!(" and {} more", count - CLUTTER_NAMED),
        ),
        count => (format!("{count} files that are"), String::new()),
    };
    Some(format!(
        "Warning: ignoring {what} not part of the release in {}, but left there by an operating system or a tool: {}{more}",
        opened.tarball.display(),
        named.join(", ")
    ))
}

/// The hint of an error, as a line to follow a warning.
fn hint(error: &fs::Error) -> String {
    error
        .hint()
        .map_or_else(String::new, |hint| format!("\nHint: {hint}"))
}

/// Tells how much is free in directories, where that is what an error is about.
fn tell_free_space(progress: &Progress, error: &OfflineError, directories: &[&Path]) {
    // With a package's failure it is told how it was when it failed.
    let is_untold = |failure: &OfflineError| {
        failure.is_no_space() && !matches!(failure, OfflineError::Package(_))
    };
    if !error.failures().iter().any(is_untold) {
        return;
    }
    for directory in directories {
        if let Ok(space) = fs::space(directory) {
            progress.line(&format!("{space} at {}", directory.display()));
        }
    }
}

/// One call, once it is known what it is for.
struct Call<'a> {
    options: Options,
    stemcell: Slug,
    progress: Arc<Progress>,
    cancel: &'a CancellationToken,
}

impl Call<'_> {
    async fn run(
        &self,
        workplace: &Workplace,
        outputs: Vec<PathBuf>,
        written: &mut Vec<PathBuf>,
    ) -> Result<(), OfflineError> {
        let inputs = self.open(workplace, outputs).await?;
        self.check_stop()?;
        let tasks = select(inputs, &self.stemcell)?.map_err(OfflineError::Input)?;
        let (work, data) = (fs::parent(workplace.path()), self.options.vcap.data());
        let places: &[&Path] = match self.options.isolation {
            Isolation::Auto => &[work, &data],
            Isolation::Namespace | Isolation::Userns => &[work],
            Isolation::Landlock | Isolation::None => &[&data],
        };
        space::check_for_tasks(&tasks, places)?;
        let needs_sandbox = tasks.iter().any(
            |task| matches!(task, Task::Compile { opened, .. } if !opened.manifest.packages.is_empty()),
        );
        if !needs_sandbox {
            return self.carry_out_all(tasks, None, workplace, written).await;
        }
        let compiler = self.compiler(workplace).await?;
        let result = self
            .carry_out_all(tasks, Some(&compiler), workplace, written)
            .await;
        // No package is on its way any more, so nobody else holds it.
        let closed = match Arc::try_unwrap(compiler.context) {
            Ok(context) => context.sandbox.close(),
            Err(_) => Ok(()),
        };
        // What was compiled is not affected.
        if let Err(error) = closed {
            self.progress.line(&format!(
                "Warning: could not remove all files that packaging scripts left: {}. The next run tries again",
                Chain(&error)
            ));
        }
        result
    }

    /// Carries out what is quick first. Results are written down in the order of the inputs.
    async fn carry_out_all(
        &self,
        tasks: Vec<Task>,
        compiler: Option<&Compiler>,
        workplace: &Workplace,
        written: &mut Vec<PathBuf>,
    ) -> Result<(), OfflineError> {
        let mut results: Vec<Option<PathBuf>> = tasks.iter().map(|_| None).collect();
        let (mut releases, mut places) = (Vec::new(), Vec::new());
        let mut result = Ok(());
        for (place, task) in tasks.into_iter().enumerate() {
            if let Task::Compile {
                input,
                opened,
                output,
            } = task
            {
                releases.push(Release::new(*opened, output, workplace.blobs(input)?));
                places.push(place);
            } else if result.is_ok() {
                match self.carry_out(task).await {
                    Ok(done) => results[place] = done,
                    Err(error) => result = Err(error),
                }
            }
        }
        if result.is_ok() {
            let call = releases::Call {
                stemcell: &self.stemcell,
                progress: &self.progress,
                cancel: self.cancel,
            };
            let (compiled, ended) = releases::carry_out(&call, releases, compiler).await;
            for (place, output) in places.into_iter().zip(compiled) {
                results[place] = output;
            }
            result = ended;
        }
        written.extend(results.into_iter().flatten());
        result
    }

    /// What a person should know of the call's directories when it failed.
    fn tell_of_disks(&self, error: &OfflineError, workplace: &Workplace, output: &Path) {
        let (work, data) = (workplace.path(), self.options.vcap.data());
        let mut directories = vec![work, &data, output];
        directories.extend(self.options.logs_directory.as_deref());
        tell_free_space(&self.progress, error, &directories);
        if !workplace.is_there() {
            self.progress.line(&format!(
                "Warning: the work directory `{}` was removed by another program during this run",
                work.display()
            ));
        }
    }

    /// Waits until the call was asked to stop and this time has passed since.
    async fn stopped_for(&self, time: Duration) {
        self.cancel.cancelled().await;
        tokio::time::sleep(time).await;
    }

    fn check_stop(&self) -> Result<(), OfflineError> {
        if self.cancel.is_cancelled() {
            return Err(OfflineError::Stopped);
        }
        Ok(())
    }

    /// Reads every tarball once.
    async fn open(
        &self,
        workplace: &Workplace,
        outputs: Vec<PathBuf>,
    ) -> Result<Vec<Input>, OfflineError> {
        // The work directory's own name is ours and will be gone.
        space::check_for_tarballs(&self.options.inputs, fs::parent(workplace.path()))?;
        let mut inputs = Vec::new();
        for (index, output_directory) in outputs.into_iter().enumerate() {
            self.check_stop()?;
            let tarball = self.options.inputs[index].clone();
            self.progress.line(&format!(
                "Reading BOSH Release Manifest from tarball {}",
                tarball.display()
            ));
            let spool = workplace.spool(index)?;
            let (path, cancel) = (tarball.clone(), self.cancel.clone());
            let mut opening =
                runtime::spawn_blocking("open", move || open::open(&path, &spool, &cancel));
            let opened = tokio::select! {
                opened = &mut opening => opened?,
                // It ends at its next read. One that waits for data, from a pipe or a server that does not answer, is left alone.
                () = self.stopped_for(READ_WITHIN) => return Err(OfflineError::Stopped),
            };
            let opened = match opened {
                // No fault of the tarball's.
                Err(OpenError::Files(source)) if source.path.starts_with(workplace.path()) => {
                    return Err(OfflineError::Spool { tarball, source });
                }
                opened => opened,
            };
            if let Ok(opened) = &opened {
                self.describe(opened);
            }
            inputs.push(Input {
                tarball,
                output_directory,
                opened,
            });
        }
        Ok(inputs)
    }

    fn describe(&self, opened: &Opened) {
        let manifest = &opened.manifest;
        let compiled = manifest.compiled_packages.iter().flatten().count();
        let count = manifest.packages.len() + compiled;
        let mut line = format!(
            "Release {}/{} has {count} packages",
            manifest.name, manifest.version
        );
        if compiled > 0 {
            let _ = write!(line, ", {compiled} of them already compiled");
        }
        self.progress.line(&line);
        self.progress.line("Extracting packages");
        if let Some(warning) = clutter(opened) {
            self.progress.line(&warning);
        }
        for stray in opened
            .carried
            .iter()
            .filter(|carried| carried.role == Role::Stray)
        {
            self.progress.line(&format!(
                "Warning: `{}` in {} is not a package and is not copied to the result",
                open::shown(&stray.path),
                opened.tarball.display()
            ));
        }
    }

    async fn compiler(&self, workplace: &Workplace) -> Result<Compiler, OfflineError> {
        let options = &self.options;
        let sandbox =
            isolation::choose(options, workplace.path(), &self.progress, self.cancel).await?;
        let jobs = isolation::jobs(options.jobs, &sandbox, &self.progress);
        self.warn_of_noexec(&sandbox, workplace);
        let logs = match workplace.logs(options.logs_directory.as_deref(), &options.vcap) {
            Ok(logs) => logs,
            Err(error) => {
                sandbox.close()?;
                return Err(error.into());
            }
        };
        self.progress.line(&format!(
            "Logs of packaging scripts are kept in {}",
            logs.display()
        ));
        let mut environment = options.environment.clone();
        let mut jobserver = None;
        if options.make_jobserver {
            // A make that finds the pool empty goes on alone.
            let tokens = process::processors().get() - 1;
            match Jobserver::make(&workplace.jobserver(), tokens) {
                Ok(pool) => jobserver = Some(pool),
                Err(error) => {
                    sandbox.close()?;
                    return Err(error.into());
                }
            }
            let (name, value) = Jobserver::variable();
            environment = environment.with(&[(name, value.into())]);
        }
        let progress = Arc::clone(&self.progress);
        let context = Arc::new(Context {
            vcap: options.vcap.clone(),
            sandbox,
            store: Store::new(&workplace.store()),
            environment,
            agent: options.agent.clone(),
            grace: options.grace,
            nice: options.nice,
            limit: options.limit,
            second_run: options.second_run,
            compression_level: options.compression_level,
            jobserver,
            events: Arc::new(move |event| progress.show(event)),
        });
        Ok(Compiler {
            context,
            jobs,
            logs,
        })
    }

    /// Says so where scripts cannot run what they build.
    fn warn_of_noexec(&self, sandbox: &Sandbox, workplace: &Workplace) {
        let data = self.options.vcap.data();
        let (directory, option) = match sandbox.is_shared() {
            true => (data.as_path(), "--base-directory"),
            false => (fs::parent(workplace.path()), "--work-dir"),
        };
        if let Ok(Some(directory)) = fs::noexec(directory) {
            self.progress.line(&format!(
                "Warning: `{}` is on a file system that is mounted noexec: packaging scripts cannot run programs that they \
                 build there. Choose another one with {option}, or mount it with exec (docker: `--tmpfs PATH:exec`)",
                directory.display()
            ));
        }
    }

    /// Does what needs no compiling. Returns the result, where there is one.
    async fn carry_out(&self, task: Task) -> Result<Option<PathBuf>, OfflineError> {
        self.check_stop()?;
        match task {
            Task::Replaced { tarball, of } => {
                self.progress.line(&format!(
                    "{} is an earlier result of {} and is rebuilt",
                    tarball.display(),
                    of.display()
                ));
                Ok(None)
            }
            Task::InPlace { tarball } => {
                self.progress.line(&format!(
                    "{} is already compiled for this stemcell and stays unchanged",
                    tarball.display()
                ));
                Ok(Some(tarball))
            }
            Task::PassOn { opened, output } => {
                self.progress.line(&format!(
                    "{} is already compiled for this stemcell and is copied unchanged",
                    opened.tarball.display()
                ));
                let (target, cancel) = (output.clone(), self.cancel.clone());
                let done = runtime::spawn_blocking("pass on", move || {
                    assemble::pass_on(&opened.tarball, &opened.digests, &target, &cancel)
                });
                match done.await? {
                    Ok(()) => Ok(Some(output)),
                    Err(source) => Err(OfflineError::Assemble { output, source }),
                }
            }
            // Taken care of together.
            Task::Compile { .. } => Ok(None),
        }
    }
}
