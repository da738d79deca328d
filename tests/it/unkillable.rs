//! Processes of scripts that wait in the kernel and cannot be killed: they are reported, and no run waits for them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::{
    Agent, Compression, Hanging, Kind, LANDLOCK, Member, NAMESPACE, NONE, Place, Play, Ran,
    ReleaseBuilder, Running, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT, World, archive, in_tiers,
    processes_below, wait_for,
};
use nix::sys::signal::Signal;
use serde_json::json;

in_tiers!(unkillable_orphan_fails_its_package: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(next_run_continues_without_an_unkillable_process: NAMESPACE LANDLOCK NONE);
in_tiers!(next_run_kills_a_stopped_process: NONE);
in_tiers!(stop_does_not_wait_for_an_unkillable_script: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

in_tiers!(hanging_start_is_reported_when_it_is_stopped: NAMESPACE USERNS_OF_ROOT LANDLOCK NONE);
in_tiers!(hanging_start_fails_its_package: NAMESPACE LANDLOCK NONE);
in_tiers!(hanging_script_link_is_reported_when_it_is_stopped: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(hanging_script_link_fails_its_package: NAMESPACE LANDLOCK);
in_tiers!(hanging_install_target_is_reported_when_it_is_stopped: NAMESPACE USERNS_OF_A_USER NONE);
in_tiers!(hanging_copy_of_an_install_target_can_be_stopped: LANDLOCK NONE);
in_tiers!(hanging_mount_in_a_linked_install_target_is_refused: LANDLOCK NONE);
in_tiers!(hanging_path_does_not_make_others_unknown: LANDLOCK);
in_tiers!(hanging_path_in_the_output_does_not_prevent_the_report: LANDLOCK);
in_tiers!(hanging_mount_over_a_cache_is_unmounted: NONE);
in_tiers!(hanging_mount_over_the_tree_is_unmounted: NONE);
in_tiers!(fifos_in_the_places_of_logs_do_not_block: NONE);
in_tiers!(stop_ends_the_wait_for_a_silent_mount: NAMESPACE USERNS_OF_ROOT);
in_tiers!(hanging_mount_next_to_the_base_directory_is_ignored: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

const LIMIT: Duration = Duration::from_secs(60);

/// One second of grace, ten until processes have ended, and as much for a slow machine.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The time in which a run stops that waits for nothing but a mount.
const AT_ONCE: Duration = Duration::from_secs(6);

/// The time limit of a script's start.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The limit of a ping while both CPUs are busy with other tests.
const PING_LIMIT: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_answers_pings_while_a_lookup_hangs() {
    let play = Play::start();
    std::fs::create_dir(play.world.path("facts")).unwrap();
    let Some(_hanging) = Hanging::mount(&play.world) else {
        return;
    };
    let target = play.world.path("hanging/packaging");
    let link = Member::link(Kind::Symlink, "packaging", target.to_str().unwrap());
    let task = play.order(&play.source_of("app", &[link], json!({}))).await;
    let mut pings = tokio::time::interval(Duration::from_millis(50));
    let (start, mut pings_since) = (Instant::now(), 0);
    while pings_since < 40 {
        pings.tick().await;
        let asked = Instant::now();
        assert_eq!(play.ask("ping", json!([])).await["value"], "pong");
        assert!(asked.elapsed() < PING_LIMIT, "{:?}", asked.elapsed());
        assert!(start.elapsed() < LIMIT, "nothing hangs");
        if play.world.path("facts/hung").exists() {
            pings_since += 1;
        }
    }
    let asked = Instant::now();
    play.ask("cancel_task", json!([task])).await;
    let end = play.end(&task).await;
    assert!(asked.elapsed() < STOP_LIMIT, "{end}");
}

#[test]
fn silent_directory_of_a_shared_cache_costs_one_warning() {
    let world = World::new();
    std::fs::create_dir_all(world.path("facts")).unwrap();
    let tarball = world.release("release.tgz", &ReleaseBuilder::of_script("true"));
    let Some(_hanging) = Hanging::mount(&world) else {
        return;
    };
    let directory = world.path("hanging").display().to_string();
    let agent = || world.agent().arg("--cache-from").arg(&directory);
    for agent in [
        agent().arg("--cache-to").arg(&directory),
        agent().arg("--dry-run").without_report(),
    ] {
        let start = Instant::now();
        let ran = agent.arg(&tarball).run().succeeds();
        assert!(start.elapsed() < LIMIT, "{}", ran.stderr);
        let warning = format!(
            "Warning: the shared cache {directory} has failed and is not used in the rest of this run"
        );
        assert_eq!(ran.stderr.matches("Warning: ").count(), 1, "{}", ran.stderr);
        ran.says(&warning).says("its file system does not respond");
    }
}

#[test]
fn silent_directory_of_the_local_cache_costs_one_warning() {
    let world = World::new();
    std::fs::create_dir_all(world.path("facts")).unwrap();
    let tarball = world.release("release.tgz", &ReleaseBuilder::of_script("true"));
    let Some(_hanging) = Hanging::mount(&world) else {
        return;
    };
    let directory = world.path("hanging").display().to_string();
    let agent = || world.agent().arg("--cache-dir").arg(&directory);
    for agent in [agent(), agent().arg("--dry-run").without_report()] {
        let start = Instant::now();
        let ran = agent.arg(&tarball).run().succeeds();
        assert!(start.elapsed() < LIMIT, "{}", ran.stderr);
        assert_eq!(ran.stderr.matches("Warning: ").count(), 1, "{}", ran.stderr);
        ran.says(&format!(
            "Warning: the cache {directory} is not used: its file system does not respond"
        ));
    }
}

mod bodies {
    use super::*;

    pub(super) fn unkillable_orphan_fails_its_package(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount(&place.world) else {
            return;
        };
        let start = Instant::now();
        let ran = place
            .agent()
            .arg(place.release(&ReleaseBuilder::of_script(
                "stat $FACTS/../hanging/x & while [ ! -e $FACTS/hung ]; do sleep 0.01; done; echo done > $BOSH_INSTALL_TARGET/file",
            )))
            .run()
            .blames_the_machine()
            .says("a process of the packaging script of `app` cannot be killed: `stat` (process ")
            .says(", state D")
            .says("the package's directories are left in `");
        assert_eq!(ran.code, Some(4));
        assert!(start.elapsed() < LIMIT);
    }

    /// An agent whose script hangs at its start, as `PATH` begins with the hanging file system.
    fn with_hanging_start(tier: Tier) -> Option<(Place, Hanging, Agent)> {
        let place = Place::new(tier)?;
        let hanging = Hanging::mount(&place.world)?;
        let path = place.world.path("hanging");
        let path = format!("env PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", path.display());
        let release = place.release(&ReleaseBuilder::of_script("true"));
        let agent = place
            .agent_through(&path)
            .args(&["--grace", "1"])
            .arg(release);
        Some((place, hanging, agent))
    }

    /// An agent that compiles a package whose script is a link into the hanging file system.
    fn with_hanging_link(tier: Tier) -> Option<(Place, Hanging, Agent)> {
        let place = Place::new(tier)?;
        let hanging = Hanging::mount(&place.world)?;
        let target = place.world.path("hanging/packaging");
        let members = [
            Member::directory("./"),
            Member::link(Kind::Symlink, "./packaging", target.to_str().unwrap()),
        ];
        let blob = Compression::Gzip.apply(&archive(&members));
        let release = place.release(&ReleaseBuilder::of_script("").blob(&blob));
        let agent = place.agent().args(&["--grace", "1"]).arg(release);
        Some((place, hanging, agent))
    }

    fn assert_names_lookup(place: &Place, ran: Ran, name: &str) {
        let path = place.world.path("hanging").join(name);
        ran.says("cannot be killed: `sandbox-child` (process ")
            .says(&format!("trying to look up `{}`", path.display()));
    }

    fn assert_stops(running: Running) -> Ran {
        let start = Instant::now();
        running.signal(Signal::SIGTERM);
        let ran = running.end();
        assert!(start.elapsed() < STOP_LIMIT, "{}", ran.stderr);
        assert_eq!(ran.code, Some(143), "{}", ran.stderr);
        ran
    }

    pub(super) fn hanging_script_link_is_reported_when_it_is_stopped(tier: Tier) {
        let Some((place, _hanging, agent)) = with_hanging_link(tier) else {
            return;
        };
        let running = agent.start();
        wait_until_it_hangs(&place);
        let ran = assert_stops(running);
        assert_names_lookup(&place, ran, "packaging");
    }

    pub(super) fn hanging_script_link_fails_its_package(tier: Tier) {
        let Some((place, _hanging, agent)) = with_hanging_link(tier) else {
            return;
        };
        let start = Instant::now();
        let ran = agent.run().blames_the_machine();
        assert!(start.elapsed() < START_LIMIT + STOP_LIMIT, "{}", ran.stderr);
        let ran = ran.says("a link of package `app` leads to a file system that does not respond");
        assert_names_lookup(&place, ran, "packaging");
    }

    pub(super) fn hanging_install_target_is_reported_when_it_is_stopped(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount(&place.world) else {
            return;
        };
        let running = place.start(
            "rm $BOSH_INSTALL_TARGET; ln -s $(readlink -f $FACTS/..)/hanging/x $BOSH_INSTALL_TARGET; touch $FACTS/started",
        );
        wait_until_it_hangs(&place);
        let ran = assert_stops(running);
        assert_names_lookup(&place, ran, "x");
    }

    pub(super) fn hanging_copy_of_an_install_target_can_be_stopped(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount(&place.world) else {
            return;
        };
        let running = place.start(
            "rm $BOSH_INSTALL_TARGET; ln -s $(readlink -f $FACTS/..)/hanging $BOSH_INSTALL_TARGET; touch $FACTS/started",
        );
        wait_until_it_hangs(&place);
        let path = place.world.path("hanging");
        assert_stops(running)
            .says("cannot be killed: `sandbox-child` (process ")
            .says(&format!("trying to copy `{}`", path.display()));
    }

    pub(super) fn hanging_mount_in_a_linked_install_target_is_refused(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount_silent_at(&place.world, "outer/inner") else {
            return;
        };
        let start = Instant::now();
        let script =
            "rm $BOSH_INSTALL_TARGET; ln -s $(readlink -f $FACTS/..)/outer $BOSH_INSTALL_TARGET";
        let mount = place.world.path("outer/inner");
        place
            .run(&ReleaseBuilder::of_script(script))
            .fails()
            .says("package `app` has no directory at its install target `")
            .says(&format!(
                "there is a link to a directory in which `{}` is mounted",
                mount.display()
            ));
        assert!(start.elapsed() < STOP_LIMIT);
        assert!(!place.world.path("facts/hung").exists());
    }

    pub(super) fn hanging_path_does_not_make_others_unknown(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(hanging) = Hanging::mount(&place.world) else {
            return;
        };
        hanging.pause();
        // Landlock does not close the first path, and does not cause the second error.
        let script = "echo \"cat: /usr/none: Permission denied\"; \
                      echo \"chown: changing ownership of '$(readlink -f $FACTS/..)/hanging/x': Operation not permitted\"; \
                      echo run >> $FACTS/runs; echo done > $BOSH_INSTALL_TARGET/file";
        let start = Instant::now();
        place
            .run(&ReleaseBuilder::of_script(script))
            .succeeds()
            .says("could not look up the paths in the output of the packaging script");
        assert!(start.elapsed() < STOP_LIMIT);
        assert_eq!(place.world.read("facts/runs"), "run\n");
    }

    pub(super) fn hanging_path_in_the_output_does_not_prevent_the_report(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount(&place.world) else {
            return;
        };
        let script = "echo \"touch: cannot touch '$(readlink -f $FACTS/..)/hanging/x': Permission denied\"; exit 3";
        let release = place.release(&ReleaseBuilder::of_script(script));
        let start = Instant::now();
        let agent = place.agent().arg("--second-run=never");
        let ran = agent.arg(release).run().fails();
        assert!(start.elapsed() < STOP_LIMIT, "{}", ran.stderr);
        let ran = ran.says("the packaging script exited with 3");
        assert_names_lookup(&place, ran, "x");
    }

    pub(super) fn next_run_continues_without_an_unkillable_process(tier: Tier) {
        // The process that hangs before it becomes the script has the marker of the shared tree locked.
        let Some((place, _hanging, agent)) = with_hanging_start(tier) else {
            return;
        };
        let running = agent.start();
        wait_until_it_hangs(&place);
        running.signal(Signal::SIGKILL);
        running.end();
        let release = ReleaseBuilder::of_script("echo done > $BOSH_INSTALL_TARGET/file");
        let start = Instant::now();
        let ran = place.run(&release).succeeds();
        assert!(start.elapsed() < START_LIMIT + STOP_LIMIT, "{}", ran.stderr);
        assert_eq!(place.file("app", "file"), "100644 done\n");
        if tier.has_mounts() {
            return;
        }
        let data = place.world.base().join("data");
        let aside = data.join(".bosh-agent-left-").display().to_string();
        ran.says("cannot be killed: `sandbox-child` (process ")
            .says(", state D")
            .says(&aside);
        // It holds the lock on a file that has no name now.
        let start = Instant::now();
        place
            .run(&release)
            .succeeds()
            .does_not_say("cannot be killed");
        assert!(start.elapsed() < STOP_LIMIT);
        let left = crate::support::listed(data);
        let is_aside = |path: &PathBuf| path.to_str().unwrap().contains(".bosh-agent-left-");
        assert!(!left.iter().any(is_aside), "{left:?}");
    }

    pub(super) fn next_run_kills_a_stopped_process(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let running = place.start("kill -STOP $PPID; touch $FACTS/started; sleep 1000; true");
        running.signal(Signal::SIGKILL);
        running.end();
        let release = ReleaseBuilder::of_script("echo done > $BOSH_INSTALL_TARGET/file");
        place
            .run(&release)
            .succeeds()
            .does_not_say("cannot be killed");
        assert_eq!(place.file("app", "file"), "100644 done\n");
        assert_eq!(processes_below(&place.world.path("")), [""; 0]);
    }

    fn assert_names_start(place: &Place, ran: Ran) {
        let bash = place.world.path("hanging/bash");
        ran.says("cannot be killed: `sandbox-child` (process ")
            .says(&format!("trying to start `{}`", bash.display()));
    }

    fn wait_until_it_hangs(place: &Place) {
        wait_for("the hanging process", LIMIT, || {
            let hangs = place.world.path("facts/hung").exists();
            hangs.then_some(()).ok_or_else(String::new)
        });
    }

    pub(super) fn hanging_start_is_reported_when_it_is_stopped(tier: Tier) {
        let Some((place, _hanging, agent)) = with_hanging_start(tier) else {
            return;
        };
        let running = agent.start();
        wait_until_it_hangs(&place);
        let start = Instant::now();
        running.signal(Signal::SIGTERM);
        let ran = running.end();
        assert!(start.elapsed() < STOP_LIMIT, "{}", ran.stderr);
        assert_eq!(ran.code, Some(143), "{}", ran.stderr);
        assert_names_start(&place, ran);
    }

    pub(super) fn hanging_start_fails_its_package(tier: Tier) {
        let Some((place, _hanging, agent)) = with_hanging_start(tier) else {
            return;
        };
        let start = Instant::now();
        let ran = agent.run().blames_the_machine();
        assert!(start.elapsed() < START_LIMIT + STOP_LIMIT, "{}", ran.stderr);
        let ran = ran
            .says("Error: failed to compile package app/")
            .says("a process of the packaging script of `app` cannot be killed");
        assert_names_start(&place, ran);
    }

    pub(super) fn hanging_mount_next_to_the_base_directory_is_ignored(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount_silent(&place.world) else {
            return;
        };
        let start = Instant::now();
        place
            .run(&ReleaseBuilder::of_script(
                "echo done > $BOSH_INSTALL_TARGET/file",
            ))
            .succeeds()
            .says(&format!("Isolation: {}", tier.name));
        assert!(start.elapsed() < LIMIT);
        assert_eq!(place.file("app", "file"), "100644 done\n");
        assert!(!place.world.path("facts/hung").exists());
    }

    pub(super) fn fifos_in_the_places_of_logs_do_not_block(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let logs = place.world.path("logs/demo-1.10");
        let logs = logs.display();
        let script = format!("rm {logs}/app.log; mkfifo {logs}/app.log");
        let release = ReleaseBuilder::of_script(&script);
        place.run(&release).blames_the_machine().says("app.log`");
        let script = format!("mkfifo {logs}/late.log");
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("app", &[], &script)
            .package("late", &["app"], "echo done");
        place.run(&release).succeeds();
        assert!(place.world.read("logs/demo-1.10/late.log").contains("done"));
    }

    /// Starts an agent, and mounts a silent file system while a script runs. The script waits for `facts/mounted`.
    fn start_and_mount(
        place: &Place,
        release: &ReleaseBuilder,
        at: &str,
    ) -> Option<(Running, Hanging)> {
        let agent = place.agent().args(&["--jobs", "2"]);
        let running = agent.arg(place.release(release)).start();
        wait_for("the script", LIMIT, || {
            let has_started = place.world.path("facts/started").exists();
            has_started.then_some(()).ok_or_else(|| running.stderr())
        });
        let hanging = Hanging::mount_silent_at(&place.world, at)?;
        Some((running, hanging))
    }

    /// Ends a script after the mount.
    const AWAIT_MOUNT: &str =
        "touch $FACTS/started; until [ -e $FACTS/mounted ]; do sleep 0.01; done";

    pub(super) fn stop_ends_the_wait_for_a_silent_mount(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], AWAIT_MOUNT)
            .package("app", &["lib"], "echo done");
        let Some((running, _hanging)) = start_and_mount(&place, &release, "vcap/other") else {
            return;
        };
        wait_until_it_hangs(&place);
        running.signal(Signal::SIGTERM);
        running.end_within(AT_ONCE).ends_with(143);
    }

    pub(super) fn hanging_mount_over_a_cache_is_unmounted(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let cache = place.world.base().join("data/cache");
        let lib = format!(
            "set -e; mkdir -p $BOSH_INSTALL_TARGET/bosh; echo 'export GOCACHE={}/go' > $BOSH_INSTALL_TARGET/bosh/compile.env; {AWAIT_MOUNT}",
            cache.display()
        );
        let app = "echo done > $BOSH_INSTALL_TARGET/file";
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], &lib)
            .package("one", &["lib"], app)
            .package("two", &["lib"], app);
        let Some((running, _hanging)) = start_and_mount(&place, &release, "vcap/data/cache") else {
            return;
        };
        let start = Instant::now();
        let ran = running.end().succeeds();
        assert!(start.elapsed() < LIMIT, "{}", ran.stderr);
        ran.says(&format!(
            "Warning: unmounted a file system that a packaging script left mounted: `{}`",
            cache.display()
        ));
        assert!(!place.world.path("facts/hung").exists());
    }

    pub(super) fn hanging_mount_over_the_tree_is_unmounted(tier: Tier) {
        for (at, end) in [
            ("vcap/data", 0),
            ("vcap/packages", 0),
            ("vcap/data/packages/app", 0),
            ("vcap/data/compile/app", 7),
        ] {
            let Some(place) = Place::new(tier) else {
                return;
            };
            let release = ReleaseBuilder::of_script(&format!("{AWAIT_MOUNT}; exit {end}"));
            let Some((running, _hanging)) = start_and_mount(&place, &release, at) else {
                return;
            };
            let start = Instant::now();
            let ran = running.end().fails();
            assert!(start.elapsed() < LIMIT, "{}", ran.stderr);
            ran.says(match end {
                0 => "the packaging script of `app` left a mount at",
                _ => "the packaging script exited with 7",
            });
            assert!(!place.world.path("facts/hung").exists(), "{at}");
        }
    }

    pub(super) fn stop_does_not_wait_for_an_unkillable_script(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Some(_hanging) = Hanging::mount(&place.world) else {
            return;
        };
        let running = place.start(
            "touch $FACTS/started; stat $FACTS/../hanging/x; echo > $BOSH_INSTALL_TARGET/file",
        );
        wait_until_it_hangs(&place);
        let start = Instant::now();
        running.signal(Signal::SIGTERM);
        let ran = running.end();
        assert!(start.elapsed() < LIMIT, "{}", ran.stderr);
        assert_eq!(ran.code, Some(143), "{}", ran.stderr);
        ran.says("cannot be killed: `stat` (process ");
    }
}
