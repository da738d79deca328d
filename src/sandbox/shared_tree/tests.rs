use super::*;

fn vcap() -> (tempfile::TempDir, Vcap) {
    let scratch = tempfile::tempdir().unwrap();
    let vcap = Vcap::new(&scratch.path().join("vcap"));
    (scratch, vcap)
}

fn take(vcap: &Vcap, who: &str, force: bool) -> Result<SharedTree, SandboxError> {
    SharedTree::take(vcap, who, force, &|| false)
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

#[test]
fn nothing_is_removed_through_a_link_of_a_killed_run() {
    for linked in ["packages", "data", "data/packages", "data/compile"] {
        let (scratch, vcap) = vcap();
        let theirs = scratch.path().join("theirs");
        for directory in ["ours", "packages/ours", "compile/ours"] {
            fs::create_dir_all(&theirs.join(directory)).unwrap();
        }
        let killed = take(&vcap, "us", false).unwrap();
        killed.clear_for(&names(&["ours"])).unwrap();
        drop(killed);
        let (path, moved) = (vcap.base().join(linked), scratch.path().join("moved"));
        fs::rename(&path, &moved).unwrap();
        fs::symlink(&theirs, &path).unwrap();
        match take(&vcap, "us", false) {
            Ok(tree) => tree.close().unwrap(),
            Err(error) => assert!(error.to_string().contains("did not put there"), "{error}"),
        }
        for directory in ["ours", "packages/ours", "compile/ours"] {
            assert!(theirs.join(directory).exists(), "{linked} {directory}");
        }
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
