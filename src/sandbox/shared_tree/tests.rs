use super::*;
use crate::config::PackagePaths;
use crate::process;
use crate::sandbox::path_lookup::Response;

mod forged;
mod volumes;

fn vcap() -> (tempfile::TempDir, Vcap) {
    let scratch = tempfile::tempdir().unwrap();
    let vcap = Vcap::new(&scratch.path().join("vcap"));
    (scratch, vcap)
}

fn take(vcap: &Vcap, who: &str, removes_foreign: bool) -> Result<SharedTree, SandboxError> {
    SharedTree::take(vcap, who, removes_foreign, &|| false)
}

fn names(names: &[&str]) -> Vec<Name> {
    names
        .iter()
        .map(|name| Name::parse(name).unwrap())
        .collect()
}

#[test]
fn tree_that_did_not_exist_is_removed() {
    let (scratch, vcap) = vcap();
    let tree = take(&vcap, "pid 1", false).unwrap();
    fs::create_dir_all(&vcap.data_packages().join("a/b")).unwrap();
    fs::symlink(Path::new("nowhere"), &vcap.packages().join("a")).unwrap();
    tree.close().unwrap();
    assert!(fs::list(scratch.path()).unwrap().is_empty());
}

#[test]
fn existing_files_stay() {
    let (_scratch, vcap) = vcap();
    fs::create_dir_all(&vcap.data()).unwrap();
    fs::write(&vcap.data().join("theirs"), b"").unwrap();
    take(&vcap, "pid 1", false).unwrap().close().unwrap();
    assert_eq!(fs::list(&vcap.data()).unwrap().len(), 1);
    assert_eq!(fs::list(vcap.base()).unwrap().len(), 1);
}

#[test]
fn second_run_reports_the_holder_of_the_lock() {
    let (_scratch, vcap) = vcap();
    let first = take(&vcap, "process 42 on ci", false).unwrap();
    let error = take(&vcap, "another", false).unwrap_err();
    assert!(error.to_string().contains("process 42 on ci"), "{error}");
    first.close().unwrap();
    take(&vcap, "another", false).unwrap();
}

#[test]
fn packages_of_others_are_removed_only_with_force() {
    for directory in ["packages", "data/packages", "data/compile"] {
        let (_scratch, vcap) = vcap();
        let theirs = vcap.base().join(directory).join("theirs");
        fs::create_dir_all(&theirs).unwrap();
        let error = take(&vcap, "us", false).unwrap_err();
        assert!(error.to_string().contains("theirs"), "{error}");
        assert!(error.hint().unwrap().contains("--force"));
        assert!(theirs.exists());
        let tree = take(&vcap, "us", true).unwrap();
        assert!(!theirs.exists());
        tree.close().unwrap();
    }
}

#[test]
fn next_run_removes_exactly_what_a_killed_one_left() {
    let (_scratch, vcap) = vcap();
    let killed = take(&vcap, "us", false).unwrap();
    killed
        .clear_for(&names(&["ours", "its-dependency"]))
        .unwrap();
    for name in ["ours", "its-dependency"] {
        fs::create_dir_all(&vcap.data_packages().join(name).join("1")).unwrap();
    }
    drop(killed);
    take(&vcap, "us", false).unwrap().close().unwrap();

    let killed = take(&vcap, "us", false).unwrap();
    killed.clear_for(&names(&["ours"])).unwrap();
    drop(killed);
    let theirs = vcap.data_packages().join("theirs");
    fs::create_dir_all(&theirs).unwrap();
    let error = take(&vcap, "us", false).unwrap_err();
    assert!(error.to_string().contains("theirs"), "{error}");
    assert!(theirs.exists());
}

#[test]
fn additional_directories_of_a_killed_script_are_removed() {
    let (_scratch, vcap) = vcap();
    let killed = take(&vcap, "us", false).unwrap();
    killed.clear_for(&names(&["ours"])).unwrap();
    fs::create_dir(&vcap.compile().join("extra")).unwrap();
    let marker = fs::open(&killed.marker()).unwrap();
    marker.set_modified(std::time::SystemTime::now()).unwrap();
    drop(killed);
    take(&vcap, "us", false).unwrap().close().unwrap();
}

