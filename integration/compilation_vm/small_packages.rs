//! The time that the daemon adds to small packages.

use std::time::{Duration, Instant};

use super::scene::{Scene, is_possible, source};
use crate::common::ReleaseBuilder;
use crate::support::director::compile_stage::CompiledPackages;
use crate::support::vm::LIMIT;

/// Prints how long small packages take, from the request to the result, on a VM that compiles one after another.
#[tokio::test(flavor = "multi_thread")]
async fn ten_small_packages_are_compiled_within_seconds() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let base = "echo base >$BOSH_INSTALL_TARGET/file";
    let mut release = ReleaseBuilder::new("ten", "1").package("base", &[], base);
    for number in 1..10 {
        let script = "cat @packages@/base/file >$BOSH_INSTALL_TARGET/file";
        release = release.package(&format!("p{number}"), &["base"], script);
    }
    let release = source(&release);
    let (mut compiled, mut times) = (CompiledPackages::new(), Vec::new());
    for package in &release.packages {
        let start = Instant::now();
        let compiling = scene.director.compile(package, &compiled, &scene.blobs);
        let result = compiling.await.unwrap();
        times.push(start.elapsed());
        compiled.insert(package.name.clone(), result);
    }
    let total: Duration = times.iter().sum();
    eprintln!("ten packages: {total:.2?}: {times:.3?}");
    assert!(total < LIMIT, "{times:?}");
}
