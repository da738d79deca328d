//! Scripts that change installed packages, in each isolation tier. Later dependents get the original content, and a warning lists the
//! changes and the scripts that ran in the meantime.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::{
    LANDLOCK, LANDLOCK_OF_A_USER, NAMESPACE, NONE, NONE_OF_A_USER, Place, ReleaseBuilder, Running,
    STEMCELL, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT, in_tiers, wait_for,
};

const LIMIT: Duration = Duration::from_secs(60);

in_tiers!(later_dependents_get_the_original_content: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK LANDLOCK_OF_A_USER NONE NONE_OF_A_USER);

/// Installs a file with known content.
const LIB: &str = "set -e; umask 022; echo good > $BOSH_INSTALL_TARGET/file; echo same > $BOSH_INSTALL_TARGET/other";

/// Copies the file in a dependent.
const APP: &str = "set -e; cp @packages@/lib/file $BOSH_INSTALL_TARGET/; stat -c %a @packages@/lib/file > $BOSH_INSTALL_TARGET/mode";

/// Waits until the test has written the path of `lib`'s sealed tree. If the path is hidden by mounts, tries to unmount them.
const REACH: &str = "touch $FACTS/waits; until [ -s $FACTS/tree ]; do sleep 0.01; done; tree=$(cat $FACTS/tree)\n\
                     work=${tree%/store/*}; umount -l $work 2>/dev/null\n";

/// Changes the file without changing its length and time, or only its mode if rules allow no more. Waits until the test has checked the
/// result.
const CHANGE: &str = "touch -r $tree/file $FACTS/time\n\
                      echo evil > $tree/file || chmod 0700 $tree/file\n\
                      touch -r $FACTS/time $tree/file\n\
                      touch $FACTS/tried; until [ -e $FACTS/go ]; do sleep 0.01; done\n";
