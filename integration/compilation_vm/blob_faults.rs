//! Failing blobstores: temporary faults are retried, permanent ones reported.

use std::time::{Duration, Instant};

use serde_json::json;

use super::scene::{Scene, is_possible, source_of_script};
use crate::support::blobstore::Blobstore;
use crate::support::director::Failure;
use crate::support::director::compile_stage::{CompiledPackages, result};
use crate::support::faults::{Fault, FaultyServer};
use crate::support::vm::LIMIT;

const NOTHING: CompiledPackages = CompiledPackages::new();

/// A VM whose blobstore is behind a server with faults.
async fn scene(is_signed: bool) -> Option<(Scene, FaultyServer)> {
    if !is_possible() {
        return None;
    }
    let mut faulty = None;
    let endpoint = |real: &str| {
        let server = FaultyServer::before(real);
        let url = server.url();
        faulty = Some(server);
        url
    };
    let blobs = match is_signed {
        true => Blobstore::signed_urls_behind(endpoint)?,
        false => Blobstore::dav_behind(endpoint)?,
    };
    let scene = Scene::with(blobs).await.prepared().await;
    Some((scene, faulty?))
}

async fn compile(scene: &Scene) -> Result<(), Failure> {
    // Another package each time, so that no fetched blob is reused.
    let different = uuid::Uuid::new_v4();
    let release = source_of_script(&format!(
        "# {different}\nhead -c 300000 /dev/urandom > $BOSH_INSTALL_TARGET/data"
    ));
    scene
        .director
        .compile(release.package("app"), &NOTHING, &scene.blobs)
        .await
        .map(|_| ())
}

/// Temporary faults, each followed by a compile that must succeed.
async fn temporary_faults(scene: &Scene, server: &FaultyServer, pause: Duration) {
    use Fault::{Cut, Dead, Spoiled, Status};
    for (method, faults) in [
        ("GET", &[Status(500), Status(500)][..]),
        ("GET", &[Cut, Dead]),
        ("GET", &[Spoiled]),
        ("PUT", &[Status(500), Dead]),
    ] {
        server.plan(method, faults);
        let start = Instant::now();
        compile(scene).await.unwrap();
        assert_eq!(
            server.asked(method),
            faults.len() + 1,
            "{method} {faults:?}"
        );
        let pauses = pause * u32::try_from(faults.len()).unwrap();
        assert!(
            start.elapsed() >= pauses,
            "{method} {faults:?}: {:?}",
            start.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_faults_of_a_webdav_server_are_retried() {
    let Some((scene, server)) = scene(false).await else {
        return;
    };
    temporary_faults(&scene, &server, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_compile_waits_for_a_store_that_is_away() {
    for is_signed in [false, true] {
        let Some((scene, server)) = scene(is_signed).await else {
            return;
        };
        server.plan("PUT", &[Fault::Dead; 100]);
        let release = source_of_script("echo done > $BOSH_INSTALL_TARGET/done");
        let package = release.package("app");
        let director = &scene.director;
        let (order, task) = director
            .start_compile(package, &NOTHING, &scene.blobs)
            .await;
        wait_for_third_retry(&scene, &task, "uploading").await;
        server.plan("PUT", &[]);
        let value = director.wait_for_task(&task).await.unwrap();
        let compiled = result(package, &order, &value).unwrap();
        scene.blobs.check(&compiled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compile_waits_for_its_source_while_the_store_is_away() {
    for is_signed in [false, true] {
        let Some((scene, server)) = scene(is_signed).await else {
            return;
        };
        let director = &scene.director;
        let release = source_of_script("echo done > $BOSH_INSTALL_TARGET/done");
        let package = release.package("app");
        server.plan("GET", &[Fault::Dead; 100]);
        let (_, task) = director
            .start_compile(package, &NOTHING, &scene.blobs)
            .await;
        wait_for_third_retry(&scene, &task, "fetching").await;
        let canceled = director.call("cancel_task", json!([task])).await;
        assert_eq!(canceled, Ok(json!("canceled")));
        let failure = director.wait_for_task(&task).await.unwrap_err();
        assert!(failure.exception().contains("canceled"), "{failure:?}");

        server.plan("GET", &[Fault::Dead; 100]);
        let (order, task) = director
            .start_compile(package, &NOTHING, &scene.blobs)
            .await;
        wait_for_third_retry(&scene, &task, "fetching").await;
        server.plan("GET", &[]);
        let value = director.wait_for_task(&task).await.unwrap();
        let compiled = result(package, &order, &value).unwrap();
        scene.blobs.check(&compiled);
    }
}

/// Waits until the reply to a poll shows the third failed attempt of a transfer in this phase.
async fn wait_for_third_retry(scene: &Scene, task: &str, phase: &str) {
    let retried = "attempt 3 failed, the next one is in 4 s";
    loop {
        let status = scene.director.request("get_task", json!([task]), LIMIT);
        let status = status.await.unwrap();
        assert_eq!(status["state"], "running", "{status}");
        if status.to_string().contains(retried) {
            assert_eq!(status["progress"]["phase"], phase, "{status}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_faults_of_a_webdav_server_are_reported() {
    let Some((scene, server)) = scene(false).await else {
        return;
    };
    for (method, fault, told) in [
        ("GET", Fault::Status(403), "403"),
        ("GET", Fault::Status(404), "404"),
        ("GET", Fault::Spoiled, "digest"),
        ("GET", Fault::Status(401), "Fetching package app"),
        ("PUT", Fault::Status(403), "Uploading compiled package"),
    ] {
        server.plan(method, &[fault; 50]);
        let failure = compile(&scene).await.unwrap_err();
        let text = failure.exception();
        assert!(
            text.contains(told),
            "{method} {fault:?}: no {told:?} in {text}"
        );
        assert!(text.contains("Compiling package app"), "{text}");
        for secret in scene.blobs.secrets() {
            assert!(!text.contains(&secret), "a secret is in {text}");
        }
        let attempts = server.asked(method);
        assert!(
            (1..=12).contains(&attempts),
            "{method} {fault:?}: {attempts} attempts"
        );
    }
    server.plan("GET", &[]);
    compile(&scene).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_signed_urls_are_retried_and_not_printed() {
    let Some((scene, server)) = scene(true).await else {
        return;
    };
    server.plan("GET", &[Fault::Status(500)]);
    compile(&scene).await.unwrap();
    assert_eq!(server.asked("GET"), 2);
    server.plan("GET", &[Fault::Status(403); 50]);
    let failure = compile(&scene).await.unwrap_err();
    let text = failure.exception();
    assert!(text.contains("403"), "{text}");
    for secret in scene.blobs.secrets() {
        assert!(!text.contains(&secret), "a signature is in {text}");
    }
    server.plan("PUT", &[Fault::Status(500)]);
    compile(&scene).await.unwrap();
}
