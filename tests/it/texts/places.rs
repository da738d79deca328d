//! Obstructing directories and files, and machines that are not stemcells.

use std::os::unix::fs::PermissionsExt;

use super::page::Page;
use crate::support::{Agent, ReleaseBuilder, STEMCELL, World};

fn demo() -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10").package("app", &[], "true")
}

#[test]
fn places() {
    let mut page = Page::default();
    let world = World::new();
    let (a, b) = (
        world.release("a.tgz", &demo()),
        world.release("b.tgz", &demo()),
    );
    page.add(
        "two tarballs of one release",
        &world,
        &world.compile(&[&a, &b]),
    );
    page.add("a tarball given twice", &world, &world.compile(&[&a, &a]));
    std::fs::create_dir_all(world.result("demo-1.10")).unwrap();
    page.add(
        "a directory in place of the result",
        &world,
        &world.compile(&[&a]),
    );

    let world = World::new();
    std::fs::create_dir(world.out()).unwrap();
    let tarball = world.release("out/demo-1.10-ubuntu-noble-1.406.tgz", &demo());
    page.add(
        "a result over its source",
        &world,
        &world.compile(&[&tarball]),
    );

    let world = World::new();
    let tarball = world.release("release.tgz", &demo());
    let file = world.write("file", "");
    for flag in [
        "--output-directory",
        "--work-dir",
        "--logs-dir",
        "--scratch-dir",
    ] {
        let agent = world.agent().arg(flag).arg(&file).arg(&tarball);
        page.add(&format!("a file as {flag}"), &world, &agent.run());
    }
    world.write("vcap", "");
    page.add(
        "a file as base directory",
        &world,
        &world.compile(&[&tarball]),
    );

    let world = World::new();
    let tarball = world.release("release.tgz", &demo());
    world.write("vcap/packages/redis/file", "theirs");
    page.add(
        "packages of another agent",
        &world,
        &world.compile(&[&tarball]),
    );

    let world = World::new();
    let tarball = world.release("release.tgz", &demo());
    world.write("vcap/packages", "");
    page.add(
        "a file as packages directory",
        &world,
        &world.compile(&[&tarball]),
    );
    page.is("places");
}

#[test]
fn machine_that_is_not_a_stemcell() {
    let mut page = Page::default();
    let world = World::new();
    let tarball = world.release("release.tgz", &demo());
    let run = |world: &World| {
        Agent::bare(&world.path("printed"))
            .args(&["compile", "--isolation=none", "--base-directory"])
            .args(&[world.base(), tarball.clone()])
            .run()
    };
    page.add("without stemcell_version", &world, &run(&world));
    world.write("vcap/bosh/etc/stemcell_version", "1/2\n");
    page.add("with a wrong stemcell_version", &world, &run(&world));
    page.is("machine_that_is_not_a_stemcell");
}

#[test]
fn another_run_in_the_same_place() {
    let world = World::new();
    let script = "touch \"$MARK\"; exec sleep 1000";
    let slow = world.release("slow.tgz", &ReleaseBuilder::of_script(script));
    let mark = world.path("mark");
    let running = world
        .agent()
        .env("MARK", mark.to_str().unwrap())
        .args(&["--grace=0"])
        .arg(&slow)
        .start();
    crate::support::wait_for("the script", std::time::Duration::from_secs(60), || {
        mark.exists().then_some(()).ok_or_else(|| running.stderr())
    });
    let mut page = Page::default();
    let second = world.compile(&[&world.release("demo.tgz", &demo())]);
    page.add("while another run compiles there", &world, &second);
    running.signal(nix::sys::signal::Signal::SIGTERM);
    page.add("a run that gets SIGTERM", &world, &running.end());
    page.is("another_run_in_the_same_place");
}

#[test]
fn earlier_results() {
    let world = World::new();
    let mut page = Page::with_milestones();
    let compiled = ReleaseBuilder::new("demo", "1.10").compiled("app", &[], STEMCELL, ("f", b""));
    let tarball = world.release("compiled.tgz", &compiled);
    page.add("a compiled release", &world, &world.compile(&[&tarball]));
    page.add(
        "its result again",
        &world,
        &world.compile(&[&world.result("demo-1.10")]),
    );

    let world = World::new();
    let tarball = world.release("release.tgz", &demo());
    let agent = || {
        world
            .flags(Agent::bare(&world.path("printed")))
            .arg(&tarball)
    };
    page.add("next to its source", &world, &agent().run());
    let result = world.path("demo-1.10-ubuntu-noble-1.406.tgz");
    page.add("the same glob again", &world, &agent().arg(&result).run());
    std::fs::write(&result, "damaged").unwrap();
    std::fs::set_permissions(&result, PermissionsExt::from_mode(0o600)).unwrap();
    page.add("with a damaged result", &world, &agent().arg(&result).run());
    page.is("earlier_results");
}
