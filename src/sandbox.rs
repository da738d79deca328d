//! What a packaging script may see, and the child that owns its processes.
//!
//! A sandbox is chosen once at the start. For each package it gives a [`Place`]: the root below which the package's
//! directories lie on this side, and what else the script's child needs ([`Spec`]). With `--isolation=none` that root is the
//! base directory itself ([`SharedTree`]), so only one package is in it at a time.
//!
//! Every `unsafe` of the crate lives here.

mod child;
mod error;
mod script;
mod shared_tree;
mod spec;

pub use child::{ARGUMENT as CHILD_ARGUMENT, main as child_main};
pub use error::SandboxError;
pub use script::{Script, ScriptEnd, run};
pub use shared_tree::SharedTree;
pub use spec::{Report, Spec, StepError};

use std::path::{Path, PathBuf};

use crate::config::Vcap;

/// How packages are kept apart.
#[derive(Debug)]
pub enum Sandbox {
    /// In place, one package after another (`--isolation=none`).
    Shared(SharedTree),
}

/// Where one package compiles, as seen from this side.
#[derive(Debug)]
pub struct Place {
    root: PathBuf,
}

impl Place {
    /// The tree in which to make the package's directories. Inside the sandbox it is found at the base directory.
    #[must_use]
    pub fn vcap(&self) -> Vcap {
        Vcap::new(&self.root)
    }
}

impl Sandbox {
    /// How many packages may be in it at a time.
    #[must_use]
    pub fn capacity(&self) -> usize {
        match self {
            Self::Shared(_) => 1,
        }
    }

    /// Makes room for one package: nothing of another one is seen there.
    ///
    /// # Errors
    /// When the tree cannot be cleared.
    pub fn enter(&self) -> Result<Place, SandboxError> {
        match self {
            Self::Shared(tree) => {
                tree.clear()?;
                Ok(Place {
                    root: tree.base().to_owned(),
                })
            }
        }
    }

    /// Puts a dependency where the script will find it. A shared tree gets a copy of its own each time, for the script
    /// there can write to it.
    ///
    /// # Errors
    /// When it cannot be put there.
    pub fn provide(&self, sealed: &Path, install: &Path) -> Result<(), SandboxError> {
        match self {
            Self::Shared(_) => Ok(crate::fs::copy_tree(sealed, install)?),
        }
    }

    /// Removes everything of the package, after its end, good or bad.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn leave(&self, place: Place) -> Result<(), SandboxError> {
        match self {
            Self::Shared(tree) => {
                drop(place);
                Ok(tree.clear()?)
            }
        }
    }

    /// Takes the whole sandbox down: what this run made is gone afterwards.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn close(self) -> Result<(), SandboxError> {
        match self {
            Self::Shared(tree) => tree.close(),
        }
    }
}
