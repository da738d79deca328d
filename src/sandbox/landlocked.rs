//! `--isolation=landlock`: several packages use the real base directory at the same time. The directories of these packages below BASE
//! are *the tree*. Landlock rules restrict each script: in the tree, it can access only its own directories, the scratch directories that
//! it shares with others and, read-only, its direct dependencies. With `--isolation=none` and `--jobs` above 1, scripts share the tree
//! without rules.
//!
//! ```text
//! BASE/packages/NAME            links, while the package or one that depends on it is compiled
//! BASE/data/compile/NAME        the package's source
//! BASE/data/packages/NAME       the package's install target; or a copy of a dependency, shared by the packages that depend on it
//! BASE/data/.bosh-agent-tmp/NAME  its TMPDIR; all scripts share /tmp
//! BASE/data/NAME                scratch of the package, shared with its dependents; or another directory that the source mentions
//! ```
//!
//! A package enters the tree by reserving its own name and those of its dependencies, and leaves it when it is compiled. Paths contain no
//! versions, so the tree contains only one version of each package. The first dependent puts a copy of a dependency into the tree. While
//! the copy is incomplete, other dependents wait; while it is in use, packages that need another version wait.
//!
//! If a script may have failed because of the rules, it can run a second time: without rules and while no other script runs, in a tree
//! that contains only its own directories and dependencies, as with the Go agent.

mod admission;
mod confine;
mod data;
mod data_names;
mod packages;
mod probe;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub(crate) use self::packages::ReplacedCopy;

use self::admission::{Admission, Admitted, Occupant};
use self::data_names::DataNames;
use self::packages::{DependencyCopy, PackagesInTree};
use super::blocking::{UndoOnDrop, blocking};
use super::error::SandboxError;
use super::request::{PlaceRequest, PrivateNames};
use super::shared_tree::SharedTree;
use super::waits::ReportOnce;
use crate::config::Vcap;
use crate::fs::{self, Record};
use crate::release::Name;

/// Directories that all scripts use. Landlock rules only grant access: a script that can use one of these directories can use
/// everything in it, including the agent's work directory if that is there.
const TEMPORARY: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// The shared tree of one run, and the packages in it.
#[derive(Debug)]
pub struct Landlocked {
    tree: SharedTree,
    /// The base directory without symbolic links in its path, as Landlock rules need it.
    base: PathBuf,
    /// The data directory with links resolved.
    data: PathBuf,
    /// Directories to which all scripts have access: temporary ones, and HOME.
    open: Vec<PathBuf>,
    /// The work directory, the directory of `--scratch-dir`, and secrets, if rules can deny access to them.
    hidden: Vec<PathBuf>,
    /// Secrets to which scripts have access, because they are in one of the `open` directories.
    exposed: Vec<PathBuf>,
    /// Locked before `data_names` if both are needed. It stays locked during file operations, so code on async threads must not lock it.
    packages: Mutex<PackagesInTree>,
    data_names: Mutex<DataNames>,
    /// Notified when a name becomes available or when a dependency is complete.
    changed: Notify,
    admission: Admission,
    /// Whether scripts get rules.
    has_rules: bool,
}

/// A package that has entered the tree.
#[derive(Debug)]
pub(super) struct LandlockPlace {
    package: Name,
    dependencies: Vec<Name>,
    /// The dependencies that must be copied into the tree for this package.
    to_provide: Vec<Name>,
    /// Copies of dependencies that scripts had changed, and that were removed before this package started.
    replaced: Vec<ReplacedCopy>,
    /// The names of the scratch directories that it shares with other packages. Empty with `--no-shared-scratch`.
    scratch: Vec<Name>,
    /// With `--no-shared-scratch`, the names of scratch directories that it does not share. It [claims](Landlocked::claim) them.
    unshared: Vec<Name>,
    /// The names that it has claimed: of scratch directories that it does not share, and of directories that its source mentions.
    private: PrivateNames,
    admitted: Admitted,
    occupant: Occupant,
    /// Whether the script gets rules.
    has_rules: bool,
}

/// The result of reserving the names of a package and its dependencies; see [`LandlockPlace`].
struct Reserved {
    to_provide: Vec<Name>,
    replaced: Vec<ReplacedCopy>,
}

