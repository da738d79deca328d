//! Checks a release's manifest against its tarball. Reports all problems, not only the first.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::checked::{CheckedPackage, CheckedRelease, Listed};
use super::problem::Problem;
use super::tarball::{Blob, Carried, Opened, Role, path_of, shown};
use crate::release::graph;
use crate::release::{Manifest, MultiDigest, Name, Slug};

/// Checks a release. With a stemcell, also checks that the compiled packages are for this stemcell.
///
/// # Errors
/// All problems of the release.
pub(super) fn check(
    opened: Opened,
    stemcell: Option<&Slug>,
) -> Result<CheckedRelease, Vec<Problem>> {
    let manifest = &opened.manifest;
    let listed = listed(manifest);
    let mut problems = Vec::new();
    let mut packages = Vec::new();
    for package in &listed {
        match check_package(&opened, package) {
            Ok(package) => packages.push(Arc::new(package)),
            Err(problem) => problems.push(problem),
        }
        problems.extend(stemcell.and_then(|it| other_stemcell(package, it)));
    }
    for job in &manifest.jobs {
        let role = Role::Job(job.name.to_string());
        let what = format!("job `{}`", job.name);
        problems.extend(find_blob(&opened, &what, &role, &job.digest).err());
    }
    if let Some(license) = &manifest.license {
        let found = find_blob(&opened, "license", &Role::License, &license.digest);
        problems.extend(found.err());
    }
    problems.extend(opened.jobs.problems.iter().cloned());
    problems.extend(extra_packages(&opened, &listed));
    let entries: Vec<graph::PackageNode<'_>> = listed
        .iter()
        .map(|package| (package.name(), package.dependencies()))
        .collect();
    let order = graph::compile_order(&entries);
    if let Err(found) = &order {
        problems.extend(found.iter().cloned().map(Problem::Graph));
    }
    problems.extend(missing_packages_of_jobs(manifest, &listed));
    match order {
        // If there are no problems, every listed package was found, so the indices in the order are those of `packages`.
        Ok(order) if problems.is_empty() => Ok(CheckedRelease {
            packages: order.iter().map(|it| Arc::clone(&packages[*it])).collect(),
            tarball: opened.tarball,
            digests: opened.digests,
            manifest: opened.manifest,
            carried: opened.carried,
        }),
        _ => Err(problems),
    }
}

/// All packages of a manifest: the source packages, then the compiled ones.
pub(crate) fn listed(manifest: &Manifest) -> Vec<Listed> {
    let sources = manifest.packages.iter().cloned().map(Listed::Source);
    let compiled = manifest.compiled_packages.iter().flatten().cloned();
    sources.chain(compiled.map(Listed::Compiled)).collect()
}

fn check_package(opened: &Opened, listed: &Listed) -> Result<CheckedPackage, Problem> {
    let (what, role, digest) = match listed {
        Listed::Source(package) => (
            format!("package `{}`", package.name),
            Role::Package(package.name.to_string()),
            &package.digest,
        ),
        Listed::Compiled(package) => (
            format!("compiled package `{}`", package.name),
            Role::CompiledPackage(package.name.to_string()),
            &package.digest,
        ),
    };
    let (path, blob) = find_blob(opened, &what, &role, digest)?;
    Ok(CheckedPackage {
        listed: listed.clone(),
        path: path.to_owned(),
        blob: blob.clone(),
        reused_from: None,
        replaced: None,
    })
}

fn other_stemcell(listed: &Listed, stemcell: &Slug) -> Option<Problem> {
    match listed {
        Listed::Compiled(package) if package.stemcell != *stemcell => {
            Some(Problem::OtherStemcell {
                package: package.name.clone(),
                theirs: package.stemcell.clone(),
                ours: stemcell.clone(),
            })
        }
        Listed::Compiled(_) | Listed::Source(_) => None,
    }
}

/// The path and the blob of a role, if the blob exists and has the right digest.
fn find_blob<'a>(
    opened: &'a Opened,
    what: &str,
    role: &Role,
    digest: &MultiDigest,
) -> Result<(&'a Path, &'a Blob), Problem> {
    let what = what.to_owned();
    let path = path_of(role);
    match opened.carried.iter().find(|carried| carried.role == *role) {
        None => Err(Problem::MissingBlob { what, path }),
        Some(Carried { blob: None, .. }) => Err(Problem::NotAFile { what, path }),
        Some(Carried {
            blob: Some(blob),
            path: found,
            ..
        }) => match digest.verify(blob.digests.all()) {
            Ok(()) => Ok((found, blob)),
            Err(mismatch) => Err(Problem::Digest {
                what,
                path,
                mismatch,
            }),
        },
    }
}

/// The problems of package blobs that the manifest does not list.
fn extra_packages<'a>(
    opened: &'a Opened,
    listed: &[Listed],
) -> impl Iterator<Item = Problem> + use<'a> {
    let roles: HashSet<Role> = listed
        .iter()
        .map(|package| match package {
            Listed::Source(package) => Role::Package(package.name.to_string()),
            Listed::Compiled(package) => Role::CompiledPackage(package.name.to_string()),
        })
        .collect();
    opened
        .carried
        .iter()
        .filter(|carried| matches!(carried.role, Role::Package(_) | Role::CompiledPackage(_)))
        .filter(move |carried| !roles.contains(&carried.role))
        .map(|carried| Problem::ExtraPackage {
            path: shown(&carried.path),
        })
}

/// The problems of packages that jobs list in the manifest and that the release does not have.
pub(crate) fn missing_packages_of_jobs(manifest: &Manifest, listed: &[Listed]) -> Vec<Problem> {
    let names: HashSet<&Name> = listed.iter().map(Listed::name).collect();
    let mut problems = Vec::new();
    for job in &manifest.jobs {
        for package in job.packages.iter().flatten() {
            if !names.contains(package) {
                problems.push(Problem::JobPackage {
                    job: job.name.clone(),
                    package: package.to_string(),
                });
            }
        }
    }
    problems
}
