//! The result of an inspection.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::finding::Finding;
use super::read::Contents;
use super::rules::Severity;
use super::stemcell::Target;
use crate::release::Manifest;

/// The result of an inspection.
#[derive(Debug)]
pub struct Inspection {
    pub(super) tarball: PathBuf,
    pub(super) contents: Contents,
    /// The manifest; `None` if it is missing or invalid.
    pub(super) manifest: Option<Manifest>,
    /// Whether a Director would use the packages on the stemcell of the request.
    pub(super) target: Option<Target>,
    /// The comparison with the source release of the request.
    pub(super) source: Option<Source>,
    pub(super) findings: Vec<Finding>,
}

/// A source release, and whether the inspected release was compiled from it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) tarball: PathBuf,
    /// The manifest of the source release; `None` if it could not be read.
    pub(super) manifest: Option<Manifest>,
    pub(super) matches: bool,
}

impl Inspection {
    /// Whether the release has no problems. It may have notes.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.count(Severity::Problem) == 0
    }

    pub(super) fn count(&self, severity: Severity) -> usize {
        let findings = self.findings.iter();
        findings.filter(|it| it.rule.severity == severity).count()
    }

    /// The stemcells for which the packages were compiled.
    pub(super) fn stemcells(&self) -> Vec<String> {
        let manifest = self.manifest.iter();
        let packages = manifest.flat_map(|it| it.compiled_packages.iter().flatten());
        let stemcells: BTreeSet<String> = packages.map(|it| it.stemcell.to_string()).collect();
        stemcells.into_iter().collect()
    }

    /// The kind of the release: `source`, `compiled` or `mixed`. `None` without a valid manifest.
    pub(super) fn kind(&self) -> Option<&'static str> {
        let manifest = self.manifest.as_ref()?;
        Some(
            match (&manifest.compiled_packages, &manifest.packages[..]) {
                (None, _) => "source",
                (Some(_), []) => "compiled",
                (Some(_), [..]) => "mixed",
            },
        )
    }
}
