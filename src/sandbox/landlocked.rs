//! `--isolation=landlock`: the base directory itself, used by several packages at a time. Each script reaches its own
//! directories and its declared dependencies there, which it cannot write to.
//!
//! ```text
//! BASE/packages/NAME            links, there as long as the package is compiled or a dependency of another
//! BASE/data/compile/NAME        the script's own
//! BASE/data/packages/NAME       the script's own, or a copy of the sealed dependency for all that need it
//! BASE/data/.bosh-agent-tmp/    its TMPDIR; /tmp itself everybody has
//! BASE/data/NAME                scratch of the package and its dependents, or another directory that the script names
//! ```
//!
//! Paths are told apart by names alone, so a name is there once: who needs it with other contents waits. A script that fails
//! is tried once more by itself, over a tree with nothing but its own and with no rules: then it has all that the Go agent
//! gives it. As long as that lasts no other script runs.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::sync::{Notify, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};
use tokio_util::sync::CancellationToken;

use super::error::SandboxError;
use super::namespace::PROCESSES;
use super::rules::Rules;
use super::script::{self, Script};
use super::shared_tree::SharedTree;
use super::spec::Spec;
use crate::config::{Environment, PackagePaths, Vcap, Visibility};
use crate::fs::{self, Difference, Record};
use crate::process::{ForkServer, Output, Status};
use crate::release::Name;

/// What the first try of rules may take.
const PROBE_GRACE: Duration = Duration::from_secs(5);

/// Directories that scripts use by their names. Work directories below them cannot be guarded without closing them.
const TEMPORARY: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Begins the names of our own files in the data directory.
const OURS: &str = ".bosh-agent-";

/// The directories of packages in the data directory.
const NOT_FREE: [&str; 2] = ["packages", "compile"];

/// The shared tree of one run, and who is in it.
#[derive(Debug)]
pub struct Landlocked {
    tree: SharedTree,
    /// The base directory without links: rules need it so.
    base: PathBuf,
    /// The data directory without links.
    data: PathBuf,
    /// The work directory and the directory of kept scratch, where they can be guarded.
    hidden: Vec<PathBuf>,
    names: Mutex<HashMap<Name, InTree>>,
    /// Taken after `names` where both are needed.
    beside: Mutex<Beside>,
    /// Some name is free, or ready.
    changed: Notify,
    /// How many packages are in the tree.
    inside: Arc<watch::Sender<usize>>,
    /// Shared by all scripts that keep to the rules.
    alone: Arc<RwLock<()>>,
    /// Whether there are rules at all.
    ruled: bool,
}

/// Names of directories in the data directory that scripts use beside those of packages.
#[derive(Debug, Default)]
struct Beside {
    /// Scratch that packages share.
    shared: BTreeSet<Name>,
    /// Those that one package has to itself.
    private: BTreeSet<Name>,
}

/// What stands under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum InTree {
    /// A package that is being compiled.
    Compiling,
    /// A copy of a sealed one.
    Dependency {
        sealed: PathBuf,
        /// How many packages are being compiled against it.
        users: usize,
        /// The copy, as soon as it is complete.
        copy: Option<Copied>,
    },
}

/// A copy of a sealed dependency. Rules keep no script from changing its modes, owners and times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Copied {
    /// What it was when it was made.
    record: Record,
    /// When it was last known to be that.
    good: Instant,
    /// How it has changed since.
    changed: Option<Difference>,
}

/// A copy of a dependency that was changed, and replaced by another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplacedCopy {
    /// The dependency.
    pub dependency: Name,
    /// What was changed of it.
    pub difference: Difference,
    /// When it was last known to be good.
    pub good: Instant,
}

/// What taking the names of a package and its dependencies leads to.
struct Taken {
    /// The dependencies that the package has to provide.
    to_provide: Vec<Name>,
    /// Copies that were changed by somebody, and are gone.
    replaced: Vec<ReplacedCopy>,
}

/// A package's place.
#[derive(Debug)]
pub(super) struct LandlockPlace {
    package: Name,
    dependencies: Vec<Name>,
    /// Those that this package has to put there.
    to_provide: Vec<Name>,
    /// Copies that were removed for it because somebody had changed them.
    replaced: Vec<ReplacedCopy>,
    /// The shared scratch directories that the package has.
    shared: Vec<Name>,
    /// Scratch directories that it gets to itself, for packages share none.
    unshared: Vec<Name>,
    /// The directories beside those of packages that it has to itself.
    private: Mutex<Vec<Name>>,
    turn: Turn,
    inside: Inside,
    /// Whether the script has to keep to rules.
    ruled: bool,
}