/// A tree of a killed run whose script has replaced a directory, or the marker, with a link to `theirs`.
fn replace_in_killed_run(vcap: &Vcap, linked: &str, theirs: &Path) {
    let killed = take(vcap, "us", false).unwrap();
    killed.clear_for(&names(&["ours"])).unwrap();
    drop(killed);
    let path = vcap.base().join(linked);
    if fs::lookup(&path).unwrap().is_some() {
        fs::rename(&path, &fs::parent(theirs).join("moved")).unwrap();
    }
    fs::symlink(theirs, &path).unwrap();
}

/// All files in a tree, with their times.
fn snapshot(tree: &Path) -> Vec<(PathBuf, std::time::SystemTime)> {
    let mut found = Vec::new();
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        found.push((
            directory.clone(),
            fs::metadata(&directory).unwrap().modified().unwrap(),
        ));
        for entry in fs::list(&directory).unwrap() {
            match entry.file_type().unwrap().is_dir() {
                true => directories.push(entry.path()),
                false => found.push((entry.path(), entry.metadata().unwrap().modified().unwrap())),
            }
        }
    }
    found
}

#[test]
fn link_of_a_killed_run_is_never_followed() {
    for linked in [
        "packages",
        "data",
        "data/packages",
        "data/compile",
        "data/.bosh-agent-tmp",
    ] {
        for contents in [&[][..], &["ours", "packages/ours", "compile/ours"]] {
            let (scratch, vcap) = vcap();
            let theirs = scratch.path().join("theirs");
            fs::create_dir(&theirs).unwrap();
            for directory in contents {
                fs::create_dir_all(&theirs.join(directory)).unwrap();
            }
            replace_in_killed_run(&vcap, linked, &theirs);
            let before = snapshot(&theirs);
            match take(&vcap, "us", false) {
                Ok(tree) => {
                    let found = fs::lookup(&vcap.base().join(linked)).unwrap();
                    assert!(found.is_none_or(|found| found.is_dir()), "{linked}");
                    tree.close().unwrap();
                }
                Err(error) => {
                    assert!(matches!(error, SandboxError::LeftLink { .. }), "{error}");
                    assert_eq!(linked, "data");
                }
            }
            assert_eq!(snapshot(&theirs), before, "{linked}");
        }
    }
}

#[test]
fn lock_file_with_another_name_is_not_written() {
    let (scratch, vcap) = vcap();
    let theirs = scratch.path().join("theirs");
    fs::write(
        &theirs,
        b"their text, which is longer than a line of notes\n",
    )
    .unwrap();
    fs::create_dir_all(&vcap.data()).unwrap();
    fs::hard_link(&theirs, &vcap.data().join(lock::LOCK)).unwrap();
    let tree = take(&vcap, "us", false).unwrap();
    tree.clear_for(&names(&["ours"])).unwrap();
    tree.close().unwrap();
    let found = fs::read_lossy(&theirs).unwrap();
    assert_eq!(found, "their text, which is longer than a line of notes\n");
}

#[test]
fn packages_of_a_killed_run_are_removed_without_its_marker() {
    let break_marker: [fn(&Vcap); 4] = [
        |vcap| fs::remove_tree(&vcap.packages()).unwrap(),
        |vcap| {
            let theirs = vcap.base().with_file_name("theirs");
            fs::create_dir_all(&theirs.join("ours")).unwrap();
            fs::remove_tree(&vcap.packages()).unwrap();
            fs::symlink(&theirs, &vcap.packages()).unwrap();
        },
        |vcap| {
            let marker = vcap.packages().join(MARKER);
            fs::remove_file(&marker).unwrap();
            fs::create(&marker).unwrap().set_len(1 << 40).unwrap();
        },
        |vcap| {
            let marker = vcap.packages().join(MARKER);
            let theirs = vcap.base().with_file_name("theirs");
            fs::write(&theirs, b"#links []\ndata/theirs\n").unwrap();
            fs::remove_file(&marker).unwrap();
            fs::hard_link(&theirs, &marker).unwrap();
        },
    ];
    for break_marker in break_marker {
        let (scratch, vcap) = vcap();
        fs::create_dir_all(&vcap.data().join("theirs")).unwrap();
        let killed = take(&vcap, "a run with a long name", false).unwrap();
        killed.clear_for(&names(&["ours"])).unwrap();
        killed.share(&names(&["scratch"])).unwrap();
        for directory in [vcap.data_packages(), vcap.compile()] {
            fs::create_dir_all(&directory.join("ours/1")).unwrap();
        }
        drop(killed);
        break_marker(&vcap);
        let theirs = scratch.path().join("theirs");
        let before = fs::lookup(&theirs).unwrap().map(|_| snapshot_of(&theirs));
        take(&vcap, "us", false).unwrap().close().unwrap();
        let after = fs::lookup(&theirs).unwrap().map(|_| snapshot_of(&theirs));
        assert_eq!(after, before);
        for own in [vcap.data_packages(), vcap.compile()] {
            assert!(fs::list(&own).unwrap().is_empty());
        }
        assert!(vcap.data().join("theirs").is_dir());
        assert!(!vcap.data().join("scratch").exists());
    }
}

