//! Several stemcell images in one run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{agent, agent_of, make_root, pack};
use crate::support::{
    Agent, NAMESPACE, Place, ReleaseBuilder, Tier, USERNS_OF_A_USER, in_tiers, report, unpacked,
    wait_for,
};

/// Two images of different stemcells, as archives. `etc/marker` contains the version.
fn images(place: &Place) -> [PathBuf; 2] {
    ["1.1", "1.2"].map(|version| {
        let root = place.world.path("root");
        make_root(&root);
        std::fs::write(root.join("etc/marker"), version).unwrap();
        std::fs::write(root.join("var/vcap/bosh/etc/stemcell_version"), version).unwrap();
        let packed = place.world.path(&format!("{version}.tar"));
        pack(&root, &packed);
        std::fs::remove_dir_all(&root).unwrap();
        packed
    })
}

fn both(place: &Place, images: &[PathBuf; 2]) -> Agent {
    let agent = agent(place, &images[0], "out");
    agent.arg("--stemcell-image").arg(&images[1])
}

/// A release with a package that fails in images of this version.
fn failing(place: &Place, version: &str) -> PathBuf {
    let script = format!(
        "cat /etc/marker > $BOSH_INSTALL_TARGET/marker; if [ \"$(cat /etc/marker)\" = {version} ]; then exit 7; fi"
    );
    let builder = ReleaseBuilder::new("demo", "1.10").package("app", &[], &script);
    place.world.release("release.tgz", &builder)
}

fn result(place: &Place, version: &str) -> PathBuf {
    let name = format!("out/demo-1.10-ubuntu-jammy-{version}.tgz");
    place.world.path(&name)
}

fn texts<'a>(list: &'a Value, field: &str) -> Vec<&'a str> {
    let items = list.as_array().unwrap().iter();
    items.map(|it| it[field].as_str().unwrap()).collect()
}

const BOTH: [&str; 2] = ["ubuntu-jammy/1.1", "ubuntu-jammy/1.2"];

mod bodies {
    use super::*;

