//! The packages that are compiled on other machines. Pure.

use std::path::PathBuf;
use std::time::Duration;

use super::common::KnownFile;
use crate::compile::{self, Graph, Id};
use crate::release::{Name, Version};

/// A package of a plan.
#[derive(Debug)]
pub(crate) struct PlannedPackage {
    pub name: Name,
    pub version: Version,
    pub supply: Supply,
    /// The direct dependencies, which were added to the plan before.
    pub dependencies: Vec<Id>,
    /// The expected time of the compilation, for the order of the packages.
    pub expected: Duration,
}

/// Where a package comes from.
#[derive(Debug)]
pub(crate) enum Supply {
    /// Compile the package from this source, and download the compiled package and the log to these
    /// paths. Their directories exist.
    Source {
        source: KnownFile,
        blob: PathBuf,
        log: PathBuf,
    },
    /// Use this compiled package.
    Compiled(KnownFile),
}

/// The packages to compile.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(super) graph: Graph,
    pub(super) packages: Vec<PlannedPackage>,
}

impl Plan {
    /// Adds a package.
    pub(crate) fn add(&mut self, package: PlannedPackage) -> Id {
        let expected = package.expected;
        let id = self.graph.add(&package.dependencies, expected, Vec::new());
        if let Supply::Compiled(_) = package.supply {
            self.graph.set_supply(id, compile::Supply::Here);
        }
        self.packages.push(package);
        id
    }
}
