//! Requests about the VM.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn unknown_requests_get_the_errors_that_directors_expect() {
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
        let failure = director.call(method, json!(["missing"])).await.unwrap_err();
        let text = format!("Action Failed {method}: Task with id missing could not be found");
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
async fn spec_with_jobs_is_refused() {
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
    // The VM's state is unchanged.
    scene
        .director
        .prepare(&super::super::scene::spec())
        .await
        .unwrap();
}

/// A Director first stops the jobs of an instance that it deletes. The agent has refused the instance's jobs.
#[tokio::test(flavor = "multi_thread")]
async fn instance_is_deleted_after_a_refused_apply() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let client = connect(&scene.server, "monitor").await;
    let monitor = Monitor::new(&client).await;
    let director = &scene.director;
    let mut spec = spec();
    spec["packages"] = json!({ "app": {} });
    for method in ["prepare", "apply"] {
        let failure = director.send(method, json!([spec])).await.unwrap_err();
        let text = failure.exception();
        assert!(text.ends_with("use a stemcell with the Go agent"), "{text}");
    }
    for (method, arguments, value) in [
        ("run_script", json!(["pre-stop", {}]), json!({})),
        ("drain", json!(["shutdown"]), json!(0)),
        ("stop", json!([]), json!("stopped")),
        ("run_script", json!(["post-stop", {}]), json!({})),
        ("list_disk", json!([]), json!([])),
    ] {
        assert_eq!(
            director.send(method, arguments).await,
            Ok(value),
            "{method}"
        );
    }
    wait_for("the announcement", LIMIT, || {
        match monitor.heard("shutdown", AGENT).as_slice() {
            [Value::Null] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn state_has_the_spec_of_the_last_apply() {
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
async fn health_monitor_receives_a_heartbeat_at_once() {
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
async fn new_bus_credentials_are_used_without_losing_a_poll() {
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
    // The first certificate is no longer used.
    server.allow(&[AGENT]);
    director.wait_until_ready(LIMIT).await.unwrap();
    let release = source_of_script(SMALL);
    director.compile_release(&release, &blobs).await.unwrap();
    vm.stays_up_for(Duration::from_millis(1));
    let log = vm.log();
    let warnings: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(" WARN - "))
        .collect();
    let of_bus = |line: &&&str| line.contains("message bus") || line.contains("got no reply");
    assert_eq!(warnings.iter().find(of_bus), None);
    // Also not after a restart.
    vm.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(vm.ended(LIMIT), 1);
    vm.start();
    director.wait_until_ready(LIMIT).await.unwrap();
    director.compile_release(&release, &blobs).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_rotated_while_a_package_compiles() {
    if !is_possible() {
        return;
    }
    let (blobs, others) = (Blobstore::local(), Blobstore::local());
    let server = NatsServer::start("server", &[BOOTSTRAP, AGENT]);
    let mut vm = HostVm::create(nats_machine(&server, "bootstrap", &blobs));
    let director = director(&server).await;
    director.prepare(&spec()).await.unwrap();
    let gate = vm.path("gate");
    let script = format!(
        "echo run >>{0}.runs\nwhile [ ! -e {0} ]; do sleep 0.02; done\n{SMALL}",
        gate.display()
    );
    let release = source_of_script(&script);
    let package = release.package("app");
    let (order, task) = director.start_compile(package, &NOTHING, &blobs).await;
    wait_for("the script", LIMIT, || {
        fs::metadata(gate.with_extension("runs")).map_err(|error| error.to_string())
    });
    let bus = json!({ "cert": certificate("agent") });
    vm.confide(&bus);
    let settings = json!({
        "trusted_certs": "", "disk_associations": [], "mbus": bus, "blobstores": [others.settings()],
    });
    assert_eq!(director.update_settings(settings).await, Ok(json!("ok")));
    wait_for("the old connection's end", LIMIT, || {
        // Polls are answered during the change.
        let log = vm.log();
        match log.contains("closed the connection to the message bus with earlier settings") {
            true => Ok(()),
            false => Err(log),
        }
    });
    // The old certificate is refused, and no connection uses it.
    server.allow(&[AGENT]);
    let before = server
        .log()
        .to_lowercase()
        .matches("authentication error")
        .count();
    assert!(director.status(&task).await.unwrap().is_running());
    fs::write(&gate, "").unwrap();
    let value = director.wait_for_task(&task).await.unwrap();
    let compiled = result(package, &order, &value).unwrap();
    others.check(&compiled);
    let runs = fs::read_to_string(gate.with_extension("runs")).unwrap();
    assert_eq!(runs, "run\n");
    vm.stays_up_for(Duration::from_millis(1));
    let after = server
        .log()
        .to_lowercase()
        .matches("authentication error")
        .count();
    assert_eq!(before, after, "{}", server.log());
    for exchange in director.exchanges() {
        assert!(
            exchange.method == "ping" || exchange.elapsed < PROMPT,
            "{exchange}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_without_waiting_for_a_reply_is_handled() {
    if !is_possible() {
        return;
    }
    let mut scene = Scene::ready().await;
    scene.director.fire_and_forget("shutdown", json!([])).await;
    wait_for("the request", LIMIT, || match scene.vm.log() {
        log if log.contains("shutdown") => Ok(()),
        log => Err(log),
    });
    // A dummy machine is a developer's own; it is not shut down.
    scene.vm.stays_up_for(Duration::from_millis(200));
    let pong = scene.director.request("ping", json!([]), LIMIT).await;
    assert_eq!(pong, Ok::<_, Failure>(json!("pong")));
}
