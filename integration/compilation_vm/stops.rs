//! Stops and kills of the agent during a compile, and the next start.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use super::scene::{Scene, is_possible, source, source_of_script};
use crate::common::{ReleaseBuilder, is_soak, wait_for};
use crate::support::blobstore::Blobstore;
use crate::support::director::compile_stage::CompiledPackages;
use crate::support::faults::{Fault, FaultyServer};
use crate::support::vm::{HostVm, LIMIT};

const NOTHING: CompiledPackages = CompiledPackages::new();

/// The names in the data directory, sorted, without the process and the random digits at the end of a work directory's.
fn kinds_of_data(vm: &HostVm) -> Vec<String> {
    let entries = fs::read_dir(vm.base().join("data")).unwrap();
    let mut kinds: Vec<String> = entries
        .map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let kind = name.split_once("-work-").map(|(kind, _)| kind.to_owned());
            kind.unwrap_or(name)
        })
        .collect();
    kinds.sort();
    kinds
}

#[track_caller]
fn assert_no_process_is_left(vm: &HostVm) {
    wait_for("the end of all processes", LIMIT, || {
        match vm.other_processes() {
            processes if processes.is_empty() => Ok(()),
            processes => Err(format!("{processes:?}")),
        }
    });
}

/// Starts a compile whose script moves a process out of its group. Returns the task's id when that script runs.
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

