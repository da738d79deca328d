//! Large packages go through shared caches in little memory.

use super::grpc::Casd;
use super::nginx::{Nginx, USER};
use crate::scale::{run_in_little_memory_and_count, scaled};
use crate::support::{ReleaseBuilder, World, unpacked};

/// Stores a large package in a shared cache, and takes it from there.
fn store_and_take(location: &str) {
    let world = World::new();
    let megabytes = scaled(1000);
    let large = format!("head -c {megabytes}M /dev/urandom > $BOSH_INSTALL_TARGET/data");
    let release = ReleaseBuilder::new("demo", "1.10").package("large", &[], &large);
    let tarball = world.release("release.tgz", &release);
    let run = |flags: &[&str]| {
        let agent = world.agent().args(flags).arg(location).arg(&tarball);
        let agent = agent.env("BOSH_AGENT_CACHE_USER", USER.0);
        let agent = agent.env("BOSH_AGENT_CACHE_PASSWORD", USER.1);
        let (ran, written) = run_in_little_memory_and_count(agent);
        (ran.does_not_say("Warning"), written)
    };
    run(&["--cache-to"]);
    let result = std::fs::read(world.result("demo-1.10")).unwrap();
    let local = world.path("local");
    for local in [&[][..], &["--cache-dir", local.to_str().unwrap()]] {
        let (ran, written) = run(&[local, &["--cache-from"]].concat());
        ran.says("The package is in the cache\n");
        // Once to verify it and to keep it in the local cache, and once in the result.
        let size = (megabytes as u64) << 20;
        assert!(
            written < 2 * size + size / 10,
            "{written} bytes were written for a package of {size} with {local:?}"
        );
        assert!(std::fs::read(world.result("demo-1.10")).unwrap() == result);
    }
    let (_scratch, files) = unpacked(&world.result("demo-1.10"), "large");
    assert_eq!(files.len(), 2, "{:?}", files.keys());
}

#[test]
fn directory_takes_a_large_package_in_little_memory() {
    let shared = tempfile::tempdir().unwrap();
    store_and_take(&shared.path().display().to_string());
}

#[test]
fn http_server_takes_a_large_package_in_little_memory() {
    let Some(nginx) = Nginx::start() else { return };
    store_and_take(&nginx.url());
}

#[test]
fn remote_execution_cache_takes_a_large_package_in_little_memory() {
    let Some(casd) = Casd::start() else { return };
    store_and_take(&casd.url());
}
