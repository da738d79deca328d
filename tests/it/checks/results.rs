//! Earlier results, directories of the agent, and the stemcell.

use super::*;

#[test]
fn refused_run_keeps_an_earlier_result() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    world.compile(&[&tarball]).succeeds();
    let bad = ReleaseBuilder::demo().without("packages/app.tgz");
    let bad = world.release("bad.tgz", &bad);
    refused(&world, &[&bad]);
}

#[test]
fn failed_compile_keeps_an_earlier_result() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::of_script("true"));
    world.compile(&[&tarball]).succeeds();
    let before = crate::support::snapshot(&world.out());
    let tarball = world.release("release.tgz", &ReleaseBuilder::of_script("exit 1"));
    world.compile(&[&tarball]).fails();
    let mut after = crate::support::snapshot(&world.out());
    after.retain(|path, _| !path.starts_with("demo-1.10.failed"));
    assert_eq!(after, before);
}

#[test]
fn result_replaces_an_earlier_one() {
    let world = World::new();
    let old = world.result("demo-1.10");
    world.write("elsewhere", "old");
    std::fs::create_dir(world.out()).unwrap();
    std::os::unix::fs::symlink(world.path("elsewhere"), &old).unwrap();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    world.compile(&[&tarball]).succeeds();
    assert!(std::fs::symlink_metadata(&old).unwrap().is_file());
    assert_eq!(world.read("elsewhere"), "old");
}

#[test]
fn package_that_is_not_an_archive_is_reported() {
    for (blob, told) in [
        (b"no archive".to_vec(), "neither a tar archive"),
        (
            Compression::Gzip.apply(b"no archive either"),
            "not a tar archive",
        ),
        (
            archive(&[Member::file("../out", b"")]),
            "the archive has an entry that must not be unpacked",
        ),
    ] {
        let world = World::new();
        let tarball = world.release("release.tgz", &marking().blob(&blob));
        world
            .compile(&[&tarball])
            .refuses_the_input()
            .says("failed to compile package app/")
            .says(told);
        assert!(!world.out().exists());
        assert!(!world.base().join("data").exists());
        assert!(!world.base().join("packages").exists());
    }
}

#[test]
fn unusable_work_directory_is_reported() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    let file = world.write("file", "");
    let before = world.snapshot();
    let agent = world.agent().arg("--work-dir").arg(&file);
    agent.arg(&tarball).run().blames_the_machine().says("file");
    assert_eq!(world.snapshot(), before);
}

#[test]
fn base_directory_that_cannot_be_created_is_reported() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    world.write("vcap", "a file");
    let before = world.snapshot();
    let ran = world.agent().arg(&tarball).run().blames_the_machine();
    assert!(ran.stderr.contains("vcap"), "{}", ran.stderr);
    assert!(!world.result("demo-1.10").exists());
    assert_eq!(world.read("vcap"), "a file");
    let after = world.snapshot();
    let left: Vec<_> = after
        .keys()
        .filter(|path| !before.contains_key(*path))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn refusal_of_the_base_directory_leaves_no_logs() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    world.write("vcap/packages/redis/file", "theirs");
    refused_by_the_machine(&world, &[&tarball]).says("holds `redis`");
}

#[test]
fn file_in_place_of_the_packages_directory_is_reported() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    world.write("vcap/packages", "a file");
    refused_by_the_machine(&world, &[&tarball]).says("vcap/packages");
}

#[test]
fn missing_stemcell_is_reported_with_a_remedy() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    let before = world.snapshot();
    Agent::bare(&world.path("printed"))
        .args(&["compile", "--isolation=none", "--base-directory"])
        .args(&[world.base(), tarball])
        .run()
        .blames_the_machine()
        .says("this does not look like a stemcell")
        .says("Hint: ")
        .says("--stemcell OS/VERSION");
    assert_eq!(world.snapshot(), before);
}

#[test]
fn problems_of_inputs_are_reported_beside_a_missing_stemcell() {
    let world = World::new();
    let good = world.release("release.tgz", &marking());
    let page = world.write("page.tgz", "<!DOCTYPE html><html></html>");
    for purpose in ["--keep-going", "--print-output-names"] {
        Agent::bare(&world.path("printed"))
            .args(&["compile", purpose, "--isolation=none", "--base-directory"])
            .args(&[world.base(), good.clone(), page.clone()])
            .arg(world.path("missing.tgz"))
            .run()
            .refuses_the_input()
            .says("page.tgz:\n  - ")
            .says("missing.tgz:\n  - ")
            .says("Error: nothing was compiled: 2 problems found")
            .says("Error: this does not look like a stemcell")
            .says("--stemcell OS/VERSION");
    }
}

#[test]
fn stemcell_version_is_read_below_the_base_directory() {
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let has = |key: &str| os_release.lines().any(|line| line.starts_with(key));
    if !crate::support::require(
        has("ID=") && has("VERSION_CODENAME="),
        "a codename in os-release",
    ) {
        return;
    }
    let world = World::new();
    world.write("vcap/bosh/etc/stemcell_version", "77.1\n");
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let ran = Agent::bare(&world.path("printed"))
        .args(&["compile", "--isolation=none", "--output-directory"])
        .arg(world.out())
        .arg("--base-directory")
        .args(&[world.base(), tarball])
        .run()
        .succeeds();
    let first = ran.stderr.lines().next().unwrap();
    let slug = first.strip_prefix("Compiling with stemcell ").unwrap();
    assert!(slug.ends_with("/77.1"), "{first}");
    let name = format!("demo-1.10-{}.tgz", slug.replacen('/', "-", 1));
    let manifest = crate::support::manifest_of(&world.out().join(name));
    assert!(
        manifest.contains(&format!("stemcell: {slug}\n")),
        "{manifest}"
    );
}
