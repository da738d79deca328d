//! `--isolation=namespace`: each package in its own namespaces, without changes on the host.

use crate::support::{
    Agent, NamespaceWorld, Ran, ReleaseBuilder, Running, World, require_root, snapshot, unpacked,
};
use nix::sys::signal::Signal;

impl NamespaceWorld {
    fn run(&self, release: &ReleaseBuilder) -> Ran {
        self.agent().arg(self.release("release.tgz", release)).run()
    }

    fn file(&self, package: &str, name: &str) -> String {
        let (_scratch, contents) = unpacked(&self.world.result("demo-1.10"), package);
        contents[name].clone()
    }

    fn start(&self, tarball: &str, script: &str, started: &str) -> Running {
        let tarball = self.release(tarball, &ReleaseBuilder::of_script(script));
        let agent = self.agent().args(&["--grace", "1"]).arg(tarball);
        self.start_until(agent, started)
    }

    /// A run with its own directories next to the base directory.
    fn start_with(&self, isolation: &str, name: &str, script: &str, started: &str) -> Running {
        let tarball = self.release(&format!("{name}.tgz"), &ReleaseBuilder::of_script(script));
        let agent = self
            .agent_at(isolation, &format!("out-{name}"))
            .arg("--work-dir")
            .arg(self.world.path(&format!("work-{name}")))
            .arg(tarball);
        self.start_until(agent, started)
    }

    fn start_until(&self, agent: Agent, started: &str) -> Running {
        let mut running = agent.start();
        self.wait_for_facts(&mut running, &[started]);
        running
    }
}

fn two(lib: &str, app: &str) -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], lib)
        .package("other", &[], "echo other > $BOSH_INSTALL_TARGET/file")
        .package("app", &["lib"], app)
}

#[test]
fn host_is_unchanged() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    let base = place.world.base();
    std::fs::create_dir_all(base.join("packages/theirs")).unwrap();
    std::fs::create_dir_all(base.join("data/packages/theirs")).unwrap();
    std::fs::create_dir_all(base.join("bosh/etc")).unwrap();
    std::fs::write(base.join("bosh/etc/file"), "kept\n").unwrap();
    let before = snapshot(&base);
    place
        .run(&two(
            "echo lib > $BOSH_INSTALL_TARGET/file",
            "cat @base@/bosh/etc/file > $BOSH_INSTALL_TARGET/kept; ls @packages@ > $BOSH_INSTALL_TARGET/seen",
        ))
        .succeeds()
        .says("Isolation: namespace\n");
    assert_eq!(snapshot(&base), before);
    assert_eq!(place.file("app", "kept"), "100644 kept\n");
    assert_eq!(place.file("app", "seen"), "100644 app\nlib\n");
}

#[test]
fn undeclared_packages_cannot_be_listed_read_or_run() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    place
        .run(&two(
            "echo lib > $BOSH_INSTALL_TARGET/file",
            "ls -A @packages@ @base@/data/packages > $BOSH_INSTALL_TARGET/list; \
             cat @packages@/other/file && exit 1; [ ! -e @packages@/other ] && [ ! -e @base@/data/packages/other ]",
        ))
        .succeeds();
    assert!(!place.file("app", "list").contains("other"));
}

#[test]
fn write_into_a_dependency_is_private_to_the_script() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(
            "lib",
            &[],
            "echo lib > $BOSH_INSTALL_TARGET/file; mkdir $BOSH_INSTALL_TARGET/bin",
        )
        .package(
            "first",
            &["lib"],
            "set -e; echo changed > @packages@/lib/file; touch @packages@/lib/bin/new; cp @packages@/lib/file $BOSH_INSTALL_TARGET/",
        )
        .package(
            "second",
            &["first", "lib"],
            "set -e; cp @packages@/lib/file $BOSH_INSTALL_TARGET/; ls -A @packages@/lib/bin > $BOSH_INSTALL_TARGET/bin",
        );
    place.run(&release).succeeds();
    assert_eq!(place.file("first", "file"), "100644 changed\n");
    assert_eq!(place.file("second", "file"), "100644 lib\n");
    assert_eq!(place.file("second", "bin"), "100644 ");
}

