//! What is part of a key: each change is a miss, and `--dry-run` says why.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;

use bosh_agent::cache::SCRIPT_USER;
use serde_json::Value;

use super::{Cached, script};
use crate::support::{
    Agent, ReleaseBuilder, USER, World, copied_agent, require_root, require_tools,
};

/// What `--dry-run` says about package `app`, if it is not in the cache.
fn reason(cached: &Cached, agent: Agent, release: &ReleaseBuilder) -> Option<String> {
    let (names, ran) = cached.run(agent.arg("--dry-run"), release);
    assert_eq!(names, [""; 0]);
    let ran = ran.succeeds();
    let mut lines = ran.stderr.lines();
    lines.find_map(|line| {
        let (package, reason) = line.split_once(" is not in the cache: ")?;
        package.starts_with("app/").then(|| reason.to_owned())
    })
}

/// The words after the name of the most similar entry.
const SIMILAR: &str = "the most similar entry of app was compiled ";

fn app(cached: &Cached, source: &str) -> ReleaseBuilder {
    let script = script(&cached.ran(), "app", "cp source $BOSH_INSTALL_TARGET/");
    ReleaseBuilder::new("demo", "1")
        .package("app", &[], &script)
        .file("source", 0o644, source.as_bytes())
}

#[test]
fn each_changed_part_is_a_miss_that_is_explained() {
    let cached = Cached::new();
    let release = app(&cached, "one");
    let tools = cached.world.path("tools");
    std::fs::create_dir(&tools).unwrap();
    let compiler = tools.join("gcc");
    let install = |text: &str| {
        std::fs::write(&compiler, text).unwrap();
        std::fs::set_permissions(&compiler, PermissionsExt::from_mode(0o755)).unwrap();
    };
    install("#!/bin/sh\necho 1");
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let agent = || cached.agent().env("PATH", &path).arg("--env=CFLAGS=-O1");
    assert_eq!(
        reason(&cached, agent(), &release).as_deref(),
        Some("no entry of app")
    );
    cached.run(agent(), &release).1.succeeds();
    assert_eq!(reason(&cached, agent(), &release), None);

    let similar = |words: &str| Some(format!("{SIMILAR}{words}"));
    let with = |flag: &str| reason(&cached, agent().arg(flag), &release);
    assert_eq!(with("--env=CFLAGS=-O2"), similar("with another CFLAGS"));
    assert_eq!(with("--env=LDFLAGS="), similar("without LDFLAGS"));
    assert_eq!(
        with("--stemcell=ubuntu-jammy/1.1"),
        similar("for stemcell ubuntu-noble/1.406")
    );
    assert_eq!(
        with("--second-run=never"),
        similar("with --second-run auto")
    );
    let scratch = cached.world.path("scratch");
    let scratch = format!("--scratch-dir={}", scratch.display());
    let mut tried = BTreeSet::from(["--second-run", SCRIPT_USER]);
    for (flag, words) in [
        ("--make-jobserver", "with --make-jobserver off"),
        ("--readonly-deps", "with --readonly-deps off"),
        ("--no-shared-scratch", "with --no-shared-scratch off"),
        ("--network=none", "with --network host"),
        ("--protect-host", "with --protect-host off"),
        (
            "--reproducible",
            "from another source and with --reproducible off",
        ),
        (scratch.as_str(), "with --scratch-dir off"),
    ] {
        assert_eq!(with(flag), similar(words));
        tried.extend(flag.split('=').next());
    }
    assert_eq!(
        options_of_app(&cached),
        tried.into_iter().collect::<Vec<_>>()
    );
    let dated = agent().env("SOURCE_DATE_EPOCH", "1");
    assert_eq!(
        reason(&cached, dated, &release),
        similar("from another source and without SOURCE_DATE_EPOCH")
    );
    let other_base = cached.world.path("elsewhere");
    assert_eq!(
        with(&format!("--base-directory={}", other_base.display())),
        similar(&format!("in {}", cached.world.base().display()))
    );
    let without = cached.agent().env("PATH", &path);
    assert_eq!(
        reason(&cached, without, &release),
        similar("with CFLAGS, which is not set now")
    );
    assert_eq!(
        reason(&cached, agent(), &app(&cached, "two")),
        similar("from another source")
    );
    assert_eq!(
        reason(&cached, agent().env("TZ", "UTC"), &release),
        similar("without TZ")
    );
    // It is not part of the key.
    let proxy = agent().env("http_proxy", "http://other").env("SECRET", "s");
    assert_eq!(reason(&cached, proxy, &release), None);

    install("#!/bin/sh\necho 2");
    assert_eq!(
        reason(&cached, agent(), &release),
        similar("with another `gcc`")
    );
    let (names, ran) = cached.run(agent(), &release);
    ran.succeeds();
    assert_eq!(names, ["app"]);
}

