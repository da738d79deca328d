//! Reads an image from a file or a directory, and unpacks it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::error::ImageError;
use super::kind::{Kind, Recognizer};
use super::layers::Layers;
use super::manifest::{
    Config, MAX_DOCUMENT, Manifest, ManifestError, Platform, SavedImage, Sha256, choose,
    parse_index,
};
use super::unpack::{Hashed, Owners, Root};
use crate::archive::{self, Decoder, Reader};
use crate::fs::{self, Context as _};
use crate::release::yaml::{self, Node};
use crate::release::{Algorithm, Digests, MultiDigest};

/// The maximum depth of nested indexes, including `index.json`.
const MAX_INDEXES: usize = 4;

/// The description of a stemcell.
const DESCRIPTION: &str = "stemcell.MF";

/// The root file system of a stemcell.
const ROOT: &str = "image";

/// The stemcell that an image claims to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// The `operating_system` of `stemcell.MF`.
    pub operating_system: Option<String>,
    /// The `version`.
    pub version: Option<String>,
    /// The digests of the root file system.
    digests: Option<MultiDigest>,
}

/// Unpacks an image into an empty directory.
pub(super) struct Unpacking<'a> {
    /// The image.
    pub(super) image: &'a Path,
    /// The directory for the root file system.
    pub(super) destination: &'a Path,
    /// An empty directory for other files.
    pub(super) scratch: &'a Path,
    pub(super) owners: Owners,
    pub(super) stop: &'a dyn Fn() -> bool,
}

