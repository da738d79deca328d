//! What a packaging script may see, and the child that owns its processes.
//!
//! A sandbox is chosen once at the start. For each package it gives a [`Place`]: the root below which the package's
//! directories lie on this side, and confines its script to it. With `--isolation=namespace` and `--isolation=userns` the root
//! is in the work directory and is mounted over the base directory for that script alone ([`Namespaces`]); with
//! `--isolation=landlock` it is the base directory itself, in which each script reaches its own only ([`Landlocked`]); with
//! `--isolation=none` it is that, too, and only one package is in it at a time ([`SharedTree`]).
//!
//! Every `unsafe` of the crate lives here.

mod child;
mod error;
mod init;
mod landlock;
mod landlocked;
mod left_mounts;
mod locked;
mod mount;
mod mount_view;
mod named;
mod namespace;
mod own_proc;
mod progress;
mod protect;
mod rules;
mod scratch;
mod script;
mod server;
mod shared_tree;
mod spec;
mod start;
mod step;
mod sys;
mod users;
mod view;
mod wait;
mod watch;
mod wire;

pub use error::SandboxError;
pub use landlocked::{Landlocked, ReplacedCopy};
pub(crate) use namespace::PROCESSES;
pub use namespace::{Namespaces, Wishes};
pub use own_proc::{has_proc, mount_proc_before_threads};
pub use rules::{Closed, Rules, closed};
pub use scratch::{Scratch, Sharing};
pub use script::{Script, ScriptEnd, run, run_holding};
pub use server::main as server_main;
pub use shared_tree::SharedTree;
pub use spec::{Report, Spec};
pub use step::{Step, StepError};
pub(crate) use sys::{
    default_signals, inherit_no_descriptors, set_variable_before_threads,
    shorten_slices_before_threads,
};
pub use users::{
    Entry, Users, enter as enter_user_namespace, enter_if_needed as enter_user_namespace_if_needed,
    highest_owner,
};
pub use view::{Mounted, Protection, View, Writes};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::config::{PackagePaths, Vcap};
use crate::release::Name;
use landlocked::LandlockPlace;
use namespace::NamespacePlace;

/// How packages are kept apart.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a run has one of them, and it is not moved while packages compile"
)]
pub enum Sandbox {
    /// Each in its own namespaces (`--isolation=namespace`, `--isolation=userns`).
    Namespaces(Namespaces),
    /// In place, several at a time, by rules on what a script may reach (`--isolation=landlock`).
    Landlocked(Landlocked),
    /// In place, one package after another (`--isolation=none`).
    Shared(SharedTree),
}

/// Where one package compiles, as seen from this side. Who has it gives it back by [`Sandbox::leave`] and drops it; until
/// both is done others may have to wait.
#[derive(Debug)]
pub struct Place {
    root: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Namespace(NamespacePlace),
    Landlock(LandlockPlace),
    Shared {
        #[expect(dead_code, reason = "held")]
        turn: OwnedMutexGuard<()>,
        /// Directories beside those of packages that are removed with the package.
        private: Mutex<Vec<Name>>,
    },
}

impl Place {
    /// The tree in which to make the package's directories. Inside the sandbox it is found at the base directory.
    #[must_use]
    pub fn vcap(&self) -> Vcap {
        Vcap::new(&self.root)
    }

    /// Whether the script is kept from something that the Go agent allows, so that it may succeed where nothing is: see
    /// [`Sandbox::enter_alone`].
    #[must_use]
    pub fn is_restricted(&self) -> bool {
        match &self.kind {
            Kind::Landlock(place) => Landlocked::restricts(place),
            Kind::Namespace(_) | Kind::Shared { .. } => false,
        }
    }

    /// Copies of dependencies that other packages had, and that were removed because somebody had changed them.
    #[must_use]
    pub fn replaced(&self) -> &[ReplacedCopy] {
        match &self.kind {
            Kind::Landlock(place) => Landlocked::replaced(place),
            Kind::Namespace(_) | Kind::Shared { .. } => &[],
        }
    }

