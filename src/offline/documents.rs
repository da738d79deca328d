//! Writes documents about the results of a run: SBOMs (`--sbom`) and provenance (`--provenance`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::call_report::{Blob, CallReport, File, Output, Package};
use super::checked::{CheckedPackage, CheckedRelease, Listed};
use super::error::OfflineError;
use super::licenses::{FoundLicenses, LONGEST, MEMORY};
use super::options::{DocumentOptions, DocumentPath, Options, SbomFormat};
use super::selection::Selection;
use super::tarball;
use super::written_file::check_target;
use crate::compile::{SourceDate, SourceDates};
use crate::diag::{Bytes, printable_json};
use crate::fs;
use crate::release::{Name, Slug};
use crate::supply_chain::{
    BuildFacts, Creation, NamedBlob, Origin, PackageFacts, ReleaseFacts, StemcellFacts, cyclonedx,
    provenance, spdx,
};

/// What fails if a document cannot be written.
const ACTION: &str = "write the document to";

/// The suffix of results.
const RESULT: &str = ".tgz";

/// The suffix of provenance documents.
const PROVENANCE: &str = ".provenance.json";

/// The suffix of SBOMs.
fn suffix(format: SbomFormat) -> &'static str {
    match format {
        SbomFormat::CycloneDx => ".cdx.json",
        SbomFormat::Spdx => ".spdx.json",
    }
}

/// A release with the facts that its documents need.
#[derive(Debug)]
pub(super) struct Documented {
    pub release: Arc<CheckedRelease>,
    /// Whether the run compiles the release. Otherwise, it was compiled before.
    pub is_compiled: bool,
    pub licenses: FoundLicenses,
    /// The packages that were compiled in the run or found in a cache.
    pub compiled: BTreeMap<Name, (Blob, Origin)>,
    /// Whether machines of the server compiled a package in the run.
    pub uses_server: bool,
}

/// Writes the documents of a run.
#[derive(Debug)]
pub(super) struct Documents {
    options: DocumentOptions,
    /// The parameters of the run, for provenance.
    parameters: Value,
    /// The server whose machines compile or whose action cache is used, for provenance.
    server: Option<String>,
    /// The time for the documents, if the user has set one. By default, it is the time of writing.
    date: Option<SourceDate>,
}

/// The releases for one stemcell, in the order of the report's outputs, and what they share; `None` if the stemcell is unknown.
pub(super) type DocumentedPart = (Vec<Documented>, Option<Shared>);

/// What the results for one stemcell share.
#[derive(Debug)]
pub(super) struct Shared {
    pub stemcell: Slug,
    /// The digest of the stemcell image.
    pub image: Option<String>,
    pub started: SystemTime,
}

impl Documents {
    /// The documents that the options ask for; `None` if they ask for none.
    pub(super) fn new(options: &Options) -> Option<Self> {
        options.documents.are_wanted().then(|| Self {
            options: options.documents.clone(),
            parameters: parameters(options),
            server: options.remote.as_ref().map(|it| it.location.to_string()),
            date: match options.source_dates {
                SourceDates::Given(date) => Some(date),
                SourceDates::None | SourceDates::OfEachSource => None,
            },
        })
    }

    /// Writes the documents of the releases that were written, which are the outputs of the report.
    ///
    /// # Errors
    /// At least one document could not be written: the first failure. All others are written.
    pub(super) fn write(&self, parts: &[DocumentedPart], report: &CallReport) -> fs::Result<()> {
        let releases = parts.iter().flat_map(|(releases, shared)| {
            let shared = shared.as_ref();
            releases.iter().filter_map(move |it| Some((it, shared?)))
        });
        let mut result = Ok(());
        for ((documented, shared), output) in releases.zip(&report.outputs) {
            let written = self.write_of_release(documented, shared, output, report);
            result = result.and(written);
        }
        result
    }

    fn write_of_release(
        &self,
        documented: &Documented,
        shared: &Shared,
        output: &Output,
        report: &CallReport,
    ) -> fs::Result<()> {
        let facts = documented.facts(output, &report.inputs, shared);
        let result = Path::new(&output.file.path);
        let time = timestamp(self.date.map_or_else(SystemTime::now, SourceDate::time));
        let creation = Creation {
            agent: &report.agent,
            time: &time,
        };
        let mut result_of_all = Ok(());
        for (format, path) in &self.options.sboms {
            let document = match format {
                SbomFormat::CycloneDx => cyclonedx(&facts, creation),
                SbomFormat::Spdx => spdx(&facts, creation),
            };
            let written = write(&path.of_result(result, suffix(*format)), &document);
            result_of_all = result_of_all.and(written);
        }
        if let Some(path) = &self.options.provenance
            && documented.is_compiled
        {
            let build = self.build(documented, report, shared);
            let statement = provenance(&facts, &build, &report.agent);
            let written = write(&path.of_result(result, PROVENANCE), &statement);
            result_of_all = result_of_all.and(written);
        }
        result_of_all
    }

