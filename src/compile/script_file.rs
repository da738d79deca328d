//! Checks of a packaging script before it runs: whether it exists, and whether bash misreads its text.

use std::path::{Path, PathBuf};

use super::finding::Finding;
use crate::fs;
use crate::sandbox::{FileKind, LookupError};

/// The maximum number of files and directories that a message lists; also the maximum number of similar names that it lists.
const SHOWN: usize = 10;

/// The maximum size of a script that is checked, in bytes.
pub(super) const SIZE_LIMIT: u64 = 16 << 20;

/// A packaging script's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ScriptFile {
    /// The script is a file in the source.
    Found,
    /// The script is a link to a file, or to a path that is inaccessible. In the second case, bash reports the reason.
    Linked,
    /// There is no script, so the compiled package is empty.
    Missing,
    /// The script is a link to this target, which does not exist on this machine. The target may exist in
    /// the sandbox: for example, it may be a file of a dependency.
    Dangling(PathBuf),
    /// The script is not a file, or is a link to something that is not a file. Such a script is not read, because reading a FIFO or a device
    /// may never end. The text describes the kind, for messages.
    NotAFile(&'static str),
}

/// Looks for a packaging script. `target_kind` returns the kind of a link's target.
///
/// # Errors
/// The source cannot be read, or `target_kind` fails.
pub(super) fn find(
    packaging: &Path,
    target_kind: impl FnOnce(&Path) -> Result<FileKind, LookupError>,
) -> Result<ScriptFile, LookupError> {
    let Some(entry) = fs::lookup(packaging)? else {
        return Ok(ScriptFile::Missing);
    };
    let kind = match entry.is_symlink() {
        true => target_kind(packaging)?,
        false => entry.file_type().into(),
    };
    Ok(match (kind, not_a_file(kind)) {
        (FileKind::Missing, _) => ScriptFile::Dangling(fs::read_link(packaging)?),
        (_, Some(found)) => ScriptFile::NotAFile(found),
        (_, None) if entry.is_symlink() => ScriptFile::Linked,
        (_, None) => ScriptFile::Found,
    })
}

/// The description of a kind in messages. `None` for a file, and for a path that does not exist or cannot be examined.
pub(super) fn not_a_file(kind: FileKind) -> Option<&'static str> {
    match kind {
        FileKind::Directory => Some("a directory"),
        FileKind::Fifo => Some("a FIFO"),
        FileKind::Socket => Some("a socket"),
        FileKind::Device => Some("a device"),
        FileKind::File | FileKind::Missing | FileKind::Inaccessible => None,
    }
}

/// The finding about a source without a packaging script.
///
/// # Errors
/// The source cannot be read.
pub(super) fn missing(packaging: &Path) -> fs::Result<Finding> {
    let source = fs::parent(packaging);
    let mut entries = Vec::new();
    let mut similar = Vec::new();
    for entry in fs::list(source)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory && fs::lookup(&entry.path().join("packaging"))?.is_some() {
            similar.push(format!("{name}/packaging"));
        }
        if is_similar(&name) {
            similar.push(name.clone());
        }
        entries.push(if is_directory { name + "/" } else { name });
    }
    let others = entries.len().saturating_sub(SHOWN);
    entries.truncate(SHOWN);
    similar.truncate(SHOWN);
    Ok(Finding::NoScript {
        similar,
        entries,
        others,
    })
}

/// Whether a name resembles `packaging`: it differs by at most two letters, ignoring case, surrounding spaces and extensions.
fn is_similar(name: &str) -> bool {
    let name = name.to_lowercase();
    let stem = name.split('.').next().unwrap_or_default();
    strsim::levenshtein(stem.trim(), "packaging") <= 2
}

/// Reads a script that is not a link. Returns no bytes if the script is too long or cannot be read. Bash reports the second case.
pub(super) fn read(packaging: &Path) -> Vec<u8> {
    let is_small = fs::lookup(packaging).is_ok_and(|found| {
        found.is_some_and(|metadata| metadata.is_file() && metadata.len() <= SIZE_LIMIT)
    });
    match is_small {
        true => fs::read(packaging).unwrap_or_default(),
        false => Vec::new(),
    }
}

/// Findings about bytes in a script that bash misinterprets.
pub(super) fn misread(text: &[u8]) -> Vec<Finding> {
    const UTF_8: &[u8] = b"\xef\xbb\xbf";
    const UTF_16: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];
    let mut findings = Vec::new();
    if text.starts_with(UTF_8) || UTF_16.iter().any(|mark| text.starts_with(mark)) {
        findings.push(Finding::ByteOrderMark);
    }
    let mut lines = text
        .split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| line.ends_with(b"\r"))
        .map(|(number, _)| number + 1);
    if let Some(first) = lines.next() {
        findings.push(Finding::CarriageReturns {
            first,
            lines: 1 + lines.count(),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_names_are_similar() {
        for name in [
            "Packaging",
            "packaging.ps1",
            "packaging.sh",
            "PACKAGING",
            "packging",
            "packing",
        ] {
            assert!(is_similar(name), "{name}");
        }
        for name in [
            "package.json",
            "pre_packaging_x",
            "Makefile",
            "src",
            "packages",
        ] {
            assert!(!is_similar(name), "{name}");
        }
    }

    #[test]
    fn source_without_a_script_is_listed() {
        let scratch = tempfile::tempdir().unwrap();
        let packaging = scratch.path().join("packaging");
        let found = || find(&packaging, |path| Ok(FileKind::behind(path))).unwrap();
        assert_eq!(found(), ScriptFile::Missing);
        for name in (0..11).map(|number| format!("file{number:02}")) {
            fs::write(&scratch.path().join(name), b"").unwrap();
        }
        fs::write(&scratch.path().join("Packaging"), b"").unwrap();
        fs::create_dir(&scratch.path().join("app")).unwrap();
        fs::write(&scratch.path().join("app/packaging"), b"").unwrap();
        let Finding::NoScript {
            similar,
            entries,
            others,
        } = missing(&packaging).unwrap()
        else {
            panic!()
        };
        assert_eq!(similar, ["Packaging", "app/packaging"]);
        assert_eq!((entries.len(), others), (10, 3));
        assert_eq!(entries[..3], ["Packaging", "app/", "file00"]);
        fs::symlink(Path::new("nowhere"), &packaging).unwrap();
        assert_eq!(found(), ScriptFile::Dangling("nowhere".into()));
        fs::write(&scratch.path().join("nowhere"), b"").unwrap();
        assert_eq!(found(), ScriptFile::Linked);
    }

    #[test]
    fn text_that_bash_misreads_is_found() {
        assert_eq!(
            misread(b"\xef\xbb\xbfset -e\r\nmake\nmake install\r\n"),
            [
                Finding::ByteOrderMark,
                Finding::CarriageReturns { first: 1, lines: 2 }
            ]
        );
        assert!(misread(b"printf 'a\\r\\n'\n").is_empty());
    }
}
