//! `--keep-failed`: the directories of a failed package, and later shells in its sandbox, in every isolation tier.

use std::path::{Path, PathBuf};

use crate::support::{
    LANDLOCK, NAMESPACE, NONE, OnTerminal, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER,
    USERNS_OF_ROOT, World, in_tiers, processes_below, snapshot,
};

in_tiers!(kept_package_can_be_entered: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(nothing_is_kept_through_a_replaced_directory: NAMESPACE USERNS_OF_ROOT NONE);
in_tiers!(nothing_is_kept_through_a_mount: NONE);

/// Records the environment and the packages that a script sees. `_` and SHLVL differ in every shell.
fn record(name: &str) -> String {
    format!(
        "env | grep -v -e '^_=' -e ^SHLVL= | sort > $FACTS/{name}.env; pwd > $FACTS/{name}.ls; \
         ls $(dirname $BOSH_INSTALL_TARGET) >> $FACTS/{name}.ls"
    )
}

fn release() -> ReleaseBuilder {
    let script = format!(
        "{}; echo made > left; echo half > $BOSH_INSTALL_TARGET/half; ln -s half $BOSH_INSTALL_TARGET/link; exit 7",
        record("run")
    );
    ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/lib.txt")
        .package("app", &["lib"], &script)
}

/// The only entry of a directory.
fn only_entry(directory: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(directory).unwrap();
    let entry = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none());
    entry
}

impl Place {
    /// Runs the script `enter` of a kept package on a terminal.
    fn enter(&self, kept: &Path) -> OnTerminal {
        // The program is the first argument of the shell, which executes the others.
        self.bare_through("setsid --ctty --wait sh -c 'exec \"$@\"'")
            .arg(kept.join("enter"))
            .start_on_terminal()
    }

    fn kept_fact(&self, name: &str) -> String {
        let path = self.world.path("facts").join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

mod bodies {
    use super::*;

    /// Runs a script that tries to get a file of the host kept. The agent says `said`.
    fn attack(tier: Tier, script: &str, said: &str) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let (secrets, directory) = (place.world.path("secrets"), place.world.path("out/kept"));
        std::fs::create_dir_all(secrets.join("app")).unwrap();
        std::fs::write(secrets.join("app/key"), "secret").unwrap();
        place
            .agent()
            .args(&["--second-run", "never", "--keep-failed"])
            .arg(&directory)
            .arg(place.release(&ReleaseBuilder::of_script(script)))
            .run()
            .fails_or_blames_the_machine()
            .says(said);
        let kept: Vec<String> = snapshot(&directory).into_keys().collect();
        assert!(!kept.iter().any(|path| path.contains("key")), "{kept:?}");
        assert!(secrets.join("app/key").exists());
    }

    pub(super) fn nothing_is_kept_through_a_replaced_directory(tier: Tier) {
        attack(
            tier,
            "parent=$(dirname $BOSH_COMPILE_TARGET); cd /; mv $parent $parent.old; ln -s $FACTS/../secrets $parent; exit 7",
            "could not keep the directories of package app",
        );
    }

    pub(super) fn nothing_is_kept_through_a_mount(tier: Tier) {
        attack(
            tier,
            "mkdir here; mount --bind $FACTS/../secrets here; exit 7",
            "Warning: unmounted a file system that a packaging script left mounted: ",
        );
    }

    pub(super) fn kept_package_can_be_entered(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let directory = place.world.path("out/kept");
        let ran = place
            .agent()
            .args(&["--second-run", "never", "--keep-failed"])
            .arg(&directory)
            .arg(place.release(&release()))
            .run()
            .ends_with(1)
            .says("The directories of package app are kept in ");
        let kept = only_entry(&directory);
        assert!(
            ran.stderr
                .contains(&format!("`{}/enter` opens a shell", kept.display()))
        );
        assert_eq!(
            std::fs::read_to_string(kept.join("compile/left")).unwrap(),
            "made\n"
        );
        assert_eq!(
            std::fs::read_to_string(kept.join("install/half")).unwrap(),
            "half\n"
        );
        assert_eq!(
            std::fs::read_to_string(kept.join("dependencies/lib/lib.txt")).unwrap(),
            "lib\n"
        );
        let mut shell = place.enter(&kept);
        shell.line(&format!(
            "{}; echo changed >> left; rm packaging",
            record("shell")
        ));
        shell.shows("app:");
        let (code, second) = place.enter(&kept).end();
        assert_eq!(code, Some(4), "{second}");
        assert!(second.contains("another shell is open"), "{second}");
        shell.line("cat left $BOSH_INSTALL_TARGET/link $(dirname $BOSH_INSTALL_TARGET)/lib/lib.txt > $FACTS/files; exit 4");
        let (code, screen) = shell.end();
        assert_eq!(code, Some(0), "{screen}");
        assert!(
            screen.contains(&format!("Isolation: {}", tier.name)),
            "{screen}"
        );
        for kind in ["env", "ls"] {
            let (run, shell) = (format!("run.{kind}"), format!("shell.{kind}"));
            assert_eq!(place.kept_fact(&run), place.kept_fact(&shell), "{kind}");
        }
        assert_eq!(place.kept_fact("files"), "made\nchanged\nhalf\nlib\n");
        // Changes are kept, nothing else is left.
        assert_eq!(
            std::fs::read_to_string(kept.join("compile/left")).unwrap(),
            "made\nchanged\n"
        );
        assert!(!kept.join("compile/packaging").exists());
        let mut names: Vec<String> = std::fs::read_dir(&kept)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "compile",
                "dependencies",
                "enter",
                "environment",
                "install",
                "kept.json"
            ]
        );
        assert_eq!(processes_below(&place.world.path("")), [] as [String; 0]);
    }
}