in_tiers!(package_that_is_changed_before_packing_fails: NAMESPACE USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(changed_blob_is_not_used: NAMESPACE LANDLOCK NONE);
in_tiers!(changed_tree_of_an_earlier_run_is_installed_again: NAMESPACE LANDLOCK NONE);
in_tiers!(second_run_may_change_contents: LANDLOCK);
in_tiers!(source_that_is_changed_before_unpacking_fails: NONE);
in_tiers!(changed_copy_is_replaced: LANDLOCK LANDLOCK_OF_A_USER);
in_tiers!(tree_that_is_changed_in_use_fails_the_package: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);
in_tiers!(copy_that_is_changed_in_use_is_reported: LANDLOCK LANDLOCK_OF_A_USER NONE);
in_tiers!(copy_in_use_can_be_changed_until_its_users_end: NONE NONE_OF_A_USER);

mod bodies {
    use super::*;

    pub(super) fn later_dependents_get_the_original_content(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let running = site.start(&with_evil(CHANGE));
        wait_for_lib(&running);
        site.let_script_change("lib");
        running
            .end()
            .succeeds()
            .says("Warning: the files of package lib were changed after it was installed: `file` (")
            .says("It is reinstalled from its compiled package.\nSince its last check, the packaging script of `evil` ran");
        assert_eq!(site.place.file("app", "file"), "100644 good\n");
        assert_eq!(site.place.file("app", "mode"), "100644 644\n");
        assert_eq!(site.place.file("lib", "file"), "100644 good\n");
    }

    pub(super) fn package_that_is_changed_before_packing_fails(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        // Packing takes some time.
        let large = format!("{LIB}; head -c 200M /dev/urandom > $BOSH_INSTALL_TARGET/large");
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("evil", &[], &format!("{REACH}{CHANGE}"))
            .package("lib", &[], &large)
            .package("app", &["lib", "evil"], APP);
        let running = site.start_with(&release, &["--jobs", "2"]);
        let blob = site.work().join("blobs/0/lib.tgz");
        wait_for("the begin of packing", LIMIT, || {
            let is_sealed = blob.exists() && site.tree("lib").is_some();
            is_sealed.then_some(()).ok_or_else(|| running.stderr())
        });
        site.let_script_change("lib");
        running
            .end()
            .fails()
            .says("Error: failed to compile package lib/")
            .says("the files of package `lib` were changed after it was installed: `file` (")
            .says("Hint: since its last check, the packaging script of `evil` ran")
            .does_not_say("Finished compiling release lib/");
        assert!(!site.place.world.result("demo-1.10").exists());
    }

    pub(super) fn source_that_is_changed_before_unpacking_fails(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let work = place.world.path("work");
        let evil = format!(
            "set -e; cd {}; for blob in $(find . -path '*/spool/*' -type f); do touch -r $blob $FACTS/time; \
             printf x | dd of=$blob bs=1 seek=20 conv=notrunc; touch -r $FACTS/time $blob; done",
            work.display()
        );
        let release = place.release(
            &ReleaseBuilder::new("demo", "1.10")
                .package("evil", &[], &evil)
                .package("app", &["evil"], "touch $FACTS/ran"),
        );
        place
            .agent()
            .arg("--work-dir")
            .arg(&work)
            .arg(release)
            .run()
            .blames_the_machine()
            .says("Error: failed to compile package app/")
            .says("the blob of package `app` was changed after it had been verified: `")
            .says("expected the sha256 digest");
        assert!(!place.world.path("facts/ran").exists());
    }

    pub(super) fn changed_blob_is_not_used(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let running = site.start(&with_evil(CHANGE));
        wait_for_lib(&running);
        let blob = site.work().join("blobs/0/lib.tgz");
        let mut bytes = std::fs::read(&blob).unwrap();
        bytes.push(0);
        std::fs::write(&blob, bytes).unwrap();
        site.let_script_change("lib");
        running
            .end()
            .fails()
            .says("Error: failed to compile package app/")
            .says("the files of package `lib` were changed after it was installed: `file` (")
            .says("blobs/0/lib.tgz` has also changed: expected the sha256 digest");
    }

    pub(super) fn changed_tree_of_an_earlier_run_is_installed_again(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let release = ReleaseBuilder::new("demo", "1.10")
            .compiled("lib", &[], STEMCELL, ("file", b"good\n"))
            .package("evil", &[], &format!("{REACH}{CHANGE}"))
            .package("app", &["lib", "evil"], APP);
        // One after another: the script starts when the tree has been recorded.
        let running = site.start_with(&release, &["--jobs", "1"]);
        wait_for("the tree", LIMIT, || {
            let tree = site.tree("lib").filter(|tree| tree.join("file").exists());
            tree.map(drop).ok_or_else(|| running.stderr())
        });
        site.let_script_change("lib");
        running.end().succeeds().says(
            "Warning: the files of package lib were changed after it was installed: `file` (",
        );
        assert_eq!(site.place.file("app", "file"), "100755 good\n");
        assert_eq!(site.place.file("app", "mode"), "100644 755\n");
    }

    pub(super) fn second_run_may_change_contents(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let second =
            format!("[ -e $FACTS/first ] || {{ touch $FACTS/first; exit 1; }}; {REACH}{CHANGE}");
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], LIB)
            .package("evil", &[], &second)
            .package("app", &["lib", "evil"], APP);
        let running = site.start(&release);
        wait_for_lib(&running);
        site.let_script_change("lib");
        running.end().succeeds().says(
            "Warning: the files of package lib were changed after it was installed: `file` (contents or times).",
        );
        assert_eq!(site.place.file("app", "file"), "100644 good\n");
    }

    pub(super) fn tree_that_is_changed_in_use_fails_the_package(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], LIB)
            .package("app", &["lib"], &format!("{REACH}{CHANGE}{APP}"));
        let running = site.start(&release);
        wait_for_lib(&running);
        site.let_script_change("lib");
        running
            .end()
            .fails()
            .says("Error: failed to compile package app/")
            .says("the files of its dependency `lib` were changed while package `app` was compiled: `file` (")
            .says("Hint: since its last check, the packaging script of `app` ran");
        assert!(!site.place.world.result("demo-1.10").exists());
    }

    pub(super) fn copy_that_is_changed_in_use_is_reported(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let change = "set -e; chmod 0711 @packages@/lib/file; touch $FACTS/changed\n\
                      until [ -e $FACTS/read ]; do sleep 0.01; done";
        let user =
            format!("until [ -e $FACTS/changed ]; do sleep 0.01; done; {APP}; touch $FACTS/read");
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], LIB)
            .package("evil", &["lib"], change)
            .package("user", &["lib"], &user);
        let agent = site.place.agent().args(&["--jobs", "2"]);
        agent
            .arg(site.place.release(&release))
            .run()
            .succeeds()
            .says("Warning: the copy of package lib was changed while package user was compiled against it: ")
            .says("/file` (mode). The change may have affected package user.\n\
                   Since the copy's last check, the packaging scripts of `evil`, `user` ran");
        assert_eq!(site.place.file("user", "mode"), "100644 711\n");
    }

    /// See the footnote in SECURITY.md about several jobs.
    pub(super) fn copy_in_use_can_be_changed_until_its_users_end(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let change = "set -e; echo evil > @packages@/lib/file; touch $FACTS/changed\n\
                      until [ -e $FACTS/read ]; do sleep 0.01; done";
        let user =
            format!("until [ -e $FACTS/changed ]; do sleep 0.01; done; {APP}; touch $FACTS/read");
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], LIB)
            .package("evil", &["lib"], change)
            .package("user", &["lib"], &user)
            .package("app", &["lib", "evil", "user"], APP);
        let agent = site.place.agent().args(&["--jobs", "2"]);
        agent.arg(site.place.release(&release)).run().succeeds().says(
            "Warning: the copy of package lib was changed while package user was compiled against it: ",
        );
        assert_eq!(site.place.file("user", "file"), "100644 evil\n");
        assert_eq!(site.place.file("app", "file"), "100644 good\n");
        assert_eq!(site.place.file("lib", "file"), "100644 good\n");
    }

    pub(super) fn changed_copy_is_replaced(tier: Tier) {
        let Some(site) = Site::new(tier) else {
            return;
        };
        let change = "set -e; chmod 0711 @packages@/lib/file; touch $FACTS/changed";
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], LIB)
            .package("evil", &["lib"], change)
            .package("app", &["lib", "evil"], APP);
        let ran = site
            .place
            .run(&release)
            .succeeds()
            .says("Warning: the copy of package lib that its dependents share was changed: ");
        let ran = ran.says("/file` (mode). It is copied again.\nSince its last check, the packaging script of `evil` ran");
        let ran = ran.does_not_say("what package lib installed was changed");
        // Its own script may change a dependency.
        ran.does_not_say("compiled against it");
        assert!(site.place.world.path("facts/changed").exists());
        assert_eq!(site.place.file("app", "mode"), "100644 644\n");
    }
}

