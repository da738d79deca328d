//! Shared caches (`--cache-from`, `--cache-to`): directories and HTTP servers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::faulty::{Fault, FaultyServer};
use super::nginx::{Nginx, USER, USER_IN_BASE64};
use super::{Cached, script};
use crate::support::{Agent, Ran, ReleaseBuilder, report};

/// The limit for a run with a failing server.
const BOUNDED: Duration = Duration::from_secs(60);

const ALL: [&str; 4] = ["app", "lib", "mid", "other"];

/// A release, its result without a cache, and a directory that is a shared cache with all of its packages.
pub(super) struct Scene {
    pub(super) cached: Cached,
    release: ReleaseBuilder,
    pub(super) result: Vec<u8>,
}

impl Scene {
    pub(super) fn new() -> Self {
        let cached = Cached::new();
        let release = cached.release("one\n");
        let scene = Self {
            result: Vec::new(),
            cached,
            release,
        };
        let (names, ran) = scene.run(scene.agent("--cache-to", &scene.shared()));
        ran.succeeds().does_not_say("Warning");
        assert_eq!(names, ALL);
        Self {
            result: scene.cached.result(),
            ..scene
        }
    }

    pub(super) fn shared(&self) -> String {
        self.cached.world.path("shared").display().to_string()
    }

    /// Without a local cache.
    pub(super) fn agent(&self, flag: &str, location: &str) -> Agent {
        self.cached.world.agent().arg(flag).arg(location)
    }

    #[track_caller]
    pub(super) fn run(&self, agent: Agent) -> (Vec<String>, Ran) {
        self.cached.run(agent, &self.release)
    }

    /// Compiles with a failing shared cache: everything runs, the result is right, and one line names the cache.
    #[track_caller]
    pub(super) fn one_warning(&self, agent: Agent, location: &str) -> String {
        let start = Instant::now();
        let (names, ran) = self.run(agent);
        let ran = ran.succeeds();
        assert!(start.elapsed() < BOUNDED, "{}", ran.stderr);
        assert_eq!(names, ALL);
        assert_eq!(self.cached.result(), self.result);
        let lines = ran.stderr.lines();
        let warnings: Vec<&str> = lines.filter(|it| it.starts_with("Warning: ")).collect();
        assert_eq!(warnings.len(), 1, "{}", ran.stderr);
        assert!(warnings[0].contains(location), "{}", warnings[0]);
        warnings[0].to_owned()
    }
}

/// Packages that come from a shared cache, by the report.
#[track_caller]
pub(super) fn cached_from(path: &Path, scene: &Scene, ran: &Ran) -> Vec<Option<String>> {
    let report = report::checked(path, &scene.cached.world.out(), 0, Some(&ran.stdout));
    let packages = report["packages"].as_array().unwrap().iter();
    packages
        .map(|package| package["cached_from"].as_str().map(str::to_owned))
        .collect()
}

/// Uses a shared cache that has all packages.
pub(super) fn takes_everything_from(scene: &Scene, location: &str, shown: &str) {
    let agent = || scene.agent("--cache-from", location);
    let (names, ran) = scene.run(agent().arg("--dry-run"));
    assert_eq!(names, [""; 0]);
    ran.succeeds()
        .says("All 4 packages are in the cache\n")
        .says(&format!(" would be fetched from {shown}\n"));

    let path = scene.cached.world.path("report.json");
    let (names, ran) = scene.run(agent().arg("--report").arg(&path).without_report());
    let ran = ran
        .succeeds()
        .says("All 4 packages are in the cache\n")
        .says(&format!(
            " after 0.0s, from the cache {shown} (compiled in "
        ))
        .does_not_say("Warning");
    assert_eq!(names, [""; 0]);
    assert_eq!(scene.cached.result(), scene.result);
    let from = cached_from(&path, scene, &ran);
    assert_eq!(from, vec![Some(shown.to_owned()); 4]);
}