impl Unpacking<'_> {
    /// Unpacks an archive.
    pub(super) fn archive(&self, file: &File) -> Result<Option<Description>, ImageError> {
        match self.kind(file)? {
            Kind::Root => {
                let mut root = self.root(Layers::flat())?;
                root.add_file(self.rewound(file)?, self.image)?;
                root.finish(self.destination)?;
                Ok(None)
            }
            Kind::Stemcell => self.stemcell(file).map(Some),
            kind @ (Kind::OciLayout | Kind::DockerSave) => {
                let unpacked = archive::unpack_whole(self.rewound(file)?, self.scratch);
                unpacked.map_err(|source| ImageError::Unpack {
                    file: self.image.to_owned(),
                    source,
                })?;
                match kind {
                    Kind::DockerSave => self.saved(self.scratch)?,
                    _ => self.layout(self.scratch, &self.manifest(self.scratch)?.1)?,
                }
                Ok(None)
            }
        }
    }

    /// The kind of an archive.
    fn kind(&self, file: &File) -> Result<Kind, ImageError> {
        let decoder = Decoder::new(self.rewound(file)?).map_err(|it| self.decode(it))?;
        let mut archive = Reader::new(decoder);
        let mut recognizer = Recognizer::default();
        while let Some(entry) = archive.next_entry().map_err(|it| self.read(it))? {
            if (self.stop)() {
                return Err(ImageError::Stopped);
            }
            if let Some(kind) = recognizer.see(&entry.name) {
                return Ok(kind);
            }
        }
        recognizer.finish().map_err(|source| ImageError::Unknown {
            image: self.image.to_owned(),
            source,
        })
    }

    /// Unpacks the archive in a stemcell.
    fn stemcell(&self, file: &File) -> Result<Description, ImageError> {
        let decoder = Decoder::new(self.rewound(file)?).map_err(|it| self.decode(it))?;
        let mut archive = Reader::new(decoder);
        let (mut description, mut found) = (None, None);
        while let Some(entry) = archive.next_entry().map_err(|it| self.read(it))? {
            let name = archive::entry::normalize(&entry.name).unwrap_or_default();
            if name == Path::new(DESCRIPTION) {
                description = Some(self.description(&mut archive)?);
            } else if name == Path::new(ROOT) && found.is_none() {
                let mut content = Hashed::new(&mut archive, &Algorithm::ALL);
                let mut root = self.root(Layers::flat())?;
                root.add_here(&mut content, &self.image.join(ROOT))?;
                root.finish(self.destination)?;
                found = Some(content.finish().map_err(|it| self.decode(it))?);
            }
        }
        archive
            .into_inner()
            .finish()
            .map_err(|it| self.decode(it))?;
        let (Some(description), Some(found)) = (description, found) else {
            return Err(ImageError::NoRoot {
                image: self.image.to_owned(),
            });
        };
        self.check_root(&description, &found)?;
        Ok(description)
    }

    fn check_root(&self, description: &Description, found: &Digests) -> Result<(), ImageError> {
        let verified = match &description.digests {
            Some(expected) => expected.verify(found),
            None => Ok(()),
        };
        verified.map_err(|source| ImageError::Root {
            file: self.image.join(ROOT),
            source,
        })
    }

    fn description(&self, content: impl Read) -> Result<Description, ImageError> {
        let mut text = String::new();
        let invalid = |reason| ImageError::Description {
            image: self.image.to_owned(),
            reason,
        };
        let mut limited = content.take(MAX_DOCUMENT + 1);
        let length = limited
            .read_to_string(&mut text)
            .map_err(|error| invalid(error.to_string()))?;
        if length as u64 > MAX_DOCUMENT {
            return Err(invalid(format!("it is longer than {MAX_DOCUMENT} bytes")));
        }
        Description::parse(&text).map_err(invalid)
    }

    /// The manifest of an OCI layout, with its digest.
    pub(super) fn manifest(&self, layout: &Path) -> Result<(Sha256, Manifest), ImageError> {
        let mut document = read_document(&layout.join("index.json"))?;
        for _ in 0..MAX_INDEXES {
            let descriptors = parse_index(&document).map_err(|it| self.invalid(it))?;
            let chosen = choose(&descriptors, &Platform::own()).map_err(|it| self.invalid(it))?;
            document = read_blob(layout, &chosen.digest)?;
            if !chosen.is_index {
                let manifest = Manifest::parse(&document).map_err(|it| self.invalid(it))?;
                return Ok((chosen.digest.clone(), manifest));
            }
        }
        Err(self.invalid(ManifestError::MediaType {
            document: "index",
            media_type: "index of indexes".to_owned(),
        }))
    }

    /// Unpacks the layers of an OCI layout.
    pub(super) fn layout(&self, layout: &Path, manifest: &Manifest) -> Result<(), ImageError> {
        let config = read_blob(layout, &manifest.config.digest)?;
        let config = self.config(&config, manifest.layers.len())?;
        let mut root = self.root(Layers::new())?;
        for (layer, decoded) in manifest.layers.iter().zip(&config.layers) {
            let (path, file) = open_inside(layout, &layer.digest.blob())?;
            let found = file.metadata().at("examine", &path)?.len();
            if found != layer.size {
                return Err(ImageError::Size {
                    file: path,
                    found,
                    expected: layer.size,
                });
            }
            check_digest(&path, &digest(&file, &path)?, &layer.digest)?;
            let found = root.add_file(file, &path)?;
            check_digest(&path, found.sha256().unwrap_or_default(), decoded)?;
        }
        root.finish(self.destination)
    }

    /// Unpacks the layers of a file of `docker save`, whose files are in this directory.
    fn saved(&self, directory: &Path) -> Result<(), ImageError> {
        let manifest = read_document(&directory.join("manifest.json"))?;
        let image = SavedImage::parse(&manifest).map_err(|it| self.invalid(it))?;
        let expected = image.config_digest().map_err(|it| self.invalid(it))?;
        let (path, file) = open_inside(directory, &image.config)?;
        let config = limited(file, &path)?;
        check_digest(&path, &sha256(&config), &expected)?;
        let config = self.config(&config, image.layers.len())?;
        let mut root = self.root(Layers::new())?;
        for (layer, decoded) in image.layers.iter().zip(&config.layers) {
            let (path, file) = open_inside(directory, layer)?;
            let found = root.add_file(file, &path)?;
            check_digest(&path, found.sha256().unwrap_or_default(), decoded)?;
        }
        root.finish(self.destination)
    }

    fn config(&self, document: &[u8], layers: usize) -> Result<Config, ImageError> {
        let config = Config::parse(document, layers).map_err(|it| self.invalid(it))?;
        let wanted = Platform::own();
        match config.platform == wanted {
            true => Ok(config),
            false => Err(ImageError::Platform {
                image: self.image.to_owned(),
                found: config.platform,
                wanted,
            }),
        }
    }

    fn root(&self, layers: Layers) -> Result<Root<'_>, ImageError> {
        Root::new(self.destination, layers, self.owners, self.stop)
    }

    /// The file, read from its beginning.
    fn rewound(&self, file: &File) -> Result<File, ImageError> {
        let mut file = file.try_clone().at("read", self.image)?;
        file.seek(SeekFrom::Start(0)).at("read", self.image)?;
        Ok(file)
    }

    fn decode(&self, source: std::io::Error) -> ImageError {
        ImageError::Decode {
            file: self.image.to_owned(),
            source,
        }
    }

    fn read(&self, source: archive::ReadError) -> ImageError {
        ImageError::Archive {
            file: self.image.to_owned(),
            source,
        }
    }

    fn invalid(&self, source: ManifestError) -> ImageError {
        ImageError::Manifest {
            image: self.image.to_owned(),
            source,
        }
    }
}