#[test]
fn nothing_behind_links_in_both_places_is_removed() {
    let (scratch, vcap) = vcap();
    let theirs = scratch.path().join("theirs");
    for name in ["ours", "packages/ours", "compile/ours"] {
        fs::create_dir_all(&theirs.join(name)).unwrap();
    }
    let before = |tree: &Path| -> Vec<PathBuf> {
        snapshot(tree).into_iter().map(|(path, _)| path).collect()
    };
    let (files, killed) = (before(&theirs), take(&vcap, "us", false).unwrap());
    killed.clear_for(&names(&["ours"])).unwrap();
    for directory in [vcap.packages(), vcap.data()] {
        let name = fs::file_name(&directory).to_owned();
        fs::rename(&directory, &scratch.path().join(name)).unwrap();
        fs::symlink(&theirs, &directory).unwrap();
    }
    let error = killed.check().unwrap_err().to_string();
    for directory in [vcap.packages(), vcap.data()] {
        let named = format!("`{}`, which leads to", directory.display());
        assert!(error.contains(&named), "{error}");
    }
    assert!(!error.contains("compile"), "{error}");
    drop(killed);
    let foreign = take(&vcap, "us", false).unwrap_err();
    assert!(matches!(foreign, SandboxError::Foreign { .. }), "{foreign}");
    let forced = take(&vcap, "us", true).unwrap_err();
    assert!(
        matches!(forced, SandboxError::UnknownLinks { .. }),
        "{forced}"
    );
    assert_eq!(before(&theirs), files);
    for directory in [vcap.packages(), vcap.data()] {
        fs::remove_file(&directory).unwrap();
    }
    take(&vcap, "us", false).unwrap().close().unwrap();
}

/// All files in a tree, or one file, with their times.
fn snapshot_of(path: &Path) -> Vec<(PathBuf, std::time::SystemTime)> {
    match fs::metadata(path).unwrap() {
        found if found.is_dir() => snapshot(path),
        found => vec![(path.to_owned(), found.modified().unwrap())],
    }
}

#[test]
fn links_in_the_places_of_own_files_are_replaced() {
    for own in [format!("packages/{MARKER}"), format!("data/{}", lock::LOCK)] {
        let (scratch, vcap) = vcap();
        let theirs = scratch.path().join("theirs");
        fs::write(&theirs, b"theirs").unwrap();
        replace_in_killed_run(&vcap, &own, &theirs);
        let tree = take(&vcap, "us", false).unwrap();
        assert_eq!(fs::read(&theirs).unwrap(), b"theirs", "{own}");
        // Also in the run itself.
        if own.starts_with("packages") {
            fs::remove_file(&tree.marker()).unwrap();
            fs::symlink(&theirs, &tree.marker()).unwrap();
            tree.clear_for(&names(&["ours"])).unwrap();
            fs::remove_file(&tree.marker()).unwrap();
            fs::symlink(&theirs, &tree.marker()).unwrap();
            tree.share(&names(&["scratch"])).unwrap();
            assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
        }
        tree.close().unwrap();
    }
}

#[test]
fn links_of_the_machine_stay() {
    for linked in ["packages", "data", "data/packages"] {
        let (scratch, vcap) = vcap();
        let disk = scratch.path().join("disk");
        fs::create_dir(&disk).unwrap();
        let link = vcap.base().join(linked);
        fs::create_dir_all(fs::parent(&link)).unwrap();
        fs::symlink(&disk, &link).unwrap();
        for _ in 0..2 {
            let killed = take(&vcap, "us", false).unwrap();
            killed.clear_for(&names(&["ours"])).unwrap();
            fs::create_dir(&vcap.data_packages().join("ours")).unwrap();
            drop(killed);
        }
        let tree = take(&vcap, "us", false).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), disk, "{linked}");
        tree.close().unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), disk, "{linked}");
        assert!(!vcap.data_packages().join("ours").exists(), "{linked}");
    }
}

