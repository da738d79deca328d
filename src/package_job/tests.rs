//! Jobs and reports are read and written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::release::{Name, Slug, Version};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

fn dependency(text: &str) -> JobDependency {
    JobDependency {
        name: name(text),
        version: version("1"),
        blob: PathBuf::from(format!("dependencies/{text}")),
    }
}

fn job() -> PackageJob {
    PackageJob {
        name: name("app"),
        version: version("abc"),
        source: PathBuf::from("source"),
        dependencies: vec![dependency("zlib"), dependency("lib")],
        stemcell: Some(Slug::parse("ubuntu-noble/1.406").unwrap()),
        script_user: Some(ScriptUser::Root),
        settings: JobSettings {
            variables: BTreeMap::from([("B".to_owned(), "2".to_owned())]),
            ..JobSettings::default()
        },
    }
}

/// The bytes are an input of a remote action: if they change, all results of earlier versions are lost.
const BYTES: &str = r#"{"name":"app","version":"abc","source":"source","dependencies":[{"name":"lib","version":"1","blob":"dependencies/lib"},{"name":"zlib","version":"1","blob":"dependencies/zlib"}],"stemcell":"ubuntu-noble/1.406","script_user":"root","settings":{"base_directory":"/var/vcap","isolation":"auto","second_run":"auto","readonly_dependencies":false,"protect_host":false,"network":"host","shared_scratch":true,"make_jobserver":false,"reproducible":false,"compression_level":6,"variables":{"B":"2"}}}
"#;

#[test]
fn canonical_bytes_of_a_job_are_constant() {
    assert_eq!(String::from_utf8(job().to_json().unwrap()).unwrap(), BYTES);
}

#[test]
fn job_is_read_as_it_was_written() {
    let read = PackageJob::parse(BYTES.as_bytes()).unwrap();
    assert_eq!(read.to_json().unwrap(), BYTES.as_bytes());
    assert_eq!(read.settings, job().settings);
}

#[test]
fn missing_fields_of_a_job_have_the_defaults_of_flags() {
    let json = br#"{"name":"app","version":"abc","source":"app.tgz"}"#;
    let job = PackageJob::parse(json).unwrap();
    assert_eq!(job.settings, JobSettings::default());
    assert_eq!((job.dependencies.len(), job.stemcell), (0, None));
}

#[test]
fn wrong_jobs_are_refused_with_the_reason() {
    let with = |fields: &str| {
        format!(r#"{{"name":"app","version":"1","source":"s","dependencies":[],{fields}}}"#)
    };
    let depends = |first: &str, second: &str| {
        format!(r#"{{"name":"app","version":"1","source":"s","dependencies":[{first},{second}]}}"#)
    };
    let lib = r#"{"name":"lib","version":"1","blob":"l"}"#;
    for (json, part) in [
        ("{".to_owned(), "EOF"),
        (with(r#""mood":1"#), "unknown field `mood`"),
        (with(r#""settings":{"speed":1}"#), "unknown field `speed`"),
        (with(r#""stemcell":"noble""#), "expected OS/VERSION"),
        (
            with(r#""settings":{"base_directory":"vcap"}"#),
            "not an absolute path",
        ),
        (
            with(r#""settings":{"compression_level":0}"#),
            "level 0 is not from 1 to 9",
        ),
        (
            with(r#""settings":{"variables":{"A=B":""}}"#),
            "`A=B` cannot be set",
        ),
        (depends(lib, lib), "dependency lib is given twice"),
        (
            depends(lib, r#"{"name":"app","version":"1","blob":"a"}"#),
            "cannot depend on itself",
        ),
        (
            depends(lib, r#"{"name":"b","version":"../1","blob":"b"}"#),
            "contains '/'",
        ),
    ] {
        let text = PackageJob::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(text.contains(part), "{json}: {text}");
    }
}

#[test]
fn relative_paths_of_a_job_are_below_a_directory() {
    let mut job = job();
    job.dependencies[0].blob = PathBuf::from("/blobs/zlib");
    let job = job.below(Path::new("/work"));
    assert_eq!(job.source, Path::new("/work/source"));
    assert_eq!(job.dependencies[0].blob, Path::new("/blobs/zlib"));
    assert_eq!(
        job.dependencies[1].blob,
        Path::new("/work/dependencies/lib")
    );
}

fn report() -> PackageReport {
    let blob = |size| Blob {
        size,
        sha1: Some("1".to_owned()),
        sha256: None,
    };
    PackageReport {
        format_version: REPORT_VERSION,
        agent: Agent::this(),
        name: "app".to_owned(),
        version: "abc".to_owned(),
        stemcell: None,
        machine_stemcell: None,
        architecture: "x86_64".to_owned(),
        isolation: Some("namespace".to_owned()),
        started: "2026-01-01T00:00:00Z".to_owned(),
        seconds: 1.5,
        result: PackageResult::Failed,
        exit_code: 1,
        failure_kind: Some(Blame::Script),
        errors: vec!["error".to_owned()],
        warnings: Vec::new(),
        source: Some(blob(1)),
        dependencies: vec![ReportedDependency {
            name: "lib".to_owned(),
            version: "1".to_owned(),
            blob: Some(blob(2)),
        }],
        compiled: None,
        unrestricted: false,
        phases: vec![Phase {
            name: PhaseName::Script,
            start: 0.1,
            seconds: 1.0,
        }],
        times: Some(Seconds::default()),
        script: None,
        second_run: None,
        has_log: true,
        last_lines: Vec::new(),
        failure: Some(PackageFailureReport {
            kind: Blame::Script,
            message: "error".to_owned(),
            exit_code: Some(1),
            signal: None,
            error_line: Some(LogLine {
                number: 3,
                text: "cc: error".to_owned(),
            }),
            last_lines: Vec::new(),
            hints: Vec::new(),
        }),
    }
}

#[test]
fn report_is_read_as_it_was_written() {
    let json = serde_json::to_vec(&report()).unwrap();
    let read: PackageReport = serde_json::from_slice(&json).unwrap();
    assert_eq!(read, report());
}

#[test]
fn unknown_fields_of_a_report_are_ignored() {
    let mut json = serde_json::to_value(report()).unwrap();
    json["mood"] = "good".into();
    json["failure"]["mood"] = "bad".into();
    let read: PackageReport = serde_json::from_value(json).unwrap();
    assert_eq!(read, report());
}

proptest! {
    #[test]
    fn order_of_variables_and_dependencies_does_not_matter(
        names in proptest::collection::btree_set("[a-z]{1,4}", 0..6),
        seed in any::<prop::sample::Index>(),
    ) {
        let mut one = job();
        one.dependencies = names.iter().map(|it| dependency(it)).collect();
        one.settings.variables = names.iter().map(|it| (it.clone(), "1".to_owned())).collect();
        let mut other = one.clone();
        let count = names.len().max(1);
        other.dependencies.rotate_left(seed.index(count).min(names.len()));
        other.settings.variables = names.iter().rev().map(|it| (it.clone(), "1".to_owned())).collect();
        prop_assert_eq!(one.to_json().unwrap(), other.to_json().unwrap());
    }
}