impl Description {
    /// The description of an image whose digests were verified before.
    #[must_use]
    pub fn new(operating_system: Option<String>, version: Option<String>) -> Self {
        Self {
            operating_system,
            version,
            digests: None,
        }
    }

    /// Parses a `stemcell.MF`.
    fn parse(text: &str) -> Result<Self, String> {
        let document = yaml::parse(text).map_err(|error| error.to_string())?;
        let Node::Mapping(fields) = &document else {
            return Err(format!("expected a mapping, found {}", document.kind()));
        };
        let text = |key: &str| match fields.get(key) {
            Some(Node::Scalar(scalar)) if !scalar.is_null() => Some(scalar.text.clone()),
            _ => None,
        };
        // In spite of its name, the field also has digests of other algorithms, such as `sha256:HEX`.
        let digests = text("sha1").map(|it| MultiDigest::parse(&it)).transpose();
        let digests = digests.map_err(|error| format!("`sha1` {error}"))?;
        Ok(Self {
            operating_system: text("operating_system"),
            version: text("version"),
            digests,
        })
    }
}

/// Opens a file of an image, which may be a symbolic link to another file of the image. Also returns its path.
fn open_inside(directory: &Path, name: &Path) -> Result<(PathBuf, File), ImageError> {
    let path = directory.join(name);
    let real = fs::canonicalize(&path)?;
    if !real.starts_with(fs::canonicalize(directory)?) {
        return Err(ImageError::Outside { file: path });
    }
    let file = fs::open_file(&real)?;
    Ok((path, file))
}

fn read_document(path: &Path) -> Result<Vec<u8>, ImageError> {
    let name = Path::new(fs::file_name(path));
    let (path, file) = open_inside(fs::parent(path), name)?;
    limited(file, &path)
}

/// Reads a document from a blob, and verifies its digest.
fn read_blob(layout: &Path, digest: &Sha256) -> Result<Vec<u8>, ImageError> {
    let (path, file) = open_inside(layout, &digest.blob())?;
    let bytes = limited(file, &path)?;
    check_digest(&path, &sha256(&bytes), digest)?;
    Ok(bytes)
}

/// Reads a document. One that is too long is cut off one byte after the limit, so that its parser reports it.
fn limited(file: File, path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .at("read", path)?;
    Ok(bytes)
}

fn sha256(bytes: &[u8]) -> String {
    let digests = Digests::of(bytes, &[Algorithm::Sha256]);
    digests.sha256().unwrap_or_default().to_owned()
}

/// The SHA-256 of a whole file. Leaves the position at the beginning of the file.
pub(super) fn digest(mut file: &File, path: &Path) -> fs::Result<String> {
    file.seek(SeekFrom::Start(0)).at("read", path)?;
    let (digests, _) = Digests::of_reader(file, &[Algorithm::Sha256]).at("read", path)?;
    file.seek(SeekFrom::Start(0)).at("read", path)?;
    Ok(digests.sha256().unwrap_or_default().to_owned())
}

fn check_digest(file: &Path, found: &str, expected: &Sha256) -> Result<(), ImageError> {
    match found == expected.hex() {
        true => Ok(()),
        false => Err(ImageError::Digest {
            file: file.to_owned(),
            algorithm: "SHA-256",
            found: found.to_owned(),
            expected: expected.hex().to_owned(),
        }),
    }
}
