//! Files that are removed while the agent needs them, and missing descriptors.

use super::*;

/// A package, one that waits, and one that depends on both.
fn with_gate(needed_at_gate: &[&str]) -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file")
        .package("wait", needed_at_gate, GATE)
        .package(
            "app",
            &["lib", "wait"],
            "set -e; touch $FACTS/ran; cp @packages@/lib/file $BOSH_INSTALL_TARGET/",
        )
}

/// Waits until the first package of [`with_gate`] is completely done.
fn wait_for_first(running: &Running) {
    wait_for("the first package", LIMIT, || {
        let stderr = running.stderr();
        let is_done = stderr.contains("Finished compiling release lib/");
        is_done.then_some(()).ok_or(stderr)
    });
}

/// Removes the directory of a package in the store.
fn remove_sealed(store: &Path, package: &str) {
    let directories = std::fs::read_dir(store).unwrap().flatten();
    let sealed = directories
        .map(|directory| directory.path())
        .find(|directory| directory.join(package).exists());
    std::fs::remove_dir_all(sealed.unwrap()).unwrap();
}

/// Removes the sealed tree of a dependency, and its blob if `with_blob`.
fn remove_dependency(isolation: &'static str, with_blob: bool) {
    let Some(mut place) = Place::new(isolation, "size=4m", &["work", "vcap"]) else {
        return;
    };
    place.remember();
    let running = place.start_to_gate(&with_gate(&[]));
    wait_for_first(&running);
    remove_sealed(&place.inside(&place.work().join("store")), "lib");
    if with_blob {
        let blob = place.work().join("blobs/0/lib.tgz");
        std::fs::remove_file(place.inside(&blob)).unwrap();
    }
    place.open_gate();
    let changed = "the files of package lib were changed after it was installed: `.` (No such file or directory (os error 2))";
    if !with_blob {
        running.end().succeeds().says(&format!(
            "Warning: {changed}. It is reinstalled from its compiled package.\nSince its last check, the packaging script of \
             `wait` ran"
        ));
        let outcome = Outcome::of(&place.inside(&place.result()));
        assert_eq!(outcome.packages["app"]["file"], "100644 lib\n");
        return;
    }
    let ran = running
        .end()
        .fails()
        .says("Error: failed to compile package app/")
        .says(&changed.replace(" lib ", " `lib` "))
        .says(": there is no compiled package to reinstall it from")
        .says("Hint: since its last check, the packaging script of `wait` ran");
    assert!(!place.world.path("facts/ran").exists());
    place.assert_unchanged(&ran);
}

#[test]
fn removed_dependency_is_installed_again_in_namespaces() {
    remove_dependency("namespace", false);
}

#[test]
fn removed_dependency_is_installed_again_under_rules() {
    remove_dependency("landlock", false);
}

#[test]
fn removed_dependency_is_installed_again_in_place() {
    remove_dependency("none", false);
}

#[test]
fn removed_dependency_without_blob_is_reported_in_namespaces() {
    remove_dependency("namespace", true);
}

#[test]
fn removed_dependency_without_blob_is_reported_under_rules() {
    remove_dependency("landlock", true);
}

#[test]
fn removed_dependency_without_blob_is_reported_in_place() {
    remove_dependency("none", true);
}

/// Under rules, a dependency is copied once for all dependents, and no other process can write to the copy.
#[test]
fn dependency_removed_after_its_copy_is_not_missed() {
    let Some(place) = Place::new("landlock", "size=4m", &["work", "vcap"]) else {
        return;
    };
    let running = place.start_to_gate(&with_gate(&["lib"]));
    wait_for_first(&running);
    let store = place.work().join("store");
    remove_sealed(&place.inside(&store), "lib");
    place.open_gate();
    running.end().succeeds();
    let outcome = Outcome::of(&place.inside(&place.result()));
    assert_eq!(outcome.packages["app"]["file"], "100644 lib\n");
}

#[test]
fn removed_or_truncated_blob_is_reported_with_the_result() {
    for (is_cut, told) in [
        (false, "No such file or directory"),
        (true, " bytes that were announced"),
    ] {
        let Some(mut place) = Place::new("namespace", "size=4m", &["work", "out"]) else {
            return;
        };
        place.remember();
        let running = place.start_to_gate(&with_gate(&[]));
        wait_for_first(&running);
        let blob = place.inside(&place.work().join("blobs/0/lib.tgz"));
        if is_cut {
            let size = std::fs::metadata(&blob).unwrap().len();
            let file = std::fs::OpenOptions::new().write(true).open(&blob).unwrap();
            file.set_len(size / 2).unwrap();
        } else {
            std::fs::remove_file(&blob).unwrap();
        }
        place.open_gate();
        let ran = running
            .end()
            .blames_the_machine()
            .says(&format!(
                "Error: failed to write the compiled release `{}`: ",
                place.result().display()
            ))
            .says("lib.tgz")
            .says(told)
            .says("Hint: ");
        place.assert_unchanged(&ran);
    }
}

