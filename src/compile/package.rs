//! One package, from its source blob to its compiled blob.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::across::Mounts;
use super::check::{self, Changed};
use super::denials::{Denial, Search};
use super::error::{Cause, CompileError, ScriptFailure};
use super::event::{Event, Phase};
use super::finding::Finding;
use super::installed::{BlobError, Installed, KnownBlob};
use super::job::{Compiled, Dependency, Job};
use super::plan::{PACKAGING, Plan};
use super::printed::{Printed, PrintedLine};
use super::protected;
use super::references;
use super::scratch;
use super::script_file::{self, ScriptFile};
use super::seal::{self, Unsealed};
use super::second_run::{FirstRun, SecondRun, first_log};
use super::seen;
use super::store::Store;
use super::turns::{Company, Turn, Turns};
use super::undeclared::missed;
use crate::archive::{self, Compression, GzipWriter, SystemOwners};
use crate::config::{Environment, PackagePaths, Vcap};
use crate::diag::Chain;
use crate::fs::{self, Context as _};
use crate::process::{self, ForkServer, Jobserver, Output, Status};
use crate::release::digest::{Hasher, HashingWriter};
use crate::release::{Digests, Name};
use crate::runtime::{self, Cancellable};
use crate::sandbox::{self, Place, Sandbox, SandboxError, Script, ScriptEnd, View};

/// The group that packages belong to, and its number on every stemcell.
const VCAP: (&str, u32) = ("vcap", 1000);

/// How much of a log is searched for what a script lacks, in bytes.
const LOG_END: u64 = 1 << 20;

/// What the core works with. Shared by all packages of a run.
pub struct Context {
    /// The tree as scripts see it.
    pub vcap: Vcap,
    /// What keeps packages apart.
    pub sandbox: Sandbox,
    /// Where installed packages are kept for those compiled against them.
    pub store: Store,
    /// What scripts inherit.
    pub environment: Environment,
    /// Forks the parents of scripts.
    pub agent: ForkServer,
    /// How long processes get between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// How much nicer than this program scripts are, from 0 to 19.
    pub nice: i32,
    /// How long a script may run; `None` for as long as it takes.
    pub limit: Option<Duration>,
    /// When a script that failed under rules is run again without them.
    pub second_run: SecondRun,
    /// The gzip level of compiled blobs.
    pub compression_level: u32,
    /// The jobs that all scripts share, where that is asked for.
    pub jobserver: Option<Jobserver>,
    /// Hears what happens.
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("vcap", &self.vcap)
            .field("sandbox", &self.sandbox)
            .finish_non_exhaustive()
    }
}

/// Compiles one package.
///
/// When `cancel` is called the script is ended and nothing of the package remains.
///
/// # Errors
/// See [`CompileError`]. The log of a script that has run stays where the job says.
pub async fn compile(
    context: &Arc<Context>,
    job: Job,
    cancel: &CancellationToken,
) -> Result<Compiled, CompileError> {
    let is_dependency = job.is_dependency;
    let turns = Arc::new(Turns::new(1, || false));
    let mut built = build(context, job, &turns, cancel).await?;
    let installed = built.installed.clone();
    if let Some(left) = built.left.take() {
        let sandbox = Arc::clone(context);
        let leaving = runtime::spawn_blocking("leave", move || left.remove(&sandbox));
        if let Ok(Err(error)) = leaving.await {
            tracing::warn!(error = %Chain(&error), "could not remove the directories of a package; they are removed at exit");
        }
    }
    let mut packed = pack(context, built, cancel).await;
    if !is_dependency && let Ok(compiled) = &mut packed {
        compiled.installed = None;
    }
    if (packed.is_err() || !is_dependency)
        && let Some(installed) = installed
    {
        let store = context.store.clone();
        let removing = runtime::spawn_blocking("remove", move || store.remove(&installed));
        if let Ok(Err(error)) = removing.await {
            tracing::warn!(error = %Chain(&error), "could not remove an unused tree");
        }
    }
    packed
}

/// A package whose script has done its work. Others can be compiled against it, and it is still to be packed.
#[derive(Debug)]
pub(super) struct Built {
    job: Arc<Job>,
    /// What was installed. `None` where it was packed in its place and nobody needs it.
    pub installed: Option<Installed>,
    rest: Rest,
    unrestricted: bool,
    findings: Vec<Finding>,
    elapsed: Duration,
    script: Option<ScriptEnd>,
    /// The package's directories, where they are in no other package's way. Whoever has built the package removes them.
    pub left: Option<Left>,
}

/// Directories of a package that has been built.
#[derive(Debug)]
pub(super) struct Left(Arc<Place>);

impl Left {
    /// Removes them.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub(super) fn remove(&self, context: &Context) -> Result<(), SandboxError> {
        context.sandbox.leave(&self.0)
    }
}

/// What is still to be done for a package.
#[derive(Debug)]
enum Rest {
    /// Its tree is to be packed.
    Pack {
        tree: Tree,
        /// How the source was compressed, and so the blob.
        compression: Compression,
    },
    /// Nothing: it had to be packed in its place.
    Nothing(Packed),
}

/// What is to be packed.
#[derive(Debug)]
struct Tree {
    path: PathBuf,
    /// What it was before it was sealed.
    unsealed: Unsealed,
    /// Whether its root is a directory that was made for the package, not by the script.
    is_ours: bool,
}

/// A compiled blob.
#[derive(Debug)]
struct Packed {
    size: u64,
    digests: Digests,
    /// What a person should know of what is in it.
    findings: Vec<Finding>,
}

/// Does all for a package that those compiled against it wait for. Its script takes one of the `turns`.
pub(super) async fn build(
    context: &Arc<Context>,
    job: Job,
    turns: &Arc<Turns>,
    cancel: &CancellationToken,
) -> Result<Built, CompileError> {
    let dependencies: Vec<(Name, PathBuf)> = job
        .dependencies
        .iter()
        .map(|dependency| {
            let tree = dependency.installed.tree();
            (dependency.name.clone(), tree)
        })
        .collect();
    let job = Arc::new(job);
    let scratch = Arc::new(scratch::shared(&job, &context.vcap));
    let enter = context.sandbox.enter(&job.name, &dependencies, &scratch);
    let place = entered(context, &job, enter, cancel).await?;
    let work = Work::new(context, &job, place, &scratch, turns, cancel);
    let result = work.run_to_end().await;
    // Before the package's directories go: the user is to hear of it at once, and they can be large.
    let first = match &result {
        Err(failure) => work.announce_second_run(failure).await,
        Ok(_) => None,
    };
    match (first, result) {
        (Some(first), Err(failure)) => second_run(work, &dependencies, first, failure).await,
        // A second run would follow, but the compile was stopped.
        (None, Err(CompileError::Denied { package })) => {
            work.leave(true).await?;
            Err(CompileError::Stopped { package })
        }
        (None, Err(CompileError::AcrossMounts { lines, .. })) => {
            run_with_copies(work, &dependencies, lines).await
        }
        (_, result) => work.leave_with(result).await,
    }
}

