//! Checks `release.MF`, the manifest of a release, without the rest of the tarball. No I/O.

use super::finding::Findings;
use super::rules::{self, Rule};
use super::unquoted;
use super::versions;
use crate::diag::Chain;
use crate::offline::{Listed, listed};
use crate::release::digest::InvalidDigest;
use crate::release::yaml::{self, Node};
use crate::release::{FieldProblem, Manifest, ManifestProblem};

/// Parses a manifest and reports its problems. `None` if the manifest is unusable.
pub(super) fn parse(text: &[u8], findings: &mut Findings) -> Option<Manifest> {
    let parsed = Manifest::parse(text);
    // Check for unquoted values even if the manifest has other problems.
    if let Ok(text) = std::str::from_utf8(text)
        && let Ok(root) = yaml::parse(text)
    {
        unquoted::check(&root, findings);
        let is_absent = match &root {
            Node::Mapping(root) => root.get("uncommitted_changes").is_none_or(Node::is_null),
            _ => false,
        };
        if is_absent && parsed.is_ok() {
            let text = "release.MF has no `uncommitted_changes`";
            findings.add(&rules::UNCOMMITTED_CHANGES_MISSING, text);
        }
    }
    match parsed {
        Ok(manifest) => {
            check(&manifest, findings);
            Some(manifest)
        }
        Err(problems) => {
            for problem in &problems {
                let text = format!("release.MF: {}", Chain(problem));
                findings.add(rule_of(problem), text);
            }
            None
        }
    }
}

fn rule_of(problem: &ManifestProblem) -> &'static Rule {
    let ManifestProblem::Content { problem, .. } = problem else {
        return &rules::MANIFEST_INVALID;
    };
    match problem {
        FieldProblem::NotAMapping { .. } => &rules::MANIFEST_INVALID,
        FieldProblem::Missing { .. } => &rules::FIELD_MISSING,
        FieldProblem::WrongKind { .. } | FieldProblem::NotBoolean { .. } => &rules::FIELD_INVALID,
        FieldProblem::Name { .. } => &rules::NAME_INVALID,
        FieldProblem::Digest {
            error: InvalidDigest::Empty,
            ..
        } => &rules::DIGEST_MISSING,
        FieldProblem::Digest { .. } => &rules::DIGEST_INVALID,
        FieldProblem::Stemcell { .. } => &rules::STEMCELL_INVALID,
        FieldProblem::DuplicateName { .. } => &rules::DUPLICATE_NAME,
    }
}

/// Checks a manifest that could be parsed.
fn check(manifest: &Manifest, findings: &mut Findings) {
    release(manifest, findings);
    fingerprints(manifest, findings);
    for package in manifest.compiled_packages.iter().flatten() {
        if !versions::is_semi_semantic(package.stemcell.version.as_str()) {
            let text = format!(
                "compiled package `{}`: the version of stemcell {} is not valid for Directors",
                package.name, package.stemcell
            );
            findings.add(&rules::STEMCELL_VERSION_FORMAT, text);
        }
    }
}

fn release(manifest: &Manifest, findings: &mut Findings) {
    let version = manifest.version.as_str();
    if !versions::is_semi_semantic(version) {
        let text = format!(
            "the version `{version}` is not of the form VERSION[-PRERELEASE][+POSTRELEASE]"
        );
        findings.add(&rules::VERSION_FORMAT, text);
    } else if let Some(base) = version.strip_suffix("-dev") {
        let text = format!("the version `{base}-dev` has the form of old development releases");
        findings.add(&rules::OLD_DEV_VERSION, text);
    }
    match manifest.commit_hash.as_deref() {
        None => findings.add(
            &rules::COMMIT_MISSING,
            "release.MF does not name the commit from which the release was created",
        ),
        Some(_) if manifest.uncommitted_changes => findings.add(
            &rules::UNCOMMITTED_CHANGES,
            "the release was created from a working tree with uncommitted changes",
        ),
        Some(_) => {}
    }
}

