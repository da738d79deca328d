//! The life of a compilation VM, request by request.

use serde_json::json;

use super::scene::{Scene, file_in, https_machine, is_possible, small_release, spec};
use crate::common::{contents, extract};
use crate::support::blobstore::Blobstore;
use crate::support::director::compile_stage::CompiledPackages;
use crate::support::director::{Director, Exchange, PROMPT};
use crate::support::vm::{HostVm, LIMIT};

/// Compiles the generated release and checks the results.
async fn compile_small_release(director: &Director, blobs: &Blobstore) -> CompiledPackages {
    let release = small_release();
    let compiled = director.compile_release(&release, blobs).await.unwrap();
    assert_eq!(compiled.len(), 3);
    let said = file_in(&blobs.path(&compiled["top"].blob), "said");
    let version = &release.package("top").version;
    assert_eq!(said, format!("tool\ntop {version}\n"));
    let tree = tempfile::tempdir().unwrap();
    extract(&blobs.path(&compiled["base"].blob), tree.path());
    let files = contents(tree.path());
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["", "bin", "bin/alias", "bin/same", "bin/tool", "empty"]
    );
    assert_eq!(files["bin/alias"], "120777 tool");
    assert_eq!(files["bin/tool"], "100755 #!/bin/sh\necho tool\n");
    assert_eq!(files["empty"], "40750 ");
    compiled
}

/// Checks the replies that reported a running task, and that all replies were fast.
fn check_exchanges(exchanges: &[Exchange]) {
    for exchange in exchanges.iter().filter(|it| it.method != "ping") {
        assert!(exchange.elapsed < PROMPT, "slow: {exchange}");
        assert!(exchange.reply.is_some(), "lost: {exchange}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn release_is_compiled_over_nats_with_a_shared_directory() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let prepared = scene.director.exchanges();
    let requests = prepared.iter().filter(|it| it.method != "ping");
    let elapsed: std::time::Duration = requests.map(|it| it.elapsed).sum();
    let polls = scene.director.count("get_task");
    eprintln!("update_settings to get_state: {elapsed:.3?}, {polls} polls for 2 tasks");
    compile_small_release(&scene.director, &scene.blobs).await;
    check_exchanges(&scene.director.exchanges());
    assert_eq!(scene.director.bus().strays(), [""; 0]);
    assert!(
        !scene.server.log().contains("Violation"),
        "{}",
        scene.server.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn release_is_compiled_with_a_webdav_server() {
    let Some(blobs) = Blobstore::dav().filter(|_| is_possible()) else {
        return;
    };
    let scene = Scene::with(blobs).await.prepared().await;
    compile_small_release(&scene.director, &scene.blobs).await;
    check_exchanges(&scene.director.exchanges());
}

#[tokio::test(flavor = "multi_thread")]
async fn release_is_compiled_with_signed_urls() {
    let Some(blobs) = Blobstore::signed_urls().filter(|_| is_possible()) else {
        return;
    };
    let scene = Scene::with(blobs).await.prepared().await;
    let compiled = compile_small_release(&scene.director, &scene.blobs).await;
    for package in compiled.values() {
        assert!(package.digest.contains(";sha512:"), "{package:?}");
    }
    assert_eq!(scene.director.count("compile_package"), 0);
    check_exchanges(&scene.director.exchanges());
}

#[tokio::test(flavor = "multi_thread")]
async fn release_is_compiled_over_https() {
    if !is_possible() {
        return;
    }
    let blobs = Blobstore::local();
    let (machine, bus) = https_machine(&blobs);
    let _vm = HostVm::create(machine);
    let director = Director::new(bus, crate::support::certificates::AGENT).hurried();
    director.prepare(&spec()).await.unwrap();
    compile_small_release(&director, &blobs).await;
    check_exchanges(&director.exchanges());
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_waits_for_its_settings() {
    if !is_possible() {
        return;
    }
    let blobs = Blobstore::local();
    let server =
        crate::support::nats::NatsServer::start("server", &[crate::support::certificates::AGENT]);
    let mut vm = HostVm::boot(super::scene::nats_machine(&server, "agent", &blobs));
    vm.stays_up_for(std::time::Duration::from_secs(1));
    vm.deliver_settings();
    let director = super::scene::director(&server).await;
    director.prepare(&spec()).await.unwrap();
    assert_eq!(
        director.request("ping", json!([]), LIMIT).await,
        Ok(json!("pong"))
    );
}
