//! Writes the manifest of a compiled release. The bytes are the same as those of the Go agent (yaml.v3), except for additional quotes.

use std::fmt;

use super::{Job, License, Manifest};
use crate::release::name::Name;
use crate::release::yaml::quoted;

impl Manifest {
    /// The text of `release.MF` for a compiled release.
    ///
    /// Source packages, empty lists of jobs or compiled packages, and a missing license are omitted. `no_compression` is always written.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        CompiledForm(self).to_string()
    }
}

/// Formats a manifest as the manifest of a compiled release.
struct CompiledForm<'a>(&'a Manifest);

impl fmt::Display for CompiledForm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let manifest = self.0;
        field(f, "", "name", manifest.name.as_str())?;
        field(f, "", "version", manifest.version.as_str())?;
        // The Director stores a missing commit as `unknown`, and rejects a compiled release whose commit differs from the commit of
        // the source release. So a missing commit must be written as `unknown`, not as an empty text.
        let commit_hash = manifest.commit_hash.as_deref().unwrap_or("unknown");
        field(f, "", "commit_hash", commit_hash)?;
        writeln!(f, "uncommitted_changes: {}", manifest.uncommitted_changes)?;
        if !manifest.jobs.is_empty() {
            writeln!(f, "jobs:")?;
        }
        for job in &manifest.jobs {
            write_job(f, job)?;
        }
        let compiled_packages = manifest.compiled_packages.as_deref().unwrap_or_default();
        if !compiled_packages.is_empty() {
            writeln!(f, "compiled_packages:")?;
        }
        for package in compiled_packages {
            field(f, "    - ", "name", package.name.as_str())?;
            field(f, "      ", "version", package.version.as_str())?;
            field(f, "      ", "fingerprint", &package.fingerprint)?;
            field(f, "      ", "sha1", package.digest.as_str())?;
            field(f, "      ", "stemcell", &package.stemcell.to_string())?;
            names(f, "dependencies", &package.dependencies)?;
        }
        if let Some(license) = &manifest.license {
            write_license(f, license)?;
        }
        writeln!(f, "no_compression: {}", manifest.no_compression)
    }
}

fn write_job(f: &mut fmt::Formatter<'_>, job: &Job) -> fmt::Result {
    field(f, "    - ", "name", job.name.as_str())?;
    field(f, "      ", "version", job.version.as_str())?;
    field(f, "      ", "fingerprint", &job.fingerprint)?;
    field(f, "      ", "sha1", job.digest.as_str())?;
    // Omit the key if it is missing in the source release.
    match &job.packages {
        Some(packages) => names(f, "packages", packages),
        None => Ok(()),
    }
}

fn write_license(f: &mut fmt::Formatter<'_>, license: &License) -> fmt::Result {
    writeln!(f, "license:")?;
    field(f, "    ", "version", &license.version)?;
    field(f, "    ", "fingerprint", &license.fingerprint)?;
    field(f, "    ", "sha1", license.digest.as_str())
}

fn field(f: &mut fmt::Formatter<'_>, indent: &str, key: &str, value: &str) -> fmt::Result {
    writeln!(f, "{indent}{key}: {}", quoted(value))
}

/// Writes a list of names inside an item of a list.
fn names(f: &mut fmt::Formatter<'_>, key: &str, names: &[Name]) -> fmt::Result {
    if names.is_empty() {
        return writeln!(f, "      {key}: []");
    }
    writeln!(f, "      {key}:")?;
    for name in names {
        writeln!(f, "        - {}", quoted(name.as_str()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
