//! A message bus that is down, restarts, or does not accept the agent yet: results arrive, and no script runs twice.

use std::time::Duration;

use serde_json::json;

use super::scene::{Scene, director, is_possible, nats_machine, source_of_script, spec};
use crate::common::is_soak;
use crate::support::blobstore::Blobstore;
use crate::support::certificates::AGENT;
use crate::support::director::compile_stage::{CompiledPackages, result};
use crate::support::nats::NatsServer;
use crate::support::vm::{HostVm, LIMIT};

fn seconds(normal: u64, soak: u64) -> Duration {
    Duration::from_secs(if is_soak() { soak } else { normal })
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_waits_for_a_bus_that_is_down_at_the_start() {
    if !is_possible() {
        return;
    }
    let blobs = Blobstore::local();
    let mut server = NatsServer::prepare("server", &[AGENT]);
    let mut vm = HostVm::create(nats_machine(&server, "agent", &blobs));
    vm.stays_up_for(seconds(4, 60));
    server.launch();
    let director = director(&server).await;
    director.prepare(&spec()).await.unwrap();
    let release = source_of_script("echo done > $BOSH_INSTALL_TARGET/done");
    director.compile_release(&release, &blobs).await.unwrap();
    drop(vm);
}

#[tokio::test(flavor = "multi_thread")]
async fn result_of_a_compile_arrives_after_the_bus_restarts() {
    if !is_possible() {
        return;
    }
    let mut scene = Scene::ready().await;
    let gate = scene.gate("gate");
    let script = gate.script() + "echo done > $BOSH_INSTALL_TARGET/done";
    let release = source_of_script(&script);
    let package = release.package("app");
    let nothing = CompiledPackages::new();
    let (order, task) = scene
        .director
        .start_compile(package, &nothing, &scene.blobs)
        .await;
    gate.reached();
    scene.server.kill();
    // The compile ends while the bus is down.
    gate.open();
    scene.vm.stays_up_for(seconds(3, 30));
    scene.server.launch();
    let value = scene.director.wait_for_task(&task).await.unwrap();
    let compiled = result(package, &order, &value).unwrap();
    scene.blobs.check(&compiled);
    assert_eq!(gate.runs(), 1);
    assert_eq!(scene.director.count("compile_package"), 1);
    // A second request gets the same result.
    assert_eq!(scene.director.wait_for_task(&task).await, Ok(value));
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_agent_reconnects_until_the_bus_accepts_it() {
    if !is_possible() {
        return;
    }
    let blobs = Blobstore::local();
    let server = NatsServer::start("server", &[]);
    let mut vm = HostVm::create(nats_machine(&server, "agent", &blobs));
    vm.stays_up_for(seconds(4, 20));
    assert!(
        server.log().to_lowercase().contains("authentication error"),
        "it was not refused: {}",
        server.log()
    );
    server.allow(&[AGENT]);
    let director = director(&server).await;
    director.prepare(&spec()).await.unwrap();
    assert_eq!(
        director.request("ping", json!([]), LIMIT).await,
        Ok(json!("pong"))
    );
}
