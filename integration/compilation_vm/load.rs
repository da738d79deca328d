//! Load tests: many compiles, and scripts that use all CPUs.

use std::time::{Duration, Instant};

use serde_json::json;

use super::scene::{Scene, is_possible, small_release, source_of_script};
use crate::common::is_soak;
use crate::support::director::compile_stage::CompiledPackages;

const NOTHING: CompiledPackages = CompiledPackages::new();

#[tokio::test(flavor = "multi_thread")]
async fn many_compiles_leave_only_installed_packages() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    eprintln!("idle: {}", scene.vm.usage());
    let release = small_release();
    let rounds = if is_soak() { 100 } else { 7 };
    let compile = || async {
        let compiled = scene.director.compile_release(&release, &scene.blobs).await;
        compiled.unwrap()
    };
    for _ in 0..3 {
        compile().await;
    }
    // Installed packages stay while there is room, as later compiles may need them.
    let others = || {
        let mut files = scene.vm.files("");
        files.retain(|path| !path.components().any(|part| part.as_os_str() == "store"));
        // Written with every heartbeat, so it may not exist yet.
        files.retain(|path| !path.ends_with("instance/health.json"));
        files.sort();
        files
    };
    let (before, others_before) = (scene.vm.usage(), others());
    eprintln!("after 9 compiles: {before}");
    for _ in 0..rounds {
        compile().await;
    }
    let after = scene.vm.usage();
    eprintln!("after {} more: {after}", 3 * rounds);
    assert!(
        after.descriptors <= before.descriptors + 2,
        "descriptors leak"
    );
    assert_eq!(others(), others_before, "files are left");
    // The three packages install six names.
    assert!(after.files <= before.files + 6 * rounds, "{after:?}");
    assert!(
        after.resident <= before.resident + (6 << 20),
        "memory leaks"
    );
    assert_eq!(scene.vm.other_processes(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_answers_while_a_script_uses_every_cpu() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let gate = scene.gate("gate");
    let spin = "for i in 1 2 3 4 5 6; do (while :; do :; done) 2>/dev/null & done\nset +x\n";
    let release = source_of_script(&format!("{spin}{}kill $(jobs -p)", gate.script()));
    let package = release.package("app");
    let (_, task) = scene
        .director
        .start_compile(package, &NOTHING, &scene.blobs)
        .await;
    gate.reached();
    let calls = if is_soak() { 200 } else { 40 };
    for (method, arguments) in [("ping", json!([])), ("get_task", json!([task]))] {
        let mut times = Vec::new();
        for _ in 0..calls {
            let start = Instant::now();
            scene
                .director
                .call(method, arguments.clone())
                .await
                .unwrap();
            times.push(start.elapsed());
        }
        times.sort();
        let [median, most] = [50, 95].map(|percent| times[calls * percent / 100]);
        eprintln!("{method} on a busy machine: median {median:.1?}, 95 % {most:.1?}");
        // The script's processes alone use some milliseconds of this.
        assert!(most < Duration::from_secs(1), "{method}: {most:?}");
    }
    gate.open();
    scene.director.wait_for_task(&task).await.unwrap();
}
