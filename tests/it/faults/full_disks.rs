//! Disks that fill in one step of a compile.

use super::*;

#[test]
fn full_disk_while_blobs_are_read_names_the_tarball() {
    let options = "size=1m";
    let Some(mut place) = Place::new("namespace", options, &["work"]) else {
        return;
    };
    let release = ReleaseBuilder::of_script("true").other("docs/zeros", &[0; 2 << 20]);
    let tarball = place.world.path("release.tgz").display().to_string();
    place
        .run_without_room(&release)
        .says(&format!(
            "Error: failed to extract `{tarball}`: failed to write `"
        ))
        .says("/spool/0/")
        .says(" of 1.0 MiB free at ")
        .says(NO_ROOM);
}

#[test]
fn full_disk_while_a_source_is_unpacked_names_the_package() {
    let Some(mut place) = Place::new("namespace", "size=4m", &["work"]) else {
        return;
    };
    let release = after_filling(1024, "true").file("zeros", 0o644, &[0; 2 << 20]);
    place
        .run_without_room(&release)
        .says("Error: failed to compile package app/")
        .says(" of release demo/1.10: no space left in `")
        .says(
            " of 4.0 MiB free: failed to unpack the source of package `app`: failed to write to `",
        )
        .says("/zeros`: No space left on device")
        .says(NO_ROOM);
}

#[test]
fn source_with_too_many_files_names_the_package() {
    let options = "nr_inodes=64,size=4m";
    let Some(mut place) = Place::new("namespace", options, &["work"]) else {
        return;
    };
    let mut release = ReleaseBuilder::of_script("true");
    for number in 0..64 {
        release = release.file(&format!("{number}"), 0o644, b"");
    }
    place
        .run_without_room(&release)
        .says("failed to unpack the source of package `app`: failed to create `")
        .says(" and 0 of 64 inodes free: ")
        .says(NO_ROOM);
}

/// Directories of a package, links to it and its dependencies, log, blob: each is the first file without room in one of these runs.
#[test]
fn each_file_without_an_inode_is_reported() {
    let expected = [
        "failed to create",
        "failed to create the directory",
        "failed to create the link",
        "failed to create the sandbox of a packaging script: failed to prepare the overlay at",
    ];
    let mut made = BTreeSet::new();
    // The concurrent removal of old files decides where the room ends, so a single sweep does not reach every step.
    for left in (0..16).cycle().take(16 * 20) {
        if expected.iter().all(|step| made.contains(*step)) && left == 0 {
            return;
        }
        let options = "nr_inodes=256,size=4m";
        let Some(mut place) = Place::new("namespace", options, &["work", "logs"]) else {
            return;
        };
        let script = format!(
            "set -e; cd $BOSH_INSTALL_TARGET/; free=$(df --output=iavail . | tail -n 1); \
             seq $((free - {left})) | xargs touch"
        );
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("filler", &[], &script)
            .package("app", &["filler"], "true");
        place.remember();
        let tarball = place.world.release("release.tgz", &release);
        let ran = place.agent().arg(tarball).run();
        if ran.code == Some(0) {
            continue;
        }
        let ran = assert_no_room(ran.blames_the_machine())
            .says("Error: failed to compile package ")
            .says("of 256 inodes free: ");
        place.assert_unchanged(&ran);
        let (_, what) = ran.stderr.split_once("inodes free: ").unwrap();
        let what = what.split('`').next().unwrap_or_default();
        made.insert(what.trim_end().to_owned());
    }
    panic!("not all of {expected:?} are in {made:?}");
}

#[test]
fn disk_filled_by_a_script_is_reported_as_the_cause() {
    for isolation in ["namespace", "landlock", "none"] {
        let Some(mut place) = Place::new(isolation, "size=2m", &["work", "vcap"]) else {
            return;
        };
        // Also together with other signs of rules.
        let release = ReleaseBuilder::of_script(
            "set -e; echo run >> $FACTS/runs; echo 'x: Permission denied'; \
             head -c 3M /dev/zero > $BOSH_INSTALL_TARGET/data",
        );
        let ran = place
            .run_without_room(&release)
            .says("Error: failed to compile package app/")
            .says("(no space left on the device of `")
            .says(" of 2.0 MiB free)")
            .says(NO_ROOM);
        let ended = ran.stderr.matches("Error: ").count();
        assert_eq!(ended, 1, "{}", ran.stderr);
        assert_eq!(place.world.read("facts/runs"), "run\n", "{isolation}");
    }
}

