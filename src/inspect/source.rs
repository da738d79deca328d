//! Checks whether a release was compiled from a given source release (`--source`).
//! Compares the manifests, and the bytes of jobs with the digests in the source release. No I/O.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use super::finding::Findings;
use super::read::Contents;
use super::rules;
use crate::offline::{Role, path_of_role};
use crate::release::graph::{PackageNode, compile_order};
use crate::release::{CompiledPackage, Job, Manifest, Name, Package};

/// Reports all differences between a compiled release and its source release.
pub(super) fn compare(
    compiled: &Manifest,
    contents: &Contents,
    source: &Manifest,
    findings: &mut Findings,
) {
    compare_releases(compiled, source, findings);
    compare_packages(compiled, source, findings);
    compare_jobs(compiled, contents, source, findings);
}

fn compare_releases(compiled: &Manifest, source: &Manifest, findings: &mut Findings) {
    if (&compiled.name, &compiled.version) != (&source.name, &source.version) {
        let text = format!(
            "the release is {}/{}, the source release is {}/{}",
            compiled.name, compiled.version, source.name, source.version
        );
        findings.add(&rules::SOURCE_OTHER_RELEASE, text);
    }
    // For a source release without a commit, a Director stores the commit `unknown`, and compares
    // this text with the commit in the compiled release.
    let compiled_commit = commit(compiled, "missing");
    let source_commit = commit(source, "unknown");
    if compiled_commit != source_commit {
        let text = format!(
            "the commit is {compiled_commit}, that of the source release is {source_commit}"
        );
        findings.add(&rules::SOURCE_OTHER_COMMIT, text);
    }
}

/// The commit of a release, for messages; `default` if the manifest has none.
fn commit(manifest: &Manifest, default: &str) -> String {
    let hash = manifest.commit_hash.as_deref().unwrap_or(default);
    match manifest.uncommitted_changes {
        true => format!("`{hash}` with uncommitted changes"),
        false => format!("`{hash}`"),
    }
}

fn compare_packages(compiled: &Manifest, source: &Manifest, findings: &mut Findings) {
    let sources = source.packages.iter().map(|it| (&it.name, it));
    let sources: HashMap<&Name, &Package> = sources.collect();
    let packages: Vec<&CompiledPackage> = compiled.compiled_packages.iter().flatten().collect();
    // A Director also compares dependency keys, which contain the versions of all dependencies. If a
    // package differs, the dependency keys of its dependents differ, too.
    let mut different: HashSet<&Name> = HashSet::new();
    for package in &packages {
        let is_same = match sources.get(&package.name) {
            Some(source) => compare_package(package, source, findings),
            None => {
                let text = format!("package `{}` is not in the source release", package.name);
                findings.add(&rules::SOURCE_LACKS, text);
                false
            }
        };
        if !is_same {
            different.insert(&package.name);
        }
    }
    let nodes: Vec<PackageNode<'_>> = packages
        .iter()
        .map(|it| (&it.name, it.dependencies.as_slice()))
        .collect();
    let mut affected = Vec::new();
    // Cycles and missing dependencies have their own findings.
    for index in compile_order(&nodes).unwrap_or_default() {
        let package = packages[index];
        let mut dependencies = package.dependencies.iter();
        if dependencies.any(|it| different.contains(it)) && different.insert(&package.name) {
            affected.push(package.name.to_string());
        }
    }
    let text = "the dependency keys of these packages differ, because their dependencies differ";
    findings.add_list(&rules::SOURCE_DEPENDENCY_KEYS_DIFFER, text, &affected);

    let names: HashSet<&Name> = packages.iter().map(|it| &it.name).collect();
    let left_out = source
        .packages
        .iter()
        .filter(|it| !names.contains(&it.name));
    let left_out: Vec<String> = left_out.map(|it| it.name.to_string()).collect();
    let text = "the source release has packages that this release does not have";
    findings.add_list(&rules::SOURCE_LEFT_OUT, text, &left_out);
}

/// Whether a Director considers both packages to be the same.
fn compare_package(compiled: &CompiledPackage, source: &Package, findings: &mut Findings) -> bool {
    let mut is_same = true;
    for (what, compiled_value, source_value) in [
        (
            "version",
            compiled.version.as_str(),
            source.version.as_str(),
        ),
        ("fingerprint", &compiled.fingerprint, &source.fingerprint),
    ] {
        if compiled_value != source_value {
            let text = format!(
                "package `{}`: the {what} is `{compiled_value}`, in the source release it is `{source_value}`",
                compiled.name
            );
            findings.add(&rules::SOURCE_PACKAGE_DIFFERS, text);
            is_same = false;
        }
    }
    let set = |names: &[Name]| -> BTreeSet<Name> { names.iter().cloned().collect() };
    let (compiled_dependencies, source_dependencies) =
        (set(&compiled.dependencies), set(&source.dependencies));
    if compiled_dependencies != source_dependencies {
        let list = |names: BTreeSet<Name>| match names.len() {
            0 => "none".to_owned(),
            _ => names.iter().map(Name::as_str).collect::<Vec<_>>().join(" "),
        };
        let text = format!(
            "package `{}`: the dependencies are {}, in the source release they are {}",
            compiled.name,
            list(compiled_dependencies),
            list(source_dependencies)
        );
        findings.add(&rules::SOURCE_DEPENDENCIES_DIFFER, text);
        is_same = false;
    }
    is_same
}

