//! File systems over the tree's directories after a run was killed: those of its script, and those of the machine that were exchanged.

use std::os::unix::fs::MetadataExt;

use super::*;

/// Unmounts what is mounted at a path.
struct Mounted(PathBuf);

impl Mounted {
    fn memory(at: PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        fs::mount_memory(&at).then_some(Self(at))
    }

    fn overlay(parts: &Path, at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        fs::mount_overlay(parts, at).then(|| Self(at.to_owned()))
    }

    fn bound(directory: &Path, at: &Path) -> Option<Self> {
        fs::create_dir_all(directory).unwrap();
        fs::create_dir_all(at).unwrap();
        fs::bind_file(directory, at).then(|| Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = fs::unmount(&self.0);
    }
}

fn killed(vcap: &Vcap) {
    let killed = take(vcap, "us", false).unwrap();
    killed.clear_for(&names(&["ours"])).unwrap();
    killed.share(&names(&["shared"])).unwrap();
}

fn id(path: &Path) -> (u64, u64) {
    let found = fs::metadata(path).unwrap();
    (found.dev(), found.ino())
}

/// A new directory in an empty file system in memory that has this inode.
fn with_inode(wanted: u64, above: &Path) -> Option<PathBuf> {
    let mut numbers = (0..wanted).map(|number| above.join(number.to_string()));
    numbers.find(|path| {
        fs::create_dir(path).unwrap();
        id(path).1 == wanted
    })
}

#[test]
fn directory_with_the_same_inode_on_another_device_is_unmounted() {
    let scratch = tempfile::tempdir().unwrap();
    let memory = ["own", "other"].map(|name| Mounted::memory(scratch.path().join(name)));
    let [Some(own), Some(other)] = memory else {
        return;
    };
    let vcap = Vcap::new(&own.0.join("vcap"));
    killed(&vcap);
    let theirs = with_inode(id(&vcap.compile()).1, &other.0);
    if !fs::require(
        theirs.is_some(),
        "file systems that number their files from 1",
    ) {
        return;
    }
    let theirs = theirs.unwrap();
    fs::create_dir(&theirs.join("ours")).unwrap();
    let _over = Mounted::bound(&theirs, &vcap.compile()).unwrap();
    let taken = take(&vcap, "us", false);
    assert!(theirs.join("ours").exists());
    assert_ne!(id(&vcap.compile()), id(&theirs));
    taken.unwrap().close().unwrap();
}

#[test]
fn exchanged_volumes_stay_mounted_and_keep_their_files() {
    for directory in ["data", "packages", "data/packages", "data/compile"] {
        let (scratch, vcap) = vcap();
        let [old, new] = ["old", "new"].map(|name| scratch.path().join(name));
        let at = vcap.base().join(directory);
        let Some(volume) = Mounted::bound(&old, &at) else {
            return;
        };
        killed(&vcap);
        drop(volume);
        // What the killed run has noted, but in another volume.
        let theirs = new.join("shared");
        if directory == "data" {
            fs::create_dir_all(&theirs).unwrap();
        }
        let _volume = Mounted::bound(&new, &at).unwrap();
        SharedTree::check_data(&vcap, &|it| vec![Response::Responds; it.len()]).unwrap();
        let tree = take(&vcap, "us", false).unwrap();
        assert_eq!(id(&at), id(&new), "{directory}");
        tree.close().unwrap();
        assert_eq!(id(&at), id(&new), "{directory}");
        assert_eq!(theirs.exists(), directory == "data", "{directory}");
    }
}

#[test]
fn volume_that_is_mounted_again_still_belongs_to_the_tree() {
    for directory in ["data", "packages", "data/packages", "data/compile"] {
        // An overlay gets a new device number, as NFS and Btrfs do.
        let memory = tempfile::tempdir().unwrap();
        let Some(memory) = Mounted::memory(memory.path().join("parts")) else {
            return;
        };
        let (scratch, vcap) = vcap();
        let at = vcap.base().join(directory);
        let Some(volume) = Mounted::overlay(&memory.0, &at) else {
            return;
        };
        killed(&vcap);
        let left = vcap.data_packages().join("ours");
        fs::create_dir_all(&left).unwrap();
        let before = id(&at);
        drop(volume);
        // Has the number that is free now.
        let _other = Mounted::memory(scratch.path().join("other")).unwrap();
        let _volume = Mounted::overlay(&memory.0, &at).unwrap();
        let now = id(&at);
        assert!(now.0 != before.0 && now.1 == before.1, "{before:?} {now:?}");
        SharedTree::check_data(&vcap, &|it| vec![Response::Responds; it.len()]).unwrap();
        let tree = take(&vcap, "us", false).unwrap();
        assert!(!left.exists(), "{directory}");
        assert_eq!(id(&at), now, "{directory}");
        tree.close().unwrap();
    }
}

#[test]
fn mount_over_a_volume_is_unmounted() {
    for directory in ["packages", "data/packages", "data/compile"] {
        let (scratch, vcap) = vcap();
        let [volume, theirs] = ["volume", "theirs"].map(|name| scratch.path().join(name));
        let at = vcap.base().join(directory);
        let Some(_volume) = Mounted::bound(&volume, &at) else {
            return;
        };
        killed(&vcap);
        fs::create_dir_all(&theirs.join("ours")).unwrap();
        let _over = Mounted::bound(&theirs, &at).unwrap();
        take(&vcap, "us", false).unwrap().close().unwrap();
        assert_eq!(id(&at), id(&volume), "{directory}");
        assert!(theirs.join("ours").exists(), "{directory}");
    }
}

#[test]
fn silent_data_is_an_error_even_if_packages_are_silent_too() {
    let (_scratch, vcap) = vcap();
    fs::create_dir_all(vcap.base()).unwrap();
    fs::symlink(Path::new("nowhere"), &vcap.packages()).unwrap();
    let silent: Responses<'_> = &|asked| vec![Response::Gone; asked.len()];
    let found = SharedTree::check_data(&vcap, silent).unwrap();
    assert_eq!(found.len(), 1);
    fs::symlink(Path::new("nowhere"), &vcap.data()).unwrap();
    let error = SharedTree::check_data(&vcap, silent).unwrap_err();
    let SandboxError::SilentMount { directory, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(directory, vcap.data());
}