impl Landlocked {
    /// A tree without packages. `home` is the HOME of scripts.
    ///
    /// # Errors
    /// Its directories cannot be examined.
    pub fn new(tree: SharedTree, work: &Path, home: Option<&Path>) -> Result<Self, SandboxError> {
        let base = fs::canonicalize(tree.base())?;
        let data = fs::canonicalize(&Vcap::new(tree.base()).data())?;
        let work = fs::canonicalize(work)?;
        let scratch = tree.separable_scratch().map(Path::to_owned);
        let hidden = std::iter::once(work).chain(scratch).collect();
        let temporary = TEMPORARY.iter().map(PathBuf::from);
        let mut landlocked = Self {
            tree,
            base,
            data,
            open: temporary.chain(home.map(Path::to_owned)).collect(),
            hidden: Vec::new(),
            exposed: Vec::new(),
            packages: Mutex::default(),
            data_names: Mutex::default(),
            changed: Notify::new(),
            admission: Admission::default(),
            has_rules: true,
        };
        // Ignore the directories that cannot be hidden: they are in a directory to which all scripts have access.
        let _ = landlocked.hide(hidden);
        Ok(landlocked)
    }

    /// Denies scripts access to these paths, which must not contain symbolic links. Returns the paths to which it cannot deny access,
    /// because they are in directories that all scripts use.
    #[must_use]
    fn hide(&mut self, paths: Vec<PathBuf>) -> Vec<PathBuf> {
        let is_open = |path: &PathBuf| self.open.iter().any(|open| path.starts_with(open));
        let (exposed, closable) = paths.into_iter().partition(is_open);
        let closable: Vec<PathBuf> = closable;
        self.hidden.extend(closable);
        exposed
    }

    /// The secrets to which scripts have access.
    pub(super) fn exposed(&self) -> &[PathBuf] {
        &self.exposed
    }

    /// Also denies scripts access to these files and directories with secrets. One that does not exist now is not protected. One in a
    /// directory that all scripts use is [exposed](Self::exposed).
    #[must_use]
    pub(super) fn with_secrets(mut self, secrets: &[PathBuf]) -> Self {
        let secrets = secrets
            .iter()
            .filter_map(|path| fs::canonicalize(path).ok());
        self.exposed = self.hide(secrets.collect());
        self
    }

    /// Uses no rules (`--isolation=none` with `--jobs` above 1): scripts that run concurrently see each other's packages and can write to
    /// them.
    #[must_use]
    pub fn without_rules(mut self) -> Self {
        self.has_rules = false;
        self
    }

    pub(super) fn has_rules(&self) -> bool {
        self.has_rules
    }

    pub(super) fn tree(&self) -> &SharedTree {
        &self.tree
    }

    fn packages(&self) -> MutexGuard<'_, PackagesInTree> {
        self.packages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data_names(&self) -> MutexGuard<'_, DataNames> {
        self.data_names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a package enter the tree: reserves its name and those of its dependencies. Waits while one of these names is not available (see
    /// [`try_reserve`](Self::try_reserve)), and while a package is alone in the tree or waits to be. Calls `waits` once if it has to wait.
    pub(super) async fn enter(
        self: &Arc<Self>,
        request: PlaceRequest,
        waits: &(dyn Fn() + Send + Sync),
    ) -> Result<Arc<LandlockPlace>, SandboxError> {
        let mut waits = ReportOnce::new(waits);
        let request = Arc::new(request);
        let mut admitted = waits.unless_ready(self.admission.with_others()).await;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on, a change ends the wait below.
            changed.as_mut().enable();
            admitted = match self.try_enter(&request, admitted).await? {
                Ok(place) => return Ok(place),
                Err(admitted) => admitted,
            };
            waits.report();
            changed.await;
        }
    }

    /// Tries once to enter. If a name is not available, returns `admitted` for the next attempt.
    async fn try_enter(
        self: &Arc<Self>,
        request: &Arc<PlaceRequest>,
        admitted: Admitted,
    ) -> Result<Result<Arc<LandlockPlace>, Admitted>, SandboxError> {
        let (own, request) = (Arc::clone(self), Arc::clone(request));
        let entered = blocking("enter", move || {
            let Some(reserved) = own.try_reserve(&request)? else {
                return Ok(Err(admitted));
            };
            let place = LandlockPlace {
                // Claim only the scratch directory with the name of the package itself. Several packages may request those of its
                // dependencies at the same time, so none gets them.
                unshared: own.unshared(&request.scratch, |name| *name == request.package),
                has_rules: own.has_rules,
                ..own.place(&request, reserved, admitted)
            };
            Ok(Ok(UndoOnDrop::new(place, move |place: &LandlockPlace| {
                own.leave(place)
            })))
        });
        entered.await.map(|entered| entered.map(UndoOnDrop::keep))
    }

