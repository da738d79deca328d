//! The provenance of a compiled release: an in-toto statement of version 1 with a predicate of SLSA 1.0.

use serde_json::{Value, json};

use super::facts::{BuildFacts, NamedBlob, Origin, PackageFacts, ReleaseFacts};
use super::known;
use crate::package_job::{Agent, Blob};

/// The kind of build, by which a verifier knows the meaning of the parameters. `docs/supply-chain.md` describes it.
const BUILD_TYPE: &str = "urn:bosh-agent:compile:v1";

/// The URI of the build platform, unless the user chooses another.
pub const DEFAULT_BUILDER: &str = "urn:bosh-agent";

/// The statement about a compiled release. Its subject is the release's tarball.
#[must_use]
pub fn provenance(release: &ReleaseFacts, build: &BuildFacts, agent: &Agent) -> Value {
    let times = build.times.as_ref();
    known(json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [descriptor(&release.result, Value::Null)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "release": {"name": release.name, "version": release.version},
                    "stemcell": format!("{}/{}", release.stemcell.os, release.stemcell.version),
                    "options": build.options,
                },
                "internalParameters": {
                    "isolation": build.isolation,
                    "server": build.server,
                    "jobs": build.jobs,
                },
                "resolvedDependencies": inputs(release),
            },
            "runDetails": {
                "builder": {
                    "id": build.builder,
                    "version": {
                        "bosh-agent": agent.version,
                        "commit": agent.commit,
                        "target": agent.target,
                    },
                },
                "metadata": {
                    "startedOn": times.map(|it| &it.0),
                    "finishedOn": times.map(|it| &it.1),
                },
                "byproducts": release.packages.iter().map(compiled).collect::<Vec<_>>(),
            },
        },
    }))
}

/// The inputs of the compilation: the source release, the stemcell image, and the sources of packages.
fn inputs(release: &ReleaseFacts) -> Vec<Value> {
    let changed = release.has_uncommitted_changes.then_some(true);
    let source = release.source.iter().map(|source| {
        descriptor(
            source,
            json!({"commit": release.commit, "uncommitted_changes": changed}),
        )
    });
    let image = release.stemcell.image.iter().map(|sha256| {
        json!({
            "name": "stemcell image",
            "digest": {"sha256": sha256},
        })
    });
    let packages = release.packages.iter().filter_map(|package| {
        let source = NamedBlob {
            name: format!("packages/{}.tgz", package.name),
            blob: package.source.clone()?,
        };
        Some(descriptor(&source, identity(package)))
    });
    source.chain(image).chain(packages).collect()
}

/// A package in the compiled release.
fn compiled(package: &PackageFacts) -> Value {
    let compiled = NamedBlob {
        name: format!("compiled_packages/{}.tgz", package.name),
        blob: package.compiled.clone(),
    };
    let mut annotations = identity(package);
    annotations["origin"] = package.origin.word().into();
    if let Origin::EarlierResult(file) = &package.origin {
        annotations["earlier_result"] = file.as_str().into();
    }
    descriptor(&compiled, annotations)
}

fn identity(package: &PackageFacts) -> Value {
    let fingerprint = Some(&package.fingerprint).filter(|it| !it.is_empty());
    json!({
        "package": package.name,
        "version": package.version,
        "fingerprint": fingerprint,
    })
}

/// A resource descriptor of in-toto.
fn descriptor(file: &NamedBlob, annotations: Value) -> Value {
    json!({
        "name": file.name,
        "digest": digests(&file.blob),
        "annotations": annotations,
    })
}

fn digests(blob: &Blob) -> Value {
    json!({"sha1": blob.sha1, "sha256": blob.sha256})
}
