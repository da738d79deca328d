mod stemcell;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::agent::{AgentOptions, CompilerOptions};
use crate::config::{
    AgentConfig, CompilationConfig, Environment, Settings, Source, UpdateSettings, Vcap,
};
use crate::fs;
use crate::machine::bootstrap::Platform;
use crate::machine::data::DataDirectory;
use crate::machine::settings::SettingsStore;
use crate::sandbox::{Isolation, UserNamespace};

/// A failed test ends after this time.
const LIMIT: Duration = Duration::from_secs(30);

fn agent(base: &std::path::Path) -> Agent {
    agent_on(base, Platform::Dummy)
}

/// An agent on this platform, whose root directory is `root` in `base`.
fn agent_on(base: &std::path::Path, platform: Platform) -> Agent {
    let vcap = Vcap::new(base);
    fs::create_dir_all(&vcap.bosh()).unwrap();
    let config = AgentConfig {
        sources: vec![Source::File {
            path: vcap.settings(),
        }],
        ..AgentConfig::default()
    };
    let environment = Environment::default();
    Agent::start(AgentOptions {
        compiler: CompilerOptions {
            vcap: vcap.clone(),
            environment: environment.clone(),
            // No request in these tests starts a script.
            fork_server: "/none".into(),
            who: "a test".to_owned(),
            removes_foreign: false,
            grace: Duration::ZERO,
            secrets: Vec::new(),
            isolation: Isolation::None,
            user_namespace: UserNamespace::Outside,
            config: CompilationConfig::default(),
            data: DataDirectory::prepared(&vcap),
            program: "/none".into(),
        },
        check_urls: |urls| match urls[0].expose() {
            "nats://invalid" => Err("an invalid URL".to_owned()),
            _ => Ok(()),
        },
        store: SettingsStore::new(&vcap, &config, &environment).unwrap(),
        environment,
        platform,
        root: base.join("root"),
        settings: Settings::from_json(
            json!({"agent_id": "a-1", "vm": {"name": "c-1"}, "mbus": "nats://10.0.0.6"}),
        )
        .unwrap(),
        update: UpdateSettings::default(),
    })
    .unwrap()
}

async fn ask(agent: &Agent, method: &str, arguments: Value) -> Value {
    let request = json!({"protocol": 3, "method": method, "arguments": arguments, "reply_to": "x"})
        .to_string();
    let answered = agent.handle(request.as_bytes(), None, false).await.unwrap();
    assert_eq!(
        (answered.method.as_str(), answered.reply_to.as_str()),
        (method, "x")
    );
    serde_json::from_slice(&answered.body).unwrap()
}

fn exception(reply: &Value) -> &str {
    reply["exception"]["message"].as_str().unwrap()
}

/// Starts a task and polls until it has ended. Returns its id and the last reply.
async fn task(agent: &Agent, method: &str, arguments: Value) -> (String, Value) {
    let started = ask(agent, method, arguments).await;
    assert_eq!(started["value"]["state"], "running", "{started}");
    let id = started["value"]["agent_task_id"].as_str().unwrap();
    let end = async {
        loop {
            let reply = ask(agent, "get_task", json!([id])).await;
            if reply["value"]["state"] != "running" {
                return reply;
            }
            tokio::task::yield_now().await;
        }
    };
    let end = tokio::time::timeout(LIMIT, end).await.unwrap();
    (id.to_owned(), end)
}

#[tokio::test]
async fn actions_reply_at_once_or_as_a_task() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    assert_eq!(
        ask(&agent, "ping", json!(null)).await,
        json!({"value": "pong"})
    );
    assert_eq!(
        ask(&agent, "info", json!([])).await,
        json!({"value": {"api_version": 1}})
    );
    let spec =
        json!([{"deployment": "dep", "id": "i-1", "job": {"name": "compilation-1"}, "index": 0}]);
    let (_, applied) = task(&agent, "apply", spec).await;
    assert_eq!(applied, json!({"value": "applied"}));
    let state = ask(&agent, "get_state", json!(["full"])).await;
    assert_eq!(state["value"]["deployment"], "dep");
    assert_eq!(state["value"]["agent_id"], "a-1");
    assert!(state["value"]["vitals"].is_object());
    let state = ask(&agent, "get_state", json!([])).await;
    assert!(state["value"].get("vitals").is_none());
    let (_, updated) = task(
        &agent,
        "update_settings",
        json!([{"trusted_certs": "", "disk_associations": []}]),
    )
    .await;
    assert_eq!(updated, json!({"value": "ok"}));
}

