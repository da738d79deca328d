//! The server, a machine or a connection fails, or an action hangs: a right result or a clear error, and nothing stays behind.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Outcome, Ran, ReleaseBuilder, World};

use super::proxy::Proxy;
use super::result;
use super::server::{Server, Sleep, kill_machine_of};

/// The longest time in which a stopped run must end.
const PROMPT: Duration = Duration::from_secs(30);

/// Three packages in a chain. The second one sleeps, and has a source of `size` bytes, which it installs.
fn release(sleep: &Sleep, size: usize) -> ReleaseBuilder {
    let source: Vec<u8> = (0..size.div_ceil(16))
        .flat_map(|_| uuid::Uuid::new_v4().into_bytes())
        .collect();
    let slow = format!(
        "cp @packages@/lib/lib source $BOSH_INSTALL_TARGET\n{}",
        sleep.line()
    );
    ReleaseBuilder::new("demo", "1")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/lib")
        .package("slow", &["lib"], &slow)
        .file("source", 0o644, &source)
        .package(
            "app",
            &["slow"],
            "ls @packages@/slow > $BOSH_INSTALL_TARGET/app",
        )
}

/// Checks that a run has compiled the release, with the same contents as on this machine.
#[track_caller]
fn assert_compiled(world: &World, ran: Ran) {
    ran.succeeds().says("Finished compiling release app/");
    world
        .agent()
        .arg(world.path("release.tgz"))
        .run()
        .succeeds();
    let local = Outcome::of(&world.result("demo-1"));
    assert_eq!(Outcome::of(&result(world)), local);
}

#[test]
fn server_that_is_killed_and_restarted_compiles_the_release() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let (world, sleep) = (World::for_everybody(), Sleep::of(2));
    let tarball = world.release("release.tgz", &release(&sleep, 100));
    let running = server.agent(&world).arg(&tarball).start();
    sleep.wait_until_it_runs();
    server.kill();
    sleep.wait_until_it_is_gone();
    server.start_again();
    assert_compiled(&world, running.end());
}

#[test]
fn killed_machine_is_replaced() {
    let Some(server) = Server::start() else {
        return;
    };
    for program in ["bwrap", "buildbox-run"] {
        let (world, sleep) = (World::for_everybody(), Sleep::of(2));
        let tarball = world.release("release.tgz", &release(&sleep, 100));
        let running = server.agent(&world).arg(&tarball).start();
        sleep.wait_until_it_runs();
        for process in sleep.running() {
            kill_machine_of(process, program);
        }
        assert_compiled(&world, running.end());
        sleep.wait_until_it_is_gone();
    }
}

#[test]
fn cut_connections_are_replaced_and_the_execution_continues() {
    let Some(server) = Server::start() else {
        return;
    };
    let (world, sleep) = (World::for_everybody(), Sleep::of(3));
    let proxy = Proxy::before(server.port());
    // Stores the program, which is large in tests.
    let first = ReleaseBuilder::new("first", "1").package("first", &[], "true");
    let first = world.release("first.tgz", &first);
    server.agent(&world).arg(&first).run().succeeds();
    let tarball = world.release("release.tgz", &release(&sleep, 100));
    let agent = server.agent_at(&world, &proxy.url()).arg(&tarball);
    let running = agent.start();
    sleep.wait_until_it_runs();
    let process = sleep.running();
    proxy.cut();
    let ran = running.end();
    // The machine was not interrupted: the same process ran to its end.
    assert_eq!(process.len(), 1);
    assert_compiled(&world, ran);
}

#[test]
fn transfers_continue_after_cut_connections() {
    let Some(server) = Server::start() else {
        return;
    };
    let (world, sleep) = (World::for_everybody(), Sleep::of(1));
    let proxy = Proxy::before(server.port());
    let tarball = world.release("release.tgz", &release(&sleep, 12_000_000));
    // The first connection is cut while the program or the source is uploaded.
    proxy.cut_after(4_000_000);
    let running = server.agent_at(&world, &proxy.url()).arg(&tarball).start();
    sleep.wait_until_it_runs();
    assert!(proxy.has_cut());
    // This one is cut while the compiled package is downloaded.
    proxy.cut_after(6_000_000);
    let ran = running.end();
    assert!(proxy.has_cut());
    assert_compiled(&world, ran);
}

#[test]
fn server_stops_an_action_that_hangs() {
    let Some(server) = Server::start() else {
        return;
    };
    let (world, sleep) = (World::for_everybody(), Sleep::of(100_000));
    let tarball = world.release("release.tgz", &release(&sleep, 100));
    let agent = server.agent(&world).args(&["--remote-timeout", "3s"]);
    agent
        .arg(&tarball)
        .run()
        .blames_the_machine()
        .says("no result within the time limit of the action, 3.0s");
    sleep.wait_until_it_is_gone();
}

#[test]
fn stopped_run_stops_the_machines() {
    let Some(server) = Server::start() else {
        return;
    };
    let (world, sleep) = (World::for_everybody(), Sleep::of(100_000));
    let tarball = world.release("release.tgz", &release(&sleep, 100));
    let running = server.agent(&world).arg(&tarball).start();
    sleep.wait_until_it_runs();
    running.signal(Signal::SIGTERM);
    running.end_within(PROMPT).ends_with(143);
    sleep.wait_until_it_is_gone();
    assert!(!result(&world).exists());
}
