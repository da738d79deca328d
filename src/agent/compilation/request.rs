//! Parses the arguments of `compile_package` and `compile_package_with_signed_url`. No I/O.

use serde_json::{Map, Value};

use crate::agent::arguments::{ArgumentError, first, get, object, parsed, text};
use crate::blobs::{BlobId, Headers, SignedUrl};
use crate::release::{MultiDigest, Name, Version};

/// A request to compile one package.
#[derive(Debug, Clone)]
pub struct CompileRequest {
    /// The package's name.
    pub name: Name,
    /// The package's version, followed by the Director's build number.
    pub version: Version,
    /// Where the source is fetched from; `None` if it is missing in the request.
    pub source: Option<BlobSource>,
    /// The digest of the source.
    pub digest: MultiDigest,
    /// The direct dependencies.
    pub dependencies: Vec<RequestedDependency>,
    /// Where the result is uploaded.
    pub destination: Destination,
}

/// A compiled package that the requested one depends on.
#[derive(Debug, Clone)]
pub struct RequestedDependency {
    /// The package's name.
    pub name: Name,
    /// The package's version.
    pub version: Version,
    /// Where the blob is fetched from; `None` if it is missing in the request.
    pub blob: Option<BlobSource>,
    /// The digest of the blob.
    pub digest: MultiDigest,
}

/// The location of a blob.
#[derive(Debug, Clone)]
pub enum BlobSource {
    /// The blob is in the blobstore that the settings name.
    Blobstore(BlobId),
    /// The blob is at a signed URL.
    Signed(SignedUrl, Headers),
}

/// The destination of a compiled package.
#[derive(Debug, Clone)]
pub enum Destination {
    /// The blobstore that the settings name, under a new ID.
    Blobstore,
    /// A signed URL.
    Signed(SignedUrl, Headers),
}

impl CompileRequest {
    /// Parses the arguments of `compile_package`: blob ID, digest, name, version, dependencies.
    ///
    /// # Errors
    /// If the arguments are invalid. Names are checked because they become parts of paths.
    pub fn of_blobs(arguments: &[Value]) -> Result<Self, ArgumentError> {
        let [id, digest, name, version, dependencies] = first(arguments)?;
        Ok(Self {
            name: parsed(name, "name", Name::parse)?,
            version: parsed(version, "version", Version::parse)?,
            source: blob(text(id, "blobstore_id")?)?,
            digest: parsed(digest, "digest", MultiDigest::parse)?,
            dependencies: dependencies_of(dependencies)?,
            destination: Destination::Blobstore,
        })
    }

    /// Parses the argument of `compile_package_with_signed_url`.
    ///
    /// # Errors
    /// As [`of_blobs`](Self::of_blobs).
    pub fn of_signed_urls(arguments: &[Value]) -> Result<Self, ArgumentError> {
        let [request] = first(arguments)?;
        let nothing = Map::new();
        let request = object(request, "compile_package_with_signed_url")?.unwrap_or(&nothing);
        let destination = signed(request, "upload_signed_url")?.ok_or(ArgumentError::Invalid {
            what: "upload_signed_url",
            reason: "it is missing".to_owned(),
        })?;
        Ok(Self {
            name: parsed(get(request, "name"), "name", Name::parse)?,
            version: parsed(get(request, "version"), "version", Version::parse)?,
            source: source(request)?,
            digest: parsed(get(request, "digest"), "digest", MultiDigest::parse)?,
            dependencies: dependencies_of(get(request, "deps"))?,
            destination: Destination::Signed(destination.0, destination.1),
        })
    }
}

