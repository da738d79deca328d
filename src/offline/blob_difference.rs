//! Compares two compiled packages file by file.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::open::path_of;
use super::open_error::OpenError;
use super::rebuild_differences::FileDifference;
use crate::archive::{Decoder, Entry, Kind, Owner, Reader};
use crate::fs;
use crate::release::{Algorithm, Digests};
use crate::runtime::{Cancellable, ReadAhead};

/// The properties of a file in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileFacts {
    kind: Kind,
    mode: u32,
    owner: Owner,
    mtime: i64,
    link: PathBuf,
    size: u64,
    sha256: Option<String>,
}

/// The files of a compiled package by path, and the paths in the order of the archive.
#[derive(Debug, Default)]
struct PackageFiles {
    files: BTreeMap<PathBuf, FileFacts>,
    order: Vec<PathBuf>,
}

/// Compares the files of two compiled packages. The result is empty if they have the same files in the same order.
///
/// # Errors
/// A package cannot be read. The error names it.
pub(super) fn compare(
    first: &Path,
    second: &Path,
    cancel: &CancellationToken,
) -> Result<Vec<FileDifference>, (PathBuf, OpenError)> {
    let read = |blob: &Path| read(blob, cancel).map_err(|error| (blob.to_owned(), error));
    Ok(differences(&read(first)?, &read(second)?))
}

fn differences(first: &PackageFiles, second: &PackageFiles) -> Vec<FileDifference> {
    let new = |path: &Path, difference: String| FileDifference {
        path: path.to_owned(),
        difference,
    };
    let mut found = Vec::new();
    for (path, facts) in &first.files {
        match second.files.get(path) {
            None => found.push(new(path, "only in the first result".to_owned())),
            Some(other) if facts != other => found.push(new(path, difference(facts, other))),
            Some(_) => {}
        }
    }
    let added = second.files.keys();
    let added = added.filter(|path| !first.files.contains_key(*path));
    found.extend(added.map(|path| new(path, "only in the second result".to_owned())));
    let mut order = first.order.iter().zip(&second.order);
    if found.is_empty()
        && let Some((path, _)) = order.find(|(first, second)| first != second)
    {
        found.push(new(path, "at another position in the archive".to_owned()));
    }
    found
}

/// The first property in which two files differ.
fn difference(first: &FileFacts, second: &FileFacts) -> String {
    if first.kind != second.kind {
        return format!("{} and {}", kind(first.kind), kind(second.kind));
    }
    if first.link != second.link {
        let (first, second) = (first.link.display(), second.link.display());
        return format!("links to `{first}` and to `{second}`");
    }
    if first.sha256 != second.sha256 {
        return match first.size == second.size {
            true => format!("other content, {} bytes", first.size),
            false => format!("other content, {} and {} bytes", first.size, second.size),
        };
    }
    if first.mode != second.mode {
        return format!("mode {:04o} and {:04o}", first.mode, second.mode);
    }
    if first.owner != second.owner {
        return format!(
            "owned by {} and {}",
            owner(&first.owner),
            owner(&second.owner)
        );
    }
    format!("time {} and {}", time(first.mtime), time(second.mtime))
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "a file",
        Kind::Directory => "a directory",
        Kind::Symlink => "a symbolic link",
        Kind::HardLink => "a hard link",
        Kind::Fifo => "a named pipe",
        Kind::CharacterDevice | Kind::BlockDevice => "a device",
        Kind::Other(_) => "an unknown kind of file",
    }
}

fn owner(owner: &Owner) -> String {
    format!(
        "{}:{} ({}:{})",
        owner.user, owner.group, owner.uid, owner.gid
    )
}

fn time(seconds: i64) -> String {
    match chrono::DateTime::from_timestamp(seconds, 0) {
        Some(time) => time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        None => seconds.to_string(),
    }
}

fn read(blob: &Path, cancel: &CancellationToken) -> Result<PackageFiles, OpenError> {
    let file = Cancellable::new(fs::open(blob)?, cancel);
    let decoder = Decoder::new(file).map_err(OpenError::Decode)?;
    let mut reader = Reader::new(ReadAhead::new(decoder));
    let mut found = PackageFiles::default();
    while let Some(entry) = reader.next_entry()? {
        let path = path_of(&entry)?;
        let facts = facts(&entry, &mut reader)?;
        found.files.insert(path.clone(), facts);
        found.order.push(path);
    }
    Ok(found)
}

fn facts(entry: &Entry, reader: &mut Reader<impl Read>) -> Result<FileFacts, OpenError> {
    use std::os::unix::ffi::OsStrExt;
    let link = std::ffi::OsStr::from_bytes(&entry.link);
    let (mut size, mut sha256) = (0, None);
    if entry.kind == Kind::File {
        let content = Digests::of_reader(reader.whole(entry), &[Algorithm::Sha256]);
        let (digests, length) = content.map_err(OpenError::Decode)?;
        (size, sha256) = (length, digests.sha256().map(str::to_owned));
    }
    Ok(FileFacts {
        kind: entry.kind,
        mode: entry.mode,
        owner: entry.owner.clone(),
        mtime: entry.mtime,
        link: link.into(),
        size,
        sha256,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> FileFacts {
        FileFacts {
            kind: Kind::File,
            mode: 0o644,
            owner: Owner::default(),
            mtime: 0,
            link: PathBuf::new(),
            size: content.len() as u64,
            sha256: Some(content.to_owned()),
        }
    }

    fn package(files: &[(&str, FileFacts)]) -> PackageFiles {
        PackageFiles {
            files: files
                .iter()
                .map(|(path, facts)| (path.into(), facts.clone()))
                .collect(),
            order: files.iter().map(|(path, _)| path.into()).collect(),
        }
    }

    fn shown(first: &[(&str, FileFacts)], second: &[(&str, FileFacts)]) -> Vec<String> {
        let found = differences(&package(first), &package(second));
        let lines = found.iter();
        lines
            .map(|it| format!("{}: {}", it.path.display(), it.difference))
            .collect()
    }

    #[test]
    fn each_difference_is_named() {
        let one = file("abc");
        let cases = [
            (
                FileFacts {
                    sha256: Some("xyz".to_owned()),
                    ..one.clone()
                },
                "a: other content, 3 bytes",
            ),
            (file("ab"), "a: other content, 3 and 2 bytes"),
            (
                FileFacts {
                    mode: 0o4755,
                    ..one.clone()
                },
                "a: mode 0644 and 4755",
            ),
            (
                FileFacts {
                    mtime: 1,
                    ..one.clone()
                },
                "a: time 1970-01-01T00:00:00Z and 1970-01-01T00:00:01Z",
            ),
            (
                FileFacts {
                    kind: Kind::Directory,
                    ..one.clone()
                },
                "a: a file and a directory",
            ),
            (
                FileFacts {
                    link: "b".into(),
                    ..one.clone()
                },
                "a: links to `` and to `b`",
            ),
        ];
        for (other, expected) in cases {
            assert_eq!(shown(&[("a", one.clone())], &[("a", other)]), [expected]);
        }
    }

    #[test]
    fn missing_files_and_another_order_are_named() {
        let (a, b) = (("a", file("a")), ("b", file("b")));
        assert_eq!(
            shown(std::slice::from_ref(&a), std::slice::from_ref(&b)),
            [
                "a: only in the first result",
                "b: only in the second result"
            ]
        );
        assert_eq!(
            shown(&[a.clone(), b.clone()], &[b.clone(), a.clone()]),
            ["a: at another position in the archive"]
        );
        assert!(shown(&[a.clone(), b.clone()], &[a, b]).is_empty());
    }
}