#[test]
fn script_can_remove_the_directories() {
    let (_scratch, vcap) = vcap();
    let tree = take(&vcap, "us", false).unwrap();
    fs::remove_tree(&vcap.packages()).unwrap();
    tree.clear_for(&names(&["next"])).unwrap();
    assert!(tree.marker().exists());
    tree.close().unwrap();
}

#[test]
fn scratch_of_the_run_is_removed_and_existing_directories_stay() {
    let (_scratch, vcap) = vcap();
    let theirs = vcap.data().join("theirs");
    fs::create_dir_all(&theirs).unwrap();
    let killed = take(&vcap, "us", false).unwrap();
    killed.share(&names(&["ours", "theirs", "tmp"])).unwrap();
    killed.clear_for(&names(&["package"])).unwrap();
    fs::write(&vcap.data().join("ours/file"), b"").unwrap();
    assert!(!vcap.data().join("tmp").exists());
    drop(killed);

    let tree = take(&vcap, "us", false).unwrap();
    assert!(!vcap.data().join("ours").exists());
    tree.share(&names(&["ours", "theirs"])).unwrap();
    fs::write(&vcap.data().join("ours/file"), b"").unwrap();
    assert!(tree.discard_scratch().unwrap());
    assert!(!tree.discard_scratch().unwrap());
    tree.share(&names(&["ours"])).unwrap();
    tree.close().unwrap();
    assert!(!vcap.data().join("ours").exists());
    assert!(theirs.exists());
}

#[test]
fn kept_scratch_is_linked_and_stays() {
    let (scratch, vcap) = vcap();
    let kept = scratch.path().join("kept");
    let opened = || Scratch::open(&crate::sandbox::Sharing::Kept(kept.clone()), &[]).unwrap();
    let killed = take(&vcap, "us", false).unwrap().with_scratch(opened());
    killed.share(&names(&["a"])).unwrap();
    fs::write(&vcap.data().join("a/file"), b"").unwrap();
    drop(killed);
    let tree = take(&vcap, "us", false).unwrap();
    assert!(fs::lookup(&vcap.data().join("a")).unwrap().is_none());
    let tree = tree.with_scratch(opened());
    tree.share(&names(&["a"])).unwrap();
    assert!(vcap.data().join("a/file").exists());
    tree.close().unwrap();
    assert!(fs::lookup(&vcap.data().join("a")).unwrap().is_none());
    assert!(kept.join("a/file").exists());
}

#[test]
fn link_of_the_machine_survives_a_start_that_was_killed() {
    let (scratch, vcap) = vcap();
    let disk = scratch.path().join("disk");
    fs::create_dir(&disk).unwrap();
    fs::create_dir(vcap.base()).unwrap();
    fs::symlink(&disk, &vcap.packages()).unwrap();
    let (lock, notes) = lock::lock(&vcap, "us", &mut MadeDirectories::default()).unwrap();
    assert_eq!(notes.text, "");
    drop(lock);
    take(&vcap, "us", false).unwrap().close().unwrap();
    assert_eq!(fs::read_link(&vcap.packages()).unwrap(), disk);
}

#[test]
fn anything_in_the_place_of_the_lock_file_is_replaced() {
    let put: [fn(&Path); 4] = [
        |path| fs::make_fifo(path).unwrap(),
        |path| fs::create_dir_all(&path.join("directory")).unwrap(),
        |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
        |path| fs::create(path).unwrap().set_len(1 << 36).unwrap(),
    ];
    for put in put {
        let (_scratch, vcap) = vcap();
        fs::create_dir_all(&vcap.data()).unwrap();
        let path = vcap.data().join(lock::LOCK);
        put(&path);
        SharedTree::check_data(&vcap, &|it| vec![Response::Responds; it.len()]).unwrap();
        let tree = take(&vcap, "us", false).unwrap();
        let found = fs::lookup(&path).unwrap().unwrap();
        assert!(found.is_file() && found.len() < 1000, "{found:?}");
        tree.close().unwrap();
    }
}

