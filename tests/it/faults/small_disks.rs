//! Disks of any size, and with any number of files.

use super::*;

/// Everything on one disk, of every size from one that has room for nothing to one that has room for all.
fn every_size(isolation: &'static str) {
    let mut release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "app",
            &[],
            "set -e; head -c 768K /dev/urandom > $BOSH_INSTALL_TARGET/data",
        )
        // What is compressed in the tarball, and not in the result.
        .other("docs/zeros", &[0; 1536 << 10])
        .no_compression();
    for number in 0..96 {
        // More on the disk than in the archive.
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
        let ran = place.agent().arg(tarball).run();
        last = ran.code;
        if ran.code == Some(0) {
            Outcome::of(&place.inside(&place.result()));
            continue;
        }
        let ran = has_no_room(ran.blames_the_machine());
        place.is_as_before(&ran);
        steps.insert(step(&ran.stderr));
    }
    assert_eq!(last, Some(0), "the largest has room for all");
    for expected in ["spool", "unpack", "script", "pack", "assemble"] {
        assert!(steps.contains(expected), "{expected} is not in {steps:?}");
    }
}

#[test]
fn a_disk_of_any_size_has_room_or_is_told_of_in_namespaces() {
    every_size("namespace");
}

#[test]
fn a_disk_of_any_size_has_room_or_is_told_of_under_rules() {
    every_size("landlock");
}

#[test]
fn a_disk_of_any_size_has_room_or_is_told_of_in_place() {
    every_size("none");
}

/// As many files as one disk can have, from too few for anything to enough.
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
        let ran = place.agent().arg(tarball).run();
        last = ran.code;
        if ran.code == Some(0) {
            Outcome::of(&place.inside(&place.result()));
            continue;
        }
        failures += 1;
        let ran = has_no_room(ran.blames_the_machine()).does_not_say("no namespaces");
        let ran = ran.says(&format!(" of {files} inodes free"));
        place.is_as_before(&ran);
    }
    assert_eq!(last, Some(0), "the largest has room for all");
    assert!(failures >= 10, "{failures} failures");
}

#[test]
fn a_disk_for_any_number_of_files_has_room_or_is_told_of_by_default() {
    every_number_of_files("auto");
}

#[test]
fn a_disk_for_any_number_of_files_has_room_or_is_told_of_under_rules() {
    every_number_of_files("landlock");
}

#[test]
fn a_disk_for_any_number_of_files_has_room_or_is_told_of_in_place() {
    every_number_of_files("none");
}
