//! Scripts that link, move and remove files of dependencies. Where dependencies are mounted, these scripts run again with copies.

use crate::support::{
    Daemon, Member, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT,
    archive, in_tiers, require_tools, sha1_of,
};
use nix::sys::signal::Signal;
use serde_json::json;

in_tiers!(hard_links_to_a_dependency_are_installed: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER NONE);
in_tiers!(files_are_renamed_out_of_a_dependency: NAMESPACE USERNS_OF_A_USER NONE);
in_tiers!(directory_of_a_dependency_is_removed: NAMESPACE USERNS_OF_A_USER NONE);
in_tiers!(script_that_continues_after_a_failed_link_runs_again: NAMESPACE USERNS_OF_A_USER NONE);
in_tiers!(daemon_compiles_again_with_copies_of_dependencies: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);
in_tiers!(failure_of_the_second_run_is_reported_once: NAMESPACE USERNS_OF_A_USER);

const WARNING: &str = "Warning: the packaging script of app tried to hard-link or move files of a dependency, or to remove its \
                       directory, but this directory is a mount:";

fn release(script: &str) -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .package(
            "lib",
            &[],
            "cd $BOSH_INSTALL_TARGET; mkdir dir; echo lib > lib.txt; echo in > dir/file; ln dir/file dir/same",
        )
        .package("other", &["lib"], "cat @packages@/lib/lib.txt > $BOSH_INSTALL_TARGET/file")
        .package("app", &["lib"], script)
        .package(
            "later",
            &["lib", "app"],
            "set -e; cp -R @packages@/lib/. $BOSH_INSTALL_TARGET/",
        )
}

/// Compiles, and expects a second run if dependencies are mounted. The dependency's own package is unchanged.
fn compiled(place: &Place, script: &str) {
    let ran = place.run(&release(script)).succeeds();
    if place.tier.has_mounts() {
        ran.says(WARNING)
            .says("app is compiled again with copies of its dependencies");
        let first = place.world.path("logs/demo-1.10/app@first.log");
        let first = std::fs::read_to_string(first).unwrap();
        assert!(
            first.contains("cross-device link") || first.contains("resource busy"),
            "{first}"
        );
    } else {
        ran.does_not_say("Warning");
    }
    assert_eq!(place.file("later", "lib.txt"), "100644 lib\n");
    assert_eq!(place.file("later", "dir/file"), "100644 in\n");
}

mod bodies {
    use super::*;

    pub(super) fn hard_links_to_a_dependency_are_installed(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        compiled(
            &place,
            "set -e; cp -al @packages@/lib/. $BOSH_INSTALL_TARGET; echo own > $BOSH_INSTALL_TARGET/own",
        );
        for (name, content) in [
            ("lib.txt", "lib\n"),
            ("dir/file", "in\n"),
            ("dir/same", "in\n"),
            ("own", "own\n"),
        ] {
            assert_eq!(
                place.file("app", name),
                format!("100644 {content}"),
                "{name}"
            );
        }
    }

    pub(super) fn files_are_renamed_out_of_a_dependency(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        compiled(
            &place,
            "set -e; cd @packages@/lib/; \
             perl -e 'rename(\"dir\", \"$ENV{BOSH_INSTALL_TARGET}/dir\") or die \"$!\\n\"'",
        );
        assert_eq!(place.file("app", "dir/file"), "100644 in\n");
    }

    pub(super) fn directory_of_a_dependency_is_removed(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        compiled(
            &place,
            "set -e; cp @packages@/lib/lib.txt $BOSH_INSTALL_TARGET/; rm -rf @base@/data/packages/lib; \
             test ! -e @packages@/lib/lib.txt",
        );
        assert_eq!(place.file("app", "lib.txt"), "100644 lib\n");
    }

    pub(super) fn script_that_continues_after_a_failed_link_runs_again(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        compiled(
            &place,
            "ln @packages@/lib/lib.txt $BOSH_INSTALL_TARGET/; echo done",
        );
        assert_eq!(place.file("app", "lib.txt"), "100644 lib\n");
    }

    pub(super) fn daemon_compiles_again_with_copies_of_dependencies(tier: Tier) {
        if !require_tools(&["openssl", "curl"]) {
            return;
        }
        let Some(place) = Place::new(tier) else {
            return;
        };
        let daemon = Daemon::start_in(&place);
        let lib = archive(&[
            Member::directory("dir"),
            Member::file("dir/file", b"in\n"),
            Member::file("lib.txt", b"lib\n"),
        ]);
        let lib = place.world.write("store/lib", lib);
        let dependencies = json!({"lib": {
            "name": "lib", "version": "1", "blobstore_id": "lib", "sha1": sha1_of(&lib),
        }});
        for (number, script) in [
            "cp -al $lib/. $BOSH_INSTALL_TARGET",
            "cp $lib/lib.txt $BOSH_INSTALL_TARGET/; cd $lib/; \
             perl -e 'rename(\"dir\", \"$ENV{BOSH_INSTALL_TARGET}/dir\") or die \"$!\\n\"'",
            "cp -R $lib/. $BOSH_INSTALL_TARGET; rm -rf $(readlink -f $lib)",
            // The dependency itself is unchanged.
            "cp -R $lib/. $BOSH_INSTALL_TARGET",
        ]
        .into_iter()
        .enumerate()
        {
            let script = format!("set -e; lib=${{BOSH_INSTALL_TARGET%/*}}/lib; {script}");
            let found = Daemon::compiled(&place.world, &daemon, &script, &dependencies);
            assert_eq!(found("lib.txt"), "lib", "{script}");
            assert_eq!(found("dir/file"), "in", "{script}");
            let log = daemon.stderr();
            let again = "compiling the package again with copies of its dependencies";
            assert_eq!(log.matches(again).count(), (number + 1).min(3), "{log}");
        }
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.end().code, Some(1));
    }

    pub(super) fn failure_of_the_second_run_is_reported_once(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let ran = place
            .run(&release(
                "ln @packages@/lib/lib.txt $BOSH_INSTALL_TARGET/ || echo no link; test ! -e $FACTS/first || exit 7; \
                 echo > $FACTS/first; exit 6",
            ))
            .fails()
            .says(WARNING)
            .says("exited with 7");
        assert_eq!(ran.stderr.matches(WARNING).count(), 1, "{}", ran.stderr);
    }
}

#[test]
fn read_only_dependencies_are_not_copied() {
    let Some(place) = Place::new(NAMESPACE) else {
        return;
    };
    let release = place.release(&release(
        "set -e; ln @packages@/lib/lib.txt $BOSH_INSTALL_TARGET/",
    ));
    place
        .agent()
        .arg("--readonly-deps")
        .arg(release)
        .run()
        .fails()
        .says("Invalid cross-device link")
        .does_not_say(WARNING);
}
