//! Install targets that a script replaces by a link: the target of the link becomes the package, as with the Go agent.

use crate::support::{
    LANDLOCK, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER, USERNS_OF_ROOT,
    in_tiers,
};

in_tiers!(links_to_own_directories_are_packed: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(links_to_dependencies_are_packed: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(links_to_read_only_dependencies_are_packed: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);
in_tiers!(links_to_the_directory_of_versions_are_packed: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(links_to_directories_of_all_packages_are_refused: LANDLOCK NONE);
in_tiers!(links_to_file_systems_of_the_kernel_are_refused: LANDLOCK NONE);
in_tiers!(links_out_of_the_tree_are_refused: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER);

const BUILD: &str = "set -e; mkdir -m 750 build; echo own > build/file; ln build/file build/same; ln -s file build/link; \
                     rm -rf @base@/data/app/build; ";

/// The lines that replace the install target by a link to `build`. `$dir` is the directory of the package's versions.
const TO_BUILD: [&str; 7] = [
    "rm $BOSH_INSTALL_TARGET; ln -s ../data/compile/app/build $BOSH_INSTALL_TARGET",
    "rm $BOSH_INSTALL_TARGET; ln -s $PWD/build $BOSH_INSTALL_TARGET",
    // Through other links.
    "ln -sfn ../compile/app @base@/data/app/way; rm $BOSH_INSTALL_TARGET; ln -s ../data/app/way/build/. $BOSH_INSTALL_TARGET",
    "ln -s @base@/data/compile/../compile/app way; rm $BOSH_INSTALL_TARGET; ln -s $PWD/way/build $BOSH_INSTALL_TARGET",
    "mv build @base@/data/app/; rm $BOSH_INSTALL_TARGET; ln -s ../data/app/build $BOSH_INSTALL_TARGET",
    // The target of the link.
    "real=$(readlink $BOSH_INSTALL_TARGET); rmdir $real; ln -s ../../compile/app/build $real",
    "real=$(readlink $BOSH_INSTALL_TARGET); rmdir $real; ln -s $PWD/build $real",
];

const OF_BUILD: [&str; 4] = [
    "drwxr-x--- root/root 0 ./ ",
    "-rw-r--r-- root/root 4 ./file ",
    "lrwxrwxrwx root/root 0 ./link file",
    "hrw-r--r-- root/root 0 ./same ./file",
];

const OF_LIB: [&str; 3] = [
    "drwxr-xr-x root/vcap 0 ./ ",
    "drwxr-x--- root/root 0 ./inner/ ",
    "-rw-r--r-- root/root 4 ./inner/file ",
];

/// The entries of a package's archive.
fn entries(place: &Place, package: &str) -> Vec<String> {
    let entries = place.entries(package).into_iter();
    entries
        .map(|entry| {
            format!(
                "{} {} {} {} {}",
                entry.mode, entry.names, entry.size, entry.name, entry.link
            )
        })
        .collect()
}

mod bodies {
    use super::*;

    pub(super) fn links_to_own_directories_are_packed(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        for replace in TO_BUILD {
            place
                .run(&ReleaseBuilder::of_script(&format!("{BUILD}{replace}")))
                .succeeds();
            assert_eq!(entries(&place, "app"), OF_BUILD, "{replace}");
            assert_eq!(place.file("app", "file"), "100644 own\n");
        }
        // A script whose output is searched for the reason why nothing is installed.
        let replace = format!("{}; echo cat: x: No such file or directory", TO_BUILD[0]);
        place
            .run(&ReleaseBuilder::of_script(&format!("{BUILD}{replace}")))
            .succeeds()
            .does_not_say("installed nothing");
        assert_eq!(entries(&place, "app"), OF_BUILD);
    }

    pub(super) fn links_to_the_directory_of_versions_are_packed(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = "real=$(readlink $BOSH_INSTALL_TARGET); versions=${real%/*}; rmdir $real; echo own > $versions/file; \
                      rm $BOSH_INSTALL_TARGET; ln -s $versions $BOSH_INSTALL_TARGET";
        place.run(&ReleaseBuilder::of_script(script)).succeeds();
        assert_eq!(
            entries(&place, "app"),
            [
                "drwxr-xr-x root/vcap 0 ./ ",
                "-rw-r--r-- root/root 4 ./file "
            ]
        );
    }

    pub(super) fn links_to_directories_of_all_packages_are_refused(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        for to in [
            "@base@",
            "@base@/data",
            "@base@/data/packages",
            "@base@/packages",
            "/",
            "/.",
        ] {
            place
                .run(&ReleaseBuilder::of_script(&format!(
                    "base=${{BOSH_INSTALL_TARGET%/packages/*}}; rm $BOSH_INSTALL_TARGET; ln -s {} $BOSH_INSTALL_TARGET",
                    to.replace("@base@", "$base")
                )))
                .fails()
                .says("there is a link to a directory that contains those of all packages");
        }
        assert!(!place.world.base().exists());
    }

    pub(super) fn links_to_file_systems_of_the_kernel_are_refused(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        for to in ["/proc", "/sys/kernel"] {
            place
                .run(&ReleaseBuilder::of_script(&format!(
                    "rm $BOSH_INSTALL_TARGET; ln -s {to} $BOSH_INSTALL_TARGET"
                )))
                .fails()
                .says("there is a link to a file system of the kernel");
        }
    }

    pub(super) fn links_to_dependencies_are_packed(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        for (link, written) in [
            ("lib", false),
            ("@packages@/lib", true),
            ("$(readlink @packages@/lib)", false),
            ("@packages@/lib/inner", true),
            ("../packages/lib/new/../inner", true),
        ] {
            let write = if written {
                "mkdir @packages@/lib/new; echo more > @packages@/lib/inner/more; "
            } else {
                ""
            };
            let release = ReleaseBuilder::new("demo", "1.10")
                .package("lib", &[], "set -e; mkdir -m 750 $BOSH_INSTALL_TARGET/inner; echo lib > $BOSH_INSTALL_TARGET/inner/file")
                .package(
                    "app",
                    &["lib"],
                    &format!("set -e; {write}rm $BOSH_INSTALL_TARGET; ln -s {link} $BOSH_INSTALL_TARGET"),
                );
            place.run(&release).succeeds();
            let mut wanted: Vec<&str> = OF_LIB.to_vec();
            if written {
                wanted.extend([
                    "-rw-r--r-- root/root 5 ./inner/more ",
                    "drwxr-xr-x root/root 0 ./new/ ",
                ]);
            }
            if link.ends_with("inner") {
                wanted = vec![
                    "drwxr-x--- root/root 0 ./ ",
                    "-rw-r--r-- root/root 4 ./file ",
                    "-rw-r--r-- root/root 5 ./more ",
                ];
            }
            assert_eq!(entries(&place, "app"), wanted, "{link}");
        }
    }

    pub(super) fn links_to_read_only_dependencies_are_packed(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let release = ReleaseBuilder::new("demo", "1.10")
            .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/file")
            .package(
                "app",
                &["lib"],
                "rm $BOSH_INSTALL_TARGET; ln -s lib $BOSH_INSTALL_TARGET",
            );
        let agent = place
            .agent()
            .arg("--readonly-deps")
            .arg(place.release(&release));
        agent.run().succeeds();
        assert_eq!(place.file("app", "file"), "100644 lib\n");
    }

    pub(super) fn links_out_of_the_tree_are_refused(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        for (to, says) in [
            ("/usr/bin", "leads out of the package's own directories"),
            ("../../facts", "leads out of the package's own directories"),
            ("nowhere", "leads nowhere"),
            ("app", "leads nowhere"),
        ] {
            place
                .run(&ReleaseBuilder::of_script(&format!(
                    "rm $BOSH_INSTALL_TARGET; ln -s {to} $BOSH_INSTALL_TARGET"
                )))
                .fails()
                .says(says);
        }
    }
}
