//! Interprets the arguments of a run. Expands patterns that no shell has expanded, and gives advice about paths that do not exist.

use std::path::{Path, PathBuf};

use super::open_error::OpenError;
use crate::diag::most_similar;
use crate::fs;

/// The schemes of URLs that users pass in place of a path.
const SCHEMES: [&str; 6] = ["https://", "http://", "s3://", "gs://", "ftp://", "file://"];

/// The suffixes of the names of tarballs.
const TARBALLS: [&str; 3] = [".tgz", ".tar.gz", ".tar"];

/// Replaces each pattern, such as `releases/*.tgz`, by the files that match it, in the order of their names. A path that exists is not
/// treated as a pattern. No shell expands the arguments of `docker run` and of task configurations. Reads directories.
pub(super) fn expand(given: Vec<PathBuf>) -> Vec<PathBuf> {
    given
        .into_iter()
        .flat_map(|path| match matches(&path) {
            found if found.is_empty() => vec![path],
            found => found,
        })
        .collect()
}

/// The files that match a pattern. Empty for a path without wildcards.
fn matches(pattern: &Path) -> Vec<PathBuf> {
    if !is_pattern(pattern) || matches!(fs::lookup(pattern), Ok(Some(_))) {
        return Vec::new();
    }
    // A `*` does not match a leading dot, as in a shell: macOS leaves files such as `._redis-15.tgz`.
    let options = glob::MatchOptions {
        require_literal_leading_dot: true,
        require_literal_separator: true,
        ..glob::MatchOptions::default()
    };
    let found = pattern.to_str().map(|text| glob::glob_with(text, options));
    let Some(Ok(found)) = found else {
        return Vec::new();
    };
    found.filter_map(Result::ok).collect()
}

fn is_pattern(path: &Path) -> bool {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .any(|byte| b"*?[".contains(byte))
}

/// The error for a path that does not exist, with advice; `None` if there is no advice. Reads the path's directory.
pub(super) fn absent(path: &Path) -> Option<OpenError> {
    let text = path.to_string_lossy();
    if let Some(scheme) = SCHEMES.iter().find(|scheme| text.starts_with(**scheme)) {
        return Some(OpenError::Url {
            is_file: *scheme == "file://",
        });
    }
    let directory = match fs::parent(path) {
        current if current.as_os_str().is_empty() => Path::new("."),
        directory => directory,
    };
    let advice = match Listing::of(directory)? {
        Listing::Empty => format!(
            "the directory `{}` is empty; if it is a mount or a task's input, check its source",
            directory.display()
        ),
        Listing::Tarballs(_) if is_pattern(path) => {
            "there are tarballs with other names".to_owned()
        }
        Listing::Tarballs(names) => {
            let wanted = path.file_name()?.to_string_lossy();
            let stems = names.iter().map(|name| without_end(name));
            let similar = most_similar(without_end(&wanted), stems)?;
            let name = names.iter().find(|name| without_end(name) == similar)?;
            format!("did you mean `{}`?", directory.join(name).display())
        }
        Listing::NoTarballs => format!("the directory `{}` has no tarballs", directory.display()),
    };
    Some(match is_pattern(path) {
        true => OpenError::NoMatch { advice },
        false => OpenError::Absent { advice },
    })
}

/// Advice about a directory that is given in place of a tarball, if there is any.
pub(super) fn advice_on_directory(directory: &Path) -> Option<String> {
    let shown = directory.display();
    let has = |name: &str| fs::metadata(&directory.join(name)).is_ok_and(|found| found.is_file());
    if has("release.MF") {
        return Some(format!(
            "pack the release in it, for example with `tar -czf RELEASE.tgz -C {shown} .`"
        ));
    }
    if has("config/final.yml") || has("config/dev.yml") {
        return Some(
            "run `bosh create-release --tarball=RELEASE.tgz` in it, and pass that tarball"
                .to_owned(),
        );
    }
    match Listing::of(directory)? {
        Listing::Empty => {
            Some("it is empty; if it is a mount or a task's input, check its source".to_owned())
        }
        Listing::Tarballs(names) => {
            let end = TARBALLS
                .iter()
                .find(|end| names.iter().any(|name| name.ends_with(**end)))?;
            Some(format!(
                "did you mean `{}`?",
                directory.join(format!("*{end}")).display()
            ))
        }
        Listing::NoTarballs => None,
    }
}

/// The name of a tarball without its suffix, such as `.tgz`.
fn without_end(name: &str) -> &str {
    TARBALLS
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name)
}

/// Whether a file has the name of a tarball.
#[must_use]
pub fn is_tarball(name: &str) -> bool {
    TARBALLS.iter().any(|end| name.ends_with(end))
}

/// The contents of a directory.
enum Listing {
    Empty,
    /// The names of the tarballs in the directory, at least one.
    Tarballs(Vec<String>),
    NoTarballs,
}

impl Listing {
    /// `None` if the directory cannot be read.
    fn of(directory: &Path) -> Option<Self> {
        let is_directory = fs::metadata(directory).is_ok_and(|found| found.is_dir());
        let entries = is_directory.then(|| fs::list(directory).ok()).flatten()?;
        let names = entries
            .iter()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut tarballs: Vec<String> = names.filter(|name| is_tarball(name)).collect();
        tarballs.sort();
        Some(match (entries.is_empty(), tarballs.is_empty()) {
            (true, _) => Self::Empty,
            (false, true) => Self::NoTarballs,
            (false, false) => Self::Tarballs(tarballs),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory_with(names: &[&str]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(&place.path().join(name), b"").unwrap();
        }
        place
    }

    #[test]
    fn pattern_becomes_the_files_that_match() {
        let place = directory_with(&["b-2.tgz", "a-1.tgz", "._a-1.tgz", "notes.txt", "[x].tgz"]);
        let at = |name: &str| place.path().join(name);
        assert_eq!(
            expand(vec![at("notes.txt"), at("*-*.tgz")]),
            [at("notes.txt"), at("a-1.tgz"), at("b-2.tgz")]
        );
        // A name that looks like a pattern, and a pattern without matches.
        assert_eq!(
            expand(vec![at("[x].tgz"), at("c*")]),
            [at("[x].tgz"), at("c*")]
        );
    }

    #[test]
    fn path_that_does_not_exist_is_explained() {
        let place = directory_with(&["redis-15.tgz"]);
        let empty = directory_with(&[]);
        let explained = |path: &Path| absent(path).map(|error| error.to_string());
        for (path, expected) in [
            (PathBuf::from("https://bosh.io/d/x"), "download it first"),
            (PathBuf::from("file:///tmp/x.tgz"), "without `file://`"),
            (place.path().join("redis-14.tgz"), "did you mean"),
            (place.path().join("nats*.tgz"), "no file matches"),
            (empty.path().join("*.tgz"), "is empty"),
            (empty.path().join("x.tgz"), "is empty"),
        ] {
            let text = explained(&path).unwrap();
            assert!(text.contains(expected), "{}: {text}", path.display());
        }
        assert_eq!(explained(&place.path().join("postgres-52.tgz")), None);
        assert_eq!(explained(&place.path().join("no/such.tgz")), None);
    }
}
