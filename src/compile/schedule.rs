//! Compiles the packages of a whole run, several concurrently, each as soon as its dependencies are installed.
//!
//! The [`Queue`] decides on the order and the [`Pipeline`] runs the tasks. This module builds and packs packages, and removes
//! installed packages that are no longer needed.

use std::collections::HashMap;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::caller::{PackageEvent, ScheduleCaller};
use super::context::Context;
use super::error::CompileError;
use super::filling::{self, Filling, MayStart};
use super::forecast::{ForecastStep, forecast};
use super::install::install_compiled;
use super::installed::Installed;
use super::job::{Compiled, Dependency, Job};
use super::limits::Limits;
use super::origin::{FetchedBlob, Origin, Source};
use super::package::{self, Built, UsedPlace};
use super::pipeline::{Concurrency, Pipeline, PipelineStep};
use super::queue::{Claim, Graph, Holds, Id, Queue, Supply};
use super::stopping::Stopping;
use super::store::Users;
use super::turns::ScriptTurns;
use crate::fs;
use crate::process;
use crate::release::digest::Algorithm;
use crate::release::{Name, Version};
use crate::runtime::{TaskFailed, TaskSet};
use crate::sandbox::SandboxError;

/// A package of a schedule.
#[derive(Debug, Clone)]
pub struct Package {
    /// The package's name.
    pub name: Name,
    /// The package's version.
    pub version: Version,
    /// How the package is obtained.
    pub origin: Origin,
    /// The direct dependencies, in manifest order.
    pub dependencies: Vec<Id>,
    /// The expected duration, for the critical path. If no package of a schedule has a duration, packages run in the order of adding.
    pub expected: Duration,
}

/// Packages to compile, in one graph.
#[derive(Debug)]
pub struct Schedule {
    graph: Graph,
    packages: Vec<Package>,
    users: Users,
    /// If packages share a tree, the number of each package name. Packages claim the directories of a name by this number.
    names: Option<HashMap<Name, usize>>,
}

impl Schedule {
    /// An empty schedule. With `is_shared`, all packages use the same directories (a shared tree). Then packages of the same name are not
    /// compiled concurrently, and dependencies with the same name but different contents are not installed at the same time.
    #[must_use]
    pub fn new(is_shared: bool) -> Self {
        Self {
            graph: Graph::default(),
            packages: Vec::new(),
            users: Users::default(),
            names: is_shared.then(HashMap::new),
        }
    }

    /// Adds a package, after its dependencies.
    pub fn add(&mut self, mut package: Package) -> Id {
        let is_lost = |id: &Id| matches!(self.packages[id.index()].origin, Origin::Lost);
        if matches!(package.origin, Origin::Source(_)) && package.dependencies.iter().any(is_lost) {
            package.origin = Origin::Lost;
        }
        if let Origin::Lost = package.origin {
            package.dependencies.clear();
        }
        let claims = self.claims(&package);
        let id = self
            .graph
            .add(&package.dependencies, package.expected, claims);
        for dependency in &package.dependencies {
            self.users.expect(*dependency);
        }
        let supply = match package.origin {
            Origin::Source(_) => Supply::Compiled,
            Origin::Compiled { .. } => Supply::Here,
            Origin::Fetched { is_result, .. } => Supply::Remote { is_result },
            Origin::Lost => Supply::Lost,
        };
        self.graph.set_supply(id, supply);
        if !matches!(supply, Supply::Here | Supply::Lost) {
            // Packing is another user of the tree.
            self.users.expect(id);
        }
        self.packages.push(package);
        id
    }

    fn claims(&mut self, package: &Package) -> Vec<Claim> {
        let Some(names) = &mut self.names else {
            return Vec::new();
        };
        let mut number = |name: &Name| {
            let next = names.len();
            *names.entry(name.clone()).or_insert(next)
        };
        let own = Claim {
            resource: number(&package.name),
            holds: Holds::Exclusive,
        };
        let dependencies = package.dependencies.iter().map(|id| Claim {
            resource: number(&self.packages[id.index()].name),
            holds: Holds::Contents(id.index()),
        });
        std::iter::once(own).chain(dependencies).collect()
    }

