use std::os::unix::fs::{lchown, symlink};
use std::time::SystemTime;

use super::*;
use crate::fs;

struct Scene {
    _scratch: tempfile::TempDir,
    tree: PathBuf,
    record: Record,
}

impl Scene {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let tree = scratch.path().join("tree");
        fs::create_dir_all(&tree.join("bin/inner")).unwrap();
        fs::write(&tree.join("bin/tool"), b"tool").unwrap();
        fs::write(&tree.join("bin/other"), b"else").unwrap();
        fs::hard_link(&tree.join("bin/tool"), &tree.join("bin/same")).unwrap();
        symlink("tool", tree.join("bin/link")).unwrap();
        fs::write(&tree.join("closed"), b"text").unwrap();
        fs::set_mode(&tree.join("closed"), 0).unwrap();
        fs::create_dir(&tree.join("locked")).unwrap();
        fs::write(&tree.join("locked/file"), b"text").unwrap();
        fs::set_mode(&tree.join("locked"), 0o111).unwrap();
        let record = Record::of(&tree).unwrap();
        Self {
            _scratch: scratch,
            tree,
            record,
        }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.tree.join(below)
    }

    fn difference(&self) -> String {
        let difference = self.record.compare(&self.tree);
        difference.map_or_else(String::new, |it| it.to_string())
    }
}

/// The difference that is reported after a change.
fn after(change: impl FnOnce(&Scene)) -> String {
    let scene = Scene::new();
    assert_eq!(scene.difference(), "");
    change(&scene);
    scene.difference()
}

/// Changes a file and restores its modification time.
fn with_old_time(path: &Path, change: impl FnOnce()) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    change();
    set_modified(path, time);
}