/// Runs a script again, alone and without rules, after its first run, which was `work`, has failed with `failure`.
async fn second_run(
    work: Work,
    dependencies: &[(Name, PathBuf)],
    first: Arc<FirstRun>,
    failure: CompileError,
) -> Result<Built, CompileError> {
    let (context, job) = (&Arc::clone(&work.context), &Arc::clone(&work.job));
    let (turns, cancel) = (&Arc::clone(&work.turns), &work.cancel.clone());
    let waits = |running| {
        (context.events)(Event::Entered {
            job: job.number,
            package: job.name.clone(),
            phase: Phase::SecondRun { running },
        });
    };
    let scratch = Arc::clone(&work.scratch);
    let enter = context
        .sandbox
        .enter_alone(&job.name, dependencies, &scratch, &waits);
    // It asks for the tree before the directories of the first run are gone, which can take long: no script starts meanwhile.
    // What cannot be removed is removed with the rest when the tree is cleared.
    let (_, place) = tokio::join!(work.leave(true), entered_within(job, enter, cancel));
    let place = match place {
        // The script has failed, whether or not a second run would have helped.
        Err(CompileError::Stopped { .. }) if matches!(failure, CompileError::Script(_)) => {
            return Err(failure);
        }
        entered => entered?,
    };
    (context.events)(Event::SecondRunStarted {
        job: job.number,
        package: job.name.clone(),
    });
    for log in logs(job) {
        // It is the first run's, too, which keeps it under another name.
        fs::remove_file_if_there(log).map_err(files(job))?;
    }
    let work = Work::new(context, job, place, &scratch, turns, cancel);
    let result = work.run_to_end().await;
    match work.leave_with(result).await {
        Ok(mut built) => {
            (context.events)(Event::SecondRunSucceeded {
                job: job.number,
                package: job.name.clone(),
                first,
            });
            built.unrestricted = true;
            Ok(built)
        }
        Err(CompileError::Script(mut second)) => {
            second.first_log = Some(first.log.clone());
            Err(CompileError::Script(second))
        }
        Err(other) => Err(other),
    }
}

/// Runs a script again, with copies of its dependencies, after its first run, which was `work`, failed because they are mounts:
/// `lines` show that.
async fn run_with_copies(
    work: Work,
    dependencies: &[(Name, PathBuf)],
    lines: Vec<PrintedLine>,
) -> Result<Built, CompileError> {
    let (context, job) = (&Arc::clone(&work.context), &Arc::clone(&work.job));
    let (turns, cancel) = (&Arc::clone(&work.turns), &work.cancel.clone());
    let scratch = Arc::clone(&work.scratch);
    work.leave(true).await?;
    let own = Arc::clone(job);
    let keeping = runtime::spawn_blocking("keep log", move || copy_first_log(&own.log));
    let log = keeping.await.map_err(|source| CompileError::Task {
        package: job.name.clone(),
        source,
    })?;
    (context.events)(Event::RunWithCopies {
        job: job.number,
        package: job.name.clone(),
        lines,
        log: log.map_err(files(job))?,
    });
    let enter = context
        .sandbox
        .enter_with_copies(&job.name, dependencies, &scratch);
    let place = entered_within(job, enter, cancel).await?;
    let work = Work::new(context, job, place, &scratch, turns, cancel);
    let result = work.run_to_end().await;
    work.leave_with(result).await
}

/// Copies the log of a first run, which the second one overwrites.
fn copy_first_log(log: &Path) -> fs::Result<PathBuf> {
    let kept = first_log(log);
    fs::remove_file_if_there(&kept)?;
    // No second name of the file: the log itself may have another one.
    let mut copy = fs::create(&kept)?;
    io::copy(&mut fs::open(log)?, &mut copy).at("copy", log)?;
    Ok(kept)
}

/// Packs what was built. The tree stays.
pub(super) async fn pack(
    context: &Arc<Context>,
    built: Built,
    cancel: &CancellationToken,
) -> Result<Compiled, CompileError> {
    let Built {
        job,
        installed,
        rest,
        unrestricted,
        mut findings,
        elapsed,
        script,
        left: _,
    } = built;
    let packed = match rest {
        Rest::Nothing(packed) => Ok(packed),
        Rest::Pack { tree, compression } => {
            let (own, level, cancel) =
                (Arc::clone(&job), context.compression_level, cancel.clone());
            let (vcap, store) = (context.vcap.clone(), context.store.clone());
            let sealed = installed.clone();
            let packing = runtime::spawn_blocking("pack", move || {
                let packed = pack_tree(&own, &vcap, tree, compression, level, &cancel);
                // Afterwards, so that a change during packing is seen, too.
                let checked = sealed.map_or(Ok(()), |it| store.check(&it).map(drop));
                let packed = match (checked, packed) {
                    _ if cancel.is_cancelled() => Err(stopped(&own)),
                    (Err(changed), _) => Err(changed_before_packing(&own, changed)),
                    (_, other) => other.map_err(|error| error.with_space(fs::parent(&own.blob))),
                };
                if packed.is_err() {
                    // Half a blob is of no use; what is not there need not go.
                    let _ = fs::remove_file_if_there(&own.blob);
                }
                packed
            });
            let packed = packing.await.map_err(|source| CompileError::Task {
                package: job.name.clone(),
                source,
            });
            packed.and_then(|packed| packed)
        }
    };
    if let Some(installed) = &installed {
        let blob = packed.as_ref().ok();
        installed.set_blob(blob.and_then(|it| KnownBlob::new(&job.blob, &it.digests)));
    }
    let packed = packed?;
    findings.extend(packed.findings);
    Ok(Compiled {
        blob: job.blob.clone(),
        size: packed.size,
        digests: packed.digests,
        installed,
        unrestricted,
        findings,
        elapsed,
        script,
    })
}

fn changed_before_packing(job: &Job, changed: Changed) -> CompileError {
    CompileError::Changed {
        package: job.name.clone(),
        changed: Box::new(changed),
        source: None,
    }
}

/// The place of a package, as soon as there is room, unless the compile is stopped before.
async fn entered(
    context: &Arc<Context>,
    job: &Job,
    enter: impl Future<Output = Result<Place, SandboxError>>,
    cancel: &CancellationToken,
) -> Result<Place, CompileError> {
    let entering = entered_within(job, enter, cancel);
    tokio::pin!(entering);
    tokio::select! {
        biased;
        // Cancel-safe: the same future is polled on below.
        place = &mut entering => return place,
        () = std::future::ready(()) => {}
    }
    (context.events)(Event::Entered {
        job: job.number,
        package: job.name.clone(),
        phase: Phase::Waiting,
    });
    entering.await
}

async fn entered_within(
    job: &Job,
    enter: impl Future<Output = Result<Place, SandboxError>>,
    cancel: &CancellationToken,
) -> Result<Place, CompileError> {
    let package = job.name.clone();
    tokio::select! {
        // Cancel-safe: nothing is taken before it is ready.
        place = enter => place.map_err(|source| {
            CompileError::Sandbox { package, source }.with_space(fs::parent(&job.blob))
        }),
        () = cancel.cancelled() => Err(CompileError::Stopped { package }),
    }
}