    /// The maximum number of packages that are compiled concurrently.
    fn max_concurrent(&self, jobs: NonZeroUsize) -> usize {
        jobs.get().min(self.packages.len().max(1))
    }

    /// The order in which [`run`](Self::run) would compile everything, with the start and the end of each package. `times` has the duration
    /// of each package, at the index of its id.
    #[must_use]
    pub fn forecast(self, jobs: NonZeroUsize, times: &[Duration]) -> Vec<ForecastStep> {
        let concurrency = Concurrency::new(self.max_concurrent(jobs), self.names.is_some());
        forecast(Queue::new(self.graph), concurrency, times)
    }

    /// Compiles all packages. Returns when all tasks have ended. A package for which the caller got no event was not started.
    ///
    /// If the caller cancels `stop`, no further package is started, and the running packages are stopped as in
    /// [`compile`](super::compile()). The first failure has the same effect, unless [`Limits::keep_going`] is set, but packages that the
    /// caller still wants are fetched. If the disk is full, cancels `stop`.
    pub async fn run(
        self,
        context: &Arc<Context>,
        limits: &Limits,
        stop: &CancellationToken,
        caller: &mut dyn ScheduleCaller,
    ) {
        let jobs = self.max_concurrent(limits.jobs);
        let one_at_a_time = jobs <= filling::MAX_JOBS_ONE_AT_A_TIME;
        let concurrency = Concurrency::new(jobs, self.names.is_some());
        let queue = Queue::new(self.graph).filling_one_at_a_time(one_at_a_time);
        let memory_floor = limits.memory_floor;
        let is_memory_low = move || process::available_memory().is_some_and(|it| it < memory_floor);
        let compiling = Compiling {
            context,
            turns: Arc::new(ScriptTurns::new(jobs, is_memory_low)),
            packages: self.packages,
            users: self.users,
            fills_first: jobs > 1 && jobs <= filling::MAX_JOBS,
            filling: HashMap::new(),
            removing: TaskSet::new("remove"),
            stopping: Stopping::new(stop, limits.keep_going),
            caller,
        };
        let stop_builds = compiling.stopping.builds().clone();
        let pipeline = Pipeline::new(queue, concurrency, &stop_builds);
        compiling.run(pipeline).await;
    }
}

/// A running schedule.
struct Compiling<'a> {
    context: &'a Arc<Context>,
    turns: Arc<ScriptTurns>,
    packages: Vec<Package>,
    users: Users,
    /// Whether one dependent fills an empty build cache before the others start.
    fills_first: bool,
    /// For each package whose dependents share an empty build cache, the state of this cache.
    filling: HashMap<Id, Filling>,
    removing: TaskSet<(), Result<(), SandboxError>>,
    stopping: Stopping<'a>,
    caller: &'a mut dyn ScheduleCaller,
}

/// A package that dependents can use.
struct Installable {
    package: Obtained,
    /// The empty build cache that the dependents share. `Some` if one dependent fills it before the others start.
    filling: Option<Filling>,
}

/// How a package was obtained.
enum Obtained {
    Built(Box<Built>),
    /// The package was already compiled, and was installed.
    Installed(Installed),
}

impl Obtained {
    fn installed(&self) -> Option<&Installed> {
        match self {
            Self::Built(built) => built.installed.as_ref(),
            Self::Installed(installed) => Some(installed),
        }
    }
}

/// The result of a build.
type BuildResult = Result<Installable, CompileError>;

/// The result of packing. `None` for a package that was only installed.
type PackResult = Result<Option<Compiled>, CompileError>;

