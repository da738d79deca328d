//! Recognizes files that are passed instead of a release tarball, by their first bytes or by the
//! names in the archive. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::clutter::is_clutter;

/// The number of bytes that are examined at the start of a file.
pub(super) const BEGINNING: usize = 4096;

/// The number of names that are listed of an unrecognized archive.
const LISTED: usize = 6;

/// A file that is not a release tarball.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookalike {
    /// A file without content.
    EmptyFile,
    /// A web page.
    Html,
    /// An error response of an S3 or GCS blobstore.
    BlobstoreError {
        /// Such as `NoSuchKey`.
        code: Option<String>,
    },
    /// Some other XML.
    Xml,
    /// JSON, such as a server's response.
    Json,
    /// A Git LFS pointer.
    GitLfsPointer,
    /// A zip archive.
    Zip,
    /// Another known kind of file, with the name of the kind.
    Binary(&'static str),
    /// The manifest of a release without the release.
    ReleaseManifest,
    /// The index of a release's final versions or blobs.
    ReleaseIndex,
    /// A deployment manifest.
    DeploymentManifest,
    /// An archive without entries.
    EmptyArchive,
    /// A stemcell.
    Stemcell,
    /// One job of a release.
    Job,
    /// The source of one package of a release.
    Package,
    /// The license of a release.
    License,
    /// A container image as `docker save` or an OCI tool writes it.
    ContainerImage,
    /// A root file system.
    RootFileSystem,
    /// A release in a directory of the archive.
    Nested {
        /// The directory that has `release.MF`.
        directory: PathBuf,
    },
    /// A manifest by another name.
    OtherCase {
        /// The name.
        name: String,
    },
    /// The source repository of a release.
    SourceRepository {
        /// Its directory in the archive; empty for the top.
        directory: PathBuf,
    },
    /// A release without its manifest.
    WithoutManifest,
    /// An archive of tarballs.
    Tarballs {
        /// The first.
        first: PathBuf,
    },
    /// Any other archive.
    Archive {
        /// The first names at its top.
        top: Vec<String>,
    },
}

impl Lookalike {
    /// Recognizes a file that is not a tar archive by its first bytes, which are decompressed.
    pub(super) fn of_bytes(beginning: &[u8]) -> Option<Self> {
        if beginning.is_empty() {
            return Some(Self::EmptyFile);
        }
        for (magic, found) in [
            (&b"PK\x03\x04"[..], Self::Zip),
            (b"PK\x05\x06", Self::Zip),
            (b"7z\xbc\xaf\x27\x1c", Self::Binary("a 7-Zip archive")),
            (b"Rar!\x1a\x07", Self::Binary("a RAR archive")),
            (b"!<arch>\ndebian", Self::Binary("a Debian package")),
            (b"\xed\xab\xee\xdb", Self::Binary("an RPM package")),
            (b"\x7fELF", Self::Binary("a program")),
            (b"%PDF-", Self::Binary("a PDF document")),
            (b"QFI\xfb", Self::Binary("a disk image")),
            (b"KDMV", Self::Binary("a disk image")),
        ] {
            if beginning.starts_with(magic) {
                return Some(found);
            }
        }
        Self::of_text(&String::from_utf8_lossy(beginning))
    }

