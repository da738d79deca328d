//! Scratch directories (`BASE/data/NAME`): how packages share them in each isolation tier, and which files remain.

mod kept;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::{
    LANDLOCK, NAMESPACE, NONE, Place, Ran, ReleaseBuilder, Tier, USER, USERNS_OF_A_USER,
    USERNS_OF_ROOT, Who, in_tiers, processes_below, snapshot,
};
use nix::sys::signal::Signal;

in_tiers!(cache_of_a_dependency_is_shared_by_its_dependents: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(scratch_is_not_part_of_the_result: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(scratch_of_an_undeclared_package_cannot_be_read: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK);
in_tiers!(packages_that_run_at_once_share_a_cache: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK);
in_tiers!(kept_scratch_is_warm_in_the_next_run: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(kept_scratch_of_an_undeclared_package_cannot_be_read: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK);
in_tiers!(kept_scratch_may_be_in_any_directory: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(no_shared_scratch_gives_each_package_an_empty_directory: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(other_directories_in_data_can_be_made: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(nothing_is_left_on_the_host: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(next_run_removes_scratch_of_a_killed_one: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(directory_of_the_host_stays: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(files_move_between_compile_and_install_directory: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

/// Sources the environment of golang, prints the number of files in the cache, and adds one.
const USE_CACHE: &str = "set -e\n\
     . @packages@/golang/bosh/compile.env\n\
     mkdir -p $GOCACHE\n\
     ls $GOCACHE | wc -l > $BOSH_INSTALL_TARGET/found\n\
     echo > $GOCACHE/$BOSH_PACKAGE_NAME\n";

mod bodies {
    use super::*;

    pub(super) fn cache_of_a_dependency_is_shared_by_its_dependents(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        assert_runs_once(&place, place.run(&go_release(&place)));
        assert_eq!(found(&place), ["1", "2", "3"]);
    }

    pub(super) fn scratch_is_not_part_of_the_result(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        assert_runs_once(&place, place.run(&go_release(&place)));
        for package in ["golang", "one", "two", "three"] {
            let mut names: Vec<String> = place
                .entries(package)
                .into_iter()
                .map(|entry| entry.name)
                .collect();
            names.sort();
            match package {
                "golang" => assert_eq!(names, ["./", "./bosh/", "./bosh/compile.env"]),
                _ => assert_eq!(names, ["./", "./found"]),
            }
        }
    }

    pub(super) fn scratch_of_an_undeclared_package_cannot_be_read(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        assert_runs_once(&place, place.run(&curious(&place)));
        assert_eq!(place.file("other", "seen"), "100644 nothing\n");
    }

    pub(super) fn packages_that_run_at_once_share_a_cache(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        // Each waits for the file of the other.
        let script = |other: &str| {
            format!(
                "{USE_CACHE}for n in $(seq 6000); do [ -e $GOCACHE/{other} ] && exit 0; sleep 0.01; done; exit 1"
            )
        };
        let release = with_golang(&place)
            .package("one", &["golang"], &script("two"))
            .package("two", &["golang"], &script("one"));
        let tarball = place.release(&release);
        assert_runs_once(
            &place,
            place.agent().args(&["--jobs", "2"]).arg(tarball).run(),
        );
    }

    pub(super) fn kept_scratch_is_warm_in_the_next_run(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let scratch = place.world.path("cache/of/ci");
        let run = || {
            let tarball = place.release(&go_release(&place));
            let agent = place.agent().arg("--scratch-dir").arg(&scratch);
            assert_runs_once(&place, agent.arg(tarball).run());
        };
        run();
        assert_eq!(found(&place), ["1", "2", "3"]);
        run();
        // The files of the first run still exist.
        assert_eq!(found(&place), ["4", "4", "4"]);
        let kept: Vec<String> = snapshot(&scratch).into_keys().collect();
        assert_eq!(
            kept,
            [
                "",
                "golang",
                "golang/cache",
                "golang/cache/golang",
                "golang/cache/one",
                "golang/cache/three",
                "golang/cache/two"
            ],
            "empty directories of other packages are removed"
        );
        assert_no_data(&place);
    }

    pub(super) fn kept_scratch_of_an_undeclared_package_cannot_be_read(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let scratch = place.world.path("cache");
        let look = format!("cat {}/golang/cache/golang", scratch.display());
        let release = with_golang(&place).package("between", &["golang"], "true");
        let release = release.package(
            "other",
            &["between"],
            &format!(
                "set -e; if {look} 2> /dev/null; then exit 1; fi; echo nothing > $BOSH_INSTALL_TARGET/seen"
            ),
        );
        let tarball = place.release(&release);
        let agent = place.agent().arg("--scratch-dir").arg(&scratch);
        assert_runs_once(&place, agent.arg(tarball).run());
        assert_eq!(place.file("other", "seen"), "100644 nothing\n");
        assert!(scratch.join("golang/cache/golang").exists());
    }

    pub(super) fn kept_scratch_may_be_in_any_directory(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let temporary = tempfile::tempdir_in("/tmp").unwrap();
        open_to_all(temporary.path());
        let base = place.world.base();
        for directory in [
            // Covered by the script's own directory.
            temporary.path().join("scratch"),
            // Covered by the package's tree.
            base.join("data/kept"),
            base.join("data"),
            base.join("cache"),
            // The agent's directories are below it.
            base.clone(),
            place
                .world
                .path("")
                .join(OsStr::from_bytes(b"odd \xff,:\\=\n name")),
            // Only the work directory is below it.
            place.world.path("parent"),
        ] {
            let tarball = place.release(&go_release(&place));
            let mut agent = place.agent().arg("--scratch-dir").arg(&directory);
            if directory.ends_with("parent") {
                agent = agent.arg("--work-dir").arg(directory.join("work"));
            }
            assert_runs_once(&place, agent.arg(tarball).run());
            assert_eq!(found(&place), ["1", "2", "3"], "{}", directory.display());
            let cached = directory.join("golang/cache/three");
            assert!(cached.exists(), "{}", cached.display());
            std::fs::remove_dir_all(directory.join("golang")).unwrap();
        }
    }

    pub(super) fn no_shared_scratch_gives_each_package_an_empty_directory(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let before = snapshot(&place.world.path(""));
        let release = go_release(&place).package(
            "own",
            &[],
            &format!(
                "set -e; mkdir {1} {0}; ls -A {0} | wc -l > $BOSH_INSTALL_TARGET/found; echo > {0}/file",
                place.world.base().join("data/own").display(),
                // Created in advance there, as directories cannot be added later.
                if tier.name == "landlock" { "-p" } else { "" }
            ),
        );
        let tarball = place.release(&release);
        place
            .agent()
            .arg("--no-shared-scratch")
            .arg(tarball)
            .run()
            .succeeds()
            .does_not_say("packaging script of `own`");
        assert_eq!(found(&place), ["0", "0", "0"]);
        assert_eq!(place.file("own", "found"), "100644 0\n");
        assert_same(&place, &before);
    }

    pub(super) fn other_directories_in_data_can_be_made(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let before = snapshot(&place.world.path(""));
        let data = place.world.base().join("data");
        let script = format!(
            "set -e; DATA={0}; mkdir -p {0}/literal/a \"$DATA/variable\"; . ./lib.sh; ls -A {0}/literal > $BOSH_INSTALL_TARGET/found; \
             echo > {0}/literal/$BOSH_PACKAGE_NAME; echo > ${{DATA}}/variable/file",
            data.display()
        );
        let sourced = format!("mkdir -p {}/sourced\n", data.display());
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("first", &[], &script)
            .file("lib.sh", 0o644, sourced.as_bytes())
            .package("second", &["first"], &script)
            .file("lib.sh", 0o644, sourced.as_bytes())
            .package("third", &[], &script)
            .file("lib.sh", 0o644, sourced.as_bytes());
        assert_runs_once(&place, place.run(&release));
        for package in ["first", "second", "third"] {
            assert_eq!(place.file(package, "found"), "100644 a\n", "{package}");
        }
        assert_same(&place, &before);
    }

    pub(super) fn nothing_is_left_on_the_host(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let before = snapshot(&place.world.path(""));
        // Like Go's module cache.
        let release = with_golang(&place).package(
            "one",
            &["golang"],
            &format!("{USE_CACHE}mkdir -p $GOCACHE/mod/a/b; echo > $GOCACHE/mod/a/b/file; chmod -R a-w $GOCACHE/mod; mkfifo $GOCACHE/fifo"),
        );
        assert_runs_once(&place, place.run(&release));
        assert_same(&place, &before);
    }

    pub(super) fn next_run_removes_scratch_of_a_killed_one(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let data = place.world.base().join("data");
        let running = place.start(&format!(
            "trap '' TERM; mkdir -p {0}/app/a/b {0}/other; echo > {0}/app/a/b/file; chmod -R a-w {0}/app/a; touch $FACTS/started; \
             sleep 1000; sleep 1000",
            data.display()
        ));
        running.signal(Signal::SIGKILL);
        running.end();
        place.run(&ReleaseBuilder::demo()).succeeds();
        assert_eq!(processes_below(&place.world.path("")), [""; 0]);
        for name in ["app", "other", "lib"] {
            assert!(!data.join(name).exists(), "{name}");
        }
    }

    pub(super) fn directory_of_the_host_stays(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        for path in ["vcap/data/golang/file", "vcap/data/next to/file"] {
            place.world.write(path, "of the host\n");
        }
        give(&place, "vcap");
        let before = snapshot(&place.world.base());
        let release = with_golang(&place).package(
            "one",
            &["golang"],
            &format!(
                "{USE_CACHE}if [ -e @base@/data/golang/file ]; then echo host; fi > $BOSH_INSTALL_TARGET/host; \
                 rm -r $GOCACHE; mkdir -p {}/next to",
                place.world.base().join("data").display()
            ),
        );
        assert_runs_once(&place, place.run(&release));
        let seen = if tier.has_mounts() { "" } else { "host\n" };
        assert_eq!(place.file("one", "host"), format!("100644 {seen}"));
        assert_eq!(snapshot(&place.world.base()), before);
    }

    pub(super) fn files_move_between_compile_and_install_directory(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let release = with_golang(&place).package(
            "one",
            &["golang"],
            &format!(
                "{USE_CACHE}mkdir a; echo a > a/file; ln a/file $BOSH_INSTALL_TARGET/linked; \
                 perl -e 'rename($ARGV[0], $ARGV[1]) or die $!' a $BOSH_INSTALL_TARGET/moved"
            ),
        );
        assert_runs_once(&place, place.run(&release));
        assert_eq!(place.file("one", "linked"), "100644 a\n");
        assert_eq!(place.file("one", "moved/file"), "100644 a\n");
    }
}

/// Asserts success, and that each script started once.
#[track_caller]
fn assert_runs_once(place: &Place, ran: Ran) {
    ran.succeeds()
        .says(&format!("Isolation: {}", place.tier.name))
        .does_not_say("Warning")
        .does_not_say("second run")
        .does_not_say("Permission denied");
}

/// A package like the golang packages of Cloud Foundry: its environment file names the cache, which it fills.
fn with_golang(place: &Place) -> ReleaseBuilder {
    let cache = place.world.base().join("data/golang/cache");
    ReleaseBuilder::new("demo", "1.10").package(
        "golang",
        &[],
        &format!(
            "set -e; mkdir -p $BOSH_INSTALL_TARGET/bosh; echo 'export GOCACHE={0}' > $BOSH_INSTALL_TARGET/bosh/compile.env; \
             mkdir -p {0}; echo > {0}/golang",
            cache.display()
        ),
    )
}

/// Three dependents, one after another.
fn go_release(place: &Place) -> ReleaseBuilder {
    with_golang(place)
        .package("one", &["golang"], USE_CACHE)
        .package("two", &["golang", "one"], USE_CACHE)
        .package("three", &["golang", "two"], USE_CACHE)
}

/// A package that searches for the scratch directory of an undeclared one.
fn curious(place: &Place) -> ReleaseBuilder {
    with_golang(place)
        .package("between", &["golang"], "true")
        .package(
            "other",
            &["between"],
            "set -e; if cat @base@/data/golang/cache/golang 2> /dev/null; then exit 1; fi; \
             echo nothing > $BOSH_INSTALL_TARGET/seen",
        )
}

/// The number of files that each dependent found in the cache.
fn found(place: &Place) -> Vec<String> {
    ["one", "two", "three"]
        .iter()
        .map(|package| {
            let file = place.file(package, "found");
            file.trim_start_matches("100644 ").trim().to_owned()
        })
        .collect()
}

/// Asserts that no file has changed, except results, logs and the test's own files.
#[track_caller]
fn assert_same(place: &Place, before: &std::collections::BTreeMap<String, String>) {
    let is_test = |path: &String| {
        ["out", "logs", "printed", "release.tgz", "facts"]
            .iter()
            .any(|own| Path::new(path).starts_with(own))
    };
    let mut after = snapshot(&place.world.path(""));
    let mut before = before.clone();
    after.retain(|path, _| !is_test(path));
    before.retain(|path, _| !is_test(path));
    assert_eq!(after, before);
}

#[track_caller]
fn assert_no_data(place: &Place) {
    let data = place.world.base().join("data");
    assert!(!data.exists(), "{} is left", data.display());
}

fn open_to_all(directory: &Path) {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777)).unwrap();
}

/// Changes the owner of a tree to the user who compiles.
fn give(place: &Place, below: &str) {
    if place.tier.who != Who::User {
        return;
    }
    let root = place.world.path(below);
    let paths: Vec<PathBuf> = snapshot(&root).keys().map(|path| root.join(path)).collect();
    for path in paths {
        std::os::unix::fs::lchown(path, Some(USER), Some(USER)).unwrap();
    }
}