/// A package, one that changes it, and one that depends on both.
fn with_evil(change: &str) -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], LIB)
        .package("evil", &[], &format!("{REACH}{change}"))
        .package("app", &["lib", "evil"], APP)
}

/// Waits until `lib` has been packed.
fn wait_for_lib(running: &Running) {
    wait_for("the first package", LIMIT, || {
        let stderr = running.stderr();
        let is_done = stderr.contains("Finished compiling release lib/");
        is_done.then_some(()).ok_or(stderr)
    });
}

/// Directories with a known work directory.
struct Site {
    place: Place,
}

impl Site {
    fn new(tier: Tier) -> Option<Self> {
        let place = Place::new(tier)?;
        let work = place.world.path("work");
        std::fs::create_dir(&work).unwrap();
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&work, everybody).unwrap();
        Some(Self { place })
    }

    /// Starts a run, and waits until a script waits for the path of the tree.
    fn start(&self, release: &ReleaseBuilder) -> Running {
        self.start_with(release, &[])
    }

    fn start_with(&self, release: &ReleaseBuilder, flags: &[&str]) -> Running {
        let tarball = self.place.release(release);
        let agent = self.place.agent().args(flags).arg("--work-dir");
        let mut running = agent
            .arg(self.place.world.path("work"))
            .arg(tarball)
            .start();
        let waits = self.place.world.path("facts/waits");
        wait_for("the script", LIMIT, || {
            assert!(!running.has_ended(), "{}", running.stderr());
            waits.exists().then_some(()).ok_or_else(|| running.stderr())
        });
        running
    }

    /// The work directory of the run.
    fn work(&self) -> PathBuf {
        let mut found = std::fs::read_dir(self.place.world.path("work")).unwrap();
        found.next().unwrap().unwrap().path()
    }

    /// The sealed tree of a package.
    fn tree(&self, package: &str) -> Option<PathBuf> {
        let store = std::fs::read_dir(self.work().join("store")).unwrap();
        let trees = store.map(|entry| entry.unwrap().path().join(package));
        trees.into_iter().find(|tree| tree.exists())
    }

    /// Writes the path for the waiting script, and waits until it has tried to change the tree. If it cannot reach the tree, the test
    /// changes it: every change must be detected.
    fn let_script_change(&self, package: &str) {
        let facts = self.place.world.path("facts");
        let file = self.tree(package).unwrap().join("file");
        let state = || {
            let metadata = std::fs::metadata(&file).unwrap();
            (metadata.ctime(), metadata.ctime_nsec())
        };
        let before = state();
        let tree = file.parent().unwrap().display().to_string();
        std::fs::write(facts.join("new"), tree).unwrap();
        std::fs::rename(facts.join("new"), facts.join("tree")).unwrap();
        wait_for("the change", LIMIT, || {
            let is_tried = facts.join("tried").exists();
            is_tried.then_some(()).ok_or_else(|| "not tried".to_owned())
        });
        if state() == before {
            assert!(self.place.tier.has_mounts(), "nothing hides the tree here");
            let time = std::fs::metadata(&file).unwrap().modified().unwrap();
            let mut options = std::fs::File::options();
            let mut file = options.write(true).open(&file).unwrap();
            file.write_all(b"evil").unwrap();
            file.set_modified(time).unwrap();
        }
        std::fs::write(facts.join("go"), "").unwrap();
    }
}
