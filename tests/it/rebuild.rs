//! Everything is compiled twice and compared (`--verify-rebuild`).

use std::path::Path;

use crate::support::{Agent, NamespaceWorld, ReleaseBuilder, STEMCELL, World, require_tools};

/// A package whose script notes its run and then runs `rest`.
fn noted(ran: &Path, rest: &str) -> String {
    format!("echo run >> {}\n{rest}", ran.display())
}

fn verifying(world: &World) -> Agent {
    world.agent().arg("--verify-rebuild")
}

fn runs(world: &World) -> usize {
    let text = std::fs::read_to_string(world.path("ran")).unwrap_or_default();
    text.lines().count()
}

#[test]
fn packages_that_are_the_same_both_times_are_accepted() {
    let world = World::new();
    let ran = world.path("ran");
    let release = ReleaseBuilder::new("demo", "1")
        .package(
            "lib",
            &[],
            &noted(&ran, "echo lib > $BOSH_INSTALL_TARGET/lib"),
        )
        .package(
            "app",
            &["lib"],
            &noted(&ran, "cp -p @packages@/lib/lib $BOSH_INSTALL_TARGET/app"),
        );
    let tarball = world.release("release.tgz", &release);
    let out = verifying(&world).arg(&tarball).run();
    let out = out
        .succeeds()
        .says("All 2 packages are the same when they are compiled again\n")
        .does_not_say("not isolated from each other");
    assert_eq!(runs(&world), 4);
    let result = world.result("demo-1");
    let last = out.stdout.lines().last().unwrap();
    assert!(last.ends_with(&result.display().to_string()), "{last}");
    assert_eq!(std::fs::read_dir(world.out()).unwrap().count(), 1);
    let left = std::fs::read_dir(world.base().join("data")).map(Iterator::count);
    assert!(left.is_err() || left.is_ok_and(|count| count == 0));
}

#[test]
fn files_that_differ_are_named() {
    let world = World::new();
    let ran = world.path("ran");
    let random = "head -c 8 /dev/urandom | od > $BOSH_INSTALL_TARGET/random\n\
                  echo $RANDOM$RANDOM > $BOSH_INSTALL_TARGET/$(basename $(mktemp -u file.XXXXXXXX))\n\
                  echo same > $BOSH_INSTALL_TARGET/same";
    let release = ReleaseBuilder::new("demo", "1")
        .package("good", &[], "echo good > $BOSH_INSTALL_TARGET/good")
        .package("bad", &[], &noted(&ran, random));
    let tarball = world.release("release.tgz", &release);
    let out = verifying(&world).arg(&tarball).run();
    out.fails()
        .says("Package bad of release demo/1 differs when it is compiled again:\n  - file.")
        .says(": only in the first result\n")
        .says("\n  - random: other content, ")
        .says(": only in the second result\n")
        .says("Error: one of 2 packages differs when compiled again\n")
        .says("Hint: common causes are the current time")
        .does_not_say("Package good of")
        .does_not_say("  - same");
    assert_eq!(runs(&world), 2);
    assert!(world.result("demo-1").exists(), "the first result is kept");
}

#[test]
fn time_and_work_directory_in_packages_are_named() {
    let Some(here) = NamespaceWorld::new() else {
        return;
    };
    let script = "cd $BOSH_COMPILE_TARGET; to=$BOSH_INSTALL_TARGET; date +%s%N > $to/time\n\
                  cut -d ' ' -f 4 /proc/self/mountinfo | grep /app > $to/work-directory\n\
                  pwd > $to/path; nproc > $to/cpus; echo $MAKEFLAGS > $to/make-flags";
    let release = ReleaseBuilder::new("demo", "1").package("app", &[], script);
    let tarball = here.release("release.tgz", &release);
    let agent = here.agent().args(&["--verify-rebuild", "--make-jobserver"]);
    let ran = agent.arg(&tarball).run().fails();
    let files = ran.stderr.lines();
    let files = files.filter_map(|line| line.strip_prefix("  - ")?.split_once(": other content"));
    let files: Vec<&str> = files.map(|(file, _)| file).collect();
    // Scripts see the same paths and numbers both times.
    assert_eq!(files, ["time", "work-directory"], "{}", ran.stderr);
}

/// Two packages whose scripts write their starts and ends to a file. The scripts with these positions among all starts, such as `34`,
/// wait until `starts` scripts have started.
fn waiting((positions, starts): (&str, usize)) -> ReleaseBuilder {
    let script = format!(
        "echo start >> $FACTS/ran; number=$(grep -c start $FACTS/ran)\n\
         [[ $number != [{positions}] ]] || until [ $(grep -c start $FACTS/ran) -ge {starts} ]; do sleep 0.1; done\n\
         echo end >> $FACTS/ran"
    );
    let release = ReleaseBuilder::new("demo", "1").package("a", &[], &script);
    release.package("b", &[], &script)
}

#[test]
fn second_compilation_has_another_number_of_jobs() {
    const SEQUENTIAL: [&str; 4] = ["start", "end", "start", "end"];
    const CONCURRENT: [&str; 4] = ["start", "start", "end", "end"];
    for (jobs, waits, expected) in [
        ("--jobs=1", ("34", 4), [SEQUENTIAL, CONCURRENT]),
        ("--jobs=2", ("12", 2), [CONCURRENT, SEQUENTIAL]),
    ] {
        let Some(here) = NamespaceWorld::new() else {
            return;
        };
        let tarball = here.release("release.tgz", &waiting(waits));
        let agent = here.agent().args(&["--verify-rebuild", jobs]);
        agent.arg(&tarball).run().succeeds();
        let text = std::fs::read_to_string(here.fact("ran")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, expected.concat(), "{jobs}");
    }
}

