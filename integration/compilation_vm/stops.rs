//! The agent's end in the middle of a compile, and the beginning after it.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::scene::{Scene, is_possible, source_of_script};
use crate::common::wait_for;
use crate::support::director::compile_stage::CompiledPackages;
use crate::support::vm::{HostVm, LIMIT};

const NOTHING: CompiledPackages = CompiledPackages::new();

/// What is in the data directory: how many entries of each kind of name, numbers left out.
fn kinds_of_data(vm: &HostVm) -> Vec<String> {
    let entries = fs::read_dir(vm.base().join("data")).unwrap();
    let mut kinds: Vec<String> = entries
        .map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            // Temporary names end in random letters.
            match name.starts_with('.') {
                true => name[..name.len() - 6].to_owned(),
                false => name,
            }
        })
        .collect();
    kinds.sort();
    kinds
}

#[track_caller]
fn no_process_is_left(vm: &HostVm) {
    wait_for("the end of all processes", LIMIT, || {
        match vm.other_processes() {
            processes if processes.is_empty() => Ok(()),
            processes => Err(format!("{processes:?}")),
        }
    });
}

/// Starts a compile whose script hides a process from its group, and returns the task's id when that script runs.
async fn start_stubborn_compile(scene: &Scene, name: &str) -> String {
    let gate = scene.gate(name);
    let release = source_of_script(&format!(
        "trap '' TERM\nsetsid sleep 4444 & \n{}",
        gate.script()
    ));
    let package = release.package("app");
    let (_, task) = scene
        .director
        .start_compile(package, &NOTHING, &scene.blobs)
        .await;
    gate.reached();
    task
}

async fn still_works(scene: &Scene) {
    let release = source_of_script("echo done > $BOSH_INSTALL_TARGET/done");
    scene
        .director
        .compile_release(&release, &scene.blobs)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_compile_and_the_agent() {
    if !is_possible() {
        return;
    }
    let mut scene = Scene::ready().await;
    let before = kinds_of_data(&scene.vm);
    let task = start_stubborn_compile(&scene, "gate").await;
    let start = Instant::now();
    scene.vm.signal(Signal::SIGTERM);
    assert_eq!(scene.vm.ended(LIMIT), 1);
    let elapsed = start.elapsed();
    eprintln!("SIGTERM to exit with a stubborn script: {elapsed:.1?}");
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
    let told = "Agent exited with error: received signal (terminated): stopping now";
    assert!(scene.vm.log().contains(told));
    assert_eq!(scene.vm.other_processes(), [""; 0]);
    let after = kinds_of_data(&scene.vm);
    assert!(after.iter().all(|name| !name.starts_with('.')), "{after:?}");

    scene.vm.start();
    scene.director.wait_until_ready(LIMIT).await.unwrap();
    let failure = scene.director.wait_for_task(&task).await.unwrap_err();
    let text = failure.exception();
    assert!(
        text.starts_with(&format!("Action Failed get_task: Task {task} result: ")),
        "{text}"
    );
    still_works(&scene).await;
    assert_eq!(kinds_of_data(&scene.vm), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_killed_leaves_nothing_that_the_next_one_does_not_clear() {
    if !is_possible() {
        return;
    }
    let mut scene = Scene::ready().await;
    let before = kinds_of_data(&scene.vm);
    let mut tasks = Vec::new();
    for name in ["first", "second"] {
        let task = start_stubborn_compile(&scene, name).await;
        scene.vm.signal(Signal::SIGKILL);
        assert_eq!(scene.vm.ended(LIMIT), 137);
        scene.vm.start();
        scene.director.wait_until_ready(LIMIT).await.unwrap();
        let failure = scene.director.wait_for_task(&task).await.unwrap_err();
        let text = failure.exception();
        let start = format!("Action Failed get_task: Task {task} result: ");
        assert!(text.starts_with(&start), "{text}");
        no_process_is_left(&scene.vm);
        tasks.push((task, failure));
    }
    for (task, failure) in tasks {
        assert_eq!(scene.director.wait_for_task(&task).await, Err(failure));
    }
    still_works(&scene).await;
    assert_eq!(kinds_of_data(&scene.vm), before);
    let left = scene.vm.files("data/packages");
    assert!(left.is_empty(), "{left:?}");
}
