//! Isolates packaging scripts, and starts each in a child process that ends all processes of the script.
//!
//! A run has one sandbox. For each package it provides a `Place`: the directory in which the agent creates the package's
//! directories. The sandbox confines the script to its place. With `--isolation=namespace` and `--isolation=userns`, the place is in the work
//! directory and is mounted over the base directory for the script alone ([`Namespaces`]). With `--isolation=landlock` it is the base
//! directory itself, where each script can access only its own directories ([`Landlocked`]). With `--isolation=none` it is also the
//! base directory: for one package at a time (`Sequential`) or, with `--jobs` above 1, for several without rules ([`Landlocked`]).
//!
//! All `unsafe` code of the crate is in this module.

mod blocking;
mod child;
mod copy;
mod entering;
mod error;
mod image_root;
mod init;
mod landlock;
mod landlocked;
mod left_mounts;
mod locked;
mod mount;
mod mount_view;
mod named;
mod namespaces;
mod own_proc;
mod path_lookup;
mod place;
mod progress;
mod protect;
mod question;
mod replace;
mod request;
mod rules;
mod scratch;
mod script;
mod seen;
mod sequential;
mod server;
mod shared_tree;
mod spec;
mod start;
mod step;
mod stop_signals;
mod sys;
mod tier;
mod users;
mod view;
mod wait;
mod waits;
mod watch;
mod wire;

pub(crate) use copy::CopyEnd;
pub(crate) use error::SandboxError;
pub use landlocked::Landlocked;
pub(crate) use landlocked::ReplacedCopy;
pub(crate) use namespaces::PROCESSES;
pub use namespaces::{NamespaceOptions, Namespaces};
pub(crate) use own_proc::{has_proc, mount_proc_before_threads};
pub(crate) use path_lookup::{LOOKUP_LIMIT, LookupError, PathLookup};
pub(crate) use place::Place;
pub(crate) use question::FileKind;
pub(crate) use replace::replace_this_process;
pub(crate) use rules::{Closed, Rules};
pub(crate) use scratch::Sharing;
pub use script::{Script, run};
pub(crate) use script::{run_holding, run_on_terminal};
pub(crate) use seen::{SeenPath, SeenPaths};
pub(crate) use server::main as server_main;
pub use shared_tree::SharedTree;
pub(crate) use shared_tree::SilentMount;
pub use spec::{Report, ScriptEnd, Spec};
#[cfg(test)]
pub(crate) use step::{Step, StepError};
pub(crate) use stop_signals::{
    end_at_stop_signals, leave_stop_signals_to_tasks, note_stop_signals,
};
pub(crate) use sys::{
    default_signals, inherit_no_descriptors, set_variable_before_threads,
    shorten_slices_before_threads,
};
pub use tier::Isolation;
pub(crate) use tier::{Tier, TierOptions, check_mounts};
pub(crate) use users::highest_owner;
pub use users::{UserNamespace, Users, enter as enter_user_namespace};
pub(crate) use view::{Protection, View, Writes};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::PackagePaths;
use crate::fs::ChildDirectory;
use crate::release::Name;
use place::TierPlace;
use sequential::Sequential;

/// How packages are isolated.
#[derive(Debug)]
pub enum Sandbox {
    /// Each package in its own namespaces (`--isolation=namespace`, `--isolation=userns`).
    Namespaces(Arc<Namespaces>),
    /// Several packages at a time in the base directory: with rules for what a script can access (`--isolation=landlock`), or without rules
    /// (`--isolation=none` with `--jobs` above 1).
    Landlocked(Arc<Landlocked>),
    /// One package after another in the base directory (`--isolation=none` with one job).
    Sequential(Arc<Sequential>),
}

impl From<Namespaces> for Sandbox {
    fn from(namespaces: Namespaces) -> Self {
        Self::Namespaces(Arc::new(namespaces))
    }
}

impl From<Landlocked> for Sandbox {
    fn from(landlocked: Landlocked) -> Self {
        Self::Landlocked(Arc::new(landlocked))
    }
}

impl From<SharedTree> for Sandbox {
    fn from(tree: SharedTree) -> Self {
        Self::Sequential(Arc::new(Sequential::new(tree)))
    }
}

