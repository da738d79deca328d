//! Records that a script has forged, and files of the host in the places of the agent's.

use super::*;

/// Waits until the clock of the file system has moved on since a file was created.
fn wait_for_later(than: &Path) {
    let born = |path: &Path| fs::Glimpse::of(path).unwrap().unwrap().born;
    let file = than.with_extension("later");
    while born(than).is_some() {
        fs::write(&file, b"").unwrap();
        let is_later = born(&file) > born(than);
        fs::remove_file(&file).unwrap();
        if is_later {
            return;
        }
    }
}

/// A directory of the host that existed before a run, with packages.
fn older(path: &Path) -> PathBuf {
    for directory in ["ours", "packages/ours", "compile/ours"] {
        fs::create_dir_all(&path.join(directory)).unwrap();
        fs::write(&path.join(directory).join("file"), b"theirs").unwrap();
    }
    wait_for_later(&path.join("ours"));
    path.to_owned()
}

/// The paths in a tree.
fn paths_in(tree: &Path) -> Vec<PathBuf> {
    snapshot(tree).into_iter().map(|(path, _)| path).collect()
}

fn killed(vcap: &Vcap) -> SharedTree {
    let killed = take(vcap, "us", false).unwrap();
    killed.clear_for(&names(&["ours"])).unwrap();
    killed
}

#[test]
fn forged_marker_behind_a_link_is_not_believed() {
    let (scratch, vcap) = vcap();
    let theirs = older(&scratch.path().join("theirs"));
    let before = paths_in(&theirs);
    drop(killed(&vcap));
    fs::remove_file(&vcap.data().join(lock::LOCK)).unwrap();
    fs::rename(&vcap.packages(), &scratch.path().join("moved")).unwrap();
    fs::symlink(&theirs, &vcap.packages()).unwrap();
    let moved = scratch.path().join("moved").join(MARKER);
    for marker in [fs::read(&moved).unwrap(), b"#links []\nours\n".to_vec()] {
        let forged = theirs.join(MARKER);
        fs::write(&forged, &marker).unwrap();
        let later = std::time::SystemTime::now() + Duration::from_secs(1000);
        fs::open(&forged).unwrap().set_modified(later).unwrap();
        let error = take(&vcap, "us", false).unwrap_err();
        assert!(matches!(error, SandboxError::Foreign { .. }), "{error}");
        fs::remove_file(&forged).unwrap();
        assert_eq!(paths_in(&theirs), before);
    }
}

#[test]
fn marker_without_inodes_removes_only_what_it_names() {
    let (_scratch, vcap) = vcap();
    drop(killed(&vcap));
    let theirs = vcap.packages().join("theirs");
    fs::write(&vcap.packages().join(MARKER), b"ours\n").unwrap();
    fs::remove_file(&vcap.data().join(lock::LOCK)).unwrap();
    fs::create_dir(&theirs).unwrap();
    let marker = fs::open(&vcap.packages().join(MARKER)).unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(1000);
    marker.set_modified(later).unwrap();
    let error = take(&vcap, "us", false).unwrap_err();
    assert!(matches!(error, SandboxError::Foreign { .. }), "{error}");
    assert!(theirs.exists());
}

#[test]
fn forged_notes_remove_nothing_older_than_the_run() {
    let (_scratch, vcap) = vcap();
    let jobs = vcap.data().join("jobs");
    fs::create_dir_all(&jobs).unwrap();
    fs::write(&jobs.join("file"), b"theirs").unwrap();
    wait_for_later(&jobs);
    let born = fs::Glimpse::of(&jobs).unwrap().unwrap().born;
    if !fs::require(born.is_some(), "a file system with times of creation") {
        return;
    }
    let tree = killed(&vcap);
    tree.share(&names(&["scratch"])).unwrap();
    drop(tree);
    for notes in [vcap.packages().join(MARKER), vcap.data().join(lock::LOCK)] {
        let text = fs::read_lossy(&notes).unwrap() + "data/jobs\n";
        fs::write(&notes, text.as_bytes()).unwrap();
    }
    take(&vcap, "us", false).unwrap().close().unwrap();
    assert_eq!(fs::read(&jobs.join("file")).unwrap(), b"theirs");
    assert!(!vcap.data().join("scratch").exists());
}

#[test]
fn older_marker_removes_nothing_older_than_the_run() {
    let (scratch, vcap) = vcap();
    let forged = scratch.path().join("forged");
    fs::write(&forged, b"").unwrap();
    let jobs = vcap.data().join("jobs");
    fs::create_dir_all(&jobs).unwrap();
    wait_for_later(&jobs);
    let born = fs::Glimpse::of(&jobs).unwrap().unwrap().born;
    if !fs::require(born.is_some(), "a file system with times of creation") {
        return;
    }
    let tree = killed(&vcap);
    let marker = tree.marker();
    drop(tree);
    let text = fs::read_lossy(&marker).unwrap() + "data/jobs\n";
    fs::write(&forged, text.as_bytes()).unwrap();
    fs::rename(&forged, &marker).unwrap();
    take(&vcap, "us", false).unwrap().close().unwrap();
    assert!(jobs.exists());
}