#[test]
fn inodes_used_up_by_a_script_are_reported_as_the_cause() {
    let options = "nr_inodes=128,size=4m";
    let Some(mut place) = Place::new("namespace", options, &["work"]) else {
        return;
    };
    let release =
        ReleaseBuilder::of_script("set -e; cd $BOSH_INSTALL_TARGET/; seq 200 | xargs touch");
    place
        .run_without_room(&release)
        .says("(no space left on the device of `")
        .says(" and 0 of 128 inodes free)")
        .says(NO_ROOM);
}

#[test]
fn full_disk_while_a_package_is_packed_names_the_package() {
    let Some(mut place) = Place::new("namespace", "size=2m", &["work"]) else {
        return;
    };
    let release = ReleaseBuilder::of_script(&format!(
        "head -c 300K /dev/urandom > $BOSH_INSTALL_TARGET/data; {}",
        fill(100)
    ));
    place
        .run_without_room(&release)
        .says("Error: failed to compile package app/")
        .says("no space left in `")
        .says("/blobs/0`: ")
        .says(" of 2.0 MiB free: ")
        .says("No space left on device")
        .says(NO_ROOM);
}

#[test]
fn full_disk_while_a_package_is_packed_stops_its_dependents() {
    let Some(mut place) = Place::new("namespace", "size=2m", &["work"]) else {
        return;
    };
    place.jobs = 2;
    let script = format!(
        "head -c 300K /dev/urandom > $BOSH_INSTALL_TARGET/data; {}",
        fill(150)
    );
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], &script)
        // Whether or not it has started, it would not end by itself.
        .package("wait", &["lib"], GATE);
    place
        .run_without_room(&release)
        .says("Error: failed to compile package lib/")
        .says("/blobs/0`: ")
        .says(" of 2.0 MiB free: ")
        .says(NO_ROOM);
}

#[test]
fn full_disk_while_a_tree_is_sealed_names_the_package() {
    let Some(mut place) = Place::new("namespace", "size=2m", &["work"]) else {
        return;
    };
    // Files with a link outside the tree are copied when the tree is sealed.
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "lib",
            &[],
            &format!(
                "head -c 500K /dev/zero > own; ln own $BOSH_INSTALL_TARGET/data; {}",
                fill(100)
            ),
        )
        .package("app", &["lib"], "true");
    place
        .run_without_room(&release)
        .says("Error: failed to compile package lib/")
        .says("no space left in `")
        .says(" of 2.0 MiB free: ")
        .says("failed to write `")
        .says(NO_ROOM);

    // In place, it is copied from one disk to another.
    let Some(mut place) = Place::new("none", "size=1m", &["work"]) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "lib",
            &[],
            "head -c 2M /dev/zero > $BOSH_INSTALL_TARGET/data",
        )
        .package("app", &["lib"], "true");
    let store = place.path("work").display().to_string();
    place
        .run_without_room(&release)
        .says("Error: failed to compile package lib/")
        .says(&format!("no space left in `{store}/"))
        .says(" of 1.0 MiB free: ")
        .says(&format!("failed to write `{store}/"))
        .says(NO_ROOM);
}

#[test]
fn full_disk_while_a_dependency_is_copied_names_the_disk() {
    let Some(mut place) = Place::new("none", "size=2m", &["vcap"]) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "a",
            &[],
            "head -c 1200K /dev/zero > $BOSH_INSTALL_TARGET/data",
        )
        .package(
            "b",
            &[],
            "head -c 1200K /dev/zero > $BOSH_INSTALL_TARGET/data",
        )
        .package("app", &["a", "b"], "true");
    let base = place.path("vcap").display().to_string();
    place
        .run_without_room(&release)
        .says("Error: failed to compile package app/")
        .says(&format!("no space left in `{base}/data/packages/"))
        .says(" of 2.0 MiB free: ")
        .says(&format!("failed to write `{base}/data/packages/"))
        .says(NO_ROOM);
}

