//! Releases with unusual archives, and files that are not releases.

mod inputs;
mod members;
mod yaml;

use std::path::PathBuf;

use crate::support::{
    Compression, Kind, Member, Outcome, Ran, ReleaseBuilder, World, archive, compiled_packages,
    list, manifest_of, require_tools, run_tool, run_tool_with,
};

fn demo() -> ReleaseBuilder {
    ReleaseBuilder::demo()
}

fn gzip(members: &[Member]) -> Vec<u8> {
    Compression::Gzip.apply(&archive(members))
}

/// Compiles bytes as a release.
fn compile(tarball: &[u8]) -> Ran {
    let world = World::new();
    let tarball = world.write("release.tgz", tarball);
    world.compile(&[&tarball])
}

/// The result of a release with these members, and the output of its compile.
fn outcome(members: &[Member]) -> (Outcome, Ran) {
    let world = World::new();
    let tarball = world.write("release.tgz", gzip(members));
    let ran = world.compile(&[&tarball]).succeeds();
    (Outcome::of(&world.result("demo-1.10")), ran)
}

/// A script that fails the test when it runs.
const NEVER: &str = "touch \"$MARK\"";

/// Asserts that a release is refused before any of its scripts runs.
#[track_caller]
fn refused(release: &ReleaseBuilder) -> Ran {
    let world = World::new();
    let tarball = world.release("release.tgz", release);
    let mark = world.path("mark");
    let agent = world.agent().env("MARK", mark.to_str().unwrap());
    let ran = agent.arg(&tarball).run().refuses_the_input();
    assert!(!mark.exists(), "a script ran");
    assert!(
        ran.stderr.contains("Error: nothing was compiled"),
        "{}",
        ran.stderr
    );
    ran
}

fn with_job() -> ReleaseBuilder {
    ReleaseBuilder::of_script(NEVER)
        .job("web", &["app"])
        .license()
}

fn job(files: &[(&str, &str)]) -> Vec<u8> {
    let members: Vec<Member> = files
        .iter()
        .map(|(name, text)| Member::file(name, text.as_bytes()))
        .collect();
    gzip(&members)
}

#[test]
fn files_of_operating_systems_are_ignored_with_one_warning() {
    let clutter = [
        "._release.MF",
        "packages/._lib.tgz",
        "packages/.DS_Store",
        "packages/Thumbs.db",
        "jobs/._web.tgz",
        "compiled_packages/._lib.tgz",
        "__MACOSX/packages/._lib.tgz",
        "PaxHeaders.12/release.MF",
    ];
    let mut members = vec![Member::directory("__MACOSX/")];
    members.extend(
        clutter
            .iter()
            .map(|name| Member::file(name, b"\0\x05\x16\x07")),
    );
    members.extend(demo().members());
    let (found, ran) = outcome(&members);
    let (expected, clean) = outcome(&demo().members());
    assert_eq!(found.without_order(), expected.without_order());
    let ran = ran
        .says("Warning: ignoring 9 files that are not part of the release in ")
        .says("`packages/._lib.tgz`")
        .says("`__MACOSX`");
    assert_eq!(ran.stderr.matches("Warning: ").count(), 1, "{}", ran.stderr);
    clean.does_not_say("Warning: ");
}

#[test]
fn package_with_the_name_of_clutter_is_compiled() {
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("._odd", &[], "echo x > $BOSH_INSTALL_TARGET/x")
        .other("packages/._other.tgz", b"x");
    let world = World::new();
    let ran = world
        .compile(&[&world.release("release.tgz", &release)])
        .succeeds();
    let result = world.result("demo-1.10");
    assert_eq!(compiled_packages(&manifest_of(&result)).len(), 1);
    ran.says("ignoring a file that is not part of the release");
}

#[test]
fn clutter_alone_is_an_empty_archive() {
    compile(&gzip(&[Member::file("._release.MF", b"")]))
        .refuses_the_input()
        .says(
            "the tarball has no release.MF at its top; the archive contains no files of a release",
        );
}
