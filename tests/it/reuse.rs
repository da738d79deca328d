//! Packages that are taken over from results of earlier runs (`--reuse`).

use std::path::{Path, PathBuf};

use crate::support::{
    ReleaseBuilder, STEMCELL, World, extract, manifest_of, pack, report, unpacked,
};

/// A package whose script notes its run in `ran`.
fn script(ran: &Path, name: &str, content: &str) -> String {
    format!(
        "echo {name} >> {}\necho {content} > $BOSH_INSTALL_TARGET/{name}",
        ran.display()
    )
}

/// Three packages in a chain, and one without dependencies. `mid` is given as version and content.
fn release(world: &World, version: &str, mid: &str) -> ReleaseBuilder {
    let ran = world.path("ran");
    ReleaseBuilder::new("demo", version)
        .package("lib", &[], &script(&ran, "lib", "one"))
        .of_version("l1")
        .package("mid", &["lib"], &script(&ran, "mid", mid))
        .of_version(mid)
        .package("app", &["mid"], &script(&ran, "app", "one"))
        .of_version("a1")
        .package("other", &[], &script(&ran, "other", "one"))
        .of_version("o1")
        .job("web", &["app"])
}

/// The packages whose scripts have run since the last call, sorted.
fn ran(world: &World) -> Vec<String> {
    let file = world.path("ran");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let _ = std::fs::remove_file(file);
    let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// The result of version 1 of the release.
fn earlier(world: &World) -> PathBuf {
    let earlier = world.compiled(&release(world, "1", "m1"));
    assert_eq!(ran(world), ["app", "lib", "mid", "other"]);
    earlier
}

#[test]
fn unchanged_packages_are_taken_from_an_earlier_result() {
    let world = World::new();
    let earlier = earlier(&world);
    let tarball = world.release("release.tgz", &release(&world, "2", "m2"));
    let path = world.path("report.json");
    let reusing = world.agent().without_report();
    let reusing = reusing.arg("--reuse").arg(&earlier);
    let ended = reusing.arg("--report").arg(&path).arg(&tarball).run();
    let ended = ended.succeeds().says(&format!(
        "Reusing 2 of 4 packages of demo/2 from {}: lib, other\n",
        earlier.display()
    ));
    assert_eq!(ran(&world), ["app", "mid"]);
    let result = world.result("demo-2");
    let blob = |tarball: &Path, name: &str| {
        let manifest = manifest_of(tarball);
        let (_, rest) = manifest.split_once(&format!("name: {name}\n")).unwrap();
        rest.lines()
            .find(|it| it.contains("sha1:"))
            .unwrap()
            .to_owned()
    };
    for name in ["lib", "other"] {
        assert_eq!(blob(&result, name), blob(&earlier, name), "{name}");
    }
    assert_ne!(blob(&result, "mid"), blob(&earlier, "mid"));
    let report = report::checked(&path, &world.out(), 0, Some(&ended.stdout));
    let from = |name: &str| {
        let packages = report["releases"][0]["packages"].as_array().unwrap();
        let package = packages.iter().find(|it| it["name"] == name).unwrap();
        package["reused_from"].clone()
    };
    assert_eq!(from("lib"), earlier.to_str().unwrap());
    assert_eq!(from("app"), serde_json::Value::Null);
}

#[test]
fn unchanged_release_runs_no_script_and_replaces_its_result() {
    let world = World::new();
    let result = earlier(&world);
    let before = std::fs::read(&result).unwrap();
    let tarball = world.release("release.tgz", &release(&world, "1", "m1"));
    let reusing = world.agent().arg("--reuse").arg(&result).arg(&tarball);
    reusing
        .run()
        .succeeds()
        .says("Reusing 4 of 4 packages of demo/1 from ");
    assert_eq!(ran(&world), [""; 0]);
    assert!(std::fs::read(&result).unwrap() == before);
}

#[test]
fn dependents_compile_against_reused_packages() {
    let world = World::new();
    let ran = world.path("ran");
    let with_user = |version: &str, user: &str| {
        let copy = format!("cat @packages@/lib/lib > $BOSH_INSTALL_TARGET/{user}");
        ReleaseBuilder::new("demo", version)
            .package("lib", &[], &script(&ran, "lib", "one"))
            .of_version("l1")
            .package("user", &["lib"], &copy)
            .of_version(user)
    };
    let earlier = world.compiled(&with_user("1", "u1"));
    let tarball = world.release("release.tgz", &with_user("2", "u2"));
    let reusing = world.agent().arg("--reuse").arg(&earlier).arg(&tarball);
    reusing.run().succeeds().says("Reusing 1 of 2 packages");
    let (_, files) = unpacked(&world.result("demo-2"), "user");
    assert!(files.contains_key("u2"), "{files:?}");
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), "lib\n");
}

#[test]
fn results_for_another_stemcell_are_not_reused() {
    let world = World::new();
    let earlier = earlier(&world);
    let tarball = world.release("release.tgz", &release(&world, "1", "m1"));
    let reusing = world.agent().args(&["--stemcell", "ubuntu-jammy/1.500"]);
    let reusing = reusing.arg("--reuse").arg(&earlier).arg(&tarball);
    reusing.run().succeeds().says(&format!(
        "Nothing of {} is reused: its packages were compiled for {STEMCELL}",
        earlier.display()
    ));
    assert_eq!(ran(&world), ["app", "lib", "mid", "other"]);
}

#[test]
fn earlier_result_that_cannot_be_used_is_refused() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release(&world, "1", "m1"));
    let compiled = earlier(&world);
    let damaged = world.path("damaged.tgz");
    let mut bytes = std::fs::read(&compiled).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&damaged, bytes).unwrap();
    for (reuse, expected) in [
        (tarball.clone(), "it has no compiled packages to reuse"),
        (world.path("no.tgz"), "No such file or directory"),
        (damaged.clone(), "damaged.tgz"),
    ] {
        let reusing = world.agent().arg("--reuse").arg(&reuse).arg(&tarball);
        reusing.run().refuses_the_input().says(expected);
    }
    assert_eq!(ran(&world), [""; 0]);
}

#[test]
fn earlier_result_with_changed_bytes_is_refused() {
    let world = World::new();
    let tarball = world.release("release.tgz", &release(&world, "2", "m2"));
    let compiled = earlier(&world);
    let members = world.path("members");
    std::fs::create_dir(&members).unwrap();
    extract(&compiled, &members);
    let blob = members.join("compiled_packages/lib.tgz");
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let changed = world.path("changed.tgz");
    pack(&members, &changed);
    let reusing = world.agent().arg("--reuse").arg(&changed).arg(&tarball);
    reusing
        .run()
        .refuses_the_input()
        .says("changed.tgz:\n  - compiled package `lib`: `compiled_packages/lib.tgz` does not match its digest");
    assert_eq!(ran(&world), [""; 0]);
}
