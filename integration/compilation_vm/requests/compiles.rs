//! Compiles that fail or are canceled.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn running_compile_reports_progress_and_can_be_canceled() {
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
    // A second cancellation changes nothing, and the VM still works.
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
async fn compiles_run_one_at_a_time_and_queued_ones_can_be_canceled() {
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
async fn failing_script_is_reported_like_the_go_agent() {
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
    // Long output is truncated.
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
async fn failure_starts_with_the_first_error() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let noise = "for i in {1..5000}; do echo line $i; done";
    let script = format!("echo 'a.c:3:5: error: no such thing'\n{noise}\necho more >&2\nexit 1\n");
    let release = source_of_script(&script);
    let failure = scene
        .director
        .compile(release.package("app"), &NOTHING, &scene.blobs)
        .await
        .unwrap_err();
    let words = "result: Compiling package app: Error in line 1 of app.stdout.log: a.c:3:5: error: no such thing\n\
                 Running packaging script: Running packaging script: Command exited with 1; Truncated stdout: ";
    let text = failure.exception();
    assert!(text.contains(words), "{text}");
    assert!(text.contains("keep_unreachable_vms"), "{text}");
    let log = scene.vm.log();
    let lines = log.lines().filter(|line| line.contains("phase ended"));
    for line in lines {
        assert!(line.contains(" package=app task="), "{line}");
    }
    let packaging = log
        .lines()
        .find(|line| line.contains("phase=\"packaging\""));
    assert!(
        packaging.is_some_and(|line| line.contains(" seconds=") && !line.contains("seconds=\"")),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_invalid_sources_are_refused() {
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
async fn missing_and_invalid_dependencies_are_never_installed() {
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
async fn dependency_is_fetched_once() {
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
async fn dependency_that_a_script_changes_is_fetched_again() {
    if !is_possible() {
        return;
    }
    let scene = Scene::ready().await;
    let data = scene.vm.base().join("data");
    // In namespaces, the script's tree covers the base directory, and an empty one covers the work directory.
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
        log.contains("an installed package was changed; fetching it again"),
        "{log}"
    );
    assert!(log.contains("`done` (contents or times)"), "{log}");
    assert!(log.contains("the packaging script of `evil` ran"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_paths_are_refused() {
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