/// Everything that a package's script prints.
fn logs(job: &Job) -> impl Iterator<Item = &Path> {
    std::iter::once(job.log.as_path()).chain(job.stdout_log.as_deref())
}

/// What a script's run has shown.
#[derive(Debug, Clone, Default)]
struct Shown {
    elapsed: Duration,
    tail: Vec<String>,
    undeclared: Vec<Name>,
    /// What it was denied, where it ran under rules.
    denials: Vec<Denial>,
}

/// One package on its way. Cheap to clone: steps that block take a clone along.
#[derive(Clone)]
struct Work {
    context: Arc<Context>,
    job: Arc<Job>,
    plan: Arc<Plan>,
    place: Arc<Place>,
    /// The scratch directories that the package shares with others.
    scratch: Arc<Vec<Name>>,
    turns: Arc<Turns>,
    cancel: CancellationToken,
    shown: Arc<Mutex<Shown>>,
}

impl Work {
    fn new(
        context: &Arc<Context>,
        job: &Arc<Job>,
        place: Place,
        scratch: &Arc<Vec<Name>>,
        turns: &Arc<Turns>,
        cancel: &CancellationToken,
    ) -> Self {
        let mut plan = Plan::new(
            job,
            &context.vcap,
            &place.vcap(),
            &context.environment,
            context.agent.clone(),
            context.sandbox.hold(),
            context.grace,
        );
        plan.script.spec.nice = context.nice;
        let dependencies: Vec<(&Path, &PackagePaths)> = plan
            .dependencies
            .iter()
            .map(|dependency| (dependency.sealed.as_path(), &dependency.paths))
            .collect();
        context
            .sandbox
            .confine(&place, &mut plan.script, &plan.paths, &dependencies);
        Self {
            context: Arc::clone(context),
            job: Arc::clone(job),
            plan: Arc::new(plan),
            place: Arc::new(place),
            scratch: Arc::clone(scratch),
            turns: Arc::clone(turns),
            cancel: cancel.clone(),
            shown: Arc::default(),
        }
    }

    async fn run_to_end(&self) -> Result<Built, CompileError> {
        check::report_copies(&self.context, &self.job, self.place.replaced());
        let result = self.run().await;
        result.map_err(|error| error.with_space(fs::parent(&self.job.blob)))
    }

    /// Gives the place back.
    async fn leave(self, failed: bool) -> Result<(), CompileError> {
        // Trees can be large and disks slow, and others go on meanwhile.
        let left = self
            .blocking_to_the_end("leave", move |work| {
                if failed {
                    // Removes the partial blob, if any.
                    let _ = fs::remove_file_if_there(&work.job.blob);
                }
                work.context.sandbox.leave(&work.place)
            })
            .await?;
        left.map_err(|source| CompileError::Sandbox {
            package: self.job.name.clone(),
            source,
        })
    }

    /// Gives the place back, or, where no other package waits for it, leaves that to the caller: see [`Built::left`].
    async fn leave_with(self, result: Result<Built, CompileError>) -> Result<Built, CompileError> {
        let result = match result {
            // Nothing waits for the place, and dependents need not wait for its removal.
            Ok(mut built) if !self.context.sandbox.is_shared() => {
                built.left = Some(Left(Arc::clone(&self.place)));
                return Ok(built);
            }
            other => other,
        };
        let left = self.leave(result.is_err()).await;
        let built = result?;
        left?;
        Ok(built)
    }

    /// Reports a failure that a second run follows, and keeps its log. `None` where none follows.
    async fn announce_second_run(&self, failure: &CompileError) -> Option<Arc<FirstRun>> {
        let shown = self.shown().clone();
        let policy = self.context.second_run;
        if !self.place.is_restricted()
            || self.cancel.is_cancelled()
            || !policy.follows(failure, shown.elapsed, &shown.denials)
        {
            return None;
        }
        let log = self
            .blocking_to_the_end("keep log", |work| {
                logs(&work.job).for_each(keep_first_log);
                let kept = first_log(&work.job.log);
                match fs::lookup(&kept) {
                    Ok(Some(_)) => kept,
                    _ => work.job.log.clone(),
                }
            })
            .await
            .unwrap_or_else(|_| self.job.log.clone());
        let first = Arc::new(FirstRun {
            failure: failure.to_string(),
            succeeded: matches!(failure, CompileError::Denied { .. }),
            elapsed: shown.elapsed,
            tail: shown.tail,
            denials: shown.denials,
            undeclared: shown.undeclared,
            findings: match failure {
                CompileError::Script(script) => script.findings.clone(),
                _ => Vec::new(),
            },
            log,
        });
        (self.context.events)(Event::FirstRunFailed {
            job: self.job.number,
            package: self.job.name.clone(),
            first: Arc::clone(&first),
            running: self.context.sandbox.step_aside(&self.place),
        });
        Some(first)
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self) -> Result<Built, CompileError> {
        let start = Instant::now();
        self.enter(Phase::Unpacking);
        // One step for both: each hand-over to another thread waits for its turn on a busy machine.
        let prepare = |work: &Self| {
            let compression = work.unpack_source()?;
            if work.cancel.is_cancelled() {
                return Err(stopped(&work.job));
            }
            work.enter(Phase::Installing);
            work.install()?;
            Ok((compression, work.named()))
        };
        let (compression, named) = self.blocking("prepare", prepare).await?;
        self.claim(&named).await?;
        let asked = Instant::now();
        let turn = self.turn().await?;
        let waited = asked.elapsed();
        self.enter(Phase::Packaging);
        let (script, mut findings) = self.run_script(turn).await?;
        self.enter(Phase::Packing);
        self.blocking("take", move |work| {
            let mounts = script.as_ref().map_or(&[][..], |end| &end.mounts);
            work.check_directories()?;
            if script.is_some() {
                findings.extend(work.findings_of_success(mounts)?);
            }
            let mut built = work.take(compression, mounts)?;
            built.findings = findings;
            built.script = script;
            built.elapsed = start.elapsed().saturating_sub(waited);
            Ok(built)
        })
        .await
    }

    /// Takes over what the script installed, so that its place can be given to others.
    fn take(&self, compression: Compression, mounts: &[String]) -> Result<Built, CompileError> {
        let files = self.files();
        let (name, store) = (&self.job.name, &self.context.store);
        let (tree, is_ours) = self.installed_tree(mounts)?;
        let pack = || {
            let level = self.context.compression_level;
            let tree = Tree {
                path: tree.clone(),
                unsealed: Unsealed::default(),
                is_ours,
            };
            let vcap = &self.context.vcap;
            pack_tree(&self.job, vcap, tree, compression, level, &self.cancel)
        };
        let (installed, unsealed, packed) = if self.job.is_dependency {
            let examined = seal::examine(&tree).map_err(&files)?;
            // Devices are packed, and nobody that is compiled against the package has them.
            let packed = examined.has_devices.then(pack).transpose()?;
            let taken = store.take_sealed(name, &tree, examined);
            let (installed, unsealed) = taken.map_err(&files)?;
            (Some(installed), unsealed, packed)
        } else {
            let taken = store.take_to_pack(name, &tree).map_err(&files)?;
            let packed = taken.is_none().then(pack).transpose()?;
            (taken, Unsealed::default(), packed)
        };
        let rest = match packed {
            Some(packed) => Rest::Nothing(packed),
            None => Rest::Pack {
                tree: Tree {
                    path: installed.as_ref().map_or(tree, Installed::tree),
                    unsealed,
                    is_ours,
                },
                compression,
            },
        };
        Ok(Built {
            job: Arc::clone(&self.job),
            installed,
            rest,
            unrestricted: false,
            findings: Vec::new(),
            elapsed: Duration::ZERO,
            script: None,
            left: None,
        })
    }

