//! What a compile leaves besides its result: uploaded logs and kept directories; and a blobstore that is replaced meanwhile.
use std::time::Duration;

use crate::support::{
    Agent, Daemon, Member, Play, Running, World, archive, listed, require_root, require_tools,
    sha1_of, wait_for,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// A daemon with these options for compilation.
fn daemon(world: &World, compilation: &Value) -> Running {
    Daemon::configure(world);
    let mut config: Value = serde_json::from_str(&world.read("agent.json")).unwrap();
    config["Compilation"] = compilation.clone();
    world.write("agent.json", config.to_string());
    Daemon::listening(Daemon::command(Agent::bare(&world.path("printed")), world))
}

/// Compiles a package with this script. Returns the reply to the last `get_task`.
fn compile(world: &World, script: &str) -> Value {
    let source = archive(&[Member::file("packaging", script.as_bytes())]);
    let blob = world.write("store/source", source);
    let arguments = json!(["source", sha1_of(&blob), "app", "1.1", {}]);
    let reply = |method, arguments: &Value| -> Value {
        serde_json::from_str(&Daemon::post(world, method, arguments)).unwrap()
    };
    let started = reply("compile_package", &arguments);
    let task = json!([started["value"]["agent_task_id"]]);
    wait_for("the end", LIMIT, || {
        let ended = reply("get_task", &task);
        match ended["value"]["state"] == "running" {
            true => Err(ended.to_string()),
            false => Ok(ended),
        }
    })
}

fn blob(world: &World, id: &Value) -> String {
    let id = id.as_str().unwrap_or_else(|| panic!("{id}"));
    world.read(&format!("store/{id}"))
}

const FAILING: &str = "echo some output\necho 'a.c:1:2: error: no such thing' >&2\nhead -c 5000 /dev/zero | tr '\\0' x\nexit 3\n";

#[test]
fn log_of_a_failed_package_is_uploaded() {
    if !require_root() || !require_tools(&["openssl", "curl"]) {
        return;
    }
    let world = World::new();
    let daemon = daemon(&world, &json!({"LogLimit": 2000}));
    let exception = &compile(&world, FAILING)["exception"];
    let log = blob(&world, &exception["blobstore_id"]);
    assert!(
        log.starts_with("--- stdout of the packaging script (5012 bytes) ---\nsome output\n"),
        "{log}"
    );
    assert!(log.contains("bytes left out ...]"), "{log}");
    assert!(
        log.contains("+ echo 'a.c:1:2: error: no such thing'"),
        "{log}"
    );
    assert!(log.len() < 2300, "{}", log.len());
    // The log of a success is not uploaded.
    let result = &compile(&world, "true")["value"]["result"];
    assert!(result["sha1"].is_string(), "{result}");
    assert_eq!(result["compile_log_id"], Value::Null);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().code, Some(1));
}

#[test]
fn logs_and_directories_are_kept_as_configured() {
    if !require_root() || !require_tools(&["openssl", "curl"]) {
        return;
    }
    let world = World::new();
    let options = json!({"UploadFailedLog": false, "UploadLog": true, "KeepFailed": true});
    let daemon = daemon(&world, &options);
    let exception = &compile(&world, &format!("echo x >file\n{FAILING}"))["exception"];
    assert_eq!(exception["blobstore_id"], Value::Null, "{exception}");
    let kept = world.base().join("data/.bosh-agent-failed");
    assert_eq!(
        std::fs::read_to_string(kept.join("app-1.1/compile/file")).unwrap(),
        "x\n"
    );
    assert!(kept.join("app-1.1/enter").exists());
    Daemon::wait_for_message(&daemon, "keeping the directories of the failed package");

    let ended = compile(&world, "echo compiled");
    let log = blob(&world, &ended["value"]["result"]["compile_log_id"]);
    assert!(
        log.contains("\ncompiled\n") && log.contains("+ echo compiled\n"),
        "{log}"
    );
    assert_eq!(listed(kept), [""; 0].map(std::path::PathBuf::from));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().code, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn result_goes_to_the_blobstore_that_replaced_another_meanwhile() {
    let play = Play::start();
    let gate = play.world.path("gate");
    let script = format!(
        "until [ -e {} ]; do sleep 0.05; done\necho x >$BOSH_INSTALL_TARGET/file",
        gate.display()
    );
    let task = play.order(&play.source("app", &script, json!({}))).await;
    play.phase(&task, "packaging").await;
    let other = play.world.path("other");
    let blobstore = json!({"provider": "local", "options": {"blobstore_path": other}});
    let settings = json!({"trusted_certs": "", "blobstores": [blobstore]});
    let update = play.ask("update_settings", json!([settings])).await;
    let update = update["value"]["agent_task_id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(play.end(&update).await, json!({"value": "ok"}));
    std::fs::write(gate, "").unwrap();
    let result = &play.end(&task).await["value"]["result"];
    let id = result["blobstore_id"].as_str().unwrap();
    assert!(other.join(id).exists(), "{result}");
    assert!(play.stop().await);
}
