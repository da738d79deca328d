//! The fork server, which forks the parents of scripts: kills, restarts, and its visibility to scripts.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::support::{
    LANDLOCK, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT,
    in_tiers, processes_below, snapshot, wait_for,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

in_tiers!(killed_server_is_replaced_and_its_scripts_continue: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(killed_parent_of_a_script_is_reported: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(parent_killed_with_its_server_is_reported: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(server_ends_with_a_killed_agent: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(scripts_inherit_nothing_of_the_server: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(jobserver_of_a_make_above_reaches_scripts: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(scripts_share_the_autogroup_of_the_agent: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(dependencies_of_one_overlay_are_independent: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);

const LIMIT: Duration = Duration::from_secs(60);

/// The processes that run this copy of the program: their ids and names.
fn processes_of(place: &Place) -> Vec<(Pid, String)> {
    let program = std::fs::metadata(place.world.path("bosh-agent")).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(number) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(file) = std::fs::metadata(entry.path().join("exe")) else {
            continue;
        };
        if (file.dev(), file.ino()) == (program.dev(), program.ino())
            && let Ok(name) = std::fs::read_to_string(entry.path().join("comm"))
        {
            found.push((Pid::from_raw(number), name.trim_end().to_owned()));
        }
    }
    found
}

/// The only process of that name.
fn process(place: &Place, name: &str) -> Pid {
    let mut found = processes_of(place);
    found.retain(|(_, other)| other == name);
    let [(process, _)] = found.as_slice() else {
        panic!("not one `{name}`: {:?}", processes_of(place));
    };
    *process
}

#[track_caller]
fn assert_clean(place: &Place) {
    wait_for("the end of every process", LIMIT, || {
        let own = processes_of(place);
        let others = processes_below(&place.world.path(""));
        (own.is_empty() && others.is_empty())
            .then_some(())
            .ok_or_else(|| format!("{own:?} {others:?}"))
    });
}

#[track_caller]
fn assert_no_leftovers(place: &Place) {
    assert_clean(place);
    let left: Vec<String> = snapshot(&place.world.path("")).into_keys().collect();
    assert!(
        !left.iter().any(|path| path.contains(".bosh-agent-")),
        "{left:?}"
    );
}

const WAITS: &str = "touch $FACTS/started; while [ ! -e $FACTS/go ]; do sleep 0.01; done";

mod bodies {
    use super::*;

    pub(super) fn killed_server_is_replaced_and_its_scripts_continue(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let release = ReleaseBuilder::new("demo", "1.10")
            .package(
                "lib",
                &[],
                &format!("{WAITS}; echo lib > $BOSH_INSTALL_TARGET/file"),
            )
            .package(
                "app",
                &["lib"],
                "cp @packages@/lib/file $BOSH_INSTALL_TARGET/",
            );
        let tarball = place.release(&release);
        let mut running = place.agent().arg(tarball).start();
        let started = place.world.path("facts/started");
        wait_for("the first script", LIMIT, || {
            assert!(!running.has_ended(), "{}", running.stderr());
            started
                .exists()
                .then_some(())
                .ok_or_else(|| running.stderr())
        });
        kill(process(&place, "sandbox-server"), Signal::SIGKILL).unwrap();
        place.world.write("facts/go", "");
        running.end().succeeds();
        assert_eq!(place.file("app", "file"), "100644 lib\n");
        assert_no_leftovers(&place);
    }

    pub(super) fn killed_parent_of_a_script_is_reported(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let running = place.start(
            "trap '' TERM HUP; (setsid sleep 1000 &); touch $FACTS/started; sleep 1000; sleep 1000",
        );
        kill(parent_of_script(&place), Signal::SIGKILL).unwrap();
        running.end().blames_the_machine().says(
            "the process that runs the packaging script ended without a report: it was killed by SIGKILL",
        );
        assert_no_leftovers(&place);
    }

    /// The outermost of the agent's processes above a script.
    fn parent_of_script(place: &Place) -> Pid {
        let server = process(place, "sandbox-server");
        let children = format!("/proc/{server}/task/{server}/children");
        let children = std::fs::read_to_string(children).unwrap();
        Pid::from_raw(children.trim().parse().unwrap())
    }

    pub(super) fn parent_killed_with_its_server_is_reported(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let running = place.start(
            "trap '' TERM HUP; (setsid sleep 1000 &); touch $FACTS/started; sleep 1000; sleep 1000",
        );
        let parent = parent_of_script(&place);
        kill(process(&place, "sandbox-server"), Signal::SIGKILL).unwrap();
        kill(parent, Signal::SIGKILL).unwrap();
        running.end().blames_the_machine().says(
            "both helper processes of bosh-agent, sandbox-child and sandbox-server, were killed",
        );
        assert_no_leftovers(&place);
    }

    pub(super) fn server_ends_with_a_killed_agent(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let running = place.start(&format!("trap '' TERM\n{WAITS}"));
        let agents = processes_of(&place);
        assert!(
            agents.iter().any(|(_, name)| name == "sandbox-server"),
            "{agents:?}"
        );
        running.signal(Signal::SIGKILL);
        running.end();
        assert_clean(&place);
    }

    pub(super) fn scripts_inherit_nothing_of_the_server(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        // Two concurrent scripts: neither has the variables or the socket of the other.
        let script = "echo \"$MARK $BOSH_PACKAGE_NAME $(env | grep -c -e =one$ -e =two$)\" > $BOSH_INSTALL_TARGET/environment; ls /proc/self/fd > $BOSH_INSTALL_TARGET/descriptors; \
             touch $FACTS/$BOSH_PACKAGE_NAME; while [ $(ls $FACTS | wc -l) -lt 2 ]; do sleep 0.01; done";
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("one", &[], script)
            .package("two", &[], script);
        let tarball = place.release(&release);
        let jobs = if tier.name == "none" { "1" } else { "2" };
        if tier.name == "none" {
            // One after another.
            place.world.write("facts/other", "");
        }
        place
            .agent_through("7</etc/shadow 9</")
            .args(&["--jobs", jobs])
            .env("MARK", "a\nb=c")
            .arg(tarball)
            .run()
            .succeeds();
        for own in ["one", "two"] {
            let environment = format!("100644 a\nb=c {own} 1\n");
            assert_eq!(place.file(own, "environment"), environment);
            assert_eq!(
                place.file(own, "descriptors"),
                // The last one is that of the directory itself.
                "100644 0\n1\n2\n3\n"
            );
        }
        assert_no_leftovers(&place);
    }

    pub(super) fn jobserver_of_a_make_above_reaches_scripts(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let pool = place.world.path("facts/pool");
        mkfifo(&pool, Mode::from_bits_truncate(0o666)).unwrap();
        let pool = pool.display();
        let script = "set -e; echo x >&6; read -n 1 -u 5 token; echo $token > $BOSH_INSTALL_TARGET/token; ls /proc/self/fd > $BOSH_INSTALL_TARGET/descriptors; \
             printf 'all:\n\t+@$(MAKE) -s inner\ninner:\n\t@true\n' > Makefile; make -s 2> $BOSH_INSTALL_TARGET/said";
        place
            .agent_through(&format!("7</etc/shadow 5<>{pool} 6<>{pool}"))
            .env("MAKEFLAGS", "w -j3 --jobserver-auth=5,6")
            .arg(place.release(&ReleaseBuilder::of_script(script)))
            .run()
            .succeeds();
        assert_eq!(place.file("app", "token"), "100644 x\n");
        assert_eq!(
            place.file("app", "descriptors"),
            "100644 0\n1\n2\n3\n5\n6\n"
        );
        assert_eq!(place.file("app", "said"), "100644 ");
    }

    pub(super) fn scripts_share_the_autogroup_of_the_agent(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let Ok(own) = std::fs::read_to_string("/proc/self/autogroup") else {
            // Without autogroups, the kernel shares the CPUs by niceness only.
            return;
        };
        place
            .run(&ReleaseBuilder::of_script(
                "cat /proc/self/autogroup > $BOSH_INSTALL_TARGET/group; \
                 if (echo > /dev/tty) 2> /dev/null; then exit 1; fi; kill -0 -- -$$",
            ))
            .succeeds();
        assert_eq!(place.file("app", "group"), format!("100644 {own}"));
    }

    pub(super) fn dependencies_of_one_overlay_are_independent(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        // More than the maximum number of layers of an overlay.
        let names: Vec<String> = (0..70).map(|number| format!("lib{number}")).collect();
        let mut release = ReleaseBuilder::new("demo", "1.10");
        for name in &names {
            let script =
                format!("echo {name} > $BOSH_INSTALL_TARGET/file; chmod 711 $BOSH_INSTALL_TARGET/");
            release = release.package(name, &[], &script);
        }
        let needed: Vec<&str> = names.iter().map(String::as_str).collect();
        let release = release
            .package(
                "app",
                &needed,
                "set -e; for n in $(seq 0 69); do cat @packages@/lib$n/file; stat -L -c %a @packages@/lib$n; \
                 ls @packages@/lib$n/; done > $BOSH_INSTALL_TARGET/all; \
                 for n in 0 63 64 69; do rm @packages@/lib$n/file; echo own > @packages@/lib$n/own; done; \
                 cat @packages@/lib*/own > $BOSH_INSTALL_TARGET/written; \
                 test $(ls @packages@/lib0/) = own",
            )
            .package("last", &["lib0"], "ls @packages@/lib0/ > $BOSH_INSTALL_TARGET/seen");
        place.run(&release).succeeds();
        let all: String = names
            .iter()
            .map(|name| format!("{name}\n711\nfile\n"))
            .collect();
        assert_eq!(place.file("app", "all"), format!("100644 {all}"));
        assert_eq!(place.file("app", "written"), "100644 own\nown\nown\nown\n");
        assert_eq!(place.file("last", "seen"), "100644 file\n");
        assert_no_leftovers(&place);
    }
}