impl Compiling<'_> {
    async fn run(mut self, mut pipeline: Pipeline<'_, BuildResult, PackResult>) {
        loop {
            self.start_fetches(&mut pipeline);
            while let Some(id) = pipeline.next_to_build() {
                pipeline.build(id, self.build(id));
            }
            match pipeline.next().await {
                Some(PipelineStep::Built(id, result)) => self.built(&mut pipeline, id, result),
                Some(PipelineStep::Packed(id, result)) => self.packed(id, result),
                Some(PipelineStep::Fetched(id, blob)) => self.fetched(pipeline.queue(), id, blob),
                Some(PipelineStep::CheckCaches) => self.check_caches(pipeline.queue()),
                None => break,
            }
        }
        // Remove the unused copies now, while the caller assembles the last releases.
        let context = Arc::clone(self.context);
        self.removing
            .spawn_blocking((), move || context.sandbox.remove_unused_copies());
        while let Some(((), result)) = self.removing.next().await {
            report_removal(result);
        }
    }

    /// Starts fetches, and stops those that are no longer wanted.
    fn start_fetches(&mut self, pipeline: &mut Pipeline<'_, BuildResult, PackResult>) {
        let still_wants = |id| self.caller.still_wants(id);
        self.stopping.stop_unwanted_fetches(still_wants);
        while let Some(id) = pipeline.next_to_fetch(|id| self.stopping.wants_fetch(id, still_wants))
        {
            if let Origin::Fetched { fetch, .. } = &self.packages[id.index()].origin {
                pipeline.fetch(id, fetch.start(self.stopping.fetch_started(id)));
            }
        }
    }

    /// Handles the end of a fetch. If there is a blob, the package no longer needs its dependencies. Otherwise, the package is compiled from
    /// source.
    fn fetched(&mut self, queue: &mut Queue, id: Id, blob: Option<FetchedBlob>) {
        let was_stopped = self.stopping.fetch_ended(id) && blob.is_none();
        let origin = &mut self.packages[id.index()].origin;
        let Origin::Fetched { source, .. } = origin else {
            return;
        };
        match blob {
            Some(FetchedBlob { blob, digests }) => {
                *origin = Origin::Compiled { blob, digests };
                self.release_dependencies(id);
                // Packing is counted as a user of the tree, but a fetched package is not packed.
                let installed = self.users.release(id);
                self.remove(installed);
                queue.fetched(id);
            }
            None => {
                *origin = Origin::Source(source.clone());
                for skipped in queue.not_fetched(id) {
                    self.release_dependencies(skipped);
                }
            }
        }
        if !was_stopped {
            self.caller.on_event(PackageEvent::Fetched(id));
        }
    }

    fn dependencies(&self, id: Id) -> Vec<Dependency> {
        let mut found: Vec<Dependency> = Vec::new();
        for dependency in &self.packages[id.index()].dependencies {
            let package = &self.packages[dependency.index()];
            if let Some(installed) = self.users.get(*dependency)
                && found.iter().all(|other| other.name != package.name)
            {
                found.push(Dependency {
                    name: package.name.clone(),
                    version: package.version.clone(),
                    installed: installed.clone(),
                });
            }
        }
        found
    }

    /// Whether all dependencies of a package are installed.
    fn has_dependencies(&self, id: Id) -> bool {
        let mut all = self.packages[id.index()].dependencies.iter();
        all.all(|dependency| self.users.get(*dependency).is_some())
    }

    /// Removes the dependencies that only this package still needed. Does nothing for a fetched package, which already released its
    /// dependencies after the fetch.
    fn release_dependencies(&mut self, id: Id) {
        for dependency in std::mem::take(&mut self.packages[id.index()].dependencies) {
            let installed = self.users.release(dependency);
            self.remove(installed);
        }
    }

    /// Keeps an installed package for its users. Removes it if it has no users.
    fn keep(&mut self, id: Id, installed: Option<Installed>) {
        if let Some(installed) = installed {
            let unused = self.users.keep(id, installed);
            self.remove(unused);
        }
    }

    /// Converts the panic of a package's task to an error.
    fn result<T>(
        &self,
        id: Id,
        result: Result<Result<T, CompileError>, TaskFailed>,
    ) -> Result<T, CompileError> {
        result.unwrap_or_else(|source| {
            Err(CompileError::Task {
                package: self.packages[id.index()].name.clone(),
                source,
            })
        })
    }

    fn remove(&mut self, installed: Option<Installed>) {
        if let Some(installed) = installed {
            let store = self.context.store.clone();
            self.removing
                .spawn_blocking((), move || Ok(store.remove(&installed)?));
        }
    }

    /// Builds a package up to the point where its dependents can start.
    fn build(&mut self, id: Id) -> impl Future<Output = BuildResult> + Send + 'static {
        self.caller.on_event(PackageEvent::Started(id));
        let Package {
            name,
            version,
            origin,
            ..
        } = self.packages[id.index()].clone();
        debug_assert!(
            matches!(origin, Origin::Compiled { .. }) || self.has_dependencies(id),
            "a dependency of {name} is not installed"
        );
        // Packing is also counted as a user of the tree.
        let packing = usize::from(!matches!(origin, Origin::Compiled { .. }));
        let is_dependency = self.users.count(id) > packing;
        let dependencies = self.dependencies(id);
        let (context, stop) = (Arc::clone(self.context), self.stopping.builds().clone());
        let turns = Arc::clone(&self.turns);
        let fills_first = self.fills_first && is_dependency;
        async move {
            let package = match origin {
                Origin::Source(source) | Origin::Fetched { source, .. } => {
                    let dates = context.source_dates;
                    let source_date = dates.of(&name, &source.source, &stop).await?;
                    let job = Job {
                        number: id.index(),
                        name,
                        version,
                        source: source.source,
                        kept: None,
                        source_digests: source.digests,
                        source_date,
                        dependencies,
                        log: source.log,
                        blob: source.blob,
                        is_dependency,
                        stdout_log: None,
                        algorithms: vec![Algorithm::Sha1, Algorithm::Sha256],
                    };
                    let built = package::build(&context, job, &turns, &stop).await?;
                    Obtained::Built(Box::new(built))
                }
                Origin::Compiled { blob, digests } => {
                    let installing =
                        install_compiled(Arc::clone(&context), name, (blob, digests), stop);
                    Obtained::Installed(installing.await?)
                }
                // The queue never starts it.
                Origin::Lost => return Err(CompileError::Stopped { package: name }),
            };
            let filling = match package.installed().filter(|_| fills_first) {
                Some(installed) => Filling::of(installed, &context).await,
                None => None,
            };
            Ok(Installable { package, filling })
        }
    }

    fn built(
        &mut self,
        pipeline: &mut Pipeline<'_, BuildResult, PackResult>,
        id: Id,
        result: Result<BuildResult, TaskFailed>,
    ) {
        self.release_dependencies(id);
        let (built, filling) = match self.result(id, result) {
            Ok(Installable { package, filling }) => match package {
                Obtained::Built(mut built) => {
                    self.remove_source(id, built.place.take());
                    self.keep(id, built.installed.clone());
                    (Some(built), filling)
                }
                Obtained::Installed(installed) => {
                    self.keep(id, Some(installed));
                    (None, filling)
                }
            },
            Err(failure) => {
                self.stopping.handle_failure(failure.is_no_space());
                self.caller
                    .on_event(PackageEvent::Ended(id, Box::new(Err(failure))));
                for dependent in pipeline.fail(id) {
                    self.release_dependencies(dependent);
                }
                return;
            }
        };
        let (context, stop) = (Arc::clone(self.context), self.stopping.builds().clone());
        pipeline.pack(id, async move {
            match built {
                Some(built) => package::pack(&context, *built, &stop).await.map(Some),
                None => Ok(None),
            }
        });
        if let Some(filling) = filling.filter(|_| self.users.get(id).is_some()) {
            self.filling.insert(id, filling);
            pipeline.queue().fill_first(id);
        }
    }

    /// Removes the source and the directories of a built package.
    fn remove_source(&mut self, id: Id, place: Option<UsedPlace>) {
        if let Origin::Source(Source { source, .. }) = &self.packages[id.index()].origin {
            let (source, context) = (source.clone(), Arc::clone(self.context));
            self.removing.spawn_blocking((), move || {
                place.map_or(Ok(()), |place| place.remove(&context))?;
                Ok(fs::remove_file_if_there(&source)?)
            });
        }
    }

    fn packed(&mut self, id: Id, result: Result<PackResult, TaskFailed>) {
        let result = self.result(id, result);
        if let Origin::Source(_) = self.packages[id.index()].origin {
            let installed = self.users.release(id);
            self.remove(installed);
        }
        if let Err(failure) = &result {
            self.stopping.handle_failure(failure.is_no_space());
        }
        self.caller
            .on_event(PackageEvent::Ended(id, Box::new(result)));
    }

    /// Lets other dependents start if a build cache is filled, if filling it takes too long, or if the dependent that fills it leaves CPUs idle.
    fn check_caches(&mut self, queue: &mut Queue) {
        for id in queue.filling() {
            let filling = self.filling.get_mut(&id);
            match filling.map_or(MayStart::All, Filling::check) {
                MayStart::None => {}
                MayStart::Next => queue.let_next_fill(id),
                MayStart::All => queue.filled(id),
            }
        }
    }
}