#[test]
fn packages_of_a_shared_directory_need_no_local_cache() {
    let scene = Scene::new();
    takes_everything_from(&scene, &scene.shared(), &scene.shared());
    assert!(!scene.cached.directory().exists());
}

#[test]
fn fetched_packages_stay_in_the_local_cache() {
    let scene = Scene::new();
    let shared = scene.shared();
    let agent = scene.cached.agent().arg("--cache-from").arg(&shared);
    let (names, ran) = scene.run(agent);
    ran.succeeds().says("Fetching 4 packages (");
    assert_eq!(names, [""; 0]);
    std::fs::remove_dir_all(&shared).unwrap();
    let path = scene.cached.world.path("report.json");
    let agent = scene.cached.agent().arg("--report").arg(&path);
    let (names, ran) = scene.run(agent.without_report());
    let ran = ran.succeeds();
    assert_eq!(names, [""; 0]);
    let local = scene.cached.directory().display().to_string();
    assert_eq!(cached_from(&path, &scene, &ran), vec![Some(local); 4]);
}

#[test]
fn second_shared_cache_provides_what_the_first_one_lacks() {
    let scene = Scene::new();
    let empty = scene.cached.world.path("empty").display().to_string();
    let agent = scene.agent("--cache-from", &empty);
    let (names, ran) = scene.run(agent.arg("--cache-from").arg(scene.shared()));
    ran.succeeds().does_not_say("Warning");
    assert_eq!(names, [""; 0]);
}

#[test]
fn only_missing_packages_are_compiled_and_stored() {
    let scene = Scene::new();
    let shared = scene.shared();
    let changed = scene.cached.release("two\n");
    let agent = || {
        let agent = scene.agent("--cache-from", &shared);
        agent.arg("--cache-to").arg(&shared)
    };
    let (names, ran) = scene.cached.run(agent(), &changed);
    ran.succeeds().says("One of 4 packages is in the cache\n");
    assert_eq!(names, ["app", "lib", "mid"]);
    let (names, ran) = scene.cached.run(agent(), &changed);
    ran.succeeds();
    assert_eq!(names, [""; 0]);
}

#[test]
fn nginx_as_documented_shares_packages() {
    let Some(nginx) = Nginx::start() else { return };
    let scene = Scene::new();
    let url = nginx.url();
    let store = |agent: Agent| {
        let agent = agent.env("BOSH_AGENT_CACHE_USER", USER.0);
        scene.run(agent.env("BOSH_AGENT_CACHE_PASSWORD", USER.1))
    };
    let (names, ran) = store(scene.agent("--cache-to", &url));
    let ran = ran.succeeds().does_not_say("Warning").does_not_say(USER.1);
    assert_eq!(names, ALL, "{}", ran.stderr);
    assert_eq!(scene.cached.result(), scene.result);
    takes_everything_from(&scene, &url, &url);
    // The contents are there: only descriptions are written again.
    let before = nginx.requests("PUT /v1/content/");
    store(scene.agent("--cache-to", &url)).1.succeeds();
    assert_eq!(nginx.requests("PUT /v1/content/"), before);
}

#[test]
fn nginx_serves_the_directory_of_a_local_cache() {
    let Some(nginx) = Nginx::start() else { return };
    let scene = Scene::new();
    let agent = scene.cached.world.agent().arg("--cache-dir");
    scene.run(agent.arg(nginx.store())).1.succeeds();
    takes_everything_from(&scene, &nginx.url(), &nginx.url());
}

