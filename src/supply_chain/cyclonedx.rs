//! An SBOM in the format CycloneDX 1.6.

use serde_json::{Value, json};

use super::facts::{Creation, License, NamedBlob, Origin, PackageFacts, ReleaseFacts};
use super::{known, uuid_of};
use crate::package_job::Blob;

/// The `bom-ref` of the release.
const RELEASE: &str = "release";

/// The `bom-ref` of the stemcell.
const STEMCELL: &str = "stemcell";

/// The document of a compiled release: the release as the main component, its packages and its stemcell as components.
#[must_use]
pub fn cyclonedx(release: &ReleaseFacts, creation: Creation<'_>) -> Value {
    let packages = release.packages.iter().map(package);
    let components: Vec<Value> = packages.chain([stemcell(release)]).collect();
    let mut document = known(json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": creation.time,
            "tools": {"components": [{
                "type": "application",
                "name": "bosh-agent",
                "version": creation.agent.version,
            }]},
            "component": main_component(release),
        },
        "components": components,
        "dependencies": dependencies(release),
    }));
    let number = format!("urn:uuid:{}", uuid_of(&document));
    document["serialNumber"] = number.into();
    document
}

fn main_component(release: &ReleaseFacts) -> Value {
    json!({
        "bom-ref": RELEASE,
        "type": "application",
        "name": release.name,
        "version": release.version,
        "hashes": hashes(&release.result.blob),
        "licenses": licenses(&release.licenses),
        "externalReferences": source(release.source.as_ref()),
        "properties": [
            property("file", Some(&release.result.name)),
            property("commit", release.commit.as_ref()),
            property("uncommitted_changes", release.has_uncommitted_changes.then_some(&"true".to_owned())),
        ],
    })
}

fn package(package: &PackageFacts) -> Value {
    let source_blob = package.source.clone().map(|blob| NamedBlob {
        name: format!("packages/{}.tgz", package.name),
        blob,
    });
    let earlier = match &package.origin {
        Origin::EarlierResult(file) => Some(file),
        _ => None,
    };
    let fingerprint = Some(&package.fingerprint).filter(|it| !it.is_empty());
    json!({
        "bom-ref": reference(&package.name),
        "type": "library",
        "name": package.name,
        "version": package.version,
        "hashes": hashes(&package.compiled),
        "licenses": licenses(&package.licenses),
        "externalReferences": source(source_blob.as_ref()),
        "properties": [
            property("fingerprint", fingerprint),
            property("origin", Some(&package.origin.word().to_owned())),
            property("earlier_result", earlier),
        ],
    })
}

fn stemcell(release: &ReleaseFacts) -> Value {
    let image = release.stemcell.image.as_ref();
    json!({
        "bom-ref": STEMCELL,
        "type": "operating-system",
        "name": release.stemcell.os,
        "version": release.stemcell.version,
        "properties": [property("image_sha256", image)],
    })
}

fn dependencies(release: &ReleaseFacts) -> Vec<Value> {
    let all = release.packages.iter().map(|it| reference(&it.name));
    let of_release: Vec<String> = all.chain([STEMCELL.to_owned()]).collect();
    let mut dependencies = vec![json!({"ref": RELEASE, "dependsOn": of_release})];
    dependencies.extend(release.packages.iter().map(|package| {
        let mut names: Vec<&String> = package.dependencies.iter().collect();
        names.sort();
        names.dedup();
        let depends: Vec<String> = names.into_iter().map(|it| reference(it)).collect();
        json!({"ref": reference(&package.name), "dependsOn": depends})
    }));
    dependencies.push(json!({"ref": STEMCELL}));
    dependencies
}

fn reference(package: &str) -> String {
    format!("package:{package}")
}

fn property(name: &str, value: Option<&String>) -> Option<Value> {
    Some(json!({"name": format!("bosh-agent:{name}"), "value": value?}))
}

fn hashes(blob: &Blob) -> Vec<Value> {
    let digests = [("SHA-1", &blob.sha1), ("SHA-256", &blob.sha256)];
    let known = digests.into_iter().filter_map(|(name, digest)| {
        let digest = digest.as_ref()?;
        Some(json!({"alg": name, "content": digest}))
    });
    known.collect()
}

fn source(blob: Option<&NamedBlob>) -> Vec<Value> {
    let reference = blob.map(|it| {
        json!({
            "type": "source-distribution",
            "url": url(&it.name),
            "hashes": hashes(&it.blob),
        })
    });
    reference.into_iter().collect()
}

/// The name of a file as a relative URL.
fn url(name: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'.')
        .remove(b'-')
        .remove(b'_')
        .remove(b'~')
        .remove(b'+');
    utf8_percent_encode(name, KEPT).to_string()
}

/// The licenses without duplicates.
fn licenses(licenses: &[License]) -> Vec<Value> {
    let mut values: Vec<Value> = Vec::new();
    for license in licenses {
        let license = match license.id {
            Some(id) => json!({"id": id, "acknowledgement": "declared"}),
            None => json!({
                "name": license.path,
                "acknowledgement": "declared",
                "text": {"contentType": "text/plain", "content": license.text},
            }),
        };
        let license = json!({"license": license});
        if !values.contains(&license) {
            values.push(license);
        }
    }
    values
}
