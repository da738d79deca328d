//! Packages of a shared cache are fetched while others are compiled, if they are needed.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::nginx::{Nginx, USER};
use super::shared::{Scene, cached_from};
use super::watched::{WatchedServer, blob_of};
use super::{Cached, script};
use crate::support::{ReleaseBuilder, report, unpacked, wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

impl Scene {
    fn directory(&self) -> PathBuf {
        self.cached.world.path("shared")
    }

    /// The SHA-256 of a package's blob.
    fn blob(&self, package: &str) -> String {
        blob_of(&self.directory(), package)
    }

    /// The release of the scene, and a package `new` that no cache has.
    fn with_new(&self, dependencies: &[&str], rest: &str) -> ReleaseBuilder {
        let script = script(&self.cached.ran(), "new", rest);
        let release = self.cached.release("one\n");
        release.package("new", dependencies, &script)
    }

    /// A server that sends wrong bytes for this blob.
    fn damaging_server(&self, blob: String) -> WatchedServer {
        WatchedServer::start(&self.directory(), move |path, mut body| {
            if path.contains(&blob) {
                body.iter_mut().for_each(|byte| *byte ^= 1);
            }
            body
        })
    }
}

#[test]
fn scripts_run_while_packages_are_fetched() {
    let scene = Scene::new();
    let marker = scene.cached.world.path("marker");
    for (dependencies, held) in [
        (&[][..], &["app", "lib", "mid", "other"][..]),
        (&["mid"], &["app", "lib", "other"]),
    ] {
        let _ = std::fs::remove_file(&marker);
        let held: Vec<String> = held.iter().map(|name| scene.blob(name)).collect();
        let made = marker.clone();
        let server = WatchedServer::start(&scene.directory(), move |path, body| {
            if held.iter().any(|blob| path.contains(blob)) {
                wait_until("the script of `new`", || made.exists());
            }
            body
        });
        let new = scene.with_new(dependencies, &format!("touch {}", marker.display()));
        let agent = scene.agent("--cache-from", &server.url()).arg("--jobs=1");
        let (names, ran) = scene.cached.run(agent, &new);
        ran.succeeds()
            .says("Fetching 4 packages (")
            .says("4 of 5 packages are in the cache\n")
            .says("Compiling package new/")
            .says("(1 of 1)")
            .does_not_say("Warning");
        assert_eq!(names, ["new"]);
    }
}

#[test]
fn packages_are_stored_while_scripts_run() {
    let Some(nginx) = Nginx::start() else { return };
    let cached = Cached::new();
    let marker = cached.world.path("marker");
    let waits = format!("until [ -e {} ]; do sleep 0.1; done", marker.display());
    let waiting = script(&cached.ran(), "waiting", &waits);
    let release = cached
        .release("one\n")
        .package("waiting", &["app"], &waiting);
    let tarball = cached.world.release("release.tgz", &release);
    let agent = cached.world.agent().arg("--cache-to").arg(nginx.url());
    let agent = agent.env("BOSH_AGENT_CACHE_USER", USER.0);
    let agent = agent.env("BOSH_AGENT_CACHE_PASSWORD", USER.1);
    let mut running = agent.arg(&tarball).start();
    wait_for("a stored package", LIMIT, || {
        assert!(!running.has_ended(), "{}", running.stderr());
        let is_stored = nginx.store().join("v1/entries/lib").exists();
        is_stored.then_some(()).ok_or_else(|| running.stderr())
    });
    std::fs::write(&marker, "").unwrap();
    running.end().succeeds().does_not_say("Warning");
}

#[test]
fn package_that_cannot_be_fetched_is_compiled_before_its_dependents() {
    let scene = Scene::new();
    let server = scene.damaging_server(scene.blob("mid"));
    let copy = "cp @packages@/mid/mid $BOSH_INSTALL_TARGET/";
    let new = scene.with_new(&["mid"], copy);
    let path = scene.cached.world.path("report.json");
    let agent = scene.agent("--cache-from", &server.url()).arg("--report");
    let (names, ran) = scene.cached.run(agent.arg(&path).without_report(), &new);
    let ran = ran
        .succeeds()
        .says("its SHA-256 or size is wrong")
        .says("Compiling package mid/")
        .says("(2 of 2)");
    assert_eq!(names, ["mid", "new"]);
    assert_eq!(ran.stderr.matches("Warning").count(), 1, "{}", ran.stderr);
    let (unpacked, _) = unpacked(&scene.cached.world.result("demo-1"), "new");
    let copied = std::fs::read_to_string(unpacked.path().join("tree/mid"));
    assert_eq!(copied.unwrap(), "one\nmid\n");

    let url = Some(server.url());
    let from = cached_from(&path, &scene, &ran);
    let report = report::checked(&path, &scene.cached.world.out(), 0, Some(&ran.stdout));
    let packages = report["packages"].as_array().unwrap().iter().zip(from);
    for (package, from) in packages {
        let is_cached = !names.iter().any(|name| package["name"] == name.as_str());
        assert_eq!(from, url.clone().filter(|_| is_cached), "{package:#}");
        assert_eq!(package["cached"], is_cached);
        assert_eq!(package["cache_miss"] == Value::Null, is_cached);
    }
}

#[test]
fn dependency_of_fetched_packages_stays_for_its_other_users() {
    let scene = Scene::new();
    let copy = "cat @packages@/lib/lib @packages@/mid/mid > $BOSH_INSTALL_TARGET/copy";
    for damaged in ["none", "lib"] {
        let blob = match damaged {
            "none" => damaged.to_owned(),
            package => scene.blob(package),
        };
        let server = scene.damaging_server(blob);
        // `mid` depends on `lib`, too, and is installed before `new` starts.
        let new = scene.with_new(&["lib", "mid"], copy);
        let agent = scene.agent("--cache-from", &server.url()).arg("--jobs=2");
        let (names, ran) = scene.cached.run(agent, &new);
        ran.succeeds();
        let compiled = ["lib", "new"];
        assert_eq!(names, compiled[usize::from(damaged == "none")..]);
        let (unpacked, _) = unpacked(&scene.cached.world.result("demo-1"), "new");
        let copied = std::fs::read_to_string(unpacked.path().join("tree/copy"));
        assert_eq!(copied.unwrap(), "one\none\nmid\n");

        // Here, only `mid` needs `lib`, which is packed if it was compiled.
        let new = scene.with_new(&["mid"], "true");
        let agent = scene.agent("--cache-from", &server.url()).arg("--jobs=2");
        let (names, ran) = scene.cached.run(agent, &new);
        ran.succeeds();
        assert_eq!(names, compiled[usize::from(damaged == "none")..]);
    }
}

#[test]
fn packages_that_are_compiled_instead_give_the_same_result() {
    let scene = Scene::new();
    for package in ["lib", "mid", "app", "other"] {
        let server = scene.damaging_server(scene.blob(package));
        let (names, ran) = scene.run(scene.agent("--cache-from", &server.url()));
        ran.succeeds();
        assert_eq!(names, [package]);
        assert_eq!(scene.cached.result(), scene.result);
    }
}

#[test]
fn shell_fetches_only_what_its_package_needs() {
    let scene = Scene::new();
    let tarball = scene
        .cached
        .world
        .release("new.tgz", &scene.with_new(&["app"], "true"));
    for (damaged, fetched) in [("", &["app"][..]), ("app", &["app", "mid"])] {
        let blob = match damaged {
            "" => "none".to_owned(),
            package => scene.blob(package),
        };
        let server = scene.damaging_server(blob);
        let agent = scene.agent("--cache-from", &server.url());
        let mut shell = agent
            .args(&["--shell", "new"])
            .arg(&tarball)
            .start_on_terminal();
        shell.shows("Opening a shell in the sandbox of package new");
        shell.line("exit");
        let (code, screen) = shell.end();
        assert_eq!(code, Some(0), "{screen}");
        assert!(screen.contains("Fetching one package ("), "{screen}");
        for package in ["app", "lib", "mid", "other"] {
            let is_fetched = server.was_asked_for(&scene.blob(package));
            assert_eq!(is_fetched, fetched.contains(&package), "{package}");
        }
    }
}

#[test]
fn stopped_run_waits_for_no_fetch() {
    let scene = Scene::new();
    let blob = scene.blob("lib");
    let (held, marker) = (blob.clone(), scene.cached.world.path("marker"));
    let made = marker.clone();
    let server = WatchedServer::start(&scene.directory(), move |path, body| {
        if path.contains(&held) {
            std::fs::write(&made, "").unwrap();
            loop {
                std::thread::park();
            }
        }
        body
    });
    let release = scene.cached.release("one\n");
    let tarball = scene.cached.world.release("release.tgz", &release);
    let agent = || scene.agent("--cache-from", &server.url());
    let running = agent().arg(&tarball).start();
    wait_for("a request", LIMIT, || {
        let is_asked = server.was_asked_for(&blob);
        is_asked.then_some(()).ok_or_else(|| running.stderr())
    });
    running.signal(Signal::SIGTERM);
    running
        .end()
        .ends_with(143)
        .does_not_say("Warning: the shared cache");

    std::fs::remove_file(&marker).unwrap();
    let fails = format!(
        "until [ -e {} ]; do sleep 0.1; done; exit 3",
        marker.display()
    );
    let (_, ran) = scene.cached.run(agent(), &scene.with_new(&[], &fails));
    ran.fails().does_not_say("Warning: the shared cache");
}

#[test]
fn release_that_lacks_only_fetches_is_written_after_a_failure() {
    let scene = Scene::new();
    let world = &scene.cached.world;
    let marker = world.path("marker");
    let made = marker.clone();
    let server = WatchedServer::start(&scene.directory(), move |path, body| {
        if path.contains("/content/") {
            wait_until("the end of the script", || {
                let has_started = std::fs::read(&made).is_ok_and(|text| !text.is_empty());
                has_started && File::open(&made).unwrap().try_lock_shared().is_ok()
            });
        }
        body
    });
    let fails = format!("exec 9>> {}; flock 9; echo >&9; exit 3", marker.display());
    let broken = ReleaseBuilder::new("broken", "1")
        .package("fails", &[], &fails)
        .package("waits", &["fails"], "true");
    let tarballs = [
        world.release("broken.tgz", &broken),
        world.release("good.tgz", &scene.cached.release("one\n")),
    ];
    let agent = scene.agent("--cache-from", &server.url());
    let ran = agent.args(&tarballs).run().fails();
    ran.says("Archiving compiled BOSH Release demo/1 ")
        .does_not_say("Warning: the shared cache");
    assert_eq!(scene.cached.result(), scene.result);
}
