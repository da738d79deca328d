//! What a packaging script may see, and the child that owns its processes.
//!
//! A sandbox is chosen once at the start. For each package it gives a [`Place`]: the root below which the package's
//! directories lie on this side, and the [`View`] that its script has of them. With `--isolation=namespace` the root is in the
//! work directory and is mounted over the base directory for that script alone ([`Namespaces`]); with `--isolation=none` it is
//! the base directory itself ([`SharedTree`]), so only one package is in it at a time.
//!
//! Every `unsafe` of the crate lives here.

mod child;
mod error;
mod init;
mod mounts;
mod namespace;
mod script;
mod shared_tree;
mod spec;
mod sys;
mod users;

pub use child::{ARGUMENT as CHILD_ARGUMENT, main as child_main};
pub use error::SandboxError;
pub(crate) use namespace::PROCESSES;
pub use namespace::{Namespaces, Wishes};
pub use script::{Script, ScriptEnd, run};
pub use shared_tree::SharedTree;
pub use spec::{Mounted, Report, Spec, Step, StepError, View, Writes};
pub use users::{
    Entry, Users, enter as enter_user_namespace, enter_if_needed as enter_user_namespace_if_needed,
};

use std::path::{Path, PathBuf};

use crate::config::Vcap;
use crate::release::Name;
use namespace::NamespacePlace;

/// How packages are kept apart.
#[derive(Debug)]
pub enum Sandbox {
    /// Each in its own namespaces (`--isolation=namespace`).
    Namespaces(Namespaces),
    /// In place, one package after another (`--isolation=none`).
    Shared(SharedTree),
}

/// Where one package compiles, as seen from this side.
#[derive(Debug)]
pub struct Place {
    root: PathBuf,
    namespace: Option<NamespacePlace>,
}

impl Place {
    /// The tree in which to make the package's directories. Inside the sandbox it is found at the base directory.
    #[must_use]
    pub fn vcap(&self) -> Vcap {
        Vcap::new(&self.root)
    }
}

impl Sandbox {
    /// Makes room for one package and its dependencies, whose names are given: nothing of another one is seen there.
    ///
    /// # Errors
    /// When the tree cannot be made or cleared.
    pub fn enter(&self, names: &[Name]) -> Result<Place, SandboxError> {
        match self {
            Self::Namespaces(namespaces) => {
                let place = namespaces.enter()?;
                Ok(Place {
                    root: namespaces.root(&place),
                    namespace: Some(place),
                })
            }
            Self::Shared(tree) => {
                tree.clear_for(names)?;
                Ok(Place {
                    root: tree.base().to_owned(),
                    namespace: None,
                })
            }
        }
    }

    /// Makes ready that a dependency is where the script will look for it. A shared tree gets a copy of its own each time,
    /// for the script there can write to it; elsewhere the sealed tree is mounted when the script starts.
    ///
    /// # Errors
    /// When it cannot be put there.
    pub fn provide(&self, sealed: &Path, install: &Path) -> Result<(), SandboxError> {
        match self {
            Self::Namespaces(_) => Namespaces::provide(install),
            Self::Shared(_) => Ok(crate::fs::copy_tree(sealed, install)?),
        }
    }

    /// The file that a script's parent keeps locked as long as a process of the script lives.
    #[must_use]
    pub fn hold(&self) -> PathBuf {
        match self {
            Self::Namespaces(namespaces) => namespaces.hold(),
            Self::Shared(tree) => tree.marker(),
        }
    }

    /// The view that the script in a place has. Dependencies: sealed tree and install directory.
    #[must_use]
    pub fn view(&self, place: &Place, dependencies: &[(PathBuf, PathBuf)]) -> Option<View> {
        match (self, &place.namespace) {
            (Self::Namespaces(namespaces), Some(place)) => {
                Some(namespaces.view(place, dependencies))
            }
            _ => None,
        }
    }

    /// Removes everything of the package, after its end, good or bad.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn leave(&self, place: Place) -> Result<(), SandboxError> {
        match (self, place.namespace) {
            (Self::Namespaces(namespaces), Some(place)) => namespaces.leave(&place),
            (Self::Shared(tree), _) => Ok(tree.clear()?),
            (Self::Namespaces(_), None) => Ok(()),
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
            Self::Shared(tree) => tree.close(),
        }
    }
}