    /// Waits until all packages have left the tree, then enters one alone and without rules. Packages that come later wait until it has
    /// left. `waits` receives the number of packages in the tree, each time it changes.
    pub(super) async fn enter_alone(
        self: &Arc<Self>,
        request: PlaceRequest,
        waits: &(dyn Fn(usize) + Send + Sync),
    ) -> Result<Arc<LandlockPlace>, SandboxError> {
        let admitted = self.admission.alone(waits).await;
        let own = Arc::clone(self);
        let entered = blocking("enter", move || {
            own.clear_for(&request.names())?;
            // No package is left in the tree: forget private directories that could not be removed.
            own.data_names().private.clear();
            own.share(&request.scratch)?;
            let reserved = Reserved {
                to_provide: request.dependency_names().cloned().collect(),
                replaced: Vec::new(),
            };
            let place = LandlockPlace {
                unshared: own.unshared(&request.scratch, |_| true),
                has_rules: false,
                ..own.place(&request, reserved, admitted)
            };
            Ok(UndoOnDrop::new(place, move |place: &LandlockPlace| {
                own.leave(place)
            }))
        });
        entered.await.map(UndoOnDrop::keep)
    }

    fn place(
        &self,
        request: &PlaceRequest,
        reserved: Reserved,
        admitted: Admitted,
    ) -> LandlockPlace {
        LandlockPlace {
            package: request.package.clone(),
            dependencies: request.dependency_names().cloned().collect(),
            to_provide: reserved.to_provide,
            replaced: reserved.replaced,
            scratch: self.shared(&request.scratch).to_vec(),
            unshared: Vec::new(),
            private: PrivateNames::default(),
            admitted,
            occupant: self.admission.count(),
            has_rules: self.has_rules,
        }
    }

    /// Stops counting a package whose script has ended. Returns the number of other packages in the tree.
    pub(super) fn step_aside(&self, place: &LandlockPlace) -> usize {
        place.occupant.leave();
        self.admission.occupants()
    }

    /// Reserves the names of a package and its dependencies, all at once. Removes unused copies that have one of these names, but other
    /// contents. `None` if a name is not available: another package has reserved the scratch directory, the package itself is in use, or
    /// other packages use a copy of the dependency that is incomplete, changed or of another version.
    fn try_reserve(&self, request: &PlaceRequest) -> Result<Option<Reserved>, SandboxError> {
        let mut packages = self.packages();
        let is_private = |name: &Name| self.data_names().private.contains(name);
        if self.shared(&request.scratch).iter().any(is_private) || packages.conflict_with(request) {
            return Ok(None);
        }
        // Without rules, copies are not verified: scripts may change them, and a copy is removed when its last user ends.
        if self.has_rules {
            packages.verify(request, |name| self.copy_of(name));
        }
        // Wait if the verification has found a changed copy that other packages still use.
        if packages.conflict_with(request) {
            return Ok(None);
        }
        let to_provide = packages.missing(request);
        let replaced = self.evict(&mut packages, request, &to_provide)?;
        let made = std::iter::once(&request.package).chain(&to_provide);
        self.tree.note(&made.collect::<Vec<_>>())?;
        self.make_temporary(&request.package)?;
        self.share(&request.scratch)?;
        packages.add(request);
        Ok(Some(Reserved {
            to_provide,
            replaced,
        }))
    }

    /// Removes leftovers with the package's own name, and copies with one of the names `to_provide`: both are created again for this
    /// package. Also removes unused copies of dependencies whose sealed tree is no longer in the store, unless the package depends on them.
    /// Returns the removed copies that a script had changed.
    fn evict(
        &self,
        packages: &mut PackagesInTree,
        request: &PlaceRequest,
        to_provide: &[Name],
    ) -> Result<Vec<ReplacedCopy>, SandboxError> {
        let mut evicted = vec![request.package.clone()];
        for (name, sealed) in packages.unused() {
            if fs::lookup(sealed)?.is_none() && request.dependency_names().all(|it| it != name) {
                evicted.push(name.clone());
            }
        }
        evicted.extend(to_provide.iter().cloned());
        let mut replaced = Vec::new();
        for name in evicted {
            if let Some(copy) = packages.remove(&name) {
                self.remove_or_note(packages, &name)?;
                replaced.extend(copy);
            }
        }
        Ok(replaced)
    }

