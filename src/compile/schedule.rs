//! The packages of a whole call, several at a time, each as soon as what it needs is there.
//!
//! The order is the [`Queue`]'s; here its packages are started, awaited, and what nobody needs any more is removed. Those that are
//! compiled against a package start as soon as it is installed; it is packed beside them.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::CompileError;
use super::filling::{self, Filling};
use super::installed::Installed;
use super::job::{Compiled, Dependency, Job};
use super::package::{self, Built, Context};
use super::queue::{Claim, Graph, Holds, Id, Queue};
use super::store::{KeptError, Needed};
use super::turns::Turns;
use crate::fs;
use crate::process;
use crate::release::digest::Algorithm;
use crate::release::{Digests, Name, Version};
use crate::runtime::{self, TaskFailed, TaskSet};
use crate::sandbox::SandboxError;

/// With less memory available than this, in bytes, no script is started beside another.
pub const MEMORY_FLOOR: u64 = 256 << 20;

/// A package of a schedule.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// What it is made from.
    pub origin: Origin,
    /// Its direct dependencies, in manifest order.
    pub dependencies: Vec<Id>,
    /// How long it will take, as far as that can be told: what waits for much time comes first. In a schedule without
    /// durations packages come in the order of adding.
    pub expected: Duration,
}

/// What a package is made from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// It is compiled.
    Source {
        /// Its source blob, which is removed when it has been compiled.
        source: PathBuf,
        /// The blob's digests, which were verified.
        digests: Digests,
        /// Where everything that its script prints is kept.
        log: PathBuf,
        /// Where the compiled blob is written.
        blob: PathBuf,
    },
    /// It is compiled already, and only installed for those that need it.
    Compiled {
        /// Its compiled blob, which stays there as long as others need the package.
        blob: PathBuf,
        /// The blob's digests, which were verified.
        digests: Digests,
    },
}

/// How much is done at once.
#[derive(Debug, Clone)]
pub struct Limits {
    /// So many scripts at the most, and as many packages that are packed.
    pub jobs: NonZeroUsize,
    /// While less memory than this is available, in bytes, no script is started but where none runs.
    pub memory_floor: u64,
}

/// What is told while a schedule runs.
#[derive(Debug)]
pub enum Told {
    /// A package begins. Events carry its number.
    Started(Id),
    /// A package has ended, with its compiled blob where it was compiled here.
    Ended(Id, Box<Result<Option<Compiled>, CompileError>>),
}

/// Packages to be compiled, in one graph.
#[derive(Debug)]
pub struct Schedule {
    graph: Graph,
    packages: Vec<Package>,
    needed: Needed,
    /// Whether others are compiled against it, for each package.
    is_dependency: Vec<bool>,
    /// The names' numbers as places, where packages share a tree.
    places: Option<HashMap<Name, usize>>,
}

impl Schedule {
    /// A schedule without packages. In a shared tree a name is used by one package at a time, and dependencies of one name
    /// but different contents are not there together.
    #[must_use]
    pub fn new(is_shared: bool) -> Self {
        Self {
            graph: Graph::default(),
            packages: Vec::new(),
            needed: Needed::default(),
            is_dependency: Vec::new(),
            places: is_shared.then(HashMap::new),
        }
    }

    /// Adds a package. Its dependencies are there already.
    pub fn add(&mut self, package: Package) -> Id {
        let claims = self.claims(&package);
        let id = self
            .graph
            .add(&package.dependencies, package.expected, claims);
        for dependency in &package.dependencies {
            self.needed.expect(*dependency);
            self.is_dependency[dependency.index()] = true;
        }
        if let Origin::Source { .. } = package.origin {
            // Whoever packs it needs it, too.
            self.needed.expect(id);
        }
        self.is_dependency.push(false);
        self.packages.push(package);
        id
    }

