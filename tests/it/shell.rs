//! Interactive shells in the sandboxes of packages, on a pseudo-terminal, in every isolation tier.

use std::path::Path;

use crate::support::{
    Agent, LANDLOCK, NAMESPACE, NONE, OnTerminal, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER,
    USERNS_OF_ROOT, World, in_tiers, processes_below,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

in_tiers!(shell_has_what_the_run_had: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(shell_after_a_failure_shows_what_the_script_left: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

const PROMPT: &str = "app:/";

/// Records the environment and the packages that a shell sees. `_` and SHLVL differ in every shell.
const RECORD: &str = "env | grep -v -e '^_=' -e ^SHLVL= | sort > $FACTS/NAME.env; \
                      ls @packages@ > $FACTS/NAME.ls; ls -A . >> $FACTS/NAME.ls; pwd >> $FACTS/NAME.ls; umask >> $FACTS/NAME.ls";

fn record(name: &str) -> String {
    RECORD
        .replace("NAME", name)
        .replace("@packages@", "$(dirname $BOSH_INSTALL_TARGET)")
}

/// `app` depends on `lib`; `other` does not belong to it.
fn release(script: &str) -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/lib.txt")
        .package("other", &[], "touch $FACTS/other")
        .package("app", &["lib"], script)
}

impl Place {
    fn on_terminal(&self, flags: &[&str], tarball: &Path) -> OnTerminal {
        self.agent_through("setsid --ctty --wait")
            .args(&["--grace", "1"])
            .args(flags)
            .arg(tarball)
            .start_on_terminal()
    }

    fn shell_fact(&self, name: &str) -> String {
        let path = self.world.path("facts").join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn assert_no_process(&self) {
        let left = processes_below(&self.world.path(""));
        assert!(left.is_empty(), "{left:#?}");
    }
}

mod bodies {
    use super::*;

    pub(super) fn shell_has_what_the_run_had(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = format!(
            "if [ ! -e $FACTS/run.env ]; then {}; else {}; fi; cp $(dirname $BOSH_INSTALL_TARGET)/lib/lib.txt $BOSH_INSTALL_TARGET/",
            record("run"),
            record("again")
        );
        place.run(&release(&script)).succeeds();
        std::fs::remove_file(place.world.path("facts/other")).unwrap();
        std::fs::remove_file(place.world.result("demo-1.10")).unwrap();
        let tarball = place.release(&release(&script));
        let mut shell = place.on_terminal(&["--shell", "app"], &tarball);
        shell.shows("Opening a shell in the sandbox of package app. `bash -x packaging` runs");
        shell.shows(PROMPT);
        shell.line(&record("shell"));
        shell.line("bash -x packaging && touch $FACTS/worked");
        shell.line("cat $BOSH_INSTALL_TARGET/lib.txt > $FACTS/installed; exit 3");
        let (code, screen) = shell.end();
        assert_eq!(code, Some(0), "{screen}");
        assert!(screen.contains("The shell in the sandbox of package app has ended"));
        for name in ["shell", "again"] {
            for kind in ["env", "ls"] {
                let (run, shell) = (format!("run.{kind}"), format!("{name}.{kind}"));
                assert_eq!(place.shell_fact(&run), place.shell_fact(&shell), "{shell}");
            }
        }
        assert_eq!(place.shell_fact("worked"), "");
        assert_eq!(place.shell_fact("installed"), "lib\n");
        // Only what `app` needs was compiled, and nothing was written.
        assert!(!place.world.path("facts/other").exists());
        assert!(!place.world.result("demo-1.10").exists());
        place.assert_no_process();
    }

    pub(super) fn shell_after_a_failure_shows_what_the_script_left(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = "echo made > left; lib=$(dirname $BOSH_INSTALL_TARGET)/lib; echo changed > $lib/new 2> /dev/null; echo x > $BOSH_INSTALL_TARGET/half; echo the reason; exit 7";
        let tarball = place.release(&release(script));
        let flags = ["--shell-on-failure", "--second-run", "never"];
        let mut shell = place.on_terminal(&flags, &tarball);
        shell.shows("the packaging script of `app` exited with 7");
        shell.shows(PROMPT);
        shell.line("cat left $BOSH_INSTALL_TARGET/half > $FACTS/left; cat $(dirname $BOSH_INSTALL_TARGET)/lib/*  > $FACTS/lib; exit");
        let (code, screen) = shell.end();
        assert_eq!(code, Some(1), "{screen}");
        assert_eq!(place.shell_fact("left"), "made\nx\n");
        let lib = place.shell_fact("lib");
        match tier.name {
            // A script cannot write to its dependencies.
            "landlock" => assert_eq!(lib, "lib\n"),
            _ => assert_eq!(lib, "lib\nchanged\n"),
        }
        let opened = screen
            .find("Opening a shell in the sandbox of package app")
            .unwrap();
        assert!(screen.find("| the reason").unwrap() < opened);
        assert!(screen.contains("failed to compile package app/"));
        place.assert_no_process();
    }
}

fn place() -> Option<Place> {
    Place::new(NONE)
}

#[test]
fn keys_and_window_size_reach_the_programs_of_a_shell() {
    let Some(place) = place() else {
        return;
    };
    let tarball = place.release(&ReleaseBuilder::of_script("true"));
    let mut shell = place.on_terminal(&["--shell", "app"], &tarball);
    // One command, which is in the foreground when it creates the file.
    shell.line("sh -c 'touch $FACTS/begun; exec sleep 1000'");
    shell.shows("sleep 1000");
    crate::support::wait_for("the command", std::time::Duration::from_secs(60), || {
        let is_begun = place.world.path("facts/begun").exists();
        is_begun.then_some(()).ok_or(shell.screen())
    });
    // Interrupt; job control.
    shell.keys("\u{3}");
    shell.line("sleep 1000 & jobs; kill %1; wait; echo size-$(stty size)");
    shell.shows("Running");
    shell.shows("size-50 1000");
    shell.resize(40, 123);
    shell.line(
        "until [ \"$(stty size)\" = '40 123' ]; do :; done; tty | grep ^/dev/ && echo re\"sized\"",
    );
    shell.shows("resized");
    assert!(!shell.is_in_line_mode());
    shell.line("history -w $FACTS/history; echo \"[$HISTFILE]\" > $FACTS/histfile; exit");
    let (code, screen) = shell.end();
    assert_eq!(code, Some(0), "{screen}");
    assert_eq!(place.shell_fact("histfile"), "[]\n");
}

#[test]
fn stopped_shell_leaves_the_terminal_as_it_was() {
    let Some(place) = place() else {
        return;
    };
    let tarball = place.release(&ReleaseBuilder::of_script("true"));
    let mut shell = place.on_terminal(&["--shell", "app"], &tarball);
    shell.line("trap '' TERM; sleep 1000");
    shell.shows("sleep 1000");
    kill(Pid::from_raw(shell.pid()), Signal::SIGTERM).unwrap();
    crate::support::wait_for("the line mode", std::time::Duration::from_secs(60), || {
        shell.is_in_line_mode().then_some(()).ok_or(shell.screen())
    });
    let (code, screen) = shell.end();
    assert_eq!(code, Some(143), "{screen}");
    assert!(screen.contains("Stopping on SIGTERM"), "{screen}");
    place.assert_no_process();
}

#[test]
fn failed_dependency_is_reported_instead_of_a_shell() {
    let Some(place) = place() else {
        return;
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "exit 5")
        .package("app", &["lib"], "true");
    let tarball = place.release(&release);
    let shell = place.on_terminal(&["--shell", "app"], &tarball);
    let (code, screen) = shell.end();
    assert_eq!(code, Some(1), "{screen}");
    assert!(screen.contains("Not compiled because they depend on lib: app"));
    assert!(!screen.contains("Opening a shell"));
}

#[test]
fn each_failure_opens_its_own_shell() {
    let Some(place) = Place::new(NAMESPACE) else {
        return;
    };
    // Both fail at the same time.
    let script = |own: &str, other: &str| {
        format!("touch $FACTS/{own}; while [ ! -e $FACTS/{other} ]; do sleep 0.01; done; exit 1")
    };
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("a", &[], &script("a", "b"))
        .package("b", &[], &script("b", "a"));
    let tarball = place.release(&release);
    let flags = ["--shell-on-failure", "--keep-going", "--jobs", "2"];
    let mut shell = place.on_terminal(&flags, &tarball);
    for _ in 0..2 {
        shell.line("echo $BOSH_PACKAGE_NAME >> $FACTS/shells; exit");
    }
    let (code, screen) = shell.end();
    assert_eq!(code, Some(1), "{screen}");
    let mut shells: Vec<String> = place
        .shell_fact("shells")
        .lines()
        .map(str::to_owned)
        .collect();
    shells.sort();
    assert_eq!(shells, ["a", "b"]);
}

#[test]
fn shell_needs_a_terminal_and_a_known_package() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    world
        .agent()
        .args(&["--shell", "app"])
        .arg(&tarball)
        .run()
        .ends_with(2)
        .says("Error: a shell needs a terminal, and stdin or stderr is not a terminal\nHint: ");
    world
        .agent()
        .arg("--shell-on-failure")
        .arg(&tarball)
        .run()
        .succeeds()
        .says("Warning: a shell needs a terminal, and stdin or stderr is not a terminal: no shell will be opened");
    let other = world
        .agent()
        .args(&["--shell", "nothing"])
        .arg(&tarball)
        .start_on_terminal();
    let (code, screen) = other.end();
    assert_eq!(code, Some(3), "{screen}");
    assert!(
        screen.contains(
            "it has no source of package `nothing` to compile (--shell); its packages are lib, "
        ),
        "{screen}"
    );
    let two =
        Agent::bare(&world.path("printed")).args(&["compile", "--shell", "app", "a.tgz", "b.tgz"]);
    two.run()
        .ends_with(2)
        .says("Error: --shell needs exactly one tarball");
}
