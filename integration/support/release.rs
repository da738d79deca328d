//! Small source releases of one package, made with the host's tar.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::docker::run;

const LIMIT: Duration = Duration::from_secs(30);

/// A package of a release: its name, the names of its dependencies, its packaging script.
pub(crate) type Package<'a> = (&'a str, &'a [&'a str], &'a str);

/// Writes the source release NAME/1 with one package, whose packaging script is given, as `NAME.tgz` into a directory.
pub(crate) fn write(directory: &Path, name: &str, package: &str, script: &str) -> PathBuf {
    write_all(directory, name, &[(package, &[], script)])
}

/// Writes the source release NAME/1 with these packages as `NAME.tgz` into a directory.
pub(crate) fn write_all(directory: &Path, name: &str, packages: &[Package]) -> PathBuf {
    let work = tempfile::tempdir().unwrap();
    let release = work.path().join("release");
    fs::create_dir_all(release.join("packages")).unwrap();
    let mut manifest = format!(
        "name: {name}\nversion: \"1\"\ncommit_hash: abcdef0\nuncommitted_changes: false\npackages:\n"
    );
    for (package, dependencies, script) in packages {
        let source = work.path().join(format!("source-{package}"));
        let blob = release.join(format!("packages/{package}.tgz"));
        fs::create_dir(&source).unwrap();
        fs::write(source.join("packaging"), script).unwrap();
        tar(&source, &blob, &["."]);
        let digest = run(Command::new("sha256sum").arg(&blob), LIMIT);
        digest.expect_code(0, "sha256sum");
        let digest = digest.stdout.split_whitespace().next().unwrap();
        write!(
            manifest,
            "- name: {package}\n  version: {digest}\n  fingerprint: {digest}\n  sha1: sha256:{digest}\n  \
             dependencies: [{}]\n",
            dependencies.join(", ")
        )
        .unwrap();
    }
    fs::write(release.join("release.MF"), manifest).unwrap();
    let output = directory.join(format!("{name}.tgz"));
    tar(&release, &output, &["release.MF", "packages"]);
    output
}

fn tar(directory: &Path, output: &Path, names: &[&str]) {
    let outcome = run(
        Command::new("tar")
            .arg("-C")
            .arg(directory)
            .arg("-czf")
            .arg(output)
            .args(names),
        LIMIT,
    );
    outcome.expect_code(0, "tar");
}
