//! `bosh-agent compile-package`: one package, without a release, in every isolation tier.

mod files;
mod jobs;
mod places;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::one_package::{OnePackage, file_in};
use crate::support::{
    LANDLOCK, Listed, NAMESPACE, NONE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER,
    USERNS_OF_ROOT, contents, extract, in_tiers, list, snapshot, unpacked, wait_for,
};

const LIMIT: Duration = Duration::from_secs(60);

in_tiers!(packages_are_those_of_compile: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(failed_script_is_reported: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(stop_leaves_no_files: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(next_run_removes_leftovers_of_a_killed_one: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);
in_tiers!(empty_environment_is_sufficient: NAMESPACE USERNS_OF_ROOT USERNS_OF_A_USER LANDLOCK NONE);

/// The scripts of packages in layers, each with its dependencies.
const LAYERS: [(&str, &[&str], &str); 3] = [
    (
        "lib",
        &[],
        "echo lib > $BOSH_INSTALL_TARGET/lib.txt; chmod 640 $BOSH_INSTALL_TARGET/lib.txt",
    ),
    (
        "tool",
        &["lib"],
        "mkdir $BOSH_INSTALL_TARGET/bin; cp @packages@/lib/lib.txt $BOSH_INSTALL_TARGET/bin/tool\n\
         chmod 755 $BOSH_INSTALL_TARGET/bin/tool; ln -s bin/tool $BOSH_INSTALL_TARGET/link\n\
         ln $BOSH_INSTALL_TARGET/bin/tool $BOSH_INSTALL_TARGET/hard",
    ),
    (
        "app",
        &["lib", "tool"],
        // The change of a dependency is not part of the result, and the dependency's blob stays as it is.
        "cat @packages@/tool/bin/tool @packages@/lib/lib.txt > $BOSH_INSTALL_TARGET/app\n\
         (echo changed > @packages@/lib/lib.txt) || true\n\
         echo $BOSH_PACKAGE_NAME $BOSH_PACKAGE_VERSION > $BOSH_INSTALL_TARGET/name",
    ),
];

/// Compiles the packages of [`LAYERS`], one call for each. Returns their blobs.
fn compile_layers(place: &Place) -> Vec<(&'static str, PathBuf)> {
    let mut blobs: Vec<(&'static str, PathBuf)> = Vec::new();
    for (name, dependencies, script) in LAYERS {
        let mut package = OnePackage::new(place, name, script);
        for (dependency, blob) in &blobs {
            if dependencies.contains(dependency) {
                package = package.depends_on(dependency, blob);
            }
        }
        blobs.push((name, package.compiled(place)));
    }
    blobs
}

mod bodies {
    use super::*;

    pub(super) fn packages_are_those_of_compile(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let mut release = ReleaseBuilder::new("demo", "1.10");
        for (name, dependencies, script) in LAYERS {
            release = release
                .package(name, dependencies, script)
                .of_version("1.10");
        }
        place.run(&release).succeeds();
        for (name, blob) in compile_layers(&place) {
            let entries = |listed: Vec<Listed>| -> Vec<Listed> {
                let timeless = listed.into_iter().map(|it| Listed {
                    time: String::new(),
                    ..it
                });
                timeless.collect()
            };
            assert_eq!(entries(list(&blob)), entries(place.entries(name)));
            let (_scratch, expected) = unpacked(&place.world.result("demo-1.10"), name);
            let scratch = tempfile::tempdir().unwrap();
            extract(&blob, scratch.path());
            let mut found = contents(scratch.path());
            // The mode of the directory is that of the test.
            found.insert(String::new(), expected[""].clone());
            assert_eq!(found, expected, "{name}");
        }
    }

    pub(super) fn failed_script_is_reported(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = "echo before; echo 'cc: error: no such thing' >&2; exit 7";
        let package = OnePackage::new(&place, "app", script);
        std::fs::write(package.output(), "earlier").unwrap();
        let ran = package.run(&place);
        let stderr = ran.stderr.clone();
        let report = package.checked(ran, 1);
        assert!(
            stderr.contains(
                "Error: failed to compile package app/1.10: the packaging script exited with 7"
            ),
            "{stderr}"
        );
        assert_eq!(report["result"], "failed");
        assert_eq!(report["failure_kind"], "script");
        let failure = &report["failure"];
        assert_eq!(failure["exit_code"], 7);
        assert_eq!(failure["error_line"]["text"], "cc: error: no such thing");
        assert_eq!(report["isolation"], tier.name);
        let log = std::fs::read_to_string(package.log()).unwrap();
        assert!(log.contains("before\n"), "{log}");
        assert_eq!(
            std::fs::read_to_string(package.output()).unwrap(),
            "earlier"
        );
    }

    pub(super) fn stop_leaves_no_files(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = "touch $FACTS/started; until [ -e $FACTS/go ]; do sleep 0.1; done";
        let package = OnePackage::new(&place, "app", script);
        let running = package.agent(&place).args(&["--grace", "1"]).start();
        let started = place.world.path("facts/started");
        wait_for("the script's start", LIMIT, || {
            started.exists().then_some(()).ok_or(running.stderr())
        });
        running.signal(Signal::SIGTERM);
        let ran = running.end();
        assert!(ran.stderr.contains("Stopped by SIGTERM"), "{}", ran.stderr);
        let report = package.checked(ran, 143);
        assert_eq!(report["result"], "stopped");
        assert!(report["failure"].is_null());
        assert!(!package.output().exists());
        let left = match place.world.base().exists() {
            true => snapshot(&place.world.base()),
            false => BTreeMap::new(),
        };
        let left: Vec<&String> = left
            .keys()
            .filter(|name| name.contains("app") || name.contains("bosh-agent"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    pub(super) fn next_run_removes_leftovers_of_a_killed_one(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let script = "touch $FACTS/started; until [ -e $FACTS/go ]; do sleep 0.1; done";
        let package = OnePackage::new(&place, "app", script);
        let running = package.agent(&place).start();
        let started = place.world.path("facts/started");
        wait_for("the script's start", LIMIT, || {
            started.exists().then_some(()).ok_or(running.stderr())
        });
        running.signal(Signal::SIGKILL);
        assert_eq!(running.end().code, None);
        std::fs::write(place.world.path("facts/go"), "").unwrap();
        package.compiled(&place);
    }

    pub(super) fn empty_environment_is_sufficient(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        // `env` prints exported variables only: programs that the script starts find others by `PATH`.
        let script = "echo \"$FLAG $HOME $(env | grep -c '^PATH=/usr/local/sbin:')\" > $BOSH_INSTALL_TARGET/environment";
        let package = OnePackage::new(&place, "app", script);
        let agent = place.bare_through("env -i").arg("compile-package");
        let agent = package.described(package.written(agent));
        let ran = agent
            .args(&["--isolation", tier.flag, "--env", "FLAG=set"])
            .arg("--base-directory")
            .arg(place.world.base())
            .run();
        let report = package.checked(ran, 0);
        assert!(report["stemcell"].is_null() || report["machine_stemcell"].is_string());
        assert_eq!(file_in(&package.output(), "environment"), "set  1\n");
    }
}