#[test]
fn full_disk_while_a_compiled_package_is_unpacked_names_it() {
    let Some(mut place) = Place::new("namespace", "size=1m", &["work"]) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .compiled("lib", &[], STEMCELL, ("zeros", &[0; 2 << 20]))
        .package("app", &["lib"], "true");
    place
        .run_without_room(&release)
        .says("Error: failed to compile package lib/")
        .says("no space left in `")
        .says(" of 1.0 MiB free: failed to unpack the compiled package `lib`: failed to write to `")
        .says("/zeros`: No space left on device")
        .says(NO_ROOM);
}

#[test]
fn full_disk_while_the_result_is_written_keeps_the_older() {
    let release = ReleaseBuilder::of_script("cp data $BOSH_INSTALL_TARGET/")
        .file("data", 0o644, &random(100 << 10))
        .other("docs/data", &random(2 << 20));
    // On its own disk, and on the disk on which packages are compiled.
    let on_disks: [(&str, &'static [&'static str]); 2] =
        [("1m", &["out"]), ("3m", &["work", "out"])];
    for (size, on_disk) in on_disks {
        let Some(mut place) = Place::new("namespace", &format!("size={size}"), on_disk) else {
            return;
        };
        let result = place.result().display().to_string();
        place
            .run_without_room(&release)
            .says(&format!(
                "Error: failed to write the compiled release `{result}`: "
            ))
            .says("No space left on device")
            .says(&format!(" free at {}\n", place.path("out").display()))
            .says(NO_ROOM);
        let older = std::fs::read_to_string(place.inside(&place.result())).unwrap();
        assert_eq!(older, "older");
    }
}

#[test]
fn full_disk_while_a_release_is_copied_keeps_the_older() {
    let Some(mut place) = Place::new("namespace", "size=1m", &["out"]) else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .compiled("lib", &[], STEMCELL, ("data", b""))
        .other("docs/data", &random(2 << 20));
    let result = place.result().display().to_string();
    place
        .run_without_room(&release)
        .says(&format!(
            "Error: failed to write the compiled release `{result}`: "
        ))
        .says(&format!(" free at {}\n", place.path("out").display()))
        .says(NO_ROOM);
}

#[test]
fn missing_room_for_results_is_reported_before_scripts_run() {
    let release = ReleaseBuilder::of_script("touch $FACTS/ran");
    for (files, name, told) in [
        (2, "out", "the output directory cannot be used: "),
        (2, "logs", "/disk/logs`: No space left on device"),
        (3, "logs", "failed to create `"),
    ] {
        let options = format!("nr_inodes={files}");
        let on_disk: &'static [&'static str] = match name {
            "out" => &["out"],
            _ => &["logs"],
        };
        let Some(mut place) = Place::new("namespace", &options, on_disk) else {
            return;
        };
        place
            .run_without_room(&release)
            .says(told)
            .says(&format!("0 of {files} inodes free"))
            .says(&place.path(name).display().to_string());
        assert!(!place.world.path("facts/ran").exists());
    }
}

/// A package without its log is complete, so this is not a failure.
#[test]
fn disk_filled_by_logs_is_only_a_warning() {
    let Some(place) = Place::new("namespace", "size=128k", &["logs"]) else {
        return;
    };
    let script = "{ set +x; } 2>/dev/null\nyes | head -c 1M; echo end; echo file > $BOSH_INSTALL_TARGET/file";
    let tarball = place
        .world
        .release("release.tgz", &ReleaseBuilder::of_script(script));
    let ran = place.agent().arg(tarball).run().succeeds();
    let log = place.path("logs").join("demo-1.10/app.log");
    ran.says(&format!(
        "Warning: the log of the packaging script of app is incomplete: `{}`: No space left on device",
        log.display()
    ))
    .says("0 B of 128.0 KiB free")
    .says("Warning: could not save the durations of packages for the next run: ");
    let outcome = Outcome::of(&place.result());
    assert_eq!(outcome.packages["app"]["file"], "100644 file\n");
    let left: Vec<String> = entries(&place.inside(&place.path("logs")))
        .into_keys()
        .collect();
    assert_eq!(left, ["", "demo-1.10", "demo-1.10/app.log"]);
}
