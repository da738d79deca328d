//! Checks of a packaging script before it runs: whether it exists, and whether bash misreads its text.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::finding::Finding;
use crate::fs;

/// How many files of a source are shown.
const SHOWN: usize = 10;

/// Longer scripts are not checked, in bytes.
const SIZE_LIMIT: usize = 16 << 20;

/// A packaging script's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ScriptFile {
    Found,
    /// It does not exist: the package is empty.
    Missing,
    /// It is a dangling link outside of the sandbox.
    Dangling(PathBuf),
    /// It is, or links to, something that is not a file. Reading a FIFO or a device may never end.
    NotAFile(&'static str),
}

/// Looks for a packaging script.
///
/// # Errors
/// What the system answered.
pub(super) fn find(packaging: &Path) -> fs::Result<ScriptFile> {
    let Some(entry) = fs::lookup(packaging)? else {
        return Ok(ScriptFile::Missing);
    };
    let metadata = match fs::metadata(packaging) {
        Err(error) if entry.is_symlink() && error.is_not_found() => {
            return Ok(ScriptFile::Dangling(fs::read_link(packaging)?));
        }
        // Bash reports why it cannot be read.
        Err(_) => return Ok(ScriptFile::Found),
        Ok(metadata) => metadata,
    };
    let kind = metadata.file_type();
    Ok(if kind.is_file() {
        ScriptFile::Found
    } else if kind.is_dir() {
        ScriptFile::NotAFile("a directory")
    } else if kind.is_fifo() {
        ScriptFile::NotAFile("a FIFO")
    } else if kind.is_socket() {
        ScriptFile::NotAFile("a socket")
    } else {
        ScriptFile::NotAFile("a device")
    })
}

/// The finding about a source without a packaging script.
///
/// # Errors
/// What the system answered.
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

/// Whether a name may be meant as `packaging`: it differs in case, by an extension, or by up to two letters.
fn is_similar(name: &str) -> bool {
    let name = name.to_lowercase();
    let stem = name.split('.').next().unwrap_or_default();
    strsim::levenshtein(stem.trim(), "packaging") <= 2
}

/// Findings about text that bash misreads. Bash itself reports a file that it cannot read.
pub(super) fn misread(packaging: &Path) -> Vec<Finding> {
    let is_small = fs::metadata(packaging)
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= SIZE_LIMIT as u64);
    match is_small.then(|| fs::read(packaging)) {
        Some(Ok(text)) => misread_in(&text),
        _ => Vec::new(),
    }
}

fn misread_in(text: &[u8]) -> Vec<Finding> {
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
        assert_eq!(find(&packaging).unwrap(), ScriptFile::Missing);
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
        assert_eq!(
            find(&packaging).unwrap(),
            ScriptFile::Dangling("nowhere".into())
        );
    }

    #[test]
    fn text_that_bash_misreads_is_found() {
        assert_eq!(
            misread_in(b"\xef\xbb\xbfset -e\r\nmake\nmake install\r\n"),
            [
                Finding::ByteOrderMark,
                Finding::CarriageReturns { first: 1, lines: 2 }
            ]
        );
        assert!(misread_in(b"printf 'a\\r\\n'\n").is_empty());
    }
}
