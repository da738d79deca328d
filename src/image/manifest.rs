//! The documents of container images: OCI index, manifest and configuration, and the manifest of `docker save`. No I/O.
//!
//! Only SHA-256 digests are supported, because no known tool writes others. The caller verifies the digests of what it reads.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use crate::archive::entry::{EntryPathError, normalize};

/// The maximum length of a document, in bytes. Registries accept no longer manifests.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;

/// The maximum number of layers: several times what Docker supports.
pub(super) const MAX_LAYERS: usize = 1000;

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The document is not JSON or has an unexpected structure.
    #[error("the {document} is invalid")]
    Json {
        /// The document.
        document: &'static str,
        /// The error of the parser.
        source: serde_json::Error,
    },
    /// A digest is not a SHA-256.
    #[error("`{text}` is not a SHA-256 digest; others are not supported")]
    Digest {
        /// The digest.
        text: String,
    },
    /// A document is too long.
    #[error("a document of {size} bytes is longer than {MAX_DOCUMENT} bytes")]
    TooLong {
        /// The length, in bytes.
        size: u64,
    },
    /// There are too many layers.
    #[error("the image has {count} layers, more than {MAX_LAYERS}")]
    TooManyLayers {
        /// Their number.
        count: usize,
    },
    /// The image has no layers.
    #[error("the image has no layers")]
    NoLayers,
    /// The numbers of layers in the manifest and in the configuration differ.
    #[error("the manifest has {manifest} layers, but the configuration {config}")]
    LayerCount {
        /// The number in the manifest.
        manifest: usize,
        /// The number in the configuration.
        config: usize,
    },
    /// The artifact is not a container image, or its indexes are nested too deeply.
    #[error("the {document} has the media type `{media_type}`, which is not an image")]
    MediaType {
        /// The document.
        document: &'static str,
        /// Its media type.
        media_type: String,
    },
    /// There is no image for this platform.
    #[error("no image for {wanted}{}", Found(found))]
    NoImage {
        /// The platform.
        wanted: Platform,
        /// The platforms of the images.
        found: Vec<Platform>,
    },
    /// There are several images.
    #[error("{count} images; save only one{}", Names(names))]
    SeveralImages {
        /// Their number.
        count: usize,
        /// Their names, as far as they have any.
        names: Vec<String>,
    },
    /// A name in the manifest of `docker save` is not a path in the file.
    #[error("the manifest names a file outside the archive")]
    Outside {
        /// The reason.
        source: EntryPathError,
    },
}

/// Formats the platforms of the images that were found.
struct Found<'a>(&'a [Platform]);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, platform) in self.0.iter().enumerate() {
            f.write_str(if number == 0 { ", only for " } else { ", " })?;
            platform.fmt(f)?;
        }
        Ok(())
    }
}

