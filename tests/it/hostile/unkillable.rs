//! A process that cannot be killed fails its own package; other packages, the next run and the next request of a daemon are compiled.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use bosh_agent::sandbox::Isolation;
use serde_json::json;

use crate::support::{
    Hanging, LANDLOCK, NAMESPACE, NONE, Place, Play, ReleaseBuilder, Tier, USERNS_OF_A_USER,
    USERNS_OF_ROOT, World, in_tiers,
};

in_tiers!(other_packages_and_the_next_run_are_compiled: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

const LIMIT: Duration = Duration::from_secs(60);

/// Leaves a process that hangs in the file system `@world@/hanging`.
const HANGING: &str =
    "stat @world@/hanging/x & while [ ! -e @world@/facts/hung ]; do sleep 0.01; done";

fn hanging_script(world: &World) -> String {
    HANGING.replace("@world@", world.path("").to_str().unwrap())
}

mod bodies {
    use super::*;

    pub(super) fn other_packages_and_the_next_run_are_compiled(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount(&place.world) else {
            return;
        };
        let fine = "echo fine > $BOSH_INSTALL_TARGET/file";
        let bad = ReleaseBuilder::new("bad", "1")
            .package("a", &[], &hanging_script(&place.world))
            .package("b", &["a"], "touch $FACTS/b")
            .package("c", &[], fine);
        let good = ReleaseBuilder::new("demo", "1.10").package("d", &[], fine);
        let bad = place.world.release("bad.tgz", &bad);
        let good = place.world.release("good.tgz", &good);
        for tarball in [&bad, &good] {
            std::fs::set_permissions(tarball, PermissionsExt::from_mode(0o644)).unwrap();
        }
        let start = Instant::now();
        place
            .agent()
            .arg("--keep-going")
            .args(&[&bad, &good])
            .run()
            .blames_the_machine()
            .says("a process of the packaging script of `a` cannot be killed: `stat` (process ")
            .says("Compiled, but discarded because the release is incomplete: c\n")
            .says("Not compiled because they depend on a: b\n");
        assert_eq!(place.file("d", "file"), "100644 fine\n");
        assert!(!place.world.path("facts/b").exists());
        std::fs::remove_file(place.world.result("demo-1.10")).unwrap();
        // That process still hangs.
        place.agent().arg(&good).run().succeeds();
        assert_eq!(place.file("d", "file"), "100644 fine\n");
        assert!(start.elapsed() < LIMIT);
    }
}

async fn fails_only_its_own_request(isolation: Isolation) {
    let mount = |world: &World| Hanging::mount(world);
    let Some((play, _hanging)) = Play::isolated_after(isolation, mount) else {
        return;
    };
    let script = hanging_script(&play.world);
    let task = play.order(&play.source("app", &script, json!({}))).await;
    let message = play.failure(&task).await;
    assert!(
        message.contains("a process of the packaging script of `app` cannot be killed: `stat` ("),
        "{message}"
    );
    for name in ["app", "other"] {
        let script = "echo fine >$BOSH_INSTALL_TARGET/file";
        let task = play.order(&play.source(name, script, json!({}))).await;
        let end = play.end(&task).await;
        assert!(end["value"]["result"].is_object(), "{end}");
    }
    assert!(play.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_with_namespaces_compiles_the_next_request() {
    fails_only_its_own_request(Isolation::Namespace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_with_user_namespaces_compiles_the_next_request() {
    fails_only_its_own_request(Isolation::Userns).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_with_landlock_compiles_the_next_request() {
    fails_only_its_own_request(Isolation::Landlock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_without_isolation_compiles_the_next_request() {
    fails_only_its_own_request(Isolation::None).await;
}
