//! What is left of a run in which a package fails: other packages, other releases, the log.

use crate::support::{ReleaseBuilder, World};

fn release_with_a_bad_package() -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .package("a-bad", &[], "echo the reason; exit 7")
        .package("b", &[], "true")
        .package("c", &["a-bad"], "touch $MARK")
        .package("d", &["b"], "true")
        .package("e", &[], "true")
}

#[test]
fn keep_going_compiles_everything_that_does_not_depend_on_the_failure() {
    let world = World::new();
    let other = ReleaseBuilder::new("other", "1").package("b2", &[], "true");
    let tarballs = [
        world.release("demo.tgz", &release_with_a_bad_package()),
        world.release("other.tgz", &other),
    ];
    let mark = world.path("mark");
    world
        .agent()
        .env("MARK", mark.to_str().unwrap())
        .arg("--keep-going")
        .args(&tarballs)
        .run()
        .fails()
        .says(" failed: the packaging script exited with 7 after ")
        .says(". Continuing with packages that do not depend on it\n")
        .says("Compiled, but discarded because the release is incomplete: b, d, e\n")
        .says("Not compiled because they depend on a-bad: c\n")
        .does_not_say("Not started")
        .does_not_say("Stopped because")
        .says(&format!(
            "Finished archiving compiled tarball {}\n",
            world.result("other-1").display()
        ));
    assert!(world.result("other-1").exists());
    assert!(!world.result("demo-1.10").exists());
    assert!(!mark.exists());
}

#[test]
fn keep_going_reports_every_failure() {
    let world = World::new();
    let release = ReleaseBuilder::new("demo", "1")
        .package("a", &[], "exit 3")
        .package("b", &[], "exit 4");
    let tarball = world.release("demo.tgz", &release);
    world
        .agent()
        .arg("--keep-going")
        .arg(tarball)
        .run()
        .fails()
        .says("Error: failed to compile package a/")
        .says("the packaging script exited with 3 after ")
        .says("Error: failed to compile package b/")
        .says("the packaging script exited with 4 after ");
}

#[test]
fn log_of_a_failed_package_is_copied_until_it_succeeds() {
    let world = World::new();
    let tarball = world.release("demo.tgz", &release_with_a_bad_package());
    let directory = world.out().join("demo-1.10.failed");
    let log = directory.join("a-bad.log");
    world
        .agent()
        .env("MARK", "unused")
        .arg(&tarball)
        .run()
        .fails()
        .says(&format!("Full log: {}\n", log.display()));
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("the reason\n"), "{text}");

    let good = ReleaseBuilder::new("demo", "1.10").package("a-bad", &[], "true");
    let tarball = world.release("demo.tgz", &good);
    world.agent().arg(tarball).run().succeeds();
    assert!(!directory.exists());
}

#[test]
fn error_far_above_the_last_lines_is_shown() {
    let world = World::new();
    let script = "echo 'main.c:3:10: fatal error: no.h: No such file or directory'\n\
                  { set +x; } 2>/dev/null\nfor n in $(seq 500); do echo noise $n; done\nexit 2";
    let tarball = world.release("demo.tgz", &ReleaseBuilder::of_script(script));
    world.agent().arg(tarball).run().fails().says(
        "Error in the output of the packaging script of app, line 2:\n\
         \x20 | main.c:3:10: fatal error: no.h: No such file or directory\n\
         Last lines of the packaging script of app:\n",
    );
}

#[test]
fn log_stays_in_the_chosen_directory_of_logs() {
    let world = World::new();
    let tarball = world.release("demo.tgz", &release_with_a_bad_package());
    let logs = world.path("logs");
    world
        .agent()
        .env("MARK", "unused")
        .args(&["--logs-dir".into(), logs.clone(), tarball])
        .run()
        .fails()
        .says(&format!(
            "Full log: {}\n",
            logs.join("demo-1.10/a-bad.log").display()
        ));
    assert!(!world.out().join("demo-1.10.failed").exists());
}

#[test]
fn paths_of_results_that_cannot_be_printed_are_an_error() {
    let world = World::new();
    let tarball = world.release("demo.tgz", &ReleaseBuilder::demo());
    let script = "exec \"$@\" >/dev/full";
    let words = ["sh", "-c", script, "sh"];
    let agent = crate::support::Agent::wrapped(&world.path("printed"), &words);
    let ran = world
        // Its check compares the paths with stdout.
        .flags(agent.without_report())
        .arg("--output-directory")
        .args(&[world.out(), tarball])
        .run();
    assert_eq!(ran.code, Some(4), "{}", ran.stderr);
    let error = "Error: failed to print the paths of the compiled releases to stdout: ";
    assert!(ran.stderr.contains(error), "{}", ran.stderr);
    assert!(world.result("demo-1.10").exists());
}
