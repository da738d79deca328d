//! A machine or a changed root without `/proc`.

use crate::support::{Agent, LANDLOCK, NAMESPACE, Place, ReleaseBuilder, STEMCELL, USERNS_OF_ROOT};

/// The program without a mounted `/proc`, started by `before`.
fn agent(place: &Place, isolation: &str, before: &str) -> Agent {
    let own = place.world.path("bosh-agent").display().to_string();
    let before = format!("shift; umount -l /proc; exec {before} {own} \"$@\"");
    let words = ["unshare", "--mount", "sh", "-c", &before, "sh"];
    Agent::wrapped(&place.world.path("printed"), &words)
        .args(&["compile", "--isolation", isolation, "--stemcell", STEMCELL])
        .arg("--base-directory")
        .arg(place.world.base())
        .arg("--logs-dir")
        .arg(place.world.path("logs"))
        .arg("--output-directory")
        .arg(place.world.out())
}

fn release() -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .package(
            "lib",
            &[],
            "setsid sleep 1000 & echo lib > $BOSH_INSTALL_TARGET/file",
        )
        .package(
            "app",
            &["lib"],
            "cat @packages@/lib/file > $BOSH_INSTALL_TARGET/file",
        )
}

#[test]
fn root_compiles_without_proc_under_every_isolation() {
    let Some(place) = Place::new(NAMESPACE) else {
        return;
    };
    if !LANDLOCK.is_possible() || !USERNS_OF_ROOT.is_possible() {
        return;
    }
    for isolation in ["auto", "namespace", "userns", "landlock", "none"] {
        agent(&place, isolation, "")
            .arg(place.release(&release()))
            .run()
            .succeeds()
            .says("Warning: `/proc` is not mounted")
            .says("left a process running");
        assert_eq!(place.file("app", "file"), "100644 lib\n");
    }
}

#[test]
fn missing_proc_is_reported_without_mount_privileges() {
    let Some(place) = Place::new(NAMESPACE) else {
        return;
    };
    let without = "setpriv --bounding-set -sys_admin --inh-caps -sys_admin";
    for isolation in ["auto", "userns", "none"] {
        agent(&place, isolation, without)
            .without_report()
            .arg(place.release(&release()))
            .run()
            .blames_the_machine()
            .says("Error: `/proc` is not mounted, and bosh-agent needs it")
            .says("Hint: run `mount -t proc proc /proc`");
    }
}
