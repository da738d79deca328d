//! Unpacked images in a directory. Each is unpacked once; several processes can use it at the same time.
//!
//! ```text
//! DIR/v1-UID/DIGEST-OWNERS/root        the root file system
//! DIR/v1-UID/DIGEST-OWNERS/about.json  the stemcell that the image claims to be
//! DIR/v1-UID/DIGEST-OWNERS.lock        locked by the process that unpacks the image
//! DIR/v1-UID/unpacking-…               an image that is being unpacked, or that a killed process has left
//! ```
//!
//! An image is renamed to DIGEST-OWNERS when it is complete. If it lacks `root` or `about.json`, it was damaged later, and is unpacked again.
//! DIGEST is the SHA-256 of the file, or of the manifest of an OCI layout. OWNERS identifies the user IDs and group IDs that the process
//! can give to files: a process with other IDs unpacks the image again. UID is the ID of the user outside of the process's user namespace.
//! Directories that another user could have prepared are refused.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::ImageError;
use super::kind::{Kind, Recognizer, UnpackedFile};
use super::open::{Description, Unpacking, digest};
use super::unpack::Owners;
use crate::fs::{self, Context as _, LeasedDirectory};
use crate::release::{Algorithm, Digests};

/// The version of this layout. The name of each user's directory begins with it.
const VERSION: &str = "v1";

/// The prefix of images that are being unpacked.
const PREFIX: &str = "unpacking-";

/// The prefix of the temporary directory that shows which owner new directories get.
const PROBE: &str = ".bosh-agent-owner-";

/// The root file system of an image.
const ROOT: &str = "root";

/// The file with the [`About`] of an image.
const ABOUT: &str = "about.json";

/// How long a process waits for another one that unpacks the same image, before it checks again whether the image is stored.
const TURN: Duration = Duration::from_secs(60);

/// An image that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The directory of its root file system.
    pub root: PathBuf,
    /// Its SHA-256; `None` if the image is the directory of a root file system, whose files can change.
    pub digest: Option<String>,
    /// What `stemcell.MF` says about the stemcell; `None` if the image is not a stemcell.
    pub description: Option<Description>,
}

/// What is stored with an image.
#[derive(Debug, Default, Serialize, Deserialize)]
struct About {
    is_stemcell: bool,
    operating_system: Option<String>,
    version: Option<String>,
}

/// Where images are unpacked, and how.
#[derive(Debug, Clone, Copy)]
pub struct ImageStore<'a> {
    /// The directory.
    pub directory: &'a Path,
    /// Whether files get the owners that the image names.
    pub owners: Owners,
}

/// An image to unpack.
enum Packed {
    /// A file, and its state before its digest was computed.
    Archive(File, State),
    /// The directory of an OCI layout.
    Layout,
}

/// The metadata that change when a file is written to: its length, its mtime and its ctime.
type State = (u64, (i64, i64), (i64, i64));