#[test]
fn password_comes_from_netrc_and_is_never_printed() {
    let Some(nginx) = Nginx::start() else { return };
    let scene = Scene::new();
    let wrong = scene.agent("--cache-to", &nginx.url());
    let wrong = wrong.env("BOSH_AGENT_CACHE_TOKEN", "hunter3");
    let warning = scene.one_warning(wrong, &nginx.url());
    assert!(warning.contains("returned 401 Unauthorized"), "{warning}");
    assert!(!warning.contains("hunter3"));
    let netrc = format!("machine 127.0.0.1 login {} password {}\n", USER.0, USER.1);
    let netrc = scene.cached.world.write("netrc", netrc);
    let agent = scene.agent("--cache-to", &nginx.url());
    let agent = agent.env("NETRC", netrc.to_str().unwrap());
    let (_, ran) = scene.run(agent.env("BOSH_AGENT_LOG", "trace"));
    ran.succeeds()
        .does_not_say("Warning: the shared")
        .does_not_say(USER.1)
        .does_not_say(USER_IN_BASE64);
}

#[test]
fn credentials_do_not_reach_scripts() {
    for has_cache in [true, false] {
        let cached = Cached::new();
        let shown = cached.world.path("shown");
        let script = format!("env > {}", shown.display());
        let release = ReleaseBuilder::new("demo", "1").package("app", &[], &script);
        let mut agent = cached.world.agent();
        if has_cache {
            agent = agent.arg("--cache-to").arg(cached.world.path("shared"));
        }
        let agent = agent
            .env("BOSH_AGENT_CACHE_TOKEN", "hunter2")
            .env("BOSH_AGENT_CACHE_USER", "hunter2")
            .env("BOSH_AGENT_CACHE_PASSWORD", "hunter2")
            .env("BOSH_AGENT_CACHE_HEADER", "x-key: hunter2");
        cached.run(agent, &release).1.succeeds();
        let text = std::fs::read_to_string(&shown).unwrap();
        assert!(
            text.contains("PATH=") && !text.contains("hunter2"),
            "{text}"
        );
    }
    let cached = Cached::new();
    let shown = cached.world.path("shown");
    let script = format!("env > {}", shown.display());
    let release = ReleaseBuilder::new("demo", "1").package("app", &[], &script);
    let shared = cached.world.path("shared");
    let agent = cached.world.agent().arg("--cache-to").arg(shared);
    cached
        .run(agent.env("NETRC", "/hunter2"), &release)
        .1
        .succeeds();
    let text = std::fs::read_to_string(&shown).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn url_with_a_password_is_refused_without_printing_it() {
    let cached = Cached::new();
    for flag in ["--cache-from", "--cache-to"] {
        let agent = cached.world.agent().arg(flag);
        let agent = agent.arg("https://me:hunter2@host/").arg("a.tgz");
        let ran = agent.without_report().run().ends_with(2).says(&format!(
            "Error: invalid value of {flag}: the URL of a shared cache contains a user name or a password\nHint: "
        ));
        assert!(!ran.stderr.contains("hunter2"));
    }
}

#[test]
fn failing_server_costs_one_warning_and_bounded_time() {
    let scene = Scene::new();
    for (fault, reason) in [
        (Fault::Status(403), "returned 403 Forbidden"),
        (Fault::Status(429), "returned 429 Too Many Requests"),
        (Fault::Status(500), "returned 500 Internal Server Error"),
        (Fault::Killed, "the response is incomplete"),
        (Fault::WrongBytes, "its SHA-256 or size is wrong"),
        (Fault::Endless, "its SHA-256 or size is wrong"),
        (Fault::Slow, "no result after "),
        (Fault::Silent, "no data transferred for 10 s"),
    ] {
        let server = FaultyServer::start(fault, &PathBuf::from(scene.shared()));
        let agent = scene.agent("--cache-from", &server.url());
        let warning = scene.one_warning(agent, &server.url());
        assert!(warning.contains(reason), "{fault:?}: {warning}");
    }
}

#[test]
fn dead_server_costs_one_warning() {
    let scene = Scene::new();
    let url = FaultyServer::unused_url();
    let agent = scene.agent("--cache-from", &url).arg("--cache-to");
    let warning = scene.one_warning(agent.arg(&url), &url);
    assert!(
        warning.contains("failed to connect to 127.0.0.1:"),
        "{warning}"
    );
}

#[test]
fn cache_that_fails_in_two_ways_costs_one_warning() {
    let scene = Scene::new();
    let server = FaultyServer::start(Fault::WrongAndFull, &PathBuf::from(scene.shared()));
    let agent = scene.agent("--cache-from", &server.url());
    let agent = agent.arg("--cache-to").arg(server.url());
    let warning = scene.one_warning(agent, &server.url());
    assert!(warning.contains("507 Insufficient Storage"), "{warning}");
}

#[test]
fn damaged_local_package_is_fetched() {
    let scene = Scene::new();
    let agent = || scene.cached.agent().arg("--cache-from").arg(scene.shared());
    scene.run(agent()).1.succeeds();
    for file in scene.cached.contents() {
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[0] ^= 1;
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
    }
    let (names, ran) = scene.run(agent());
    ran.succeeds()
        .says("It was set aside, and the package is fetched or compiled again\n")
        .says("Fetching 4 packages (");
    assert_eq!(names, [""; 0]);
    assert_eq!(scene.cached.result(), scene.result);
    let (names, ran) = scene.run(scene.cached.agent());
    ran.succeeds().does_not_say("Warning");
    assert_eq!(names, [""; 0]);
}

#[test]
fn content_that_no_package_of_a_directory_uses_is_removed() {
    let scene = Scene::new();
    let version = PathBuf::from(scene.shared()).join("v1");
    let unused = version.join("content/11").join("1".repeat(64));
    std::fs::create_dir_all(unused.parent().unwrap()).unwrap();
    std::fs::write(&unused, b"unused").unwrap();
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    for file in [&unused, &version.join("tidied")] {
        let file = std::fs::File::open(file).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    let (_, ran) = scene.run(scene.agent("--cache-to", &scene.shared()));
    ran.succeeds().does_not_say("Warning");
    assert!(!unused.exists());
    takes_everything_from(&scene, &scene.shared(), &scene.shared());
}

#[test]
fn server_that_overwrites_nothing_takes_no_package_twice() {
    let scene = Scene::new();
    let server = FaultyServer::start(Fault::WriteOnce, &PathBuf::from(scene.shared()));
    let agent = scene.agent("--cache-to", &server.url());
    let (names, ran) = scene.run(agent);
    ran.succeeds()
        .does_not_say("Warning")
        .does_not_say("stored");
    assert_eq!(names, ALL);
}

#[test]
fn damaged_package_of_a_server_is_replaced_there() {
    let Some(nginx) = Nginx::start() else { return };
    let scene = Scene::new();
    let agent = scene.cached.world.agent().arg("--cache-dir");
    scene.run(agent.arg(nginx.store())).1.succeeds();
    let contents = walkdir::WalkDir::new(nginx.store().join("v1/content"));
    for file in contents.into_iter().map(Result::unwrap) {
        if file.file_type().is_file() {
            let length = file.metadata().unwrap().len();
            std::fs::remove_file(file.path()).unwrap();
            std::fs::write(file.path(), vec![b'x'; length as usize]).unwrap();
        }
    }
    let url = nginx.url();
    let agent = scene
        .agent("--cache-from", &url)
        .arg("--cache-to")
        .arg(&url);
    let agent = agent.env("BOSH_AGENT_CACHE_USER", USER.0);
    let agent = agent.env("BOSH_AGENT_CACHE_PASSWORD", USER.1);
    scene.one_warning(agent, &url);
    takes_everything_from(&scene, &url, &url);
}

#[test]
fn results_that_are_not_stored_locally_are_not_shared() {
    let cached = Cached::new();
    let script = script(&cached.ran(), "app", "touch $BOSH_INSTALL_TARGET/x");
    let release = ReleaseBuilder::new("demo", "1").package("app", &[], &script);
    let shared = cached.world.path("shared");
    let agent = Agent::bare(&cached.world.path("printed"));
    let agent = cached.world.flags_with(agent, "none").arg("--jobs=2");
    let agent = agent.arg("--output-directory").arg(cached.world.out());
    let agent = agent.arg("--cache-to").arg(&shared);
    let (_, ran) = cached.run(agent, &release);
    ran.succeeds().says("Warning: the cache is only read: ");
    let entries = std::fs::read_dir(shared.join("v1/entries")).unwrap();
    assert_eq!(entries.count(), 0);
}

pub(super) fn sha256_of(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    report::sha256_of(file.path())
}

/// Changes the descriptions in a cache as another user can, who knows its format.
pub(super) fn change_entries(cache: &Path, change: impl Fn(&mut Value)) {
    for directory in std::fs::read_dir(cache.join("v1/entries")).unwrap() {
        for file in std::fs::read_dir(directory.unwrap().path()).unwrap() {
            let file = file.unwrap().path();
            let text = std::fs::read_to_string(&file).unwrap();
            let mut entry: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
            change(&mut entry);
            let first = format!("{entry}\n");
            let sha256 = sha256_of(first.as_bytes());
            let sealed = format!("{first}{{\"sha256\":\"{sha256}\"}}\n");
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, sealed).unwrap();
        }
    }
}

/// A text that clears a terminal.
pub(super) const CONTROLS: &str = "a\u{1b}[2J\u{9b}2J\u{7f}b";

#[track_caller]
pub(super) fn assert_no_controls(text: &str) {
    let is_control = |character: char| character.is_control() && character != '\n';
    assert!(!text.contains(is_control), "{text:?}");
}

#[test]
fn text_of_another_user_cannot_control_a_terminal() {
    let scene = Scene::new();
    change_entries(Path::new(&scene.shared()), |entry| {
        entry["last_lines"] = vec![CONTROLS; 1000].into();
        entry["warnings"] = vec![CONTROLS].into();
        entry["isolation"] = CONTROLS.into();
        entry["agent"] = CONTROLS.into();
    });
    let path = scene.cached.world.path("report.json");
    let agent = scene.agent("--cache-from", &scene.shared());
    let (names, ran) = scene.run(agent.arg("--report").arg(&path).without_report());
    let ran = ran.succeeds();
    assert_eq!(names, [""; 0]);
    assert_no_controls(&ran.stderr);
    assert_no_controls(&ran.stdout);
    assert_no_controls(&std::fs::read_to_string(&path).unwrap());
    let report = report::checked(&path, &scene.cached.world.out(), 0, Some(&ran.stdout));
    let lines = &report["packages"][0]["last_lines"];
    assert_eq!(lines, &Value::from(vec!["a2Jb"; 20]));
}

/// Its SHA-256 is right, because its writer computed it.
#[test]
fn blob_that_is_no_archive_is_a_miss() {
    let scene = Scene::new();
    let shared = PathBuf::from(scene.shared());
    let wrong = b"no archive";
    let sha256 = sha256_of(wrong);
    let content = shared.join("v1/content").join(&sha256[..2]);
    std::fs::create_dir_all(&content).unwrap();
    std::fs::write(content.join(&sha256), wrong).unwrap();
    change_entries(&shared, |entry| {
        entry["blob"] = serde_json::json!({"sha256": sha256, "size": wrong.len()});
    });
    let agent = scene.agent("--cache-from", &scene.shared());
    let (names, ran) = scene.run(agent.arg("--compression-level=1"));
    ran.succeeds()
        .says("Warning: the file of the cache ")
        .says("neither a tar archive nor compressed data of a known kind");
    assert_eq!(names, ALL);
}

#[test]
fn report_without_a_cache_names_none() {
    let cached = Cached::new();
    let path = cached.world.path("report.json");
    let agent = cached.world.agent().arg("--report").arg(&path);
    let (_, ran) = cached.run(agent.without_report(), &cached.release("one\n"));
    let ran = ran.succeeds();
    let report = report::checked(&path, &cached.world.out(), 0, Some(&ran.stdout));
    for package in report["packages"].as_array().unwrap() {
        assert_eq!(package["cached_from"], Value::Null);
    }
}
