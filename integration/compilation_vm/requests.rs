//! Single requests: what is answered, what is refused, and in which words.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::scene::{
    Scene, certificate, director, file_in, is_possible, nats_machine, small_release, source,
    source_of_script, spec,
};
use crate::common::{ReleaseBuilder, wait_for};
use crate::support::blobstore::Blobstore;
use crate::support::certificates::{AGENT, BOOTSTRAP};
use crate::support::director::compile_stage::{CompiledPackages, order};
use crate::support::director::monitor::Monitor;
use crate::support::director::reply::is_uuid;
use crate::support::director::{Failure, PROMPT, manual_network};
use crate::support::nats::{NatsServer, connect};
use crate::support::vm::{HostVm, LIMIT};

const NOTHING: CompiledPackages = CompiledPackages::new();

/// A release of one package that installs one file.
const SMALL: &str = "echo done > $BOSH_INSTALL_TARGET/done";

// ---------------------------------------------------------------- compiles that end otherwise

#[tokio::test(flavor = "multi_thread")]
async fn a_running_compile_tells_its_progress_and_can_be_canceled() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let gate = scene.gate("gate");
    let release = source_of_script(&format!("echo what it does last\n{}", gate.script()));
    let package = release.package("app");
    let (_, task) = scene
        .director
        .start_compile(package, &NOTHING, &scene.blobs)
        .await;
    gate.reached();
    let running = scene
        .director
        .call("get_task", json!([task]))
        .await
        .unwrap();
    let keys: Vec<_> = running.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["agent_task_id", "progress", "state"]);
    assert_eq!(
        (&running["agent_task_id"], &running["state"]),
        (&json!(task), &json!("running"))
    );
    let progress = &running["progress"];
    assert_eq!(progress["phase"], "packaging", "{progress}");
    assert!(progress["seconds"].is_u64(), "{progress}");

    let canceled = scene.director.call("cancel_task", json!([task])).await;
    assert_eq!(canceled, Ok(json!("canceled")));
    let failure = scene.director.wait_for_task(&task).await.unwrap_err();
    let start = format!("Action Failed get_task: Task {task} result: Compiling package app: ");
    assert!(failure.exception().starts_with(&start), "{failure:?}");
    wait_for("the script's end", LIMIT, || {
        match scene.vm.other_processes() {
            processes if processes.is_empty() => Ok(()),
            processes => Err(format!("{processes:?}")),
        }
    });
    // Once more changes nothing, and the VM goes on working.
    let canceled = scene.director.call("cancel_task", json!([task])).await;
    assert_eq!(canceled, Ok(json!("canceled")));
    let next = source_of_script(SMALL);
    scene
        .director
        .compile_release(&next, &scene.blobs)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn compiles_take_turns_and_one_that_waits_can_be_canceled() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let (gate, other) = (scene.gate("gate"), scene.gate("other"));
    other.open();
    let [first, second] = [&gate, &other].map(|gate| source_of_script(&gate.script()));
    let (director, blobs) = (&scene.director, &scene.blobs);
    let (_, running) = director
        .start_compile(first.package("app"), &NOTHING, blobs)
        .await;
    gate.reached();
    let (_, waiting) = director
        .start_compile(second.package("app"), &NOTHING, blobs)
        .await;
    let (_, canceled) = director
        .start_compile(second.package("app"), &NOTHING, blobs)
        .await;
    let status = director.call("get_task", json!([waiting])).await.unwrap();
    assert_eq!(status["progress"]["phase"], "queued", "{status}");
    let cancel = director.call("cancel_task", json!([canceled])).await;
    assert_eq!(cancel, Ok(json!("canceled")));
    let failure = director.wait_for_task(&canceled).await.unwrap_err();
    assert!(
        failure.exception().contains("Compiling package app: "),
        "{failure:?}"
    );
    assert_eq!(other.runs(), 0, "two scripts at once");
    gate.open();
    director.wait_for_task(&running).await.unwrap();
    director.wait_for_task(&waiting).await.unwrap();
    assert_eq!((gate.runs(), other.runs()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_script_is_told_in_the_words_of_the_go_agent() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let release =
        source_of_script("echo first\necho so far so good\necho the reason >&2\nexit 42\n");
    let failure = scene
        .director
        .compile(release.package("app"), &NOTHING, &scene.blobs)
        .await
        .unwrap_err();
    let text = failure.exception();
    assert!(text.starts_with("Action Failed get_task: Task "), "{text}");
    let words = "result: Compiling package app: Running packaging script: Running packaging script: \
                 Command exited with 42; Stdout: ";
    assert!(text.contains(words), "{text}");
    for part in ["so far so good", ", Stderr: ", "the reason"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // A long output is cut.
    let release = source_of_script(
        "for i in {1..20000}; do echo line $i; done 2>/dev/null\necho the end\nexit 1\n",
    );
    let failure = scene
        .director
        .compile(release.package("app"), &NOTHING, &scene.blobs)
        .await
        .unwrap_err();
    let text = failure.exception();
    assert!(
        text.contains("; Truncated stdout: ") && text.contains("the end"),
        "{text}"
    );
    assert!(text.len() < 30_000, "{} bytes", text.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_there_or_not_what_it_should_be_is_refused() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let gate = scene.gate("gate");
    gate.open();
    let release = source_of_script(&gate.script());
    let mut package = release.package("app").clone();
    let absent = "00000000-0000-4000-8000-000000000000";
    let director = &scene.director;
    let failure = director
        .compile_from(&package, absent, &NOTHING, &scene.blobs)
        .await
        .unwrap_err();
    let text = failure.exception();
    assert!(
        text.contains("Fetching package app") && text.contains(absent),
        "{text}"
    );

    package.digest = format!("sha256:{}", "0".repeat(64));
    let failure = director
        .compile(&package, &NOTHING, &scene.blobs)
        .await
        .unwrap_err();
    let text = failure.exception();
    assert!(
        text.contains("Fetching package app") && text.contains(&package.digest),
        "{text}"
    );
    assert_eq!(gate.runs(), 0, "a wrong source was run");
    package.digest = "md5:abc".to_owned();
    let failure = director
        .compile(&package, &NOTHING, &scene.blobs)
        .await
        .unwrap_err();
    failure.exception();
    assert_eq!(gate.runs(), 0, "a source that cannot be verified was run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependency_that_is_not_there_or_not_what_it_should_be_is_never_installed() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let gate = scene.gate("gate");
    gate.open();
    let release = source(
        &ReleaseBuilder::new("two", "1")
            .package("lib", &[], SMALL)
            .package("app", &["lib"], &gate.script()),
    );
    let mut compiled = NOTHING;
    let director = &scene.director;
    let lib = director
        .compile(release.package("lib"), &NOTHING, &scene.blobs)
        .await
        .unwrap();
    let (mut wrong, mut absent) = (lib.clone(), lib.clone());
    wrong.digest = "0".repeat(40);
    absent.blob = "00000000-0000-4000-8000-000000000000".to_owned();
    absent.digest = "1".repeat(40);
    for (bad, told) in [(wrong, &lib.blob), (absent.clone(), &absent.blob)] {
        compiled.insert("lib".to_owned(), bad);
        let failure = director
            .compile(release.package("app"), &compiled, &scene.blobs)
            .await
            .unwrap_err();
        let text = failure.exception();
        assert!(
            text.contains("Installing dependent package: 'lib': "),
            "{text}"
        );
        assert!(text.contains(told.as_str()), "{text}");
    }
    assert_eq!(gate.runs(), 0, "it was compiled against something wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependency_is_fetched_once() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let release = source(
        &ReleaseBuilder::new("three", "1")
            .package("lib", &[], SMALL)
            .package(
                "first",
                &["lib"],
                "cat @packages@/lib/done > $BOSH_INSTALL_TARGET/is",
            )
            .package(
                "second",
                &["lib"],
                "cat @packages@/lib/done > $BOSH_INSTALL_TARGET/is",
            ),
    );
    let lib = scene
        .director
        .compile(release.package("lib"), &NOTHING, &scene.blobs)
        .await
        .unwrap();
    let mut compiled = NOTHING;
    compiled.insert("lib".to_owned(), lib.clone());
    let first = release.package("first");
    scene
        .director
        .compile(first, &compiled, &scene.blobs)
        .await
        .unwrap();
    scene.blobs.remove(&lib.blob);
    let second = release.package("second");
    let second = scene
        .director
        .compile(second, &compiled, &scene.blobs)
        .await
        .unwrap();
    assert_eq!(file_in(&scene.blobs.path(&second.blob), "is"), "done\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependency_that_a_script_changes_is_fetched_again() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let data = scene.vm.base().join("data");
    // In namespaces, the script's own tree covers the base directory, and an empty one the work directory.
    let evil = format!(
        "cd $BOSH_INSTALL_TARGET; base={0}; umount -l $base; umount -l $base/data/.bosh-agent-work-*\n\
         for file in $base/data/.bosh-agent-work-*/store/*/lib/done; do\n\
           touch -r $file time; echo evil > $file; touch -r time $file\ndone\necho done > done\n",
        scene.vm.base().display()
    );
    let look = "set -e; cat @packages@/lib/done > $BOSH_INSTALL_TARGET/is";
    let release = source(
        &ReleaseBuilder::new("three", "1")
            .package("lib", &[], SMALL)
            .package("evil", &[], &evil)
            .package("app", &["lib"], look),
    );
    let compile = async |name: &str, compiled: &CompiledPackages| {
        let package = release.package(name);
        let compiling = scene.director.compile(package, compiled, &scene.blobs);
        compiling.await.unwrap()
    };
    let lib = compile("lib", &NOTHING).await;
    compile("evil", &NOTHING).await;
    let trees = || -> Vec<_> {
        let works = fs::read_dir(&data).unwrap().flatten();
        let stores = works.filter_map(|work| fs::read_dir(work.path().join("store")).ok());
        let trees = stores
            .flatten()
            .flatten()
            .map(|it| it.path().join("lib/done"));
        trees.filter(|file| file.exists()).collect()
    };
    let [tree] = trees().try_into().unwrap();
    if fs::read_to_string(&tree).unwrap() == "done\n" {
        // The script cannot reach it, so another program does.
        fs::write(&tree, "evil\n").unwrap();
    }
    let compiled = CompiledPackages::from([("lib".to_owned(), lib)]);
    let app = compile("app", &compiled).await;
    assert_eq!(file_in(&scene.blobs.path(&app.blob), "is"), "done\n");
    assert!(!tree.exists());
    let log = scene.vm.log();
    assert!(
        log.contains("an installed package was changed: it is fetched again"),
        "{log}"
    );
    assert!(log.contains("`done` (contents or times)"), "{log}");
    assert!(log.contains("the packaging script of `evil` ran"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_elsewhere_are_refused() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let release = small_release();
    let package = release.package("base");
    let source = scene.blobs.put_file(&package.blob);
    let outside = || -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(scene.vm.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = outside();
    for name in ["../../evil", "..", ".", "", "/etc/evil", "a/b", "a\0b"] {
        let mut named = package.clone();
        name.clone_into(&mut named.name);
        let failure = scene
            .director
            .compile_from(&named, &source, &NOTHING, &scene.blobs)
            .await
            .unwrap_err();
        failure.exception();
        let mut order = order(package, &source, &NOTHING, &scene.blobs);
        order.arguments[4] =
            json!({ "x": { "name": name, "version": "1", "sha1": "ab", "blobstore_id": source } });
        let failure = scene
            .director
            .send(order.method, order.arguments)
            .await
            .unwrap_err();
        failure.exception();
    }
    for id in ["../../../etc/passwd", "/etc/passwd", ".."] {
        let failure = scene
            .director
            .compile_from(package, id, &NOTHING, &scene.blobs)
            .await
            .unwrap_err();
        failure.exception();
    }
    assert_eq!(outside(), before);
    scene
        .director
        .compile(package, &NOTHING, &scene.blobs)
        .await
        .unwrap();
}

// ---------------------------------------------------------------- other requests

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_is_refused_in_the_words_that_directors_know() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let director = &scene.director;
    for method in ["prepare_network_change", "", "PING", "släsh/🤷"] {
        let failure = director.call(method, json!([])).await.unwrap_err();
        assert_eq!(failure.exception(), format!("unknown message {method}"));
    }
    for method in ["get_task", "cancel_task"] {
        let failure = director.call(method, json!(["nobody"])).await.unwrap_err();
        let text = format!("Action Failed {method}: Task with id nobody could not be found");
        assert_eq!(failure.exception(), text);
        let failure = director.call(method, json!([])).await.unwrap_err();
        let text = format!(
            "Action Failed {method}: Extracting method arguments from payload: Not enough arguments, expected 1, got 0"
        );
        assert_eq!(failure.exception(), text);
    }
    let failure = director
        .send("compile_package", json!(["a", "b"]))
        .await
        .unwrap_err();
    assert!(
        failure
            .exception()
            .contains("Not enough arguments, expected 5, got 2"),
        "{failure:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_not_for_a_compilation_vm() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let mut spec = spec();
    spec["job"]["templates"] =
        json!([{ "name": "web", "version": "1", "sha1": "ab", "blobstore_id": "x" }]);
    spec["rendered_templates_archive"] = json!({ "sha1": "ab", "blobstore_id": "x" });
    spec["packages"] =
        json!({ "app": { "name": "app", "version": "1.1", "sha1": "ab", "blobstore_id": "x" } });
    spec["configuration_hash"] = json!("abc");
    let failure = scene
        .director
        .send("apply", json!([spec]))
        .await
        .unwrap_err();
    let text = failure.exception();
    assert!(text.starts_with("Action Failed get_task: Task "), "{text}");
    // It is still the VM that it was.
    scene.director.prepare(&super::scene::spec()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_has_the_spec_of_the_last_apply() {
    if !is_possible() {
        return;
    }
    let scene = Scene::new().await;
    let spec = spec();
    scene.director.prepare(&spec).await.unwrap();
    let state = scene.director.call("get_state", json!([])).await.unwrap();
    assert_eq!(
        state["networks"],
        manual_network(),
        "every key as it was sent"
    );
    for key in ["deployment", "index", "id"] {
        assert_eq!(state[key], spec[key], "{key}");
    }
    assert_eq!(state["job"]["name"], spec["job"]["name"]);
    assert_eq!(state["agent_id"], AGENT);
    assert_eq!(state["job_state"], "running");
    assert_eq!(state["vm"], json!({ "name": "c-1" }));
    assert!(state.get("vitals").is_none(), "{state}");
    let start = Instant::now();
    let full = scene
        .director
        .call("get_state", json!(["full"]))
        .await
        .unwrap();
    assert!(start.elapsed() < PROMPT, "`bosh vms` waits no longer");
    assert_vitals(&full["vitals"]);
    // A network that the settings do not have.
    let mut other = spec.clone();
    other["networks"]["more"] = json!({ "type": "dynamic", "cloud_properties": {} });
    let failure = scene
        .director
        .send("apply", json!([other]))
        .await
        .unwrap_err();
    assert!(
        failure
            .exception()
            .contains("Network 'more' is not found in settings"),
        "{failure:?}"
    );
}

#[track_caller]
fn assert_vitals(vitals: &Value) {
    let number = |value: &Value| {
        let text = value
            .as_str()
            .unwrap_or_else(|| panic!("no text: {value} in {vitals}"));
        text.parse::<f64>()
            .unwrap_or_else(|_| panic!("no number: {text} in {vitals}"))
    };
    for key in ["sys", "user", "wait"] {
        assert!(
            (0.0..=100.0).contains(&number(&vitals["cpu"][key])),
            "{vitals}"
        );
    }
    assert_eq!(vitals["load"].as_array().map(Vec::len), Some(3), "{vitals}");
    vitals["load"].as_array().unwrap().iter().for_each(|load| {
        number(load);
    });
    for kind in ["mem", "swap"] {
        number(&vitals[kind]["kb"]);
        assert!(
            (0.0..=100.0).contains(&number(&vitals[kind]["percent"])),
            "{vitals}"
        );
    }
    for key in ["percent", "inode_percent"] {
        assert!(
            (0.0..=100.0).contains(&number(&vitals["disk"]["system"][key])),
            "{vitals}"
        );
    }
    assert!(vitals["uptime"]["secs"].is_u64(), "{vitals}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_monitor_hears_a_heartbeat_at_once() {
    if !is_possible() {
        return;
    }
    let blobs = Blobstore::local();
    let server = NatsServer::start("server", &[AGENT]);
    let client = connect(&server, "monitor").await;
    let monitor = Monitor::new(&client).await;
    let vm = HostVm::create(nats_machine(&server, "agent", &blobs));
    let beats = wait_for("a heartbeat", LIMIT, || {
        match monitor.heard("heartbeat", AGENT) {
            beats if beats.is_empty() => Err("none yet".to_owned()),
            beats => Ok(beats),
        }
    });
    let beat = &beats[0];
    assert_vitals(&beat["vitals"]);
    assert_eq!(beat["job_state"], "running", "{beat}");
    assert_eq!(beat["deployment"], "", "nothing was applied yet: {beat}");
    assert_eq!(
        (&beat["job"], &beat["index"]),
        (&Value::Null, &Value::Null),
        "{beat}"
    );
    assert!(
        beat["number_of_processes"].is_null() || beat["number_of_processes"] == 0,
        "{beat}"
    );
    drop(vm);
    for kind in ["alert", "shutdown"] {
        assert_eq!(monitor.heard(kind, AGENT), [Value::Null; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_fetched_while_a_package_compiles() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let gate = scene.gate("gate");
    let release = source_of_script(&format!("echo in the log\n{}", gate.script()));
    let package = release.package("app");
    let (_, task) = scene
        .director
        .start_compile(package, &NOTHING, &scene.blobs)
        .await;
    gate.reached();
    let start = Instant::now();
    let logs = scene
        .director
        .send("fetch_logs", json!(["job", null]))
        .await
        .unwrap();
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    let blob = logs["blobstore_id"].as_str().unwrap();
    assert!(is_uuid(blob), "{logs}");
    let log = file_in(&scene.blobs.path(blob), "compilation/packaging.stdout.log");
    assert_eq!(log, "in the log\n");
    assert!(scene.director.status(&task).await.unwrap().is_running());
    gate.open();
    scene.director.wait_for_task(&task).await.unwrap();
    let failure = scene
        .director
        .send("fetch_logs", json!(["nonsense", []]))
        .await
        .unwrap_err();
    failure.exception();
}

#[tokio::test(flavor = "multi_thread")]
async fn new_credentials_of_the_bus_are_used_and_no_poll_is_lost() {
    if !is_possible() {
        return;
    }
    let blobs = Blobstore::local();
    let server = NatsServer::start("server", &[BOOTSTRAP, AGENT]);
    let mut vm = HostVm::create(nats_machine(&server, "bootstrap", &blobs));
    let director = director(&server).await;
    director.wait_until_ready(LIMIT).await.unwrap();
    let bus = json!({ "cert": certificate("agent") });
    vm.confide(&bus);
    let settings = json!({ "trusted_certs": "", "disk_associations": [], "mbus": bus });
    assert_eq!(director.update_settings(settings).await, Ok(json!("ok")));
    for exchange in director.exchanges() {
        if exchange.method != "ping" {
            assert!(exchange.elapsed < PROMPT, "{exchange}");
        }
    }
    director.prepare(&spec()).await.unwrap();
    wait_for("the new connection", LIMIT, || {
        let log = vm.log();
        match log.matches("connected to the message bus").count() {
            0 | 1 => Err("only the old one is up".to_owned()),
            _ => Ok(()),
        }
    });
    // The first certificate does not hold any more.
    server.allow(&[AGENT]);
    director.wait_until_ready(LIMIT).await.unwrap();
    let release = source_of_script(SMALL);
    director.compile_release(&release, &blobs).await.unwrap();
    vm.stays_up_for(Duration::from_millis(1));
    // Nor does it after a restart.
    vm.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(vm.ended(LIMIT), 1);
    vm.start();
    director.wait_until_ready(LIMIT).await.unwrap();
    director.compile_release(&release, &blobs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_abandoned_is_asked_to_shut_down_and_nobody_waits() {
    if !is_possible() {
        return;
    }
    let mut scene = Scene::ready().await;
    scene.director.fire_and_forget("shutdown", json!([])).await;
    wait_for("the request", LIMIT, || match scene.vm.log() {
        log if log.contains("shutdown") => Ok(()),
        log => Err(log),
    });
    // A dummy machine is somebody's own: it stays up.
    scene.vm.stays_up_for(Duration::from_millis(200));
    let pong = scene.director.request("ping", json!([]), LIMIT).await;
    assert_eq!(pong, Ok::<_, Failure>(json!("pong")));
}
