//! Reads only the manifest of a release tarball.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::lookalike::Lookalike;
use super::open::{open_file, read_manifest, recognized, refuse_directory};
use super::open_error::OpenError;
use super::readers::Prefixed;
use super::tarball::Role;
use crate::archive::entry::normalize;
use crate::archive::{Decoder, Kind, Reader};
use crate::fs::Context;
use crate::release::Manifest;
use crate::runtime::Cancellable;

/// Reads a tarball up to its manifest. Neither what comes before nor what comes after it is checked.
pub(super) fn manifest(tarball: &Path, cancel: &CancellationToken) -> Result<Manifest, OpenError> {
    let file = open_file(tarball)?;
    if file.metadata().at("examine", tarball)?.is_dir() {
        return Err(refuse_directory(tarball));
    }
    let (raw, prefix) = Prefixed::new(Cancellable::new(file, cancel));
    let decoder =
        Decoder::new(raw).map_err(|error| recognized(OpenError::Decode(error), &prefix))?;
    let (decoded, prefix) = Prefixed::new(decoder);
    let mut reader = Reader::new(decoded);
    let first = reader.next_entry();
    let mut next = first.map_err(|error| recognized(error.into(), &prefix))?;
    let mut paths: Vec<PathBuf> = Vec::new();
    while let Some(entry) = next {
        let path = normalize(&entry.name).map_err(|source| OpenError::Path {
            name: entry.display_name().display().to_string(),
            source,
        })?;
        if Role::of(&path) == Role::Manifest {
            return match entry.kind {
                Kind::File => Manifest::parse(&read_manifest(&mut reader, &entry)?)
                    .map_err(OpenError::Manifest),
                _ => Err(OpenError::OddManifest("not a file".to_owned())),
            };
        }
        paths.push(path);
        next = reader.next_entry()?;
    }
    let paths = paths.iter().map(PathBuf::as_path);
    Err(OpenError::NoManifest(Lookalike::of_paths(paths)))
}