    fn of_text(text: &str) -> Option<Self> {
        let text = text.trim_start_matches('\u{feff}').trim_start();
        let lower = text.to_ascii_lowercase();
        if text.starts_with("version https://git-lfs.github.com/spec/") {
            return Some(Self::GitLfsPointer);
        }
        if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
            return Some(Self::Html);
        }
        if lower.starts_with("<?xml") || lower.starts_with("<error>") {
            return Some(match text.split_once("<Error>") {
                Some((_, error)) => Self::BlobstoreError {
                    code: element(error, "Code"),
                },
                None if lower.contains("<html") => Self::Html,
                None => Self::Xml,
            });
        }
        let keys: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, _)| key)
            .filter(|key| !key.is_empty() && !key.contains([' ', '\t', '"', '#']))
            .collect();
        let has = |key: &str| keys.contains(key);
        if has("instance_groups") || has("stemcells") {
            return Some(Self::DeploymentManifest);
        }
        if has("builds") && has("format-version") {
            return Some(Self::ReleaseIndex);
        }
        let lists = ["jobs", "packages", "compiled_packages", "commit_hash"];
        if has("name") && has("version") && lists.iter().any(|key| has(key)) {
            return Some(Self::ReleaseManifest);
        }
        // In a manifest in alphabetical order, the other keys may follow after the examined bytes.
        let is_json = text.starts_with('{') || text.starts_with("[{");
        if is_json && text.contains('"') {
            return Some(Self::Json);
        }
        (has("jobs") || has("packages") || has("compiled_packages"))
            .then_some(Self::ReleaseManifest)
    }

    /// Recognizes an archive without a `release.MF` at its top by the paths in it.
    pub(super) fn of_paths<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let paths: Vec<&Path> = paths.into_iter().filter(|path| !is_clutter(path)).collect();
        let top: BTreeSet<&str> = paths.iter().filter_map(|path| first(path)).collect();
        let has = |path: &str| paths.iter().any(|it| it.starts_with(path));
        let has_at = |directory: &Path, path: &str| {
            let path = directory.join(path);
            paths.iter().any(|it| it.starts_with(&path))
        };
        if top.is_empty() {
            return Self::EmptyArchive;
        }
        if top.contains("stemcell.MF") {
            return Self::Stemcell;
        }
        let has_layers =
            || top.contains("repositories") || paths.iter().any(|path| is_tarball(path));
        if top.contains("oci-layout") || (top.contains("manifest.json") && has_layers()) {
            return Self::ContainerImage;
        }
        if let Some(name) = top.iter().find(|it| it.eq_ignore_ascii_case("release.MF")) {
            let name = (*name).to_owned();
            return Self::OtherCase { name };
        }
        if top.contains("job.MF") {
            return Self::Job;
        }
        if top.contains("packaging") {
            return Self::Package;
        }
        let is_repository = |directory: &Path| {
            has_at(directory, "config/final.yml")
                || (has_at(directory, "packages")
                    && has_at(directory, "jobs")
                    && (has_at(directory, "src") || has_at(directory, "config")))
        };
        if is_repository(Path::new("")) {
            let directory = PathBuf::new();
            return Self::SourceRepository { directory };
        }
        if let [only] = top.iter().collect::<Vec<_>>()[..]
            && is_repository(Path::new(only))
        {
            let directory = PathBuf::from(only);
            return Self::SourceRepository { directory };
        }
        let is_manifest = |path: &&&Path| path.file_name().is_some_and(|it| it == "release.MF");
        let nested = paths
            .iter()
            .filter(is_manifest)
            .min_by_key(|path| path.components().count());
        if let Some(directory) = nested.and_then(|path| path.parent()) {
            let directory = directory.to_owned();
            return Self::Nested { directory };
        }
        if paths.iter().any(|path| {
            is_tarball(path)
                && ["packages", "compiled_packages", "jobs"]
                    .iter()
                    .any(|it| path.starts_with(it))
        }) {
            return Self::WithoutManifest;
        }
        if let Some(first) = paths.iter().find(|path| is_tarball(path)) {
            let first = first.to_path_buf();
            return Self::Tarballs { first };
        }
        if top
            .iter()
            .all(|it| it.starts_with("LICENSE") || it.starts_with("NOTICE"))
        {
            return Self::License;
        }
        if ["etc", "usr", "var"].iter().all(|it| has(it)) {
            return Self::RootFileSystem;
        }
        Self::Archive {
            top: top.iter().take(LISTED).map(|it| shown(it)).collect(),
        }
    }
}

/// Whether a path has the name of a tarball.
fn is_tarball(path: &Path) -> bool {
    let name = path.to_string_lossy();
    [".tgz", ".tar.gz", ".tar"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}

/// The first part of a path, if it is text.
fn first(path: &Path) -> Option<&str> {
    path.iter().next()?.to_str()
}

/// A name as messages show it.
fn shown(name: &str) -> String {
    format!("`{}`", name.escape_debug())
}

/// The text of the first XML element of a name, if it is a plain word.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once("</")?;
    let is_word = !text.is_empty()
        && text.len() <= 100
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_word.then(|| text.to_owned())
}

/// How to create a release tarball.
const CREATE: &str = "run `bosh create-release --tarball=RELEASE.tgz` in the release's repository and pass that tarball, or \
                      download it from bosh.io";

/// What to do about a failed download.
const DOWNLOAD: &str = "download the release tarball again and check the URL and the credentials";

