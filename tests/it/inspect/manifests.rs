//! Manifests that a Director or the CLI refuses or misreads.

use super::*;
use crate::support::{require_tools, run_tool_with};

/// A release whose manifest has another text.
fn edited(from: &str, to: &str) -> Vec<u8> {
    bytes(&compiled().edit(from, to))
}

#[test]
fn manifest_that_cannot_be_used_is_reported() {
    let with = |manifest: &[u8]| bytes(&compiled().manifest(manifest));
    has_problem(&with(b""), "manifest-invalid", "the manifest is empty");
    has_problem(
        &with(b"name: [\n"),
        "manifest-invalid",
        "release.MF: line 2",
    );
    has_problem(&with(b"\xff"), "manifest-invalid", "is not UTF-8");
    let no_version = edited("\nversion: \"1.10\"", "\nx: y");
    has_problem(&no_version, "field-missing", "line 1: `version` is missing");
}

#[test]
fn invalid_fields_have_a_code_for_each_kind() {
    for (from, to, code, text) in [
        (
            "uncommitted_changes: false",
            "uncommitted_changes: maybe",
            "field-invalid",
            "expected true or false",
        ),
        ("name: demo", "name: de/mo", "name-invalid", "contains '/'"),
        (
            "  stemcell: ubuntu-noble/1.406\n  dependencies:\n  - lib",
            "  stemcell: ubuntu-noble\n  dependencies:\n  - lib",
            "stemcell-invalid",
            "compiled package `app`: `stemcell` is `ubuntu-noble`",
        ),
        (
            "- name: app\n  version",
            "- name: lib\n  version",
            "duplicate-name",
            "compiled package `lib`: duplicate name",
        ),
    ] {
        has_problem(&edited(from, to), code, text);
    }
    let text = String::from_utf8(compiled().files()[0].1.clone()).unwrap();
    let digest = text.lines().find(|line| line.starts_with("  sha1: "));
    let manifest = text.replace(digest.unwrap(), "  sha1: md5:12");
    let release = bytes(&compiled().manifest(manifest.as_bytes()));
    has_problem(&release, "digest-invalid", "unsupported algorithms (md5)");
}

#[test]
fn unquoted_numbers_are_read_differently_by_directors() {
    has_problem(
        &edited("version: \"1.10\"", "version: 1.10"),
        "unquoted-text",
        "line 2: `version` `1.10` is not quoted: Directors read `1.1`",
    );
    has_note(
        &edited("commit_hash: 8ab1aae", "commit_hash: 0123456"),
        "unquoted-commit",
        "`0123456` is not quoted",
    );
}

#[test]
fn unquoted_date_is_refused_by_directors() {
    let world = World::new();
    let release = edited("version: \"1.10\"", "version: 2026-01-02");
    let tarball = world.write("release.tgz", release);
    let found = found(&inspected(&world, &[], &tarball));
    let date = found.iter().find(|it| it.1 == "unquoted-date");
    let (severity, _, text) = date.unwrap_or_else(|| panic!("{found:?}"));
    assert_eq!(severity, "problem");
    assert!(text.ends_with("`2026-01-02` is not quoted: Directors read a date"));
}

#[test]
fn unquoted_versions_are_read_as_by_ruby() {
    if !require_tools(&["ruby"]) {
        return;
    }
    const TEXTS: &str = "1.10 1.5 1.0 45 0777 08 1_000 1__0 1_ 0x1f 0b101 1e3 12e03 1.5e+3 1. 007.1 1.2.3 0o17 yes on y NaN 00";
    let script =
        "require 'yaml'; $stdin.read.split.each { |it| puts YAML.load(\"v: #{it}\")['v'] }";
    let read = run_tool_with("ruby", &["-e", script], TEXTS.as_bytes());
    let read = String::from_utf8(read).unwrap();
    let world = World::new();
    for (text, theirs) in TEXTS.split(' ').zip(read.lines()) {
        let release = edited("version: \"1.10\"", &format!("version: {text}"));
        let tarball = world.write("release.tgz", release);
        let found = found(&inspected(&world, &[], &tarball));
        let unquoted = found.iter().find(|it| it.1 == "unquoted-text");
        match unquoted {
            Some((_, _, says)) => {
                assert!(
                    says.ends_with(&format!(": Directors read `{theirs}`")),
                    "{says}"
                );
                assert_ne!(text, theirs);
            }
            None => assert_eq!(text, theirs),
        }
    }
}

#[test]
fn version_that_a_director_cannot_parse_is_reported() {
    has_problem(
        &edited("version: \"1.10\"", "version: 1+2+3"),
        "version-format",
        "the version `1+2+3`",
    );
    let release = compiled().edit("1.406", "1+2+3");
    let world = World::new();
    let tarball = world.write("release.tgz", bytes(&release));
    let json = inspected(&world, &[], &tarball);
    let codes: Vec<String> = found(&json).into_iter().map(|it| it.1).collect();
    assert_eq!(codes, ["stemcell-version-format"; 2]);
}

#[test]
fn facts_about_the_origin_are_notes() {
    for (from, to, code, text) in [
        ("commit_hash: 8ab1aae\n", "", "commit-missing", "the commit"),
        (
            "uncommitted_changes: false\n",
            "",
            "uncommitted-changes-missing",
            "release.MF has no `uncommitted_changes`",
        ),
        (
            "uncommitted_changes: false",
            "uncommitted_changes: true",
            "uncommitted-changes",
            "uncommitted",
        ),
        ("\"1.10\"", "1.10.2-dev", "old-dev-version", "`1.10.2-dev`"),
        (
            "  fingerprint: 0a0b0c\n",
            "",
            "fingerprint-missing",
            "job web",
        ),
        (
            "version: 0a0b0c",
            "version: '12'",
            "version-not-fingerprint",
            "job web",
        ),
    ] {
        has_note(&edited(from, to), code, text);
    }
}

#[test]
fn source_packages_of_a_mixed_release_are_lost() {
    let mixed = compiled().package("tool", &[], "true");
    has_problem(&bytes(&mixed), "mixed-release", "source packages: tool");
}

#[test]
fn packages_for_several_stemcells_are_reported() {
    let release = compiled().compiled("more", &[], "ubuntu-jammy/1.1", ("f", b""));
    has_problem(
        &bytes(&release),
        "mixed-stemcells",
        "several stemcells: ubuntu-jammy/1.1, ubuntu-noble/1.406",
    );
}

#[test]
fn compiled_packages_without_a_list_are_reported() {
    let release = compiled()
        .manifest(b"name: demo\nversion: '1'\ncommit_hash: c1\nuncommitted_changes: false\n");
    let mut members = release.members();
    members.retain(|it| !it.name.starts_with("jobs"));
    let release = packed(&members);
    has_problem(
        &release,
        "compiled-packages-unlisted",
        "compiled_packages/app.tgz, compiled_packages/lib.tgz",
    );
}

#[test]
fn dependencies_that_do_not_fit_are_reported() {
    let of = |dependencies: &str| {
        edited(
            "dependencies:\n  - lib",
            &format!("dependencies: [{dependencies}]"),
        )
    };
    has_problem(
        &of("lib, gone"),
        "unknown-dependency",
        "package `app` depends on `gone`, which is not in the release",
    );
    has_problem(
        &of("app"),
        "dependency-cycle",
        "dependency cycle: app -> app",
    );
}
