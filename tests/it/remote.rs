//! `compile --remote`: packages that a server of the Remote Execution API compiles, BuildBox's `buildbox-casd`.

mod cache_only;
mod complete;
mod example;
mod fallback;
mod faults;
mod plan;
mod proxy;
mod server;
mod speed;
mod storage;
mod tls;
mod wire;

use std::path::PathBuf;

use crate::support::{
    Agent, Outcome, ReleaseBuilder, STEMCELL, World, require_landlock, require_root,
};
use server::Server;

/// Packages in three layers; one of them is compiled already.
fn release() -> ReleaseBuilder {
    let uses = |of: &str, name: &str| {
        format!(
            "cat @packages@/{of}/{of} source > $BOSH_INSTALL_TARGET/{name}\n\
             mkdir $BOSH_INSTALL_TARGET/bin\n\
             ln -s ../{name} $BOSH_INSTALL_TARGET/bin/link\n\
             chmod 0751 $BOSH_INSTALL_TARGET/bin"
        )
    };
    ReleaseBuilder::new("demo", "1")
        .package("lib", &[], "cp source $BOSH_INSTALL_TARGET/lib")
        .file("source", 0o644, b"lib\n")
        .compiled("tool", &[], STEMCELL, ("tool", b"tool\n"))
        .package("mid", &["lib", "tool"], &uses("lib", "mid"))
        .file("source", 0o644, b"mid\n")
        .package("app", &["mid"], &uses("mid", "app"))
        .file("source", 0o644, b"app\n")
}

fn result(world: &World) -> PathBuf {
    let name = world.result("demo-1");
    world.path("elsewhere").join(name.file_name().unwrap())
}

#[test]
fn packages_compiled_elsewhere_have_the_same_contents() {
    let Some(server) = Server::start() else {
        return;
    };
    let world = World::for_everybody();
    let tarball = world.release("release.tgz", &release());
    let ran = server.agent(&world).arg(&tarball).run();
    ran.succeeds()
        .says("Finished compiling release app/")
        .does_not_say("Warning")
        .does_not_say("Using the result");
    let log = std::fs::read_to_string(world.log("demo-1", "mid")).unwrap();
    assert!(log.contains("chmod 0751"), "{log}");
    let first = std::fs::read(result(&world)).unwrap();

    // A second run executes nothing.
    let ran = server.agent(&world).arg(&tarball).run();
    ran.succeeds()
        .says("Using the result of an earlier run for app/")
        .does_not_say("Finished compiling release");
    assert!(std::fs::read(result(&world)).unwrap() == first);

    world.agent().arg(&tarball).run().succeeds();
    let local = Outcome::of(&world.result("demo-1"));
    assert_eq!(Outcome::of(&result(&world)), local);
}

#[test]
fn script_that_fails_elsewhere_is_reported_with_its_output() {
    let Some(server) = Server::start() else {
        return;
    };
    let world = World::for_everybody();
    let script = "echo about to fail\necho 'error: no such thing' >&2\nexit 7";
    let release = ReleaseBuilder::new("demo", "1")
        .package("bad", &[], script)
        .package("app", &["bad"], "touch $BOSH_INSTALL_TARGET/app");
    let tarball = world.release("release.tgz", &release);
    let ran = server.agent(&world).arg(&tarball).run();
    ran.fails()
        .says("  | about to fail\n")
        .says("Error: failed to compile package bad/")
        .says("error: no such thing\n")
        .says("Full log: ")
        .says("Not compiled because they depend on bad: app");
}

#[test]
fn server_that_executes_nothing_is_reported() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    let agent = world.agent().args(&["--remote", "grpc://127.0.0.1:1"]);
    agent
        .arg(&tarball)
        .run()
        .blames_the_machine()
        .says("cannot compile packages on the machines of `grpc://127.0.0.1:1`");
}

#[test]
fn client_certificate_needs_its_key_and_tls() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release());
    let agent = |url| {
        let agent = world.agent().args(&["--remote", url]).arg(&tarball);
        agent.env("BOSH_AGENT_REMOTE_CERTIFICATE", "/certificate")
    };
    agent("grpcs://127.0.0.1:1")
        .run()
        .ends_with(2)
        .says("`BOSH_AGENT_REMOTE_CERTIFICATE` is set without `BOSH_AGENT_REMOTE_KEY`");
    agent("grpc://127.0.0.1:1")
        .env("BOSH_AGENT_REMOTE_KEY", "/key")
        .run()
        .ends_with(2)
        .says("needs a server with grpcs://");
}
