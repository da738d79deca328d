//! The rules of `inspect`, one for each code of findings: its severity, the programs that refuse a
//! release with such a finding, and the consequence. `docs/inspect.md` has the same table. The meaning of a code
//! never changes, because scripts compare codes.

use serde::Serialize;

use Consumer::{Agent, Cli, Compile, Director};

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// A consumer refuses the release, or silently handles it wrongly.
    Problem,
    /// The release can be used, but the finding may be important to the user.
    Note,
}

/// A program that refuses a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Consumer {
    /// The Director, at the upload of the release or in a deployment.
    Director,
    /// The BOSH CLI: `upload-release`, `inspect-local-release` or `create-env`.
    Cli,
    /// The agent on a VM that downloads a package.
    Agent,
    /// `bosh-agent compile`.
    Compile,
}

impl Consumer {
    /// The program's name in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Director => "Director",
            Self::Cli => "CLI",
            Self::Agent => "agent",
            Self::Compile => "compile",
        }
    }
}

/// The properties that all findings with one code share.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// The stable code, such as `digest-mismatch`.
    pub code: &'static str,
    pub severity: Severity,
    /// The programs that refuse the release or a part of it; empty if the consequence is silent.
    pub refused_by: &'static [Consumer],
    /// The consequence for a user of the release.
    pub consequence: &'static str,
}

macro_rules! rules {
    ($($name:ident = $code:literal, $severity:ident, [$($consumer:ident),*], $consequence:literal;)*) => {
        $(pub(super) const $name: Rule = Rule {
            code: $code,
            severity: Severity::$severity,
            refused_by: &[$($consumer),*],
            consequence: $consequence,
        };)*

        #[cfg(test)]
        pub(super) const ALL: &[Rule] = &[$($name),*];
    };
}

