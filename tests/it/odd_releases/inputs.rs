//! Inputs that are not releases, and several releases of one package.

use super::*;

#[test]
fn files_that_are_not_releases_are_reported_with_their_type() {
    let members = |names: &[&str]| {
        let members: Vec<Member> = names.iter().map(|name| Member::file(name, b"x")).collect();
        gzip(&members)
    };
    let page = b"<!DOCTYPE html>\n<html><title>Sign in</title></html>".to_vec();
    let cases: [(&str, Vec<u8>, &str, &str); 18] = [
        ("empty file", vec![], "the file is empty", "download"),
        ("HTML", page.clone(), "it is an HTML page", "download"),
        (
            "compressed HTML",
            Compression::Gzip.apply(&page),
            "it is an HTML page",
            "download",
        ),
        (
            "S3 error",
            b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code></Error>"
                .to_vec(),
            "it is an XML error response of a blobstore (`NoSuchKey`)",
            "check the URL",
        ),
        (
            "Git LFS pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n".to_vec(),
            "it is a Git LFS pointer",
            "git lfs pull",
        ),
        (
            "zip",
            b"PK\x03\x04\x14\0\0\0".to_vec(),
            "it is a zip archive",
            "bosh create-release",
        ),
        (
            "manifest of a final release",
            demo().files()[0].1.clone(),
            "it is only the manifest of a release",
            "bosh create-release --tarball=RELEASE.tgz MANIFEST",
        ),
        (
            "index of final releases",
            b"builds:\n  ab:\n    version: \"1\"\nformat-version: \"2\"\n".to_vec(),
            "it is the index of a release's final versions",
            "bosh create-release",
        ),
        (
            "JSON",
            b"{\"message\": \"Not Found\"}".to_vec(),
            "it is JSON",
            "download",
        ),
        (
            "stemcell",
            members(&["stemcell.MF", "image", "apply_spec.yml"]),
            "it is a stemcell",
            "--stemcell OS/VERSION",
        ),
        (
            "source archive of GitHub",
            members(&[
                "redis-release-15/config/final.yml",
                "redis-release-15/packages/redis/spec",
            ]),
            "it is the source repository of a release (`redis-release-15`), as GitHub packs it",
            "bosh create-release",
        ),
        (
            "release one directory too deep",
            members(&["demo/release.MF", "demo/packages/app.tgz"]),
            "the release is in its directory `demo`",
            "tar -czf RELEASE.tgz -C demo .",
        ),
        (
            "source of a package",
            members(&["./packaging", "./main.c"]),
            "it is the source of a package",
            "the whole release",
        ),
        (
            "job",
            members(&["./job.MF", "./monit"]),
            "it is a job",
            "the whole release",
        ),
        (
            "compiled package",
            members(&["./bin/app"]),
            "it has `bin` at its top, so it may be a compiled package",
            "the whole release",
        ),
        (
            "container image",
            members(&["manifest.json", "0a/layer.tar", "repositories"]),
            "it is a container image",
            "a release tarball",
        ),
        (
            "release without its manifest",
            members(&["packages/app.tgz"]),
            "but not its manifest",
            "with release.MF",
        ),
        (
            "tarballs in a tarball",
            members(&["a/demo-1.tgz"]),
            "such as `a/demo-1.tgz`",
            "extract it",
        ),
    ];
    for (what, bytes, name, advice) in cases {
        let ran = compile(&bytes).refuses_the_input();
        assert!(ran.stderr.contains(name), "{what}:\n{}", ran.stderr);
        assert!(ran.stderr.contains(advice), "{what}:\n{}", ran.stderr);
    }
}

#[test]
fn directories_are_reported_with_their_type() {
    let world = World::new();
    let tree = world.path("tree");
    demo().write_tree(&tree);
    world.compile(&[&tree]).refuses_the_input().says(
        "it is a directory, not a tarball: pack the release in it, for example with `tar -czf RELEASE.tgz -C ",
    );
    world.write("repository/config/final.yml", "name: demo\n");
    world
        .compile(&[&world.path("repository")])
        .refuses_the_input()
        .says("run `bosh create-release --tarball=RELEASE.tgz` in it");
}

/// A release of a package whose blob has other times and owners, and another order.
fn repacked(name: &str, own: &str, times: &str, script: &str) -> ReleaseBuilder {
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("packaging"), script).unwrap();
    std::fs::write(tree.path().join("source"), "source").unwrap();
    let arguments = [
        "-c".to_owned(),
        format!("--mtime=@{times}"),
        format!("--owner=someone:{}", times.len()),
        "-C".to_owned(),
        tree.path().display().to_string(),
        ".".to_owned(),
    ];
    let mut tar = std::process::Command::new("tar");
    let output = tar.args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    ReleaseBuilder::new(name, "1")
        .package("shared", &[], script)
        .blob(&Compression::Gzip.apply(&output.stdout))
        .package(
            own,
            &["shared"],
            "cp $(dirname $BOSH_INSTALL_TARGET)/shared/x $BOSH_INSTALL_TARGET",
        )
}

