//! Kept scratch directories, and environment files that name them.

use super::*;

#[test]
fn scratch_outlives_a_second_run_without_rules() {
    let Some(place) = Place::new(LANDLOCK) else {
        return;
    };
    let denied = format!("{USE_CACHE}touch @base@/new; rm @base@/new");
    let release = with_golang(&place)
        .package("one", &["golang"], &denied)
        .package("two", &["golang", "one"], USE_CACHE)
        .package("three", &["golang", "two"], USE_CACHE);
    place
        .run(&release)
        .succeeds()
        .says("Warning: the packaging script of `one` ")
        .does_not_say("`two` ");
    // Its first run has added a file.
    assert_eq!(found(&place), ["2", "2", "3"]);
    assert!(!place.world.base().exists());
}

#[test]
fn undeletable_scratch_directory_is_explained() {
    for command in ["mkdir @base@/data/app", "rm -r @base@/data/app"] {
        let Some(place) = Place::new(NAMESPACE) else {
            return;
        };
        let release = ReleaseBuilder::of_script(&format!("set -e; {command}"));
        let data = place.world.base().join("data/app");
        place
            .run(&release)
            .fails()
            .says(&format!("`{}` is a scratch directory", data.display()))
            .says("--no-shared-scratch");
    }
}

#[test]
fn unwritable_kept_scratch_is_named() {
    let Some(place) = Place::new(USERNS_OF_A_USER) else {
        return;
    };
    // Like those of an earlier run as root.
    let scratch = place.world.path("cache");
    std::fs::create_dir_all(scratch.join("app")).unwrap();
    let run = || {
        let tarball = place.release(&ReleaseBuilder::of_script("true"));
        let agent = place.agent().arg("--scratch-dir").arg(&scratch);
        agent.arg(tarball).run().blames_the_machine()
    };
    let error = |directory: &Path| {
        format!(
            "the scratch directory `{}` cannot be used",
            directory.display()
        )
    };
    run()
        .says(&error(&scratch))
        .says("Hint: pass a --scratch-dir");
    open_to_all(&scratch);
    run()
        .says(&error(&scratch.join("app")))
        .says("Hint: pass a --scratch-dir");
}

#[test]
fn variable_that_names_a_directory_in_kept_scratch_keeps_it_visible() {
    let Some(place) = Place::new(NAMESPACE) else {
        return;
    };
    let compilers = place.world.write("cache/ccache/file", "cached\n");
    let tarball = place.release(&ReleaseBuilder::of_script(
        "cat $CCACHE_DIR/file > $BOSH_INSTALL_TARGET/file",
    ));
    let directory = compilers.parent().unwrap();
    let ran = place
        .agent()
        .env("CCACHE_DIR", directory.to_str().unwrap())
        .arg("--scratch-dir")
        .arg(place.world.path("cache"))
        .arg(tarball)
        .run();
    assert_runs_once(&place, ran);
    assert_eq!(place.file("app", "file"), "100644 cached\n");
    assert!(compilers.exists());
}

#[test]
fn concurrent_runs_share_kept_scratch() {
    let Some(place) = Place::new(NAMESPACE) else {
        return;
    };
    let scratch = place.world.path("cache");
    // Each waits for the other's file.
    let start = |own: &str, other: &str| {
        let data = place.world.base().join("data/app");
        let release = ReleaseBuilder::new(own, "1").package(
            "app",
            &[],
            &format!(
                "echo > {0}/{own}; for n in $(seq 6000); do [ -e {0}/{other} ] && exit 0; sleep 0.01; done; exit 1",
                data.display()
            ),
        );
        let tarball = place.world.release(&format!("{own}.tgz"), &release);
        let agent = place.agent().arg("--scratch-dir").arg(&scratch);
        agent.arg(tarball).start()
    };
    let (first, second) = (start("first", "second"), start("second", "first"));
    first.end().succeeds();
    second.end().succeeds();
    assert!(scratch.join("app/first").exists() && scratch.join("app/second").exists());
}

#[test]
fn names_in_a_dependencys_environment_are_shared() {
    for tier in [NAMESPACE, LANDLOCK, NONE] {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let cache = place.world.base().join("data/go-build/cache");
        let toolchain = format!(
            "mkdir $BOSH_INSTALL_TARGET/bosh; echo 'export GOCACHE={}' > $BOSH_INSTALL_TARGET/bosh/compile.env",
            cache.display()
        );
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("golang", &[], &toolchain)
            .package("one", &["golang"], USE_CACHE)
            .package("two", &["golang", "one"], USE_CACHE)
            .package("three", &["golang", "two"], USE_CACHE);
        assert_runs_once(&place, place.run(&release));
        assert_eq!(found(&place), ["0", "1", "2"]);
        assert_no_data(&place);
    }
}