// Codes about the tarball.
rules! {
    UNREADABLE_TARBALL = "unreadable-tarball", Problem, [Director, Cli, Compile],
        "`tar` cannot extract the release: a Director reports error 30002";
    NOT_A_RELEASE = "not-a-release", Problem, [Director, Cli, Compile],
        "The file is something else";
    MANIFEST_MISSING = "manifest-missing", Problem, [Director, Cli, Compile],
        "A Director reports error 30003";
    UNSAFE_PATH = "unsafe-path", Problem, [Director, Cli, Compile],
        "`tar` refuses a path with `..`, so a Director reports error 30002; `tar` extracts an absolute path below the current directory";
    DANGLING_LINK = "dangling-link", Problem, [Director, Cli, Compile],
        "`tar` cannot extract the release: a Director reports error 30002";
    TOO_MANY_ENTRIES = "too-many-entries", Problem, [],
        "The rest of the tarball was not inspected";
    TOO_LARGE = "too-large", Problem, [Compile],
        "What exceeds the limit was not inspected";
    DUPLICATE_ENTRY = "duplicate-entry", Note, [],
        "The last of these entries is used; the Go agent may use another one";
    CLUTTER = "clutter", Note, [],
        "An operating system or a tool left these files; they are ignored";
    STRAY_FILE = "stray-file", Note, [],
        "No consumer reads these files, and the CLI drops them when it uploads the release";
    OUTER_COMPRESSION = "outer-compression", Note, [],
        "Directors extract it with `tar`; the Go agent reads only gzip and plain tar";
    NO_COMPRESSION_DIFFERS = "no-compression-differs", Note, [],
        "The Go agent compresses its result as `no_compression` says";

    // Codes about the manifest.
    MANIFEST_INVALID = "manifest-invalid", Problem, [Director, Cli, Compile],
        "Nothing else in the release can be used or checked";
    FIELD_MISSING = "field-missing", Problem, [Director, Compile],
        "A Director fails at the missing value during the upload";
    FIELD_INVALID = "field-invalid", Problem, [Cli, Compile],
        "The CLI cannot read the manifest; a Director may misread the value";
    NAME_INVALID = "name-invalid", Problem, [Director, Compile],
        "A Director accepts only letters, digits and `-_+.` (error 40005); names such as `..` break paths";
    DIGEST_INVALID = "digest-invalid", Problem, [Agent, Compile],
        "Directors and the CLI store the text unchecked; an agent refuses to download the blob";
    DIGEST_MISSING = "digest-missing", Problem, [Director, Agent, Compile],
        "A Director refuses a compiled package with an empty digest; an agent refuses to download any such blob";
    STEMCELL_INVALID = "stemcell-invalid", Problem, [Director, Compile],
        "A Director refuses a stemcell without `/`, and never uses a package whose stemcell has unknown characters";
    DUPLICATE_NAME = "duplicate-name", Problem, [Director, Compile],
        "A Director refuses the second item: its name is already taken";
    UNQUOTED_TEXT = "unquoted-text", Problem, [],
        "Directors read a different name or version than the CLI and the agents";
    UNQUOTED_DATE = "unquoted-date", Problem, [Director],
        "The YAML parser of Directors (Psych 4) refuses a date";
    UNQUOTED_COMMIT = "unquoted-commit", Note, [],
        "Directors read a number; a second upload of this version may be refused because of it (error 30014)";
    VERSION_FORMAT = "version-format", Problem, [Director],
        "A Director reports error 30010";
    OLD_DEV_VERSION = "old-dev-version", Note, [],
        "A Director stores `X.N-dev` as `X+dev.N`";
    COMMIT_MISSING = "commit-missing", Note, [],
        "A Director accepts the release once, and refuses a second upload of this version (error 30014)";
    UNCOMMITTED_CHANGES_MISSING = "uncommitted-changes-missing", Note, [],
        "A Director accepts the release once, and refuses a second upload of this version (error 30014)";
    UNCOMMITTED_CHANGES = "uncommitted-changes", Note, [],
        "The commit does not identify the sources";
    FINGERPRINT_MISSING = "fingerprint-missing", Note, [],
        "Directors and the CLI cannot recognize whether these packages or jobs are already uploaded";
    VERSION_NOT_FINGERPRINT = "version-not-fingerprint", Note, [],
        "`bosh upload-release` of a local file replaces the version by the fingerprint; an upload by URL keeps it";
    MIXED_RELEASE = "mixed-release", Problem, [],
        "A Director ignores all source packages of a release that has compiled packages: compile the release first";
    COMPILED_PACKAGES_UNLISTED = "compiled-packages-unlisted", Problem, [],
        "A Director takes the release for a source release without these packages";

    // Codes about blobs.
    UNLISTED_PACKAGE = "unlisted-package", Problem, [Compile],
        "Directors ignore the file, and the CLI drops it when it uploads the release";
    UNLISTED_JOB = "unlisted-job", Note, [],
        "Directors ignore the file, and the CLI drops it when it uploads the release";
    BLOB_MISSING = "blob-missing", Problem, [Director, Cli, Compile],
        "A Director refuses the release, unless it already has the package or job; the CLI cannot pack the release for the upload";
    LINKED_BLOB = "linked-blob", Problem, [],
        "The content was not inspected, only its digest";
    SYMBOLIC_LINK = "symbolic-link", Problem, [Compile],
        "Directors and the CLI follow the link; the blob was not inspected";
    DIGEST_MISMATCH = "digest-mismatch", Problem, [Agent, Compile],
        "Directors and the CLI do not check the digest: an agent refuses the package when it is compiled or deployed";
    JOB_DIGEST_MISMATCH = "job-digest-mismatch", Problem, [Compile],
        "Directors and the CLI do not check the digest at the upload; `bosh sha2ify-release` refuses the release";
    LICENSE_DAMAGED = "license-damaged", Problem, [Compile],
        "Directors do not read the license; `bosh sha2ify-release` refuses the release";
    PACKAGE_NOT_AN_ARCHIVE = "package-not-an-archive", Problem, [Director, Compile],
        "A Director reports error 60000";
    PACKAGE_UNSAFE_PATH = "package-unsafe-path", Problem, [Agent],
        "`tar` refuses `..`, and extracts an absolute path below the package's directory";
    PACKAGE_COMPRESSION = "package-compression", Note, [],
        "Old agents extract only gzip and plain tar";
    PACKAGING_MISSING = "packaging-missing", Note, [],
        "Agents compile these to empty packages, without an error";
    PACKAGE_EMPTY = "package-empty", Note, [],
        "The packaging script installed nothing, or it was missing";
    JOB_NOT_AN_ARCHIVE = "job-not-an-archive", Problem, [Director, Compile],
        "A Director reports an error in the 80000s";
    JOB_NOT_GZIP = "job-not-gzip", Problem, [Director, Compile],
        "A Director extracts jobs with `tar -xzf`";
    JOB_MANIFEST_MISSING = "job-manifest-missing", Problem, [Director, Compile],
        "A Director reports an error in the 80000s";
    JOB_MANIFEST_INVALID = "job-manifest-invalid", Problem, [Director],
        "A Director reports an error in the 80000s";
    JOB_MANIFEST_NAME = "job-manifest-name", Problem, [Director, Compile],
        "A Director reports an error in the 80000s";
    JOB_TEMPLATE_MISSING = "job-template-missing", Problem, [Director, Compile],
        "A Director reports an error in the 80000s";
    JOB_MONIT_MISSING = "job-monit-missing", Problem, [Director, Compile],
        "A Director reports an error in the 80000s";
    JOB_PACKAGE_MISSING = "job-package-missing", Problem, [Cli, Compile],
        "The CLI refuses the release if release.MF lists the package; otherwise a deployment of the job fails";

    // Codes about dependencies and stemcells.
    UNKNOWN_DEPENDENCY = "unknown-dependency", Problem, [Director, Cli, Compile],
        "A Director reports `Invalid edge`, the CLI `Expected to find package`";
    DEPENDENCY_CYCLE = "dependency-cycle", Problem, [Director, Compile],
        "A Director reports `Cycle`";
    MIXED_STEMCELLS = "mixed-stemcells", Problem, [],
        "A Director accepts the release, although it has only a part of the packages for each of these stemcells";
    STEMCELL_VERSION_FORMAT = "stemcell-version-format", Problem, [],
        "A Director accepts the release, and fails when it compares the version in a later deployment";

    // Codes of checks that `--stemcell` requests.
    STEMCELL_NOT_USED = "stemcell-not-used", Problem, [Director],
        "A Director ignores these packages on the stemcell: it compiles their sources, or reports error 60001 if it has no sources";
    STEMCELL_FLOATING = "stemcell-floating", Note, [],
        "A Director uses these packages on the stemcell only while it does not have their sources";

    // Codes of checks that `--source` requests.
    SOURCE_UNREADABLE = "source-unreadable", Problem, [],
        "The releases were not compared";
    NOT_COMPARABLE = "not-comparable", Problem, [],
        "The releases were not compared";
    SOURCE_OTHER_RELEASE = "source-other-release", Problem, [],
        "A Director treats them as different releases or versions";
    SOURCE_OTHER_COMMIT = "source-other-commit", Problem, [Director],
        "A Director that has the source release reports error 30014";
    SOURCE_PACKAGE_DIFFERS = "source-package-differs", Problem, [Director],
        "A Director that has the source release reports error 30012";
    SOURCE_DEPENDENCIES_DIFFER = "source-dependencies-differ", Problem, [Director],
        "A Director that has the source release reports error 30016";
    SOURCE_DEPENDENCY_KEYS_DIFFER = "source-dependency-keys-differ", Problem, [Director],
        "A Director that has the source release reports error 30016";
    SOURCE_LACKS = "source-lacks", Problem, [],
        "The compiled release has parts that this source release does not have";
    SOURCE_JOB_DIFFERS = "source-job-differs", Problem, [Director],
        "A Director that has the source release reports error 30013";
    SOURCE_JOB_BYTES_DIFFER = "source-job-bytes-differ", Note, [],
        "The fingerprint is the same, so a Director keeps the job that it has";
    SOURCE_LEFT_OUT = "source-left-out", Note, [],
        "`export-release` leaves out parts that no job needs; a job that needs these parts cannot use this compiled release";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_documented() {
        let document = include_str!("../../docs/inspect.md");
        let mut codes = HashSet::new();
        for rule in ALL {
            assert!(codes.insert(rule.code), "{} occurs twice", rule.code);
            let severity = match rule.severity {
                Severity::Problem => "problem",
                Severity::Note => "note",
            };
            let names: Vec<&str> = rule.refused_by.iter().map(|it| it.name()).collect();
            let by = if names.is_empty() {
                "-".to_owned()
            } else {
                names.join(", ")
            };
            let row = format!(
                "| `{}` | {severity} | {by} | {} |",
                rule.code, rule.consequence
            );
            assert!(
                document.contains(&row),
                "docs/inspect.md lacks the row\n{row}"
            );
        }
        let rows = document.lines().filter(|line| line.starts_with("| `"));
        let documented = rows.filter(|row| row.contains("| problem |") || row.contains("| note |"));
        assert_eq!(documented.count(), ALL.len());
    }
}