#[test]
fn package_packed_at_other_times_is_compiled_once() {
    let script = "echo run >> \"$RUNS\"\necho x > $BOSH_INSTALL_TARGET/x";
    let (one, two) = (
        repacked("one", "a", "1500000000", script),
        repacked("two", "b", "160000000", script),
    );
    let world = World::new();
    let tarballs = [
        world.release("one.tgz", &one),
        world.release("two.tgz", &two),
    ];
    assert_ne!(one.files()[1].1, two.files()[1].1);
    let runs = world.path("runs");
    let agent = world.agent().env("RUNS", runs.to_str().unwrap());
    agent
        .args(&tarballs)
        .run()
        .succeeds()
        .says("One package is the same in several releases and compiled only once")
        .says("(1 of 3) for releases one/1, two/1\n")
        .does_not_say("different contents");
    assert_eq!(world.read("runs"), "run\n");
    let packages = |name: &str| compiled_packages(&manifest_of(&world.result(name)));
    assert_eq!(packages("one-1")[0], packages("two-1")[0]);
    Outcome::of(&world.result("two-1"));
}

#[test]
fn package_with_other_contents_is_compiled_for_each_with_a_warning() {
    let script =
        |text: &str| format!("echo run >> \"$RUNS\"\necho {text} > $BOSH_INSTALL_TARGET/x");
    let (one, two) = (
        repacked("one", "a", "1500000000", &script("one")),
        repacked("two", "b", "1500000000", &script("two")),
    );
    let world = World::new();
    let tarballs = [
        world.release("one.tgz", &one),
        world.release("two.tgz", &two),
    ];
    let runs = world.path("runs");
    let agent = world.agent().env("RUNS", runs.to_str().unwrap());
    let version = format!("{}16", "5a".repeat(19));
    agent.args(&tarballs).run().succeeds().says(&format!(
        "Warning: package shared/{version} has the same fingerprint but different contents in releases one/1, two/1: it is \
         compiled once for each\n"
    ));
    assert_eq!(world.read("runs"), "run\nrun\n");
    let found = |name: &str| Outcome::of(&world.result(name)).packages["shared"]["x"].clone();
    assert_eq!(
        (found("one-1"), found("two-1")),
        ("100644 one\n".into(), "100644 two\n".into())
    );
}

#[test]
fn lines_of_several_releases_say_which_they_belong_to() {
    let world = World::new();
    let release =
        |name: &str, package: &str| ReleaseBuilder::new(name, "1").package(package, &[], "true");
    let tarballs: Vec<PathBuf> = [("one", "a"), ("two", "bb")]
        .iter()
        .map(|(name, package)| world.release(&format!("{name}.tgz"), &release(name, package)))
        .collect();
    let ran = world.agent().args(&tarballs).run().succeeds();
    let lines: Vec<&str> = ran.stderr.lines().collect();
    for (name, package, version) in [("one", "a", 11), ("two", "bb", 12)] {
        let start = format!("Compiling package {package}/{}{version} (", "5a".repeat(19));
        let start = lines.iter().find(|line| line.starts_with(&start)).unwrap();
        assert!(
            start.ends_with(&format!(" of 2) for release {name}/1")),
            "{start}"
        );
        let at = lines
            .iter()
            .position(|line| *line == format!("Compiled all packages of release {name}/1"))
            .unwrap();
        assert!(lines[at + 1].starts_with("Finished packages compilation after "));
        let archiving = format!("Archiving compiled BOSH Release {name}/1 with stemcell ");
        assert!(lines[at + 2].starts_with(&archiving));
    }
    let alone = world.agent().arg(&tarballs[0]).run().succeeds();
    alone
        .says(" (1 of 1)\n")
        .does_not_say("Compiled all packages of release");
}

#[test]
fn list_of_the_result_has_no_clutter() {
    let mut members = demo().members();
    members.push(Member::file("docs/._notes", b"x"));
    members.push(Member::file("docs/notes", b"x"));
    let world = World::new();
    let tarball = world.write("release.tgz", gzip(&members));
    world.compile(&[&tarball]).succeeds();
    let names: Vec<String> = list(&world.result("demo-1.10"))
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert!(names.contains(&"./docs/notes".to_owned()), "{names:?}");
    assert!(!names.contains(&"./docs/._notes".to_owned()), "{names:?}");
    let tree = run_tool(
        "tar",
        &["-tzf".as_ref(), world.result("demo-1.10").as_os_str()],
    );
    assert!(!tree.contains("._"), "{tree}");
}
