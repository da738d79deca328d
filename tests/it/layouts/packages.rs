//! Formats of packages, digests and inputs.

use super::*;

#[test]
fn package_may_have_any_common_compression_or_none() {
    for compression in [
        Compression::Plain,
        Compression::Gzip,
        Compression::Bzip2,
        Compression::Xz,
        Compression::Zstd,
    ] {
        if let Some(tool) = compression.tool()
            && !require_tools(&[tool])
        {
            continue;
        }
        let world = World::new();
        let release = ReleaseBuilder::of_script("cp source.txt $BOSH_INSTALL_TARGET/")
            .file("source.txt", 0o640, b"from the source\n")
            .compressed(compression);
        let result = world.compiled(&release);
        let (_scratch, contents) = unpacked(&result, "app");
        assert_eq!(
            contents["source.txt"], "100640 from the source\n",
            "{compression:?}"
        );
    }
}

#[test]
fn package_archive_may_lack_dots_and_directories() {
    let blob = gzip(&[
        Member::file("src/deep/file.txt", b"deep\n"),
        Member::file("packaging", b"cp -r src $BOSH_INSTALL_TARGET/"),
    ]);
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::of_script("").blob(&blob));
    let (_scratch, contents) = unpacked(&result, "app");
    assert_eq!(contents["src/deep/file.txt"], "100600 deep\n");
}

#[test]
fn all_formats_of_digests_are_understood() {
    for digest in [Digest::Sha1, Digest::Sha256, Digest::Sha512, Digest::All] {
        let world = World::new();
        let result = world.compiled(&ReleaseBuilder::demo().digests(digest));
        let outcome = Outcome::of(&result);
        assert_eq!(outcome.packages, expected().packages, "{digest:?}");
    }
}

#[test]
fn manifest_of_the_old_cli_is_understood() {
    let release = ReleaseBuilder::demo().digests(Digest::Sha1);
    let text = String::from_utf8(release.files()[0].1.clone()).unwrap();
    let digest = text
        .lines()
        .find_map(|line| line.strip_prefix("  sha1: "))
        .unwrap();
    let binary = run_tool_with("base64", &["-w0"], digest.as_bytes());
    let binary = format!("!binary |-\n    {}", String::from_utf8(binary).unwrap());
    let text = text
        .replacen(&format!("sha1: {digest}"), &format!("sha1: {binary}"), 1)
        .replace("uncommitted_changes: false", "uncommitted_changes: no")
        .replace("version: \"1.10\"", "version: 1.10");
    let text = format!("---\n{text}some_other_key: [1, 2]\n");
    let outcome = {
        let world = World::new();
        Outcome::of(&world.compiled(&release.manifest(text.as_bytes())))
    };
    let world = World::new();
    let usual = ReleaseBuilder::demo().digests(Digest::Sha1);
    assert_eq!(outcome, Outcome::of(&world.compiled(&usual)));
}

#[test]
fn release_without_packages_is_copied() {
    let world = World::new();
    let result = world.compiled(
        &ReleaseBuilder::new("demo", "1.10")
            .job("web", &[])
            .license(),
    );
    let outcome = Outcome::of(&result);
    assert!(
        !outcome.manifest.contains("packages:\n"),
        "{}",
        outcome.manifest
    );
    assert!(outcome.files.contains_key("jobs/web.tgz"));
    assert!(
        outcome
            .entries
            .iter()
            .all(|name| !name.contains("packages"))
    );

    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::new("bare", "1"));
    assert_eq!(Outcome::of(&result).entries, ["./release.MF"]);
}

#[test]
fn linked_and_relative_tarballs_are_read() {
    let world = World::new();
    world.release("release.tgz", &ReleaseBuilder::demo());
    std::os::unix::fs::symlink("release.tgz", world.path("link.tgz")).unwrap();
    let there = world.path("printed").parent().map(Path::to_owned).unwrap();
    let ran = crate::support::Agent::bare(&world.path("printed"))
        .args(&[
            "compile",
            "--isolation=none",
            "--stemcell",
            crate::support::STEMCELL,
        ])
        .arg("--base-directory")
        .arg(world.base())
        .args(&["--output-directory", "results", "link.tgz"])
        .directory(&there)
        .run()
        .succeeds();
    let last = ran.stderr.lines().last().unwrap();
    assert_eq!(
        last,
        "Finished archiving compiled tarball results/demo-1.10-ubuntu-noble-1.406.tgz"
    );
    let result = there.join("results/demo-1.10-ubuntu-noble-1.406.tgz");
    assert_eq!(Outcome::of(&result), expected());
}

#[test]
fn tarball_may_come_from_a_pipe() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let pipe = world.path("pipe.tgz");
    run_tool("mkfifo", &[&pipe]);
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::write(pipe, std::fs::read(tarball).unwrap()).unwrap()
    });
    world.compile(&[&pipe]).succeeds();
    writer.join().unwrap();
    assert_eq!(Outcome::of(&world.result("demo-1.10")), expected());
}