impl ImageStore<'_> {
    /// Opens an image, and unpacks it if it is not stored yet. Calls `announce` before unpacking. Waits if another process unpacks the image.
    ///
    /// # Errors
    /// If it is not an image, is damaged, or cannot be unpacked, or if `stop` returned `true`.
    pub fn open(
        &self,
        image: &Path,
        announce: &dyn Fn(),
        stop: &dyn Fn() -> bool,
    ) -> Result<Unpacked, ImageError> {
        let (name, packed) = if fs::metadata(image)?.is_dir() {
            match directory_kind(image)? {
                Kind::OciLayout => {
                    let none = Path::new("");
                    let reading = self.unpacking(image, (none, none), stop);
                    let (digest, _) = reading.manifest(image)?;
                    (digest.hex().to_owned(), Packed::Layout)
                }
                Kind::Root => {
                    return Ok(Unpacked {
                        root: fs::canonicalize(image)?,
                        digest: None,
                        description: None,
                    });
                }
                Kind::Stemcell => return Err(unpacked_image(image, UnpackedFile::Stemcell)),
                Kind::DockerSave => return Err(unpacked_image(image, UnpackedFile::DockerSave)),
            }
        } else {
            let file = fs::open_file(image)?;
            let state = state(&file, image)?;
            let digest = digest(&file, image)?;
            (digest, Packed::Archive(file, state))
        };
        let versioned = own_directory(self.directory)?;
        fs::remove_abandoned(&versioned, PREFIX, None);
        let final_name = versioned.join(format!("{name}-{}", owners_name(self.owners)?));
        let lock = final_name.with_extension("lock");
        loop {
            if let Some(unpacked) = stored(&final_name, &name)? {
                return Ok(unpacked);
            }
            if let Some(_lock) = fs::try_lock_file(&lock)? {
                // Another process may have unpacked it before it released the lock.
                if stored(&final_name, &name)?.is_none() {
                    if fs::lookup(&final_name)?.is_some() {
                        fs::remove_tree(&final_name)?;
                    }
                    announce();
                    self.unpack(image, (&packed, &name), (&versioned, &final_name), stop)?;
                }
            } else {
                fs::wait_until_free(&lock, TURN, stop)?;
            }
            if stop() {
                return Err(ImageError::Stopped);
            }
        }
    }

    /// Unpacks an image into a temporary directory, and renames it to `final_name`.
    fn unpack(
        &self,
        image: &Path,
        (packed, name): (&Packed, &str),
        (versioned, final_name): (&Path, &Path),
        stop: &dyn Fn() -> bool,
    ) -> Result<(), ImageError> {
        let lease = LeasedDirectory::create(versioned, PREFIX)?;
        let [complete, scratch] = ["image", "scratch"].map(|name| lease.path().join(name));
        let root = complete.join(ROOT);
        for directory in [&complete, &scratch, &root] {
            fs::create_dir_with_mode(directory, 0o755)?;
        }
        let unpacking = self.unpacking(image, (&root, &scratch), stop);
        let changed = || ImageError::Changed {
            image: image.to_owned(),
        };
        let description = match packed {
            Packed::Archive(file, before) => {
                let description = unpacking.archive(file)?;
                if state(file, image)? != *before {
                    return Err(changed());
                }
                description
            }
            Packed::Layout => {
                let (digest, manifest) = unpacking.manifest(image)?;
                if digest.hex() != name {
                    return Err(changed());
                }
                unpacking.layout(image, &manifest)?;
                None
            }
        };
        let about = About {
            is_stemcell: description.is_some(),
            operating_system: description
                .as_ref()
                .and_then(|it| it.operating_system.clone()),
            version: description.and_then(|it| it.version),
        };
        let about = serde_json::to_vec(&about).unwrap_or_default();
        fs::write(&complete.join(ABOUT), &about)?;
        // Without this, a power failure could leave an image under its final name with incomplete files.
        let directory = fs::open(&complete)?;
        nix::unistd::syncfs(&directory).at("write to disk", &complete)?;
        fs::rename(&complete, final_name)?;
        Ok(lease.remove()?)
    }

    fn unpacking<'a>(
        &self,
        image: &'a Path,
        (destination, scratch): (&'a Path, &'a Path),
        stop: &'a dyn Fn() -> bool,
    ) -> Unpacking<'a> {
        Unpacking {
            image,
            destination,
            scratch,
            owners: self.owners,
            stop,
        }
    }
}

