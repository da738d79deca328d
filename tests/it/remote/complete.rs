//! A package fails while results of other releases are downloaded: a release whose packages are all compiled is written.

use super::*;
use crate::support::build_server::{BuildServer, Model};
use crate::support::{Running, wait_until};

/// The size of the packages, which differs from those of reports and logs.
const PACKAGE: usize = 100_000;

fn server() -> BuildServer {
    BuildServer::start(Model {
        package: PACKAGE,
        failing: &["bad"],
        ..Model::default()
    })
}

/// A release that can be completed.
fn good() -> ReleaseBuilder {
    let packages = (1..6).map(|number| format!("good-{number}"));
    packages.fold(ReleaseBuilder::new("good", "1"), |release, name| {
        release.package(&name, &[], "true")
    })
}

/// A release with a package that fails.
fn bad(script: &str) -> ReleaseBuilder {
    ReleaseBuilder::new("bad", "1")
        .package("part", &[], "true")
        .package("bad", &[], script)
}

fn agent(world: &World, server: &BuildServer, flags: &[&str]) -> Agent {
    world.agent().args(&["--remote", &server.url()]).args(flags)
}

/// Lets the downloads continue after the failure, and checks the results.
fn assert_complete(world: &World, server: &BuildServer, running: Running) {
    wait_until("the failure", || running.stderr().contains("Package bad/"));
    server.state().downloads.open();
    running
        .end()
        .fails()
        .says("Error: failed to compile package bad/");
    assert!(world.result("good-1").exists());
    assert!(!world.result("bad-1").exists());
}

#[test]
fn release_is_written_although_another_one_fails_elsewhere() {
    let (world, server) = (World::new(), server());
    let releases = [("bad.tgz", bad("true")), ("good.tgz", good())];
    let releases = releases.map(|(name, release)| world.release(name, &release));
    server.state().downloads.close();
    server.state().failures.close();
    let running = agent(&world, &server, &[]).args(&releases).start();
    // The reports of all other packages are read, and four packages and logs are downloaded at a time.
    wait_until("the downloads", || server.state().downloads.waiting() >= 4);
    let reads = || server.state().counts().get("Read").map(|it| it.calls);
    wait_until("the reports", || reads() == Some(6 + 4 + 4));
    server.state().failures.open();
    assert_complete(&world, &server, running);
}

#[test]
fn release_on_the_server_is_written_although_another_one_fails_here() {
    let (world, server) = (World::new(), server());
    let marker = world.path("go");
    let script = format!(
        "until [ -e {} ]; do sleep 0.1; done; exit 7",
        marker.display()
    );
    // The server gets the results of all packages but one.
    let part = ReleaseBuilder::new("part", "1").package("part", &[], "true");
    let releases = [
        ("part.tgz", part),
        ("good.tgz", good()),
        ("bad.tgz", bad(&script)),
    ];
    let [part, good, bad] = releases.map(|(name, release)| world.release(name, &release));
    let agent_with = |flags| agent(&world, &server, flags);
    agent_with(&[]).args(&[&part, &good]).run().succeeds();
    std::fs::remove_dir_all(world.out()).unwrap();
    server.state().downloads.close();
    let running = agent_with(&["--remote-cache-only"])
        .args(&[&bad, &good])
        .start();
    wait_until("the downloads", || server.state().downloads.waiting() >= 4);
    std::fs::write(&marker, "").unwrap();
    assert_complete(&world, &server, running);
}

#[test]
fn result_of_an_earlier_run_names_its_machine() {
    let (world, server) = (World::new(), server());
    let tarball = world.release("good.tgz", &good());
    let run = |flags: &[&str]| {
        let agent = agent(&world, &server, flags).arg("--report");
        let ran = agent.arg(world.path("report.json")).arg(&tarball).run();
        let report: serde_json::Value = serde_json::from_str(&world.read("report.json")).unwrap();
        let machine = &report["packages"][0]["machine"];
        assert_eq!(machine["name"], "machine-of-good-1", "{machine}");
        ran.succeeds()
    };
    run(&[]).says("on machine-of-good-1");
    for flags in [&[][..], &["--remote-cache-only"]] {
        run(flags)
            .says("Using the result of an earlier run for good-1/")
            .says("(compiled on machine-of-good-1)\n");
    }
}