/// Parses dependencies. The keys of the object are ignored, because the values contain the names.
fn dependencies_of(value: &Value) -> Result<Vec<RequestedDependency>, ArgumentError> {
    let Some(dependencies) = object(value, "deps")? else {
        return Ok(Vec::new());
    };
    let mut found: Vec<RequestedDependency> = Vec::new();
    for dependency in dependencies.values() {
        let Some(dependency) = object(dependency, "deps")? else {
            continue;
        };
        let name = parsed(get(dependency, "name"), "deps.name", Name::parse)?;
        if found.iter().any(|other| other.name == name) {
            return Err(ArgumentError::Invalid {
                what: "deps",
                reason: format!("two of them are called `{name}`"),
            });
        }
        found.push(RequestedDependency {
            version: parsed(get(dependency, "version"), "deps.version", Version::parse)?,
            blob: source(dependency)?,
            digest: parsed(get(dependency, "sha1"), "deps.sha1", MultiDigest::parse)?,
            name,
        });
    }
    // Sort the dependencies, so that they are fetched in a deterministic order.
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Parses the location of the source. A signed URL takes precedence over a blob ID.
fn source(request: &Map<String, Value>) -> Result<Option<BlobSource>, ArgumentError> {
    if let Some((url, headers)) = signed(request, "package_get_signed_url")? {
        return Ok(Some(BlobSource::Signed(url, headers)));
    }
    blob(text(get(request, "blobstore_id"), "blobstore_id")?)
}

fn signed(
    request: &Map<String, Value>,
    what: &'static str,
) -> Result<Option<(SignedUrl, Headers)>, ArgumentError> {
    let url = text(get(request, what), what)?;
    if url.is_empty() {
        return Ok(None);
    }
    let invalid = |what, reason: String| ArgumentError::Invalid { what, reason };
    let url = SignedUrl::parse(url).map_err(|error| invalid(what, error.to_string()))?;
    let headers = Headers::from_json(get(request, "blobstore_headers"))
        .map_err(|error| invalid("blobstore_headers", error.to_string()))?;
    Ok(Some((url, headers)))
}

fn blob(id: &str) -> Result<Option<BlobSource>, ArgumentError> {
    if id.is_empty() {
        return Ok(None);
    }
    let id = BlobId::parse(id).map_err(|error| ArgumentError::Invalid {
        what: "blobstore_id",
        reason: error.to_string(),
    })?;
    Ok(Some(BlobSource::Blobstore(id)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SHA1: &str = "a1b2c3d4e5f6a7b8c9d0a1b2c3d4e5f6a7b8c9d0";

    #[test]
    fn request_of_a_director_is_parsed() {
        let request = CompileRequest::of_blobs(&[
            json!("7ab1f0a2-58c2-4d43-9b3c-1d1f52cf0001"),
            json!(SHA1),
            json!("redis"),
            json!("0f3c.1"),
            json!({
                "key": {"name": "libfoo", "version": "9aa.1", "sha1": SHA1, "blobstore_id": "id-1"},
                "z": {"Name": "a", "VERSION": "1", "sha1": SHA1, "blobstore_id": "id-2", "new": {}},
            }),
        ])
        .unwrap();
        assert_eq!(request.name.as_str(), "redis");
        assert_eq!(request.version.as_str(), "0f3c.1");
        let names: Vec<&str> = request
            .dependencies
            .iter()
            .map(|d| d.name.as_str())
            .collect();
        assert_eq!(names, ["a", "libfoo"]);
        assert!(matches!(request.source, Some(BlobSource::Blobstore(_))));
        for nothing in [json!(null), json!({})] {
            let arguments = [json!("x"), json!(SHA1), json!("a"), json!("1"), nothing];
            assert!(
                CompileRequest::of_blobs(&arguments)
                    .unwrap()
                    .dependencies
                    .is_empty()
            );
        }
    }

    #[test]
    fn signed_urls_take_precedence() {
        let request = CompileRequest::of_signed_urls(&[json!({
            "package_get_signed_url": "https://s3/bucket/a?X-Amz-Signature=hunter2",
            "upload_signed_url": "https://s3/bucket/b?X-Amz-Signature=hunter2",
            "blobstore_headers": {"x-ms-blob-type": "blockblob"},
            "digest": SHA1, "name": "redis", "version": "1.1",
            "deps": {"libfoo": {
                "name": "libfoo", "version": "1", "sha1": SHA1, "blobstore_id": "id",
                "package_get_signed_url": "https://s3/c?sig=hunter2", "blobstore_headers": null,
            }},
        })])
        .unwrap();
        assert!(matches!(request.source, Some(BlobSource::Signed(..))));
        assert!(matches!(request.destination, Destination::Signed(..)));
        assert!(matches!(
            request.dependencies[0].blob,
            Some(BlobSource::Signed(..))
        ));
        let shown = format!("{request:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        for (name, version) in [("../../evil", "1"), ("a/b", "1"), ("", "1"), ("a", "../1")] {
            let arguments = [
                json!("x"),
                json!(SHA1),
                json!(name),
                json!(version),
                json!({}),
            ];
            let error = CompileRequest::of_blobs(&arguments).unwrap_err();
            assert!(matches!(error, ArgumentError::Invalid { .. }), "{error}");
            let deps = json!({"k": {"name": name, "version": version, "sha1": SHA1}});
            let arguments = [json!("x"), json!(SHA1), json!("a"), json!("1"), deps];
            CompileRequest::of_blobs(&arguments).unwrap_err();
        }
        let arguments = [
            json!("../x"),
            json!(SHA1),
            json!("a"),
            json!("1"),
            json!({}),
        ];
        CompileRequest::of_blobs(&arguments).unwrap_err();
    }

    #[test]
    fn missing_and_mistyped_arguments_are_named() {
        let error = CompileRequest::of_blobs(&[json!("x")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Extracting method arguments from payload: Not enough arguments, expected 5, got 1"
        );
        let arguments = [json!("x"), json!(SHA1), json!(7), json!("1"), json!({})];
        let error = CompileRequest::of_blobs(&arguments)
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("Unmarshalling action argument: `name` is a number"));
        let arguments = [json!("x"), json!(null), json!("a"), json!("1"), json!({})];
        let error = CompileRequest::of_blobs(&arguments)
            .unwrap_err()
            .to_string();
        assert!(error.contains("digest"), "{error}");
        CompileRequest::of_signed_urls(&[json!({"name": "a", "version": "1", "digest": SHA1})])
            .unwrap_err();
    }
}
