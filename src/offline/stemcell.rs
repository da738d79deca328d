//! Determines the stemcell of this machine from its files.

use std::path::{Path, PathBuf};

use crate::config::Vcap;
use crate::fs;
use crate::release::stemcell::{OsRelease, StemcellError, parse_stemcell_version};
use crate::release::{Name, Slug, Version, output_name};

/// The files that describe the operating system, in the order in which os-release(5) says to read them.
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// Why the stemcell is unknown.
#[derive(Debug, thiserror::Error)]
pub enum UnknownStemcell {
    /// A file is missing or unreadable.
    #[error("this does not look like a stemcell")]
    File(#[source] fs::Error),
    /// A file has unexpected contents.
    #[error("this does not look like a stemcell: `{}`", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: StemcellError,
    },
    /// The description of a stemcell image and its files differ.
    #[error(
        "the stemcell image says two versions: `stemcell.MF` {described}, its file `stemcell_version` `{found}`"
    )]
    Disagreement {
        /// The stemcell by its description.
        described: Slug,
        /// The version in its files.
        found: String,
    },
}

impl UnknownStemcell {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        let general = "run inside a stemcell image, or pass --stemcell OS/VERSION (as `ubuntu-noble/1.406`) to compile for \
                       that stemcell on this machine";
        match self {
            Self::Content { source, .. } => source.hint().unwrap_or(general).to_owned(),
            Self::File(_) => general.to_owned(),
            Self::Disagreement { described, .. } => {
                format!(
                    "download the image again, or pass --stemcell {described} if that is its stemcell"
                )
            }
        }
    }
}

/// The stemcell of a run. It can be unknown only in runs that compile nothing.
#[derive(Debug, Clone)]
pub(super) struct CallStemcell(Option<Slug>);

impl CallStemcell {
    pub(super) fn new(stemcell: Option<Slug>) -> Self {
        Self(stemcell)
    }

    /// The stemcell, if it is known.
    pub(super) fn known(&self) -> Option<&Slug> {
        self.0.as_ref()
    }

    /// The file name of a compiled release, with placeholders for an unknown stemcell.
    pub(super) fn output_name(&self, name: &Name, version: &Version) -> String {
        match &self.0 {
            Some(stemcell) => output_name(name, version, stemcell),
            None => format!("{name}-{version}-OS-STEMCELLVERSION.tgz"),
        }
    }
}

/// Reads the stemcell's identity from the files that every stemcell has.
pub(super) fn detect(vcap: &Vcap) -> Result<Slug, UnknownStemcell> {
    detect_with(vcap, &fs::read_lossy)
}

/// Like [`detect`], but reads the files with `read`, which may read another root file system.
pub(super) fn detect_with(
    vcap: &Vcap,
    read: &dyn Fn(&Path) -> fs::Result<String>,
) -> Result<Slug, UnknownStemcell> {
    detect_in(&OS_RELEASE.map(Path::new), &vcap.stemcell_version(), read)
}

fn detect_in(
    os_release: &[&Path],
    version: &Path,
    read: &dyn Fn(&Path) -> fs::Result<String>,
) -> Result<Slug, UnknownStemcell> {
    let mut failure = None;
    let (path, text) = os_release
        .iter()
        .find_map(|path| match read(path) {
            Ok(text) => Some((*path, text)),
            Err(error) => {
                failure.get_or_insert(error);
                None
            }
        })
        .ok_or(())
        .or_else(|()| match failure {
            Some(error) => Err(UnknownStemcell::File(error)),
            None => Ok((Path::new(""), String::new())),
        })?;
    let in_file = |path: &Path| {
        let path = path.to_owned();
        move |source| UnknownStemcell::Content { path, source }
    };
    let os = OsRelease::parse(&text)
        .operating_system()
        .map_err(in_file(path))?;
    let text = read(version).map_err(UnknownStemcell::File)?;
    let number = parse_stemcell_version(&text).map_err(in_file(version))?;
    Slug::new(&os, number.as_str()).map_err(in_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Chain;

    #[test]
    fn the_stemcell_is_read_from_its_files() {
        let scratch = tempfile::tempdir().unwrap();
        let (os, version) = (scratch.path().join("os"), scratch.path().join("version"));
        fs::write(&os, b"ID=\"ubuntu\"\nVERSION_CODENAME='noble'").unwrap();
        let missing = detect_in(&[&os], &version, &fs::read_lossy).unwrap_err();
        assert!(
            Chain(&missing).to_string().contains("version"),
            "{}",
            Chain(&missing)
        );
        assert!(missing.hint().contains("--stemcell"));
        fs::write(&version, b"1.406\n").unwrap();
        let elsewhere = scratch.path().join("none");
        let slug = detect_in(&[&elsewhere, &os], &version, &fs::read_lossy).unwrap();
        assert_eq!(slug.to_string(), "ubuntu-noble/1.406");
    }

    #[test]
    fn invalid_version_is_reported_with_its_file() {
        let scratch = tempfile::tempdir().unwrap();
        let (os, version) = (scratch.path().join("os"), scratch.path().join("version"));
        fs::write(&os, b"ID=ubuntu\nVERSION_CODENAME=noble\n").unwrap();
        fs::write(&version, b"1/406").unwrap();
        let error = detect_in(&[&os], &version, &fs::read_lossy).unwrap_err();
        let text = Chain(&error).to_string();
        assert!(text.contains(&version.display().to_string()), "{text}");
    }
}