#[test]
fn readonly_deps_makes_dependencies_read_only() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    let release = two(
        "echo lib > $BOSH_INSTALL_TARGET/file",
        "if echo changed > @packages@/lib/file; then exit 1; fi; cp @packages@/lib/file $BOSH_INSTALL_TARGET/",
    );
    let tarball = place.release("release.tgz", &release);
    place
        .agent()
        .args(&["--readonly-deps"])
        .arg(tarball)
        .run()
        .succeeds()
        .says("Isolation: namespace, with read-only dependencies");
    assert_eq!(place.file("app", "file"), "100644 lib\n");
}

#[test]
fn files_can_be_moved_and_linked_into_the_install_target() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    place
        .run(
            &ReleaseBuilder::of_script(
                "set -e; echo a > a; ln a $BOSH_INSTALL_TARGET/linked; rename() { perl -e 'rename($ARGV[0], $ARGV[1]) or die' \"$@\"; }; \
                 rename a $BOSH_INSTALL_TARGET/moved; rm $BOSH_INSTALL_TARGET; mkdir $BOSH_INSTALL_TARGET; echo b > b; \
                 rename b $BOSH_INSTALL_TARGET/b",
            ),
        )
        .succeeds();
    assert_eq!(place.file("app", "b"), "100644 b\n");
}

#[test]
fn concurrent_runs_in_one_base_directory_are_independent() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    let script = "set -e; echo $RUN > /tmp/x; echo $RUN > /var/tmp/x; touch $FACTS/started-$RUN; \
                  while [ $(ls $FACTS | grep -c started) -lt 8 ]; do sleep 0.01; done; \
                  [ $(cat /tmp/x) = $RUN ]; [ $(cat /var/tmp/x) = $RUN ]; cp /tmp/x $BOSH_INSTALL_TARGET/run";
    let tarball = place.release("release.tgz", &ReleaseBuilder::of_script(script));
    let running: Vec<Running> = (0..8)
        .map(|run| {
            let agent = place.world.agent_at("namespace", &format!("out-{run}"));
            agent
                .env("FACTS", place.world.path("facts").to_str().unwrap())
                .env("RUN", &run.to_string())
                .arg("--logs-dir")
                .arg(place.world.path(&format!("logs-{run}")))
                .arg(&tarball)
                .start()
        })
        .collect();
    for (run, running) in running.into_iter().enumerate() {
        running.end().succeeds();
        let result = place
            .world
            .path(&format!("out-{run}/demo-1.10-ubuntu-noble-1.406.tgz"));
        let (_scratch, contents) = unpacked(&result, "app");
        assert_eq!(contents["run"], format!("100644 {run}\n"));
    }
}

#[test]
fn processes_of_a_script_end_with_it() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    let ran = place.run(&ReleaseBuilder::of_script(
        "for n in 1 2 3; do setsid bash -c \"trap '' TERM HUP; while :; do echo > $FACTS/alive-$n; sleep 0.01; done\" & done; \
         while [ $(ls $FACTS | grep -c alive) -lt 3 ]; do sleep 0.01; done",
    ));
    ran.succeeds().says("left ");
    // They write continuously: their files are removed and do not reappear.
    std::fs::remove_dir_all(place.world.path("facts")).unwrap();
    std::fs::create_dir(place.world.path("facts")).unwrap();
    let own: Vec<String> = crate::support::processes_below(&place.world.path(""));
    assert!(own.is_empty(), "{own:?}");
    assert!(snapshot(&place.world.path("facts")).len() <= 1);
}

#[test]
fn first_process_does_not_hold_the_pipe_of_the_start() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    // Otherwise its parent would consider the script not started, and stop it after the time limit of the start. The remaining pipes
    // are those of the output and of the report.
    let script = "readlink /proc/1/fd/* | grep ^pipe: | sort -u >$BOSH_INSTALL_TARGET/pipes";
    place.run(&ReleaseBuilder::of_script(script)).succeeds();
    let pipes = place.file("app", "pipes");
    assert_eq!(pipes.matches("pipe:").count(), 2, "{pipes}");
}

#[test]
fn stop_leaves_no_files() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let started = format!("started-{code}");
        let running = place.start(
            "release.tgz",
            &format!("trap '' TERM; touch $FACTS/{started}; sleep 1000; sleep 1000"),
            &started,
        );
        running.signal(signal);
        running.end().ends_with(code);
        assert!(
            !place.world.base().exists(),
            "{:?}",
            snapshot(&place.world.base())
        );
        assert!(!place.world.out().exists());
    }
}

