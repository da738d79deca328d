//! Recognizes files that users pass in place of a release tarball: by the first bytes or, for an archive, by the paths in it. No I/O.

mod archive;
mod text;

use std::collections::BTreeSet;
use std::path::PathBuf;

/// How many bytes of a file are examined.
pub(super) const BEGINNING: usize = 4096;

/// Something that is not a release tarball.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookalike {
    /// A file without content.
    EmptyFile,
    /// A web page.
    Html,
    /// A response of an S3 or GCS blobstore that reports an error.
    BlobstoreError {
        /// The error code, such as `NoSuchKey`.
        code: Option<String>,
    },
    /// Another XML document.
    Xml,
    /// JSON, such as the response of a server.
    Json,
    /// A pointer of Git LFS.
    GitLfsPointer,
    /// A zip archive.
    Zip,
    /// Another kind of file, with the name of the kind.
    Binary(&'static str),
    /// Only the manifest of a release.
    ReleaseManifest,
    /// The index of a release's final versions or blobs.
    ReleaseIndex,
    /// A deployment manifest.
    DeploymentManifest,
    /// An archive without entries, apart from clutter such as `._NAME`.
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
    /// An archive that contains a release in a subdirectory.
    Nested {
        /// The directory that contains `release.MF`.
        directory: PathBuf,
    },
    /// An archive with a manifest whose name differs from `release.MF` in case.
    OtherCase {
        /// The name.
        name: String,
    },
    /// The source repository of a release.
    SourceRepository {
        /// The directory in the archive that contains it. Empty for the top.
        directory: PathBuf,
    },
    /// A release without its manifest.
    WithoutManifest,
    /// An archive of tarballs.
    Tarballs {
        /// The first tarball.
        first: PathBuf,
    },
    /// Any other archive.
    Archive {
        /// The alphabetically first names at its top, quoted for the message.
        top: Vec<String>,
    },
}

impl Lookalike {
    /// Recognizes a file by its first bytes, if it is not a tar archive. The bytes of a compressed file must be decompressed.
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
        let only_in_releases = ["jobs", "packages", "compiled_packages", "commit_hash"];
        if has("name") && has("version") && only_in_releases.iter().any(|key| has(key)) {
            return Some(Self::ReleaseManifest);
        }
        let is_json = text.starts_with('{') || text.starts_with("[{");
        if is_json && text.contains('"') {
            return Some(Self::Json);
        }
        // In alphabetical order, the lists of a manifest come before `name` and `version` and may fill all the bytes that are examined.
        (has("jobs") || has("packages") || has("compiled_packages"))
            .then_some(Self::ReleaseManifest)
    }
}

/// The text of the first XML element with a name, if the text is a plain word.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once("</")?;
    let is_word = !text.is_empty()
        && text.len() <= 100
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_word.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
    fn texts_have_a_description_and_advice() {
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