/// The directory in `directory` for the current user's images. Creates it if it is missing, and checks that only this user can change it.
fn own_directory(directory: &Path) -> Result<PathBuf, ImageError> {
    fs::create_dir_all(directory)?;
    let own = directory.join(format!("{VERSION}-{}", outer_user()));
    match fs::create_dir_with_mode(&own, 0o700) {
        Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    match check_own(&own) {
        Err(ImageError::OfOthers { .. }) if !keeps_owners(directory) => {
            Err(ImageError::OtherOwner {
                directory: directory.to_owned(),
            })
        }
        checked => checked.map(|()| own),
    }
}

/// Whether a new directory belongs to the current user. On network file systems, it may belong to another one. `true` if that cannot be
/// checked.
fn keeps_owners(directory: &Path) -> bool {
    let probe = directory.join(format!("{PROBE}{}", std::process::id()));
    let found = fs::create_dir_with_mode(&probe, 0o700).and_then(|()| fs::lookup(&probe));
    let Ok(Some(found)) = found else {
        return true;
    };
    let _ = fs::remove_dir(&probe);
    found.uid() == nix::unistd::geteuid().as_raw()
}

/// Checks that a path, if it exists, is a directory of the current user, and that no other user can write to it.
fn check_own(path: &Path) -> Result<(), ImageError> {
    let own = nix::unistd::geteuid().as_raw();
    let metadata = fs::lookup(path)?;
    let is_own = |it: &Metadata| it.is_dir() && it.uid() == own && it.mode() & 0o022 == 0;
    match metadata.is_none_or(|it| is_own(&it)) {
        true => Ok(()),
        false => Err(ImageError::OfOthers {
            path: path.to_owned(),
        }),
    }
}

/// The current user outside of a user namespace that this process has entered.
pub(super) fn outer_user() -> u32 {
    let own = nix::unistd::geteuid().as_raw();
    let map = fs::read_lossy("/proc/self/uid_map".as_ref()).unwrap_or_default();
    let ranges = map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        Some((next()?, next()?, next()?))
    });
    let mut found = ranges.filter_map(|(inner, outer, length)| {
        let offset = own.checked_sub(inner).filter(|it| *it < length)?;
        outer.checked_add(offset)
    });
    found.next().unwrap_or(own)
}

/// The image that is stored at a path; `None` if it is missing or incomplete.
fn stored(path: &Path, digest: &str) -> Result<Option<Unpacked>, ImageError> {
    check_own(path)?;
    let about = match fs::read(&path.join(ABOUT)) {
        Err(error) if error.is_not_found() => return Ok(None),
        other => other?,
    };
    let Some(root) = fs::if_there(fs::canonicalize(&path.join(ROOT)))? else {
        return Ok(None);
    };
    let about: About = serde_json::from_slice(&about).unwrap_or_default();
    let description = Description::new(about.operating_system, about.version);
    Ok(Some(Unpacked {
        root,
        digest: Some(digest.to_owned()),
        description: about.is_stemcell.then_some(description),
    }))
}

/// The kind of the image in a directory.
fn directory_kind(image: &Path) -> Result<Kind, ImageError> {
    let entries = fs::list(image)?;
    let names: Vec<_> = entries.iter().map(|it| it.file_name()).collect();
    let names = names.iter().map(|it| it.as_encoded_bytes());
    Recognizer::directory(names).map_err(|source| ImageError::Unknown {
        image: image.to_owned(),
        source,
    })
}

fn unpacked_image(image: &Path, kind: UnpackedFile) -> ImageError {
    ImageError::UnpackedImage {
        image: image.to_owned(),
        kind,
    }
}

fn state(file: &File, path: &Path) -> fs::Result<State> {
    let metadata = file.metadata().at("examine", path)?;
    let contents = (metadata.mtime(), metadata.mtime_nsec());
    let attributes = (metadata.ctime(), metadata.ctime_nsec());
    Ok((metadata.len(), contents, attributes))
}

/// A short name for the set of owners that files can get. It depends on the user and on the ID maps of the user namespace.
fn owners_name(owners: Owners) -> fs::Result<String> {
    let maps = ["/proc/self/uid_map", "/proc/self/gid_map"].map(|map| fs::read(map.as_ref()));
    let mut identity = format!("{owners:?} {}", nix::unistd::geteuid()).into_bytes();
    for map in maps {
        identity.extend(map?);
    }
    let digests = Digests::of(&identity, &[Algorithm::Sha256]);
    Ok(digests
        .sha256()
        .unwrap_or_default()
        .chars()
        .take(8)
        .collect())
}
