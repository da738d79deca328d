//! Checks the report that each call of a test writes.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::schema::differences;
use super::tools::run_tool;

/// The path of a report that no other call of the test process writes.
pub(crate) fn new_path(directory: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    directory.join(format!("report-{number}.json"))
}

/// Reads a report and checks it against the schema, the files that it names, and the exit code and stdout of its call. Relative paths
/// are relative to `directory`.
#[track_caller]
pub(crate) fn checked(path: &Path, directory: &Path, code: i32, stdout: Option<&str>) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("no report: {error}"));
    let report: Value = serde_json::from_slice(&text).unwrap();
    let schema = include_str!("../../docs/report.schema.json");
    let found = differences(&report, &serde_json::from_str(schema).unwrap());
    assert!(
        found.is_empty(),
        "the report differs from its schema: {found:#?}"
    );
    assert_eq!(report["exit_code"], code);
    let outputs = report["outputs"].as_array().unwrap();
    if let Some(stdout) = stdout {
        let paths = outputs.iter().map(|it| it["path"].as_str().unwrap());
        assert_eq!(
            stdout,
            paths.map(|path| format!("{path}\n")).collect::<String>()
        );
    }
    for output in outputs {
        let shown = output["path"].as_str().unwrap();
        if shown.contains(char::REPLACEMENT_CHARACTER) {
            // JSON has no way to write the name.
            continue;
        }
        let path = directory.join(shown);
        assert_eq!(output["sha256"], sha256_of(&path), "{shown}");
        assert_eq!(output["size"], std::fs::metadata(&path).unwrap().len());
    }
    report
}

/// The digest of a file from `sha256sum`.
pub(crate) fn sha256_of(path: &Path) -> String {
    let printed = run_tool("sha256sum", &[path]);
    printed.split_whitespace().next().unwrap().to_owned()
}