#[test]
fn next_run_removes_the_leftovers_of_a_killed_one() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    let running = place.start(
        "killed.tgz",
        "trap '' TERM; touch $FACTS/started; sleep 1000; sleep 1000",
        "started",
    );
    running.signal(Signal::SIGKILL);
    running.end();
    place.run(&ReleaseBuilder::demo()).succeeds();
    let left: Vec<String> = snapshot(&place.world.base()).into_keys().collect();
    assert_eq!(
        left,
        ["", "data"],
        "only the directory that the killed run made stays"
    );
    let own = crate::support::processes_below(&place.world.path(""));
    assert!(own.is_empty(), "{own:?}");
}

#[test]
fn unavailable_tier_is_an_error_and_auto_uses_the_next() {
    if !require_root() {
        return;
    }
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let without = |isolation: &str| {
        let before = [
            "setpriv",
            "--bounding-set",
            "-sys_admin",
            "--inh-caps",
            "-sys_admin",
        ];
        let agent = Agent::wrapped(&world.path("printed"), &before);
        world
            .flags_with(agent, isolation)
            .arg("--output-directory")
            .arg(world.out())
            .arg(&tarball)
            .run()
    };
    without("namespace")
        .blames_the_machine()
        .says("failed to create a PID namespace");
    without("auto").succeeds().says("Isolation: userns\n");
}

#[test]
fn work_directory_may_be_relative() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    let tarball = place.release(
        "release.tgz",
        &two(
            "echo lib > $BOSH_INSTALL_TARGET/file",
            "cp @packages@/lib/file $BOSH_INSTALL_TARGET/",
        ),
    );
    place
        .agent()
        .args(&["--work-dir", "odd: name, here"])
        .arg(tarball)
        .run()
        .succeeds();
    assert_eq!(place.file("app", "file"), "100644 lib\n");
}

#[test]
fn work_directory_is_unreachable() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    std::fs::create_dir_all(place.world.base().join("store")).unwrap();
    let tarball = place.release(
        "release.tgz",
        &two(
            "echo lib > $BOSH_INSTALL_TARGET/file",
            "[ ! -e /proc/1/cwd/places ] && find @base@/store > $BOSH_INSTALL_TARGET/seen",
        ),
    );
    place
        .agent()
        .arg("--work-dir")
        .arg(place.world.base().join("store"))
        .arg(tarball)
        .run()
        .succeeds();
    let seen = place.file("app", "seen");
    assert!(!seen.contains("/lib") && !seen.contains("places"), "{seen}");
}

#[test]
fn install_target_that_links_out_of_the_package_is_refused() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    place
        .run(&ReleaseBuilder::of_script(
            "mkdir /tmp/elsewhere; rm $BOSH_INSTALL_TARGET; ln -s /tmp/elsewhere $BOSH_INSTALL_TARGET",
        ))
        .fails();
    place
        .run(&ReleaseBuilder::of_script(
            "mkdir out; echo mine > out/file; rm $BOSH_INSTALL_TARGET; ln -s $BOSH_COMPILE_TARGET/out $BOSH_INSTALL_TARGET",
        ))
        .succeeds();
    assert_eq!(place.file("app", "file"), "100644 mine\n");
}

#[test]
fn ending_run_keeps_the_files_of_another() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    for isolation in ["namespace", "none"] {
        let first = place.start_with(
            isolation,
            "first",
            "touch $FACTS/first; while [ ! -e $FACTS/second ]; do sleep 0.01; done",
            "first",
        );
        let second = place.start_with(
            "namespace",
            "second",
            "touch $FACTS/second; while [ ! -e $FACTS/go ]; do sleep 0.01; done; echo B > $BOSH_INSTALL_TARGET/file",
            "second",
        );
        first.end().succeeds();
        std::fs::write(place.world.path("facts/go"), "").unwrap();
        second.end().succeeds();
        for fact in ["first", "second", "go"] {
            std::fs::remove_file(place.world.path("facts").join(fact)).unwrap();
        }
    }
}

#[test]
fn foreign_directory_with_the_temporary_prefix_is_kept() {
    let Some(place) = NamespaceWorld::new() else {
        return;
    };
    std::fs::create_dir(place.world.out()).unwrap();
    let pipe = place.world.out().join(".bosh-agent-partial-x");
    crate::support::run_tool("mkfifo", &[pipe.as_os_str()]);
    place.run(&ReleaseBuilder::demo()).succeeds();
    assert!(pipe.exists());
}
