//! Builds source releases.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::tools::{run_tool, run_tool_with, with_input};
use super::ustar::{Member, TIME, archive};

/// The compression of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Compression {
    pub(crate) fn tool(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Gzip => Some("gzip"),
            Self::Bzip2 => Some("bzip2"),
            Self::Xz => Some("xz"),
            Self::Zstd => Some("zstd"),
        }
    }

    pub(crate) fn apply(self, bytes: &[u8]) -> Vec<u8> {
        match self.tool() {
            None => bytes.to_vec(),
            // Without the time, so that equal contents make equal blobs.
            Some("gzip") => run_tool_with("gzip", &["-nc"], bytes),
            Some(tool) => run_tool_with(tool, &["-c"], bytes),
        }
    }
}

/// The format of digests in a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Digest {
    Sha1,
    Sha256,
    Sha512,
    /// `HEX;sha256:HEX;sha512:HEX`
    All,
}

#[derive(Debug, Clone)]
struct Package {
    name: String,
    version: String,
    dependencies: Vec<String>,
    files: Vec<(String, u32, Vec<u8>)>,
    compression: Compression,
    /// Of a compiled package.
    stemcell: Option<String>,
    /// Replaces the archive of the files.
    blob: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
struct Job {
    name: String,
    packages: Option<Vec<String>>,
}

/// A release under construction. Later changes override earlier ones.
#[derive(Debug, Clone)]
pub(crate) struct ReleaseBuilder {
    name: String,
    version: String,
    packages: Vec<Package>,
    jobs: Vec<Job>,
    license: bool,
    no_compression: bool,
    digest: Digest,
    others: Vec<(String, Vec<u8>)>,
    missing: Vec<String>,
    replaced: Vec<(String, Vec<u8>)>,
    edits: Vec<(String, String)>,
    manifest: Option<Vec<u8>>,
    time: u64,
}

impl ReleaseBuilder {
    pub(crate) fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            packages: Vec::new(),
            jobs: Vec::new(),
            license: false,
            no_compression: false,
            digest: Digest::Sha256,
            others: Vec::new(),
            missing: Vec::new(),
            replaced: Vec::new(),
            edits: Vec::new(),
            manifest: None,
            time: TIME,
        }
    }

    /// A release with one package `app` that has this script.
    pub(crate) fn of_script(script: &str) -> Self {
        Self::new("demo", "1.10").package("app", &[], script)
    }

    /// Two packages, one of which depends on the other, a job, and a license: enough for most tests.
    pub(crate) fn demo() -> Self {
        Self::new("demo", "1.10")
            .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/lib.txt")
            .package(
                "app",
                &["lib"],
                "mkdir $BOSH_INSTALL_TARGET/bin\n\
                 cat @packages@/lib/lib.txt source.txt > $BOSH_INSTALL_TARGET/bin/app",
            )
            .file("source.txt", 0o644, b"source of app\n")
            .job("web", &["app"])
            .license()
    }

    /// Adds a package with a script. `@packages@` in a script is the directory of installed packages, `@base@` the base directory.
    pub(crate) fn package(mut self, name: &str, dependencies: &[&str], script: &str) -> Self {
        let script = script
            .replace("@packages@", "$(dirname $BOSH_INSTALL_TARGET)")
            .replace("@base@", "$(dirname $(dirname $BOSH_INSTALL_TARGET))");
        self.packages.push(Package {
            name: name.to_owned(),
            version: format!("{}{}", "5a".repeat(19), name.len() % 90 + 10),
            dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
            files: vec![("packaging".to_owned(), 0o644, script.into_bytes())],
            compression: Compression::Gzip,
            stemcell: None,
            blob: None,
        });
        self
    }

    /// Adds a compiled package with one file.
    pub(crate) fn compiled(
        mut self,
        name: &str,
        dependencies: &[&str],
        stemcell: &str,
        file: (&str, &[u8]),
    ) -> Self {
        self = self.package(name, dependencies, "");
        let package = self.last();
        package.stemcell = Some(stemcell.to_owned());
        package.files = vec![(file.0.to_owned(), 0o755, file.1.to_vec())];
        self
    }

    fn last(&mut self) -> &mut Package {
        self.packages.last_mut().unwrap()
    }

    /// Adds a file to the source of the last package.
    pub(crate) fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        let file = (path.to_owned(), mode, content.to_vec());
        self.last().files.push(file);
        self
    }

    /// Removes the script of the last package.
    pub(crate) fn without_script(mut self) -> Self {
        self.last().files.retain(|(path, ..)| path != "packaging");
        self
    }

    /// Sets the version of the last package.
    pub(crate) fn of_version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.last().version);
        self
    }

    /// Sets the compression of the last package's blob.
    pub(crate) fn compressed(mut self, compression: Compression) -> Self {
        self.last().compression = compression;
        self
    }

    /// Sets the bytes of the last package's blob.
    pub(crate) fn blob(mut self, blob: &[u8]) -> Self {
        self.last().blob = Some(blob.to_vec());
        self
    }

    pub(crate) fn job(mut self, name: &str, packages: &[&str]) -> Self {
        self.jobs.push(Job {
            name: name.to_owned(),
            packages: Some(packages.iter().map(|name| (*name).to_owned()).collect()),
        });
        self
    }

    /// Adds a job whose manifest entry lists no packages.
    pub(crate) fn job_without_packages(mut self, name: &str) -> Self {
        self.jobs.push(Job {
            name: name.to_owned(),
            packages: None,
        });
        self
    }

    pub(crate) fn license(mut self) -> Self {
        self.license = true;
        self.other("LICENSE", b"All rights reserved.\n")
    }

    pub(crate) fn no_compression(mut self) -> Self {
        self.no_compression = true;
        self
    }

    pub(crate) fn digests(mut self, digest: Digest) -> Self {
        self.digest = digest;
        self
    }

    /// Adds a file to the tarball.
    pub(crate) fn other(mut self, path: &str, content: &[u8]) -> Self {
        self.others.push((path.to_owned(), content.to_vec()));
        self
    }

    /// Removes a file from the tarball, not from the manifest.
    pub(crate) fn without(mut self, path: &str) -> Self {
        self.missing.push(path.to_owned());
        self
    }

    /// Replaces a blob, and its digest in the manifest.
    pub(crate) fn replace(mut self, path: &str, content: &[u8]) -> Self {
        self.replaced.push((path.to_owned(), content.to_vec()));
        self
    }

    /// Replaces a text in the manifest. The text must exist.
    pub(crate) fn edit(mut self, from: &str, to: &str) -> Self {
        self.edits.push((from.to_owned(), to.to_owned()));
        self
    }

    /// Sets the time of all files, in seconds since 1970, as `git clone` does before a release is created.
    pub(crate) fn cloned_at(mut self, time: u64) -> Self {
        self.time = time;
        self
    }

    /// Sets the whole manifest.
    pub(crate) fn manifest(mut self, manifest: &[u8]) -> Self {
        self.manifest = Some(manifest.to_vec());
        self
    }

    /// All files of the tarball with their contents, `release.MF` first.
    pub(crate) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let scratch = tempfile::tempdir().unwrap();
        let mut blobs: Vec<(String, Vec<u8>)> = Vec::new();
        for job in &self.jobs {
            let packages = job.packages.as_deref().unwrap_or_default();
            let job_manifest = format!(
                "---\nname: {}\ntemplates: {{}}\npackages: [{}]\n",
                job.name,
                packages.join(", ")
            );
            let files = [
                Member::directory("./"),
                Member::file("./job.MF", job_manifest.as_bytes()),
                Member::file("./monit", b""),
            ];
            let blob = Compression::Gzip.apply(&self.archive(files));
            blobs.push((format!("jobs/{}.tgz", job.name), blob));
        }
        for package in &self.packages {
            blobs.push((package.path(), package.archive(scratch.path(), self.time)));
        }
        if self.license {
            let files = [
                Member::directory("./"),
                Member::file("./LICENSE", b"All rights reserved.\n"),
            ];
            let blob = Compression::Gzip.apply(&self.archive(files));
            blobs.push(("license.tgz".to_owned(), blob));
        }
        for (path, content) in &self.replaced {
            let blob = blobs.iter_mut().find(|(it, _)| it == path);
            let (_, blob) = blob.unwrap_or_else(|| panic!("no blob is at `{path}`"));
            blob.clone_from(content);
        }
        let manifest = match &self.manifest {
            Some(manifest) => manifest.clone(),
            None => self.manifest_of(&blobs).into_bytes(),
        };
        let mut files = vec![("release.MF".to_owned(), manifest)];
        files.extend(blobs);
        files.extend(self.others.iter().cloned());
        files.retain(|(path, _)| !self.missing.contains(path));
        files
    }

    /// The archive of these entries, with the time of this release.
    fn archive(&self, members: impl IntoIterator<Item = Member>) -> Vec<u8> {
        let time = self.time;
        let members = members.into_iter().map(|it| Member { time, ..it });
        archive(&members.collect::<Vec<_>>())
    }

    fn manifest_of(&self, blobs: &[(String, Vec<u8>)]) -> String {
        let digests = digests(blobs, self.digest);
        let mut text = format!(
            "name: {}\nversion: {:?}\ncommit_hash: 8ab1aae\nuncommitted_changes: false\n",
            self.name, self.version
        );
        let list = |text: &mut String, key: &str, names: &[String]| match names {
            [] => writeln!(text, "  {key}: []").unwrap(),
            names => {
                writeln!(text, "  {key}:").unwrap();
                for name in names {
                    writeln!(text, "  - {name}").unwrap();
                }
            }
        };
        if !self.jobs.is_empty() {
            text.push_str("jobs:\n");
        }
        for job in &self.jobs {
            let digest = &digests[&format!("jobs/{}.tgz", job.name)];
            write!(
                text,
                "- name: {}\n  version: 0a0b0c\n  fingerprint: 0a0b0c\n  sha1: {digest}\n",
                job.name
            )
            .unwrap();
            if let Some(packages) = &job.packages {
                list(&mut text, "packages", packages);
            }
        }
        for (key, is_compiled) in [("packages", false), ("compiled_packages", true)] {
            let mut packages = self
                .packages
                .iter()
                .filter(|package| package.stemcell.is_some() == is_compiled)
                .peekable();
            if packages.peek().is_some() {
                writeln!(text, "{key}:").unwrap();
            }
            for package in packages {
                write!(
                    text,
                    "- name: {}\n  version: {}\n  fingerprint: {}\n  sha1: {}\n",
                    package.name,
                    package.version,
                    package.version,
                    digests[&package.path()]
                )
                .unwrap();
                if let Some(stemcell) = &package.stemcell {
                    writeln!(text, "  stemcell: {stemcell}").unwrap();
                }
                list(&mut text, "dependencies", &package.dependencies);
            }
        }
        if self.license {
            write!(
                text,
                "license:\n  version: 4813a2\n  fingerprint: 4813a2\n  sha1: {}\n",
                digests["license.tgz"]
            )
            .unwrap();
        }
        writeln!(text, "no_compression: {}", self.no_compression).unwrap();
        for (from, to) in &self.edits {
            assert!(text.contains(from), "`{from}` is not in\n{text}");
            text = text.replace(from, to);
        }
        text
    }

    /// The entries in the CLI's format: no `./`, directories before their first file.
    pub(crate) fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = Vec::new();
        for (path, content) in self.files() {
            if let Some((directory, _)) = path.rsplit_once('/') {
                let directory = format!("{directory}/");
                if members.iter().all(|member| member.name != directory) {
                    members.push(Member::directory(&directory));
                }
            }
            let mut member = Member::file(&path, &content);
            if !path.ends_with(".tgz") {
                member.mode = 0o644;
            }
            members.push(member);
        }
        members
    }

    /// Writes the tarball in the CLI's format.
    pub(crate) fn write(&self, path: &Path) {
        let compression = match self.no_compression {
            true => Compression::Plain,
            false => Compression::Gzip,
        };
        let tarball = compression.apply(&self.archive(self.members()));
        std::fs::write(path, tarball).unwrap();
    }

    /// Writes all files below a directory, for tools that pack directories.
    pub(crate) fn write_tree(&self, directory: &Path) {
        for (path, content) in self.files() {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
}

impl Package {
    fn path(&self) -> String {
        let directory = match self.stemcell {
            Some(_) => "compiled_packages",
            None => "packages",
        };
        format!("{directory}/{}.tgz", self.name)
    }

    fn archive(&self, scratch: &Path, time: u64) -> Vec<u8> {
        if let Some(blob) = &self.blob {
            return blob.clone();
        }
        let tree = tempfile::tempdir_in(scratch).unwrap();
        std::fs::set_permissions(tree.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for (path, mode, content) in &self.files {
            let path = tree.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
        }
        let mut tar = Command::new("tar");
        // The same bytes each time: tests compare them with those of an earlier call.
        tar.args(["--sort=name", &format!("--mtime=@{time}")])
            .args(["--owner=builder:5001", "--group=builders:5002", "-cf", "-"])
            .arg("-C")
            .arg(tree.path())
            .arg(".");
        self.compression.apply(&with_input(tar, b""))
    }
}

/// The digests of some contents, by their paths.
fn digests(files: &[(String, Vec<u8>)], form: Digest) -> BTreeMap<String, String> {
    let tools: &[(&str, &str)] = match form {
        Digest::Sha1 => &[("sha1sum", "")],
        Digest::Sha256 => &[("sha256sum", "sha256:")],
        Digest::Sha512 => &[("sha512sum", "sha512:")],
        Digest::All => &[
            ("sha1sum", ""),
            ("sha256sum", "sha256:"),
            ("sha512sum", "sha512:"),
        ],
    };
    let mut digests: BTreeMap<String, String> = BTreeMap::new();
    if files.is_empty() {
        return digests;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (number, (_, content)) in files.iter().enumerate() {
        let path = scratch.path().join(number.to_string());
        std::fs::write(&path, content).unwrap();
        paths.push(path);
    }
    for (tool, prefix) in tools {
        let printed = run_tool(tool, &paths);
        for (line, (name, _)) in printed.lines().zip(files) {
            let hex = line.split_whitespace().next().unwrap();
            let digest = digests.entry(name.clone()).or_default();
            if !digest.is_empty() {
                digest.push(';');
            }
            write!(digest, "{prefix}{hex}").unwrap();
        }
    }
    digests
}
