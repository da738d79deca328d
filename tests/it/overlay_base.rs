//! A base directory on another mount than the work directory, as in a container whose root is an overlay.

use crate::support::{LANDLOCK_OF_ROOT, NONE, Place, ReleaseBuilder, Tier, in_tiers, snapshot};

in_tiers!(installed_files_stay_on_an_overlay: LANDLOCK_OF_ROOT NONE);
in_tiers!(installed_files_leave_a_base_directory_in_memory: LANDLOCK_OF_ROOT NONE);

/// Remembers the inode of the installed file.
const LIB: &str = "set -e; echo lib > $BOSH_INSTALL_TARGET/file; stat -c %i $BOSH_INSTALL_TARGET/file > $FACTS/inode";

/// Installs the inode of the sealed file, if there is one in the data directory that this script can read.
const APP: &str = "set -e; cp @packages@/lib/file $BOSH_INSTALL_TARGET/\n\
                   sealed=$(echo @base@/data/.bosh-agent-work-*/store/*/lib/file)\n\
                   inode=none; if cat \"$sealed\" >/dev/null 2>&1; then inode=$(stat -c %i \"$sealed\"); fi\n\
                   echo $inode > $BOSH_INSTALL_TARGET/inode";

/// Compiles with a file system that `mount` mounts at the base directory. Returns the inode that `lib` had, and the one that `app` has seen.
fn inodes(place: &Place, mount: &str) -> (String, String) {
    let base = place.world.base();
    std::fs::create_dir(&base).unwrap();
    let program = format!(
        "unshare --mount sh -c 'mount {mount} {} && exec \"$@\"' sh",
        base.display()
    );
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], LIB)
        .package("app", &["lib"], APP);
    let agent = place.agent_through(&program);
    agent.arg(place.release(&release)).run().succeeds();
    assert_eq!(place.file("app", "file"), "100644 lib\n");
    let inode = std::fs::read_to_string(place.world.path("facts/inode")).unwrap();
    (format!("100644 {inode}"), place.file("app", "inode"))
}

mod bodies {
    use super::*;

    pub(super) fn installed_files_stay_on_an_overlay(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let [lower, upper, work] = ["lower", "upper", "scratch"].map(|name| {
            let directory = place.world.path(name);
            std::fs::create_dir(&directory).unwrap();
            directory
        });
        let options = format!(
            "-t overlay none -o lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let (installed, seen) = inodes(&place, &options);
        match tier.name {
            // It was renamed, not copied.
            "none" => assert_eq!(seen, installed),
            _ => assert_eq!(seen, "100644 none\n", "rules close the directory"),
        }
        let left = snapshot(&upper);
        assert!(!left.keys().any(|it| it.contains("data")), "{left:?}");
    }

    pub(super) fn installed_files_leave_a_base_directory_in_memory(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let (_, seen) = inodes(&place, "-t tmpfs none");
        assert_eq!(seen, "100644 none\n");
    }
}
