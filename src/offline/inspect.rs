//! What a release says of itself against what its tarball holds. Finds every problem, not the first.

use std::collections::HashSet;

use super::jobs::ContentProblem;
use super::open::{Blob, Carried, Opened, Role, shown};
use crate::release::graph::{self, GraphProblem};
use crate::release::{DigestMismatch, Manifest, MultiDigest, Name, Slug};

/// Something that is wrong with a release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The manifest lists something that the tarball does not have.
    #[error("{what}: `{path}` is missing from the tarball")]
    MissingBlob {
        /// What it belongs to.
        what: String,
        /// Where it should be.
        path: String,
    },
    /// There is a directory or a link in the place of a blob.
    #[error("{what}: `{path}` is not a file")]
    NotAFile {
        /// What it belongs to.
        what: String,
        /// Where it is.
        path: String,
    },
    /// A blob's bytes are not those that the manifest means.
    #[error("{what}: `{path}` does not match its digest: {mismatch}")]
    Digest {
        /// What it belongs to.
        what: String,
        /// Where it is.
        path: String,
        /// Which digest, and what it should have been.
        mismatch: DigestMismatch,
    },
    /// A blob's contents are not what they should be, though its digest is right.
    #[error("{what}: `{path}` {problem}")]
    Content {
        /// What it belongs to.
        what: String,
        /// Where it is.
        path: String,
        /// What is wrong.
        problem: ContentProblem,
    },
    /// The tarball has a package that the manifest does not list.
    #[error("`{path}` is in the tarball, but release.MF lists no such package")]
    ExtraPackage {
        /// Where it is.
        path: String,
    },
    /// The dependencies do not fit together.
    #[error("{0}")]
    Graph(GraphProblem),
    /// A job needs a package that is not there.
    #[error("job `{job}` needs package `{package}`, which is not in the release")]
    JobPackage {
        /// The job.
        job: Name,
        /// The package.
        package: Name,
    },
    /// A compiled package is for another stemcell.
    #[error(
        "package `{package}` is already compiled, for stemcell {theirs}, and this is {ours}: compile it from its source release, or on \
         that stemcell"
    )]
    OtherStemcell {
        /// The package.
        package: Name,
        /// The stemcell that it is for.
        theirs: Slug,
        /// This one.
        ours: Slug,
    },
}

/// A package of a release, from its source or already compiled.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub name: Name,
    pub dependencies: Vec<Name>,
    /// Where it is in the manifest.
    pub listed: Listed,
}

/// Where a package is listed in its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    Source(usize),
    Compiled(usize),
}

/// All packages of a release: those to be compiled, then those that are.
pub(super) fn members(manifest: &Manifest) -> Vec<Member> {
    let sources = manifest
        .packages
        .iter()
        .enumerate()
        .map(|(index, package)| Member {
            name: package.name.clone(),
            dependencies: package.dependencies.clone(),
            listed: Listed::Source(index),
        });
    let compiled =
        manifest
            .compiled_packages
            .iter()
            .flatten()
            .enumerate()
            .map(|(index, package)| Member {
                name: package.name.clone(),
                dependencies: package.dependencies.clone(),
                listed: Listed::Compiled(index),
            });
    sources.chain(compiled).collect()
}

/// The order in which the packages of a release are compiled, as indices of [`members`].
pub(super) fn order(members: &[Member]) -> Result<Vec<usize>, Vec<GraphProblem>> {
    let entries: Vec<graph::Entry<'_>> = members
        .iter()
        .map(|member| (&member.name, member.dependencies.as_slice()))
        .collect();
    graph::compile_order(&entries)
}

/// Everything that is wrong with a release.
pub(super) fn problems(opened: &Opened, stemcell: &Slug) -> Vec<Problem> {
    let manifest = &opened.manifest;
    let mut problems = Vec::new();
    for package in &manifest.packages {
        let role = Role::Package(package.name.to_string());
        let what = format!("package `{}`", package.name);
        check_blob(opened, &what, &role, &package.digest, &mut problems);
    }
    for package in manifest.compiled_packages.iter().flatten() {
        let role = Role::CompiledPackage(package.name.to_string());
        let what = format!("compiled package `{}`", package.name);
        check_blob(opened, &what, &role, &package.digest, &mut problems);
        if package.stemcell != *stemcell {
            problems.push(Problem::OtherStemcell {
                package: package.name.clone(),
                theirs: package.stemcell.clone(),
                ours: stemcell.clone(),
            });
        }
    }
    for job in &manifest.jobs {
        let role = Role::Job(job.name.to_string());
        let what = format!("job `{}`", job.name);
        check_blob(opened, &what, &role, &job.digest, &mut problems);
    }
    if let Some(license) = &manifest.license {
        check_blob(
            opened,
            "license",
            &Role::License,
            &license.digest,
            &mut problems,
        );
    }
    problems.extend(opened.problems.iter().cloned());
    let members = members(manifest);
    extra_packages(opened, &members, &mut problems);
    if let Err(found) = order(&members) {
        problems.extend(found.into_iter().map(Problem::Graph));
    }
    job_packages(manifest, &members, &mut problems);
    problems
}

fn check_blob(
    opened: &Opened,
    what: &str,
    role: &Role,
    digest: &MultiDigest,
    problems: &mut Vec<Problem>,
) {
    let what = what.to_owned();
    let path = place_of(role);
    let found = opened.carried.iter().find(|carried| carried.role == *role);
    let problem = match found {
        None => Problem::MissingBlob { what, path },
        Some(Carried { blob: None, .. }) => Problem::NotAFile { what, path },
        Some(Carried {
            blob: Some(Blob { digests, .. }),
            ..
        }) => match digest.verify(digests) {
            Ok(()) => return,
            Err(mismatch) => Problem::Digest {
                what,
                path,
                mismatch,
            },
        },
    };
    problems.push(problem);
}

/// Where in a tarball the blob of a role is.
pub(super) fn place_of(role: &Role) -> String {
    match role {
        Role::Package(name) => format!("packages/{name}.tgz"),
        Role::CompiledPackage(name) => format!("compiled_packages/{name}.tgz"),
        Role::Job(name) => format!("jobs/{name}.tgz"),
        Role::License => "license.tgz".to_owned(),
        Role::Manifest => "release.MF".to_owned(),
        Role::PackagesDirectory | Role::Stray | Role::Other => String::new(),
    }
}

fn extra_packages(opened: &Opened, members: &[Member], problems: &mut Vec<Problem>) {
    let (mut sources, mut compiled) = (HashSet::new(), HashSet::new());
    for member in members {
        match member.listed {
            Listed::Source(_) => sources.insert(member.name.as_str()),
            Listed::Compiled(_) => compiled.insert(member.name.as_str()),
        };
    }
    for carried in &opened.carried {
        let is_listed = match &carried.role {
            Role::Package(name) => sources.contains(name.as_str()),
            Role::CompiledPackage(name) => compiled.contains(name.as_str()),
            _ => true,
        };
        if !is_listed {
            let path = shown(&carried.path);
            problems.push(Problem::ExtraPackage { path });
        }
    }
}

fn job_packages(manifest: &Manifest, members: &[Member], problems: &mut Vec<Problem>) {
    let names: HashSet<&Name> = members.iter().map(|member| &member.name).collect();
    for job in &manifest.jobs {
        for package in job.packages.iter().flatten() {
            if !names.contains(package) {
                problems.push(Problem::JobPackage {
                    job: job.name.clone(),
                    package: package.clone(),
                });
            }
        }
    }
}
