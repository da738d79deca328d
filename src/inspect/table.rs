//! Writes the result of an inspection as text for people.

use std::fmt::Write as _;
use std::path::Path;

use super::check::role_and_digest;
use super::finding::Finding;
use super::inspection::{Inspection, Source};
use super::read::Contents;
use super::rules::Severity;
use super::stemcell::Target;
use crate::diag::{self, Bytes, printable, printable_up_to};
use crate::offline::{Listed, Role, listed, path_of_role};
use crate::release::{Job, Manifest, MultiDigest, Name};

/// The number of characters that are shown of a fingerprint or version.
const SHORT: usize = 12;

/// The maximum length of a finding in characters. A finding may list a hundred names.
const LONGEST_FINDING: usize = 25_000;

/// The index of the column `size` in the table of packages. This column is right-aligned.
const PACKAGE_SIZE_COLUMN: usize = 3;

/// The index of the column `size` in the table of jobs.
const JOB_SIZE_COLUMN: usize = 2;

/// The result of an inspection as text, without a newline at the end.
#[must_use]
pub fn table(inspection: &Inspection) -> String {
    let mut text = head(inspection);
    if let Some(manifest) = &inspection.manifest {
        let contents = &inspection.contents;
        text += &packages(manifest, contents);
        text += &jobs(manifest, contents);
    }
    if let Some(target) = &inspection.target {
        text += &on_stemcell(target);
    }
    if let Some(source) = &inspection.source {
        text += &from_source(source);
    }
    text += &findings(inspection);
    text.truncate(text.trim_end().len());
    text
}

fn head(inspection: &Inspection) -> String {
    let contents = &inspection.contents;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12}{}", printable(&value));
    };
    line("File", &inspection.tarball.display().to_string());
    if let Some(manifest) = &inspection.manifest {
        let kind = inspection.kind().unwrap_or_default();
        let release = format!("{}/{} ({kind})", manifest.name, manifest.version);
        line("Release", &release);
        let commit = match manifest.commit_hash.as_deref() {
            None | Some("") => "unknown".to_owned(),
            Some(hash) if manifest.uncommitted_changes => {
                format!("{hash}, with uncommitted changes")
            }
            Some(hash) => hash.to_owned(),
        };
        line("Commit", &commit);
        let stemcells = inspection.stemcells();
        if !stemcells.is_empty() {
            line("Stemcell", &stemcells.join(", "));
        }
    }
    let compression = contents.compression;
    let compression = compression.map_or_else(String::new, |it| format!(", {it}"));
    line("Size", &format!("{}{compression}", Bytes(contents.size)));
    line("SHA-256", &contents.sha256);
    text
}

fn packages(manifest: &Manifest, contents: &Contents) -> String {
    let head = [
        "package",
        "version",
        "kind",
        "size",
        "digest",
        // The last column may be long.
        "dependencies",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    let packages = listed(manifest);
    rows.extend(packages.iter().map(|package| {
        let (kind, version) = match package {
            Listed::Source(it) => ("source".to_owned(), &it.version),
            Listed::Compiled(it) => (it.stemcell.to_string(), &it.version),
        };
        let (role, digest) = role_and_digest(package);
        let (size, verified) = blob(&role, digest, contents);
        [
            package.name().to_string(),
            short(version.as_str()),
            kind,
            size,
            verified,
            names(package.dependencies()),
        ]
    }));
    match packages.is_empty() {
        true => "\nThe release has no packages.\n".to_owned(),
        false => "\n".to_owned() + &diag::table(&rows, &[PACKAGE_SIZE_COLUMN]),
    }
}

fn jobs(manifest: &Manifest, contents: &Contents) -> String {
    let head = ["job", "version", "size", "digest", "packages"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(manifest.jobs.iter().map(|job: &Job| {
        let role = Role::Job(job.name.to_string());
        let (size, verified) = blob(&role, &job.digest, contents);
        let packages = job.packages.as_deref();
        [
            job.name.to_string(),
            short(job.version.as_str()),
            size,
            verified,
            packages.map_or_else(|| "not listed".to_owned(), names),
        ]
    }));
    match manifest.jobs.is_empty() {
        true => String::new(),
        false => "\n".to_owned() + &diag::table(&rows, &[JOB_SIZE_COLUMN]),
    }
}

/// The size of a blob, and whether its bytes match `digest`, as text.
fn blob(role: &Role, digest: &MultiDigest, contents: &Contents) -> (String, String) {
    let path = path_of_role(role);
    let path = Path::new(&path);
    let Some(blob) = contents.blob(path) else {
        let is_missing = contents.damage.is_none() && !contents.members.contains_key(path);
        let state = if is_missing { "missing" } else { "not read" };
        return ("-".to_owned(), state.to_owned());
    };
    let algorithms = digest.algorithms();
    let algorithms: Vec<&str> = algorithms.iter().map(|it| it.as_str()).collect();
    let algorithms = algorithms.join(" ");
    let verified = match digest.verify(&blob.digests) {
        Ok(()) => format!("{algorithms} verified"),
        Err(_) => format!("{algorithms} WRONG"),
    };
    (Bytes(blob.size).to_string(), verified)
}

fn names(names: &[Name]) -> String {
    match names {
        [] => "-".to_owned(),
        names => names.iter().map(Name::as_str).collect::<Vec<_>>().join(" "),
    }
}

/// Shortens a fingerprint or version, which is ASCII.
fn short(text: &str) -> String {
    match text.get(..SHORT) {
        Some(start) if text.len() > SHORT + 1 => format!("{start}…"),
        _ => text.to_owned(),
    }
}

fn on_stemcell(target: &Target) -> String {
    format!(
        "\nOn {}: {}.\n`exported_from: {}`: {}.\n",
        target.stemcell, target.text, target.stemcell, target.exported_from.text
    )
}

fn from_source(source: &Source) -> String {
    let tarball = printable(&source.tarball.display());
    match source.matches {
        true => format!("\nThe release comes from the source release `{tarball}`.\n"),
        false => format!("\nThe release does not come from the source release `{tarball}`.\n"),
    }
}

fn findings(inspection: &Inspection) -> String {
    let mut text = String::new();
    for finding in &inspection.findings {
        let _ = write!(text, "\n{}", finding_text(finding));
    }
    if inspection.contents.damage.is_some() {
        text += "\nThe tarball was read only up to the damage. The rest of it was not inspected.\n";
    }
    let problems = inspection.count(Severity::Problem);
    let notes = inspection.count(Severity::Note);
    let _ = write!(
        text,
        "\n{}, {}",
        counted(problems, "problem"),
        counted(notes, "note")
    );
    text
}

fn finding_text(finding: &Finding) -> String {
    let label = match finding.rule.severity {
        Severity::Problem => "Problem",
        Severity::Note => "Note",
    };
    let by = finding.rule.refused_by;
    let by: Vec<&str> = by.iter().map(|it| it.name()).collect();
    let by = match by.is_empty() {
        true => String::new(),
        false => format!(" Refused by: {}.", by.join(", ")),
    };
    format!(
        "{label} {}: {}\n  {}.{by}\n",
        finding.rule.code,
        printable_up_to(LONGEST_FINDING, &finding.text),
        finding.rule.consequence
    )
}

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
