//! `bosh-agent inspect`.

mod blobs;
mod damage;
mod manifests;
mod questions;
mod tarballs;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{
    Agent, Compression, Member, Ran, ReleaseBuilder, STEMCELL, World, archive, differences,
    run_tool,
};

/// A compiled release without a flaw.
fn compiled() -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .compiled("lib", &[], STEMCELL, ("lib.txt", b"lib\n"))
        .compiled("app", &["lib"], STEMCELL, ("app.txt", b"app\n"))
        .job("web", &["app"])
        .license()
}

fn run(world: &World, arguments: &[&str], tarball: &Path) -> Ran {
    let agent = Agent::bare(&world.path("printed")).arg("inspect");
    let agent = agent.args(arguments).arg(tarball);
    agent.without_report().run()
}

/// Inspects a file, and compares the exit codes and the codes of both forms of the result.
#[track_caller]
fn inspected(world: &World, arguments: &[&str], tarball: &Path) -> Value {
    let ran = run(world, &[&["--json"], arguments].concat(), tarball);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    let schema = include_str!("../../docs/inspect.schema.json");
    let schema: Value = serde_json::from_str(schema).unwrap();
    assert_eq!(differences(&json, &schema), [""; 0]);
    let expected = if json["is_good"] == true { 0 } else { 1 };
    assert_eq!(ran.code, Some(expected), "{}", ran.stdout);
    assert_eq!(ran.stderr, "");

    let table = run(world, arguments, tarball);
    assert_eq!(table.code, Some(expected), "{}", table.stdout);
    for (severity, code, text) in found(&json) {
        let label = match severity.as_str() {
            "problem" => "Problem",
            _ => "Note",
        };
        let line = format!("\n{label} {code}: {text}\n  ");
        assert!(table.stdout.contains(&line), "{line}\n{}", table.stdout);
    }
    json
}

/// The severities, codes and texts of all findings.
fn found(json: &Value) -> Vec<(String, String, String)> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings = json["findings"].as_array().unwrap().iter();
    findings
        .map(|it| (text(it, "severity"), text(it, "code"), text(it, "text")))
        .collect()
}

/// Fails unless a file has exactly one finding, with this severity, this code, and this text in its text.
#[track_caller]
fn has_one(severity: &str, file: &[u8], code: &str, text: &str) {
    let world = World::new();
    let tarball = world.write("release.tgz", file);
    let found = found(&inspected(&world, &[], &tarball));
    match &found[..] {
        [(is, has, says)] if is == severity && has == code && says.contains(text) => {}
        _ => panic!("expected one {severity} {code} with `{text}`: {found:#?}"),
    }
}

#[track_caller]
fn has_problem(file: &[u8], code: &str, text: &str) {
    has_one("problem", file, code, text);
}

#[track_caller]
fn has_note(file: &[u8], code: &str, text: &str) {
    has_one("note", file, code, text);
}

/// The tarball of a release.
fn bytes(release: &ReleaseBuilder) -> Vec<u8> {
    packed(&release.members())
}

fn packed(members: &[Member]) -> Vec<u8> {
    Compression::Gzip.apply(&archive(members))
}

/// A release with other bytes for one of its files, and the digests of the old ones.
fn changed(release: &ReleaseBuilder, path: &str, change: impl Fn(&mut Member)) -> Vec<u8> {
    let mut members = release.members();
    let member = members.iter_mut().find(|it| it.name == path);
    change(member.unwrap_or_else(|| panic!("no file is at `{path}`")));
    packed(&members)
}

/// A gzip archive of these files.
fn blob(files: &[(&str, &str)]) -> Vec<u8> {
    let files = files.iter();
    let members: Vec<Member> = files
        .map(|(name, text)| Member::file(name, text.as_bytes()))
        .collect();
    packed(&members)
}

