//! An SBOM in the format SPDX 2.3.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::facts::{Creation, License, NamedBlob, PackageFacts, ReleaseFacts};
use super::{known, uuid_of};
use crate::package_job::Blob;
use crate::release::{Algorithm, Digests};

// The identifiers of elements.
const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const RELEASE: &str = "SPDXRef-Release";
const RELEASE_SOURCE: &str = "SPDXRef-Release-Source";
const STEMCELL: &str = "SPDXRef-Stemcell";

/// SPDX's value for an unknown fact.
const UNKNOWN: &str = "NOASSERTION";

/// The document of a compiled release. Its elements are the compiled release, its source, its packages, their sources, and its stemcell.
#[must_use]
pub fn spdx(release: &ReleaseFacts, creation: Creation<'_>) -> Value {
    let name = release.result.name.trim_end_matches(".tgz");
    let mut texts = Texts::default();
    let packages = elements(release, &mut texts);
    let mut document = known(json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": name,
        "creationInfo": {
            "created": creation.time,
            "creators": [format!("Tool: bosh-agent-{}", creation.agent.version)],
        },
        "packages": packages,
        "relationships": relationships(release),
        "hasExtractedLicensingInfos": texts.infos(),
    }));
    let namespace = format!(
        "https://spdx.org/spdxdocs/bosh-agent-{}",
        uuid_of(&document)
    );
    document["documentNamespace"] = namespace.into();
    document
}

fn elements<'a>(release: &'a ReleaseFacts, texts: &mut Texts<'a>) -> Vec<Value> {
    let element = |id: &str, name: &str, version: &str, file: Option<&NamedBlob>| {
        json!({
            "SPDXID": id,
            "name": name,
            "versionInfo": version,
            "packageFileName": file.map(|it| &it.name),
            "checksums": file.map(|it| checksums(&it.blob)),
            "downloadLocation": UNKNOWN,
            "filesAnalyzed": false,
            "licenseConcluded": UNKNOWN,
            "licenseDeclared": UNKNOWN,
            "copyrightText": UNKNOWN,
        })
    };
    let (name, version) = (release.name.as_str(), release.version.as_str());
    let mut main = element(RELEASE, name, version, Some(&release.result));
    main["primaryPackagePurpose"] = "APPLICATION".into();
    main["licenseDeclared"] = texts.declared(&release.licenses).into();
    main["sourceInfo"] = source_info(release).into();
    let mut elements = vec![main];
    if let Some(source) = &release.source {
        let mut source = element(RELEASE_SOURCE, name, version, Some(source));
        source["primaryPackagePurpose"] = "SOURCE".into();
        elements.push(source);
    }
    for (number, package) in release.packages.iter().enumerate() {
        let (name, version) = (package.name.as_str(), package.version.as_str());
        let file = |directory: &str, blob: &Blob| NamedBlob {
            name: format!("{directory}/{name}.tgz"),
            blob: blob.clone(),
        };
        let compiled = file("compiled_packages", &package.compiled);
        let mut compiled = element(&compiled_id(number), name, version, Some(&compiled));
        compiled["primaryPackagePurpose"] = "ARCHIVE".into();
        compiled["licenseDeclared"] = texts.declared(&package.licenses).into();
        compiled["comment"] = comment(package).into();
        elements.push(compiled);
        if let Some(source) = &package.source {
            let source = file("packages", source);
            let mut source = element(&source_id(number), name, version, Some(&source));
            source["primaryPackagePurpose"] = "SOURCE".into();
            elements.push(source);
        }
    }
    let stemcell = &release.stemcell;
    let mut system = element(STEMCELL, &stemcell.os, &stemcell.version, None);
    system["primaryPackagePurpose"] = "OPERATING_SYSTEM".into();
    if let Some(sha256) = &stemcell.image {
        system["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": sha256}]);
    }
    elements.push(system);
    elements
}

fn source_info(release: &ReleaseFacts) -> Option<String> {
    let commit = release.commit.as_ref()?;
    Some(match release.has_uncommitted_changes {
        true => format!("commit {commit} with uncommitted changes"),
        false => format!("commit {commit}"),
    })
}

fn comment(package: &PackageFacts) -> String {
    let origin = format!("origin: {}", package.origin.word());
    match package.fingerprint.as_str() {
        "" => origin,
        fingerprint => format!("fingerprint: {fingerprint}; {origin}"),
    }
}

fn relationships(release: &ReleaseFacts) -> Vec<Value> {
    let relation = |from: &str, kind: &str, to: &str| json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to});
    let mut relations = vec![relation(DOCUMENT, "DESCRIBES", RELEASE)];
    if release.source.is_some() {
        relations.push(relation(RELEASE, "GENERATED_FROM", RELEASE_SOURCE));
    }
    relations.push(relation(RELEASE, "DEPENDS_ON", STEMCELL));
    let packages = || release.packages.iter().enumerate();
    for (number, package) in packages() {
        let id = compiled_id(number);
        relations.push(relation(RELEASE, "CONTAINS", &id));
        if package.source.is_some() {
            relations.push(relation(&id, "GENERATED_FROM", &source_id(number)));
        }
        // A manifest may list a dependency twice.
        let dependencies = packages().filter(|(_, it)| package.dependencies.contains(&it.name));
        relations.extend(
            dependencies.map(|(number, _)| relation(&id, "DEPENDS_ON", &compiled_id(number))),
        );
    }
    relations
}

/// The identifier of a compiled package. It has a number, because package names may contain characters that identifiers must not contain.
fn compiled_id(number: usize) -> String {
    format!("SPDXRef-Package-{}", number + 1)
}

fn source_id(number: usize) -> String {
    format!("SPDXRef-Package-{}-Source", number + 1)
}

fn checksums(blob: &Blob) -> Vec<Value> {
    let digests = [("SHA1", &blob.sha1), ("SHA256", &blob.sha256)];
    let known = digests.into_iter().filter_map(|(name, digest)| {
        let digest = digest.as_ref()?;
        Some(json!({"algorithm": name, "checksumValue": digest}))
    });
    known.collect()
}

/// The texts of licenses without an SPDX identifier, by the identifiers that the document gives them.
#[derive(Default)]
struct Texts<'a>(BTreeMap<String, &'a License>);

impl<'a> Texts<'a> {
    /// The SPDX expression that all these licenses apply; `NOASSERTION` if there are none.
    fn declared(&mut self, licenses: &'a [License]) -> String {
        let mut ids: Vec<String> = licenses.iter().map(|it| self.id(it)).collect();
        ids.sort();
        ids.dedup();
        match ids.as_slice() {
            [] => UNKNOWN.to_owned(),
            ids => ids.join(" AND "),
        }
    }

    fn id(&mut self, license: &'a License) -> String {
        if let Some(id) = license.id {
            return id.to_owned();
        }
        let digests = Digests::of(license.text.as_bytes(), &[Algorithm::Sha256]);
        let digest = digests.sha256().unwrap_or_default();
        let id = format!("LicenseRef-{}", digest.get(..16).unwrap_or_default());
        self.0.entry(id.clone()).or_insert(license);
        id
    }

    fn infos(&self) -> Vec<Value> {
        let infos = self.0.iter().map(|(id, license)| {
            json!({"licenseId": id, "name": license.path, "extractedText": license.text})
        });
        infos.collect()
    }
}
