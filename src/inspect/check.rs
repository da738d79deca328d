//! Compares the manifest of a release with its tarball, and reports what Directors, CLIs and agents refuse or handle wrongly.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use super::blob::{Content, JobFacts, PackageContents};
use super::finding::Findings;
use super::read::{Contents, Member};
use super::rules::{self, Rule};
use crate::archive::Compression;
use crate::offline::{
    ContentProblem, Listed, Problem, Role, is_clutter, listed, missing_packages_of_jobs,
    path_of_role, shown,
};
use crate::release::graph::{GraphProblem, PackageNode, compile_order};
use crate::release::{Manifest, MultiDigest};

/// Makes all checks that need neither a stemcell nor another release.
pub(super) fn check(manifest: &Manifest, contents: &Contents, findings: &mut Findings) {
    let check = Check {
        manifest,
        contents,
        packages: listed(manifest),
    };
    check.lists(findings);
    check.package_blobs(findings);
    check.job_blobs(findings);
    check.license(findings);
    check.other_files(findings);
    check.graph(findings);
}

/// The name of a package in messages.
fn what(package: &Listed) -> String {
    match package {
        Listed::Source(package) => format!("package `{}`", package.name),
        Listed::Compiled(package) => format!("compiled package `{}`", package.name),
    }
}

/// The role of a package's blob, and the digest in the manifest.
pub(super) fn role_and_digest(package: &Listed) -> (Role, &MultiDigest) {
    match package {
        Listed::Source(package) => (Role::Package(package.name.to_string()), &package.digest),
        Listed::Compiled(package) => (
            Role::CompiledPackage(package.name.to_string()),
            &package.digest,
        ),
    }
}

/// The blob of a package, a job or the license in the tarball.
struct ExaminedBlob<'a> {
    content: &'a Content,
    /// Whether the bytes match the digest in the manifest.
    is_verified: bool,
}

/// A release that is being checked.
struct Check<'a> {
    manifest: &'a Manifest,
    contents: &'a Contents,
    packages: Vec<Listed>,
}