    /// Whether a dependency is there already, put there for another package. Otherwise it is to be made ready by
    /// [`Sandbox::provide`].
    #[must_use]
    pub fn has(&self, dependency: &Name) -> bool {
        match &self.kind {
            Kind::Landlock(place) => Landlocked::has(place, dependency),
            Kind::Namespace(_) | Kind::Shared { .. } => false,
        }
    }
}

impl Sandbox {
    /// Whether packages that are compiled at the same time see one tree, with each other's names in it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Namespaces(_) => false,
            Self::Landlocked(_) | Self::Shared(_) => true,
        }
    }

    /// Whether a package can be in it while another one is. Where it cannot, [`enter`](Self::enter) makes them wait for each
    /// other.
    #[must_use]
    pub fn takes_several(&self) -> bool {
        match self {
            Self::Namespaces(_) | Self::Landlocked(_) => true,
            Self::Shared(_) => false,
        }
    }

    /// Where the scratch directory of a name is on this side, there or not. `None` where packages share none.
    #[must_use]
    pub fn scratch_directory(&self, name: &Name) -> Option<PathBuf> {
        match self {
            Self::Namespaces(namespaces) => namespaces.scratch_directory(name),
            Self::Landlocked(landlocked) => landlocked.tree().scratch_directory(name),
            Self::Shared(tree) => tree.scratch_directory(name),
        }
    }

    /// Makes room for one package and its dependencies, given by name and sealed tree. Waits as long as another package that
    /// is being compiled is in the way: every other one in a shared tree, or, with rules, one that has one of the names with
    /// other contents. `scratch` names the scratch directories that the package has with others.
    ///
    /// Cancel-safe: nothing is taken before it returns.
    ///
    /// # Errors
    /// When the tree cannot be made or cleared.
    pub async fn enter(
        &self,
        package: &Name,
        dependencies: &[(Name, PathBuf)],
        scratch: &[Name],
    ) -> Result<Place, SandboxError> {
        match self {
            Self::Namespaces(namespaces) => {
                let place = namespaces.enter(false, scratch)?;
                Ok(Place {
                    root: namespaces.root(&place),
                    kind: Kind::Namespace(place),
                })
            }
            Self::Landlocked(landlocked) => Ok(Place {
                root: landlocked.tree().base().to_owned(),
                kind: Kind::Landlock(landlocked.enter(package, dependencies, scratch).await?),
            }),
            Self::Shared(tree) => {
                let turn = tree.turn().await;
                let names: Vec<Name> = std::iter::once(package)
                    .chain(dependencies.iter().map(|(name, _)| name))
                    .cloned()
                    .collect();
                tree.clear_for(&names)?;
                let mut private = Vec::new();
                if tree.shares_scratch() {
                    tree.share(scratch)?;
                } else {
                    for name in scratch {
                        // As on a VM where nothing was compiled before.
                        if tree.make_private(name, false)? {
                            private.push(name.clone());
                        }
                    }
                }
                Ok(Place {
                    root: tree.base().to_owned(),
                    kind: Kind::Shared {
                        turn,
                        private: Mutex::new(private),
                    },
                })
            }
        }
    }

    /// Says that a package's script has ended and that it will [`enter_alone`](Self::enter_alone). Returns for how many others
    /// that will have to wait.
    #[must_use]
    pub fn step_aside(&self, place: &Place) -> usize {
        match (self, &place.kind) {
            (Self::Landlocked(landlocked), Kind::Landlock(place)) => landlocked.step_aside(place),
            _ => 0,
        }
    }

    /// As [`enter`](Self::enter), but with no restriction on the script, and with no other script running where that takes
    /// it. The place that the package had before is to be given back first. `waits` hears for how many others this waits,
    /// whenever that changes.
    ///
    /// # Errors
    /// When the tree cannot be made or cleared.
    pub async fn enter_alone(
        &self,
        package: &Name,
        dependencies: &[(Name, PathBuf)],
        scratch: &[Name],
        waits: &(dyn Fn(usize) + Send + Sync),
    ) -> Result<Place, SandboxError> {
        match self {
            Self::Landlocked(landlocked) => Ok(Place {
                root: landlocked.tree().base().to_owned(),
                kind: Kind::Landlock(
                    landlocked
                        .enter_alone(package, dependencies, scratch, waits)
                        .await?,
                ),
            }),
            Self::Namespaces(_) | Self::Shared(_) => {
                self.enter(package, dependencies, scratch).await
            }
        }
    }

    /// As [`enter`](Self::enter), but with copies of dependencies on the file system of the package's own directories, where
    /// `enter` has them mounted. The place that the package had before is to be given back first.
    ///
    /// # Errors
    /// When the tree cannot be made or cleared.
    pub async fn enter_with_copies(
        &self,
        package: &Name,
        dependencies: &[(Name, PathBuf)],
        scratch: &[Name],
    ) -> Result<Place, SandboxError> {
        match self {
            Self::Namespaces(namespaces) => {
                let place = namespaces.enter(true, scratch)?;
                Ok(Place {
                    root: namespaces.root(&place),
                    kind: Kind::Namespace(place),
                })
            }
            Self::Landlocked(_) | Self::Shared(_) => {
                self.enter(package, dependencies, scratch).await
            }
        }
    }

    /// Whether the script in a place may fail at a link or a rename because its dependencies are mounted, so that it may succeed
    /// where they are copies: see [`enter_with_copies`](Self::enter_with_copies).
    #[must_use]
    pub fn mounts_dependencies(&self, place: &Place) -> bool {
        match (self, &place.kind) {
            (Self::Namespaces(namespaces), Kind::Namespace(place)) => namespaces.restricts(place),
            _ => false,
        }
    }

    /// Whether the dependencies in a place are copies, which the script may have changed. Otherwise they are mounted when it starts.
    #[must_use]
    pub fn has_copies(&self, place: &Place) -> bool {
        match &place.kind {
            Kind::Namespace(place) => place.copies,
            Kind::Landlock(_) | Kind::Shared { .. } => true,
        }
    }

    /// Makes a dependency available where the script will look for it. A shared tree gets a copy, for the script there can
    /// change it; elsewhere the sealed tree is mounted when the script starts.
    ///
    /// # Errors
    /// When it cannot be put there, and when `stop` says so before it is.
    pub fn provide(
        &self,
        place: &Place,
        sealed: &Path,
        install: &Path,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), SandboxError> {
        match &place.kind {
            Kind::Namespace(place) => Namespaces::provide(place, sealed, install, stop),
            Kind::Landlock(_) | Kind::Shared { .. } => {
                Ok(crate::fs::copy_tree_until(sealed, install, stop)?)
            }
        }
    }

    /// Says that all dependencies of a package are where they should be, links included.
    ///
    /// # Errors
    /// When one of them cannot be examined.
    pub fn provided(&self, place: &Place) -> Result<(), SandboxError> {
        match (self, &place.kind) {
            (Self::Landlocked(landlocked), Kind::Landlock(place)) => landlocked.provided(place),
            _ => Ok(()),
        }
    }

    /// Gives a package the directories of these names in the data directory, to itself and until it is left. Where the tree is
    /// private anyway there is nothing to do; where several packages are in it at a time this waits for those that have one of
    /// the names. What is there already stays as it is.
    ///
    /// Cancel-safe: nothing is taken before it returns.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub async fn claim(&self, place: &Place, names: &BTreeSet<Name>) -> Result<(), SandboxError> {
        match (self, &place.kind) {
            (Self::Landlocked(landlocked), Kind::Landlock(place)) => {
                landlocked.claim(place, names).await
            }
            (Self::Shared(tree), Kind::Shared { private, .. }) => {
                let mut private = private.lock().unwrap_or_else(PoisonError::into_inner);
                for name in names {
                    // Nothing keeps the script from making it, so only its removal is ours.
                    if tree.make_private(name, false)? {
                        private.push(name.clone());
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Lets a script into the directories that its package has [claimed](Self::claim).
    pub fn open(&self, place: &Place, script: &mut Script) {
        if let (Self::Landlocked(landlocked), Kind::Landlock(place)) = (self, &place.kind) {
            landlocked.open(place, script);
        }
    }

    /// Removes what scripts have left in shared scratch directories. No script may be running. `false` where there was nothing.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn discard_scratch(&self) -> crate::fs::Result<bool> {
        match self {
            Self::Namespaces(namespaces) => namespaces.discard_scratch(),
            Self::Landlocked(landlocked) => landlocked.tree().discard_scratch(),
            Self::Shared(tree) => tree.discard_scratch(),
        }
    }

    /// The file that a script's parent keeps locked as long as a process of the script lives.
    #[must_use]
    pub fn hold(&self) -> PathBuf {
        match self {
            Self::Namespaces(namespaces) => namespaces.hold(),
            Self::Landlocked(landlocked) => landlocked.tree().marker(),
            Self::Shared(tree) => tree.marker(),
        }
    }

    /// Confines a script to its place. Dependencies: sealed tree and paths.
    pub fn confine(
        &self,
        place: &Place,
        script: &mut Script,
        own: &PackagePaths,
        dependencies: &[(&Path, &PackagePaths)],
    ) {
        match (self, &place.kind) {
            (Self::Namespaces(namespaces), Kind::Namespace(place)) => {
                let mounted: Vec<(&Path, &Path)> = dependencies
                    .iter()
                    .map(|(sealed, paths)| (*sealed, paths.install.as_path()))
                    .collect();
                let view = namespaces.view(place, &mounted, &script.environment);
                script.spec.view = Some(view);
            }
            (Self::Landlocked(landlocked), Kind::Landlock(place)) => {
                let dependencies: Vec<&PackagePaths> =
                    dependencies.iter().map(|(_, paths)| *paths).collect();
                landlocked.confine(place, script, own, &dependencies);
            }
            _ => {}
        }
    }

    /// Checks that a script that has ended left the directories above its own as they were, so that what is taken from them is its
    /// own.
    ///
    /// # Errors
    /// [`SandboxError::Replaced`] where it put something else in the place of one.
    pub fn check(&self, place: &Place) -> Result<(), SandboxError> {
        match (self, &place.kind) {
            (Self::Namespaces(namespaces), Kind::Namespace(place)) => namespaces.check(place),
            (Self::Landlocked(landlocked), _) => landlocked.tree().check(),
            (Self::Shared(tree), _) => tree.check(),
            // A place of another sandbox.
            (Self::Namespaces(_), _) => Ok(()),
        }
    }

    /// Takes the directories of a package out of use because processes of its script cannot be killed: they may change them at any
    /// time, so nobody waits for their removal. Returns where they are then, where that worked.
    #[must_use]
    pub fn set_aside(&self, place: &Place, paths: &PackagePaths) -> Option<PathBuf> {
        match (self, &place.kind) {
            (Self::Namespaces(namespaces), Kind::Namespace(place)) => {
                Some(namespaces.set_aside(place))
            }
            (Self::Landlocked(landlocked), _) => landlocked.tree().set_aside(paths),
            (Self::Shared(tree), _) => tree.set_aside(paths),
            // A place of another sandbox.
            (Self::Namespaces(_), _) => None,
        }
    }

    /// Removes everything of the package, after its end, good or bad.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn leave(&self, place: &Place) -> Result<(), SandboxError> {
        match (self, &place.kind) {
            (Self::Namespaces(namespaces), Kind::Namespace(place)) => namespaces.leave(place),
            (Self::Landlocked(landlocked), Kind::Landlock(place)) => landlocked.leave(place),
            (Self::Shared(tree), Kind::Shared { private, .. }) => {
                let mut private = private.lock().unwrap_or_else(PoisonError::into_inner);
                tree.remove_beside(&std::mem::take(&mut *private))?;
                Ok(tree.clear()?)
            }
            // A place of another sandbox.
            (Self::Namespaces(_) | Self::Landlocked(_) | Self::Shared(_), _) => Ok(()),
        }
    }

    /// Takes the whole sandbox down: what this run made is gone afterwards.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn close(self) -> Result<(), SandboxError> {
        match self {
            Self::Namespaces(namespaces) => {
                namespaces.close();
                Ok(())
            }
            Self::Landlocked(landlocked) => landlocked.close(),
            Self::Shared(tree) => tree.close(),
        }
    }
}