#[test]
fn lock_file_is_written_in_place_and_only_if_necessary() {
    let (scratch, _vcap) = vcap();
    let path = scratch.path().join("lock");
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let mut file = fs::open_with(&options, &path).unwrap();
    let notes = "#links []\nours\n";
    lock::write(&mut file, "a run with a long name", notes).unwrap();
    lock::write(&mut file, "a run", notes).unwrap();
    lock::append(&file, "data/ours\n").unwrap();
    let written = b"a run\n#links []\nours\ndata/ours\n";
    assert_eq!(fs::read(&path).unwrap(), written);
    let mut unwritable = fs::open(&path).unwrap();
    let notes = format!("{notes}data/ours\n");
    lock::write(&mut unwritable, "a run", &notes).unwrap();
    lock::write(&mut unwritable, "another run", &notes).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), written);
}

#[test]
fn failed_start_keeps_what_a_killed_run_noted() {
    let (scratch, vcap) = vcap();
    let theirs = scratch.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    let killed = take(&vcap, "us", false).unwrap();
    let marker = killed.marker();
    drop(killed);
    let mut process = process::start_holder("sandbox-child", &marker);
    for _ in 0..2 {
        let stopped = SharedTree::take(&vcap, "us", false, &|| true).unwrap_err();
        assert!(
            stopped
                .to_string()
                .ends_with("processes of a run that was killed"),
            "{stopped}"
        );
        assert!(marker.exists());
        assert_eq!(lock::noted_links(&vcap), Some(Links::default()));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    fs::rename(&vcap.packages(), &scratch.path().join("moved")).unwrap();
    fs::symlink(&theirs, &vcap.packages()).unwrap();
    take(&vcap, "us", false).unwrap().close().unwrap();
    assert!(fs::lookup(&vcap.packages()).unwrap().is_none());
    assert!(fs::list(&theirs).unwrap().is_empty());
}

#[test]
fn start_does_not_wait_for_the_removal_of_what_was_set_aside() {
    let (_scratch, vcap) = vcap();
    let left = vcap
        .data()
        .join(format!("{}1-2/tree/file", aside::SET_ASIDE));
    fs::create_dir_all(fs::parent(&left)).unwrap();
    fs::write(&left, b"").unwrap();
    let theirs = vcap.data().join("theirs");
    fs::create_dir(&theirs).unwrap();
    let tree = take(&vcap, "us", false).unwrap();
    assert!(tree.removals.has_begun());
    tree.close().unwrap();
    assert!(!left.exists() && theirs.exists());
    assert_eq!(fs::list(&vcap.data()).unwrap().len(), 1);
}

#[test]
fn start_that_cannot_remove_a_file_leaves_no_lock_file() {
    let (_scratch, vcap) = vcap();
    fs::create_dir_all(&vcap.data()).unwrap();
    fs::write(&vcap.packages(), b"").unwrap();
    if !fs::mount_read_only(vcap.base(), &vcap.data()) {
        return;
    }
    let taken = take(&vcap, "us", true);
    let left = fs::list(&vcap.data());
    fs::unmount(vcap.base()).unwrap();
    let error = taken.unwrap_err();
    assert!(matches!(error, SandboxError::Files(_)), "{error}");
    assert!(left.unwrap().is_empty());
}

#[test]
fn marker_is_not_written_through_links_or_into_fifos() {
    let (scratch, _vcap) = vcap();
    let (theirs, link, fifo) = (
        scratch.path().join("theirs"),
        scratch.path().join("link"),
        scratch.path().join("fifo"),
    );
    fs::write(&theirs, b"theirs").unwrap();
    fs::symlink(&theirs, &link).unwrap();
    fs::make_fifo(&fifo).unwrap();
    for path in [link, fifo] {
        marker::open(&path).unwrap();
        assert!(fs::lookup(&path).unwrap().unwrap().is_file());
    }
    assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
}

#[test]
fn marker_behind_a_new_link_is_not_believed() {
    let (scratch, vcap) = vcap();
    let theirs = scratch.path().join("theirs");
    let disk = scratch.path().join("disk");
    fs::create_dir(&theirs).unwrap();
    fs::create_dir(&disk).unwrap();
    fs::create_dir(vcap.base()).unwrap();
    fs::symlink(&disk, &vcap.data()).unwrap();
    fs::write(&theirs.join(MARKER), b"#links []\n").unwrap();
    replace_in_killed_run(&vcap, "packages", &theirs);
    take(&vcap, "us", false).unwrap().close().unwrap();
    assert_eq!(fs::read_link(&vcap.data()).unwrap(), disk);
    assert_eq!(fs::read(&theirs.join(MARKER)).unwrap(), b"#links []\n");
}