impl Check<'_> {
    /// Reports a manifest that lists both source and compiled packages, or compiled packages for several
    /// stemcells.
    fn lists(&self, findings: &mut Findings) {
        let compiled = self.manifest.compiled_packages.as_deref();
        if compiled.is_some() && !self.manifest.packages.is_empty() {
            let names = self.manifest.packages.iter().map(|it| it.name.to_string());
            let names: Vec<String> = names.collect();
            let text = "release.MF lists compiled packages and also source packages";
            findings.add_list(&rules::MIXED_RELEASE, text, &names);
        }
        let stemcells: BTreeSet<String> = compiled
            .into_iter()
            .flatten()
            .map(|it| it.stemcell.to_string())
            .collect();
        if stemcells.len() > 1 {
            let stemcells: Vec<String> = stemcells.into_iter().collect();
            let text = "the packages were compiled for several stemcells";
            findings.add_list(&rules::MIXED_STEMCELLS, text, &stemcells);
        }
    }

    /// Returns the blob with a role if it was examined as such. Reports a blob that is missing, is a link or not a
    /// file, or has a wrong digest. If the tarball is damaged, missing blobs are not reported.
    fn blob(
        &self,
        what: &str,
        role: &Role,
        digest: &MultiDigest,
        findings: &mut Findings,
    ) -> Option<ExaminedBlob<'_>> {
        let (what, path) = (what.to_owned(), path_of_role(role));
        match self.contents.members.get(Path::new(&path)) {
            None if self.contents.damage.is_some() => None,
            None => {
                let problem = Problem::MissingBlob { what, path };
                findings.add(rule_of_missing(role), problem.to_string());
                None
            }
            Some(Member {
                is_symlink: true, ..
            }) => {
                let text = format!("{what}: `{path}` is a symbolic link");
                findings.add(&rules::SYMBOLIC_LINK, text);
                None
            }
            Some(Member { blob: None, .. }) => {
                let problem = Problem::NotAFile { what, path };
                findings.add(rule_of_missing(role), problem.to_string());
                None
            }
            Some(Member {
                blob: Some(blob), ..
            }) => {
                let verified = digest.verify(&blob.digests);
                let is_verified = verified.is_ok();
                if !blob.is_examined_as(role) {
                    let text = format!("{what}: `{path}` is a hard link to another kind of file");
                    findings.add(&rules::LINKED_BLOB, text);
                }
                if let Err(mismatch) = verified {
                    let problem = Problem::Digest {
                        what,
                        path,
                        mismatch,
                    };
                    findings.add(rule_of_mismatch(role), problem.to_string());
                }
                let content = &blob.content;
                blob.is_examined_as(role).then_some(ExaminedBlob {
                    content,
                    is_verified,
                })
            }
        }
    }

    fn package_blobs(&self, findings: &mut Findings) {
        let (mut without_script, mut empty) = (Vec::new(), Vec::new());
        for package in &self.packages {
            let (role, digest) = role_and_digest(package);
            let what = what(package);
            let found = self.blob(&what, &role, digest, findings);
            let Some(ExaminedBlob {
                content: Content::Package(content),
                is_verified,
            }) = found
            else {
                continue;
            };
            match content {
                Err(problem) => {
                    let text = content_text(what, &role, problem, is_verified);
                    findings.add(&rules::PACKAGE_NOT_AN_ARCHIVE, text);
                }
                Ok(content) => {
                    package_content(&what, content, findings);
                    let name = package.name().to_string();
                    match package {
                        Listed::Source(_) if !content.has_script => without_script.push(name),
                        Listed::Compiled(_) if content.entries == 0 => empty.push(name),
                        Listed::Source(_) | Listed::Compiled(_) => {}
                    }
                }
            }
        }
        let text = "packages without a script `packaging`";
        findings.add_list(&rules::PACKAGING_MISSING, text, &without_script);
        findings.add_list(
            &rules::PACKAGE_EMPTY,
            "compiled packages without files",
            &empty,
        );
    }

    fn job_blobs(&self, findings: &mut Findings) {
        let names: HashSet<&str> = self.packages.iter().map(|it| it.name().as_str()).collect();
        for job in &self.manifest.jobs {
            let role = Role::Job(job.name.to_string());
            let what = format!("job `{}`", job.name);
            let found = self.blob(&what, &role, &job.digest, findings);
            let Some(ExaminedBlob {
                content: Content::Job(content),
                is_verified,
            }) = found
            else {
                continue;
            };
            let problems = match content {
                Ok(facts) => &facts.problems[..],
                Err(problem) => std::slice::from_ref(problem),
            };
            if let Ok(JobFacts { packages: None, .. }) = content {
                let path = path_of_role(&role);
                let text = format!("{what}: `{path}` has a job.MF that is not valid YAML");
                findings.add(&rules::JOB_MANIFEST_INVALID, text);
            }
            for problem in problems {
                findings.add(
                    rule_of_job(problem),
                    content_text(what.clone(), &role, problem, is_verified),
                );
            }
            // If `release.MF` lists the packages of the job, they are checked after this loop.
            if job.packages.is_none()
                && let Ok(facts) = content
            {
                let needed = facts.packages.iter().flatten();
                for package in needed.filter(|it| !names.contains(it.as_str())) {
                    let job = job.name.clone();
                    let package = package.escape_debug().to_string();
                    let problem = Problem::JobPackage { job, package };
                    findings.add(&rules::JOB_PACKAGE_MISSING, problem.to_string());
                }
            }
        }
        for problem in missing_packages_of_jobs(self.manifest, &self.packages) {
            findings.add(&rules::JOB_PACKAGE_MISSING, problem.to_string());
        }
    }

    fn license(&self, findings: &mut Findings) {
        let Some(license) = &self.manifest.license else {
            return;
        };
        let role = Role::License;
        let found = self.blob("license", &role, &license.digest, findings);
        if let Some(ExaminedBlob {
            content: Content::License(Err(problem)),
            is_verified,
        }) = found
        {
            let text = content_text("license".to_owned(), &role, problem, is_verified);
            findings.add(&rules::LICENSE_DAMAGED, text);
        }
    }

    /// Reports files that the manifest does not list.
    fn other_files(&self, findings: &mut Findings) {
        let manifest = self.manifest;
        let mut expected: HashSet<String> = self
            .packages
            .iter()
            .map(|it| path_of_role(&role_and_digest(it).0))
            .collect();
        let jobs = manifest.jobs.iter();
        expected.extend(jobs.map(|it| path_of_role(&Role::Job(it.name.to_string()))));
        let (mut clutter, mut stray, mut compiled) = (Vec::new(), Vec::new(), Vec::new());
        for (path, member) in sorted(self.contents) {
            let text = shown(path);
            if expected.contains(&text) {
                continue;
            }
            match &member.role {
                _ if is_clutter(path) => clutter.push(text),
                Role::CompiledPackage(_) if manifest.compiled_packages.is_none() => {
                    compiled.push(text);
                }
                Role::Package(_) | Role::CompiledPackage(_) => {
                    let problem = Problem::ExtraPackage { path: text };
                    findings.add(&rules::UNLISTED_PACKAGE, problem.to_string());
                }
                Role::Job(_) => {
                    let text = format!("`{text}` is in the tarball, but not in release.MF");
                    findings.add(&rules::UNLISTED_JOB, text);
                }
                Role::Stray => stray.push(text),
                Role::Manifest | Role::PackagesDirectory | Role::License | Role::Other => {}
            }
        }
        findings.add_list(&rules::CLUTTER, "ignored files", &clutter);
        findings.add_list(&rules::STRAY_FILE, "files between the packages", &stray);
        let text = "release.MF has no `compiled_packages`, but the tarball has";
        findings.add_list(&rules::COMPILED_PACKAGES_UNLISTED, text, &compiled);
    }

    /// Reports missing dependencies and cycles.
    fn graph(&self, findings: &mut Findings) {
        let nodes: Vec<PackageNode<'_>> = self
            .packages
            .iter()
            .map(|it| (it.name(), it.dependencies()))
            .collect();
        for problem in compile_order(&nodes).err().into_iter().flatten() {
            let rule = match problem {
                GraphProblem::UnknownDependency { .. } => &rules::UNKNOWN_DEPENDENCY,
                GraphProblem::Cycle(_) => &rules::DEPENDENCY_CYCLE,
            };
            findings.add(rule, problem.to_string());
        }
    }
}

