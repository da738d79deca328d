//! `--sbom` and `--provenance`: documents about results. Programs of other projects validate them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{
    Agent, ReleaseBuilder, World, extract, report, require, run_tool, sha1_of, with_input,
};

const APACHE: &[u8] = b"Apache License\nVersion 2.0, January 2004\n";

/// A release with a known license in a package, and an unknown one in an archive of another package.
fn release() -> ReleaseBuilder {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::create_dir(scratch.path().join("x-1")).unwrap();
    std::fs::write(scratch.path().join("x-1/COPYING"), "Ask \u{9b} first.\n").unwrap();
    let archive = scratch.path().join("x-1.tar.gz");
    let flags = ["-C", scratch.path().to_str().unwrap(), "-czf"];
    run_tool(
        "tar",
        &[&flags[..], &[archive.to_str().unwrap(), "x-1"]].concat(),
    );
    ReleaseBuilder::new("demo", "1.10")
        .package("lib_a", &[], "echo lib > $BOSH_INSTALL_TARGET/lib.txt")
        .file("x/x-1.tar.gz", 0o644, &std::fs::read(&archive).unwrap())
        .package("app", &["lib_a"], "echo app > $BOSH_INSTALL_TARGET/app.txt")
        .file("app/LICENSE", 0o644, APACHE)
        .job("web", &["app"])
        .license()
}

/// The program that validates documents, with its libraries.
fn validator() -> Option<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let libraries = root.join(".cache/supply-chain");
    let is_there = libraries.join("cyclonedx").is_dir();
    if !require(
        is_there,
        "the libraries for SBOMs and provenance; `make setup` installs them",
    ) {
        return None;
    }
    let mut command = Command::new("python3");
    command
        .args(["-B", "-W", "ignore"])
        .arg(root.join("tests/support/supply_chain.py"))
        .env("PYTHONPATH", libraries);
    Some(command)
}

/// The flags for all three documents, with this file name.
fn documents(world: &World, agent: Agent, name: &str) -> Agent {
    let path = |suffix: &str| world.path(&format!("{name}{suffix}")).display().to_string();
    agent.args(&[
        format!("--sbom=cyclonedx={}", path(".cdx.json")),
        format!("--sbom=spdx={}", path(".spdx.json")),
        format!("--provenance={}", path(".provenance.json")),
    ])
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The component of a CycloneDX document with this name.
#[track_caller]
fn component<'a>(document: &'a Value, name: &str) -> &'a Value {
    let components = document["components"].as_array().unwrap();
    components.iter().find(|it| it["name"] == name).unwrap()
}

fn hash<'a>(of: &'a Value, algorithm: &str) -> &'a str {
    let hashes = of["hashes"].as_array().unwrap();
    let hash = hashes.iter().find(|it| it["alg"] == algorithm).unwrap();
    hash["content"].as_str().unwrap()
}

/// A property of a component.
fn property<'a>(component: &'a Value, name: &str) -> &'a Value {
    let properties = component["properties"].as_array().unwrap();
    let name = format!("bosh-agent:{name}");
    let found = properties.iter().find(|it| it["name"] == name.as_str());
    found.map_or(&Value::Null, |it| &it["value"])
}

/// The byproducts of a provenance, each with its package and origin.
fn origins(statement: &Value) -> Vec<(String, String)> {
    let byproducts = &statement["predicate"]["runDetails"]["byproducts"];
    let byproducts = byproducts.as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    byproducts
        .map(|it| {
            let annotations = &it["annotations"];
            (text(&annotations["package"]), text(&annotations["origin"]))
        })
        .collect()
}