/// One package in the tree, counted until its end.
#[derive(Debug)]
struct Inside {
    count: Arc<watch::Sender<usize>>,
    has_ended: AtomicBool,
}

impl Inside {
    fn new(count: &Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|count| *count += 1);
        Self {
            count: Arc::clone(count),
            has_ended: AtomicBool::new(false),
        }
    }

    fn end(&self) {
        if !self.has_ended.swap(true, Ordering::AcqRel) {
            self.count
                .send_modify(|count| *count = count.saturating_sub(1));
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.end();
    }
}

/// The right to be in the tree.
#[derive(Debug)]
enum Turn {
    WithOthers(#[expect(dead_code, reason = "held")] OwnedRwLockReadGuard<()>),
    Alone(#[expect(dead_code, reason = "held")] OwnedRwLockWriteGuard<()>),
}

impl Landlocked {
    /// Tries once whether rules can be set here, and do what they should.
    ///
    /// # Errors
    /// What does not work.
    pub async fn probe(work: &Path, agent: &ForkServer) -> Result<(), SandboxError> {
        let place = work.join("probe");
        let (own, other) = (place.join("own"), place.join("other"));
        for directory in [&own, &other] {
            fs::create_dir_all(directory)?;
        }
        let place = fs::canonicalize(&place)?;
        let (own, other) = (place.join("own"), place.join("other"));
        fs::write(&other.join("file"), b"")?;
        let hold = work.join(PROCESSES);
        fs::write(&hold, b"")?;
        let script = Script {
            spec: Spec {
                program: "bash".to_owned(),
                arguments: vec!["-c".into(), "echo >file && ! cat ../other/file".into()],
                directory: own.clone(),
                umask: 0o022,
                nice: 0,
                hold,
                grace: PROBE_GRACE,
                view: None,
                rules: Some(Rules {
                    guarded: vec![own.clone(), other],
                    listed: Vec::new(),
                    whole: vec![own.clone()],
                    readable: Vec::new(),
                }),
            },
            environment: [("PATH".into(), "/usr/bin:/bin:/usr/local/bin".into())]
                .into_iter()
                .collect::<Environment>(),
            agent: agent.clone(),
        };
        let output = Output::to_log(&place.join("probe.log"), |_| {})?;
        let end = script::run(script, output, &CancellationToken::new()).await?;
        fs::remove_tree(&place)?;
        let is_full = |line: &String| line.contains("No space left on device");
        match end.status {
            Status::Exited(0) => Ok(()),
            // That says nothing of rules.
            _ if end.output.tail.iter().any(is_full) => {
                let source = Errno::ENOSPC.into();
                Err(fs::Error::new("write", &own.join("file"), source).into())
            }
            status => Err(SandboxError::ProbeFailed(status)),
        }
    }

    /// Uses a tree that has been taken. `home` is the directory in which scripts may keep what is to outlast them.
    ///
    /// # Errors
    /// When its directories cannot be examined.
    pub fn new(tree: SharedTree, work: &Path, home: Option<&Path>) -> Result<Self, SandboxError> {
        let base = fs::canonicalize(tree.base())?;
        let data = fs::canonicalize(&Vcap::new(tree.base()).data())?;
        let work = fs::canonicalize(work)?;
        let is_open = |directory: &PathBuf| {
            let mut open = TEMPORARY.iter().map(Path::new).chain(home);
            open.any(|open| directory.starts_with(open))
        };
        // Rules are written down as text.
        let scratch = tree.separable_scratch().map(Path::to_owned);
        let scratch = scratch.filter(|directory| directory.to_str().is_some());
        let hidden: Vec<PathBuf> = std::iter::once(work).chain(scratch).collect();
        Ok(Self {
            tree,
            base,
            data,
            hidden: hidden.into_iter().filter(|it| !is_open(it)).collect(),
            names: Mutex::default(),
            beside: Mutex::default(),
            changed: Notify::new(),
            inside: Arc::new(watch::Sender::new(0)),
            alone: Arc::default(),
            ruled: true,
        })
    }

    /// The same without any rules (`--isolation=none` with several jobs): scripts that run at once see each other's packages
    /// and can write to them.
    #[must_use]
    pub fn without_rules(mut self) -> Self {
        self.ruled = false;
        self
    }

    /// The tree.
    pub(super) fn tree(&self) -> &SharedTree {
        &self.tree
    }

    fn names(&self) -> MutexGuard<'_, HashMap<Name, InTree>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beside(&self) -> MutexGuard<'_, Beside> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for a package, as soon as nobody has one of its names with other contents. Dependencies: name and sealed
    /// tree.
    pub(super) async fn enter(
        &self,
        package: &Name,
        dependencies: &[(Name, PathBuf)],
        scratch: &[Name],
    ) -> Result<LandlockPlace, SandboxError> {
        let turn = Turn::WithOthers(Arc::clone(&self.alone).read_owned().await);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // What changes from now on is heard.
            changed.as_mut().enable();
            if let Some(taken) = self.take(package, dependencies, scratch)? {
                return Ok(LandlockPlace {
                    to_provide: taken.to_provide,
                    replaced: taken.replaced,
                    package: package.clone(),
                    dependencies: dependencies.iter().map(|(name, _)| name.clone()).collect(),
                    shared: self.shared(scratch).to_vec(),
                    // A dependency's name may be wanted by several packages at once.
                    unshared: self.unshared(scratch, |name| name == package),
                    private: Mutex::default(),
                    turn,
                    inside: Inside::new(&self.inside),
                    ruled: self.ruled,
                });
            }
            changed.await;
        }
    }

    /// Does not count a package any longer whose script has ended. Returns how many others are in the tree.
    pub(super) fn step_aside(&self, place: &LandlockPlace) -> usize {
        place.inside.end();
        *self.inside.borrow()
    }

    /// Makes room for a package alone, as soon as all that are in the tree have left it. Packages that ask for room later wait
    /// behind it, so that it does not wait for ever. `waits` hears how many are left, whenever that changes.
    pub(super) async fn enter_alone(
        &self,
        package: &Name,
        dependencies: &[(Name, PathBuf)],
        scratch: &[Name],
        waits: &(dyn Fn(usize) + Send + Sync),
    ) -> Result<LandlockPlace, SandboxError> {
        let turn = Turn::Alone(self.write_turn(waits).await);
        let dependencies: Vec<Name> = dependencies.iter().map(|(name, _)| name.clone()).collect();
        let names: Vec<Name> = std::iter::once(package.clone())
            .chain(dependencies.iter().cloned())
            .collect();
        self.names().clear();
        // What could not be removed with its package is nobody's by now.
        self.beside().private.clear();
        self.tree.clear_for(&names)?;
        self.share(scratch)?;
        Ok(LandlockPlace {
            package: package.clone(),
            to_provide: dependencies.clone(),
            replaced: Vec::new(),
            dependencies,
            shared: self.shared(scratch).to_vec(),
            unshared: self.unshared(scratch, |_| true),
            private: Mutex::default(),
            turn,
            inside: Inside::new(&self.inside),
            ruled: false,
        })
    }

    /// Those of the names that packages share.
    fn shared<'a>(&self, scratch: &'a [Name]) -> &'a [Name] {
        match self.tree.shares_scratch() {
            true => scratch,
            false => &[],
        }
    }

    /// Those of the names that a package gets to itself where packages share none.
    fn unshared(&self, scratch: &[Name], is_wanted: impl Fn(&Name) -> bool) -> Vec<Name> {
        let is_off = !self.tree.shares_scratch();
        let wanted = scratch.iter().filter(|name| is_off && is_wanted(name));
        wanted.cloned().collect()
    }

    fn share(&self, scratch: &[Name]) -> Result<(), SandboxError> {
        let shared = self.shared(scratch);
        self.beside().shared.extend(shared.iter().cloned());
        self.tree.share(shared)
    }

    async fn write_turn(&self, waits: &(dyn Fn(usize) + Send + Sync)) -> OwnedRwLockWriteGuard<()> {
        let turn = Arc::clone(&self.alone).write_owned();
        tokio::pin!(turn);
        let mut inside = self.inside.subscribe();
        let mut told = 0;
        loop {
            let count = *inside.borrow_and_update();
            tokio::select! {
                biased;
                // Cancel-safe: the same future is polled in the next round.
                turn = &mut turn => return turn,
                () = std::future::ready(()), if count != told => {
                    waits(count);
                    told = count;
                }
                // Cancel-safe per docs on `changed`. The sender lives as long as this tree.
                Ok(()) = inside.changed() => {}
            }
        }
    }

    /// Takes the names of a package and its dependencies, all at once. `None` when one of them is not to be had now.
    fn take(
        &self,
        package: &Name,
        dependencies: &[(Name, PathBuf)],
        scratch: &[Name],
    ) -> Result<Option<Taken>, SandboxError> {
        let mut names = self.names();
        let is_private = |name: &Name| self.beside().private.contains(name);
        if self.shared(scratch).iter().any(is_private) {
            return Ok(None);
        }
        let is_in_use = |names: &HashMap<Name, InTree>| {
            names.get(package).is_some_and(InTree::is_in_use)
                || dependencies.iter().any(|(name, sealed)| {
                    names
                        .get(name)
                        .is_some_and(|there| there.is_in_use() && !there.is_ready(sealed))
                })
        };
        if is_in_use(&names) {
            return Ok(None);
        }
        for (name, sealed) in dependencies {
            self.compare(&mut names, name, sealed);
        }
        // Those that use a changed copy go on with it.
        if is_in_use(&names) {
            return Ok(None);
        }
        // What is no longer in the store is of no use to anybody but this package, if it is there for it already.
        let mut evicted = vec![package.clone()];
        for (name, there) in names.iter() {
            if let InTree::Dependency {
                sealed, users: 0, ..
            } = there
                && fs::lookup(sealed)?.is_none()
                && dependencies.iter().all(|(needed, _)| needed != name)
            {
                evicted.push(name.clone());
            }
        }
        let to_provide: Vec<Name> = dependencies
            .iter()
            .filter(|(name, sealed)| !names.get(name).is_some_and(|there| there.is_ready(sealed)))
            .map(|(name, _)| name.clone())
            .collect();
        evicted.extend(to_provide.iter().cloned());
        let mut replaced = Vec::new();
        for name in evicted {
            if let Some(there) = names.remove(&name) {
                self.remove(&name)?;
                replaced.extend(there.into_replaced(name));
            }
        }
        self.tree.note(
            &std::iter::once(package)
                .chain(&to_provide)
                .collect::<Vec<_>>(),
        )?;
        self.make_temporary(package)?;
        self.share(scratch)?;
        names.insert(package.clone(), InTree::Compiling);
        for (name, sealed) in dependencies {
            let there = names.entry(name.clone()).or_insert(InTree::Dependency {
                sealed: sealed.clone(),
                users: 0,
                copy: None,
            });
            if let InTree::Dependency { users, .. } = there {
                *users += 1;
            }
        }
        Ok(Some(Taken {
            to_provide,
            replaced,
        }))
    }

    /// Compares the copy of a dependency with what it was. Without rules, scripts that run at once may write to what they share,
    /// and the copy does not outlive them.
    fn compare(&self, names: &mut HashMap<Name, InTree>, name: &Name, sealed: &Path) {
        let there = names.get_mut(name).filter(|there| there.is_ready(sealed));
        if let (Some(InTree::Dependency { copy, .. }), true) = (there, self.ruled)
            && let Some(copy) = copy
        {
            let moment = Instant::now();
            copy.changed = copy.record.compare(&self.copy_of(name));
            if copy.changed.is_none() {
                copy.good = moment;
            }
        }
    }

    /// Where a dependency's copy is.
    fn copy_of(&self, name: &Name) -> PathBuf {
        let packages = Vcap::new(self.tree.base()).data_packages();
        packages.join(name.as_str())
    }

    /// Gives a package directories beside those of packages, as soon as no other package has one of them to itself. Shared
    /// scratch and what the machine has under these names stay what they are.
    ///
    /// Cancel-safe: nothing is taken before it returns.
    pub(super) async fn claim(
        &self,
        place: &LandlockPlace,
        names: &BTreeSet<Name>,
    ) -> Result<(), SandboxError> {
        let names = names.iter().chain(&place.unshared);
        let names: BTreeSet<Name> = names.cloned().collect();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // What changes from now on is heard.
            changed.as_mut().enable();
            if self.try_claim(place, &names)? {
                return Ok(());
            }
            changed.await;
        }
    }

    fn try_claim(
        &self,
        place: &LandlockPlace,
        names: &BTreeSet<Name>,
    ) -> Result<bool, SandboxError> {
        let mut beside = self.beside();
        if names.iter().any(|name| beside.private.contains(name)) {
            return Ok(false);
        }
        let mut private = place.private();
        for name in names {
            // A script without rules makes its directories itself, and may expect that they are not there.
            if !beside.shared.contains(name) && self.tree.make_private(name, place.ruled)? {
                beside.private.insert(name.clone());
                private.push(name.clone());
            }
        }
        Ok(true)
    }

    /// Opens the directories of a package beside those of packages to its script.
    pub(super) fn open(&self, place: &LandlockPlace, script: &mut Script) {
        if let Some(rules) = &mut script.spec.rules {
            let private = place.private();
            let paths = private.iter().map(|name| self.data.join(name.as_str()));
            rules.whole.extend(paths);
        }
    }

    /// Whether a dependency is there already, for others.
    pub(super) fn has(place: &LandlockPlace, dependency: &Name) -> bool {
        !place.to_provide.contains(dependency)
    }

    /// Says that a package's dependencies are all there.
    ///
    /// # Errors
    /// When one of them cannot be examined.
    pub(super) fn provided(&self, place: &LandlockPlace) -> Result<(), SandboxError> {
        let copies: Vec<(&Name, Copied)> = place
            .to_provide
            .iter()
            .map(|name| Ok((name, Copied::new(self.record_of(name)?))))
            .collect::<fs::Result<_>>()?;
        let mut names = self.names();
        for (name, made) in copies {
            if let Some(InTree::Dependency { copy, .. }) = names.get_mut(name) {
                *copy = Some(made);
            }
        }
        drop(names);
        self.changed.notify_waiters();
        Ok(())
    }

    fn record_of(&self, name: &Name) -> fs::Result<Record> {
        match self.ruled {
            true => Record::of(&self.copy_of(name)),
            false => Ok(Record::default()),
        }
    }

    /// Copies that were removed for a package because somebody had changed them.
    pub(super) fn replaced(place: &LandlockPlace) -> &[ReplacedCopy] {
        &place.replaced
    }

    /// Whether the script in a place has to keep to rules.
    pub(super) fn restricts(place: &LandlockPlace) -> bool {
        place.ruled
    }

    /// Gives a script its rules and its directory for temporary files.
    pub(super) fn confine(
        &self,
        place: &LandlockPlace,
        script: &mut Script,
        own: &PackagePaths,
        dependencies: &[&PackagePaths],
    ) {
        if !Self::restricts(place) {
            return;
        }
        let temporary = self.temporary(&place.package);
        let variable = ("TMPDIR", temporary.clone().into());
        script.environment = script.environment.with(&[variable]);
        let data = Vcap::new(self.tree.base()).data();
        let real = |path: &Path| match path.strip_prefix(&data) {
            Ok(below) => self.data.join(below),
            Err(_) => path.to_owned(),
        };
        let mut guarded = vec![
            Vcap::new(&self.base).packages(),
            real(&Vcap::new(self.tree.base()).data_packages()),
            real(&Vcap::new(self.tree.base()).compile()),
            real(&self.tree.temporary()),
        ];
        guarded.extend(self.hidden.iter().cloned());
        let base = Vcap::new(&self.base);
        guarded.push(base.bosh());
        let mut whole = vec![real(&own.compile), real(&own.packages), real(&temporary)];
        whole.extend(seen_in_part(&base, &base.bosh()));
        whole.extend(
            place
                .shared
                .iter()
                .map(|name| self.data.join(name.as_str())),
        );
        whole.extend(self.free_beside());
        script.spec.rules = Some(Rules {
            guarded,
            listed: vec![self.data.clone()],
            whole,
            readable: dependencies
                .iter()
                .map(|paths| real(&paths.packages))
                .collect(),
        });
    }

    /// What the data directory has that is nobody's here. It is looked up now, because a directory that is made for another
    /// package later must not be free.
    fn free_beside(&self) -> Vec<PathBuf> {
        let beside = self.beside();
        let is_ours = |name: &str| {
            name.starts_with(OURS)
                || NOT_FREE.contains(&name)
                || Name::parse(name).is_ok_and(|name| {
                    beside.shared.contains(&name) || beside.private.contains(&name)
                })
        };
        let entries = fs::list(&self.data).unwrap_or_default();
        let free = entries.iter().filter(|entry| {
            // What a link leads to is free, or not, by its own path.
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let name = entry.file_name();
            !is_link && name.to_str().is_some_and(|name| !is_ours(name))
        });
        free.map(std::fs::DirEntry::path).collect()
    }

    fn temporary(&self, package: &Name) -> PathBuf {
        self.tree.temporary().join(package.as_str())
    }

    fn make_temporary(&self, package: &Name) -> Result<(), SandboxError> {
        let directory = self.temporary(package);
        fs::create_dir_all(&directory)?;
        Ok(fs::set_mode(&directory, 0o1777)?)
    }

    /// Removes everything of the package. A dependency that is complete, and that no script could write to, stays for the next.
    pub(super) fn leave(&self, place: &LandlockPlace) -> Result<(), SandboxError> {
        let private = std::mem::take(&mut *place.private());
        let mut removed = self.release(&private);
        if let Turn::Alone(_) = place.turn {
            // The script may have removed the directories of packages, too.
            return removed.and(Ok(self.tree.clear_for(&[])?));
        }
        let mut names = self.names();
        names.remove(&place.package);
        removed = removed.and(self.remove(&place.package));
        for name in &place.dependencies {
            let Some(InTree::Dependency { users, copy, .. }) = names.get_mut(name) else {
                continue;
            };
            *users = users.saturating_sub(1);
            // Without rules a script may have written to it.
            let is_spoilt = !self.ruled && *users == 0;
            if copy.is_none() || is_spoilt {
                names.remove(name);
                removed = removed.and(self.remove(name));
            }
        }
        drop(names);
        self.changed.notify_waiters();
        removed
    }

    /// Removes directories that a package had to itself. What cannot be removed stays closed to others.
    fn release(&self, private: &[Name]) -> Result<(), SandboxError> {
        self.tree.remove_beside(private)?;
        let mut beside = self.beside();
        for name in private {
            beside.private.remove(name);
        }
        Ok(())
    }

    fn remove(&self, name: &Name) -> Result<(), SandboxError> {
        self.tree.remove(name)?;
        Ok(fs::remove_tree(&self.temporary(name))?)
    }

    pub(super) fn close(self) -> Result<(), SandboxError> {
        self.tree.close()
    }
}

