//! The schedule of a call's packages, for compiling them and for predicting how that proceeds.

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

/// The schedule of packages, each with how it is made and how long it is expected to take. Its ids are equal to the nodes' ids.
pub(super) fn schedule<'a>(
    packages: impl Iterator<Item = (&'a PackageNode, Origin, Expected)>,
    is_shared: bool,
    jobs: NonZeroUsize,
) -> Schedule {
    let mut schedule = Schedule::new(is_shared);
    let mut ids: Vec<compile::Id> = Vec::new();
    for (node, origin, expected) in packages {
        let dependencies = node.dependencies.iter().map(|it| ids[it.index()]).collect();
        ids.push(schedule.add(compile::Package {
            name: node.package().name().clone(),
            version: node.package().version().clone(),
            origin,
            dependencies,
            // With one job, the order does not change the total time: packages run in the order of the manifest.
            expected: match jobs {
                NonZeroUsize::MIN => Duration::ZERO,
                _ => expected.time,
            },
        }));
    }
    schedule
}