/// Formats the names of the images that were found.
struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, name) in self.0.iter().enumerate() {
            write!(f, "{} `{name}`", if number == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

/// A SHA-256 digest: 64 hexadecimal digits in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Sha256(String);

impl Sha256 {
    /// Parses `sha256:HEX`.
    ///
    /// # Errors
    /// If the text has another form.
    pub(super) fn parse(text: &str) -> Result<Self, ManifestError> {
        let hex = text.strip_prefix("sha256:").filter(|hex| is_hex(hex));
        hex.map(|hex| Self(hex.to_owned()))
            .ok_or_else(|| ManifestError::Digest {
                text: text.chars().take(100).collect(),
            })
    }

    /// The digits.
    #[must_use]
    pub(super) fn hex(&self) -> &str {
        &self.0
    }

    /// The path of the blob in an OCI layout.
    #[must_use]
    pub(super) fn blob(&self) -> PathBuf {
        PathBuf::from("blobs/sha256").join(&self.0)
    }
}

fn is_hex(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// An operating system and an architecture, named as in container images.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// The architecture: `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// The operating system: `linux`.
    #[serde(default)]
    pub os: String,
}

impl Platform {
    /// The platform of this program.
    #[must_use]
    pub fn own() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// A reference to a blob of an OCI layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// The digest of the blob.
    pub digest: Sha256,
    /// Its length, in bytes.
    pub size: u64,
    /// Whether it is an index, which refers to other manifests.
    pub is_index: bool,
    /// The platform of the image, if it is known.
    pub platform: Option<Platform>,
    /// Its name, if it has one.
    pub name: Option<String>,
}

/// A descriptor as it is in a document.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: serde_json::Map<String, Value>,
}

impl RawDescriptor {
    fn check(self) -> Result<Descriptor, ManifestError> {
        let name = self.annotations.get("org.opencontainers.image.ref.name");
        let named = self.annotations.get("io.containerd.image.name").or(name);
        Ok(Descriptor {
            digest: Sha256::parse(&self.digest)?,
            size: self.size,
            is_index: is_index(&self.media_type),
            platform: self.platform,
            name: named.and_then(Value::as_str).map(str::to_owned),
        })
    }

    /// Whether it describes an image. BuildKit also adds descriptors of attestations, which say how an image was built.
    fn is_image(&self) -> bool {
        !self.annotations.contains_key("vnd.docker.reference.type")
    }
}

fn is_index(media_type: &str) -> bool {
    media_type.contains("image.index") || media_type.contains("manifest.list")
}

/// Parses an OCI index: `index.json`, or an index to which another one refers. Returns the descriptors of images and of other indexes.
///
/// # Errors
/// If the document is invalid.
pub(super) fn parse_index(bytes: &[u8]) -> Result<Vec<Descriptor>, ManifestError> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<RawDescriptor>,
    }
    let index: Index = parse("index", bytes)?;
    let images = index.manifests.into_iter().filter(RawDescriptor::is_image);
    images.map(RawDescriptor::check).collect()
}

/// Chooses the image for a platform. Images of unknown platform are candidates, too.
///
/// # Errors
/// If there is none, or several.
pub(super) fn choose<'a>(
    descriptors: &'a [Descriptor],
    wanted: &Platform,
) -> Result<&'a Descriptor, ManifestError> {
    let matching = |it: &&Descriptor| it.platform.as_ref().is_none_or(|it| it == wanted);
    let mut candidates: Vec<&Descriptor> = descriptors.iter().filter(matching).collect();
    // The same image may have several names.
    let mut seen = BTreeSet::new();
    candidates.retain(|it| seen.insert(&it.digest));
    match candidates[..] {
        [one] => Ok(one),
        [] => Err(ManifestError::NoImage {
            wanted: wanted.clone(),
            found: descriptors
                .iter()
                .filter_map(|it| it.platform.clone())
                .collect(),
        }),
        _ => Err(ManifestError::SeveralImages {
            count: candidates.len(),
            names: candidates.iter().filter_map(|it| it.name.clone()).collect(),
        }),
    }
}

/// A manifest of an OCI image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    /// Parses a manifest.
    ///
    /// # Errors
    /// If the document is invalid.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Raw {
            config: RawDescriptor,
            layers: Vec<RawDescriptor>,
        }
        let raw: Raw = parse("manifest", bytes)?;
        check_count(raw.layers.len())?;
        if !raw.config.media_type.contains("config.") && !raw.config.media_type.contains("image.v1")
        {
            return Err(ManifestError::MediaType {
                document: "configuration",
                media_type: raw.config.media_type,
            });
        }
        let layers = raw.layers.into_iter().map(RawDescriptor::check);
        Ok(Self {
            config: raw.config.check()?,
            layers: layers.collect::<Result<_, _>>()?,
        })
    }
}

/// The configuration of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Config {
    /// The platform.
    pub platform: Platform,
    /// The digests of the decoded layers, the lowest first.
    pub layers: Vec<Sha256>,
}

impl Config {
    /// Parses a configuration, for an image with this number of layers.
    ///
    /// # Errors
    /// If the document is invalid, or has another number of layers.
    pub(super) fn parse(bytes: &[u8], layers: usize) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(default)]
            architecture: String,
            #[serde(default)]
            os: String,
            rootfs: RootFs,
        }
        #[derive(Deserialize)]
        struct RootFs {
            diff_ids: Vec<String>,
        }
        let raw: Raw = parse("configuration", bytes)?;
        let digests = raw.rootfs.diff_ids.iter();
        let config = Self {
            platform: Platform {
                architecture: raw.architecture,
                os: raw.os,
            },
            layers: digests
                .map(|it| Sha256::parse(it))
                .collect::<Result<_, _>>()?,
        };
        match config.layers.len() {
            count if count == layers => Ok(config),
            count => Err(ManifestError::LayerCount {
                manifest: layers,
                config: count,
            }),
        }
    }
}