    /// Empties the tree for a package that is alone in it, and writes a marker with the names that are put there next (none when the
    /// package leaves).
    fn clear_for(&self, names: &[Name]) -> Result<(), SandboxError> {
        let mut packages = self.packages();
        if let Err(error) = self.tree.clear_for(names) {
            packages.note_all_left();
            return Err(error.into());
        }
        packages.clear();
        Ok(())
    }

    /// Removes all copies of dependencies that no package uses, and the leftovers of packages that could not be removed before.
    pub(super) fn remove_unused_copies(&self) -> Result<(), SandboxError> {
        let mut packages = self.packages();
        let unused = packages.unused().map(|(name, _)| name);
        let unused: Vec<Name> = unused.chain(packages.left()).cloned().collect();
        let mut removed = Ok(());
        for name in unused {
            packages.remove(&name);
            removed = removed.and(self.remove_or_note(&mut packages, &name));
        }
        removed
    }

    /// The path of a dependency's copy.
    fn copy_of(&self, name: &Name) -> PathBuf {
        let packages = Vcap::new(self.tree.base()).data_packages();
        packages.join(name.as_str())
    }

    /// Records that all dependencies of a package are in the tree.
    ///
    /// # Errors
    /// One of them cannot be examined.
    pub(super) fn record_dependencies(&self, place: &LandlockPlace) -> Result<(), SandboxError> {
        let copies: Vec<(&Name, DependencyCopy)> = place
            .to_provide
            .iter()
            .map(|name| Ok((name, DependencyCopy::new(Record::of(&self.copy_of(name))?))))
            .collect::<fs::Result<_>>()?;
        let mut packages = self.packages();
        for (name, copy) in copies {
            packages.complete(name, copy);
        }
        drop(packages);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Compares the copies of a package's dependencies with their records, and returns the changed ones.
    pub(super) fn changed_copies(&self, place: &LandlockPlace) -> Vec<ReplacedCopy> {
        let packages = self.packages();
        packages.changed(&place.dependencies, |name| self.copy_of(name))
    }

    fn temporary(&self, package: &Name) -> PathBuf {
        self.tree.temporary().join(package.as_str())
    }

    fn make_temporary(&self, package: &Name) -> Result<(), SandboxError> {
        let directory = self.temporary(package);
        fs::create_dir_all(&directory)?;
        Ok(fs::set_mode(&directory, 0o1777)?)
    }

    /// Removes the package's directories. With rules, complete copies of dependencies stay for the next package.
    pub(super) fn leave(&self, place: &LandlockPlace) -> Result<(), SandboxError> {
        let mut removed = self.release(&place.private.leave());
        if let Admitted::Alone(_) = place.admitted {
            // Clear the whole tree. This also restores the directories that contain packages, which the script may have removed.
            let cleared = self.clear_for(&[]);
            if cleared.is_err() {
                let mut packages = self.packages();
                let names = std::iter::once(&place.package).chain(&place.dependencies);
                for name in names {
                    packages.note_left(name);
                }
            }
            return removed.and(cleared);
        }
        let mut packages = self.packages();
        packages.remove(&place.package);
        removed = removed.and(self.remove_or_note(&mut packages, &place.package));
        for name in &place.dependencies {
            if packages.release(name, self.has_rules) {
                removed = removed.and(self.remove_or_note(&mut packages, name));
            }
        }
        drop(packages);
        self.changed.notify_waiters();
        removed
    }

    /// Removes all directories of a package. If this fails, notes the package: its directories are removed before the name is used again.
    fn remove_or_note(
        &self,
        packages: &mut PackagesInTree,
        name: &Name,
    ) -> Result<(), SandboxError> {
        let removed = self.tree.remove(name);
        let removed = removed.and_then(|()| self.tree.remove_temporary(name));
        if removed.is_err() {
            packages.note_left(name);
        }
        Ok(removed?)
    }

    /// Removes the directories that this run created.
    pub(super) fn close(&self) -> Result<(), SandboxError> {
        self.tree.close()
    }
}

impl LandlockPlace {
    /// Whether this dependency of the package was already in the tree when the package entered.
    pub(super) fn has(&self, dependency: &Name) -> bool {
        !self.to_provide.contains(dependency)
    }

    /// Copies of dependencies that were removed before the package started, because scripts had changed them.
    pub(super) fn replaced(&self) -> &[ReplacedCopy] {
        &self.replaced
    }

    /// Whether the script gets rules.
    pub(super) fn has_rules(&self) -> bool {
        self.has_rules
    }
}
