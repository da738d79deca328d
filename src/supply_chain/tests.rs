//! The documents of a small release.

use serde_json::{Value, json};

use super::*;
use crate::package_job::{Agent, Blob};

fn blob(digit: char) -> Blob {
    let digits = |length| std::iter::repeat_n(digit, length).collect();
    Blob {
        size: 1,
        sha1: Some(digits(40)),
        sha256: Some(digits(64)),
    }
}

fn named(name: &str, digit: char) -> NamedBlob {
    NamedBlob {
        name: name.to_owned(),
        blob: blob(digit),
    }
}

fn license(id: Option<&'static str>, text: &str) -> License {
    License {
        id,
        path: "LICENSE".to_owned(),
        text: text.to_owned(),
    }
}

fn package(name: &str, dependencies: &[&str], origin: Origin) -> PackageFacts {
    PackageFacts {
        name: name.to_owned(),
        version: "v1".to_owned(),
        fingerprint: String::new(),
        dependencies: dependencies.iter().map(|it| (*it).to_owned()).collect(),
        source: (origin != Origin::Release).then(|| blob('a')),
        compiled: blob('b'),
        origin,
        licenses: vec![license(None, "Do what is right."), license(Some("MIT"), "")],
    }
}

fn release() -> ReleaseFacts {
    ReleaseFacts {
        name: "demo".to_owned(),
        version: "1.10".to_owned(),
        commit: Some("8ab1aae".to_owned()),
        has_uncommitted_changes: false,
        stemcell: StemcellFacts {
            os: "ubuntu-noble".to_owned(),
            version: "1.406".to_owned(),
            image: None,
        },
        source: Some(named("demo 1.tgz", 'c')),
        result: named("demo-1.10-ubuntu-noble-1.406.tgz", 'd'),
        licenses: Vec::new(),
        packages: vec![
            package("app", &["lib_x", "lib_x"], Origin::Compiled),
            package("lib_x", &[], Origin::Release),
        ],
    }
}

fn agent() -> Agent {
    Agent {
        version: "1".to_owned(),
        commit: "abc".to_owned(),
        target: "x86_64".to_owned(),
    }
}

fn both(release: &ReleaseFacts, time: &str) -> [Value; 2] {
    let agent = agent();
    let creation = Creation {
        agent: &agent,
        time,
    };
    [cyclonedx(release, creation), spdx(release, creation)]
}

#[test]
fn equal_facts_give_equal_documents() {
    let (release, time) = (release(), "2026-01-01T00:00:00Z");
    assert_eq!(both(&release, time), both(&release, time));
    let later = both(&release, "2026-01-02T00:00:00Z");
    let [cyclonedx, spdx] = both(&release, time);
    assert_ne!(cyclonedx["serialNumber"], later[0]["serialNumber"]);
    assert_ne!(spdx["documentNamespace"], later[1]["documentNamespace"]);
}

#[test]
fn each_dependency_is_listed_once() {
    let [cyclonedx, spdx] = both(&release(), "2026-01-01T00:00:00Z");
    assert_eq!(
        cyclonedx["dependencies"][1],
        json!({"ref": "package:app", "dependsOn": ["package:lib_x"]})
    );
    let relations = spdx["relationships"].as_array().unwrap();
    let between = relations
        .iter()
        .filter(|it| it["spdxElementId"] == "SPDXRef-Package-1");
    assert_eq!(
        between
            .map(|it| it["relatedSpdxElement"].clone())
            .collect::<Vec<_>>(),
        ["SPDXRef-Package-1-Source", "SPDXRef-Package-2"]
    );
}

#[test]
fn unknown_facts_are_left_out() {
    let [cyclonedx, spdx] = both(&release(), "2026-01-01T00:00:00Z");
    let lib = &cyclonedx["components"][1];
    assert_eq!(lib["name"], "lib_x");
    assert!(lib.get("externalReferences").is_none());
    assert!(!spdx.to_string().contains("\"SPDXRef-Package-2-Source\""));
    assert_eq!(
        cyclonedx["metadata"]["component"]["externalReferences"][0]["url"],
        "demo%201.tgz"
    );
}

#[test]
fn licenses_are_identified_or_quoted() {
    let [cyclonedx, spdx] = both(&release(), "2026-01-01T00:00:00Z");
    let licenses = &cyclonedx["components"][0]["licenses"];
    assert_eq!(
        licenses[0]["license"]["text"]["content"],
        "Do what is right."
    );
    assert_eq!(licenses[1]["license"]["id"], "MIT");
    let text = &spdx["hasExtractedLicensingInfos"][0];
    let id = text["licenseId"].as_str().unwrap();
    assert_eq!(
        spdx["packages"][2]["licenseDeclared"],
        format!("{id} AND MIT")
    );
    assert_eq!(spdx["packages"][0]["licenseDeclared"], "NOASSERTION");
}

#[test]
fn provenance_names_inputs_and_results() {
    let build = BuildFacts {
        builder: DEFAULT_BUILDER.to_owned(),
        options: json!({"network": "host", "selection": null}),
        isolation: Some("namespace".to_owned()),
        server: None,
        jobs: Some(2),
        times: None,
    };
    let statement = provenance(&release(), &build, &agent());
    assert_eq!(
        statement["subject"],
        json!([{
            "name": "demo-1.10-ubuntu-noble-1.406.tgz",
            "digest": {"sha1": "d".repeat(40), "sha256": "d".repeat(64)},
        }])
    );
    let predicate = &statement["predicate"];
    let definition = &predicate["buildDefinition"];
    assert_eq!(
        definition["externalParameters"]["options"],
        json!({"network": "host"})
    );
    let inputs = definition["resolvedDependencies"].as_array().unwrap();
    let names: Vec<&Value> = inputs.iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["demo 1.tgz", "packages/app.tgz"]);
    let details = &predicate["runDetails"];
    assert_eq!(details["byproducts"][1]["annotations"]["origin"], "release");
    assert!(details.get("metadata").is_none());
}