#[test]
fn later_failures_do_not_touch_kept_directories() {
    let world = World::new();
    let tarball = world.release(
        "release.tgz",
        &ReleaseBuilder::of_script("date +%N > left; exit 1"),
    );
    let directory = world.path("kept");
    let run = || {
        let agent = world.agent().arg("--keep-failed").arg(&directory);
        agent.arg(&tarball).run().ends_with(1)
    };
    run();
    let first = only_entry(&directory);
    let before = snapshot(&first);
    run();
    assert_eq!(snapshot(&first), before);
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 2);
}

#[test]
fn package_that_cannot_be_entered_is_explained() {
    let Some(place) = Place::new(NONE) else {
        return;
    };
    let directory = place.world.path("out/kept");
    let agent = place.agent().arg("--keep-failed").arg(&directory);
    agent.arg(place.release(&release())).run().ends_with(1);
    let kept = only_entry(&directory);
    place
        .bare()
        .args(&["enter"])
        .arg(&kept)
        .run()
        .ends_with(2)
        .says("Error: a shell needs a terminal");
    let on_terminal = |directory: &Path| {
        place
            .bare()
            .arg("enter")
            .arg(directory)
            .start_on_terminal()
            .end()
    };
    let (code, screen) = on_terminal(&place.world.path("out"));
    assert_eq!(code, Some(3), "{screen}");
    assert!(screen.contains("kept.json"), "{screen}");
    // Another agent has the base directory.
    std::fs::create_dir_all(place.world.base().join("packages/foreign")).unwrap();
    let (code, screen) = on_terminal(&kept);
    assert_eq!(code, Some(4), "{screen}");
    assert!(screen.contains("foreign"), "{screen}");
    let missing = std::process::Command::new(kept.join("enter"))
        .env("BOSH_AGENT", "/nowhere/bosh-agent")
        .output()
        .unwrap();
    let text = String::from_utf8(missing.stderr).unwrap();
    assert!(
        text.contains("/nowhere/bosh-agent does not exist: set BOSH_AGENT"),
        "{text}"
    );
}