    fn claims(&mut self, package: &Package) -> Vec<Claim> {
        let Some(places) = &mut self.places else {
            return Vec::new();
        };
        let mut place = |name: &Name| {
            let next = places.len();
            *places.entry(name.clone()).or_insert(next)
        };
        let own = Claim {
            place: place(&package.name),
            holds: Holds::Exclusive,
        };
        let dependencies = package.dependencies.iter().map(|id| Claim {
            place: place(&self.packages[id.index()].name),
            holds: Holds::Contents(id.index()),
        });
        std::iter::once(own).chain(dependencies).collect()
    }

    /// Compiles everything.
    ///
    /// After the first failure, or when `stop` is called by somebody else, nothing more is started and what runs is stopped,
    /// as [`compile`](super::compile) does it; this returns when all of it has ended. Packages of which nothing was told were not begun.
    pub async fn run(
        self,
        context: &Arc<Context>,
        limits: &Limits,
        stop: &CancellationToken,
        tell: &mut (dyn FnMut(Told) + Send),
    ) {
        let jobs = limits.jobs.get().min(self.packages.len().max(1));
        let one_at_a_time = jobs <= filling::MOST_JOBS_ONE_AT_A_TIME;
        let mut queue = Queue::new(self.graph).filling_one_at_a_time(one_at_a_time);
        let at_once = AtOnce {
            scripts: jobs,
            // In a shared tree it would be in the way of others, and who wants one after another wants no second.
            ahead: usize::from(jobs > 1 && self.places.is_none()),
        };
        let memory_floor = limits.memory_floor;
        let is_short = move || process::available_memory().is_some_and(|it| it < memory_floor);
        let mut work = Compiling {
            context,
            turns: Arc::new(Turns::new(jobs, is_short)),
            packages: self.packages,
            needed: self.needed,
            is_dependency: self.is_dependency,
            fills_first: jobs > 1 && jobs <= filling::MOST_JOBS,
            filling: HashMap::new(),
            removing: TaskSet::new("remove"),
            stop,
            tell,
        };
        drive(&mut queue, at_once, stop, &mut work).await;
        while let Some(((), result)) = work.removing.next().await {
            report_removal(result);
        }
    }
}

/// Work on packages that are started by their ids.
trait Work {
    type Built: Send + 'static;
    type Rest: Send + 'static;
    type Result: Send + 'static;

    /// What others wait for.
    fn start(&mut self, id: Id) -> impl Future<Output = Self::Built> + Send + 'static;

    /// That is over. Gives the rest, if it has succeeded.
    fn built(&mut self, id: Id, result: Result<Self::Built, TaskFailed>) -> Option<Self::Rest>;

    /// What nobody waits for.
    fn go_on(&mut self, rest: Self::Rest) -> impl Future<Output = Self::Result> + Send + 'static;

    /// A package has ended. Says whether it has succeeded.
    fn end(&mut self, id: Id, result: Result<Self::Result, TaskFailed>) -> bool;

    /// A package will not be started, for one that it needs has failed.
    fn skip(&mut self, id: Id);

    /// Whether a package that is built gives its dependents a cache that one of them is to fill first.
    fn is_filled_first(&mut self, _id: Id) -> bool {
        false
    }

    /// Whether the other dependents of a package need not wait any longer for the one that fills their cache.
    fn is_filled(&mut self, _id: Id) -> bool {
        true
    }
}

/// How much is on its way at once, at the most.
#[derive(Debug, Clone, Copy)]
struct AtOnce {
    /// Packages that others wait for. As many come to their end beside them, and no more wait for that: they take space.
    scripts: usize,
    /// Packages that are made ready beside them.
    ahead: usize,
}

