//! Writes the result of an inspection as JSON. `docs/inspect.schema.json` describes the format.

use std::path::Path;

use serde::Serialize;

use super::check::role_and_digest;
use super::inspection::{Inspection, Source};
use super::read::Contents;
use super::rules::{Consumer, Severity};
use super::stemcell::{ExportedFrom, Use};
use crate::diag::printable_json;
use crate::offline::{Listed, Role, listed, path_of_role};
use crate::release::{Manifest, MultiDigest, Name};

/// The version of the format. Increase it after each change except the addition of a field.
const FORMAT_VERSION: u32 = 1;

#[derive(Serialize)]
struct InspectionJson<'a> {
    format_version: u32,
    file: String,
    size: u64,
    sha256: &'a str,
    compression: Option<String>,
    is_complete: bool,
    is_good: bool,
    kind: Option<&'static str>,
    release: Option<ReleaseJson<'a>>,
    stemcells: Vec<String>,
    packages: Vec<PackageJson>,
    jobs: Vec<JobJson>,
    license: Option<LicenseJson<'a>>,
    on_stemcell: Option<OnStemcell<'a>>,
    from_source: Option<FromSource<'a>>,
    findings: Vec<FindingJson<'a>>,
}

#[derive(Serialize)]
struct ReleaseJson<'a> {
    name: &'a str,
    version: &'a str,
    commit_hash: Option<&'a str>,
    uncommitted_changes: bool,
    no_compression: bool,
}

#[derive(Serialize)]
struct PackageJson {
    name: String,
    version: String,
    fingerprint: String,
    dependencies: Vec<String>,
    /// The stemcell of a compiled package; `None` for a source package.
    stemcell: Option<String>,
    #[serde(flatten)]
    blob: BlobJson,
}

#[derive(Serialize)]
struct JobJson {
    name: String,
    version: String,
    fingerprint: String,
    /// The job's packages; `None` if the manifest does not list them.
    packages: Option<Vec<String>>,
    #[serde(flatten)]
    blob: BlobJson,
}

#[derive(Serialize)]
struct LicenseJson<'a> {
    version: &'a str,
    fingerprint: &'a str,
    #[serde(flatten)]
    blob: BlobJson,
}

/// A blob: its description in the manifest and its actual properties.
#[derive(Serialize)]
struct BlobJson {
    path: String,
    digest: String,
    /// Whether the bytes match all digests in the manifest.
    is_verified: bool,
    /// The size in bytes; `None` if the blob is missing.
    size: Option<u64>,
    sha1: Option<String>,
    sha256: Option<String>,
}

#[derive(Serialize)]
struct OnStemcell<'a> {
    stemcell: String,
    #[serde(rename = "use")]
    use_: Use,
    text: &'a str,
    packages: Vec<PackageUseJson<'a>>,
    exported_from: &'a ExportedFrom,
}

#[derive(Serialize)]
struct PackageUseJson<'a> {
    name: &'a str,
    #[serde(rename = "use")]
    use_: Use,
}

#[derive(Serialize)]
struct FromSource<'a> {
    file: String,
    name: Option<&'a str>,
    version: Option<&'a str>,
    matches: bool,
}

#[derive(Serialize)]
struct FindingJson<'a> {
    severity: Severity,
    code: &'static str,
    text: &'a str,
    consequence: &'static str,
    refused_by: &'static [Consumer],
}

/// The result of an inspection as JSON, without control characters. `docs/inspect.schema.json` describes it.
#[must_use]
pub fn json(inspection: &Inspection) -> String {
    let contents = &inspection.contents;
    let manifest = inspection.manifest.as_ref();
    let json = InspectionJson {
        format_version: FORMAT_VERSION,
        file: inspection.tarball.display().to_string(),
        size: contents.size,
        sha256: &contents.sha256,
        compression: contents.compression.map(|it| it.to_string()),
        is_complete: contents.damage.is_none(),
        is_good: inspection.is_good(),
        kind: inspection.kind(),
        release: manifest.map(release),
        stemcells: inspection.stemcells(),
        packages: manifest.map_or_else(Vec::new, |it| packages(it, contents)),
        jobs: manifest.map_or_else(Vec::new, |it| jobs(it, contents)),
        license: manifest.and_then(|it| license(it, contents)),
        on_stemcell: on_stemcell(inspection),
        from_source: inspection.source.as_ref().map(from_source),
        findings: findings(inspection),
    };
    // Serialization fails only for maps whose keys are not strings. There are no maps here.
    let text = serde_json::to_string_pretty(&json).unwrap_or_default();
    printable_json(&text)
}