impl Sandbox {
    /// Whether packages that are compiled concurrently share one tree, and see each other's names.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Namespaces(_) => false,
            Self::Landlocked(_) | Self::Sequential(_) => true,
        }
    }

    /// Whether several packages can have a place at a time. Otherwise [`enter`](Self::enter) makes them wait for each other.
    #[must_use]
    pub fn allows_several(&self) -> bool {
        match self {
            Self::Namespaces(_) | Self::Landlocked(_) => true,
            Self::Sequential(_) => false,
        }
    }

    /// The name of the isolation tier, as on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Namespaces(namespaces) if namespaces.users().is_some() => "userns",
            Self::Namespaces(_) => "namespace",
            Self::Landlocked(landlocked) if landlocked.has_rules() => "landlock",
            Self::Landlocked(_) | Self::Sequential(_) => "none",
        }
    }

    /// Secrets to which restricted scripts have access nevertheless, because they are in a directory that all scripts use.
    pub(crate) fn exposed_secrets(&self) -> &[PathBuf] {
        match self {
            Self::Landlocked(landlocked) => landlocked.exposed(),
            Self::Namespaces(_) | Self::Sequential(_) => &[],
        }
    }

    /// The name of the isolation tier of a place, as on the command line.
    #[must_use]
    pub fn tier(&self, place: &Place) -> &'static str {
        match self {
            Self::Namespaces(namespaces) if namespaces.users().is_some() => "userns",
            Self::Namespaces(_) => "namespace",
            _ if place.is_restricted() => "landlock",
            _ => "none",
        }
    }

    /// The shared tree, if packages use one.
    pub(crate) fn tree(&self) -> Option<&SharedTree> {
        match self {
            Self::Namespaces(_) => None,
            Self::Landlocked(landlocked) => Some(landlocked.tree()),
            Self::Sequential(sequential) => Some(sequential.tree()),
        }
    }

    /// The path of a scratch directory, which may not exist. `None` if packages share none.
    #[must_use]
    pub fn scratch_directory(&self, name: &Name) -> Option<PathBuf> {
        match self {
            Self::Namespaces(namespaces) => namespaces.scratch_directory(name),
            Self::Landlocked(_) | Self::Sequential(_) => self.tree()?.scratch_directory(name),
        }
    }

    /// A shared scratch directory, to examine it while scripts run. `None` if packages share none, or if the directory above it cannot be
    /// opened.
    pub(crate) fn examinable_scratch(&self, name: &Name) -> Option<ChildDirectory> {
        match self {
            Self::Namespaces(namespaces) => namespaces.examinable_scratch(name),
            Self::Landlocked(_) | Self::Sequential(_) => self.tree()?.examinable_scratch(name),
        }
    }

    /// Whether a script may fail because its dependencies are mounts, across which it cannot link or rename files. It may succeed in a place
    /// of [`enter_with_copies`](Self::enter_with_copies). `false` for read-only dependencies, where such a failure is intended.
    #[must_use]
    pub fn mounts_dependencies(&self, place: &Place) -> bool {
        match (self, &place.tier) {
            (Self::Namespaces(namespaces), TierPlace::Namespace(place)) => {
                namespaces.restricts(place)
            }
            _ => false,
        }
    }

    /// Whether the dependencies in a place are copies, which the script may change. Otherwise they are mounted when it starts.
    #[must_use]
    pub fn has_copies(&self, place: &Place) -> bool {
        match &place.tier {
            TierPlace::Namespace(place) => place.copies,
            TierPlace::Landlock(_) | TierPlace::Sequential(_) => true,
        }
    }

    /// Makes a dependency available in a place. A shared tree gets a copy, because scripts can change it; in namespaces, the sealed
    /// tree is mounted when the script starts.
    ///
    /// # Errors
    /// The dependency cannot be copied, or `stop` returned true.
    pub fn provide(
        &self,
        place: &Place,
        sealed: &Path,
        install: &Path,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), SandboxError> {
        match &place.tier {
            TierPlace::Namespace(place) => Namespaces::provide(place, sealed, install, stop),
            TierPlace::Landlock(_) | TierPlace::Sequential(_) => {
                Ok(crate::fs::copy_tree_until(sealed, install, stop)?)
            }
        }
    }

    /// Records that all dependencies of a package are available, with their links.
    ///
    /// # Errors
    /// A dependency cannot be examined.
    pub fn record_dependencies(&self, place: &Place) -> Result<(), SandboxError> {
        match (self, &place.tier) {
            (Self::Landlocked(landlocked), TierPlace::Landlock(place)) => {
                landlocked.record_dependencies(place)
            }
            _ => Ok(()),
        }
    }

    /// The copies of a package's dependencies that were changed since they were last checked. Blocks. Copies that no other package can use
    /// at the same time are not checked.
    #[must_use]
    pub(crate) fn changed_copies(&self, place: &Place) -> Vec<ReplacedCopy> {
        match (self, &place.tier) {
            (Self::Landlocked(landlocked), TierPlace::Landlock(place)) => {
                landlocked.changed_copies(place)
            }
            _ => Vec::new(),
        }
    }

    /// Reserves directories in the data directory for one package, until it leaves. In a tree with several packages, waits while another
    /// package has reserved one of the names. Existing directories stay as they are.
    ///
    /// Cancel-safe: the directories that were reserved before a cancellation are removed when the package leaves.
    ///
    /// # Errors
    /// A directory cannot be created.
    pub async fn claim(&self, place: &Place, names: &BTreeSet<Name>) -> Result<(), SandboxError> {
        match (self, &place.tier) {
            (Self::Landlocked(landlocked), TierPlace::Landlock(place)) => {
                landlocked.claim(place, names).await
            }
            (Self::Sequential(sequential), TierPlace::Sequential(place)) => {
                sequential.claim(place, names).await
            }
            // A package in namespaces has its own data directory.
            _ => Ok(()),
        }
    }

    /// Gives a script access to the directories that its package has [claimed](Self::claim).
    pub fn open(&self, place: &Place, script: &mut Script) {
        if let (Self::Landlocked(landlocked), TierPlace::Landlock(place)) = (self, &place.tier) {
            landlocked.open(place, script);
        }
    }

    /// Removes copies of dependencies that stay in a shared tree for the next package.
    ///
    /// # Errors
    /// A copy cannot be removed.
    pub fn remove_unused_copies(&self) -> Result<(), SandboxError> {
        match self {
            Self::Landlocked(landlocked) => landlocked.remove_unused_copies(),
            Self::Namespaces(_) | Self::Sequential(_) => Ok(()),
        }
    }

    /// While a shared tree has less free space than `needed`, in bytes, waits until the directories of packages that have left it are
    /// removed: up to a minute, and until `stop`. Blocks.
    pub(crate) fn wait_for_space(&self, needed: u64, stop: &dyn Fn() -> bool) {
        if let Some(tree) = self.tree() {
            tree.wait_for_space(needed, stop);
        }
    }

    /// Removes the content of shared scratch directories while no script runs. Returns `false` if there was nothing to remove.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn discard_scratch(&self) -> crate::fs::Result<bool> {
        match self {
            Self::Namespaces(namespaces) => namespaces.discard_scratch(),
            Self::Landlocked(landlocked) => landlocked.tree().discard_scratch(),
            Self::Sequential(sequential) => sequential.tree().discard_scratch(),
        }
    }

    /// The file that a script's parent keeps locked while the script has processes.
    #[must_use]
    pub fn process_lock(&self) -> PathBuf {
        match self {
            Self::Namespaces(namespaces) => namespaces.process_lock(),
            Self::Landlocked(landlocked) => landlocked.tree().marker(),
            Self::Sequential(sequential) => sequential.tree().marker(),
        }
    }

    /// Confines a script to its place. Dependencies are given as sealed trees and paths.
    pub fn confine(
        &self,
        place: &Place,
        script: &mut Script,
        own: &PackagePaths,
        dependencies: &[(&Path, &PackagePaths)],
    ) {
        match (self, &place.tier) {
            (Self::Namespaces(namespaces), TierPlace::Namespace(place)) => {
                let mounted: Vec<(&Path, &Path)> = dependencies
                    .iter()
                    .map(|(sealed, paths)| (*sealed, paths.install.as_path()))
                    .collect();
                let view = namespaces.view(place, &mounted, &script.environment);
                script.spec.view = Some(view);
            }
            (Self::Landlocked(landlocked), TierPlace::Landlock(place)) => {
                let dependencies: Vec<&PackagePaths> =
                    dependencies.iter().map(|(_, paths)| *paths).collect();
                landlocked.confine(place, script, own, &dependencies);
            }
            _ => {}
        }
    }

    /// Checks that a script has not replaced the directories that contain its own. Otherwise, the agent could pack files of others as its result.
    ///
    /// # Errors
    /// `SandboxError::Replaced` if it has.
    pub fn check(&self, place: &Place) -> Result<(), SandboxError> {
        match (self, &place.tier) {
            (Self::Namespaces(namespaces), TierPlace::Namespace(place)) => namespaces.check(place),
            _ => self.tree().map_or(Ok(()), SharedTree::check),
        }
    }

    /// Stops using the directories of a package, because processes of its script cannot be killed and may change them at any
    /// time. They are not removed with the package. Returns their new path, or `None` if they could not be moved.
    #[must_use]
    pub fn set_aside(&self, place: &Place, paths: &PackagePaths) -> Option<PathBuf> {
        match (self, &place.tier) {
            (Self::Namespaces(namespaces), TierPlace::Namespace(place)) => {
                Some(namespaces.set_aside(place))
            }
            _ => self.tree()?.set_aside(paths),
        }
    }

    /// Removes the directories of a package that was compiled or has failed.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn leave(&self, place: &Place) -> Result<(), SandboxError> {
        match (self, &place.tier) {
            (Self::Namespaces(namespaces), TierPlace::Namespace(place)) => namespaces.leave(place),
            (Self::Landlocked(landlocked), TierPlace::Landlock(place)) => landlocked.leave(place),
            (Self::Sequential(sequential), TierPlace::Sequential(place)) => sequential.leave(place),
            // The place of another sandbox.
            _ => Ok(()),
        }
    }

    /// Removes everything that this run made.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn close(self) -> Result<(), SandboxError> {
        match self {
            Self::Namespaces(namespaces) => {
                namespaces.close();
                Ok(())
            }
            Self::Landlocked(landlocked) => landlocked.close(),
            Self::Sequential(sequential) => sequential.close(),
        }
    }
}