    fn enter(&self, phase: Phase) {
        (self.context.events)(Event::Entered {
            job: self.job.number,
            package: self.job.name.clone(),
            phase,
        });
    }

    /// Runs a step that blocks. A stop ends unpacking, packing and copying at their next read or write; sealing and removing a tree
    /// run to their end.
    async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        step: impl FnOnce(&Self) -> Result<T, CompileError> + Send + 'static,
    ) -> Result<T, CompileError> {
        let done = self.blocking_to_the_end(name, step).await;
        if self.cancel.is_cancelled() {
            return Err(stopped(&self.job));
        }
        done?
    }

    /// Runs a step that blocks, whatever anybody wishes.
    async fn blocking_to_the_end<T: Send + 'static>(
        &self,
        name: &'static str,
        step: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, CompileError> {
        let work = self.clone();
        let done = runtime::spawn_blocking(name, move || step(&work)).await;
        done.map_err(|source| CompileError::Task {
            package: self.job.name.clone(),
            source,
        })
    }

    fn files(&self) -> impl Fn(fs::Error) -> CompileError + use<> {
        files(&self.job)
    }

    fn unpack_source(&self) -> Result<Compression, CompileError> {
        let compile = &self.plan.paths.compile;
        self.make_directory(compile).map_err(self.files())?;
        if let Some(temporary) = &self.plan.temporary {
            fs::create_dir_all(temporary).map_err(self.files())?;
        }
        let blob = KnownBlob::new(&self.job.source, &self.job.source_digests);
        let opened = match blob {
            None => fs::open(&self.job.source).map_err(BlobError::File),
            Some(blob) => blob.open(&self.cancel),
        };
        let source = opened.map_err(|error| self.blob_failed(error))?;
        let source = Cancellable::new(source, &self.cancel);
        let (_, compression) =
            archive::unpack_whole(source, compile).map_err(|source| CompileError::Source {
                package: self.job.name.clone(),
                source,
            })?;
        Ok(compression)
    }

    fn blob_failed(&self, error: BlobError) -> CompileError {
        match error {
            BlobError::File(_) if self.cancel.is_cancelled() => stopped(&self.job),
            BlobError::File(error) => self.files()(error),
            BlobError::Changed(source) => CompileError::BlobChanged {
                package: self.job.name.clone(),
                path: self.job.source.clone(),
                source,
            },
        }
    }

    /// Makes the install directory with its link, and puts the dependencies in place.
    fn install(&self) -> Result<(), CompileError> {
        let files = self.files();
        let plan = &self.plan;
        for (wanted, dependency) in self.job.dependencies.iter().zip(&plan.dependencies) {
            if self.place.has(&dependency.name) {
                continue;
            }
            self.make_directory(&dependency.paths.packages)
                .map_err(&files)?;
            self.provide(wanted, &dependency.paths.install)?;
            self.link(&dependency.link_target, &dependency.paths.link)?;
        }
        let provided = self.context.sandbox.provided(&self.place);
        provided.map_err(|source| CompileError::Sandbox {
            package: self.job.name.clone(),
            source,
        })?;
        self.make_directory(&plan.paths.packages).map_err(&files)?;
        self.make_directory(&plan.paths.install).map_err(&files)?;
        self.link(&plan.link_target, &plan.paths.link)
    }

    /// Puts a dependency in place. Its tree is checked after a copy has been made of it, so that a change meanwhile is seen, too;
    /// one that is mounted is checked right before the script starts.
    fn provide(&self, dependency: &Dependency, install: &Path) -> Result<(), CompileError> {
        let (sandbox, place) = (&self.context.sandbox, &self.place);
        let mut tree = dependency.installed.tree();
        loop {
            let stop = || self.cancel.is_cancelled();
            let provided = sandbox.provide(place, &tree, install, &stop);
            if sandbox.has_copies(place) {
                let genuine = self.genuine(dependency)?;
                if genuine != tree {
                    fs::remove_tree(install).map_err(self.files())?;
                    tree = genuine;
                    continue;
                }
            }
            return provided.map_err(|source| CompileError::Sandbox {
                package: self.job.name.clone(),
                source,
            });
        }
    }

    /// The tree of a dependency as it was sealed.
    fn genuine(&self, dependency: &Dependency) -> Result<PathBuf, CompileError> {
        check::genuine(&self.context, &self.job, dependency, &self.cancel)
    }

    /// The script with the trees of its dependencies as they were sealed, where it has them mounted.
    fn checked_script(&self) -> Result<Script, CompileError> {
        let mut script = self.plan.script.clone();
        let sandbox = &self.context.sandbox;
        if sandbox.has_copies(&self.place) {
            return Ok(script);
        }
        let dependencies = self.job.dependencies.iter();
        let trees: Vec<PathBuf> = dependencies
            .map(|dependency| self.genuine(dependency))
            .collect::<Result<_, _>>()?;
        let planned = self.plan.dependencies.iter();
        if planned.clone().map(|it| &it.sealed).eq(&trees) {
            return Ok(script);
        }
        let mounted: Vec<(&Path, &PackagePaths)> = trees
            .iter()
            .map(PathBuf::as_path)
            .zip(planned.map(|it| &it.paths))
            .collect();
        sandbox.confine(&self.place, &mut script, &self.plan.paths, &mounted);
        Ok(script)
    }

    fn link(&self, target: &Path, link: &Path) -> Result<(), CompileError> {
        if let Some(parent) = link.parent() {
            fs::create_dir_all(parent).map_err(self.files())?;
        }
        fs::symlink(target, link).map_err(self.files())
    }

    /// A directory as the Go agent makes them: 0755, root:vcap, whatever the umask.
    fn make_directory(&self, path: &Path) -> fs::Result<()> {
        fs::create_dir_all(path)?;
        fs::set_mode(path, 0o755)?;
        fs::set_owner_if_allowed(path, 0, vcap_group())
    }

    /// The directories in the data directory that the script names, where it would share them with others otherwise.
    fn named(&self) -> BTreeSet<Name> {
        if !self.context.sandbox.is_shared() {
            return BTreeSet::new();
        }
        scratch::named(&self.scratch, &self.plan.paths.compile, &self.context.vcap)
    }

    /// Takes directories in the data directory for the script, as soon as no other has them to itself.
    async fn claim(&self, named: &BTreeSet<Name>) -> Result<(), CompileError> {
        tokio::select! {
            // Cancel-safe: nothing is taken before it is ready.
            claimed = self.context.sandbox.claim(&self.place, named) => {
                claimed.map_err(|source| CompileError::Sandbox {
                    package: self.job.name.clone(),
                    source,
                })
            }
            () = self.cancel.cancelled() => Err(stopped(&self.job)),
        }
    }

    /// Waits until no more scripts run than may.
    async fn turn(&self) -> Result<Turn, CompileError> {
        if let Some(turn) = self.turns.try_take() {
            return Ok(turn);
        }
        self.enter(Phase::Ready);
        tokio::select! {
            Some(turn) = self.turns.take() => Ok(turn),
            () = self.cancel.cancelled() => Err(stopped(&self.job)),
        }
    }

    /// Runs the packaging script, if there is one, and says what a person should know of it. The turn is given back when the
    /// script's last process has ended.
    async fn run_script(
        &self,
        turn: Turn,
    ) -> Result<(Option<ScriptEnd>, Vec<Finding>), CompileError> {
        let files = self.files();
        let packaging = &self.plan.packaging;
        let mut script_file = script_file::look(packaging).map_err(&files)?;
        if let ScriptFile::Dangling(_) = script_file
            && let Some(leads) = self.linked_script().map_err(&files)?
            && let other @ ScriptFile::NotAFile(_) = script_file::look(&leads).map_err(&files)?
        {
            script_file = other;
        }
        let dangling = match script_file {
            ScriptFile::There => None,
            ScriptFile::Missing => {
                let log = b"This package has no packaging script.\n";
                fs::write(&self.job.log, log).map_err(&files)?;
                let finding = script_file::missing(packaging).map_err(&files)?;
                return Ok((None, vec![finding]));
            }
            // It may lead to something that only the script's own view has, as a dependency.
            ScriptFile::Dangling(target) if self.is_elsewhere() => Some(target),
            ScriptFile::Dangling(target) => return Err(self.dangling(target)),
            ScriptFile::NotAFile(found) => {
                return Err(CompileError::ScriptIsNotAFile {
                    package: self.job.name.clone(),
                    found,
                });
            }
        };
        let mut findings = script_file::misread(packaging);
        let events = Arc::clone(&self.context.events);
        let (package, job) = (self.job.name.clone(), self.job.number);
        let tell = move |line: &str| {
            events(Event::Printed {
                job,
                package: package.clone(),
                line: line.to_owned(),
            });
        };
        let output = match &self.job.stdout_log {
            None => Output::to_log(&self.job.log, tell),
            Some(stdout) => Output::to_two_logs(stdout, &self.job.log, tell),
        }
        .map_err(&files)?;
        let mut script = match self.job.dependencies.is_empty() {
            true => self.plan.script.clone(),
            false => self.blocking("check", Self::checked_script).await?,
        };
        self.context.sandbox.open(&self.place, &mut script);
        if let Some(jobserver) = &self.context.jobserver {
            let offered = jobserver.offer(&self.plan.paths.compile).map_err(&files)?;
            let spec = &mut script.spec;
            spec.arguments = offered.through_bash(&spec.program, &spec.arguments);
            spec.program = "bash".to_owned();
        }
        let killed_before = process::out_of_memory_kills();
        let start = Instant::now();
        // A limit ends a script in the way in which a wish to stop does.
        let stop = self.cancel.child_token();
        let company = turn.company();
        let ran = self.context.store.script_runs().begin(&self.job.name);
        let end = {
            let running = sandbox::run_holding(script, output, &stop, turn);
            tokio::pin!(running);
            tokio::select! {
                // Cancel-safe: the same future is polled on below.
                end = &mut running => end,
                () = over(self.context.limit) => {
                    stop.cancel();
                    running.await
                }
            }
        }
        .map_err(|source| CompileError::Sandbox {
            package: self.job.name.clone(),
            source,
        })?;
        if !end.unkillable.is_empty() {
            // They run on, and may still change something.
            std::mem::forget(ran);
            return Err(self.unkillable(end).await?);
        }
        drop(ran);
        let is_cancelled = self.cancel.is_cancelled();
        let limit = self.context.limit;
        let limit = limit.filter(|_| stop.is_cancelled() && !is_cancelled);
        if is_cancelled && !has_failed_by_itself(end.status) {
            return Err(stopped(&self.job));
        }
        *self.shown() = Shown {
            elapsed: start.elapsed(),
            tail: end.output.tail.clone(),
            ..Shown::default()
        };
        if end.status.is_success() && limit.is_none() {
            // Its log is read together with the next step.
            return Ok((Some(end), findings));
        }
        let printed = self
            .blocking_to_the_end("read log", |work| work.read_logs(false))
            .await??;
        if let (Some(target), Status::Exited(127)) = (dangling, end.status) {
            return Err(self.dangling(target));
        }
        if limit.is_none() && has_failed_by_itself(end.status) {
            self.check_dependency_mounts(&printed, Some(start.elapsed()))?;
        }
        findings.extend(self.findings_of_failure(end.status, printed, &company)?);
        let shown = self.shown().clone();
        let cause = limit.map(|limit| Cause::TimeLimit { limit });
        Err(CompileError::Script(Box::new(ScriptFailure {
            package: self.job.name.clone(),
            status: end.status,
            elapsed: shown.elapsed,
            cause: cause.or_else(|| self.cause(&end, killed_before)),
            tail: shown.tail,
            undeclared: shown.undeclared,
            findings,
            denials: self.place.is_restricted().then_some(shown.denials),
            endings: end.output.endings,
            log: self.job.log.clone(),
            first_log: None,
            log_failure: end.output.log_failure,
        })))
    }

    /// Where a packaging script that is a link leads as the script's view has it, found on this side: into a dependency, for example.
    fn linked_script(&self) -> fs::Result<Option<PathBuf>> {
        let outside = |path: &Path| {
            let here = self.outside(path);
            self.in_dependency(&here).unwrap_or(here)
        };
        let packaging = self.plan.script.spec.directory.join(PACKAGING);
        let seen = seen::resolve(&packaging, &outside)?;
        Ok(seen.map(|seen| outside(&seen)))
    }

    /// Takes the package's directories out of use, for processes of its script may still be at work in them.
    async fn unkillable(&self, end: ScriptEnd) -> Result<CompileError, CompileError> {
        let set_aside = |work: &Self| {
            work.context
                .sandbox
                .set_aside(&work.place, &work.plan.paths)
        };
        let left = self.blocking_to_the_end("set aside", set_aside).await?;
        if self.cancel.is_cancelled() {
            for process in &end.unkillable {
                tracing::warn!(package = %self.job.name, "a process of the packaging script cannot be killed: {process}");
            }
            return Err(stopped(&self.job));
        }
        Ok(CompileError::Unkillable {
            package: self.job.name.clone(),
            processes: end.unkillable,
            status: end.status,
            left,
        })
    }

    fn dangling(&self, target: PathBuf) -> CompileError {
        CompileError::DanglingScript {
            package: self.job.name.clone(),
            target,
        }
    }

    /// What a person should know of a script that succeeded, before what it installed is taken.
    fn findings_of_success(&self, mounts: &[String]) -> Result<Vec<Finding>, CompileError> {
        let printed = self.read_logs(true)?;
        self.check_denials()?;
        self.check_dependency_mounts(&printed, None)?;
        let mut findings = Vec::new();
        if !printed.missing.is_empty() {
            let (tree, _) = self.installed_tree(mounts)?;
            // One that cannot be listed is not empty.
            if fs::list(&tree).is_ok_and(|entries| entries.is_empty()) {
                findings.push(Finding::NothingInstalled {
                    lines: printed.missing.clone(),
                    log: self.job.log.clone(),
                });
            }
        }
        findings.extend(no_such_owner(&printed));
        findings.extend(protected::refused(&printed, self.view(), true));
        Ok(findings)
    }

    /// What may lie behind a failure.
    fn findings_of_failure(
        &self,
        status: Status,
        printed: Printed,
        company: &Company,
    ) -> Result<Vec<Finding>, CompileError> {
        let mut findings: Vec<Finding> = no_such_owner(&printed).into_iter().collect();
        findings.extend(protected::refused(&printed, self.view(), false));
        let compile = &self.plan.paths.compile;
        let is_denied = status == Status::Exited(126) || !printed.denied.is_empty();
        if is_denied && let Some(directory) = fs::noexec(compile).map_err(self.files())? {
            findings.push(Finding::NoExecution { directory });
        }
        if company.was_there() {
            findings.push(Finding::RanBeside {
                line: printed.taken.into_iter().next_back(),
            });
        }
        Ok(findings)
    }

    /// Fails where the script met the bounds of the mounts that its dependencies are, and another run may help.
    fn check_dependency_mounts(
        &self,
        printed: &Printed,
        failed_after: Option<Duration>,
    ) -> Result<(), CompileError> {
        if printed.across.is_empty()
            || self.cancel.is_cancelled()
            || !self.context.sandbox.mounts_dependencies(&self.place)
        {
            return Ok(());
        }
        let vcap = &self.context.vcap;
        let seen: Vec<PackagePaths> = self
            .job
            .dependencies
            .iter()
            .map(|dependency| vcap.package(&dependency.name, &dependency.version))
            .collect();
        let mut lines = printed.across.clone();
        if let Some(view) = self.view() {
            let is_caused = |line: &PrintedLine| {
                printed.read_only.contains(line) && protected::is_caused(line, view)
            };
            lines.retain(|line| !is_caused(line));
        }
        let lines = Mounts::of(seen.iter()).met(&lines, failed_after);
        match lines.is_empty() {
            true => Ok(()),
            false => Err(CompileError::AcrossMounts {
                package: self.job.name.clone(),
                lines,
            }),
        }
    }

    /// A script that succeeded although rules denied it something may have made another package than it makes without rules:
    /// many scripts do not end with a command that fails.
    fn check_denials(&self) -> Result<(), CompileError> {
        let mut denials = self.shown().denials.clone();
        denials.retain(Denial::may_be_for_rules);
        if denials.is_empty() {
            return Ok(());
        }
        if self.context.second_run != SecondRun::Never {
            return Err(CompileError::Denied {
                package: self.job.name.clone(),
            });
        }
        (self.context.events)(Event::Denied {
            job: self.job.number,
            package: self.job.name.clone(),
            denials,
        });
        Ok(())
    }

    /// Reads what the script printed. Notes what it was denied, and which packages it lacked.
    fn read_logs(&self, is_success: bool) -> Result<Printed, CompileError> {
        let rules = self.plan.script.spec.rules.as_ref();
        let closed = |path: &Path| rules.and_then(|rules| sandbox::closed(rules, path));
        let mut search = rules.map(|_| Search::new(&closed));
        let mut printed = Printed::default();
        for log in logs(&self.job) {
            let is_main = log == self.job.log;
            if !is_main && search.is_none() {
                continue;
            }
            let read = fs::for_each_block(log, |block| {
                if is_main {
                    printed.read(block);
                }
                if let Some(search) = &mut search {
                    search.read(block);
                }
            });
            read.map_err(self.files())?;
        }
        let denials = search.map(Search::into_denials).unwrap_or_default();
        let is_denied = denials.iter().any(Denial::may_be_for_rules);
        let undeclared = match is_success && !is_denied {
            true => Vec::new(),
            false => self.undeclared(),
        };
        let mut shown = self.shown();
        (shown.denials, shown.undeclared) = (denials, undeclared);
        Ok(printed)
    }

    /// Packages that the script failed to reach and that its package does not declare.
    fn undeclared(&self) -> Vec<Name> {
        let (own, dependencies) = (&self.job.name, &self.job.dependencies);
        let is_declared =
            |name: &Name| name == own || dependencies.iter().any(|it| it.name == *name);
        let vcap = &self.context.vcap;
        let directories = [vcap.packages(), vcap.data_packages()];
        let mut found = BTreeSet::new();
        for log in logs(&self.job) {
            let log = fs::read_end(log, LOG_END).unwrap_or_default();
            found.extend(missed(&log, &directories));
        }
        found.retain(|name| !is_declared(name));
        found.into_iter().collect()
    }

    /// Lack of memory or of space looks like many other failures from inside a script, so it is looked for. So is a scratch
    /// directory that was not expected.
    fn cause(&self, end: &ScriptEnd, killed_before: Option<u64>) -> Option<Cause> {
        let killed = process::out_of_memory_kills()
            .zip(killed_before)
            .map_or(0, |(after, before)| after.saturating_sub(before));
        let by_kill = matches!(end.status, Status::Signaled(9) | Status::Exited(137));
        let says = |text: &str| end.output.tail.iter().any(|line| line.contains(text));
        if killed > 0 && (by_kill || says("Killed")) {
            return Some(Cause::OutOfMemory { killed });
        }
        let compile = self.plan.paths.compile.clone();
        let full = [compile, PathBuf::from("/tmp")]
            .into_iter()
            // Elsewhere the script has a /tmp of its own, on the same disk as the rest.
            .take(if self.is_elsewhere() { 1 } else { 2 })
            .filter_map(|directory| {
                let space = fs::space(&directory).ok()?;
                space.is_full().then_some((directory, space))
            })
            .next();
        if says("No space left on device") || full.is_some() {
            return Some(Cause::NoSpace { full });
        }
        let vcap = &self.context.vcap;
        let mut directories = self.scratch.iter().filter_map(|name| vcap.scratch(name));
        directories
            .find(|directory| scratch::is_in_the_way(directory, &end.output.tail))
            .map(|directory| Cause::Scratch { directory })
    }

    /// Checks that what is found below the package's directories is the package's.
    fn check_directories(&self) -> Result<(), CompileError> {
        let checked = self.context.sandbox.check(&self.place);
        checked.map_err(|source| CompileError::Sandbox {
            package: self.job.name.clone(),
            source,
        })?;
        let paths = &self.plan.paths;
        match fs::lookup(&paths.packages).map_err(self.files())? {
            Some(metadata) if !metadata.is_dir() => Err(CompileError::InstallTarget {
                package: self.job.name.clone(),
                path: paths.packages.clone(),
                found: "there is a link or a file",
            }),
            _ => Ok(()),
        }
    }

    /// What is found at the install target, and whether it is the directory that was made for it. A script may replace the link by
    /// a directory of its own; then that is the package.
    fn installed_tree(&self, mounts: &[String]) -> Result<(PathBuf, bool), CompileError> {
        let paths = &self.plan.paths;
        self.check_mounts(&paths.link, mounts)?;
        self.check_mounts(&paths.install, mounts)?;
        let wrong = |found| CompileError::InstallTarget {
            package: self.job.name.clone(),
            path: paths.link.clone(),
            found,
        };
        let Some(metadata) = fs::lookup(&paths.link).map_err(self.files())? else {
            // The link is gone; what it led to may still be there.
            return match fs::lookup(&paths.install).map_err(self.files())? {
                Some(metadata) if metadata.is_dir() => Ok((paths.install.clone(), true)),
                _ => Err(wrong("there is nothing")),
            };
        };
        if metadata.is_dir() {
            return Ok((paths.link.clone(), false));
        }
        if !metadata.is_symlink() {
            return Err(wrong("there is a file"));
        }
        let target = fs::read_link(&paths.link).map_err(self.files())?;
        if target == self.plan.link_target {
            match fs::lookup(&paths.install).map_err(self.files())? {
                Some(metadata) if metadata.is_dir() => return Ok((paths.install.clone(), true)),
                // The script has replaced the directory behind the link.
                Some(metadata) if metadata.is_symlink() => {}
                _ => return Err(wrong("there is a link that leads nowhere")),
            }
        }
        self.copy_of_linked(mounts)
    }

    /// Refuses a package whose script has left something mounted in, on or over what it installed: the files that it saw there
    /// are not its own, and with namespaces they are gone.
    fn check_mounts(&self, installed: &Path, mounts: &[String]) -> Result<(), CompileError> {
        if mounts.is_empty() {
            return Ok(());
        }
        let Ok(below) = installed.strip_prefix(self.plan.outside.base()) else {
            return Ok(());
        };
        let base = self.context.vcap.base();
        // The kernel names mount points without links.
        let real = fs::canonicalize(base).unwrap_or_else(|_| base.to_owned());
        let wrong = mounts.iter().map(Path::new).find(|mount| {
            [base, &real].into_iter().any(|base| {
                let installed = base.join(below).to_string_lossy().into_owned();
                let installed = Path::new(&installed);
                mount.starts_with(installed) || installed.starts_with(mount)
            })
        });
        match wrong {
            None => Ok(()),
            Some(mount) => Err(CompileError::Mounted {
                package: self.job.name.clone(),
                mount: mount.to_owned(),
            }),
        }
    }

    /// The script has made the install target a link to somewhere else. That place may be another package's, or the system's:
    /// it is copied, not taken.
    fn copy_of_linked(&self, mounts: &[String]) -> Result<(PathBuf, bool), CompileError> {
        let files = self.files();
        let paths = &self.plan.paths;
        let wrong = |found| CompileError::InstallTarget {
            package: self.job.name.clone(),
            path: paths.link.clone(),
            found,
        };
        let is_dependency = Cell::new(false);
        let outside = |path: &Path| match self.in_dependency(&self.outside(path)) {
            Some(sealed) => {
                is_dependency.set(true);
                sealed
            }
            None => self.outside(path),
        };
        let seen = self.context.vcap.packages().join(self.job.name.as_ref());
        let seen = seen::resolve(&seen, &outside).map_err(&files)?;
        if is_dependency.get() && self.context.sandbox.mounts_dependencies(&self.place) {
            // What the script has written there is gone with its view.
            return Err(CompileError::AcrossMounts {
                package: self.job.name.clone(),
                lines: Vec::new(),
            });
        }
        let Some(seen) = seen else {
            return Err(wrong("there is a link that leads nowhere"));
        };
        let (found, tree) = (self.outside(&seen), outside(&seen));
        if self.is_elsewhere() && self.in_dependency(&found).is_none() {
            let scratch = self.scratch_directories().map(|(_, directory)| directory);
            let own = [&paths.compile, &paths.packages, &paths.link].into_iter();
            if !own
                .cloned()
                .chain(scratch)
                .any(|own| found.starts_with(own))
            {
                // What the script saw there is gone with its view of the file system.
                return Err(wrong(
                    "there is a link that leads out of the package's own directories",
                ));
            }
            self.check_mounts(&found, mounts)?;
        }
        if !fs::metadata(&tree).map_err(&files)?.is_dir() {
            return Err(wrong("there is a link to a file"));
        }
        let copy = paths.packages.join("copy");
        fs::copy_tree(&tree, &copy).map_err(&files)?;
        // The data directory may be a link.
        let is = |own: &Path| found == own || fs::canonicalize(own).is_ok_and(|own| found == own);
        Ok((copy, is(&paths.compile) || is(&paths.packages)))
    }

    /// Where a path on this side that is in a dependency is found while the script does not run.
    fn in_dependency(&self, path: &Path) -> Option<PathBuf> {
        let planned = self.plan.dependencies.iter();
        let mut dependencies = planned.zip(&self.job.dependencies);
        dependencies.find_map(|(dependency, wanted)| {
            let below = path.strip_prefix(&dependency.paths.install).ok()?;
            Some(match self.context.sandbox.has_copies(&self.place) {
                true => path.to_owned(),
                // Not the planned one, which may have been changed and installed again.
                false => joined(&wanted.installed.tree(), below),
            })
        })
    }

    /// Where a path of the script's is found on this side.
    fn outside(&self, path: &Path) -> PathBuf {
        let (base, outside) = (self.context.vcap.base(), self.plan.outside.base());
        // A script may know the directory by its name without links.
        let real = fs::canonicalize(base).unwrap_or_else(|_| base.to_owned());
        let below = path.strip_prefix(base);
        let Ok(below) = below.or_else(|_| path.strip_prefix(&real)) else {
            return path.to_owned();
        };
        let here = joined(outside, below);
        let mut scratch = self.scratch_directories();
        let in_scratch = scratch
            .find_map(|(at, directory)| Some(joined(&directory, here.strip_prefix(at).ok()?)));
        in_scratch.unwrap_or(here)
    }

    /// The places of shared scratch directories in the script's tree and, where they are mounted there, the directories.
    fn scratch_directories(&self) -> impl Iterator<Item = (PathBuf, PathBuf)> {
        let names = self.scratch.iter().filter(|_| self.is_elsewhere());
        names.filter_map(|name| {
            let at = self.plan.outside.scratch(name)?;
            Some((at, self.context.sandbox.scratch_directory(name)?))
        })
    }

    /// What the script sees where it has a view of its own.
    fn view(&self) -> Option<&View> {
        self.plan.script.spec.view.as_ref()
    }

    /// Whether the script's tree is in another place on this side.
    fn is_elsewhere(&self) -> bool {
        self.plan.outside != self.context.vcap
    }
}