    pub(super) fn each_stemcell_has_its_result(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let images = images(&place);
        let path = place.world.path("printed/report.json");
        let documents = format!("{}/", place.world.path("printed/documents").display());
        let ran = both(&place, &images)
            .arg("--report")
            .arg(&path)
            .arg(format!("--sbom=cyclonedx={documents}"))
            .arg(format!("--provenance={documents}"))
            .arg(failing(&place, "none"))
            .run()
            .succeeds()
            .says("Stemcell 1 of 2: ubuntu-jammy/1.1\n")
            .says("Stemcell 2 of 2: ubuntu-jammy/1.2\n")
            .says("for release demo/1.10 with stemcell ubuntu-jammy/1.2\n");
        let report = report::checked(&path, &place.world.out(), 0, Some(&ran.stdout));
        for (version, line) in ["1.1", "1.2"].into_iter().zip(ran.stdout.lines()) {
            let result = result(&place, version);
            assert_eq!(Path::new(line), result);
            let (_scratch, app) = unpacked(&result, "app");
            assert_eq!(app["marker"], format!("100644 {version}"));
            let name = format!("demo-1.10-ubuntu-jammy-{version}");
            let text = place
                .world
                .read(&format!("printed/documents/{name}.provenance.json"));
            let statement: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                statement["subject"][0]["digest"]["sha256"],
                report::sha256_of(&result).as_str()
            );
            let inputs = &statement["predicate"]["buildDefinition"]["resolvedDependencies"];
            let image = inputs.as_array().unwrap().iter();
            let mut image = image.filter(|it| it["name"] == "stemcell image");
            assert_eq!(
                image.next().unwrap()["digest"]["sha256"],
                report::sha256_of(&place.world.path(&format!("{version}.tar"))).as_str()
            );
            let log = format!("logs/ubuntu-jammy-{version}/demo-1.10/app.log");
            assert!(place.world.path(&log).exists());
        }
        assert_eq!(report["stemcell"], Value::Null);
        for list in ["outputs", "releases", "packages"] {
            assert_eq!(texts(&report[list], "stemcell"), BOTH, "{list}");
        }
        assert_eq!(report["packages"][1]["id"], 1);
    }

    pub(super) fn failure_is_attributed_to_its_stemcell(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let images = images(&place);
        let release = failing(&place, "1.1");
        let ran = both(&place, &images).arg(&release).run().fails();
        ran.says("Failed with stemcell ubuntu-jammy/1.1:\n")
            .says("exited with 7")
            .says("Not compiled because of the failure: stemcell ubuntu-jammy/1.2\n");
        assert!(!place.world.out().exists() || !result(&place, "1.2").exists());
        let path = place.world.path("printed/report.json");
        let ran = both(&place, &images)
            .args(&["--keep-going", "--report"])
            .arg(&path)
            .arg(&release)
            .run()
            .fails()
            .says("Failed with stemcell ubuntu-jammy/1.1:\n")
            .does_not_say("Not compiled because of the failure: stemcell");
        assert_eq!(ran.stdout, format!("{}\n", result(&place, "1.2").display()));
        let report = report::checked(&path, &place.world.out(), 1, Some(&ran.stdout));
        assert_eq!(texts(&report["packages"], "status"), ["failed", "compiled"]);
        assert_eq!(texts(&report["packages"], "stemcell"), BOTH);
        assert_eq!(report["packages"][0]["failure"]["exit_code"], 7);
        assert_eq!(report["packages"][1]["failure"], Value::Null);
        let error = report["errors"][0].as_str().unwrap();
        assert!(error.starts_with("stemcell ubuntu-jammy/1.1: "), "{error}");
    }

    pub(super) fn stop_in_the_second_image_keeps_the_failures_of_the_first(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let images = images(&place);
        let script =
            "if [ \"$(cat /etc/marker)\" = 1.1 ]; then exit 7; fi; echo waiting; sleep 600";
        let builder = ReleaseBuilder::new("demo", "1.10").package("app", &[], script);
        let release = place.world.release("release.tgz", &builder);
        let running = both(&place, &images)
            .args(&["--keep-going", "--verbose"])
            .arg(&release)
            .start();
        wait_for("the second script", Duration::from_secs(60), || {
            let stderr = running.stderr();
            match stderr.contains("waiting\n") {
                true => Ok(()),
                false => Err(stderr),
            }
        });
        running.signal(Signal::SIGTERM);
        running
            .end()
            .ends_with(143)
            .says("Failed with stemcell ubuntu-jammy/1.1:\n")
            .says("exited with 7")
            .does_not_say("Failed with stemcell ubuntu-jammy/1.2")
            .says("SIGTERM");
    }

    pub(super) fn unclear_combinations_are_refused(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let [one, two] = images(&place);
        let release = failing(&place, "none");
        let same = [one.clone(), one.clone()];
        both(&place, &same)
            .arg(&release)
            .run()
            .refuses_the_input()
            .says("are both of stemcell ubuntu-jammy/1.1");
        let images = [one, two];
        both(&place, &images)
            .args(&["--stemcell", "ubuntu-noble/1"])
            .arg(&release)
            .run()
            .ends_with(2)
            .says("Error: --stemcell cannot be used with several stemcell images\n");
        both(&place, &images)
            .arg(format!(
                "--sbom=spdx={}",
                place.world.path("a.json").display()
            ))
            .arg(&release)
            .run()
            .refuses_the_input()
            .says("this run has 2 results");
        let pipe = format!("sh -c 'cat {} | exec \"$@\"' sh", release.display());
        let path = release.to_str().unwrap();
        for arguments in [&["/dev/stdin"][..], &["--reuse", "/dev/stdin", path]] {
            agent_of(place.bare_through(&pipe), &place, &images[0], "out")
                .arg("--stemcell-image")
                .arg(&images[1])
                .args(arguments)
                .run()
                .refuses_the_input()
                .says("it is read once for each --stemcell-image");
        }
        assert!(!place.world.out().exists());
        // A damaged image is reported before the other one is used.
        std::fs::write(&images[1], "damaged").unwrap();
        both(&place, &images)
            .arg(&release)
            .run()
            .refuses_the_input()
            .does_not_say("Compiling");
        assert!(!place.world.out().exists());
    }

    pub(super) fn names_and_checks_are_those_of_each_stemcell(tier: Tier) {
        let Some(place) = Place::new(tier) else {
            return;
        };
        let images = images(&place);
        let release = failing(&place, "none");
        let names = both(&place, &images)
            .arg("--print-output-names")
            .arg(&release)
            .run();
        assert_eq!(names.code, Some(0), "{}", names.stderr);
        let names = names.stdout;
        let expected = ["1.1", "1.2"].map(|it| format!("{}\n", result(&place, it).display()));
        assert_eq!(names, expected.concat());
        both(&place, &images)
            .arg("--check")
            .arg(&release)
            .run()
            .succeeds()
            .says("Checking with stemcell ubuntu-jammy/1.1")
            .says("Checking with stemcell ubuntu-jammy/1.2");
    }
}

in_tiers!(each_stemcell_has_its_result: NAMESPACE USERNS_OF_A_USER);
in_tiers!(failure_is_attributed_to_its_stemcell: NAMESPACE);
in_tiers!(stop_in_the_second_image_keeps_the_failures_of_the_first: NAMESPACE);
in_tiers!(unclear_combinations_are_refused: NAMESPACE);
in_tiers!(names_and_checks_are_those_of_each_stemcell: NAMESPACE);