/// The conversation in which a Director deletes an instance, also after a refused `apply`.
#[tokio::test]
async fn instance_without_jobs_can_be_stopped_and_deleted() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    let mut shutdowns = agent.shutdowns();
    let spec = json!({"packages": {"redis": {}}});
    for (method, prefix) in [("apply", "Applying"), ("prepare", "Preparing apply spec")] {
        let (_, refused) = task(&agent, method, json!([spec])).await;
        let expected = format!(
            "{prefix}: the spec has packages to install, but this agent only compiles packages: use a stemcell with the Go agent"
        );
        assert!(exception(&refused).ends_with(&expected), "{refused}");
    }
    for (method, arguments, value) in [
        (
            "run_script",
            json!(["pre-stop", {"env": {"A": "b"}}]),
            json!({}),
        ),
        ("drain", json!(["update", {}]), json!(0)),
        ("drain", json!(["shutdown"]), json!(0)),
        ("stop", json!([]), json!("stopped")),
        ("run_script", json!(["post-stop", {}]), json!({})),
        ("list_disk", json!([]), json!([])),
        ("remove_persistent_disk", json!(["disk-1"]), json!({})),
        (
            "prepare",
            json!([{"job": {"name": "x"}}]),
            json!("prepared"),
        ),
    ] {
        let (_, reply) = task(&agent, method, arguments).await;
        assert_eq!(reply, json!({ "value": value }), "{method}");
    }
    assert!(shutdowns.has_changed().unwrap());
    shutdowns.mark_unchanged();
    let started = ask(&agent, "start", json!([])).await;
    assert_eq!(started, json!({"value": "started"}));
    for (method, arguments, expected) in [
        ("drain", json!(["update"]), "Drain update requires new spec"),
        (
            "run_errand",
            json!(["x"]),
            "At least one job template is required to run an errand",
        ),
        (
            "mount_disk",
            json!(["x", "y"]),
            "this agent only compiles packages and cannot mount a disk",
        ),
    ] {
        let (id, reply) = task(&agent, method, arguments).await;
        let start = format!("Action Failed get_task: Task {id} result: {expected}");
        assert!(exception(&reply).starts_with(&start), "{reply}");
    }
}

#[tokio::test]
async fn list_disk_replies_at_once_to_old_directors() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    let request = br#"{"method":"list_disk","arguments":[],"protocol":2}"#;
    let answered = agent.handle(request, None, false).await.unwrap();
    assert_eq!(answered.body, br#"{"value":[]}"#);
}

/// The first poll for a short task returns its result: with another one, a Director would wait a second.
#[tokio::test(start_paused = true)]
async fn first_poll_for_a_short_task_has_its_result() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    let spec = json!([{"deployment": "dep", "job": {"name": "compilation-1"}}]);
    for (method, arguments, value) in [
        ("update_settings", json!([{"trusted_certs": ""}]), "ok"),
        ("apply", spec, "applied"),
    ] {
        let started = ask(&agent, method, arguments).await;
        let id = started["value"]["agent_task_id"].clone();
        let end = ask(&agent, "get_task", json!([id])).await;
        assert_eq!(end, json!({ "value": value }));
    }
}

#[tokio::test]
async fn uploaded_blob_is_verified_and_stored() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    let blob = |id: &str, digest: &str| json!([{"blob_id": id, "checksum": digest, "payload": "aHVudGVyMg=="}]);
    // printf hunter2 | sha1sum
    let sha1 = "f3bbbd66a63d4bf1747940578ec3d0103530e21d";
    let directory = Vcap::new(scratch.path()).sensitive_blobs();
    // The directory is not created.
    let (_, refused) = task(&agent, "upload_blob", blob("id-1", sha1)).await;
    assert!(exception(&refused).contains("No such file"), "{refused}");
    fs::create_dir_all(&directory).unwrap();
    let (_, stored) = task(&agent, "upload_blob", blob("id-1", sha1)).await;
    assert_eq!(stored, json!({"value": "id-1"}));
    assert_eq!(fs::read(&directory.join("id-1")).unwrap(), b"hunter2");
    for (id, digest) in [
        ("id-2", "0".repeat(40)),
        ("../id", sha1.to_owned()),
        ("id-2", "?".into()),
    ] {
        let (_, refused) = task(&agent, "upload_blob", blob(id, &digest)).await;
        assert!(!exception(&refused).contains("hunter2"), "{refused}");
    }
    assert_eq!(fs::list(&directory).unwrap().len(), 1);
}

