//! Problems of a release are reported before anything is compiled: all at once, with names, and without leftovers.

mod command_line;
mod manifests;
mod outputs;
mod results;
mod tarballs;

use std::path::{Path, PathBuf};

use crate::support::{
    Agent, Compression, Digest, Kind, Member, Ran, ReleaseBuilder, STEMCELL, World, archive,
    require_root, require_tools,
};

/// A script that creates a marker, for runs that must start no script.
const MARK: &str = "touch $MARK";

/// Compiles a release that must be refused before any script runs, and checks that no file has changed.
#[track_caller]
fn refused(world: &World, tarballs: &[&Path]) -> Ran {
    without_a_trace(world, tarballs).refuses_the_input()
}

/// The same where the machine is the reason.
#[track_caller]
fn refused_by_the_machine(world: &World, tarballs: &[&Path]) -> Ran {
    without_a_trace(world, tarballs).blames_the_machine()
}

#[track_caller]
fn without_a_trace(world: &World, tarballs: &[&Path]) -> Ran {
    let mark = world.path("mark");
    let before = world.snapshot();
    let ran = world
        .agent()
        .env("MARK", mark.to_str().unwrap())
        .args(tarballs)
        .run();
    assert!(!mark.exists(), "a script ran:\n{}", ran.stderr);
    let after = world.snapshot();
    assert_eq!(after, before, "something was left behind:\n{}", ran.stderr);
    ran
}

#[track_caller]
fn refused_release(release: &ReleaseBuilder) -> Ran {
    let world = World::new();
    let tarball = world.release("release.tgz", release);
    refused(&world, &[&tarball])
}

#[track_caller]
fn refused_bytes(tarball: &[u8]) -> Ran {
    let world = World::new();
    let tarball = world.write("release.tgz", tarball);
    refused(&world, &[&tarball]).says(&tarball.display().to_string())
}

fn marking() -> ReleaseBuilder {
    ReleaseBuilder::of_script(MARK)
}

fn bytes_of(release: &ReleaseBuilder) -> Vec<u8> {
    Compression::Gzip.apply(&archive(&release.members()))
}

#[test]
fn marker_of_these_tests_is_created_by_scripts() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    let mark = world.path("mark");
    let agent = world.agent().env("MARK", mark.to_str().unwrap());
    agent.arg(&tarball).run().succeeds();
    assert!(mark.exists());
}