/// Logs a failed removal. The end of the run removes the whole work directory, and reports it if this fails again.
fn report_removal(result: Result<Result<(), SandboxError>, TaskFailed>) {
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "could not remove an unused tree"),
        Err(error) => tracing::debug!(%error, "could not remove an unused tree"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::release::Digests;

    fn package(name: &str, dependencies: &[Id]) -> Package {
        Package {
            name: Name::parse(name).unwrap(),
            version: Version::parse("1").unwrap(),
            origin: Origin::Source(Source {
                source: PathBuf::new(),
                digests: Digests::default(),
                log: PathBuf::new(),
                blob: PathBuf::new(),
            }),
            dependencies: dependencies.to_vec(),
            expected: Duration::ZERO,
        }
    }

    #[test]
    fn lost_package_and_its_dependents_never_start() {
        let mut schedule = Schedule::new(false);
        let lib = schedule.add(Package {
            origin: Origin::Lost,
            ..package("lib", &[])
        });
        let other = schedule.add(package("other", &[]));
        let app = schedule.add(package("app", &[lib, other]));
        schedule.add(package("web", &[app]));
        let mut queue = Queue::new(schedule.graph);
        assert_eq!(queue.next(), Some(other));
        queue.done(other);
        assert_eq!(queue.next(), None);
        assert!(queue.not_started().is_empty());
    }

    #[test]
    fn names_are_claimed_in_a_shared_tree() {
        for is_shared in [false, true] {
            let mut schedule = Schedule::new(is_shared);
            let lib = schedule.add(package("lib", &[]));
            let other_lib = schedule.add(package("lib", &[]));
            let app = schedule.add(package("app", &[lib]));
            let web = schedule.add(package("web", &[other_lib]));
            let mut queue = Queue::new(schedule.graph);
            assert_eq!(queue.next(), Some(lib));
            assert_eq!(queue.next(), (!is_shared).then_some(other_lib));
            queue.done(lib);
            if is_shared {
                assert_eq!(queue.next(), Some(other_lib));
                assert_eq!(queue.next(), None, "`app` would see the other `lib`");
            }
            queue.done(other_lib);
            assert_eq!(queue.next(), Some(app));
            assert_eq!(queue.next(), (!is_shared).then_some(web));
        }
    }
}