/// The members of a tarball, sorted by path.
fn sorted(contents: &Contents) -> Vec<(&Path, &Member)> {
    let members = contents.members.iter();
    let mut members: Vec<(&Path, &Member)> =
        members.map(|(path, it)| (path.as_path(), it)).collect();
    members.sort_unstable_by_key(|(path, _)| *path);
    members
}

fn package_content(what: &str, content: &PackageContents, findings: &mut Findings) {
    if let Some(reason) = &content.unsafe_path {
        findings.add(&rules::PACKAGE_UNSAFE_PATH, format!("{what}: {reason}"));
    }
    if !matches!(content.compression, Compression::Gzip | Compression::None) {
        let text = format!("{what} is compressed with {}", content.compression);
        findings.add(&rules::PACKAGE_COMPRESSION, text);
    }
}

fn content_text(what: String, role: &Role, problem: &ContentProblem, is_verified: bool) -> String {
    let (path, problem) = (path_of_role(role), problem.clone());
    if let (ContentProblem::NotArchive { cause }, false) = (&problem, is_verified) {
        return format!("{what}: `{path}` is not a valid tar archive ({cause})");
    }
    let problem = Problem::Content {
        what,
        path,
        problem,
    };
    problem.to_string()
}

fn rule_of_missing(role: &Role) -> &'static Rule {
    match role {
        Role::License => &rules::LICENSE_DAMAGED,
        _ => &rules::BLOB_MISSING,
    }
}

fn rule_of_mismatch(role: &Role) -> &'static Rule {
    match role {
        Role::License => &rules::LICENSE_DAMAGED,
        Role::Job(_) => &rules::JOB_DIGEST_MISMATCH,
        _ => &rules::DIGEST_MISMATCH,
    }
}

fn rule_of_job(problem: &ContentProblem) -> &'static Rule {
    match problem {
        ContentProblem::NotArchive { .. } | ContentProblem::TooManyEntries => {
            &rules::JOB_NOT_AN_ARCHIVE
        }
        ContentProblem::ManifestTooLong => &rules::TOO_LARGE,
        ContentProblem::NotGzip { .. } => &rules::JOB_NOT_GZIP,
        ContentProblem::NoManifest => &rules::JOB_MANIFEST_MISSING,
        ContentProblem::OtherName { .. } => &rules::JOB_MANIFEST_NAME,
        ContentProblem::NoTemplate { .. } => &rules::JOB_TEMPLATE_MISSING,
        ContentProblem::NoMonit => &rules::JOB_MONIT_MISSING,
    }
}