/// What scripts see of a directory of which they do not see everything.
fn seen_in_part(vcap: &Vcap, directory: &Path) -> Vec<PathBuf> {
    let entries = fs::list(directory).unwrap_or_default();
    let paths = entries.iter().map(std::fs::DirEntry::path);
    let seen = paths.flat_map(|path| match vcap.visibility(&path) {
        Visibility::Full => vec![path],
        Visibility::Partial => seen_in_part(vcap, &path),
        Visibility::Hidden => Vec::new(),
    });
    seen.collect()
}

impl LandlockPlace {
    fn private(&self) -> MutexGuard<'_, Vec<Name>> {
        self.private.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InTree {
    fn is_in_use(&self) -> bool {
        match self {
            Self::Compiling => true,
            Self::Dependency { users, .. } => *users > 0,
        }
    }

    fn is_ready(&self, wanted: &Path) -> bool {
        match self {
            Self::Dependency {
                sealed,
                copy: Some(copy),
                ..
            } => sealed == wanted && copy.changed.is_none(),
            Self::Compiling | Self::Dependency { .. } => false,
        }
    }

    /// That it was a changed copy.
    fn into_replaced(self, dependency: Name) -> Option<ReplacedCopy> {
        let Self::Dependency {
            copy: Some(copy), ..
        } = self
        else {
            return None;
        };
        Some(ReplacedCopy {
            dependency,
            difference: copy.changed?,
            good: copy.good,
        })
    }
}

impl Copied {
    fn new(record: Record) -> Self {
        Self {
            record,
            good: Instant::now(),
            changed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    struct Scratch {
        directory: tempfile::TempDir,
        shared: Landlocked,
    }

    fn scratch() -> Scratch {
        let directory = tempfile::tempdir().unwrap();
        let vcap = Vcap::new(&directory.path().join("vcap"));
        let tree = SharedTree::take(&vcap, "a test", false, &|| false).unwrap();
        for sealed in ["a1", "a2", "b1"] {
            fs::create_dir(&directory.path().join(sealed)).unwrap();
        }
        let shared = Landlocked::new(tree, directory.path(), None).unwrap();
        Scratch { directory, shared }
    }

    impl Scratch {
        fn sealed(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        /// Enters at once, or says that this has to wait.
        fn enter(&self, package: &str, dependencies: &[(&str, &str)]) -> Option<LandlockPlace> {
            let dependencies: Vec<(Name, PathBuf)> = dependencies
                .iter()
                .map(|(dependency, sealed)| (name(dependency), self.sealed(sealed)))
                .collect();
            let package = name(package);
            at_once(self.shared.enter(&package, &dependencies, &[])).map(Result::unwrap)
        }

        fn install(&self, place: &LandlockPlace) {
            for name in &place.to_provide {
                let packages = Vcap::new(self.shared.tree.base()).data_packages();
                fs::create_dir(&packages.join(name.as_str())).unwrap();
            }
            self.shared.provided(place).unwrap();
        }

        fn installed(&self) -> Vec<String> {
            let packages = Vcap::new(self.shared.tree.base()).data_packages();
            let entries = fs::list(&packages).unwrap();
            let name = |entry: &std::fs::DirEntry| entry.file_name().into_string().unwrap();
            entries.iter().map(name).collect()
        }
    }

    fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
        let mut context = Context::from_waker(Waker::noop());
        match pin!(future).poll(&mut context) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn a_dependency_is_put_there_once_and_waited_for_until_it_is_complete() {
        let scratch = scratch();
        let first = scratch.enter("x", &[("a", "a1")]).unwrap();
        assert!(!Landlocked::has(&first, &name("a")));
        assert!(scratch.enter("y", &[("a", "a1")]).is_none());
        scratch.install(&first);
        let second = scratch.enter("y", &[("a", "a1")]).unwrap();
        assert!(Landlocked::has(&second, &name("a")));
        scratch.shared.leave(&first).unwrap();
        scratch.shared.leave(&second).unwrap();
        let third = scratch.enter("z", &[("a", "a1")]).unwrap();
        assert!(Landlocked::has(&third, &name("a")));
        assert_eq!(scratch.installed(), ["a"]);
    }

    #[test]
    fn a_changed_copy_is_replaced_when_its_users_have_ended() {
        let scratch = scratch();
        let first = scratch.enter("x", &[("a", "a1")]).unwrap();
        scratch.install(&first);
        let copy = scratch.shared.copy_of(&name("a"));
        fs::set_mode(&copy, 0o700).unwrap();
        assert!(scratch.enter("y", &[("a", "a1")]).is_none(), "it is used");
        scratch.shared.leave(&first).unwrap();
        let second = scratch.enter("y", &[("a", "a1")]).unwrap();
        assert!(!Landlocked::has(&second, &name("a")));
        assert!(!copy.exists());
        let [replaced] = Landlocked::replaced(&second) else {
            panic!("{second:?}");
        };
        assert_eq!(replaced.dependency, name("a"));
        assert_eq!(replaced.difference.to_string(), "`.` (mode)");
        scratch.install(&second);
        scratch.shared.leave(&second).unwrap();
        let third = scratch.enter("z", &[("a", "a1")]).unwrap();
        assert!(Landlocked::has(&third, &name("a")));
        assert!(Landlocked::replaced(&third).is_empty());
    }

    #[test]
    fn a_name_waits_for_the_end_of_its_other_contents() {
        let scratch = scratch();
        let first = scratch.enter("x", &[("a", "a1")]).unwrap();
        scratch.install(&first);
        assert!(scratch.enter("x", &[]).is_none(), "it is being compiled");
        assert!(scratch.enter("a", &[]).is_none(), "it is a dependency");
        assert!(
            scratch.enter("y", &[("a", "a2")]).is_none(),
            "other contents"
        );
        assert!(
            scratch.enter("y", &[("x", "b1")]).is_none(),
            "being compiled"
        );
        scratch.shared.leave(&first).unwrap();
        let second = scratch.enter("y", &[("a", "a2"), ("x", "b1")]).unwrap();
        assert_eq!(second.to_provide, [name("a"), name("x")]);
        assert!(scratch.installed().is_empty());
    }

    #[test]
    fn what_the_store_has_given_up_goes_and_half_a_copy_too() {
        let scratch = scratch();
        let first = scratch.enter("x", &[("a", "a1")]).unwrap();
        scratch.install(&first);
        scratch.shared.leave(&first).unwrap();
        let failed = scratch.enter("x", &[("b", "b1")]).unwrap();
        let half = Vcap::new(scratch.shared.tree.base()).data_packages();
        fs::create_dir(&half.join("b")).unwrap();
        scratch.shared.leave(&failed).unwrap();
        assert_eq!(scratch.installed(), ["a"]);
        fs::remove_tree(&scratch.sealed("a1")).unwrap();
        let user = scratch.enter("y", &[("a", "a1")]).unwrap();
        assert!(Landlocked::has(&user, &name("a")));
        assert_eq!(scratch.installed(), ["a"], "a copy that is needed stays");
        scratch.shared.leave(&user).unwrap();
        scratch.enter("y", &[]).unwrap();
        assert!(scratch.installed().is_empty());
    }

    #[test]
    fn packages_that_come_later_wait_behind_a_second_run() {
        let scratch = scratch();
        let own = scratch.enter("z", &[]).unwrap();
        let (first, second) = (scratch.enter("x", &[]), scratch.enter("y", &[]));
        assert_eq!(scratch.shared.step_aside(&own), 2);
        let package = name("z");
        let told = Mutex::new(Vec::new());
        let waits = |count| told.lock().unwrap().push(count);
        let mut alone = Box::pin(scratch.shared.enter_alone(&package, &[], &[], &waits));
        let poll = |alone: &mut _| {
            let mut context = Context::from_waker(Waker::noop());
            Future::poll(std::pin::Pin::new(alone), &mut context)
        };
        assert!(poll(&mut alone).is_pending());
        assert!(scratch.enter("later", &[]).is_none());
        drop(own);
        assert!(poll(&mut alone).is_pending());
        drop(first);
        assert!(poll(&mut alone).is_pending());
        assert!(scratch.enter("later", &[]).is_none());
        drop(second);
        let Poll::Ready(Ok(place)) = poll(&mut alone) else {
            panic!("the tree is empty");
        };
        assert_eq!(*told.lock().unwrap(), [2, 1]);
        assert!(scratch.enter("later", &[]).is_none());
        drop(place);
        drop(alone);
        assert!(scratch.enter("later", &[]).is_some());
    }

    #[test]
    fn who_is_alone_is_alone() {
        let scratch = scratch();
        let first = scratch.enter("x", &[("a", "a1")]).unwrap();
        scratch.install(&first);
        let package = name("y");
        let told = Mutex::new(Vec::new());
        let waits = |count| told.lock().unwrap().push(count);
        assert!(at_once(scratch.shared.enter_alone(&package, &[], &[], &waits)).is_none());
        assert_eq!(*told.lock().unwrap(), [1]);
        scratch.shared.leave(&first).unwrap();
        drop(first);
        let alone = at_once(scratch.shared.enter_alone(&package, &[], &[], &waits))
            .unwrap()
            .unwrap();
        assert!(!Landlocked::restricts(&alone));
        assert!(scratch.installed().is_empty());
        assert!(scratch.enter("z", &[]).is_none());
        scratch.shared.leave(&alone).unwrap();
        drop(alone);
        assert!(scratch.enter("z", &[]).is_some());
        scratch.shared.close().unwrap();
        assert!(!scratch.directory.path().join("vcap").exists());
    }

    fn names(texts: &[&str]) -> BTreeSet<Name> {
        texts.iter().map(|text| name(text)).collect()
    }

    #[test]
    fn directory_of_one_package_is_waited_for_by_another() {
        let scratch = scratch();
        let data = Vcap::new(scratch.shared.tree.base()).data();
        let first = scratch.enter("x", &[]).unwrap();
        let second = scratch.enter("y", &[]).unwrap();
        let claim = |place| at_once(scratch.shared.claim(place, &names(&["a", "b"])));
        claim(&first).unwrap().unwrap();
        fs::write(&data.join("a/file"), b"").unwrap();
        assert!(claim(&second).is_none());
        scratch.shared.leave(&first).unwrap();
        assert!(!data.join("a").exists());
        claim(&second).unwrap().unwrap();
        assert!(fs::list(&data.join("a")).unwrap().is_empty());
    }

    #[test]
    fn shared_scratch_waits_for_a_package_that_has_the_name_to_itself() {
        let scratch = scratch();
        let data = Vcap::new(scratch.shared.tree.base()).data();
        let first = scratch.enter("x", &[]).unwrap();
        let claimed = at_once(scratch.shared.claim(&first, &names(&["go"])));
        claimed.unwrap().unwrap();
        let (package, shared) = (name("y"), [name("go")]);
        let enter = || at_once(scratch.shared.enter(&package, &[], &shared));
        assert!(enter().is_none());
        scratch.shared.leave(&first).unwrap();
        enter().unwrap().unwrap();
        fs::write(&data.join("go/file"), b"").unwrap();
        // From now on nobody gets it to themselves.
        let third = scratch.enter("z", &[]).unwrap();
        let claimed = at_once(scratch.shared.claim(&third, &names(&["go"])));
        claimed.unwrap().unwrap();
        scratch.shared.leave(&third).unwrap();
        assert!(data.join("go/file").exists());
    }

    #[test]
    fn scratch_outlives_a_package_that_is_alone() {
        let scratch = scratch();
        let data = Vcap::new(scratch.shared.tree.base()).data();
        let (package, shared) = (name("y"), [name("go")]);
        let enter = scratch.shared.enter(&package, &[], &shared);
        let place = at_once(enter).unwrap().unwrap();
        fs::write(&data.join("go/file"), b"").unwrap();
        scratch.shared.leave(&place).unwrap();
        drop(place);
        let alone = scratch.shared.enter_alone(&package, &[], &shared, &|_| {});
        let alone = at_once(alone).unwrap().unwrap();
        assert!(data.join("go/file").exists());
        let claimed = at_once(scratch.shared.claim(&alone, &names(&["made-by-itself"])));
        claimed.unwrap().unwrap();
        assert!(!data.join("made-by-itself").exists());
        fs::create_dir(&data.join("made-by-itself")).unwrap();
        scratch.shared.leave(&alone).unwrap();
        assert!(!data.join("made-by-itself").exists());
        drop(alone);
        scratch.shared.close().unwrap();
        assert!(!scratch.directory.path().join("vcap").exists());
    }
}