/// Starts what is ready as long as it may, until all has ended. The first failure calls `stop`.
async fn drive(queue: &mut Queue, at_once: AtOnce, stop: &CancellationToken, work: &mut impl Work) {
    let mut running = TaskSet::new("package");
    let mut waiting = VecDeque::new();
    let mut ending = TaskSet::new("pack");
    loop {
        while ending.len() < at_once.scripts
            && let Some((id, rest)) = waiting.pop_front()
        {
            ending.spawn(id, work.go_on(rest));
        }
        while waiting.len() < at_once.scripts && !stop.is_cancelled() {
            let next = match running.len() {
                few if few < at_once.scripts => queue.next(),
                more if more < at_once.scripts + at_once.ahead => queue.next_ahead(),
                _ => None,
            };
            let Some(id) = next else { break };
            running.spawn(id, work.start(id));
        }
        // Cancel-safe per docs on `next`.
        tokio::select! {
            Some((id, result)) = running.next() => match work.built(id, result) {
                Some(rest) => {
                    queue.done(id);
                    if work.is_filled_first(id) {
                        queue.fill_first(id);
                    }
                    waiting.push_back((id, rest));
                }
                None => {
                    for skipped in queue.failed(id) {
                        work.skip(skipped);
                    }
                    stop.cancel();
                }
            },
            Some((id, result)) = ending.next() => {
                if !work.end(id, result) {
                    stop.cancel();
                }
            },
            () = tokio::time::sleep(filling::INTERVAL), if !queue.filling().is_empty() => {
                for id in queue.filling() {
                    if work.is_filled(id) {
                        queue.filled(id);
                    }
                }
            }
            else => return,
        }
    }
}

/// Packages that are compiled.
struct Compiling<'a> {
    context: &'a Arc<Context>,
    /// For scripts.
    turns: Arc<Turns>,
    packages: Vec<Package>,
    needed: Needed,
    is_dependency: Vec<bool>,
    /// Whether one dependent fills an empty cache before the others start.
    fills_first: bool,
    /// The caches that packages give their dependents, which are being filled or were.
    filling: HashMap<Id, Filling>,
    removing: TaskSet<(), Result<(), SandboxError>>,
    stop: &'a CancellationToken,
    tell: &'a mut (dyn FnMut(Told) + Send),
}

/// A package that is ready for those that need it.
enum Ready {
    Built(Box<Built>),
    /// It was compiled already.
    Installed(Installed),
}

