//! Recognizes the kind of an image by the names of its entries. No I/O.

use std::collections::BTreeSet;
use std::fmt;

/// The top directories of a root file system, of which it has at least one.
const SYSTEM: [&str; 4] = ["bin", "etc", "lib", "usr"];

/// The kind of an archive or of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A stemcell: `stemcell.MF`, and a root file system as the archive `image`.
    Stemcell,
    /// A root file system.
    Root,
    /// An OCI image layout.
    OciLayout,
    /// A file of `docker save` that is not also an OCI image layout.
    DockerSave,
}

/// What a directory is, if it is an image that cannot be used in unpacked form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnpackedFile {
    /// A stemcell.
    Stemcell,
    /// A file of `docker save`.
    DockerSave,
}

impl fmt::Display for UnpackedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stemcell => "stemcell",
            Self::DockerSave => "file of docker save",
        })
    }
}

/// The error for names that match no kind of image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "neither a stemcell (`stemcell.MF`, `image`), a root file system (`etc`, `usr`), an OCI layout (`oci-layout`, `index.json`) nor a file \
     of docker save (`manifest.json`)"
)]
pub struct UnknownImage;

/// Recognizes the kind of an image while the names of its entries are read.
#[derive(Debug, Default)]
pub(super) struct Recognizer {
    /// The first components of the names so far, if they identify a kind.
    found: BTreeSet<&'static str>,
}

impl Recognizer {
    /// Considers the name of an entry, with or without `./`. Returns the kind as soon as no other name can change it.
    pub(super) fn see(&mut self, name: &[u8]) -> Option<Kind> {
        let mut parts = name
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".");
        let first = parts.next()?;
        let known = [
            "stemcell.MF",
            "image",
            "oci-layout",
            "index.json",
            "manifest.json",
        ];
        let mut known = known.iter().chain(&SYSTEM);
        if let Some(name) = known.find(|name| name.as_bytes() == first) {
            self.found.insert(name);
        }
        self.known()
    }

    /// The kind, if the names so far identify it.
    fn known(&self) -> Option<Kind> {
        match () {
            () if self.has("stemcell.MF") => Some(Kind::Stemcell),
            () if SYSTEM.iter().any(|name| self.has(name)) => Some(Kind::Root),
            () if self.has("oci-layout") && self.has("index.json") => Some(Kind::OciLayout),
            () => None,
        }
    }

    /// The kind of a directory with these names. Their order does not matter, and a root file system may have other files next to its
    /// directories.
    ///
    /// # Errors
    /// If the names match no kind.
    pub(super) fn directory<'a>(
        names: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Kind, UnknownImage> {
        let mut recognizer = Self::default();
        names.for_each(|name| {
            recognizer.see(name);
        });
        match SYSTEM.iter().any(|name| recognizer.has(name)) {
            true => Ok(Kind::Root),
            false => recognizer.known().map_or_else(|| recognizer.finish(), Ok),
        }
    }

    /// The kind, after all names without a result of [`see`](Self::see).
    ///
    /// # Errors
    /// If the names match no kind.
    pub(super) fn finish(self) -> Result<Kind, UnknownImage> {
        match self.has("manifest.json") {
            true => Ok(Kind::DockerSave),
            false => Err(UnknownImage),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.found.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(names: &[&str]) -> Result<Kind, UnknownImage> {
        let mut recognizer = Recognizer::default();
        let found = names
            .iter()
            .find_map(|name| recognizer.see(name.as_bytes()));
        found.map_or_else(|| recognizer.finish(), Ok)
    }

    #[test]
    fn each_kind_is_recognized_by_its_names() {
        for (names, expected) in [
            (
                &["stemcell.MF", "packages.txt", "image"][..],
                Kind::Stemcell,
            ),
            (&["./image", "./stemcell.MF"], Kind::Stemcell),
            (&["./", "./boot/", "./usr/bin/env"], Kind::Root),
            (&["data/", "etc"], Kind::Root),
            (
                &[
                    "blobs/",
                    "blobs/sha256/aa",
                    "index.json",
                    "manifest.json",
                    "oci-layout",
                ],
                Kind::OciLayout,
            ),
            (
                &["aa/layer.tar", "aa.json", "manifest.json", "repositories"],
                Kind::DockerSave,
            ),
        ] {
            assert_eq!(kind(names), Ok(expected), "{names:?}");
        }
    }

    #[test]
    fn directory_is_recognized_in_any_order_of_its_names() {
        for (names, expected) in [
            (&["stemcell.MF", "image"][..], Ok(Kind::Stemcell)),
            (&["stemcell.MF", "image", "usr"], Ok(Kind::Root)),
            (&["manifest.json", "etc"], Ok(Kind::Root)),
            (
                &["index.json", "manifest.json", "oci-layout"],
                Ok(Kind::OciLayout),
            ),
            (&["manifest.json", "index.json"], Ok(Kind::DockerSave)),
            (&["image"], Err(UnknownImage)),
        ] {
            let reversed: Vec<&str> = names.iter().rev().copied().collect();
            for names in [names, &reversed] {
                let names = names.iter().map(|it| it.as_bytes());
                assert_eq!(Recognizer::directory(names), expected);
            }
        }
    }

    #[test]
    fn other_archives_are_no_images() {
        for names in [
            &[][..],
            &["release.MF", "packages/a.tgz"],
            &["image"],
            &["index.json"],
            &["sub/etc/passwd"],
        ] {
            assert_eq!(kind(names), Err(UnknownImage), "{names:?}");
        }
    }
}