impl fmt::Display for Lookalike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part_of = |f: &mut fmt::Formatter<'_>, what: &str| {
            write!(
                f,
                "it is {what}, which is only a part of a release: pass the tarball of the whole release, which has release.MF at its top"
            )
        };
        match self {
            Self::EmptyFile => write!(f, "the file is empty: {DOWNLOAD}"),
            Self::Html => write!(f, "it is an HTML page, such as a login or error page: {DOWNLOAD}"),
            Self::BlobstoreError { code: Some(code) } => {
                write!(f, "it is an XML error response of a blobstore (`{code}`): {DOWNLOAD}")
            }
            Self::BlobstoreError { code: None } => {
                write!(f, "it is an XML error response of a blobstore: {DOWNLOAD}")
            }
            Self::Xml => write!(f, "it is an XML document: {DOWNLOAD}"),
            Self::Json => write!(f, "it is JSON, such as a server's response: {DOWNLOAD}"),
            Self::GitLfsPointer => f.write_str(
                "it is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository",
            ),
            Self::Zip => write!(
                f,
                "it is a zip archive, but a release is a tar archive. For a repository downloaded from GitHub: {CREATE}. For a tile: pass \
                 the tarballs in its directory `releases`"
            ),
            Self::Binary(kind) => write!(f, "it is {kind}: pass a release tarball"),
            Self::ReleaseManifest => f.write_str(
                "it is only the manifest of a release: run `bosh create-release --tarball=RELEASE.tgz MANIFEST` in \
                 the release's repository, with the path of this file for MANIFEST, and pass that tarball",
            ),
            Self::ReleaseIndex => {
                write!(f, "it is the index of a release's final versions: {CREATE}")
            }
            Self::DeploymentManifest => f.write_str(
                "it is a deployment manifest: pass the tarballs of the releases that it names",
            ),
            Self::EmptyArchive => write!(f, "the archive has no entries: {DOWNLOAD}"),
            Self::Stemcell => f.write_str(
                "it is a stemcell: pass a release, and compile it in a container of the stemcell's image or with --stemcell \
                 OS/VERSION",
            ),
            Self::Job => part_of(f, "a job"),
            Self::Package => part_of(f, "the source of a package"),
            Self::License => part_of(f, "the license of a release"),
            Self::ContainerImage => f.write_str(
                "it is a container image: pass a release tarball, and compile it in a container of that image",
            ),
            Self::RootFileSystem => {
                f.write_str("it is a root file system: pass a release tarball")
            }
            Self::Nested { directory } => write!(
                f,
                "the release is in its directory `{}`: pack the contents of that directory, for example with `tar -czf RELEASE.tgz -C {} .`",
                directory.display(),
                directory.display()
            ),
            Self::OtherCase { name } => {
                write!(f, "it has `{}`: rename that file to `release.MF`", name.escape_debug())
            }
            Self::SourceRepository { directory } => {
                f.write_str("it is the source repository of a release")?;
                if !directory.as_os_str().is_empty() {
                    write!(f, " (`{}`), as GitHub packs it", directory.display())?;
                }
                write!(f, ", and not a release: {CREATE}")
            }
            Self::WithoutManifest => {
                f.write_str("it has jobs or packages of a release, but not its manifest: pack the release again with release.MF")
            }
            Self::Tarballs { first } => write!(
                f,
                "it contains other archives, such as `{}`: extract it, and pass the release tarballs in it",
                first.display()
            ),
            Self::Archive { top } => write!(
                f,
                "it has {} at its top, so it may be a compiled package or an unrelated archive: pass the tarball of the whole release",
                top.join(", ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_bytes(bytes: &[u8]) -> Option<Lookalike> {
        Lookalike::of_bytes(bytes)
    }

    fn of_paths(paths: &str) -> Lookalike {
        Lookalike::of_paths(paths.split_whitespace().map(Path::new))
    }

    #[test]
    fn files_are_recognized_by_their_first_bytes() {
        let code = |code: &str| Lookalike::BlobstoreError {
            code: Some(code.to_owned()),
        };
        for (text, expected) in [
            ("", Lookalike::EmptyFile),
            ("<!DOCTYPE html><html>", Lookalike::Html),
            ("\n <HTML>", Lookalike::Html),
            (
                "<?xml version=\"1.0\"?>\n<!DOCTYPE x><html>",
                Lookalike::Html,
            ),
            (
                "<?xml version=\"1.0\"?>\n<Error><Code>NoSuchKey</Code><Message>",
                code("NoSuchKey"),
            ),
            ("<Error><Code>AccessDenied</Code>", code("AccessDenied")),
            (
                "<?xml?><Error><Code>\u{1b}[2J</Code>",
                Lookalike::BlobstoreError { code: None },
            ),
            ("<?xml version=\"1.0\"?><project/>", Lookalike::Xml),
            ("{\"message\": \"Not Found\"}", Lookalike::Json),
            (
                "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n",
                Lookalike::GitLfsPointer,
            ),
            ("PK\x03\x04\x14", Lookalike::Zip),
            ("\x7fELF\x02", Lookalike::Binary("a program")),
            (
                "---\nname: redis\nversion: 15\njobs:\n- name: a\n",
                Lookalike::ReleaseManifest,
            ),
            (
                "packages:\n- name: a\n  version: 1\n",
                Lookalike::ReleaseManifest,
            ),
            (
                "builds:\n  1-2:\n    version: \"1\"\nformat-version: \"2\"\n",
                Lookalike::ReleaseIndex,
            ),
            (
                "name: dep\nreleases:\n- name: x\nstemcells:\n",
                Lookalike::DeploymentManifest,
            ),
        ] {
            assert_eq!(of_bytes(text.as_bytes()), Some(expected), "{text:?}");
        }
        for bytes in [
            &b"# a script\n"[..],
            b"\xff\xfe\0\0",
            b"no archive",
            b"a: b\n",
        ] {
            assert_eq!(of_bytes(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn archives_are_recognized_by_their_paths() {
        let nested = |directory: &str| Lookalike::Nested {
            directory: PathBuf::from(directory),
        };
        let repository = |directory: &str| Lookalike::SourceRepository {
            directory: PathBuf::from(directory),
        };
        for (paths, expected) in [
            ("", Lookalike::EmptyArchive),
            ("._x __MACOSX/x", Lookalike::EmptyArchive),
            ("stemcell.MF apply_spec.yml image", Lookalike::Stemcell),
            ("job.MF monit templates/x", Lookalike::Job),
            ("packaging src/main.c", Lookalike::Package),
            ("LICENSE NOTICE.md", Lookalike::License),
            (
                "manifest.json repositories ab/layer.tar",
                Lookalike::ContainerImage,
            ),
            (
                "oci-layout index.json blobs/sha256/ab",
                Lookalike::ContainerImage,
            ),
            ("usr/bin/x etc/passwd var", Lookalike::RootFileSystem),
            ("demo/release.MF demo/packages/a.tgz", nested("demo")),
            (
                "tmp/build/demo/release.MF tmp/build/demo/docs/release.MF",
                nested("tmp/build/demo"),
            ),
            (
                "redis-15 redis-15/config/final.yml redis-15/packages/redis/packaging",
                repository("redis-15"),
            ),
            (
                "redis-15/config/final.yml redis-15/docs/release.MF",
                repository("redis-15"),
            ),
            (
                "jobs/a/spec packages/b/spec src/c config/blobs.yml",
                repository(""),
            ),
            ("packages/a.tgz jobs/b.tgz", Lookalike::WithoutManifest),
            (
                "a/redis-15.tgz a/SHA256SUMS",
                Lookalike::Tarballs {
                    first: PathBuf::from("a/redis-15.tgz"),
                },
            ),
            (
                "Release.mf packages/a.tgz",
                Lookalike::OtherCase {
                    name: "Release.mf".to_owned(),
                },
            ),
            (
                "bin/redis lib",
                Lookalike::Archive {
                    top: vec!["`bin`".to_owned(), "`lib`".to_owned()],
                },
            ),
        ] {
            assert_eq!(of_paths(paths), expected, "{paths:?}");
        }
    }

    #[test]
    fn every_text_says_what_to_pass() {
        for found in [
            of_paths("stemcell.MF"),
            of_paths("job.MF"),
            of_paths("bin/x"),
            of_paths("a/release.MF"),
            of_bytes(b"PK\x03\x04").unwrap(),
            of_bytes(b"<html>").unwrap(),
        ] {
            let text = found.to_string();
            assert!(text.contains(": "), "{text}");
        }
    }
}