#[tokio::test]
async fn bundled_logs_are_removed_on_request() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    let vcap = Vcap::new(scratch.path());
    fs::create_dir_all(&vcap.temporary()).unwrap();
    fs::create_dir_all(&vcap.blobs().join("tmp")).unwrap();
    let request = json!([{"owning_user": "", "log_type": "job", "filters": null}]);
    let bundled = ask(&agent, "bundle_logs", request).await;
    let path = bundled["value"]["logs_tar_path"].as_str().unwrap();
    assert!(
        bundled["value"]["sha512"]
            .as_str()
            .unwrap()
            .starts_with("sha512:")
    );
    assert!(std::path::Path::new(path).exists());
    for _ in 0..2 {
        let removed = ask(&agent, "remove_file", json!([path])).await;
        assert_eq!(removed, json!({ "value": path }));
        assert!(!std::path::Path::new(path).exists());
    }
    let refused = ask(&agent, "remove_file", json!([vcap.bosh()])).await;
    assert!(exception(&refused).contains("is not a temporary file of the agent"));
    assert!(vcap.bosh().exists());
    let request = json!([{"owning_user": "no such user", "log_type": "job"}]);
    let refused = ask(&agent, "bundle_logs", request).await;
    assert_eq!(
        exception(&refused),
        "Action Failed bundle_logs: there is no user \"no such user\" on this machine"
    );
    assert_eq!(fs::list(&vcap.temporary()).unwrap().len(), 0);
}

#[tokio::test]
async fn newer_dns_records_are_saved() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    let vcap = Vcap::new(scratch.path());
    fs::create_dir_all(&vcap.blobs().join("tmp")).unwrap();
    let records = |version: u64| {
        let text = json!({"version": version, "records": [["10.0.0.1", "a.bosh"]]}).to_string();
        fs::write(&vcap.blobs().join("dns"), text.as_bytes()).unwrap();
        let digest = crate::release::Digests::of(
            text.as_bytes(),
            &[crate::release::digest::Algorithm::Sha1],
        );
        json!(["dns", digest.sha1(), version])
    };
    for version in [2, 1, 3] {
        let synced = ask(&agent, "sync_dns", records(version)).await;
        assert_eq!(synced, json!({"value": "synced"}));
        let saved = crate::machine::dns::saved_version(&vcap);
        assert_eq!(saved, Some(version.max(2)));
    }
    let mut wrong = records(4);
    wrong[2] = json!(5);
    let refused = ask(&agent, "sync_dns", wrong).await;
    assert!(exception(&refused).ends_with("does not match version supplied by director"));
    // The machine's own files stay on this platform.
    assert!(!scratch.path().join("root").exists());
}

#[tokio::test]
async fn dummy_machine_is_not_changed() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    let user = json!({"user": "bosh_a", "public_key": "ssh-rsa AAAA"});
    for (method, arguments, expected) in [
        ("ssh", json!(["setup", user]), "no user is created"),
        (
            "ssh",
            json!(["other", {}]),
            "Unknown command for SSH method",
        ),
        ("shutdown", json!([]), "this machine is not shut down"),
    ] {
        let reply = ask(&agent, method, arguments).await;
        let start = format!("Action Failed {method}: {expected}");
        assert!(exception(&reply).starts_with(&start), "{reply}");
    }
    let cleaned = ask(&agent, "ssh", json!(["cleanup", {"user_regex": "^bosh_a"}])).await;
    assert_eq!(
        cleaned["value"],
        json!({"command": "cleanup", "status": "success"})
    );
    let deleted = ask(&agent, "delete_arp_entries", json!([{"ips": ["10.0.0.1"]}])).await;
    assert_eq!(deleted, json!({"value": {}}));
}

#[tokio::test]
async fn unknown_method_is_named_in_the_reply() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    // The Go agent has no `associate_disks` any more: Directors send the disks in `update_settings`.
    for method in ["associate_disks", "prepare_network_change", "", "PING"] {
        let reply = ask(&agent, method, json!([])).await;
        assert_eq!(exception(&reply), format!("unknown message {method}"));
    }
    let reply = ask(&agent, &"x".repeat(10_000), json!([])).await;
    assert_eq!(exception(&reply).len(), 200 + "unknown message ".len());
}

