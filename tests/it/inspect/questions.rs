//! `--stemcell` and `--source`.

use super::*;

#[test]
fn stemcell_is_exact_floating_or_not_used() {
    let world = World::new();
    let tarball = world.release("release.tgz", &compiled());
    for (stemcell, use_, code) in [
        (STEMCELL, "exact", None),
        ("ubuntu-noble/1.5", "floating", Some("stemcell-floating")),
        ("ubuntu-noble/2.406", "none", Some("stemcell-not-used")),
        ("ubuntu-jammy/1.406", "none", Some("stemcell-not-used")),
    ] {
        let json = inspected(&world, &["--stemcell", stemcell], &tarball);
        let answer = &json["on_stemcell"];
        assert_eq!(answer["use"], use_, "{stemcell}");
        assert_eq!(answer["packages"][0]["use"], use_, "{stemcell}");
        assert_eq!(answer["exported_from"]["works"], use_ == "exact");
        assert_eq!(json["is_good"], use_ != "none", "{stemcell}");
        let codes: Vec<String> = found(&json).into_iter().map(|it| it.1).collect();
        assert_eq!(codes, Vec::from_iter(code), "{stemcell}");
    }
    let printed = run(&world, &["--stemcell", "ubuntu-noble/1.5"], &tarball).stdout;
    for text in [
        "On ubuntu-noble/1.5: a Director uses the compiled packages only while it has no sources",
        "`exported_from: ubuntu-noble/1.5`: the deployment fails with error 60003",
        "were not compiled for ubuntu-noble/1.5 itself: lib (ubuntu-noble/1.406), app (ubuntu-noble/1.406)",
    ] {
        assert!(printed.contains(text), "{text}\n{printed}");
    }
}

#[test]
fn source_release_is_compiled_on_any_stemcell() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let json = inspected(&world, &["--stemcell", STEMCELL], &tarball);
    assert_eq!(json["on_stemcell"]["use"], "compile");
    assert_eq!(json["is_good"], true);
}

#[test]
fn result_comes_from_its_source_release() {
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::demo());
    let source = world.path("release.tgz");
    let arguments = ["--source", source.to_str().unwrap()];
    let json = inspected(&world, &arguments, &result);
    assert_eq!(found(&json), []);
    assert_eq!(json["from_source"]["matches"], true);
    assert_eq!(json["from_source"]["name"], "demo");
    let printed = run(&world, &arguments, &result).stdout;
    assert!(
        printed.contains("The release comes from the source release `"),
        "{printed}"
    );
}

#[test]
fn source_release_without_commit_or_packages_can_be_compared() {
    for release in [
        ReleaseBuilder::demo().edit("commit_hash: 8ab1aae\n", ""),
        ReleaseBuilder::new("demo", "1").job("web", &[]),
    ] {
        let world = World::new();
        let result = world.compiled(&release);
        let source = world.path("release.tgz");
        let json = inspected(&world, &["--source", source.to_str().unwrap()], &result);
        assert_eq!(found(&json), []);
        assert_eq!(json["from_source"]["matches"], true);
    }
}

#[test]
fn differences_from_the_source_release_are_reported() {
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::demo());
    let lib = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a13";
    for (from, to, codes) in [
        ("\"1.10\"", "\"1.11\"", &["source-other-release"][..]),
        ("8ab1aae", "9ab1aae", &["source-other-commit"]),
        (
            &format!("- name: lib\n  version: {lib}")[..],
            "- name: lib\n  version: f00",
            &["source-package-differs", "source-dependency-keys-differ"],
        ),
        (
            "dependencies:\n  - lib",
            "dependencies: []",
            &["source-dependencies-differ"],
        ),
        (
            "version: 0a0b0c",
            "version: 0a0b0d",
            &["source-job-differs"],
        ),
        (
            "- name: web",
            "- name: db",
            &["source-lacks", "source-left-out"],
        ),
    ] {
        let source = world.release("source.tgz", &ReleaseBuilder::demo().edit(from, to));
        let json = inspected(&world, &["--source", source.to_str().unwrap()], &result);
        let found: Vec<String> = found(&json).into_iter().map(|it| it.1).collect();
        assert_eq!(found, codes, "{to}");
        assert_eq!(json["from_source"]["matches"], false, "{to}");
    }
    // The same job, packed again.
    let files = [("job.MF", "name: web\npackages: [app]\n"), ("monit", "")];
    let release = ReleaseBuilder::demo().replace("jobs/web.tgz", &blob(&files));
    let source = world.release("source.tgz", &release);
    let json = inspected(&world, &["--source", source.to_str().unwrap()], &result);
    assert_eq!(found(&json)[0].1, "source-job-bytes-differ");
    assert_eq!(json["from_source"]["matches"], true);
}

#[test]
fn releases_that_cannot_be_compared_are_reported() {
    let world = World::new();
    let compiled = world.release("compiled.tgz", &compiled());
    let source = world.release("source.tgz", &ReleaseBuilder::demo());
    let damaged = world.write("damaged.tgz", b"no archive");
    for (source, tarball, code) in [
        (&compiled, &compiled, "not-comparable"),
        (&source, &source, "not-comparable"),
        (&damaged, &compiled, "source-unreadable"),
    ] {
        let json = inspected(&world, &["--source", source.to_str().unwrap()], tarball);
        assert_eq!(found(&json)[0].1, code);
        assert_eq!(json["from_source"]["matches"], false);
    }
}

#[test]
fn source_is_read_although_the_release_is_invalid() {
    let world = World::new();
    let tarball = world.write("release.tgz", bytes(&compiled().manifest(b"name: [")));
    let source = world.release("source.tgz", &ReleaseBuilder::demo());
    let json = inspected(&world, &["--source", source.to_str().unwrap()], &tarball);
    let codes: Vec<String> = found(&json).into_iter().map(|it| it.1).collect();
    assert_eq!(codes, ["manifest-invalid", "not-comparable"]);
    assert_eq!(json["from_source"]["matches"], false);
    let gone = world.path("gone.tgz");
    let arguments = ["--source", gone.to_str().unwrap()];
    run(&world, &arguments, &tarball)
        .ends_with(2)
        .says("gone.tgz");
}