/// An image in a file of `docker save`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SavedImage {
    /// The path of the configuration.
    pub config: PathBuf,
    /// The paths of the layers, the lowest first.
    pub layers: Vec<PathBuf>,
}

impl SavedImage {
    /// Parses the `manifest.json` of `docker save`.
    ///
    /// # Errors
    /// If it is invalid, or has no or several images.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Raw {
            config: String,
            layers: Vec<String>,
            #[serde(default)]
            repo_tags: Option<Vec<String>>,
        }
        let images: Vec<Raw> = parse("manifest", bytes)?;
        let [image] = &images[..] else {
            let names = images.iter().filter_map(|it| it.repo_tags.clone());
            return Err(ManifestError::SeveralImages {
                count: images.len(),
                names: names.flatten().collect(),
            });
        };
        check_count(image.layers.len())?;
        let path = |name: &String| {
            normalize(name.as_bytes()).map_err(|source| ManifestError::Outside { source })
        };
        Ok(Self {
            config: path(&image.config)?,
            layers: image.layers.iter().map(path).collect::<Result<_, _>>()?,
        })
    }

    /// The digest of the configuration, which is part of its file name: `HEX.json`, or `HEX` in newer versions of Docker.
    ///
    /// # Errors
    /// If the file name is not a digest.
    pub(super) fn config_digest(&self) -> Result<Sha256, ManifestError> {
        let stem = self.config.file_stem().and_then(|it| it.to_str());
        Sha256::parse(&format!("sha256:{}", stem.unwrap_or_default()))
    }
}

fn check_count(count: usize) -> Result<(), ManifestError> {
    match count {
        0 => Err(ManifestError::NoLayers),
        count if count > MAX_LAYERS => Err(ManifestError::TooManyLayers { count }),
        _ => Ok(()),
    }
}