fn release(manifest: &Manifest) -> ReleaseJson<'_> {
    ReleaseJson {
        name: manifest.name.as_str(),
        version: manifest.version.as_str(),
        commit_hash: manifest.commit_hash.as_deref(),
        uncommitted_changes: manifest.uncommitted_changes,
        no_compression: manifest.no_compression,
    }
}

fn packages(manifest: &Manifest, contents: &Contents) -> Vec<PackageJson> {
    let package = |listed: &Listed| {
        let (role, digest) = role_and_digest(listed);
        let (version, fingerprint, stemcell) = match listed {
            Listed::Source(it) => (&it.version, &it.fingerprint, None),
            Listed::Compiled(it) => (&it.version, &it.fingerprint, Some(&it.stemcell)),
        };
        PackageJson {
            name: listed.name().to_string(),
            version: version.to_string(),
            fingerprint: fingerprint.clone(),
            dependencies: names(listed.dependencies()),
            stemcell: stemcell.map(ToString::to_string),
            blob: blob(&role, digest, contents),
        }
    };
    listed(manifest).iter().map(package).collect()
}

fn jobs(manifest: &Manifest, contents: &Contents) -> Vec<JobJson> {
    let jobs = manifest.jobs.iter().map(|job| JobJson {
        name: job.name.to_string(),
        version: job.version.to_string(),
        fingerprint: job.fingerprint.clone(),
        packages: job.packages.as_deref().map(names),
        blob: blob(&Role::Job(job.name.to_string()), &job.digest, contents),
    });
    jobs.collect()
}

fn license<'a>(manifest: &'a Manifest, contents: &Contents) -> Option<LicenseJson<'a>> {
    let license = manifest.license.as_ref()?;
    Some(LicenseJson {
        version: &license.version,
        fingerprint: &license.fingerprint,
        blob: blob(&Role::License, &license.digest, contents),
    })
}

fn blob(role: &Role, digest: &MultiDigest, contents: &Contents) -> BlobJson {
    let path = path_of_role(role);
    let found = contents.blob(Path::new(&path));
    let owned = |text: Option<&str>| text.map(str::to_owned);
    BlobJson {
        path,
        digest: digest.to_string(),
        is_verified: found.is_some_and(|it| digest.verify(&it.digests).is_ok()),
        size: found.map(|it| it.size),
        sha1: found.and_then(|it| owned(it.digests.sha1())),
        sha256: found.and_then(|it| owned(it.digests.sha256())),
    }
}

fn on_stemcell(inspection: &Inspection) -> Option<OnStemcell<'_>> {
    let target = inspection.target.as_ref()?;
    let packages = target.packages.iter().map(|(name, use_)| PackageUseJson {
        name: name.as_str(),
        use_: *use_,
    });
    Some(OnStemcell {
        stemcell: target.stemcell.to_string(),
        use_: target.use_,
        text: &target.text,
        packages: packages.collect(),
        exported_from: &target.exported_from,
    })
}

fn from_source(source: &Source) -> FromSource<'_> {
    let manifest = source.manifest.as_ref();
    FromSource {
        file: source.tarball.display().to_string(),
        name: manifest.map(|it| it.name.as_str()),
        version: manifest.map(|it| it.version.as_str()),
        matches: source.matches,
    }
}

fn findings(inspection: &Inspection) -> Vec<FindingJson<'_>> {
    let findings = inspection.findings.iter().map(|it| FindingJson {
        severity: it.rule.severity,
        code: it.rule.code,
        text: &it.text,
        consequence: it.rule.consequence,
        refused_by: it.rule.refused_by,
    });
    findings.collect()
}

fn names(names: &[Name]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}