fn fingerprints(manifest: &Manifest, findings: &mut Findings) {
    let packages = listed(manifest);
    let packages = packages.iter().map(|package| match package {
        Listed::Source(it) => ("package", &it.name, &it.version, &it.fingerprint),
        Listed::Compiled(it) => ("package", &it.name, &it.version, &it.fingerprint),
    });
    let jobs = manifest.jobs.iter();
    let jobs = jobs.map(|it| ("job", &it.name, &it.version, &it.fingerprint));
    let (mut missing, mut different) = (Vec::new(), Vec::new());
    for (kind, name, version, fingerprint) in packages.chain(jobs) {
        match fingerprint.as_str() {
            "" => missing.push(format!("{kind} {name}")),
            text if text != version.as_str() => different.push(format!("{kind} {name}")),
            _ => {}
        }
    }
    findings.add_list(
        &rules::FINGERPRINT_MISSING,
        "release.MF has no fingerprint of",
        &missing,
    );
    findings.add_list(
        &rules::VERSION_NOT_FINGERPRINT,
        "the version is not the fingerprint of",
        &different,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<&'static str> {
        let mut findings = Findings::default();
        parse(text.as_bytes(), &mut findings);
        let mut codes: Vec<&str> = findings.finish().iter().map(|it| it.rule.code).collect();
        codes.dedup();
        codes
    }

    const RELEASE: &str =
        "name: demo\nversion: '1.10'\ncommit_hash: 8ab1aae\nuncommitted_changes: false\n";

    #[test]
    fn plain_manifest_has_no_findings() {
        assert_eq!(codes(RELEASE), [""; 0]);
        assert_eq!(codes(&RELEASE.replace("'1.10'", "2.0+dev.1")), [""; 0]);
    }

    #[test]
    fn facts_about_the_release_have_codes() {
        for (from, to, code) in [
            ("'1.10'", "1.10", "unquoted-text"),
            ("8ab1aae", "0777123", "unquoted-commit"),
            ("8ab1aae", "1234567", "unquoted-commit"),
            ("'1.10'", "2026-01-31", "unquoted-date"),
            (
                "uncommitted_changes: false",
                "",
                "uncommitted-changes-missing",
            ),
            ("'1.10'", "1+2+3", "version-format"),
            ("'1.10'", "1.2-dev", "old-dev-version"),
            ("8ab1aae", "", "commit-missing"),
            ("false", "true", "uncommitted-changes"),
            ("false", "maybe", "field-invalid"),
            ("demo", "a/b", "name-invalid"),
            ("name: demo", "x: y", "field-missing"),
            ("name: demo", "name: [", "manifest-invalid"),
        ] {
            assert_eq!(codes(&RELEASE.replace(from, to)), [code], "{to}");
        }
        assert_eq!(codes(""), ["manifest-invalid"]);
        assert_eq!(codes("\u{0}"), ["manifest-invalid"]);
    }

    #[test]
    fn facts_about_packages_have_codes() {
        let package = "- {name: a, version: f1, fingerprint: f1, sha1: '12', stemcell: os/1}\n";
        let compiled = format!("{RELEASE}compiled_packages:\n{package}");
        assert_eq!(codes(&compiled), [""; 0]);
        for (from, to, code) in [
            ("fingerprint: f1, ", "", "fingerprint-missing"),
            ("version: f1", "version: f2", "version-not-fingerprint"),
            ("os/1", "os/1+2+3", "stemcell-version-format"),
            ("os/1", "os-1", "stemcell-invalid"),
            ("sha1: '12'", "sha1: ''", "digest-missing"),
            ("sha1: '12'", "sha1: 'md5:12'", "digest-invalid"),
            (package, &package.repeat(2), "duplicate-name"),
        ] {
            assert_eq!(codes(&compiled.replace(from, to)), [code], "{to}");
        }
    }
}
