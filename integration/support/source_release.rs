//! A source release as in a Director after its upload: packages with their blobs, dependencies before dependents.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::docker::run;

const LIMIT: Duration = Duration::from_secs(60);

/// An unpacked release.
pub(crate) struct SourceRelease {
    _directory: TempDir,
    /// Dependencies come before dependents.
    pub(crate) packages: Vec<SourcePackage>,
}

/// One package.
#[derive(Debug, Clone)]
pub(crate) struct SourcePackage {
    pub(crate) name: String,
    /// The version that the Director sends: that of the release, followed by a build number.
    pub(crate) version: String,
    /// The digest of the blob in the manifest.
    pub(crate) digest: String,
    /// Its direct dependencies.
    pub(crate) dependencies: Vec<String>,
    pub(crate) blob: PathBuf,
}

impl SourceRelease {
    /// Reads a tarball with tools that share no code with the agent.
    #[track_caller]
    pub(crate) fn read(tarball: &Path) -> Self {
        const TO_JSON: &str =
            "require 'yaml'; require 'json'; puts JSON.generate(YAML.load_file(ARGV.fetch(0)))";
        let directory = tempfile::tempdir().unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(tarball).arg("-C").arg(directory.path());
        run(&mut tar, LIMIT).expect_code(0, "unpacking a release");
        let mut ruby = Command::new("ruby");
        ruby.args(["-e", TO_JSON])
            .arg(directory.path().join("release.MF"));
        let manifest = run(&mut ruby, LIMIT);
        manifest.expect_code(0, "reading a manifest");
        let manifest: Value = serde_json::from_str(&manifest.stdout).unwrap();
        let packages = packages_of(&manifest, directory.path());
        assert!(
            !packages.is_empty(),
            "no source packages in {}",
            tarball.display()
        );
        for package in &packages {
            let size = fs::metadata(&package.blob).map(|blob| blob.len());
            assert!(size.is_ok_and(|size| size > 0), "{package:?}");
        }
        Self {
            _directory: directory,
            packages: ordered(packages),
        }
    }

    /// One package by its name.
    #[track_caller]
    pub(crate) fn package(&self, name: &str) -> &SourcePackage {
        let found = self.packages.iter().find(|package| package.name == name);
        found.unwrap_or_else(|| panic!("no package {name}"))
    }
}

fn packages_of(manifest: &Value, directory: &Path) -> Vec<SourcePackage> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let packages = manifest["packages"].as_array().cloned().unwrap_or_default();
    let package = |package: &Value| {
        let name = text(&package["name"]);
        let dependencies = package["dependencies"].as_array().cloned();
        SourcePackage {
            version: format!("{}.1", text(&package["version"])),
            digest: text(&package["sha1"]),
            dependencies: dependencies.unwrap_or_default().iter().map(text).collect(),
            blob: directory.join(format!("packages/{name}.tgz")),
            name,
        }
    };
    packages.iter().map(package).collect()
}

/// Moves each package after its dependencies. The order is otherwise that of the manifest.
fn ordered(mut left: Vec<SourcePackage>) -> Vec<SourcePackage> {
    let mut done: Vec<SourcePackage> = Vec::new();
    while !left.is_empty() {
        let is_ready = |package: &SourcePackage| {
            let is_done = |name: &String| done.iter().any(|package| package.name == *name);
            package.dependencies.iter().all(is_done)
        };
        let at = left.iter().position(is_ready);
        let at = at.unwrap_or_else(|| panic!("no order for {left:?}"));
        done.push(left.remove(at));
    }
    done
}

mod tests {
    use serde_json::json;

    use super::*;
    use crate::common::ReleaseBuilder;

    #[test]
    fn packages_come_after_their_dependencies() {
        let manifest = json!({ "packages": [
            { "name": "app", "version": "3", "sha1": "sha256:ab", "dependencies": ["lib", "base"] },
            { "name": "lib", "version": "2", "sha1": "cd", "dependencies": ["base"] },
            { "name": "base", "version": "1", "sha1": "ef" },
        ]});
        let packages = ordered(packages_of(&manifest, Path::new("/release")));
        let names: Vec<_> = packages.iter().map(|package| &package.name).collect();
        assert_eq!(names, ["base", "lib", "app"]);
        assert_eq!(packages[2].version, "3.1");
        assert_eq!(packages[2].digest, "sha256:ab");
        assert_eq!(packages[2].dependencies, ["lib", "base"]);
        assert_eq!(packages[0].blob, Path::new("/release/packages/base.tgz"));
    }

    #[test]
    fn tarball_is_read_with_the_systems_tools() {
        let directory = tempfile::tempdir().unwrap();
        let tarball = directory.path().join("demo.tgz");
        ReleaseBuilder::demo().write(&tarball);
        let release = SourceRelease::read(&tarball);
        assert_eq!(release.packages.len(), 2);
        assert_eq!(release.package("app").dependencies, ["lib"]);
        assert!(release.package("lib").digest.starts_with("sha256:"));
    }
}
