//! The files and the report of a package that this machine has compiled, in the form in which a machine of a server would return them.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::compiled_release::CompiledBlob;
use super::tarball;
use crate::archive::Compression;
use crate::cluster::{KnownFile, LocalResult};
use crate::fs::{self, Context as _};
use crate::package_job::{
    Agent, Blob, CompiledBlob as ReportedBlob, PackageReport, PackageResult, Phase, REPORT_VERSION,
    Script, SecondRun, Seconds,
};
use crate::reapi::Digest;
use crate::release::{Algorithm, Digests};

/// A package that this machine has compiled.
#[derive(Debug)]
pub(super) struct LocalPackage {
    pub name: String,
    pub version: String,
    pub stemcell: String,
    pub isolation: &'static str,
    pub started: String,
    pub source: tarball::Blob,
    pub compiled: Arc<CompiledBlob>,
    pub log: PathBuf,
    pub warnings: Vec<String>,
    pub times: Times,
}

/// What a run has recorded about the compilation of a package.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub seconds: Seconds,
    pub phases: Vec<Phase>,
    pub script: Option<Script>,
    pub second_run: Option<SecondRun>,
    pub last_lines: Vec<String>,
}

impl LocalPackage {
    /// Hashes the files and creates the report. Blocks.
    pub(super) fn result(self) -> fs::Result<LocalResult> {
        let log = log(&self.log)?;
        let blob = &self.compiled.blob;
        let sha256 = blob.digests.sha256().to_owned();
        let package = KnownFile {
            path: blob.file.clone(),
            digest: Digest {
                sha256: sha256.clone(),
                size: blob.size,
            },
        };
        let compiled = ReportedBlob {
            size: blob.size,
            sha1: blob.digests.all().sha1().unwrap_or_default().to_owned(),
            sha256,
            compression: compression(&package)?.to_owned(),
        };
        let report = PackageReport {
            format_version: REPORT_VERSION,
            agent: Agent::this(),
            name: self.name,
            version: self.version,
            stemcell: Some(self.stemcell.clone()),
            // `StoreCheck` allows only a machine with this stemcell to store packages.
            machine_stemcell: Some(self.stemcell),
            architecture: std::env::consts::ARCH.to_owned(),
            isolation: Some(self.isolation.to_owned()),
            started: self.started,
            seconds: self.times.seconds.total,
            result: PackageResult::Compiled,
            exit_code: 0,
            failure_kind: None,
            errors: Vec::new(),
            warnings: self.warnings,
            source: Some(Blob {
                size: self.source.size,
                sha1: self.source.digests.all().sha1().map(str::to_owned),
                sha256: Some(self.source.digests.sha256().to_owned()),
            }),
            dependencies: Vec::new(),
            compiled: Some(compiled),
            unrestricted: false,
            phases: self.times.phases,
            times: Some(self.times.seconds),
            script: self.times.script,
            second_run: self.times.second_run,
            has_log: log.is_some(),
            last_lines: self.times.last_lines,
            failure: None,
        };
        Ok(LocalResult {
            package,
            log,
            report,
        })
    }
}

/// The log and its digest, if there is a log.
fn log(path: &std::path::Path) -> fs::Result<Option<KnownFile>> {
    let Some(file) = fs::if_there(fs::open_file(path))? else {
        return Ok(None);
    };
    let (digests, size) = Digests::of_reader(file, &[Algorithm::Sha256]).at("read", path)?;
    let sha256 = digests.sha256().unwrap_or_default().to_owned();
    Ok(Some(KnownFile {
        path: path.to_owned(),
        digest: Digest { sha256, size },
    }))
}

/// How a compiled package is compressed: `gzip` or `none`.
fn compression(package: &KnownFile) -> fs::Result<&'static str> {
    let mut beginning = Vec::new();
    let file = fs::open_file(&package.path)?;
    let read = file.take(8).read_to_end(&mut beginning);
    read.at("read", &package.path)?;
    Ok(match Compression::detect(&beginning) {
        Some(Compression::Gzip) => "gzip",
        _ => "none",
    })
}