fn sha256(path: &Path) -> String {
    let printed = run_tool("sha256sum", &[path]);
    printed.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn result_of_a_compilation_has_no_findings() {
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::demo());
    let json = inspected(&world, &[], &result);
    assert_eq!(found(&json), []);
    assert_eq!(json["kind"], "compiled");
    assert_eq!(json["stemcells"], serde_json::json!([STEMCELL]));
    assert_eq!(json["release"]["version"], "1.10");
    assert_eq!(json["sha256"], sha256(&result));
    let packages = json["packages"].as_array().unwrap();
    let names: Vec<&Value> = packages.iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["lib", "app"]);
    assert_eq!(packages[1]["dependencies"], serde_json::json!(["lib"]));

    let scratch = world.path("unpacked");
    crate::support::extract(&result, &scratch);
    let parts = packages.iter().chain(json["jobs"].as_array().unwrap());
    for part in parts.chain([&json["license"]]) {
        assert_eq!(part["is_verified"], true, "{part}");
        let path = scratch.join(part["path"].as_str().unwrap());
        assert_eq!(part["sha256"], sha256(&path));
        assert_eq!(part["size"], path.metadata().unwrap().len());
    }
}

#[test]
fn source_release_has_no_findings() {
    let world = World::new();
    let release = ReleaseBuilder::demo().digests(crate::support::Digest::All);
    let tarball = world.release("release.tgz", &release);
    let before = world.snapshot();
    let json = inspected(&world, &[], &tarball);
    assert_eq!(found(&json), []);
    assert_eq!(json["kind"], "source");
    assert_eq!(json["packages"][0]["stemcell"], Value::Null);
    assert_eq!(json["jobs"][0]["packages"], serde_json::json!(["app"]));
    assert_eq!(world.snapshot(), before, "nothing is written");
}

#[test]
fn table_shows_packages_jobs_and_verified_digests() {
    let world = World::new();
    let tarball = world.release("release.tgz", &compiled());
    let printed = run(&world, &[], &tarball).stdout;
    let words: Vec<String> = printed
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let has = |start: &str, end: &str| {
        let mut lines = words.iter();
        let found = lines.any(|it| it.starts_with(start) && it.ends_with(end));
        assert!(found, "no line `{start} … {end}`:\n{printed}");
    };
    has("Release demo/1.10 (compiled)", "");
    has("Commit 8ab1aae", "");
    has("Stemcell ubuntu-noble/1.406", "");
    let package = |name| format!("{name} 5a5a5a5a5a5a… ubuntu-noble/1.406 ");
    has(&package("app"), "sha256 verified lib");
    has(&package("lib"), "sha256 verified -");
    has("web 0a0b0c ", "sha256 verified app");
    assert!(printed.ends_with("\nno problems, no notes\n"), "{printed}");
}

#[test]
fn wrong_arguments_and_paths_are_usage_errors() {
    let world = World::new();
    let tarball = world.release("release.tgz", &compiled());
    let missing = world.path("missing.tgz");
    let directory = world.path("printed");
    let cases: [(&[&str], &PathBuf, &str); 6] = [
        (&[], &missing, "missing.tgz`: "),
        (&[], &directory, "Is a directory"),
        (
            &["--source", "https://example.com/r.tgz"],
            &tarball,
            "it is a URL",
        ),
        (&["--stemcell", "noble"], &tarball, "expected OS/VERSION"),
        (&["--no-such-flag"], &tarball, "--no-such-flag"),
        (&["other.tgz"], &tarball, "unexpected argument"),
    ];
    for (arguments, file, text) in cases {
        let ran = run(&world, arguments, file).ends_with(2).says(text);
        assert!(ran.stderr.starts_with("Error: "), "{}", ran.stderr);
    }
    let agent = Agent::bare(&world.path("printed")).args(&["inspect", "--help"]);
    let help = agent.run().stdout;
    assert!(help.contains("--stemcell <OS/VERSION>"), "{help}");
}