    fn build(&self, documented: &Documented, report: &CallReport, shared: &Shared) -> BuildFacts {
        let times = (timestamp(shared.started), timestamp(SystemTime::now()));
        BuildFacts {
            builder: self.options.builder.clone(),
            options: self.parameters.clone(),
            isolation: report.isolation.map(str::to_owned),
            server: self.server.clone().filter(|_| documented.uses_server),
            jobs: report.jobs,
            // With a time of the user, equal runs have equal documents, so the times of the run are left out.
            times: self.date.is_none().then_some(times),
        }
    }
}

/// Checks that the documents can be written, and creates their directories.
///
/// # Errors
/// Two files of the run have the same path, a directory cannot be written to, or something other than a file is in the way.
pub(super) fn check(options: &Options) -> Result<(), OfflineError> {
    let documents = &options.documents;
    let mut files: Vec<&Path> = [&options.report, &options.timings]
        .into_iter()
        .filter_map(|it| it.as_deref())
        .collect();
    let paths = documents.sboms.iter().map(|(_, path)| path);
    for path in paths.chain(&documents.provenance) {
        match path {
            DocumentPath::File(file) => {
                if let Some(other) = files.iter().find(|it| is_same(it, file)) {
                    return Err(OfflineError::SamePlace {
                        path: file.clone(),
                        other: (*other).to_owned(),
                    });
                }
                check_target(ACTION, file)?;
                files.push(file);
            }
            DocumentPath::Directory(directory) => {
                fs::create_dir_all(directory)?;
                fs::check_writable(directory)?;
            }
        }
    }
    Ok(())
}

/// Refuses a file for the documents of several results. `results` is how many results the run has.
pub(super) fn check_count(options: &DocumentOptions, results: usize) -> Result<(), OfflineError> {
    let paths = options.sboms.iter().map(|(_, path)| path);
    let mut files = paths
        .chain(&options.provenance)
        .filter_map(|path| match path {
            DocumentPath::File(file) => Some(file),
            DocumentPath::Directory(_) => None,
        });
    match files.next() {
        Some(path) if results > 1 => Err(OfflineError::OneDocument {
            path: path.clone(),
            results,
        }),
        _ => Ok(()),
    }
}

/// Refuses results that would share a document. Each result has its path, and whether the run compiles it.
pub(super) fn check_results(
    options: &DocumentOptions,
    results: &[(&Path, bool)],
) -> Result<(), OfflineError> {
    check_count(options, results.len())?;
    let sboms = options.sboms.iter();
    let sboms = sboms.map(|(format, path)| (path, suffix(*format), false));
    let provenance = options.provenance.iter();
    let provenance = provenance.map(|path| (path, PROVENANCE, true));
    for (path, suffix, only_compiled) in sboms.chain(provenance) {
        let mut documents = BTreeMap::new();
        for (result, is_compiled) in results {
            if only_compiled && !is_compiled {
                continue;
            }
            let path = path.of_result(result, suffix);
            check_target(ACTION, &path)?;
            if let Some(other) = documents.insert(path.clone(), result) {
                let results = [(*other).to_owned(), (*result).to_owned()];
                return Err(OfflineError::SameDocument { path, results });
            }
        }
    }
    Ok(())
}

/// Whether two paths name the same file, which need not exist.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| {
        let directory = fs::canonicalize(fs::parent(path));
        directory.map(|it| it.join(fs::file_name(path)))
    };
    one == other || matches!((real(one), real(other)), (Ok(one), Ok(other)) if one == other)
}

impl DocumentPath {
    /// The path of the document of a result.
    fn of_result(&self, result: &Path, suffix: &str) -> PathBuf {
        match self {
            Self::File(file) => file.clone(),
            Self::Directory(directory) => {
                let name = fs::file_name(result).to_string_lossy();
                let stem = name.strip_suffix(RESULT).unwrap_or(&name);
                directory.join(format!("{stem}{suffix}"))
            }
        }
    }
}

impl Documented {
    /// A warning about licenses that the SBOM lacks.
    pub(super) fn left_out(&self) -> Option<String> {
        let count = match self.licenses.left_out {
            0 => return None,
            1 => "1 file".to_owned(),
            more => format!("{more} files"),
        };
        Some(format!(
            "Warning: the SBOM of {} lacks {count} with licenses: one may have at most {}, and those of a release {} in total",
            self.release.tarball.display(),
            Bytes(LONGEST),
            Bytes(MEMORY),
        ))
    }

