//! Disks of all sizes and with all numbers of inodes.

use super::*;

/// All directories on one disk, of every size from room for no file to room for all.
fn every_size(isolation: &'static str) {
    let mut release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "app",
            &[],
            "set -e; head -c 768K /dev/urandom > $BOSH_INSTALL_TARGET/data",
        )
        // Compressed in the tarball, but not in the result.
        .other("docs/zeros", &[0; 1536 << 10])
        .no_compression();
    for number in 0..96 {
        // Larger on disk than in the archive.
        release = release.file(&format!("small/{number}"), 0o644, b"x");
    }
    let tarball = Compression::Gzip.apply(&archive(&release.members()));
    let unit = if is_long() { 64 } else { 256 };
    let mut steps = BTreeSet::new();
    let mut last = None;
    for size in (unit..=5632).step_by(unit) {
        let options = format!("size={size}k");
        let Some(mut place) = Place::new(isolation, &options, &["work", "out", "vcap"]) else {
            return;
        };
        place.remember();
        let tarball = place.world.write("release.tgz", &tarball);
        let ran = place.agent().without_report().arg(tarball).run();
        last = ran.code;
        if ran.code == Some(0) {
            Outcome::of(&place.inside(&place.result()));
            continue;
        }
        let ran = assert_no_room(ran.blames_the_machine());
        place.assert_unchanged(&ran);
        steps.insert(step(&ran.stderr));
    }
    assert_eq!(last, Some(0), "the largest has room for all");
    for expected in ["spool", "unpack", "script", "pack", "assemble"] {
        assert!(steps.contains(expected), "{expected} is not in {steps:?}");
    }
}

#[test]
fn too_small_disk_is_reported_in_namespaces() {
    every_size("namespace");
}

#[test]
fn too_small_disk_is_reported_under_rules() {
    every_size("landlock");
}

#[test]
fn too_small_disk_is_reported_in_place() {
    every_size("none");
}

/// A disk with every number of inodes from too few to enough.
fn every_number_of_files(isolation: &'static str) {
    let copy = "set -e; cp -R @packages@/lib/. $BOSH_INSTALL_TARGET/";
    let mut release = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file")
        .compiled("tool", &[], STEMCELL, ("tool", b"tool"))
        .package("other", &["lib", "tool"], copy)
        .package("app", &["lib"], copy);
    for number in 0..24 {
        release = release.file(&format!("{number}"), 0o644, b"x");
    }
    let (mut last, mut failures) = (None, 0);
    let step = if is_long() { 1 } else { 4 };
    for files in (1..=129).step_by(step) {
        let options = format!("nr_inodes={files},size=4m");
        let Some(mut place) = Place::new(isolation, &options, &["work", "out", "vcap"]) else {
            return;
        };
        place.jobs = 2;
        place.remember();
        let tarball = place.world.release("release.tgz", &release);
        let ran = place.agent().without_report().arg(tarball).run();
        last = ran.code;
        if ran.code == Some(0) {
            Outcome::of(&place.inside(&place.result()));
            continue;
        }
        failures += 1;
        let ran = assert_no_room(ran.blames_the_machine()).does_not_say("no namespaces");
        let ran = ran.says(&format!(" of {files} inodes free"));
        place.assert_unchanged(&ran);
    }
    assert_eq!(last, Some(0), "the largest has room for all");
    assert!(failures >= 10, "{failures} failures");
}

#[test]
fn too_few_inodes_are_reported_by_default() {
    every_number_of_files("auto");
}

#[test]
fn too_few_inodes_are_reported_under_rules() {
    every_number_of_files("landlock");
}

#[test]
fn too_few_inodes_are_reported_in_place() {
    every_number_of_files("none");
}