fn parse<'a, T: Deserialize<'a>>(
    document: &'static str,
    bytes: &'a [u8],
) -> Result<T, ManifestError> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(ManifestError::TooLong {
            size: bytes.len() as u64,
        });
    }
    serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { document, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Chain;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn descriptor(platform: &str, more: &str) -> String {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{HEX}","size":7{platform}{more}}}"#
        )
    }

    fn platform(architecture: &str) -> String {
        format!(r#","platform":{{"os":"linux","architecture":"{architecture}"}}"#)
    }

    fn index(manifests: &[String]) -> Vec<Descriptor> {
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            manifests.join(",")
        );
        parse_index(text.as_bytes()).unwrap()
    }

    fn amd64() -> Platform {
        Platform {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
        }
    }

    #[test]
    fn image_of_the_platform_is_chosen() {
        let other = descriptor(&platform("arm64"), "").replace("0123", "3210");
        let attestation = descriptor(
            &platform("amd64"),
            r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#,
        );
        let descriptors = index(&[
            other.clone(),
            descriptor(&platform("amd64"), ""),
            attestation,
        ]);
        let chosen = choose(&descriptors, &amd64()).unwrap();
        assert_eq!(chosen.digest.hex(), HEX);
        assert_eq!(
            chosen.digest.blob(),
            PathBuf::from("blobs/sha256").join(HEX)
        );
        let error = choose(&index(&[other]), &amd64()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no image for linux/amd64, only for linux/arm64"
        );
    }

    #[test]
    fn several_images_are_refused_by_name() {
        let named = |name: &str| {
            let name =
                format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{name}"}}"#);
            descriptor("", &name)
        };
        let descriptors = index(&[named("a:1"), named("b:2").replace("0123", "3210")]);
        assert_eq!(
            choose(&descriptors, &amd64()).unwrap_err().to_string(),
            "2 images; save only one: `a:1`, `b:2`"
        );
        assert!(choose(&index(&[named("a:1"), named("a:2")]), &amd64()).is_ok());
        // Names of an image need not follow one another.
        let other = named("b:2").replace("0123", "3210");
        let error = choose(&index(&[named("a:1"), other, named("a:2")]), &amd64()).unwrap_err();
        assert_eq!(error.to_string(), "2 images; save only one: `a:1`, `b:2`");
        let saved = r#"[{"Config":"c","Layers":["l"],"RepoTags":["a:1"]},{"Config":"c","Layers":["l"],"RepoTags":null}]"#;
        let error = SavedImage::parse(saved.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "2 images; save only one: `a:1`");
    }

    #[test]
    fn saved_image_has_safe_paths_and_a_digest() {
        let saved = |config: &str, layer: &str| {
            let text = format!(r#"[{{"Config":"{config}","Layers":["{layer}"]}}]"#);
            SavedImage::parse(text.as_bytes())
        };
        for name in [format!("{HEX}.json"), format!("blobs/sha256/{HEX}")] {
            let image = saved(&name, "a/layer.tar").unwrap();
            assert_eq!(image.config_digest().unwrap().hex(), HEX);
        }
        for name in ["/etc/shadow", "../x", "a/../../x", ""] {
            let error = saved("c.json", name).unwrap_err();
            assert!(matches!(error, ManifestError::Outside { .. }), "{name}");
            assert!(saved(name, "l").is_err(), "{name}");
        }
        assert!(saved("c.json", "l").unwrap().config_digest().is_err());
    }

    #[test]
    fn manifest_and_configuration_agree_on_the_layers() {
        let blob = |kind: &str| {
            format!(r#"{{"mediaType":"application/vnd.{kind}","digest":"sha256:{HEX}","size":1}}"#)
        };
        let manifest = |config: &str, layers: &[String]| {
            let text = format!(
                r#"{{"config":{},"layers":[{}]}}"#,
                blob(config),
                layers.join(",")
            );
            Manifest::parse(text.as_bytes())
        };
        let layer = blob("oci.image.layer.v1.tar+gzip");
        let oci = "oci.image.config.v1+json";
        let image = manifest(oci, std::slice::from_ref(&layer)).unwrap();
        assert_eq!(image.layers.len(), 1);
        manifest(
            "docker.container.image.v1+json",
            std::slice::from_ref(&layer),
        )
        .unwrap();
        assert!(matches!(manifest(oci, &[]), Err(ManifestError::NoLayers)));
        assert!(matches!(
            manifest(oci, &vec![layer.clone(); MAX_LAYERS + 1]),
            Err(ManifestError::TooManyLayers { .. })
        ));
        assert!(matches!(
            manifest("cncf.helm.chart", &[layer]),
            Err(ManifestError::MediaType { .. })
        ));

        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["A=b"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{HEX}"]}}}}"#
        );
        let parsed = Config::parse(config.as_bytes(), 1).unwrap();
        assert_eq!((parsed.platform, parsed.layers.len()), (amd64(), 1));
        assert_eq!(
            Config::parse(config.as_bytes(), 2).unwrap_err().to_string(),
            "the manifest has 2 layers, but the configuration 1"
        );
    }

    #[test]
    fn invalid_documents_are_errors() {
        for text in [
            "",
            "[]",
            "{}",
            "null",
            r#"{"manifests":[{"digest":"sha256:../../x","size":1}]}"#,
        ] {
            let error = parse_index(text.as_bytes()).unwrap_err();
            assert!(!Chain(&error).to_string().is_empty(), "{text}");
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{text}");
            assert!(Config::parse(text.as_bytes(), 1).is_err(), "{text}");
            assert!(SavedImage::parse(text.as_bytes()).is_err(), "{text}");
        }
        for text in [
            "md5:0".to_owned(),
            HEX.to_owned(),
            format!("sha512:{HEX}"),
            format!("sha256:{}", HEX.to_uppercase()),
        ] {
            assert!(Sha256::parse(&text).is_err(), "{text}");
        }
        let long = vec![b' '; MAX_DOCUMENT as usize + 1];
        assert!(matches!(
            parse_index(&long),
            Err(ManifestError::TooLong { .. })
        ));
    }
}
