//! Deep trees and other leftovers that are hard to remove, with few descriptors.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::support::{
    LANDLOCK, LANDLOCK_OF_ROOT, NAMESPACE, NONE, NONE_OF_A_USER, Place, ReleaseBuilder, Tier,
    USERNS_OF_A_USER, USERNS_OF_ROOT, Who, in_tiers, is_soak, listed, run_tool,
};

in_tiers!(deep_trees_need_few_descriptors: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE NONE_OF_A_USER);
in_tiers!(forced_run_removes_deep_trees: LANDLOCK_OF_ROOT NONE);
in_tiers!(leftover_with_a_mount_is_set_aside_until_it_can_be_removed: LANDLOCK_WITHOUT_MOUNTS NONE_WITHOUT_MOUNTS);

/// Root without the privilege to unmount.
const NONE_WITHOUT_MOUNTS: Tier = Tier {
    who: Who::RootWithoutMounts,
    flag: "none",
    name: "none",
};
/// The same under rules.
const LANDLOCK_WITHOUT_MOUNTS: Tier = Tier {
    who: Who::RootWithoutMounts,
    flag: "landlock",
    name: "landlock",
};

/// Commands that make and enter directories below the current one.
fn deep(levels: usize) -> String {
    format!(
        "perl -e 'for (1..{levels}) {{ mkdir \"d\" or die; chdir \"d\" or die }} open F, \">file\"'"
    )
}

/// What earlier runs could not remove.
fn set_aside(base: &Path) -> Vec<String> {
    let names = listed(base.join("data")).into_iter().map(|path| {
        let name = path.file_name().unwrap();
        name.to_str().unwrap().to_owned()
    });
    names
        .filter(|name| name.starts_with(".bosh-agent-left-"))
        .collect()
}

mod bodies {
    use super::*;

    pub(super) fn deep_trees_need_few_descriptors(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let levels = match tier.name {
            // For a new directory, the kernel checks the rules of all directories above it.
            "landlock" if !is_soak() => 4000,
            _ => 15_000,
        };
        let script = format!(
            "set -e; cd $BOSH_COMPILE_TARGET; {}; cd $BOSH_INSTALL_TARGET; {}",
            deep(levels),
            deep(1500)
        );
        let copy = "cp -R @packages@/lib/. $BOSH_INSTALL_TARGET/";
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], &script)
            .package("app", &["lib"], copy);
        place
            .agent_through("prlimit --nofile=256:256")
            .arg(place.release(&release))
            .run()
            .succeeds()
            .says(&format!("Isolation: {}", tier.name))
            .does_not_say("could not remove");
        assert_eq!(place.entries("app").len(), 1502);
        assert!(!place.world.base().exists());
    }

    pub(super) fn forced_run_removes_deep_trees(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let data = place.world.base().join("data");
        let theirs = data.join("packages/redis");
        std::fs::create_dir_all(&theirs).unwrap();
        let commands = format!("cd {}; {}", theirs.display(), deep(15_000));
        run_tool("sh", &["-c", &commands]);
        let release = ReleaseBuilder::of_script("echo > $BOSH_INSTALL_TARGET/file");
        let few = "prlimit --nofile=256:256";
        let refused = place.agent_through(few).arg(place.release(&release)).run();
        refused.blames_the_machine().says("--force");
        place
            .agent_through(few)
            .arg("--force")
            .arg(place.release(&release))
            .run()
            .succeeds();
        assert_eq!(
            listed(data.join("compile")),
            [""; 0].map(Into::<std::path::PathBuf>::into)
        );
        assert_eq!(
            listed(data.join("packages")),
            [""; 0].map(Into::<std::path::PathBuf>::into)
        );
        assert_eq!(set_aside(&place.world.base()), [""; 0]);
    }

    pub(super) fn leftover_with_a_mount_is_set_aside_until_it_can_be_removed(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let base = place.world.base();
        // As after a killed run whose script mounted something, and another program uses the mount.
        let (inner, packages) = (base.join("data/packages/app/inner"), base.join("packages"));
        std::fs::create_dir_all(&packages).unwrap();
        // First: a package that is older than the notes was not installed by that run.
        std::fs::write(packages.join(".bosh-agent:compile"), "app").unwrap();
        std::fs::create_dir_all(&inner).unwrap();
        let memory = |target: &Path| {
            let (kind, flags) = (Some("tmpfs"), MsFlags::empty());
            mount(kind, target, kind, flags, None::<&str>).unwrap();
            std::fs::write(target.join("file"), "theirs").unwrap();
        };
        memory(&inner);
        let release = place.release(&ReleaseBuilder::of_script(
            "echo > $BOSH_INSTALL_TARGET/file",
        ));
        let ran = place.agent().arg(&release).run();
        let left = set_aside(&base);
        let moved = left
            .first()
            .map_or(inner, |left| base.join("data").join(left).join("inner"));
        let theirs = std::fs::read_to_string(moved.join("file"));
        umount2(&moved, MntFlags::MNT_DETACH).unwrap();
        ran.succeeds().says(
            "Warning: could not remove what a packaging script left; it was moved out of the way, and the next run tries again",
        );
        assert_eq!(theirs.unwrap(), "theirs");
        assert_eq!(left.len(), 1, "{left:?}");
        place
            .agent()
            .arg(&release)
            .run()
            .succeeds()
            .does_not_say("Warning: could not");
        assert_eq!(set_aside(&base), [""; 0]);
    }
}