fn set_modified(path: &Path, time: SystemTime) {
    fs::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn all_kinds_of_changes_are_reported() {
    let tool_and_same = "`bin/same` (contents or times), `bin/tool` (contents or times)";
    assert_eq!(
        after(|it| with_old_time(&it.path("bin/tool"), || {
            fs::write(&it.path("bin/tool"), b"evil").unwrap();
        })),
        tool_and_same
    );
    assert_eq!(
        after(|it| fs::write(&it.path("bin/tool"), b"longer").unwrap()),
        "`bin/same` (contents), `bin/tool` (contents)"
    );
    assert_eq!(
        after(|it| fs::set_mode(&it.path("bin/other"), 0o4755).unwrap()),
        "`bin/other` (mode)"
    );
    assert_eq!(
        after(|it| set_modified(&it.path("bin/other"), SystemTime::UNIX_EPOCH)),
        "`bin/other` (contents or times)"
    );
    assert_eq!(
        after(|it| set_modified(&it.path("bin/inner"), SystemTime::UNIX_EPOCH)),
        "`bin/inner` (contents or times)"
    );
    assert_eq!(
        after(|it| fs::write(&it.path("bin/inner/new"), b"").unwrap()),
        "`bin/inner/new` (added)"
    );
    assert_eq!(
        after(|it| fs::remove_file(&it.path("bin/link")).unwrap()),
        "`bin` (1 entry removed)"
    );
    assert_eq!(
        after(|it| {
            fs::remove_file(&it.path("bin/other")).unwrap();
            symlink("tool", it.path("bin/other")).unwrap();
        }),
        "`bin/other` (replaced by another kind of file)"
    );
    assert_eq!(
        after(|it| {
            fs::remove_file(&it.path("bin/link")).unwrap();
            symlink("evil", it.path("bin/link")).unwrap();
        }),
        "`bin/link` (contents or times)"
    );
    assert_eq!(
        after(|it| {
            // `bin/same` was a link to `bin/tool`, and becomes a link to `bin/other`, which has the same length.
            fs::remove_file(&it.path("bin/same")).unwrap();
            fs::hard_link(&it.path("bin/other"), &it.path("bin/same")).unwrap();
        }),
        "`bin/other` (contents or times), `bin/same` (contents or times), `bin/tool` (contents or times)"
    );
    assert_eq!(
        after(|it| {
            fs::remove_tree(&it.path("bin/inner")).unwrap();
            fs::write(&it.path("new"), b"").unwrap();
        }),
        "`bin` (1 entry removed), `new` (added)"
    );
    assert_eq!(
        after(|it| fs::remove_tree(&it.tree).unwrap()),
        "`.` (No such file or directory (os error 2))"
    );
}

#[test]
fn change_of_owner_is_reported() {
    if !fs::require_root() {
        return;
    }
    assert_eq!(
        after(|it| lchown(it.path("bin/link"), None, Some(12_345)).unwrap()),
        "`bin/link` (owner)"
    );
    assert_eq!(
        after(|it| lchown(it.path("locked"), Some(12_345), None).unwrap()),
        "`locked` (owner)"
    );
}

#[test]
fn temporary_change_of_mode_is_not_reported() {
    let opened_briefly = |it: &Scene, below: &str, mode| {
        fs::set_mode(&it.path(below), 0o700).unwrap();
        fs::set_mode(&it.path(below), mode).unwrap();
    };
    assert_eq!(
        after(|it| {
            opened_briefly(it, "closed", 0);
            opened_briefly(it, "locked", 0o111);
        }),
        ""
    );
    assert_eq!(
        after(|it| {
            fs::set_mode(&it.path("closed"), 0o600).unwrap();
            with_old_time(&it.path("closed"), || {
                fs::write(&it.path("closed"), b"evil").unwrap();
            });
            fs::set_mode(&it.path("closed"), 0).unwrap();
        }),
        "`closed` (contents or times)"
    );
    assert_eq!(
        after(|it| {
            fs::set_mode(&it.path("locked"), 0o700).unwrap();
            with_old_time(&it.path("locked"), || {
                fs::rename(&it.path("locked/file"), &it.path("locked/moved")).unwrap();
            });
            fs::set_mode(&it.path("locked"), 0o111).unwrap();
        }),
        "`locked` (1 entry removed), `locked/moved` (added)"
    );
}

#[test]
fn removal_of_a_name_outside_the_tree_is_not_reported() {
    let scene = Scene::new();
    let outside = scene._scratch.path().join("outside");
    fs::hard_link(&scene.path("bin/other"), &outside).unwrap();
    let record = Record::of(&scene.tree).unwrap();
    fs::remove_file(&outside).unwrap();
    assert_eq!(record.compare(&scene.tree), None);
    with_old_time(&scene.path("bin/other"), || {
        fs::write(&scene.path("bin/other"), b"evil").unwrap();
    });
    let difference = record.compare(&scene.tree).unwrap();
    assert_eq!(difference.to_string(), "`bin/other` (contents or times)");
}

#[test]
fn further_changes_are_counted() {
    let scene = Scene::new();
    for number in 0..8 {
        fs::write(&scene.path(&format!("new-{number}")), b"").unwrap();
    }
    let difference = scene.record.compare(&scene.tree).unwrap();
    assert_eq!((difference.changes.len(), difference.others), (5, 3));
    assert!(
        difference
            .to_string()
            .ends_with("`new-4` (added) and 3 more")
    );
}

#[test]
fn change_immediately_after_the_record_is_reported() {
    for _ in 0..50 {
        let scene = Scene::new();
        fs::write(&scene.path("bin/other"), b"evil").unwrap();
        assert_eq!(scene.difference(), "`bin/other` (contents or times)");
    }
}

#[test]
fn deep_trees_are_recorded() {
    let scratch = fs::scratch_for_deep_trees();
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::make_deep(&tree, 5_000);
    let record = Record::of(&tree).unwrap();
    assert_eq!(record.compare(&tree), None);
    fs::remove_tree(&tree).unwrap();
}