/// Joined with nothing, a path would end with a slash.
fn joined(path: &Path, below: &Path) -> PathBuf {
    match below == Path::new("") {
        true => path.to_owned(),
        false => path.join(below),
    }
}

/// An owner that a script could not give, for there is no such owner here.
fn no_such_owner(printed: &Printed) -> Option<Finding> {
    let line = printed.owners.first()?.clone();
    let highest = sandbox::highest_owner()?;
    Some(Finding::NoSuchOwner { line, highest })
}

/// Packs a tree to where the job says, and looks through it: what is read then is read once from the disk.
fn pack_tree(
    job: &Job,
    vcap: &Vcap,
    tree: Tree,
    compression: Compression,
    level: u32,
    cancel: &CancellationToken,
) -> Result<Packed, CompileError> {
    let in_pack = |source| CompileError::Pack {
        package: job.name.clone(),
        source,
    };
    let files = files(job);
    let blob = &job.blob;
    let path = tree.path.clone();
    let mut owners = Owners::new(tree);
    let file = fs::create(blob).map_err(&files)?;
    let out = HashingWriter::new(
        Cancellable::new(io::BufWriter::new(file), cancel),
        Hasher::new(&job.algorithms),
    );
    let out = if compression == Compression::None {
        let mut out = out;
        archive::pack(&path, &mut out, &mut owners).map_err(in_pack)?;
        out
    } else {
        let mut gzip = GzipWriter::new(out, level)
            .at("write", blob)
            .map_err(&files)?;
        archive::pack(&path, &mut gzip, &mut owners).map_err(in_pack)?;
        gzip.finish().at("write", blob).map_err(&files)?
    };
    let size = out.count();
    let (writer, digests) = out.finish();
    let mut buffered = writer.into_inner();
    buffered.flush().at("write", blob).map_err(&files)?;
    Ok(Packed {
        size,
        digests,
        findings: references_in(job, vcap, &path, cancel)
            .into_iter()
            .collect(),
    })
}