fn pairs(pairs: [(&str, &str); 2]) -> Vec<(String, String)> {
    let pairs = pairs.into_iter();
    pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

#[test]
fn other_programs_accept_the_documents() {
    let Some(mut validator) = validator() else {
        return;
    };
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    documents(&world, world.agent(), "demo")
        .arg("--builder-id=https://ci.example.com/team")
        .arg(tarball)
        .run()
        .succeeds();
    for suffix in ["cdx", "spdx", "provenance"] {
        validator.arg(world.path(&format!("demo.{suffix}.json")));
    }
    let printed = with_input(validator, b"");
    assert_eq!(
        String::from_utf8_lossy(&printed),
        format!(
            "cyclonedx demo 1.10: 3 components\n\
             spdx demo-1.10-ubuntu-noble-1.406: 7 packages\n\
             in-toto demo-1.10-ubuntu-noble-1.406.tgz sha256:{}\n",
            report::sha256_of(&world.result("demo-1.10"))
        )
    );
}

#[test]
fn other_programs_refuse_changed_documents() {
    let world = World::new();
    let Some(_) = validator() else {
        return;
    };
    let tarball = world.release("release.tgz", &release());
    let agent = documents(&world, world.agent(), "demo");
    agent.arg(tarball).run().succeeds();
    for (suffix, from, to) in [
        ("cdx", "\"alg\": \"SHA-256\"", "\"alg\": \"SHA-257\""),
        ("spdx", "\"SPDXRef-Stemcell\"", "\"SPDXRef-Other stemcell\""),
        ("provenance", "\"subject\"", "\"object\""),
    ] {
        let path = world.path(&format!("demo.{suffix}.json"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let mut validator = validator().unwrap();
        let output = validator.arg(&path).output().unwrap();
        assert!(!output.status.success(), "{suffix}");
    }
}

#[test]
fn documents_have_digests_licenses_and_options() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    documents(&world, world.agent(), "demo")
        .args(&["--env", "SECRET=42", "--network=host"])
        .arg(&tarball)
        .run()
        .succeeds();
    let result = world.result("demo-1.10");
    let (source, compiled) = (world.path("source"), world.path("compiled"));
    for (archive, directory) in [(&tarball, &source), (&result, &compiled)] {
        std::fs::create_dir(directory).unwrap();
        extract(archive, directory);
    }
    let cyclonedx = read(&world.path("demo.cdx.json"));
    let main = &cyclonedx["metadata"]["component"];
    assert_eq!(hash(main, "SHA-256"), report::sha256_of(&result));
    let app = component(&cyclonedx, "app");
    let blob = compiled.join("compiled_packages/app.tgz");
    assert_eq!(hash(app, "SHA-1"), sha1_of(&blob));
    assert_eq!(hash(app, "SHA-256"), report::sha256_of(&blob));
    let reference = &app["externalReferences"][0];
    assert_eq!(reference["url"], "packages/app.tgz");
    let blob = source.join("packages/app.tgz");
    assert_eq!(hash(reference, "SHA-256"), report::sha256_of(&blob));
    assert_eq!(app["licenses"][0]["license"]["id"], "Apache-2.0");
    let lib = component(&cyclonedx, "lib_a");
    let license = &lib["licenses"][0]["license"];
    assert_eq!(license["name"], "x/x-1.tar.gz/x-1/COPYING");
    assert_eq!(license["text"]["content"], "Ask \u{9b} first.\n");
    let license = &main["licenses"][0]["license"];
    assert_eq!(license["text"]["content"], "All rights reserved.\n");
    let stemcell = component(&cyclonedx, "ubuntu-noble");
    assert_eq!(stemcell["version"], "1.406");

    let text = world.read("demo.provenance.json");
    assert!(!text.contains("42\"") && text.contains("SECRET"), "{text}");
    let statement = read(&world.path("demo.provenance.json"));
    let definition = &statement["predicate"]["buildDefinition"];
    let parameters = &definition["externalParameters"];
    assert_eq!(parameters["stemcell"], "ubuntu-noble/1.406");
    assert_eq!(parameters["options"]["network"], "host");
    let inputs = &definition["resolvedDependencies"];
    assert_eq!(inputs[0]["name"], "release.tgz");
    assert_eq!(
        inputs[0]["digest"]["sha256"],
        report::sha256_of(&tarball).as_str()
    );
    assert_eq!(
        origins(&statement),
        pairs([("app", "compiled"), ("lib_a", "compiled")])
    );
    let details = &statement["predicate"]["runDetails"];
    assert!(details["metadata"]["startedOn"].is_string());
    assert_eq!(details["builder"]["id"], "urn:bosh-agent");
}

#[test]
fn cached_and_reused_packages_are_documented() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    let cached = |name: &str| {
        documents(&world, world.agent(), name)
            .arg("--cache-dir")
            .arg(world.path("cache"))
            .arg("--cache-unrestricted")
            .arg(&tarball)
            .run()
            .succeeds();
        read(&world.path(&format!("{name}.cdx.json")))
    };
    let (first, second) = (cached("first"), cached("second"));
    let statement = read(&world.path("second.provenance.json"));
    assert_eq!(
        origins(&statement),
        pairs([("app", "cache"), ("lib_a", "cache")])
    );
    let earlier = world.path("earlier.tgz");
    std::fs::rename(world.result("demo-1.10"), &earlier).unwrap();
    documents(&world, world.agent(), "reused")
        .arg("--reuse")
        .arg(&earlier)
        .arg(&tarball)
        .run()
        .succeeds();
    let reused = read(&world.path("reused.cdx.json"));
    let statement = read(&world.path("reused.provenance.json"));
    assert_eq!(
        origins(&statement),
        pairs([("app", "earlier result"), ("lib_a", "earlier result")])
    );
    for name in ["app", "lib_a"] {
        let expected = component(&first, name);
        assert_eq!(property(expected, "origin"), "compiled");
        for (document, origin) in [(&second, "cache"), (&reused, "earlier result")] {
            let found = component(document, name);
            assert_eq!(found["hashes"], expected["hashes"]);
            assert_eq!(found["externalReferences"], expected["externalReferences"]);
            assert_eq!(found["licenses"], expected["licenses"]);
            assert_eq!(property(found, "origin"), origin);
        }
    }
    let app = component(&reused, "app");
    assert_eq!(property(app, "earlier_result"), "earlier.tgz");
}

#[test]
fn equal_runs_with_a_source_date_give_equal_documents() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    for name in ["one", "two"] {
        documents(&world, world.agent(), name)
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .arg(&tarball)
            .run()
            .succeeds();
    }
    for suffix in ["cdx", "spdx", "provenance"] {
        let text = |name: &str| world.read(&format!("{name}.{suffix}.json"));
        assert_eq!(text("one"), text("two"), "{suffix}");
    }
    let created = "2023-11-14T22:13:20Z";
    let cyclonedx = read(&world.path("one.cdx.json"));
    assert_eq!(cyclonedx["metadata"]["timestamp"], created);
    let spdx = read(&world.path("one.spdx.json"));
    assert_eq!(spdx["creationInfo"]["created"], created);
    let statement = read(&world.path("one.provenance.json"));
    let details = &statement["predicate"]["runDetails"];
    assert_eq!(details["metadata"], Value::Null);
}

