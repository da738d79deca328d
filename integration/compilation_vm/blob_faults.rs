//! Blobstores that fail: what passes is tried again, what does not is told.

use std::time::{Duration, Instant};

use super::scene::{Scene, is_possible, source_of_script};
use crate::support::blobstore::Blobstore;
use crate::support::director::Failure;
use crate::support::director::compile_stage::CompiledPackages;
use crate::support::faults::{Fault, FaultyServer};

const NOTHING: CompiledPackages = CompiledPackages::new();

/// A VM whose blobstore is behind a server that fails on demand.
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
    // Another package each time: nothing that was fetched before may help.
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

/// Faults that pass, each followed by a compile that must succeed.
async fn passing_faults(scene: &Scene, server: &FaultyServer, pause: Duration) {
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
async fn a_webdav_server_that_fails_for_a_while_is_asked_again() {
    let Some((scene, server)) = scene(false).await else {
        return;
    };
    passing_faults(&scene, &server, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webdav_server_that_goes_on_failing_is_told_of() {
    let Some((scene, server)) = scene(false).await else {
        return;
    };
    for (method, fault, told) in [
        ("GET", Fault::Status(403), "403"),
        ("GET", Fault::Status(500), "500"),
        ("GET", Fault::Spoiled, "digest"),
        ("GET", Fault::Dead, "Fetching package app"),
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
async fn signed_urls_that_fail_are_asked_again_and_never_told() {
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
