//! One call, from the tarballs to the last line.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::assemble::{self, PARTIAL_PREFIX};
use super::error::{InputProblem, InputProblemKind, OfflineError};
use super::inspect;
use super::open::{self, Opened, Role};
use super::progress::Progress;
use super::releases::{Places, compile_release};
use super::select::{Input, Task, select};
use super::space::{self, Need};
use super::stemcell;
use super::workplace::Workplace;
use crate::compile::{Context, Store};
use crate::config::{Environment, Vcap};
use crate::diag::{Bytes, Chain};
use crate::fs::{self, MadeDirectories};
use crate::release::Slug;
use crate::runtime;
use crate::sandbox::{Namespaces, Sandbox, SharedTree, Writes};

/// Where a result goes when its input's directory cannot be written to: the Go agent's default.
const LAST_RESORT: &str = "/tmp";

/// How packages are to be kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// As well as it can be done here.
    Auto,
    /// In namespaces, or not at all.
    Namespace,
    /// In place, one after another.
    None,
}

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
    /// The base directory, `/var/vcap`.
    pub vcap: Vcap,
    /// How packages are kept apart.
    pub isolation: Isolation,
    /// Whether scripts are kept from writing into dependencies, where that can be done.
    pub readonly_dependencies: bool,
    /// Whether packages of another agent may be removed.
    pub force: bool,
    /// How long scripts get to end when they are told to.
    pub grace: Duration,
    /// The gzip level of compiled packages.
    pub compression_level: u32,
    /// What scripts inherit.
    pub environment: Environment,
    /// This program's file.
    pub agent: PathBuf,
    /// Who we are, for others who want to compile here.
    pub who: String,
}

/// Compiles releases. Returns the paths of the results, in the order of the inputs.
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
    let outputs = output_directories(&options, &mut made, &progress)?;
    let beside = outputs
        .first()
        .cloned()
        .unwrap_or_else(|| LAST_RESORT.into());
    let workplace = {
        let (wanted, vcap) = (options.work_directory.clone(), options.vcap.clone());
        let (beside, cancel) = (beside.clone(), cancel.clone());
        // It may wait for the processes of a run that was killed.
        let making = runtime::spawn_blocking("work directory", move || {
            Workplace::make(wanted.as_deref(), &vcap, &beside, &|| cancel.is_cancelled())
        });
        making.await?.inspect_err(|_| made.remove_empty())?
    };
    let call = Call {
        options,
        stemcell,
        progress,
        cancel,
    };
    let mut written = Vec::new();
    let result = call.run(&workplace, outputs, &mut written).await;
    if let Err(error) = &result
        && fs::is_no_space_behind(error)
    {
        // Measured before anything is removed.
        call.tell_free_space(&workplace, &beside);
    }
    let removed = workplace.remove();
    made.remove_empty();
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
    result?;
    Ok(removed?)
}

/// The output directory of each input, made where it is missing. What killed runs have left there is removed.
fn output_directories(
    options: &Options,
    made: &mut MadeDirectories,
    progress: &Progress,
) -> Result<Vec<PathBuf>, OfflineError> {
    let mut directories = Vec::new();
    for input in &options.inputs {
        let directory = match &options.output_directory {
            Some(directory) => directory.clone(),
            None => beside_input(input, progress),
        };
        directories.push(directory);
    }
    let mut different = directories.clone();
    different.sort();
    different.dedup();
    let mut problems = Vec::new();
    for directory in different {
        if options.output_directory.is_none() && fs::metadata(&directory).is_err() {
            // An input that is not there is told of by its own name.
            continue;
        }
        let usable = made
            .make(&directory)
            .and_then(|()| fs::check_writable(&directory));
        match usable {
            Ok(()) => {
                fs::remove_abandoned(&directory, PARTIAL_PREFIX, None)?;
            }
            Err(error) => problems.push(InputProblem {
                path: directory,
                kind: InputProblemKind::OutputDirectory(error),
            }),
        }
    }
    if problems.is_empty() {
        Ok(directories)
    } else {
        made.remove_empty();
        Err(OfflineError::Input(problems))
    }
}

