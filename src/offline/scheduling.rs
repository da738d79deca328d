//! Builds the schedule of a run's packages, for compiling them and for predicting the times.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::durations::{Durations, Expected, Measured};
use super::graph::PackageNode;
use crate::compile::{self, Origin, Schedule};

/// How long each package is expected to take, in the order of `nodes`.
pub(super) fn expected<'a>(
    nodes: impl Iterator<Item = &'a PackageNode>,
    durations: &Durations,
) -> Vec<Expected> {
    let measured: Vec<Measured<'_>> = nodes
        .map(|node| {
            let package = node.package();
            Measured {
                name: package.name(),
                version: package.version(),
                bytes: package.blob.size,
            }
        })
        .collect();
    durations.expect(&measured)
}

/// A package of a schedule.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    pub node: &'a PackageNode,
    /// How the package is obtained.
    pub origin: Origin,
    pub expected: Expected,
    /// Whether the package is in the cache, so that it needs no dependencies.
    pub is_cached: bool,
}

/// The schedule of packages. Its ids are equal to the nodes' ids.
pub(super) fn schedule<'a>(
    packages: impl Iterator<Item = Planned<'a>>,
    is_shared: bool,
    jobs: NonZeroUsize,
) -> Schedule {
    let mut schedule = Schedule::new(is_shared);
    let mut ids: Vec<compile::Id> = Vec::new();
    for planned in packages {
        let (package, dependencies) = (planned.node.package(), &planned.node.dependencies);
        let needed = dependencies.iter().filter(|_| !planned.is_cached);
        let dependencies = needed.map(|it| ids[it.index()]).collect();
        ids.push(schedule.add(compile::Package {
            name: package.name().clone(),
            version: package.version().clone(),
            origin: planned.origin,
            dependencies,
            // With one job, the order does not change the total time. Without times, packages run in the order of the manifest.
            expected: match jobs {
                NonZeroUsize::MIN => Duration::ZERO,
                _ if planned.is_cached => Duration::ZERO,
                _ => planned.expected.time,
            },
        }));
    }
    schedule
}