impl Compiling<'_> {
    fn dependencies(&self, id: Id) -> Vec<Dependency> {
        let mut found: Vec<Dependency> = Vec::new();
        for dependency in &self.packages[id.index()].dependencies {
            let package = &self.packages[dependency.index()];
            if let Some(installed) = self.needed.get(*dependency)
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

    fn let_go_of_dependencies(&mut self, id: Id) {
        for dependency in self.packages[id.index()].dependencies.clone() {
            let installed = self.needed.let_go(dependency);
            self.remove(installed);
        }
    }

    fn keep(&mut self, id: Id, installed: Option<Installed>) {
        if let Some(installed) = installed {
            let unwanted = self.needed.keep(id, installed);
            self.remove(unwanted);
        }
    }

    fn fail(&mut self, id: Id, failure: CompileError) {
        (self.tell)(Told::Ended(id, Box::new(Err(failure))));
    }

    /// What became of a package that may have ended in a panic.
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
}

impl Work for Compiling<'_> {
    type Built = Result<Ready, CompileError>;
    type Rest = Option<Box<Built>>;
    type Result = Result<Option<Compiled>, CompileError>;

    fn start(&mut self, id: Id) -> impl Future<Output = Self::Built> + Send + 'static {
        (self.tell)(Told::Started(id));
        let Package {
            name,
            version,
            origin,
            ..
        } = self.packages[id.index()].clone();
        let (dependencies, is_dependency) = (self.dependencies(id), self.is_dependency[id.index()]);
        let (context, stop) = (Arc::clone(self.context), self.stop.clone());
        let turns = Arc::clone(&self.turns);
        async move {
            match origin {
                Origin::Source {
                    source,
                    digests,
                    log,
                    blob,
                } => {
                    let job = Job {
                        number: id.index(),
                        name,
                        version,
                        source,
                        source_digests: digests,
                        dependencies,
                        log,
                        blob,
                        is_dependency,
                        stdout_log: None,
                        algorithms: vec![Algorithm::Sha1, Algorithm::Sha256],
                    };
                    let built = package::build(&context, job, &turns, &stop).await?;
                    Ok(Ready::Built(Box::new(built)))
                }
                Origin::Compiled { blob, digests } => {
                    let installed = install(context, name, (blob, digests), stop).await?;
                    Ok(Ready::Installed(installed))
                }
            }
        }
    }

    fn built(&mut self, id: Id, result: Result<Self::Built, TaskFailed>) -> Option<Self::Rest> {
        self.let_go_of_dependencies(id);
        match self.result(id, result) {
            Ok(Ready::Built(mut built)) => {
                if let Origin::Source { source, .. } = &self.packages[id.index()].origin {
                    let (source, left) = (source.clone(), built.left.take());
                    let context = Arc::clone(self.context);
                    self.removing.spawn_blocking((), move || {
                        left.map_or(Ok(()), |left| left.remove(&context))?;
                        Ok(fs::remove_file_if_there(&source)?)
                    });
                }
                self.keep(id, built.installed.clone());
                Some(Some(built))
            }
            Ok(Ready::Installed(installed)) => {
                self.keep(id, Some(installed));
                Some(None)
            }
            Err(failure) => {
                self.fail(id, failure);
                None
            }
        }
    }

    fn go_on(&mut self, rest: Self::Rest) -> impl Future<Output = Self::Result> + Send + 'static {
        let (context, stop) = (Arc::clone(self.context), self.stop.clone());
        async move {
            match rest {
                Some(built) => package::pack(&context, *built, &stop).await.map(Some),
                None => Ok(None),
            }
        }
    }

    fn end(&mut self, id: Id, result: Result<Self::Result, TaskFailed>) -> bool {
        let result = self.result(id, result);
        if let Origin::Source { .. } = self.packages[id.index()].origin {
            let installed = self.needed.let_go(id);
            self.remove(installed);
        }
        let is_good = result.is_ok();
        (self.tell)(Told::Ended(id, Box::new(result)));
        is_good
    }

    fn skip(&mut self, id: Id) {
        self.let_go_of_dependencies(id);
    }

    fn is_filled_first(&mut self, id: Id) -> bool {
        let installed = self.needed.get(id).filter(|_| self.fills_first);
        let filling = installed.and_then(|installed| {
            Filling::of(installed, &self.context.vcap, &self.context.sandbox)
        });
        filling.is_some_and(|filling| self.filling.insert(id, filling).is_none())
    }

    fn is_filled(&mut self, id: Id) -> bool {
        let filling = self.filling.get_mut(&id);
        filling.is_none_or(Filling::is_over)
    }
}

async fn install(
    context: Arc<Context>,
    name: Name,
    (blob, digests): (PathBuf, Digests),
    cancel: CancellationToken,
) -> Result<Installed, CompileError> {
    let unpacking = runtime::spawn_blocking("install", {
        let (name, cancel) = (name.clone(), cancel.clone());
        move || {
            let kept = (blob.as_path(), &digests);
            let unpacked = context.store.unpack_kept(&name, kept, &cancel);
            unpacked.map_err(|error| {
                let package = name;
                match error {
                    KeptError::Changed(source) => CompileError::BlobChanged {
                        package,
                        path: blob,
                        source,
                    },
                    KeptError::Unpack(source) => {
                        CompileError::Compiled { package, source }.with_space(fs::parent(&blob))
                    }
                }
            })
        }
    });
    let unpacked = unpacking.await;
    if cancel.is_cancelled() {
        return Err(CompileError::Stopped { package: name });
    }
    match unpacked {
        Ok(Ok(installed)) => Ok(installed),
        Ok(Err(error)) => Err(error),
        Err(source) => Err(CompileError::Task {
            package: name,
            source,
        }),
    }
}