/// What a tree needs of the directory in which packages are compiled.
fn references_in(
    job: &Job,
    vcap: &Vcap,
    tree: &Path,
    cancel: &CancellationToken,
) -> Option<Finding> {
    let directory = vcap.compile();
    let mut directories = vec![directory.clone()];
    // A shell names its directory without links.
    if let Ok(real) = fs::canonicalize(&vcap.data())
        && real != vcap.data()
    {
        directories.push(real.join("compile"));
    }
    let installed = vcap.package(&job.name, &job.version).install;
    let found = references::find(tree, &installed, &directories, &|| cancel.is_cancelled());
    (!found.shown.is_empty()).then_some(Finding::CompileDirectory {
        directory,
        references: found.shown,
        others: found.others,
    })
}

/// Keeps the log of a first run. Best effort: the second run writes its own to the old name.
fn keep_first_log(log: &Path) {
    let kept = first_log(log);
    let linked = fs::remove_file_if_there(&kept).and_then(|()| fs::hard_link(log, &kept));
    // Some file systems have no hard links.
    if let Err(error) = linked.or_else(|_| fs::rename(log, &kept)) {
        tracing::warn!(error = %Chain(&error), "could not keep the log of the first run");
    }
}

fn stopped(job: &Job) -> CompileError {
    CompileError::Stopped {
        package: job.name.clone(),
    }
}

