//! Runs one inspection: reads the files, and makes all requested checks.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::finding::Findings;
use super::inspection::{Inspection, Source};
use super::read::{self, Contents, Damage};
use super::rules::{self, Rule};
use super::stemcell::Target;
use super::{check, manifest, source};
use crate::archive::Compression;
use crate::diag::Chain;
use crate::offline::{OpenError, is_wrong_path, manifest_of, shown};
use crate::release::{Manifest, Slug};

/// What to inspect, and which optional checks to make.
#[derive(Debug)]
pub struct Request {
    /// The path of the release tarball.
    pub tarball: PathBuf,
    /// If set, the inspection also checks whether a Director would use the release's packages on this stemcell.
    pub stemcell: Option<Slug>,
    /// If set, the inspection also checks whether the release was compiled from this source release.
    pub source: Option<PathBuf>,
}

/// The error for a file of a [`Request`] that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to inspect `{}`", tarball.display())]
pub struct InspectError {
    /// The path of the file.
    pub tarball: PathBuf,
    /// Why the file cannot be read.
    source: OpenError,
}

impl InspectError {
    /// Whether the user gave a wrong path. If `false`, the file could not be read.
    #[must_use]
    pub fn is_wrong_path(&self) -> bool {
        match &self.source {
            OpenError::Files(error) => is_wrong_path(error),
            OpenError::Decode(_) | OpenError::Read(_) => false,
            _ => true,
        }
    }
}

/// Inspects a release.
///
/// # Errors
/// If a file cannot be opened or read. Problems with its contents are findings, not errors.
pub fn inspect(request: Request) -> Result<Inspection, InspectError> {
    let mut findings = Findings::default();
    let contents = read::read(&request.tarball).map_err(|source| InspectError {
        tarball: request.tarball.clone(),
        source,
    })?;
    check_tarball(&contents, &mut findings);
    let text = contents.manifest.as_deref();
    let manifest = text.and_then(|text| manifest::parse(text, &mut findings));
    if let Some(manifest) = &manifest {
        check_compression(manifest, &contents, &mut findings);
        check::check(manifest, &contents, &mut findings);
    }
    let target = match (&manifest, &request.stemcell) {
        (Some(manifest), Some(stemcell)) => Some(Target::new(manifest, stemcell, &mut findings)),
        _ => None,
    };
    let source = match (&manifest, request.source) {
        (Some(manifest), Some(source)) => Some(compare_with_source(
            manifest,
            &contents,
            source,
            &mut findings,
        )?),
        (None, Some(tarball)) => {
            let manifest = read_source(&tarball, &mut findings)?;
            let text = "the inspected release has no valid release.MF";
            findings.add(&rules::NOT_COMPARABLE, text);
            Some(Source {
                tarball,
                manifest,
                matches: false,
            })
        }
        (_, None) => None,
    };
    Ok(Inspection {
        tarball: request.tarball,
        contents,
        manifest,
        target,
        source,
        findings: findings.finish(),
    })
}

/// Reports problems with a tarball that do not depend on the manifest.
fn check_tarball(contents: &Contents, findings: &mut Findings) {
    match &contents.damage {
        None => {}
        Some(Damage::TooManyEntries) => findings.add(
            &rules::TOO_MANY_ENTRIES,
            "the tarball has more entries than can be inspected",
        ),
        Some(Damage::Unreadable(error)) => findings.add(rule_of(error), Chain(error).to_string()),
    }
    let duplicates = contents.duplicates.iter().map(|path| shown(path));
    let duplicates: Vec<String> = duplicates.collect();
    let text = "several entries of the tarball have the same path";
    findings.add_list(&rules::DUPLICATE_ENTRY, text, &duplicates);
}

fn rule_of(error: &OpenError) -> &'static Rule {
    match error {
        OpenError::Path { .. } => &rules::UNSAFE_PATH,
        OpenError::Lookalike(_) => &rules::NOT_A_RELEASE,
        OpenError::NoManifest(_) => &rules::MANIFEST_MISSING,
        OpenError::OddManifest(_) | OpenError::Manifest(_) => &rules::MANIFEST_INVALID,
        OpenError::Sparse { .. } => &rules::TOO_LARGE,
        OpenError::Link { .. } => &rules::DANGLING_LINK,
        _ => &rules::UNREADABLE_TARBALL,
    }
}

fn check_compression(manifest: &Manifest, contents: &Contents, findings: &mut Findings) {
    let Some(found) = contents.compression else {
        return;
    };
    let is_plain = found == Compression::None;
    if !is_plain && found != Compression::Gzip {
        let text = format!("the tarball is compressed with {found}");
        findings.add(&rules::OUTER_COMPRESSION, text);
    } else if is_plain != manifest.no_compression {
        let verb = if is_plain { "is not" } else { "is" };
        let text = format!(
            "release.MF says `no_compression: {}`, but the tarball {verb} compressed",
            manifest.no_compression
        );
        findings.add(&rules::NO_COMPRESSION_DIFFERS, text);
    }
}

/// Reads the tarball of a source release, and compares a release with it.
fn compare_with_source(
    manifest: &Manifest,
    contents: &Contents,
    tarball: PathBuf,
    findings: &mut Findings,
) -> Result<Source, InspectError> {
    let before = findings.problems();
    let source = read_source(&tarball, findings)?;
    match &source {
        _ if !manifest.packages.is_empty() => findings.add(
            &rules::NOT_COMPARABLE,
            "the inspected release has source packages",
        ),
        Some(source) if source.compiled_packages.is_some() => findings.add(
            &rules::NOT_COMPARABLE,
            format!("`{}` is not a source release", tarball.display()),
        ),
        Some(source) => source::compare(manifest, contents, source, findings),
        None => {}
    }
    Ok(Source {
        tarball,
        manifest: source,
        matches: findings.problems() == before,
    })
}

/// Reads the manifest of a source release. Reports an invalid manifest as a finding, and returns `None`.
fn read_source(tarball: &Path, findings: &mut Findings) -> Result<Option<Manifest>, InspectError> {
    match manifest_of(tarball, &CancellationToken::new()) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(error) if read::is_caused_by_contents(&error) => {
            let problem = match &error {
                OpenError::Manifest(problems) => problems.first(),
                _ => None,
            };
            let problem = problem.map_or_else(String::new, |it| format!(": {}", Chain(it)));
            let text = format!("`{}`: {}{problem}", tarball.display(), Chain(&error));
            findings.add(&rules::SOURCE_UNREADABLE, text);
            Ok(None)
        }
        Err(source) => Err(InspectError {
            tarball: tarball.to_owned(),
            source,
        }),
    }
}