fn compare_jobs(
    compiled: &Manifest,
    contents: &Contents,
    source: &Manifest,
    findings: &mut Findings,
) {
    let sources: HashMap<&Name, &Job> = source.jobs.iter().map(|it| (&it.name, it)).collect();
    for job in &compiled.jobs {
        let Some(source) = sources.get(&job.name) else {
            let text = format!("job `{}` is not in the source release", job.name);
            findings.add(&rules::SOURCE_LACKS, text);
            continue;
        };
        if (&job.version, &job.fingerprint) != (&source.version, &source.fingerprint) {
            let text = format!(
                "job `{}`: the version and fingerprint are `{}` and `{}`, in the source release they are `{}` and `{}`",
                job.name, job.version, job.fingerprint, source.version, source.fingerprint
            );
            findings.add(&rules::SOURCE_JOB_DIFFERS, text);
            continue;
        }
        let path = path_of_role(&Role::Job(job.name.to_string()));
        if let Some(blob) = contents.blob(Path::new(&path))
            && source.digest.verify(&blob.digests).is_err()
        {
            let text = format!(
                "job `{}` has the same fingerprint as in the source release, but other bytes",
                job.name
            );
            findings.add(&rules::SOURCE_JOB_BYTES_DIFFER, text);
        }
    }
    let names: HashSet<&Name> = compiled.jobs.iter().map(|it| &it.name).collect();
    let left_out = source.jobs.iter().filter(|it| !names.contains(&it.name));
    let left_out: Vec<String> = left_out.map(|it| it.name.to_string()).collect();
    let text = "the source release has jobs that this release does not have";
    findings.add_list(&rules::SOURCE_LEFT_OUT, text, &left_out);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "name: demo\nversion: '1'\ncommit_hash: c1\n\
        jobs:\n- {name: web, version: j1, fingerprint: j1, sha1: '12'}\n\
        packages:\n\
        - {name: app, version: f3, fingerprint: f3, sha1: '12', dependencies: [lib]}\n\
        - {name: lib, version: f2, fingerprint: f2, sha1: '12', dependencies: [base]}\n\
        - {name: base, version: f1, fingerprint: f1, sha1: '12'}\n";

    fn compiled() -> String {
        let text = SOURCE.replace("packages:", "compiled_packages:");
        text.replace("'12', dep", "'12', stemcell: os/1, dep")
            .replace("f1, sha1: '12'}", "f1, sha1: '12', stemcell: os/1}")
    }

    /// The findings, as `CODE: TEXT`.
    fn found(compiled: &str) -> Vec<String> {
        let manifest = |text: &str| Manifest::parse(text.as_bytes()).unwrap();
        let mut findings = Findings::default();
        let contents = Contents::default();
        compare(
            &manifest(compiled),
            &contents,
            &manifest(SOURCE),
            &mut findings,
        );
        let found = findings.finish().into_iter();
        found
            .map(|it| format!("{}: {}", it.rule.code, it.text))
            .collect()
    }

    #[test]
    fn release_of_this_source_has_no_findings() {
        assert_eq!(found(&compiled()), [""; 0]);
    }

    #[test]
    fn differences_are_named() {
        for (from, to, expected) in [
            (
                "name: demo",
                "name: other",
                &["source-other-release: the release is other/1, the source release is demo/1"][..],
            ),
            (
                "commit_hash: c1",
                "uncommitted_changes: true",
                &[
                    "source-other-commit: the commit is `missing` with uncommitted changes, that of the source release is `c1`",
                ],
            ),
            (
                "base, version: f1",
                "base, version: f9",
                &[
                    "source-package-differs: package `base`: the version is `f9`, in the source release it is `f1`",
                    "source-dependency-keys-differ: the dependency keys of these packages differ, because their dependencies differ: lib, app",
                ],
            ),
            (
                "dependencies: [lib]",
                "dependencies: []",
                &[
                    "source-dependencies-differ: package `app`: the dependencies are none, in the source release they are lib",
                ],
            ),
            (
                "name: app",
                "name: new",
                &[
                    "source-lacks: package `new` is not in the source release",
                    "source-left-out: the source release has packages that this release does not have: app",
                ],
            ),
            (
                "version: j1",
                "version: j2",
                &[
                    "source-job-differs: job `web`: the version and fingerprint are `j2` and `j1`, in the source release they are `j1` and `j1`",
                ],
            ),
            (
                "name: web",
                "name: db",
                &[
                    "source-lacks: job `db` is not in the source release",
                    "source-left-out: the source release has jobs that this release does not have: web",
                ],
            ),
        ] {
            assert_eq!(found(&compiled().replace(from, to)), expected, "{to}");
        }
    }
}