#[tokio::test]
async fn invalid_arguments_fail_the_request_or_its_task() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    for (method, arguments, expected) in [
        (
            "get_task",
            json!([]),
            "Extracting method arguments from payload: Not enough arguments, expected 1, got 0",
        ),
        (
            "cancel_task",
            json!([7]),
            "Extracting method arguments from payload: Unmarshalling action argument: `task_id` is a number",
        ),
        (
            "get_task",
            json!(["x", "more"]),
            "Task with id x could not be found",
        ),
    ] {
        let reply = ask(&agent, method, arguments).await;
        assert_eq!(
            exception(&reply),
            format!("Action Failed {method}: {expected}")
        );
    }
    for (method, arguments) in [
        ("compile_package", json!(["id"])),
        ("compile_package_with_signed_url", json!([[]])),
        ("compile_package", json!(["../x", "sha1", "name", "1", {}])),
        ("fetch_logs", json!([])),
        ("fetch_logs", json!([7, null])),
        (
            "fetch_logs_with_signed_url",
            json!([{"signed_url": "hunter2"}]),
        ),
        ("apply", json!([])),
        ("apply", json!([null])),
        ("apply", json!(["hunter2"])),
        ("update_settings", json!([{"trusted_certs": ["hunter2"]}])),
        ("update_settings", json!(["hunter2"])),
    ] {
        let (id, reply) = task(&agent, method, arguments.clone()).await;
        if method == "apply" && arguments[0].is_null() && reply["exception"].is_null() {
            // `null` counts as an empty spec.
            continue;
        }
        let message = exception(&reply);
        let start = format!("Action Failed get_task: Task {id} result: ");
        assert!(message.starts_with(&start), "{method}: {message}");
        assert!(!message.contains("hunter2"), "{method}: {message}");
    }
}

/// A Director's users search for these texts.
#[tokio::test]
async fn failed_tasks_have_the_texts_of_the_go_agent() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    for (method, arguments, expected) in [
        (
            "apply",
            json!(["x"]),
            "Extracting method arguments from payload: Unmarshalling action argument: ",
        ),
        (
            "apply",
            json!([{"packages": {"redis": {}}}]),
            "Applying: the spec has packages to install, but this agent only compiles packages: use a stemcell with the Go agent",
        ),
        (
            "apply",
            json!([{"networks": {"x": {}}}]),
            "Resolving dynamic networks: Network 'x' is not found in settings",
        ),
        ("fetch_logs", json!(["nothing", []]), "Invalid log type"),
        (
            "fetch_logs",
            json!(["job", []]),
            "Create file on blobstore: Creating blob in inner blobstore: ",
        ),
        (
            "update_settings",
            json!([{"mbus": {"cert": {"ca": "x", "certificate": "x", "private_key": "x"}}}]),
            "Getting mbus handler: ",
        ),
    ] {
        let (id, reply) = task(&agent, method, arguments).await;
        let start = format!("Action Failed get_task: Task {id} result: {expected}");
        let message = exception(&reply);
        assert!(message.starts_with(&start), "{message}");
    }
}

#[tokio::test]
async fn reply_is_shortened_to_the_limit() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    let networks = json!({"local": {"ip": "127.0.0.1", "more": "<".repeat(3000)}});
    let (_, applied) = task(&agent, "apply", json!([{"networks": networks}])).await;
    assert_eq!(applied, json!({"value": "applied"}));
    let request = br#"{"method":"get_state","arguments":[]}"#;
    let answered = agent.handle(request, Some(2000), false).await.unwrap();
    let reply: Value = serde_json::from_slice(&answered.body).unwrap();
    assert_eq!(
        exception(&reply),
        "Response exceeded maximum allowed length"
    );
    let id = "x".repeat(3000);
    let request = json!({"method": "get_task", "arguments": [id]}).to_string();
    let answered = agent.handle(request.as_bytes(), Some(2000), false);
    let body = answered.await.unwrap().body;
    assert!((1900..=2000).contains(&body.len()), "{}", body.len());
    let reply: Value = serde_json::from_slice(&body).unwrap();
    assert!(exception(&reply).starts_with("Action Failed get_task: Task with id xxx"));
}