#[test]
fn each_of_several_results_has_its_documents() {
    let world = World::new();
    let other = ReleaseBuilder::new("other", "2").package("fine", &[], "true");
    let failing = ReleaseBuilder::new("failing", "3").package("bad", &[], "exit 1");
    let tarballs = [
        world.release("demo.tgz", &release()),
        world.release("other.tgz", &other),
        world.release("failing.tgz", &failing),
    ];
    let before = world.snapshot();
    documents(&world, world.agent(), "one")
        .args(&tarballs)
        .without_report()
        .run()
        .refuses_the_input()
        .says("this run has 3 results")
        .says("Hint: end the path with `/`");
    assert_eq!(world.snapshot(), before);
    let directory = |name: &str| format!("{}/", world.path(name).display());
    world
        .agent()
        .args(&[
            format!("--sbom=cyclonedx={}", directory("sboms/all")),
            format!("--sbom=spdx={}", directory("sboms/all")),
            format!("--provenance={}", directory("provenance")),
        ])
        .arg("--keep-going")
        .args(&tarballs)
        .run()
        .fails();
    let names = |name: &str| {
        let entries = std::fs::read_dir(world.path(name)).unwrap();
        let names = entries.map(|it| it.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    assert_eq!(
        names("sboms/all"),
        [
            "demo-1.10-ubuntu-noble-1.406.cdx.json",
            "demo-1.10-ubuntu-noble-1.406.spdx.json",
            "other-2-ubuntu-noble-1.406.cdx.json",
            "other-2-ubuntu-noble-1.406.spdx.json",
        ]
    );
    assert_eq!(names("provenance").len(), 2);
    let path = world.path("provenance/other-2-ubuntu-noble-1.406.provenance.json");
    let statement = read(&path);
    assert_eq!(
        statement["subject"][0]["name"],
        "other-2-ubuntu-noble-1.406.tgz"
    );
}

#[test]
fn results_with_the_same_name_cannot_share_a_document() {
    let world = World::new();
    let tarballs = ["one", "two"].map(|directory| {
        std::fs::create_dir(world.path(directory)).unwrap();
        world.release(&format!("{directory}/release.tgz"), &release())
    });
    let agent = || world.flags(Agent::bare(&world.path("printed")));
    let sboms = world.path("sboms");
    let result = |directory: &str| {
        let path = world.path(directory);
        let path = path.join("demo-1.10-ubuntu-noble-1.406.tgz");
        path.display().to_string()
    };
    agent()
        .arg(format!("--sbom=spdx={}/", sboms.display()))
        .args(&tarballs)
        .run()
        .refuses_the_input()
        .does_not_say("Compiling package")
        .says(&format!(
            "the results `{}` and `{}` would both write their document to `{}/demo-1.10-ubuntu-noble-1.406.spdx.json`",
            result("one"),
            result("two"),
            sboms.display()
        ))
        .says("Hint: compile the releases in separate runs");
    agent().args(&tarballs).run().succeeds();
}

#[test]
fn release_that_was_compiled_before_has_no_provenance() {
    let world = World::new();
    let compiled = world.compiled(&release());
    documents(
        &world,
        world.flags(Agent::bare(&world.path("printed"))),
        "demo",
    )
    .arg("--output-directory")
    .arg(world.path("copies"))
    .arg(&compiled)
    .run()
    .succeeds()
    .says("Warning: no provenance is written for ");
    assert!(!world.path("demo.provenance.json").exists());
    let cyclonedx = read(&world.path("demo.cdx.json"));
    let app = component(&cyclonedx, "app");
    assert_eq!(property(app, "origin"), "release");
    assert_eq!(app.get("externalReferences"), None);
    let main = &cyclonedx["metadata"]["component"];
    assert_eq!(hash(main, "SHA-256"), report::sha256_of(&compiled));
}

#[test]
fn unusable_places_are_refused_before_compiling() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    let same = |agent: Agent, path: &Path| {
        agent
            .without_report()
            .arg(format!("--provenance={}", path.display()))
            .arg(&tarball)
            .run()
            .does_not_say("Compiling")
    };
    let path = world.path("a.json");
    let sbom = format!("--sbom=spdx={}", path.display());
    same(world.agent().arg(&sbom), &path)
        .refuses_the_input()
        .says("cannot write both");
    let report = format!("--report={}", path.display());
    let linked = world.path("linked");
    std::os::unix::fs::symlink(path.parent().unwrap(), &linked).unwrap();
    same(world.agent().arg(&report), &linked.join("a.json"))
        .refuses_the_input()
        .says("cannot write both");
    std::fs::create_dir(&path).unwrap();
    same(world.agent(), &path)
        .blames_the_machine()
        .says("a.json");
    let file = PathBuf::from("/dev/null/a.json");
    same(world.agent(), &file).blames_the_machine();
    let result = world.result("demo-1.10");
    let stem = result.file_stem().unwrap().to_str().unwrap();
    let taken = world.path(&format!("documents/{stem}.provenance.json"));
    std::fs::create_dir_all(&taken).unwrap();
    let directory = format!("--provenance={}/", taken.parent().unwrap().display());
    let agent = world.agent().without_report().arg(directory);
    let ran = agent.arg(&tarball).run().blames_the_machine();
    ran.says(".provenance.json").does_not_say("lib_a");
}

#[test]
fn digest_of_a_result_is_that_of_the_bytes_that_were_written() {
    let world = World::new();
    // One package compiles at a time, and the one with the largest source first. Its result is written during the other one.
    let mut state = 1_u32;
    let padding: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(100_000)
    .collect();
    let early = ReleaseBuilder::new("early", "1")
        .package("fast", &[], "true")
        .file("padding", 0o644, &padding);
    let result = world.result("early-1");
    let (kept, result) = (world.path("kept"), result.display());
    let script = format!(
        "set -e; for turn in $(seq 600); do if [ -e {result} ]; then break; fi; sleep 0.1; done; cp {result} {}; echo changed >>{result}",
        kept.display()
    );
    let late = ReleaseBuilder::new("late", "2").package("slow", &[], &script);
    let tarballs = [
        world.release("early.tgz", &early),
        world.release("late.tgz", &late),
    ];
    let documents = world.path("documents");
    let report = world.path("report.json");
    // Scripts in other tiers cannot change results.
    world
        .agent_at("none", "out")
        .without_report()
        .arg(format!("--provenance={}/", documents.display()))
        .arg(format!("--report={}", report.display()))
        .args(&tarballs)
        .run()
        .succeeds();
    let written = report::sha256_of(&kept);
    assert_ne!(written, report::sha256_of(&world.result("early-1")));
    let statement = documents.join("early-1-ubuntu-noble-1.406.provenance.json");
    let subject = &read(&statement)["subject"][0];
    assert_eq!(subject["digest"]["sha256"], written.as_str());
    let output = &read(&report)["outputs"][0];
    assert_eq!(output["sha256"], written.as_str());
    assert_eq!(output["sha1"], sha1_of(&kept).as_str());
    assert_eq!(output["size"], kept.metadata().unwrap().len());
}

#[test]
fn verify_rebuild_documents_the_first_result() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    documents(&world, world.agent(), "demo")
        .args(&["--verify-rebuild", "--only-needed"])
        .arg(&tarball)
        .run()
        .succeeds();
    let statement = read(&world.path("demo.provenance.json"));
    let options = &statement["predicate"]["buildDefinition"]["externalParameters"]["options"];
    assert_eq!(options["only_needed"], json!(true));
    assert_eq!(options["source_dates"], "of each source");
    let subject = &statement["subject"][0];
    let result = world.out().join(subject["name"].as_str().unwrap());
    assert_eq!(
        subject["digest"]["sha256"],
        report::sha256_of(&result).as_str()
    );
}