    /// Adds a package of the release that was compiled in the run or found in a cache.
    pub(super) fn add(&mut self, name: &Name, package: &Package) {
        let Some(compiled) = &package.compiled else {
            return;
        };
        let machine = package.machine.as_ref();
        let is_cached = package.cached || machine.is_some_and(|it| it.cached);
        self.uses_server |= machine.is_some() && !is_cached;
        let origin = match is_cached {
            true => Origin::Cache,
            false => Origin::Compiled,
        };
        self.compiled
            .insert(name.clone(), (compiled.clone(), origin));
    }

    fn facts(&self, output: &Output, inputs: &[File], shared: &Shared) -> ReleaseFacts {
        let Self {
            release,
            is_compiled,
            licenses,
            compiled,
            ..
        } = self;
        let manifest = &release.manifest;
        let named = |file: &File| NamedBlob {
            name: fs::file_name(Path::new(&file.path))
                .to_string_lossy()
                .into_owned(),
            blob: Blob {
                size: file.size.unwrap_or_default(),
                sha1: file.sha1.clone(),
                sha256: file.sha256.clone(),
            },
        };
        let mut packages: Vec<PackageFacts> = release
            .packages
            .iter()
            .filter_map(|it| package(it, licenses, compiled))
            .collect();
        packages.sort_by(|one, other| one.name.cmp(&other.name));
        ReleaseFacts {
            name: manifest.name.to_string(),
            version: manifest.version.to_string(),
            commit: manifest.commit_hash.clone().filter(|it| !it.is_empty()),
            has_uncommitted_changes: manifest.uncommitted_changes,
            stemcell: StemcellFacts {
                os: shared.stemcell.os.to_string(),
                version: shared.stemcell.version.to_string(),
                image: shared.image.clone().filter(|_| uses_image(&packages)),
            },
            source: is_compiled.then(|| source(release, inputs)),
            result: named(&output.file),
            licenses: licenses.release.clone(),
            packages,
        }
    }
}

/// The tarball of a source release, with the SHA-256 of the bytes that the run read. The size and the SHA-1 are those of the report, and
/// unknown if the file was changed before the report was made.
fn source(release: &CheckedRelease, inputs: &[File]) -> NamedBlob {
    let sha256 = release.digests.sha256();
    let tarball = release.tarball.to_string_lossy();
    let mut inputs = inputs.iter();
    let unchanged = inputs.find(|it| it.path == tarball && it.sha256.as_deref() == Some(sha256));
    NamedBlob {
        name: fs::file_name(&release.tarball)
            .to_string_lossy()
            .into_owned(),
        blob: Blob {
            size: unchanged.and_then(|it| it.size).unwrap_or_default(),
            sha1: unchanged.and_then(|it| it.sha1.clone()),
            sha256: Some(sha256.to_owned()),
        },
    }
}

/// Whether a package was compiled in the stemcell image, by this run or by an earlier run that stored it in a cache.
fn uses_image(packages: &[PackageFacts]) -> bool {
    let mut origins = packages.iter().map(|it| &it.origin);
    origins.any(|it| matches!(it, Origin::Compiled | Origin::Cache))
}

/// The facts of a package; `None` if it has no compiled blob.
fn package(
    package: &CheckedPackage,
    licenses: &FoundLicenses,
    compiled: &BTreeMap<Name, (Blob, Origin)>,
) -> Option<PackageFacts> {
    let name = package.name();
    let source = match &package.listed {
        Listed::Source(_) => Some(&package.blob),
        Listed::Compiled(_) => package.replaced.as_ref(),
    };
    let (fingerprint, compiled, origin) = match &package.listed {
        Listed::Source(source) => {
            let (blob, origin) = compiled.get(name)?.clone();
            (source.fingerprint.clone(), blob, origin)
        }
        Listed::Compiled(compiled) => {
            let origin = match &package.reused_from {
                Some(earlier) => {
                    Origin::EarlierResult(fs::file_name(earlier).to_string_lossy().into_owned())
                }
                None => Origin::Release,
            };
            (compiled.fingerprint.clone(), blob(&package.blob), origin)
        }
    };
    Some(PackageFacts {
        name: name.to_string(),
        version: package.version().to_string(),
        fingerprint,
        dependencies: package.dependencies().iter().map(Name::to_string).collect(),
        source: source.map(blob),
        compiled,
        origin,
        licenses: licenses.packages.get(name).cloned().unwrap_or_default(),
    })
}

/// A blob in the format of documents and reports.
pub(super) fn blob(blob: &tarball::Blob) -> Blob {
    Blob {
        size: blob.size,
        sha1: blob.digests.all().sha1().map(str::to_owned),
        sha256: Some(blob.digests.sha256().to_owned()),
    }
}

