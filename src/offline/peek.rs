//! Reads only the manifest of a release tarball.

use std::convert::identity;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::lookalike::Lookalike;
use super::open::{first_entry, open_file, path_of, read_manifest};
use super::open_error::OpenError;
use super::tarball::Role;
use crate::archive::Kind;
use crate::release::Manifest;
use crate::runtime::Cancellable;

/// The maximum number of paths by which a tarball without a manifest is recognized.
const PATHS: usize = 1000;

/// Reads a tarball up to its manifest. Other entries are not checked.
pub(crate) fn manifest(tarball: &Path, cancel: &CancellationToken) -> Result<Manifest, OpenError> {
    let (file, _) = open_file(tarball)?;
    let (mut reader, mut next) = first_entry(Cancellable::new(file, cancel), identity)?;
    let mut paths: Vec<PathBuf> = Vec::new();
    while let Some(entry) = next {
        let path = path_of(&entry)?;
        if Role::of(&path) == Role::Manifest {
            return match entry.kind {
                Kind::File => Manifest::parse(&read_manifest(&mut reader, &entry)?)
                    .map_err(OpenError::Manifest),
                _ => Err(OpenError::OddManifest("not a file".to_owned())),
            };
        }
        if paths.len() < PATHS {
            paths.push(path);
        }
        next = reader.next_entry()?;
    }
    let paths = paths.iter().map(PathBuf::as_path);
    Err(OpenError::NoManifest(Lookalike::of_paths(paths)))
}