/// Logs a failed removal. It delays nothing: the whole work directory is removed at the end, and a failure is reported then.
fn report_removal(result: Result<Result<(), SandboxError>, TaskFailed>) {
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "could not remove an unused tree"),
        Err(error) => tracing::debug!(%error, "could not remove an unused tree"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    /// Work that ends when the test says so; `stop` ends it, too.
    struct Fake {
        gates: Vec<Arc<Notify>>,
        /// For what nobody waits for.
        rests: Vec<Arc<Notify>>,
        started: Arc<std::sync::Mutex<Vec<usize>>>,
        now: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
        stop: CancellationToken,
        failing: Vec<usize>,
        failing_rest: Option<usize>,
        ended: Vec<(usize, bool)>,
        skipped: Vec<usize>,
    }

    impl Fake {
        fn new(count: usize, failing: &[usize], stop: &CancellationToken) -> Self {
            Self {
                gates: (0..count).map(|_| Arc::default()).collect(),
                rests: (0..count).map(|_| Arc::default()).collect(),
                started: Arc::default(),
                now: Arc::default(),
                most: Arc::default(),
                stop: stop.clone(),
                failing: failing.to_vec(),
                failing_rest: None,
                ended: Vec::new(),
                skipped: Vec::new(),
            }
        }

        fn open_all(&self) {
            let gates = self.gates.iter().chain(&self.rests);
            gates.for_each(|gate| gate.notify_one());
        }
    }

    impl Work for Fake {
        type Built = bool;
        type Rest = (Arc<Notify>, bool);
        type Result = bool;

        fn start(&mut self, id: Id) -> impl Future<Output = bool> + Send + 'static {
            let (gate, stop) = (Arc::clone(&self.gates[id.index()]), self.stop.clone());
            let (now, most) = (Arc::clone(&self.now), Arc::clone(&self.most));
            let fails = self.failing.contains(&id.index());
            self.started.lock().unwrap().push(id.index());
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            async move {
                let was_stopped = tokio::select! {
                    biased;
                    () = gate.notified() => false,
                    () = stop.cancelled() => true,
                };
                now.fetch_sub(1, Ordering::SeqCst);
                !was_stopped && !fails
            }
        }

        fn built(&mut self, id: Id, result: Result<bool, TaskFailed>) -> Option<Self::Rest> {
            if result.unwrap_or(false) {
                let fails = self.failing_rest == Some(id.index());
                return Some((Arc::clone(&self.rests[id.index()]), fails));
            }
            self.ended.push((id.index(), false));
            None
        }

        fn go_on(
            &mut self,
            (rest, fails): Self::Rest,
        ) -> impl Future<Output = bool> + Send + 'static {
            let stop = self.stop.clone();
            async move {
                tokio::select! {
                    biased;
                    () = rest.notified() => !fails,
                    () = stop.cancelled() => false,
                }
            }
        }

        fn end(&mut self, id: Id, result: Result<bool, TaskFailed>) -> bool {
            let is_good = result.unwrap_or(false);
            self.ended.push((id.index(), is_good));
            is_good
        }

        fn skip(&mut self, id: Id) {
            self.skipped.push(id.index());
        }
    }

    /// `0` and `1` are needed by `2`, `3` by `4`; `5` stands alone.
    fn queue() -> Queue {
        let mut graph = Graph::default();
        let mut add = |dependencies: &[Id]| graph.add(dependencies, Duration::ZERO, Vec::new());
        let (a, b) = (add(&[]), add(&[]));
        add(&[a, b]);
        let c = add(&[]);
        add(&[c]);
        add(&[]);
        Queue::new(graph)
    }

    fn jobs(jobs: usize) -> AtOnce {
        AtOnce {
            scripts: jobs,
            ahead: 0,
        }
    }

    #[tokio::test]
    async fn no_more_run_at_once_than_may_and_all_run() {
        for at_once in 1..5 {
            let stop = CancellationToken::new();
            let mut work = Fake::new(6, &[], &stop);
            work.open_all();
            drive(&mut queue(), jobs(at_once), &stop, &mut work).await;
            assert_eq!(work.ended.len(), 6);
            assert_eq!(work.most.load(Ordering::SeqCst), at_once.min(4));
            assert!(!stop.is_cancelled());
            if at_once == 1 {
                assert_eq!(*work.started.lock().unwrap(), [0, 1, 2, 3, 4, 5]);
            }
        }
    }

    #[tokio::test]
    async fn after_a_failure_nothing_starts_and_what_runs_is_stopped() {
        let stop = CancellationToken::new();
        let mut work = Fake::new(6, &[0], &stop);
        // The others end only because they are stopped.
        work.gates[0].notify_one();
        drive(&mut queue(), jobs(2), &stop, &mut work).await;
        assert_eq!(work.ended, [(0, false), (1, false)]);
        assert_eq!(work.skipped, [2]);
        assert_eq!(*work.started.lock().unwrap(), [0, 1]);
    }

    #[tokio::test]
    async fn what_others_wait_for_holds_nobody_up_any_longer() {
        let stop = CancellationToken::new();
        let mut work = Fake::new(6, &[], &stop);
        work.gates.iter().for_each(|gate| gate.notify_one());
        // `2` needs `0` and `1`, and lets them come to their end.
        let (started, rests) = (Arc::clone(&work.started), work.rests.clone());
        let opening = runtime::spawn("opening", async move {
            while !started.lock().unwrap().contains(&2) {
                tokio::task::yield_now().await;
            }
            // Two may wait beside two that come to their end, and then nothing more is started.
            while started.lock().unwrap().len() < 5 {
                tokio::task::yield_now().await;
            }
            rests.iter().for_each(|rest| rest.notify_one());
        });
        drive(&mut queue(), jobs(2), &stop, &mut work).await;
        opening.await.unwrap();
        assert_eq!(work.ended.len(), 6);
        assert!(work.ended.iter().all(|(_, is_good)| *is_good));
    }

    #[tokio::test]
    async fn a_failure_of_the_rest_stops_those_that_have_started() {
        let stop = CancellationToken::new();
        let mut work = Fake::new(6, &[], &stop);
        work.failing_rest = Some(0);
        work.gates[0].notify_one();
        work.gates[1].notify_one();
        let (started, rest) = (Arc::clone(&work.started), Arc::clone(&work.rests[0]));
        let opening = runtime::spawn("opening", async move {
            while !started.lock().unwrap().contains(&2) {
                tokio::task::yield_now().await;
            }
            rest.notify_one();
        });
        drive(&mut queue(), jobs(2), &stop, &mut work).await;
        opening.await.unwrap();
        assert!(stop.is_cancelled());
        assert!(work.ended.contains(&(0, false)) && work.ended.contains(&(2, false)));
        assert_eq!(work.started.lock().unwrap().len(), 4);
    }

    #[tokio::test]
    async fn a_stop_from_outside_starts_nothing_more() {
        let stop = CancellationToken::new();
        stop.cancel();
        let mut work = Fake::new(6, &[], &stop);
        drive(&mut queue(), jobs(2), &stop, &mut work).await;
        assert!(work.ended.is_empty());
    }

    #[test]
    fn in_a_shared_tree_names_are_claimed() {
        let package = |name: &str, dependencies: &[Id]| Package {
            name: Name::parse(name).unwrap(),
            version: Version::parse("1").unwrap(),
            origin: Origin::Compiled {
                blob: PathBuf::new(),
                digests: Digests::default(),
            },
            dependencies: dependencies.to_vec(),
            expected: Duration::ZERO,
        };
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