#[tokio::test]
async fn duplicate_request_is_refused_if_asked_to() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    let ping = |reply_to: &str| {
        let request = json!({"method": "ping", "reply_to": reply_to}).to_string();
        request.into_bytes()
    };
    agent.handle(&ping("a"), None, true).await.unwrap();
    let copy = agent.handle(&ping("a"), None, true).await.unwrap_err();
    assert_eq!(copy, InvalidRequest::Duplicate);
    agent.handle(&ping("b"), None, true).await.unwrap();
    // Over HTTPS there are no duplicates.
    agent.handle(&ping("a"), None, false).await.unwrap();
    agent.handle(b"{", None, true).await.unwrap_err();
}

#[tokio::test]
async fn request_that_starts_a_task_is_remembered_among_many_others() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    let request = |method: &str, reply_to: &str| {
        let request =
            json!({"method": method, "protocol": 3, "arguments": [{}], "reply_to": reply_to});
        request.to_string().into_bytes()
    };
    let start = request("compile_package", "a");
    agent.handle(&start, None, true).await.unwrap();
    for number in 0..20_000 {
        let ping = request("ping", &number.to_string());
        agent.handle(&ping, None, true).await.unwrap();
    }
    let copy = agent.handle(&start, None, true).await.unwrap_err();
    assert_eq!(copy, InvalidRequest::Duplicate);
}

#[tokio::test]
async fn invalid_settings_are_refused_and_not_saved() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    let none = "no certificate";
    let bus = json!({"ca": none, "certificate": none, "private_key": "hunter2"});
    for (update, problem) in [
        (json!({"mbus": {"cert": bus}}), "CA certificate"),
        (
            json!({"mbus": {"cert": bus, "urls": ["nats://invalid"]}}),
            "Getting mbus handler: an invalid URL",
        ),
        (
            json!({"mbus": {"cert": {"ca": none, "certificate": none}}}),
            "`mbus.cert.private_key` is empty in the updated settings",
        ),
        (
            json!({"blobstores": [{"provider": "dav", "options": {"tls": {"cert": {"ca": none}}}}]}),
            "CA certificate",
        ),
    ] {
        let (_, reply) = task(&agent, "update_settings", json!([update])).await;
        let message = exception(&reply);
        assert!(message.contains(problem), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
        assert!(!Vcap::new(scratch.path()).update_settings().exists());
        assert_eq!(agent.live().update, UpdateSettings::default());
        assert!(!agent.bus_changes().has_changed().unwrap());
    }
}

/// A client trusts the certificates of the time at which it was built.
#[tokio::test]
async fn new_trusted_certificates_reach_the_blob_client() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    let mut before = agent.blobs();
    for (certificates, is_new) in [("PEM", true), ("PEM", false), ("", true)] {
        let update = json!([{"trusted_certs": certificates, "disk_associations": []}]);
        let (_, updated) = task(&agent, "update_settings", update).await;
        assert_eq!(updated, json!({"value": "ok"}));
        let after = agent.blobs();
        assert_eq!(!Arc::ptr_eq(&before, &after), is_new, "`{certificates}`");
        before = after;
    }
}

/// A FIFO without a writer hangs its reader, as a broken disk does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_disk_does_not_delay_ping() {
    let scratch = tempfile::tempdir().unwrap();
    let agent = agent(scratch.path());
    let spec = Vcap::new(scratch.path()).spec();
    nix::unistd::mkfifo(&spec, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let asking = || {
        let agent = agent.clone();
        crate::runtime::spawn(
            "test",
            async move { ask(&agent, "get_state", json!([])).await },
        )
    };
    let asked: Vec<_> = (0..4).map(|_| asking()).collect();
    for _ in 0..10 {
        let agent = agent.clone();
        let ping =
            crate::runtime::spawn("test", async move { ask(&agent, "ping", json!([])).await });
        assert_eq!(ping.await.unwrap(), json!({"value": "pong"}));
    }
    // Ends the readers.
    let writing = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&spec);
    let mut writing = writing.unwrap();
    std::io::Write::write_all(&mut writing, b"{}").unwrap();
    fs::remove_file(&spec).unwrap();
    drop(writing);
    for asked in asked {
        let _ = tokio::time::timeout(LIMIT, asked).await.unwrap();
    }
}