/// The parameters that affect what is compiled, for provenance. Flags that are not set are null.
fn parameters(options: &Options) -> Value {
    let names = |names: &std::collections::BTreeSet<Name>| -> Vec<String> {
        names.iter().map(Name::to_string).collect()
    };
    let (jobs, packages) = match &options.selection {
        Selection::Named { jobs, packages } => (names(jobs), names(packages)),
        Selection::All | Selection::OnlyNeeded => (Vec::new(), Vec::new()),
    };
    let source_dates = match options.source_dates {
        SourceDates::None => None,
        SourceDates::Given(date) => Some(date.to_string()),
        SourceDates::OfEachSource => Some("of each source".to_owned()),
    };
    let is = |set: bool| set.then_some(true);
    json!({
        "base_directory": options.vcap.base().to_string_lossy(),
        "only_needed": is(options.selection == Selection::OnlyNeeded),
        "job": jobs,
        "package": packages,
        "source_dates": source_dates,
        "network": if options.network { "host" } else { "none" },
        "protect_host": is(options.protect_host),
        "readonly_deps": is(options.readonly_dependencies),
        "make_jobserver": is(options.make_jobserver),
        "compression_level": options.compression_level,
        "env": options.documents.variables,
    })
}

fn write(path: &Path, document: &Value) -> fs::Result<()> {
    let text = serde_json::to_string_pretty(document)
        .map_err(|source| fs::Error::new("write", path, source.into()))?;
    let text = printable_json(&text) + "\n";
    fs::write_atomic(path, text.as_bytes(), fs::mode_of_results())
}

/// A time in the format of SBOMs: RFC 3339, in UTC, without fractions of a second.
fn timestamp(time: SystemTime) -> String {
    let time = chrono::DateTime::<chrono::Utc>::from(time);
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::call_report::{Machine, fixtures};
    use crate::offline::graph::tests::release;

    fn documented(text: &str) -> Documented {
        Documented {
            release: release(text),
            is_compiled: true,
            licenses: FoundLicenses::default(),
            compiled: BTreeMap::new(),
            uses_server: false,
        }
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn compiled() -> Blob {
        Blob {
            size: 1,
            sha1: None,
            sha256: None,
        }
    }

    fn facts(documented: &Documented) -> ReleaseFacts {
        let output = Output {
            name: "demo".to_owned(),
            version: "1".to_owned(),
            stemcell: None,
            file: File::default(),
        };
        let shared = Shared {
            stemcell: Slug::new("ubuntu-noble", "1.1").unwrap(),
            image: Some("digest".to_owned()),
            started: SystemTime::UNIX_EPOCH,
        };
        documented.facts(&output, &[], &shared)
    }

    #[test]
    fn image_is_named_only_if_a_package_was_compiled_in_it() {
        let mut documented = documented("lib@1~a, app@1=b: lib");
        assert_eq!(facts(&documented).stemcell.image, None);
        for origin in [Origin::Compiled, Origin::Cache] {
            let package = (compiled(), origin);
            documented.compiled.insert(name("app"), package);
            let image = facts(&documented).stemcell.image;
            assert_eq!(image.as_deref(), Some("digest"));
        }
    }

    #[test]
    fn packages_of_the_action_cache_were_not_compiled_on_the_server() {
        let package = |cached| {
            let mut package = fixtures::package(0, 0.0, [0.0; 4], &[]);
            package.compiled = Some(compiled());
            package.machine = Some(Machine {
                name: None,
                cached,
                queued: None,
                fetching: None,
                executing: None,
                storing: None,
            });
            package
        };
        let mut documented = documented("lib@1=a, app@1=b: lib");
        documented.add(&name("lib"), &package(true));
        assert_eq!(documented.compiled[&name("lib")].1, Origin::Cache);
        assert!(!documented.uses_server);
        documented.add(&name("app"), &package(false));
        assert_eq!(documented.compiled[&name("app")].1, Origin::Compiled);
        assert!(documented.uses_server);
    }

    #[test]
    fn changed_or_unread_source_has_the_digest_that_was_read() {
        let release = release("app@1=b");
        let read = release.digests.sha256().to_owned();
        let input = |sha256: Option<&str>| File {
            path: "demo.tgz".to_owned(),
            size: Some(1),
            sha1: Some("sha1".to_owned()),
            sha256: sha256.map(str::to_owned),
        };
        for (found, sha1) in [
            (Some(read.as_str()), Some("sha1")),
            (Some("other"), None),
            (None, None),
        ] {
            let source = source(&release, &[input(found)]);
            assert_eq!(source.name, "demo.tgz");
            assert_eq!(source.blob.sha256.as_ref(), Some(&read));
            assert_eq!(source.blob.sha1.as_deref(), sha1);
        }
    }
}