/// The names of the options in the description of package `app`, sorted.
fn options_of_app(cached: &Cached) -> Vec<String> {
    let entries = cached.directory().join("v1/entries/app");
    let entry = std::fs::read_dir(entries).unwrap().next().unwrap();
    let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
    let entry: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let options = entry["parts"]["options"].as_object().unwrap();
    options.keys().cloned().collect()
}

#[test]
fn changed_system_file_is_a_miss_that_is_explained() {
    if !require_root() {
        return;
    }
    let cached = Cached::new();
    let release = app(&cached, "one");
    cached.run(cached.agent(), &release).1.succeeds();
    for (file, words) in [
        ("/etc/os-release", "with another `/etc/os-release`"),
        (
            "/var/lib/dpkg/status",
            "with other Debian packages installed",
        ),
    ] {
        let mut text = std::fs::read(file).unwrap();
        text.extend(b"# changed\n");
        let changed = cached.world.write("changed", text);
        let mount = format!("mount --bind {} {file}; exec \"$@\"", changed.display());
        let words_before = ["unshare", "--mount", "sh", "-ec", &mount, "sh"];
        let agent = Agent::wrapped(&cached.world.path("printed"), &words_before);
        let agent = cached.world.flags(agent).arg("--cache-dir");
        let found = reason(&cached, agent.arg(cached.directory()), &release);
        assert_eq!(found, Some(format!("{SIMILAR}{words}")));
    }
}

#[test]
fn other_user_is_a_miss_that_is_explained() {
    if !require_root() || !require_tools(&["setpriv"]) {
        return;
    }
    let cached = Cached {
        world: World::for_everybody(),
    };
    let release = app(&cached, "one");
    // Only root may see programs in other directories.
    let path = ("PATH", "/usr/bin:/bin");
    let agent = cached.agent().env(path.0, path.1);
    cached.run(agent, &release).1.succeeds();
    let own = copied_agent(&cached.world.path(""));
    let user = ["--reuid", "--regid"].map(|flag| format!("{flag}={USER}"));
    let words = ["setpriv", &user[0], &user[1], "--clear-groups"].map(OsStr::new);
    let words = words.into_iter().chain([own.as_os_str()]);
    let agent = Agent::through(&cached.world.path("printed"), words);
    let agent = cached.world.flags(agent).env(path.0, path.1);
    let agent = agent.arg("--cache-dir").arg(cached.directory());
    let found = reason(&cached, agent, &release);
    assert_eq!(found, Some(format!("{SIMILAR}by root")));
}

#[test]
fn changed_dependency_explains_the_miss_of_its_dependent() {
    let cached = Cached::new();
    cached
        .run(cached.agent(), &cached.release("one\n"))
        .1
        .succeeds();
    let agent = cached.agent().arg("--dry-run");
    let (_, ran) = cached.run(agent, &cached.release("two\n"));
    ran.succeeds()
        .says("\nOne of 4 packages is in the cache\nlib/")
        .says(
            "is not in the cache: the most similar entry of lib was compiled from another source\n",
        )
        .says(
            "is not in the cache: the most similar entry of mid was compiled against another lib\n",
        )
        .says(
            "is not in the cache: the most similar entry of app was compiled against another mid\n",
        );
    let agent = cached.agent().arg("--dry-run");
    let (_, ran) = cached.run(agent, &cached.release("one\n"));
    ran.succeeds()
        .says("No package would be compiled\nAll 4 packages are in the cache\n");
}

#[test]
fn archive_with_the_same_files_is_the_same_source() {
    let cached = Cached::new();
    let release = app(&cached, "one");
    cached.run(cached.agent(), &release).1.succeeds();
    let (names, ran) = cached.run(cached.agent(), &release.clone().no_compression());
    ran.succeeds();
    assert_eq!(names, [""; 0], "only the compression is another one");
}

#[test]
fn miss_is_explained_in_the_report() {
    let cached = Cached::new();
    cached
        .run(cached.agent(), &app(&cached, "one"))
        .1
        .succeeds();
    let path = cached.world.path("report.json");
    let agent = cached.agent().arg("--report").arg(&path).without_report();
    cached.run(agent, &app(&cached, "two")).1.succeeds();
    let report: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let package = &report["packages"][0];
    assert_eq!(package["cached"], false);
    assert_eq!(
        package["cache_miss"],
        format!("{SIMILAR}from another source")
    );
}