fn files(job: &Job) -> impl Fn(fs::Error) -> CompileError + use<> {
    let package = job.name.clone();
    move |source| CompileError::Files {
        package: package.clone(),
        source,
    }
}

/// Whether a script that was stopped had failed already, or failed on the way to its end: bash itself would die of the signal,
/// and a code above 128 tells of one in a command.
fn has_failed_by_itself(status: Status) -> bool {
    matches!(status, Status::Exited(1..=128))
}

/// Comes back when a limit of time is over; never where there is none.
async fn over(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// The number of packages' group on this machine, where it has one by that name. It is looked up once: a database that does not
/// have it is asked in a dozen places, for each of some seven directories of a package.
static VCAP_HERE: LazyLock<Option<u32>> = LazyLock::new(|| {
    let group = nix::unistd::Group::from_name(VCAP.0).ok().flatten();
    group.map(|group| group.gid.as_raw())
});

/// The group of packages: by name, else by the number that it has on every stemcell.
fn vcap_group() -> u32 {
    VCAP_HERE.unwrap_or(VCAP.1)
}

/// The owners of what is packed: those that the script gave it. On a machine without packages' group, its number is written
/// with its name all the same.
struct Owners {
    system: SystemOwners,
    has_vcap: bool,
    unsealed: Unsealed,
    user: Option<OrdinaryUser>,
}

/// An ordinary user outside a user namespace, who can own files only as itself. Its account and its groups are this machine's,
/// not the VM's, so what is its own is root's in the archive, as where the script is root. Files of other owners were given away
/// with privileges, on purpose, and keep them.
struct OrdinaryUser {
    uid: u32,
    groups: Vec<u32>,
    /// The group of the package's root directory.
    root_group: u32,
}

impl Owners {
    fn new(tree: Tree) -> Self {
        let root_group = if tree.is_ours { vcap_group() } else { 0 };
        Self {
            system: SystemOwners::new(),
            has_vcap: VCAP_HERE.is_some(),
            unsealed: tree.unsealed,
            user: OrdinaryUser::this(root_group),
        }
    }
}

impl OrdinaryUser {
    /// `None` for root.
    fn this(root_group: u32) -> Option<Self> {
        let uid = nix::unistd::geteuid();
        if uid.is_root() {
            return None;
        }
        let groups = nix::unistd::getgroups().unwrap_or_default();
        let own = [nix::unistd::getegid(), nix::unistd::getgid()];
        Some(Self {
            uid: uid.as_raw(),
            groups: groups
                .into_iter()
                .chain(own)
                .map(nix::unistd::Gid::as_raw)
                .collect(),
            root_group,
        })
    }

    /// The owners of an entry as they would be if the script had been root.
    fn as_root(&self, name: &[u8], uid: u32, gid: u32) -> (u32, u32) {
        let is_own = uid == self.uid;
        let gid = match self.groups.contains(&gid) {
            true if is_own && name == b"." => self.root_group,
            true => 0,
            false => gid,
        };
        (if is_own { 0 } else { uid }, gid)
    }
}

impl archive::Owners for Owners {
    fn user(&mut self, uid: u32) -> String {
        self.system.user(uid)
    }

    fn group(&mut self, gid: u32) -> String {
        if !self.has_vcap && gid == VCAP.1 {
            return VCAP.0.to_owned();
        }
        self.system.group(gid)
    }

    fn numbers(&mut self, name: &[u8], uid: u32, gid: u32) -> (u32, u32) {
        let (uid, gid) = self.unsealed.owners(name).unwrap_or((uid, gid));
        match &self.user {
            Some(user) => user.as_root(name, uid, gid),
            None => (uid, gid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_an_ordinary_user_are_packed_as_roots() {
        let user = OrdinaryUser {
            uid: 1003,
            groups: vec![1003, 27],
            root_group: 1000,
        };
        assert_eq!(user.as_root(b".", 1003, 1003), (0, 1000));
        assert_eq!(user.as_root(b"./file", 1003, 1003), (0, 0));
        assert_eq!(user.as_root(b"./of-another-group", 1003, 27), (0, 0));
        assert_eq!(user.as_root(b"./given-away", 33, 33), (33, 33));
        assert_eq!(user.as_root(b"./of-root", 0, 0), (0, 0));
    }
}