#[test]
fn files_mounted_over_own_files_are_unmounted_and_not_written() {
    for own in [format!("packages/{MARKER}"), format!("data/{}", lock::LOCK)] {
        let (scratch, vcap) = vcap();
        let theirs = scratch.path().join("theirs");
        fs::write(&theirs, b"#links []\ndata/theirs\n").unwrap();
        drop(killed(&vcap));
        let own = vcap.base().join(own);
        let notes = fs::read(&own).unwrap();
        if !fs::bind_file(&theirs, &own) {
            return;
        }
        let taken = take(&vcap, "us", false);
        let is_mounted = fs::is_mount_point(&own).unwrap();
        if is_mounted {
            fs::unmount(&own).unwrap();
        }
        assert!(!is_mounted, "{}", own.display());
        assert_ne!(notes, fs::read(&own).unwrap(), "a new run has written it");
        let tree = taken.unwrap();
        // Also in the run itself.
        if own == tree.marker() && fs::bind_file(&theirs, &own) {
            tree.clear_for(&names(&["next"])).unwrap();
            assert!(!fs::is_mount_point(&own).unwrap());
        }
        tree.close().unwrap();
        assert_eq!(fs::read(&theirs).unwrap(), b"#links []\ndata/theirs\n");
    }
}

#[test]
fn force_removes_nothing_behind_one_link() {
    for linked in ["packages", "data", "data/packages", "data/compile"] {
        let (scratch, vcap) = vcap();
        let theirs = older(&scratch.path().join("theirs"));
        let before = paths_in(&theirs);
        let link = vcap.base().join(linked);
        fs::create_dir_all(fs::parent(&link)).unwrap();
        fs::symlink(&theirs, &link).unwrap();
        let error = take(&vcap, "us", true).unwrap_err();
        let SandboxError::UnknownLinks { links } = &error else {
            panic!("{error}");
        };
        assert_eq!(links, &[(link, theirs.clone())]);
        assert_eq!(paths_in(&theirs), before, "{linked}");
    }
}

#[test]
fn force_removes_nothing_in_a_mounted_directory() {
    for covered in ["packages", "data/packages", "data/compile"] {
        let (scratch, vcap) = vcap();
        let theirs = older(&scratch.path().join("theirs"));
        let before = paths_in(&theirs);
        let over = vcap.base().join(covered);
        fs::create_dir_all(&over).unwrap();
        if !fs::bind_file(&theirs, &over) {
            return;
        }
        let taken = take(&vcap, "us", true);
        fs::unmount(&over).unwrap();
        let error = taken.unwrap_err();
        let named = format!("because `{}` is a mount", over.display());
        assert!(error.to_string().contains(&named), "{error}");
        assert_eq!(paths_in(&theirs), before, "{covered}");
    }
}

#[test]
fn file_in_place_of_a_directory_blocks_no_start() {
    for directory in ["packages", "data/packages", "data/compile"] {
        for has_notes in [true, false] {
            let (_scratch, vcap) = vcap();
            drop(killed(&vcap));
            let directory = vcap.base().join(directory);
            fs::remove_tree(&directory).unwrap();
            fs::write(&directory, b"").unwrap();
            if !has_notes {
                fs::remove_file(&vcap.data().join(lock::LOCK)).unwrap();
            }
            take(&vcap, "us", !has_notes).unwrap().close().unwrap();
            assert!(!directory.is_file());
        }
    }
}

#[test]
fn process_that_blocks_a_start_is_named() {
    for own in [format!("packages/{MARKER}"), format!("data/{}", lock::LOCK)] {
        let (_scratch, vcap) = vcap();
        drop(killed(&vcap));
        let own = vcap.base().join(own);
        let mut process = process::start_holder("left", &own);
        let error = take(&vcap, "us", true).unwrap_err().to_string();
        let named = format!(
            "process {} (`left`) holds a lock on `{}`",
            process.id(),
            own.display()
        );
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(error.ends_with(&named), "{error}");
        take(&vcap, "us", true).unwrap().close().unwrap();
    }
}

#[test]
fn live_run_without_its_lock_file_is_left_alone() {
    let (_scratch, vcap) = vcap();
    let live = killed(&vcap);
    let package = vcap.data_packages().join("ours");
    fs::create_dir(&package).unwrap();
    for removed in 0..2 {
        fs::remove_file(&vcap.data().join(lock::LOCK)).unwrap();
        let start = std::time::Instant::now();
        let error = take(&vcap, "another", true).unwrap_err();
        assert!(matches!(error, SandboxError::Busy { .. }), "{error}");
        assert!(start.elapsed() < PATIENCE, "{removed}");
        assert!(package.exists());
        live.clear_for(&names(&["ours"])).unwrap();
        fs::create_dir(&package).unwrap();
        fs::write(&vcap.data().join(lock::LOCK), b"").unwrap();
    }
    live.close().unwrap();
}

#[test]
fn flags_on_own_files_block_no_start() {
    for own in [
        format!("packages/{MARKER}"),
        format!("data/{}", lock::LOCK),
        "packages".to_owned(),
        "data".to_owned(),
    ] {
        let (_scratch, vcap) = vcap();
        drop(killed(&vcap));
        fs::create_dir(&vcap.data_packages().join("ours")).unwrap();
        if !fs::flag(&vcap.base().join(&own)) {
            return;
        }
        take(&vcap, "us", false).unwrap().close().unwrap();
        assert!(!vcap.data_packages().join("ours").exists(), "{own}");
    }
}

#[test]
fn temporary_files_of_an_unkillable_process_are_set_aside() {
    let (_scratch, vcap) = vcap();
    let tree = killed(&vcap);
    let temporary = tree.temporary().join("ours");
    fs::create_dir_all(&temporary).unwrap();
    let paths = PackagePaths {
        compile: vcap.compile().join("ours"),
        packages: vcap.data_packages().join("ours"),
        install: vcap.data_packages().join("ours/1"),
        link: vcap.packages().join("ours"),
    };
    fs::create_dir(&paths.compile).unwrap();
    fs::create_dir(&paths.packages).unwrap();
    let aside = tree.set_aside(&paths).unwrap();
    assert!(!temporary.exists());
    assert_eq!(fs::list(&aside).unwrap().len(), 3);
    tree.close().unwrap();
}