async fn assert_still_works(scene: &Scene) {
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
    assert!(elapsed < LIMIT, "{elapsed:?}");
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
    assert_still_works(&scene).await;
    assert_eq!(kinds_of_data(&scene.vm), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn next_agent_removes_the_leftovers_of_a_killed_one() {
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
        assert_no_process_is_left(&scene.vm);
        tasks.push((task, failure));
    }
    for (task, failure) in tasks {
        assert_eq!(scene.director.wait_for_task(&task).await, Err(failure));
    }
    assert_still_works(&scene).await;
    assert_eq!(kinds_of_data(&scene.vm), before);
    let left = scene.vm.files("data/packages");
    assert!(left.is_empty(), "{left:?}");
}

/// Creating a full-size tree takes minutes.
const LONG_LIMIT: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn next_agent_removes_huge_trees_of_killed_ones() {
    if !is_possible() {
        return;
    }
    let (files, levels) = match is_soak() {
        true => (1_000_000, 30_000),
        false => (5_000, 2_000),
    };
    let mut scene = Scene::ready().await;
    let before = kinds_of_data(&scene.vm);
    for round in 0..3 {
        let gate = scene.gate(&format!("huge-{round}"));
        let release = source_of_script(&format!(
            "set -e; cd $BOSH_COMPILE_TARGET; mkdir deep wide\n\
             perl -e 'chdir \"deep\"; for (1..{levels}) {{ mkdir \"d\" or die; chdir \"d\" or die }} open F, \">file\"'\n\
             perl -e 'chdir \"wide\"; for (1..{files}) {{ open F, \">$_\" or die }}'\n{}",
            gate.script()
        ));
        scene
            .director
            .start_compile(release.package("app"), &NOTHING, &scene.blobs)
            .await;
        gate.reached_within(LONG_LIMIT);
        scene.vm.signal(Signal::SIGKILL);
        assert_eq!(scene.vm.ended(LIMIT), 137);
        let start = Instant::now();
        scene.vm.start();
        scene.director.wait_until_ready(LONG_LIMIT).await.unwrap();
        eprintln!(
            "start after {files} files and {levels} levels: {:.1?}",
            start.elapsed()
        );
        assert_no_process_is_left(&scene.vm);
        // Its trees are removed while the agent serves requests.
        wait_for("the removal", LONG_LIMIT, || {
            let kinds = kinds_of_data(&scene.vm);
            (kinds == before).then_some(()).ok_or(format!("{kinds:?}"))
        });
        eprintln!("removed after {:.1?}", start.elapsed());
    }
    assert_still_works(&scene).await;
}

/// The phases in which a compile may be canceled or the agent stopped.
const PHASES: [&str; 5] = ["fetching", "unpacking", "packaging", "packing", "uploading"];

/// The size of a source, in bytes, that takes some time to unpack and to pack. The source is zeros, so that its blob is small.
const LONG: usize = 1 << 30;

/// Starts a compile that stays in this phase for some time. Returns its task's id when it has reached the phase. Starts another one if the
/// phase has ended before a poll: the machine may be slow just then.
async fn start_compile_until(scene: &Scene, server: &FaultyServer, phase: &str) -> String {
    for _ in 0..5 {
        let task = start_slow_compile(scene, server, phase).await;
        loop {
            let value = scene.director.call("get_task", json!([task])).await;
            let value = value.unwrap_or_else(|failure| panic!("{phase}: {failure:?}"));
            if value["state"] != "running" {
                assert!(value["result"].is_object(), "{phase}: {value}");
                break;
            }
            if value["progress"]["phase"] == phase {
                return task;
            }
        }
    }
    panic!("{phase}: no poll has seen this phase");
}

/// Starts a compile in which this phase is slow. Returns its task's id.
async fn start_slow_compile(scene: &Scene, server: &FaultyServer, phase: &str) -> String {
    server.plan("GET", &[]);
    let different = uuid::Uuid::new_v4();
    let mut script = format!("# {different}\ntrue");
    let mut content = 0;
    match phase {
        "fetching" => server.plan("GET", &[Fault::Silent]),
        "unpacking" => content = LONG,
        "packaging" => {
            script = format!("# {different}\ntrap '' TERM; setsid sleep 4444 & sleep 4444")
        }
        "packing" => {
            script = format!("# {different}\nhead -c {LONG} /dev/zero > $BOSH_INSTALL_TARGET/data")
        }
        _ => server.plan("PUT", &[Fault::Silent]),
    }
    let release = source(
        &ReleaseBuilder::new("stopped", "1")
            .package("app", &[], &script)
            .file("data", 0o644, &vec![0; content]),
    );
    let package = release.package("app");
    let (_, task) = scene
        .director
        .start_compile(package, &NOTHING, &scene.blobs)
        .await;
    task
}

/// The contents of the work directory, except packages that later compiles can use.
fn leftovers(vm: &HostVm) -> Vec<std::path::PathBuf> {
    let mut files = vm.files("data");
    files.retain(|path| {
        let path = path.to_string_lossy();
        path.contains(".bosh-agent-work-")
            && !path.ends_with("/.lock")
            && !path.ends_with("/processes")
    });
    files
}

/// A VM whose blobstore is behind a server that can stop responding.
async fn scene_with_faults() -> Option<(Scene, FaultyServer)> {
    if !is_possible() {
        return None;
    }
    let mut faulty = None;
    let blobs = Blobstore::dav_behind(|real| {
        let server = FaultyServer::before(real);
        let url = server.url();
        faulty = Some(server);
        url
    })?;
    Some((Scene::with(blobs).await.prepared().await, faulty?))
}

#[tokio::test(flavor = "multi_thread")]
async fn compile_is_canceled_in_every_phase() {
    let Some((scene, server)) = scene_with_faults().await else {
        return;
    };
    for phase in PHASES {
        let task = start_compile_until(&scene, &server, phase).await;
        let start = Instant::now();
        let canceled = scene.director.call("cancel_task", json!([task])).await;
        assert_eq!(canceled, Ok(json!("canceled")), "{phase}");
        let failure = scene.director.wait_for_task(&task).await.unwrap_err();
        eprintln!("canceled while {phase}: {:.1?}", start.elapsed());
        assert!(
            failure
                .exception()
                .ends_with("Compiling package app: the compilation was canceled"),
            "{phase}: {failure:?}"
        );
        assert_no_process_is_left(&scene.vm);
        assert_eq!(
            leftovers(&scene.vm),
            [""; 0].map(std::path::PathBuf::from),
            "{phase}"
        );
    }
    server.plan("GET", &[]);
    assert_still_works(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_agent_in_every_phase() {
    let Some((mut scene, server)) = scene_with_faults().await else {
        return;
    };
    for phase in PHASES {
        let task = start_compile_until(&scene, &server, phase).await;
        let start = Instant::now();
        scene.vm.signal(Signal::SIGTERM);
        assert_eq!(scene.vm.ended(LIMIT), 1, "{phase}");
        eprintln!("SIGTERM while {phase}: {:.1?}", start.elapsed());
        assert!(start.elapsed() < LIMIT, "{phase}");
        assert_eq!(scene.vm.other_processes(), [""; 0], "{phase}");
        assert_eq!(
            leftovers(&scene.vm),
            [""; 0].map(std::path::PathBuf::from),
            "{phase}"
        );
        scene.vm.start();
        scene.director.wait_until_ready(LIMIT).await.unwrap();
        // The task's result is still known.
        let failure = scene.director.wait_for_task(&task).await.unwrap_err();
        let text = failure.exception();
        assert!(
            text.ends_with("Compiling package app: the agent was stopped"),
            "{phase}: {text}"
        );
    }
    server.plan("GET", &[]);
    assert_still_works(&scene).await;
}
