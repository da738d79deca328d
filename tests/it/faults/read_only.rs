//! Disks that are or become read-only, and truncated blobs.

use super::*;

#[test]
fn read_only_work_directory_is_reported_before_scripts_run() {
    let Some(mut place) = Place::new("namespace", "ro,size=1m", &["work"]) else {
        return;
    };
    let release = ReleaseBuilder::of_script("touch $FACTS/ran");
    place
        .run_that_fails(&release)
        .blames_the_machine()
        .says("disk/work`: Read-only file system")
        .says("Hint: ")
        .says("--work-dir");
    assert!(!place.world.path("facts/ran").exists());

    let Some(mut place) = Place::new("none", "ro,size=1m", &["vcap"]) else {
        return;
    };
    place
        .run_that_fails(&release)
        .blames_the_machine()
        .says("disk/vcap`: Read-only file system")
        .says("Hint: ")
        .says("--base-directory");
    assert!(!place.world.path("facts/ran").exists());
}

/// Makes the disk read-only for paths that are opened from now on. Files that are open for writing stay so; after an error of the disk they
/// would not, but the kernel does this only by itself.
fn turn_read_only(place: &Place) {
    let disk = place.world.path("disk");
    let disk = disk.to_str().unwrap();
    place.tool(&["mount", "--bind", disk, disk]);
    place.tool(&["mount", "-o", "remount,bind,ro", disk]);
}

fn turned_read_only(isolation: &'static str) {
    let on_disk = &["work", "vcap", "out"];
    let Some(mut place) = Place::new(isolation, "size=4m", on_disk) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file")
        .package("app", &["lib"], GATE);
    place.remember();
    let running = place.start_to_gate(&release);
    turn_read_only(&place);
    let work = place.work();
    place.open_gate();
    let ran = running
        .end()
        .fails_or_blames_the_machine()
        .says("Error: failed to compile package app/")
        .says("Read-only file system")
        .says("Hint: ")
        // No process can remove it now.
        .says(&format!("Warning: could not remove `{}`", work.display()));
    let left = processes_below(&place.world.path("facts"));
    assert!(left.is_empty(), "{left:#?}");

    // When the disk is writable again, the next run removes everything.
    let disk = place.world.path("disk");
    place.tool(&["umount", disk.to_str().unwrap()]);
    let tarball = place
        .world
        .release("release.tgz", &ReleaseBuilder::of_script("exit 1"));
    place.agent().arg(tarball).run().fails();
    let before = &place.before[&place.inside(&disk)];
    let mut after = entries(&place.inside(&disk));
    after.retain(|name, _| !before.contains_key(name));
    // The owner of these directories is no longer known.
    let directories: Vec<&str> = after.keys().map(String::as_str).collect();
    let allowed = [
        "vcap",
        "vcap/data",
        "vcap/data/compile",
        "vcap/data/packages",
        "vcap/packages",
        "work",
    ];
    let stay = directories.iter().all(|name| allowed.contains(name));
    assert!(stay, "{directories:?}\n{}", ran.stderr);
    assert_eq!(place.mountinfo(), place.mounts);
}

#[test]
fn disk_that_becomes_read_only_is_reported_in_namespaces() {
    turned_read_only("namespace");
}

#[test]
fn disk_that_becomes_read_only_is_reported_under_rules() {
    turned_read_only("landlock");
}

#[test]
fn disk_that_becomes_read_only_is_reported_in_place() {
    turned_read_only("none");
}

/// Truncated archives, each with its error.
fn cut_blobs() -> Vec<(Vec<u8>, &'static str)> {
    let tar = archive(&[
        Member::directory("./"),
        Member::file("./packaging", b"touch $FACTS/ran"),
        Member::file("./data", &random(100_000)),
        Member::link(Kind::Symlink, "./link", "data"),
    ]);
    let gzip = Compression::Gzip.apply(&tar);
    let in_entry = &tar[..tar.len() / 2];
    let in_header = &tar[..700];
    vec![
        (gzip[..gzip.len() / 2].to_vec(), "gzip data ends early"),
        (gzip[..gzip.len() - 4].to_vec(), "gzip data ends early"),
        (gzip[..12].to_vec(), "gzip data ends early"),
        (
            Compression::Gzip.apply(in_entry),
            "the archive ends early, in the middle of `./data`",
        ),
        (
            in_entry.to_vec(),
            "the archive ends early, in the middle of `./data`",
        ),
        (
            Compression::Gzip.apply(in_header),
            "the archive ends early, in a header at byte 512",
        ),
    ]
}

#[test]
fn truncated_source_is_reported_with_package_and_size() {
    for (blob, told) in cut_blobs() {
        // The disk is so small that a number from the middle of a blob exceeds any size on it.
        let Some(mut place) = Place::new("namespace", "size=4m", &["work", "out"]) else {
            return;
        };
        let release = ReleaseBuilder::of_script("").blob(&blob);
        place
            .run_that_fails(&release)
            .refuses_the_input()
            .says("Error: failed to compile package app/")
            .says(" of release demo/1.10: failed to unpack the source of package `app`: ")
            .says(told)
            .says("Hint: ")
            .says("packages/app.tgz")
            .does_not_say("not enough space");
        assert!(!place.world.path("facts/ran").exists());
    }
}

#[test]
fn truncated_compiled_package_is_reported_with_its_size() {
    for (blob, told) in cut_blobs() {
        let Some(mut place) = Place::new("namespace", "size=4m", &["work", "out"]) else {
            return;
        };
        let release = ReleaseBuilder::new("demo", "1.10")
            .compiled("lib", &[], STEMCELL, ("", b""))
            .blob(&blob)
            .package("app", &["lib"], "touch $FACTS/ran");
        place
            .run_that_fails(&release)
            .refuses_the_input()
            .says("Error: failed to compile package lib/")
            .says(" of release demo/1.10: failed to unpack the compiled package `lib`: ")
            .says(told)
            .says("Hint: ")
            .says("compiled_packages/lib.tgz");
        assert!(!place.world.path("facts/ran").exists());
    }
}