fn beside_input(input: &Path, progress: &Progress) -> PathBuf {
    let parent = fs::parent(input);
    // An input that is not there is told of later, by its own name.
    if fs::metadata(parent).is_err() || fs::check_writable(parent).is_ok() {
        return parent.to_owned();
    }
    progress.line(&format!(
        "`{}` cannot be written to: the result of {} goes to {LAST_RESORT}",
        parent.display(),
        input.display()
    ));
    LAST_RESORT.into()
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
        self.check_room(&tasks, workplace)?;
        let needs_sandbox = tasks.iter().any(
            |task| matches!(task, Task::Compile { opened, .. } if !opened.manifest.packages.is_empty()),
        );
        let mut compiler = None;
        if needs_sandbox {
            // First what may be refused: a log directory would stay behind.
            let context = self.context(workplace).await?;
            let logs =
                workplace.logs(self.options.logs_directory.as_deref(), &self.options.vcap)?;
            self.progress.line(&format!(
                "Logs of packaging scripts are kept in {}",
                logs.display()
            ));
            compiler = Some((context, logs));
        }
        let mut result = Ok(());
        for task in tasks {
            result = self
                .carry_out(task, compiler.as_ref(), workplace, written)
                .await;
            if result.is_err() {
                break;
            }
        }
        if let Some((context, _)) = compiler {
            // No package is on its way any more, so nobody else holds it.
            let closed = match Arc::try_unwrap(context) {
                Ok(context) => context.sandbox.close().map_err(OfflineError::Sandbox),
                Err(_) => Ok(()),
            };
            result = result.and(closed);
        }
        result
    }

    fn tell_free_space(&self, workplace: &Workplace, output: &Path) {
        let data = self.options.vcap.data();
        for directory in [workplace.path(), &data, output] {
            if let Ok(space) = fs::space(directory) {
                self.progress.line(&format!(
                    "{} free at {}",
                    Bytes(space.free),
                    directory.display()
                ));
            }
        }
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
        self.check_room_for_spool(workplace)?;
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
            let opened =
                runtime::spawn_blocking("open", move || open::open(&path, &spool, &cancel)).await?;
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
            let _ = write!(line, ", {compiled} of them compiled already");
        }
        self.progress.line(&line);
        self.progress.line("Extracting packages");
        for stray in opened
            .carried
            .iter()
            .filter(|carried| carried.role == Role::Stray)
        {
            self.progress.line(&format!(
                "Warning: `{}` in {} is no package and is left out",
                open::shown(&stray.path),
                opened.tarball.display()
            ));
        }
    }

    /// Blobs come to the work directory as they are, so it must have room for the tarballs at the least.
    fn check_room_for_spool(&self, workplace: &Workplace) -> Result<(), OfflineError> {
        let mut bytes = 0;
        for input in &self.options.inputs {
            // An input that is not there is told of when it is opened.
            let size = fs::metadata(input).map_or(0, |metadata| metadata.len());
            // Compressed twice, a blob may have grown by a little.
            bytes += size - size / 50;
        }
        let need = Need {
            // Its own name is ours and will be gone.
            directory: fs::parent(workplace.path()).to_owned(),
            bytes,
        };
        refuse(space::check(&[need], "to take the tarballs apart")?)
    }

    /// The largest source has to fit unpacked, and what is carried over has to fit into the output.
    fn check_room(&self, tasks: &[Task], workplace: &Workplace) -> Result<(), OfflineError> {
        let mut needs = Vec::new();
        let mut largest = 0;
        for task in tasks {
            let Task::Compile { opened, output, .. } = task else {
                continue;
            };
            let mut carried_over = 0;
            for carried in &opened.carried {
                let Some(blob) = &carried.blob else { continue };
                match carried.role {
                    Role::Package(_) => {
                        largest = largest.max(space::least_unpacked(&blob.file, blob.size)?);
                    }
                    // What is compressed in the output may take less: only what is compressed already is counted.
                    Role::CompiledPackage(_) | Role::Job(_) => {
                        carried_over += blob.size - blob.size / 50;
                    }
                    _ => {}
                }
            }
            needs.push(Need {
                directory: output.parent().unwrap_or(output).to_owned(),
                bytes: carried_over,
            });
        }
        needs.push(Need {
            directory: match self.options.isolation {
                Isolation::None => self.options.vcap.data(),
                Isolation::Auto | Isolation::Namespace => fs::parent(workplace.path()).to_owned(),
            },
            bytes: largest,
        });
        refuse(space::check(
            &needs,
            "for the largest source unpacked and for what the outputs take over",
        )?)
    }

    async fn context(&self, workplace: &Workplace) -> Result<Arc<Context>, OfflineError> {
        let options = &self.options;
        let sandbox = self.sandbox(workplace).await?;
        let progress = Arc::clone(&self.progress);
        Ok(Arc::new(Context {
            vcap: options.vcap.clone(),
            sandbox,
            store: Store::new(&workplace.store()),
            environment: options.environment.clone(),
            agent: options.agent.clone(),
            grace: options.grace,
            compression_level: options.compression_level,
            events: Arc::new(move |event| progress.hear(event)),
        }))
    }

    /// Chooses how packages are kept apart, and says so in one line.
    async fn sandbox(&self, workplace: &Workplace) -> Result<Sandbox, OfflineError> {
        let options = &self.options;
        let reason = if options.isolation == Isolation::None {
            None
        } else {
            let probe = Namespaces::probe(
                workplace.path(),
                &options.vcap,
                &options.agent,
                options.readonly_dependencies,
            );
            match probe.await {
                Ok(namespaces) => {
                    self.progress.line(match namespaces.writes() {
                        Writes::ToDisk | Writes::ToMemory => "Isolation: namespace",
                        Writes::Refused => "Isolation: namespace, with read-only dependencies",
                    });
                    return Ok(Sandbox::Namespaces(namespaces));
                }
                Err(error) if options.isolation == Isolation::Namespace => return Err(error.into()),
                Err(error) => Some(error),
            }
        };
        let reason = reason.map_or_else(String::new, |error| {
            format!(" (namespaces cannot be used here: {})", Chain(&error))
        });
        self.progress.line(&format!("Isolation: none{reason}"));
        let (vcap, who, force) = (options.vcap.clone(), options.who.clone(), options.force);
        let cancel = self.cancel.clone();
        let taking = runtime::spawn_blocking("tree", move || {
            SharedTree::take(&vcap, &who, force, &|| cancel.is_cancelled())
        });
        Ok(Sandbox::Shared(taking.await??))
    }

    async fn carry_out(
        &self,
        task: Task,
        compiler: Option<&(Arc<Context>, PathBuf)>,
        workplace: &Workplace,
        written: &mut Vec<PathBuf>,
    ) -> Result<(), OfflineError> {
        self.check_stop()?;
        match task {
            Task::Replaced { tarball, of } => {
                self.progress.line(&format!(
                    "{} is an earlier result of {} and is made anew",
                    tarball.display(),
                    of.display()
                ));
            }
            Task::InPlace { tarball } => {
                self.progress.line(&format!(
                    "{} is compiled for this stemcell already and stays as it is",
                    tarball.display()
                ));
                written.push(tarball);
            }
            Task::PassOn { opened, output } => {
                self.progress.line(&format!(
                    "{} is compiled for this stemcell already and is passed on unchanged",
                    opened.tarball.display()
                ));
                let (target, cancel) = (output.clone(), self.cancel.clone());
                let done = runtime::spawn_blocking("pass on", move || {
                    assemble::pass_on(&opened.tarball, &opened.digests, &target, &cancel)
                });
                done.await?.map_err(|source| OfflineError::Assemble {
                    output: output.clone(),
                    source,
                })?;
                written.push(output);
            }
            Task::Compile {
                input,
                opened,
                output,
            } => {
                self.compile(input, *opened, &output, compiler, workplace)
                    .await?;
                written.push(output);
            }
        }
        Ok(())
    }

    async fn compile(
        &self,
        input: usize,
        opened: Opened,
        output: &Path,
        compiler: Option<&(Arc<Context>, PathBuf)>,
        workplace: &Workplace,
    ) -> Result<(), OfflineError> {
        let manifest = &opened.manifest;
        let label = format!("{}/{}", manifest.name, manifest.version);
        let (manifest, packages) = match compiler {
            Some((context, logs)) if !inspect::members(manifest).is_empty() => {
                let logs = logs.join(format!("{}-{}", manifest.name, manifest.version));
                fs::create_dir_all(&logs)?;
                let places = Places {
                    blobs: workplace.blobs(input)?,
                    logs,
                };
                let compiled = compile_release(
                    context,
                    &opened,
                    &self.stemcell,
                    &places,
                    &self.progress,
                    self.cancel,
                )
                .await?;
                (compiled.manifest, compiled.packages)
            }
            _ => (manifest.clone(), Vec::new()),
        };
        self.progress.line(&format!(
            "Archiving compiled BOSH Release {label} with stemcell {}",
            self.stemcell
        ));
        let (target, cancel) = (output.to_owned(), self.cancel.clone());
        let done = runtime::spawn_blocking("assemble", move || {
            assemble::assemble(&manifest, &opened.carried, &packages, &target, &cancel)
        });
        done.await?.map_err(|source| OfflineError::Assemble {
            output: output.to_owned(),
            source,
        })
    }
}

fn refuse(problems: Vec<InputProblem>) -> Result<(), OfflineError> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(OfflineError::Input(problems))
    }
}
