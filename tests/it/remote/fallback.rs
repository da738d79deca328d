//! `--remote-fallback=local`: this machine compiles the rest if the server cannot be used.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use super::*;

/// A program for the machines that fails for one package, and is the agent for all others.
fn agent_that_fails_for(world: &World, package: &str) -> PathBuf {
    let path = world.path("agent");
    let mut options = std::fs::OpenOptions::new();
    options.create_new(true).write(true).mode(0o755);
    let mut file = options.open(&path).unwrap();
    let script = format!(
        "#!/bin/bash\n\
         grep -q '\"name\": *\"{package}\"' job.json && exit 4\n\
         tail -n +6 \"$0\" > /tmp/agent\n\
         chmod +x /tmp/agent\n\
         exec /tmp/agent \"$@\"\n"
    );
    file.write_all(script.as_bytes()).unwrap();
    let agent = std::fs::read(env!("CARGO_BIN_EXE_bosh-agent")).unwrap();
    file.write_all(&agent).unwrap();
    path
}

fn report(world: &World) -> serde_json::Value {
    serde_json::from_str(&world.read("report.json")).unwrap()
}

#[test]
fn server_that_is_not_reachable_is_replaced_by_this_machine() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    let agent = world.agent().args(&[
        "--remote",
        "grpc://127.0.0.1:1",
        "--remote-fallback=local",
        "--jobs=2",
    ]);
    let agent = agent.arg("--report").arg(world.path("report.json"));
    agent
        .arg(&tarball)
        .run()
        .succeeds()
        .says("Warning: the server grpc://127.0.0.1:1 is not used: ")
        .says("All packages will be compiled on this machine")
        .says("Finished compiling release app/");
    let report = report(&world);
    assert!(report["fallback"].as_str().unwrap().contains("127.0.0.1"));
    assert_eq!(report["isolation"], "none");
}

#[test]
fn packages_of_a_server_that_is_given_up_are_used() {
    let Some(server) = Server::start() else {
        return;
    };
    let world = World::for_everybody();
    let tarball = world.release("release.tgz", &release());
    let program = agent_that_fails_for(&world, "mid");
    let agent = server.agent(&world).arg("--remote-agent").arg(program);
    let agent = agent.arg("--report").arg(world.path("report.json"));
    let ran = agent.arg("--remote-fallback=local").arg(&tarball).run();
    let ran = ran
        .succeeds()
        .says("is given up: the program ended with exit code 4 and without a report")
        .says("The remaining 2 packages will be compiled on this machine")
        .says("Compiling package mid/");
    let of_lib = ran.stderr.matches("Compiling package lib/").count();
    assert_eq!(of_lib, 1, "{}", ran.stderr);
    let report = report(&world);
    assert!(report["fallback"].as_str().unwrap().contains("exit code 4"));
    assert_eq!(report["result"], "written");
    assert_eq!(report["summary"]["compiled"], 3);

    world.agent().arg(&tarball).run().succeeds();
    let local = Outcome::of(&world.result("demo-1"));
    assert_eq!(Outcome::of(&result(&world)), local);
}

#[test]
fn failed_script_causes_no_fallback() {
    let Some(server) = Server::start() else {
        return;
    };
    let world = World::for_everybody();
    let release = ReleaseBuilder::new("demo", "1").package("bad", &[], "exit 7");
    let tarball = world.release("release.tgz", &release);
    let agent = server.agent(&world).arg("--remote-fallback=local");
    agent
        .arg(&tarball)
        .run()
        .fails()
        .says("Error: failed to compile package bad/")
        .does_not_say("given up");
}

#[test]
fn package_that_failed_on_the_server_is_not_compiled_again() {
    let Some(server) = Server::start() else {
        return;
    };
    let world = World::for_everybody();
    let release = ReleaseBuilder::new("demo", "1")
        .package("bad", &[], "exit 7")
        .package("of-bad", &["bad"], "touch $BOSH_INSTALL_TARGET/file")
        .package("mid", &[], "touch $BOSH_INSTALL_TARGET/file");
    let tarball = world.release("release.tgz", &release);
    let program = agent_that_fails_for(&world, "mid");
    let agent = server.agent(&world).arg("--remote-agent").arg(program);
    let agent = agent.args(&["--remote-fallback=local", "--keep-going"]);
    let ran = agent.arg(&tarball).run();
    let ran = ran
        .fails()
        .says("The remaining package will be compiled on this machine")
        .says("Finished compiling release mid/")
        .says("Not compiled because they depend on bad: of-bad");
    let of_bad = ran.stderr.matches("Compiling package bad/").count();
    assert_eq!(of_bad, 1, "{}", ran.stderr);
}

#[test]
fn flags_about_this_machine_are_refused_with_the_reason() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    let agent = || world.agent().args(&["--remote", "grpc://127.0.0.1:1"]);
    for (flag, value, reason) in [
        ("--jobs", "2", "this machine compiles no packages"),
        ("--nice", "3", "the operator of the other machines"),
        ("--cache-dir", "/cache", "the server has a cache of its own"),
    ] {
        let ran = agent().args(&[flag, value]).arg(&tarball).run();
        ran.ends_with(2)
            .says(&format!("{flag} cannot be used with --remote: {reason}"));
    }
}
