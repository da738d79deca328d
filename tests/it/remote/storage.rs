//! The server loses blobs, has other bytes, or has no space for them.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Outcome, ReleaseBuilder, World};

use super::server::{Server, Sleep, files_below};
use super::{release, result};

/// The size of a source that cannot be compressed, in bytes.
const SOURCE: usize = 4 << 20;

/// Removes all blobs of a server, but no results of actions.
fn evict(server: &Server) {
    for file in files_below(&server.store().join("cas/objects")) {
        let _ = std::fs::remove_file(file);
    }
}

#[test]
fn results_whose_blobs_are_lost_are_compiled_again() {
    let Some(server) = Server::start() else {
        return;
    };
    let world = World::for_everybody();
    let tarball = world.release("release.tgz", &release());
    server.agent(&world).arg(&tarball).run().succeeds();
    let first = Outcome::of(&result(&world));
    evict(&server);
    let ran = server.agent(&world).arg(&tarball).run();
    ran.succeeds().says("Finished compiling release app/");
    assert_eq!(Outcome::of(&result(&world)), first);
}

#[test]
fn dependency_that_is_lost_meanwhile_is_compiled_again() {
    let Some(server) = Server::start() else {
        return;
    };
    let (world, sleep) = (World::for_everybody(), Sleep::of(2));
    let slow = format!("{}\ntouch $BOSH_INSTALL_TARGET/slow", sleep.line());
    let release = ReleaseBuilder::new("demo", "1")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/lib")
        .package("slow", &["lib"], &slow)
        .package(
            "app",
            &["lib", "slow"],
            "cat @packages@/lib/lib > $BOSH_INSTALL_TARGET/app",
        );
    let tarball = world.release("release.tgz", &release);
    let running = server.agent(&world).arg(&tarball).start();
    sleep.wait_until_it_runs();
    evict(&server);
    running.end().succeeds();
    world.agent().arg(&tarball).run().succeeds();
    let local = Outcome::of(&world.result("demo-1"));
    assert_eq!(Outcome::of(&result(&world)), local);
}

#[test]
fn wrong_bytes_of_the_server_are_reported() {
    let Some(server) = Server::start() else {
        return;
    };
    let world = World::for_everybody();
    let tarball = world.release("release.tgz", &release());
    server.agent(&world).arg(&tarball).run().succeeds();
    for file in files_below(&server.store().join("cas/objects")) {
        let mut bytes = std::fs::read(&file).unwrap();
        // Changes sources and compiled packages, which are compressed, and nothing else.
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
            std::fs::write(&file, bytes).unwrap();
        }
    }
    server
        .agent(&world)
        .arg(&tarball)
        .run()
        .blames_the_machine()
        .says("the machine has read other files than were sent");
}

#[test]
fn full_storage_ends_the_run_with_the_reason() {
    let program = std::fs::metadata(env!("CARGO_BIN_EXE_bosh-agent"))
        .unwrap()
        .len();
    let source: Vec<u8> = (0..SOURCE / 16)
        .flat_map(|_| uuid::Uuid::new_v4().into_bytes())
        .collect();
    let large = format!(
        "head -c {} /dev/urandom > $BOSH_INSTALL_TARGET/large",
        3 * SOURCE
    );
    let release = ReleaseBuilder::new("demo", "1")
        .package("lib", &[], &large)
        .file("source", 0o644, &source);
    // No space for the program, for the source, for the result.
    for (size, reason) in [
        (SOURCE as u64, "Blob size exceeds total storage allocation"),
        (program + SOURCE as u64 / 2, "Insufficient storage quota"),
        (program + 3 * SOURCE as u64, "storage quota"),
    ] {
        let Some(server) = Server::with_quota(size) else {
            return;
        };
        let world = World::for_everybody();
        let tarball = world.release("release.tgz", &release);
        server
            .agent(&world)
            .arg(&tarball)
            .run()
            .blames_the_machine()
            .says(&format!("the server grpc://127.0.0.1:{}", server.port))
            .says(reason);
        server.wait_until_idle();
        assert!(!result(&world).exists());
    }
}