fn remove_tree(isolation: &'static str) {
    let Some(mut place) = Place::new(isolation, "size=4m", &["work", "vcap"]) else {
        return;
    };
    place.remember();
    let running = place.start_to_gate(&ReleaseBuilder::of_script(GATE));
    let trees = match isolation {
        "namespace" => place.work().join("places"),
        _ => place.path("vcap").join("data"),
    };
    for entry in std::fs::read_dir(place.inside(&trees)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    place.open_gate();
    if isolation == "landlock" {
        // The missing files could be an effect of the rules, so the script runs again and succeeds.
        wait_for("the second run", LIMIT, || {
            let stderr = running.stderr();
            let is_there = stderr.contains("app is compiled again");
            is_there.then_some(()).ok_or(stderr)
        });
        place.open_gate();
        running.end().succeeds();
        assert!(
            Outcome::of(&place.inside(&place.result()))
                .packages
                .contains_key("app")
        );
        return;
    }
    let ran = running
        .end()
        .fails()
        .says("Error: failed to compile package app/")
        .says("package `app` has no directory at its install target `")
        .says("Hint: ");
    place.assert_unchanged(&ran);
}

fn remove_work_directory(isolation: &'static str) {
    let Some(mut place) = Place::new(isolation, "size=4m", &["work", "vcap"]) else {
        return;
    };
    place.remember();
    let running = place.start_to_gate(&with_gate(&["lib"]));
    wait_for_first(&running);
    let work = place.work();
    std::fs::remove_dir_all(place.inside(&work)).unwrap();
    place.open_gate();
    let ran = running
        .end()
        .fails_or_blames_the_machine()
        .says("Error: failed to compile package ")
        .says(&format!(
            "Warning: the work directory `{}` was removed by another program",
            work.display()
        ));
    place.assert_unchanged(&ran);
}

#[test]
fn removed_work_directory_is_reported_in_namespaces() {
    remove_work_directory("namespace");
}

#[test]
fn removed_work_directory_is_reported_under_rules() {
    remove_work_directory("landlock");
}

#[test]
fn removed_work_directory_is_reported_in_place() {
    remove_work_directory("none");
}

#[test]
fn removed_files_of_a_package_are_reported_in_namespaces() {
    remove_tree("namespace");
}

#[test]
fn removed_files_of_a_package_are_reported_under_rules() {
    remove_tree("landlock");
}

#[test]
fn removed_files_of_a_package_are_reported_in_place() {
    remove_tree("none");
}

/// A run with few descriptors or threads ends by itself: it succeeds, or reports which are missing.
#[test]
fn missing_descriptors_or_threads_are_an_error_not_a_panic() {
    if !require_root() || !require_tools(&["prlimit", "setpriv"]) {
        return;
    }
    let world = World::for_everybody();
    for directory in ["printed", "logs"] {
        let directory = world.path(directory);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o777)).unwrap();
    }
    std::fs::set_permissions(world.path(""), PermissionsExt::from_mode(0o777)).unwrap();
    // The program may be in a directory that only root can reach.
    let agent = world.path("bosh-agent");
    run_tool(
        "cp",
        &[env!("CARGO_BIN_EXE_bosh-agent").as_ref(), agent.as_os_str()],
    );
    let release = world.release("release.tgz", &ReleaseBuilder::of_script("true"));
    std::fs::set_permissions(&release, PermissionsExt::from_mode(0o644)).unwrap();
    let try_with = |limit: String| {
        // The limit of processes applies only to users; this one has no other processes.
        let user = USER.to_string();
        let through = [
            "setpriv",
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "prlimit",
            &limit,
        ];
        let words = through
            .map(AsRef::as_ref)
            .into_iter()
            .chain([agent.as_os_str()]);
        let ran = world
            .flags_with(Agent::through(&world.path("printed"), words), "none")
            .without_report()
            .arg(&release)
            .run();
        for word in ["panicked", "RUST_BACKTRACE"] {
            assert!(!ran.stderr.contains(word), "{limit}: {}", ran.stderr);
        }
        assert!(matches!(ran.code, Some(0 | 4)), "{limit}: {ran:?}");
        let is_told = ran.code == Some(0) || ran.stderr.contains("Error: ");
        assert!(is_told, "{limit}: {}", ran.stderr);
        ran
    };
    let short = "failed to start";
    for limit in [5, 6, 7, 8] {
        let ran = try_with(format!("--nofile={limit}:{limit}"));
        assert!(ran.stderr.contains(short), "{}", ran.stderr);
    }
    for limit in (9..40).step_by(if is_long() { 1 } else { 6 }) {
        try_with(format!("--nofile={limit}:{limit}"));
    }
    for limit in [1, 2] {
        let ran = try_with(format!("--nproc={limit}:{limit}"));
        assert!(ran.stderr.contains(short), "{}", ran.stderr);
    }
    for limit in (3..20).step_by(if is_long() { 1 } else { 4 }) {
        try_with(format!("--nproc={limit}:{limit}"));
    }
}
