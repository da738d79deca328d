//! Runs that can be stopped in all situations: inherited signal settings, dangling links as directories, and repeated signals.

use std::os::unix::fs::{lchown, symlink};
use std::time::Duration;

use crate::support::{
    Agent, LANDLOCK, NAMESPACE, NONE, Place, ReleaseBuilder, Running, Tier, USERNS_OF_A_USER,
    USERNS_OF_ROOT, in_tiers, processes_below, wait_for,
};
use nix::sys::signal::Signal;

in_tiers!(run_with_inherited_ignored_signals_compiles: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(run_with_inherited_ignored_signals_can_be_stopped: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(scripts_get_default_signals_and_an_empty_mask: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(run_under_nohup_outlives_its_terminal: NAMESPACE NONE);
in_tiers!(dangling_data_directory_is_reported: LANDLOCK NONE);
in_tiers!(dangling_data_directory_is_accepted_with_mounts: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);
in_tiers!(dangling_base_directory_is_reported: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(other_dangling_directories_are_reported: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(second_signal_kills_at_once: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(duplicate_signal_counts_once: NAMESPACE NONE);
in_tiers!(stop_ends_packing_within_the_grace_time: NAMESPACE LANDLOCK NONE);

const LIMIT: Duration = Duration::from_secs(60);

/// All signal settings that a child inherits: dispositions and the mask.
const ALL: &str = "env --ignore-signal --block-signal";

/// The time that scripts get by default.
const GRACE: Duration = Duration::from_secs(10);

/// What a busy machine needs for an end without a grace time.
const MARGIN: Duration = Duration::from_secs(10);

fn wait_for_message(running: &Running, text: &str) {
    wait_for(text, LIMIT, || {
        let said = running.stderr();
        said.contains(text).then_some(()).ok_or(said)
    });
}

/// A dangling link in place of a directory. It belongs to the user who compiles.
fn dangling(place: &Place, name: &str) -> (String, String) {
    let (link, target) = (place.world.path(name), place.world.path("not-mounted"));
    std::fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(&target, &link).unwrap();
    if place.tier.name == "userns" {
        lchown(&link, Some(crate::support::USER), None).unwrap();
    }
    (link.display().to_string(), target.display().to_string())
}

/// Asserts that the agent soon ends because of the link.
#[track_caller]
fn assert_names_link(place: &Place, agent: Agent, (link, target): &(String, String)) {
    let tarball = place.release(&ReleaseBuilder::demo());
    agent
        .arg(tarball)
        .within(MARGIN)
        .run()
        .blames_the_machine()
        .says(&format!(
            "`{link}` is a link to `{target}`, which does not exist"
        ));
}

mod bodies {
    use super::*;

    pub(super) fn run_with_inherited_ignored_signals_compiles(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        for (number, inherited) in [
            "env --ignore-signal=CHLD",
            "env --ignore-signal=PIPE",
            "nohup",
            "env --block-signal",
            ALL,
        ]
        .into_iter()
        .enumerate()
        {
            let release = ReleaseBuilder::new("demo", &format!("1.{number}"))
                .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/lib.txt")
                .package(
                    "app",
                    &["lib"],
                    "cp @packages@/lib/lib.txt $BOSH_INSTALL_TARGET/",
                );
            let ran = place
                .agent_through(inherited)
                .arg(place.release(&release))
                .run();
            ran.succeeds().says(&format!("Isolation: {}", tier.name));
        }
    }

    pub(super) fn run_with_inherited_ignored_signals_can_be_stopped(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
            let agent = place.agent_through(ALL).args(&["--grace", "1"]);
            let running = place.start_of(
                agent,
                "trap '' TERM\ntouch $FACTS/started\nsleep 1000; sleep 1000",
            );
            running.signal(signal);
            running
                .end_within(Duration::from_secs(1) + MARGIN)
                .ends_with(code)
                .does_not_say("Error");
            assert_eq!(processes_below(&place.world.path("facts")), [""; 0]);
            std::fs::remove_file(place.world.path("facts/started")).unwrap();
        }
    }

    pub(super) fn scripts_get_default_signals_and_an_empty_mask(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = "grep -E '^Sig(Blk|Ign):' /proc/self/status > $BOSH_INSTALL_TARGET/signals\n\
                      yes | head -n 1 > $BOSH_INSTALL_TARGET/head";
        let expected = "100644 SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
        for inherited in ["", "nohup", ALL] {
            let tarball = place.release(&ReleaseBuilder::of_script(script));
            place.agent_through(inherited).arg(tarball).run().succeeds();
            assert_eq!(place.file("app", "signals"), expected, "{inherited}");
            assert_eq!(place.file("app", "head"), "100644 y\n");
            let log = place.world.read("logs/demo-1.10/app.log");
            assert!(!log.contains("roken pipe"), "{log}");
        }
    }

    pub(super) fn run_under_nohup_outlives_its_terminal(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = "touch $FACTS/started\nwhile [ ! -e $FACTS/go ]; do sleep 0.01; done";
        let running = place.start_of(place.agent_through("nohup"), script);
        running.signal(Signal::SIGHUP);
        std::fs::write(place.world.path("facts/go"), "").unwrap();
        running.end().succeeds().does_not_say("SIGHUP");
    }

    pub(super) fn dangling_data_directory_is_reported(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let link = dangling(&place, "vcap/data");
        assert_names_link(&place, place.agent(), &link);
    }

    pub(super) fn dangling_data_directory_is_accepted_with_mounts(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        dangling(&place, "vcap/data");
        place.run(&ReleaseBuilder::demo()).succeeds();
    }

    pub(super) fn dangling_base_directory_is_reported(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let link = dangling(&place, "vcap");
        assert_names_link(&place, place.agent(), &link);
    }

    pub(super) fn other_dangling_directories_are_reported(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let link = dangling(&place, "away");
        let below = place.world.path("away/below");
        for flag in ["--work-dir", "--output-directory", "--logs-dir"] {
            for directory in [link.0.as_ref(), below.as_path()] {
                assert_names_link(&place, place.agent().arg(flag).arg(directory), &link);
            }
        }
    }

    pub(super) fn second_signal_kills_at_once(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script =
            "trap '' TERM INT\nsetsid sleep 1000 &\ntouch $FACTS/started\nsleep 1000; sleep 1000";
        for (signal, code, announced) in [
            (
                Signal::SIGINT,
                130,
                "Stopping: app has 600 s to end (Ctrl-C again to kill at once)",
            ),
            (
                Signal::SIGTERM,
                143,
                "Stopping on SIGTERM: app has 600 s to end (SIGTERM again to kill at once)",
            ),
        ] {
            let agent = place.agent().args(&["--grace", "600"]);
            let mut running = place.start_of(agent, script);
            running.signal(signal);
            wait_for_message(&running, &format!("{announced}\n"));
            wait_for("the end", MARGIN, || {
                if running.has_ended() {
                    return Ok(());
                }
                running.signal(signal);
                Err(running.stderr())
            });
            let ran = running.end().ends_with(code).does_not_say("Error");
            ran.says(&format!(
                "Killing all processes after a second {}",
                signal.as_str()
            ));
            assert_eq!(processes_below(&place.world.path("facts")), [""; 0]);
            std::fs::remove_file(place.world.path("facts/started")).unwrap();
        }
        // The next run removes the leftovers of the killed ones.
        place.run(&ReleaseBuilder::of_script("true")).succeeds();
        for directory in ["out", "vcap/data"] {
            let left: Vec<_> = std::fs::read_dir(place.world.path(directory))
                .into_iter()
                .flatten()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.starts_with(".bosh-agent"))
                .collect();
            assert_eq!(left, [""; 0]);
        }
    }

    pub(super) fn duplicate_signal_counts_once(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        // Like wrappers that forward signals of the terminal. A stopped process gets both when it continues.
        let running = place
            .start("trap ': > $FACTS/asked; exit' TERM; touch $FACTS/started; sleep 1000 & wait");
        running.signal(Signal::SIGSTOP);
        wait_for("the agent to stand still", LIMIT, || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.pid())).unwrap();
            stat.contains(") T ").then_some(()).ok_or(stat)
        });
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGCONT] {
            running.signal(signal);
        }
        running.end().ends_with(130).does_not_say("second");
        assert!(place.world.path("facts/asked").exists());
    }

    pub(super) fn stop_ends_packing_within_the_grace_time(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = "head -c 300M /dev/urandom > $BOSH_INSTALL_TARGET/big\ntouch $FACTS/started";
        let running = place.start(script);
        wait_for("the script's end", LIMIT, || {
            // The agent has the same environment.
            let found = processes_below(&place.world.path("facts"));
            (found.len() == 1).then_some(()).ok_or(format!("{found:?}"))
        });
        running.signal(Signal::SIGTERM);
        running
            .end_within(GRACE)
            .ends_with(143)
            .does_not_say("Error");
        assert!(!place.world.result("demo-1.10").exists());
    }
}
