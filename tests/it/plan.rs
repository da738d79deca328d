//! Calls that compile nothing: `--check`, `--dry-run`, `--print-output-names`; and `--graph`.

mod dry_run;

use std::path::{Path, PathBuf};

use crate::support::{Agent, Ran, ReleaseBuilder, STEMCELL, World};

fn marking() -> ReleaseBuilder {
    ReleaseBuilder::of_script("touch $MARK")
}

/// Runs the agent with flags that compile nothing, and fails if it leaves a trace.
#[track_caller]
fn planned(world: &World, agent: Agent, tarballs: &[&Path]) -> Ran {
    let before = world.snapshot();
    let mark = world.path("mark");
    let ran = agent
        .env("MARK", mark.to_str().unwrap())
        .args(tarballs)
        .run();
    let after = world.snapshot();
    assert_eq!(after, before, "something was left behind:\n{}", ran.stderr);
    ran
}

#[track_caller]
fn checked(world: &World, tarballs: &[&Path]) -> Ran {
    planned(world, world.agent().arg("--check"), tarballs)
}

#[track_caller]
fn named(world: &World, tarballs: &[&Path]) -> Ran {
    planned(world, world.agent().arg("--print-output-names"), tarballs)
}

fn lines(paths: &[PathBuf]) -> String {
    let lines = paths.iter().map(|path| format!("{}\n", path.display()));
    lines.collect()
}

#[test]
fn check_compiles_nothing_and_leaves_no_file() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    checked(&world, &[&tarball]).succeeds().says(&format!(
        "Release demo/1.10 would be compiled to {}: 1 package to compile\n\
         No problems found; nothing was compiled\n",
        world.result("demo-1.10").display()
    ));
}

#[test]
fn check_says_what_happens_to_compiled_releases() {
    let world = World::new();
    let source = world.release("release.tgz", &ReleaseBuilder::demo());
    world.compile(&[&source]).succeeds();
    let result = world.result("demo-1.10");
    checked(&world, &[&result])
        .succeeds()
        .says("is already compiled for this stemcell and would stay unchanged\n");
    checked(&world, &[&source, &result])
        .succeeds()
        .says("is an earlier result of ")
        .says(" and would be rebuilt\n");
    let other = world.path("other.tgz");
    std::fs::copy(&result, &other).unwrap();
    std::fs::remove_file(&result).unwrap();
    checked(&world, &[&other])
        .succeeds()
        .says("is already compiled for this stemcell and would be copied unchanged to ");
}

#[test]
fn check_reports_all_problems_of_a_release() {
    let world = World::new();
    let damaged = ReleaseBuilder::demo()
        .without("packages/app.tgz")
        .without("jobs/web.tgz");
    let damaged = world.release("damaged.tgz", &damaged);
    checked(&world, &[&damaged])
        .refuses_the_input()
        .says("package `app`: `packages/app.tgz` is missing from the tarball")
        .says("job `web`: `jobs/web.tgz` is missing from the tarball");
    let tarballs = [
        world.release("a.tgz", &marking()),
        world.release("b.tgz", &marking()),
    ];
    checked(&world, &[&tarballs[0], &tarballs[1]])
        .refuses_the_input()
        .says("would overwrite the result of");
}

#[test]
fn check_reports_directories_that_cannot_be_used() {
    for flag in [
        "--output-directory",
        "--work-dir",
        "--logs-dir",
        "--scratch-dir",
    ] {
        let world = World::new();
        let tarball = world.release("release.tgz", &marking());
        let file = world.write("file", "");
        let agent = world.flags(Agent::bare(&world.path("printed")));
        let agent = agent.arg("--check").arg(flag).arg(&file);
        planned(&world, agent, &[&tarball]).blames_the_machine();
    }
}

#[test]
fn check_works_without_a_stemcell() {
    let world = World::new();
    let compiled = ReleaseBuilder::new("old", "1").compiled("a", &[], "os/1", ("a", b""));
    let tarballs = [
        world.release("release.tgz", &marking()),
        world.release("compiled.tgz", &compiled),
    ];
    let bare = || {
        Agent::bare(&world.path("printed"))
            .args(&["compile", "--check", "--output-directory"])
            .arg(world.out())
            .arg("--base-directory")
            .arg(world.base())
    };
    planned(&world, bare(), &[&tarballs[0], &tarballs[1]])
        .succeeds()
        .says("Checking without a stemcell: this does not look like a stemcell")
        .says("demo-1.10-OS-STEMCELLVERSION.tgz")
        .says("compiled.tgz is already compiled and would be copied unchanged to ");
    let damaged = marking().without("packages/app.tgz");
    let damaged = world.release("damaged.tgz", &damaged);
    planned(&world, bare(), &[&damaged])
        .refuses_the_input()
        .says("is missing from the tarball");
}

#[test]
fn printed_names_are_the_paths_of_the_results() {
    let world = World::new();
    let demo = world.release("release.tgz", &ReleaseBuilder::demo());
    let other = ReleaseBuilder::new("other", "2").package("b", &[], "true");
    let other = world.release("other.tgz", &other);
    let compiled = ReleaseBuilder::new("old", "3").compiled("a", &[], STEMCELL, ("a", b""));
    let compiled = world.release("compiled.tgz", &compiled);
    let tarballs: [&Path; 3] = [&demo, &other, &compiled];
    let named_before = named(&world, &tarballs).stdout;
    let ran = world.compile(&tarballs).succeeds();
    assert_eq!(named_before, ran.stdout);
    let result = world.result("demo-1.10");
    let again = named(&world, &[&demo, &result]);
    assert_eq!(again.stdout, lines(&[result]));
}

#[test]
fn printed_names_need_only_the_manifest() {
    let world = World::new();
    let demo = ReleaseBuilder::demo();
    let tarball = world.release("release.tgz", &demo);
    let whole = std::fs::read(&tarball).unwrap();
    let cut = world.write("cut.tgz", &whole[..whole.len() - 20]);
    let damaged = demo.without("packages/app.tgz");
    let damaged = world.release("damaged.tgz", &damaged);
    for tarball in [cut, damaged] {
        let ran = named(&world, &[&tarball]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(ran.stdout, lines(&[world.result("demo-1.10")]));
    }
}

#[test]
fn names_that_cannot_be_printed_are_reported() {
    let world = World::new();
    let tarball = world.release("a.tgz", &marking());
    let same = world.release("b.tgz", &marking());
    let text = world.write("text.tgz", "text");
    named(&world, &[&tarball, &same, &text])
        .refuses_the_input()
        .says("would overwrite the result of")
        .says("text.tgz:\n");
    let missing = world.path("missing.tgz");
    named(&world, &[&missing]).refuses_the_input();
}