#[test]
fn packages_from_a_cache_are_compiled_again() {
    let world = World::new();
    let ran = world.path("ran");
    let script = noted(&ran, "echo app > $BOSH_INSTALL_TARGET/app");
    let release = ReleaseBuilder::new("demo", "1").package("app", &[], &script);
    let tarball = world.release("release.tgz", &release);
    let cached = |agent: Agent| agent.arg("--cache-dir").arg(world.path("cache"));
    let first = cached(world.agent()).arg("--reproducible").arg(&tarball);
    first.run().succeeds();
    let second = cached(verifying(&world)).arg(&tarball).run();
    second
        .succeeds()
        .says("from the cache")
        .says("The package is the same");
    assert_eq!(runs(&world), 2);
}

#[test]
fn package_of_one_result_is_a_difference() {
    let world = World::new();
    // The script replaces the release for the second compilation.
    let (tarball, other) = (world.path("release.tgz"), world.path("other.tgz"));
    let script = format!("cp {} {}", other.display(), tarball.display());
    let release = |name: &str| {
        let release = ReleaseBuilder::new("demo", "1").package("app", &[], &script);
        release.package(name, &[], "echo > $BOSH_INSTALL_TARGET/file")
    };
    assert_eq!(world.release("release.tgz", &release("gone")), tarball);
    assert_eq!(world.release("other.tgz", &release("new")), other);
    let ran = verifying(&world).arg(&tarball).run();
    ran.fails()
        .says("\nPackage gone of release demo/1 is only in the first result\n")
        .says("\nPackage new of release demo/1 is only in the second result\n")
        .says("Error: 2 of 3 packages differ when compiled again\n");
}

#[test]
fn failure_of_the_second_compilation_is_reported() {
    let world = World::new();
    let ran = world.path("ran");
    let script = noted(&ran, &format!("[ $(wc -l < {}) = 1 ]", ran.display()));
    let release = ReleaseBuilder::new("demo", "1").package("app", &[], &script);
    let tarball = world.release("release.tgz", &release);
    let out = verifying(&world).arg(&tarball).run();
    out.fails()
        .says("Compiling all packages again, to compare them\n")
        .says("failed to compile package app/")
        .does_not_say("differs");
}

#[test]
fn differences_are_explained_by_diffoscope_if_it_is_installed() {
    let world = World::new();
    let program = world.path("bin/diffoscope");
    std::fs::create_dir_all(program.parent().unwrap()).unwrap();
    let text = "#!/bin/sh\n[ \"$1 $2\" = '--no-progress --text' ] || exit 2\necho explained > \"$3\"\ncmp \"$4\" \"$5\"\n";
    std::fs::write(&program, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    let script = "head -c 8 /dev/urandom | od > $BOSH_INSTALL_TARGET/random";
    let release = ReleaseBuilder::new("demo", "1").package("app", &[], script);
    let tarball = world.release("release.tgz", &release);
    let path = format!(
        "{}:{}",
        program.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let out = verifying(&world).env("PATH", &path).arg(&tarball).run();
    let out = out.fails().says("\n  Details from diffoscope: ");
    let all = format!("{}{}", out.stdout, out.stderr);
    let (_, file) = all.split_once("Details from diffoscope: ").unwrap();
    let file = file.lines().next().unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "explained\n");
}

#[test]
fn packages_that_were_compiled_before_are_not_counted() {
    let world = World::new();
    let mixed = ReleaseBuilder::new("mixed", "1")
        .compiled("lib", &[], STEMCELL, ("lib", b"lib"))
        .package("app", &["lib"], "echo app > $BOSH_INSTALL_TARGET/app");
    let compiled =
        |name| ReleaseBuilder::new(name, "1").compiled("old", &[], STEMCELL, ("x", b"x"));
    let mixed = world.release("mixed.tgz", &mixed);
    let other = world.release("other.tgz", &compiled("other"));
    verifying(&world).arg(&mixed).arg(&other).run().succeeds().says(
        "The package is the same when it is compiled again; 2 packages were compiled before this run and are not compared\n",
    );
}

#[test]
fn programs_keep_the_limit_of_open_files() {
    if !require_tools(&["prlimit"]) {
        return;
    }
    let world = World::new();
    world.write("bin/diffoscope", "#!/bin/sh\nulimit -Sn > \"$3\"\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(world.path("bin/diffoscope"), mode).unwrap();
    let script = "head -c 8 /dev/urandom | od > $BOSH_INSTALL_TARGET/random";
    let release = ReleaseBuilder::new("demo", "1").package("app", &[], script);
    let tarball = world.release("release.tgz", &release);
    let path = format!(
        "{}:{}",
        world.path("bin").display(),
        std::env::var("PATH").unwrap()
    );
    let before = ["prlimit", "--nofile=500:2000"];
    let agent = world.flags(Agent::wrapped(&world.path("printed"), &before));
    let agent = agent.arg("--output-directory").arg(world.out());
    let out = agent.arg("--verify-rebuild").env("PATH", &path);
    let out = out.arg(&tarball).run().fails();
    let all = format!("{}{}", out.stdout, out.stderr);
    let (_, file) = all.split_once("Details from diffoscope: ").unwrap();
    let file = file.lines().next().unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "500\n");
}
