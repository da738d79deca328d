//! Releases that are already compiled, completely or in part, and results of earlier runs as inputs.

use std::path::{Path, PathBuf};

use crate::support::{
    Agent, Compression, Member, Outcome, ReleaseBuilder, STEMCELL, World, archive, list,
    manifest_of, unpacked,
};

fn compiled() -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .compiled("lib", &[], STEMCELL, ("lib.txt", b"lib\n"))
        .compiled("app", &["lib"], STEMCELL, ("app.txt", b"app\n"))
        .job("web", &["app"])
}

/// A source package that depends on a compiled one.
fn mixed() -> ReleaseBuilder {
    ReleaseBuilder::new("demo", "1.10")
        .compiled(
            "lib",
            &[],
            STEMCELL,
            ("bin/tool", b"#!/bin/sh\necho built\n"),
        )
        .package(
            "app",
            &["lib"],
            "@packages@/lib/bin/tool > $BOSH_INSTALL_TARGET/app",
        )
}

/// Runs without an output directory.
fn without_output_directory(world: &World, tarballs: &[PathBuf]) -> Agent {
    world
        .flags(Agent::bare(&world.path("printed")))
        .args(tarballs)
}

#[test]
fn compiled_release_is_copied_unchanged() {
    let world = World::new();
    let tarball = world.release("release.tgz", &compiled());
    world
        .compile(&[&tarball])
        .succeeds()
        .says("already compiled for this stemcell and is copied unchanged")
        .says("Release demo/1.10 has 2 packages, 2 of them already compiled");
    let result = world.result("demo-1.10");
    assert!(std::fs::read(result).unwrap() == std::fs::read(tarball).unwrap());
    assert!(!world.base().exists(), "nothing was compiled");
}

#[test]
fn copied_release_keeps_unknown_entries() {
    let mut members = compiled().members();
    members.push(Member::file("compiled_packages/README", b"stray"));
    let bytes = Compression::Xz.apply(&archive(&members));
    let world = World::new();
    let tarball = world.write("release.tgz", &bytes);
    world.compile(&[&tarball]).succeeds();
    assert!(std::fs::read(world.result("demo-1.10")).unwrap() == bytes);
}

#[test]
fn release_for_another_stemcell_is_refused() {
    let other = "ubuntu-jammy/1.500";
    let world = World::new();
    let release = compiled().edit(
        &format!("stemcell: {STEMCELL}"),
        &format!("stemcell: {other}"),
    );
    let tarball = world.release("release.tgz", &release);
    let before = world.snapshot();
    world
        .compile(&[&tarball])
        .refuses_the_input()
        .says(&format!(
            "package `lib` was compiled for stemcell {other}, but the target is {STEMCELL}"
        ))
        .says("package `app` was compiled for stemcell");
    assert_eq!(world.snapshot(), before);
}

#[test]
fn compiled_release_is_checked_before_it_is_copied() {
    let world = World::new();
    let release = compiled().without("compiled_packages/app.tgz");
    let tarball = world.release("release.tgz", &release);
    world
        .compile(&[&tarball])
        .refuses_the_input()
        .says("compiled package `app`: `compiled_packages/app.tgz` is missing");

    let mut members = compiled().members();
    for member in &mut members {
        if member.name == "compiled_packages/app.tgz" {
            member.content.push(0);
        }
    }
    let tarball = world.write("release.tgz", archive(&members));
    world
        .compile(&[&tarball])
        .refuses_the_input()
        .says("compiled package `app`: `compiled_packages/app.tgz` does not match its digest");
    assert!(!world.out().exists());
}

#[test]
fn exported_release_without_packages_is_copied() {
    let world = World::new();
    let manifest = b"---\ncompiled_packages: []\njobs: []\nname: demo\nversion: '1.10'\n";
    let tarball = world.release(
        "release.tgz",
        &ReleaseBuilder::new("", "").manifest(manifest),
    );
    world.compile(&[&tarball]).succeeds();
    let result = std::fs::read(world.result("demo-1.10")).unwrap();
    assert!(result == std::fs::read(tarball).unwrap());
}

#[test]
fn package_can_use_a_compiled_dependency() {
    let world = World::new();
    let result = world.compiled(&mixed());
    let (_scratch, app) = unpacked(&result, "app");
    assert_eq!(app["app"], "100644 built\n");
}

#[test]
fn compiled_package_of_a_mixed_release_is_unchanged() {
    let world = World::new();
    let result = world.compiled(&mixed());
    let files = mixed().files();
    let (_, lib) = files
        .iter()
        .find(|(path, _)| path == "compiled_packages/lib.tgz")
        .unwrap();
    let scratch = world.path("unpacked");
    crate::support::extract(&result, &scratch);
    assert!(std::fs::read(scratch.join("compiled_packages/lib.tgz")).unwrap() == *lib);

    let source = String::from_utf8(files[0].1.clone()).unwrap();
    let digest = source
        .lines()
        .skip_while(|line| *line != "compiled_packages:")
        .find_map(|line| line.strip_prefix("  sha1: "))
        .unwrap();
    assert!(digest.starts_with("sha256:"));
    let manifest = manifest_of(&result);
    assert!(
        manifest.contains(&format!("sha1: {digest}\n")),
        "{manifest}"
    );
    assert!(!manifest.contains("\npackages:"), "{manifest}");
    let names: Vec<String> = list(&result).into_iter().map(|entry| entry.name).collect();
    assert_eq!(
        names,
        [
            "./release.MF",
            "./compiled_packages/",
            "./compiled_packages/lib.tgz",
            "./compiled_packages/app.tgz"
        ]
    );
}

#[test]
fn compiled_package_with_a_source_dependency_is_unchanged() {
    let world = World::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package("lib", &[], "echo lib > $BOSH_INSTALL_TARGET/lib")
        .compiled("app", &["lib"], STEMCELL, ("app", b"app\n"));
    let outcome = Outcome::of(&world.compiled(&release));
    assert_eq!(outcome.packages["lib"]["lib"], "100644 lib\n");
    assert_eq!(outcome.packages["app"]["app"], "100755 app\n");
}

#[test]
fn mixed_release_for_another_stemcell_is_refused() {
    let world = World::new();
    let release = mixed().edit(STEMCELL, "ubuntu-noble/1.405");
    let tarball = world.release("release.tgz", &release);
    let before = world.snapshot();
    world
        .compile(&[&tarball])
        .refuses_the_input()
        .says("package `lib` was compiled for stemcell ubuntu-noble/1.405");
    assert_eq!(world.snapshot(), before);
}

#[test]
fn default_output_is_next_to_the_input() {
    let world = World::new();
    std::fs::create_dir_all(world.path("some/where")).unwrap();
    let tarball = world.release("some/where/release.tgz", &ReleaseBuilder::demo());
    let result = world.path("some/where/demo-1.10-ubuntu-noble-1.406.tgz");
    without_output_directory(&world, &[tarball])
        .run()
        .succeeds()
        .says(&format!(
            "Finished archiving compiled tarball {}\n",
            result.display()
        ));
    assert!(result.exists());

    // A file name without a directory is in the working directory.
    world
        .flags(Agent::bare(&world.path("printed")))
        .arg("release.tgz")
        .directory(&world.path("some/where"))
        .run()
        .succeeds()
        .says("Finished archiving compiled tarball ./demo-1.10-ubuntu-noble-1.406.tgz\n");
}

#[test]
fn same_glob_can_be_compiled_again_with_its_results() {
    let world = World::new();
    std::fs::create_dir(world.path("in")).unwrap();
    let first = world.release("in/demo.tgz", &ReleaseBuilder::demo());
    let second = ReleaseBuilder::new("other", "2").package("p", &[], "true");
    let second = world.release("in/other.tgz", &second);
    without_output_directory(&world, &[first, second])
        .run()
        .succeeds();

    let glob = || {
        let mut found: Vec<PathBuf> = std::fs::read_dir(world.path("in"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        found.sort();
        found
    };
    let inputs = glob();
    assert_eq!(inputs.len(), 4);
    let inode = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).unwrap().ino()
    };
    let result = world.path("in/demo-1.10-ubuntu-noble-1.406.tgz");
    let before = inode(&result);
    without_output_directory(&world, &inputs)
        .run()
        .succeeds()
        .says("is an earlier result of ")
        .says("in/demo-1.10-ubuntu-noble-1.406.tgz is an earlier result of ");
    assert_eq!(glob(), inputs);
    assert_ne!(inode(&result), before, "the result was rebuilt");
    assert_eq!(
        Outcome::of(&result).packages["lib"]["lib.txt"],
        "100644 lib\n"
    );
}

#[test]
fn result_as_the_only_input_is_unchanged() {
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::demo());
    let before = std::fs::read(&result).unwrap();
    without_output_directory(&world, std::slice::from_ref(&result))
        .run()
        .succeeds()
        .says("is already compiled for this stemcell and stays unchanged")
        .says(&format!(
            "Finished archiving compiled tarball {}\n",
            result.display()
        ));
    assert!(std::fs::read(&result).unwrap() == before);
}

#[test]
fn later_run_copies_the_result_of_an_earlier_one() {
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::demo());
    let agent = world.flags(Agent::bare(&world.path("printed")));
    agent
        .arg("--output-directory")
        .args(&[world.path("second"), result.clone()])
        .run()
        .succeeds()
        .says("is copied unchanged");
    let copy = world.path("second/demo-1.10-ubuntu-noble-1.406.tgz");
    assert!(std::fs::read(copy).unwrap() == std::fs::read(result).unwrap());
}

#[test]
fn damaged_earlier_result_is_rebuilt() {
    for damaged in [&b""[..], b"half a tarb"] {
        let world = World::new();
        std::fs::create_dir(world.path("in")).unwrap();
        let source = world.release("in/demo.tgz", &ReleaseBuilder::demo());
        let old = world.write("in/demo-1.10-ubuntu-noble-1.406.tgz", damaged);
        without_output_directory(&world, &[old.clone(), source])
            .run()
            .succeeds()
            .says("is an earlier result of ");
        assert_eq!(Outcome::of(&old).packages["lib"]["lib.txt"], "100644 lib\n");
    }
}

#[test]
fn damaged_tarball_that_is_not_a_result_is_refused() {
    let world = World::new();
    let source = world.release("release.tgz", &ReleaseBuilder::demo());
    let damaged = world.write("other.tgz", b"half a tarb");
    let before = world.snapshot();
    world
        .compile(&[&damaged, &source])
        .refuses_the_input()
        .says("other.tgz:\n");
    assert_eq!(world.snapshot(), before);
}

#[test]
fn compiled_and_source_release_of_one_name_collide() {
    let world = World::new();
    let source = world.release("source.tgz", &ReleaseBuilder::demo());
    let compiled = world.release("compiled.tgz", &compiled());
    let before = world.snapshot();
    world
        .compile(&[&source, &compiled])
        .refuses_the_input()
        .says("would overwrite the result of");
    assert_eq!(world.snapshot(), before);
}

#[test]
fn several_releases_are_compiled_in_order_and_listed() {
    let world = World::new();
    let release = |name: &str| {
        ReleaseBuilder::new(name, "1").package(
            "same",
            &[],
            &format!("echo {name} > $BOSH_INSTALL_TARGET/f"),
        )
    };
    let first = world.release("z.tgz", &release("z"));
    let second = world.release("a.tgz", &release("a"));
    let third = world.release("c.tgz", &compiled());
    let ran = world.compile(&[&first, &second, &third]).succeeds();
    let last: Vec<&str> = ran.stderr.lines().rev().take(3).collect();
    for (line, release) in last.iter().rev().zip(["z-1", "a-1", "demo-1.10"]) {
        let path = world.result(release);
        assert_eq!(
            *line,
            format!("Finished archiving compiled tarball {}", path.display())
        );
    }
    // A package with the same name in another release is another package.
    for name in ["z", "a"] {
        let (_scratch, contents) = unpacked(&world.result(&format!("{name}-1")), "same");
        assert_eq!(contents["f"], format!("100644 {name}\n"));
    }
}

#[test]
fn results_before_a_failure_are_kept_and_listed() {
    let world = World::new();
    let good = world.release("good.tgz", &ReleaseBuilder::demo());
    let bad = ReleaseBuilder::new("bad", "1").package("p", &[], "exit 3");
    let bad = world.release("bad.tgz", &bad);
    let later = ReleaseBuilder::new("later", "1").package("p", &[], "true");
    let later = world.release("later.tgz", &later);
    // One after another, so that the order of their ends is known.
    world
        .agent()
        .args(&["--jobs", "1"])
        .args(&[&good, &bad, &later])
        .run()
        .fails()
        .says("of release bad/1")
        .says(&format!(
            "Finished archiving compiled tarball {}\n",
            world.result("demo-1.10").display()
        ));
    let mut left: Vec<_> = std::fs::read_dir(world.out())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    left.sort();
    let logs = world.out().join("bad-1.failed");
    assert_eq!(left, [logs, world.result("demo-1.10")]);
}

#[test]
fn compiled_release_from_a_pipe_is_refused() {
    let world = World::new();
    let tarball = world.release("release.tgz", &compiled());
    let script = format!("cat {} | \"$@\" /dev/stdin", tarball.to_str().unwrap());
    let agent = world.flags(Agent::wrapped(
        &world.path("printed"),
        &["bash", "-c", &script, "bash"],
    ));
    agent
        .run()
        .refuses_the_input()
        .says("it is not a regular file");
    assert!(!world.result("demo-1.10").exists());
}

#[test]
fn glob_with_a_package_less_result_can_be_compiled_again() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::new("demo", "1.10"));
    world.compile(&[&tarball]).succeeds();
    let result = world.result("demo-1.10");
    let first = std::fs::read(&result).unwrap();
    world
        .compile(&[&tarball, &result])
        .succeeds()
        .says("is an earlier result of");
    assert_eq!(std::fs::read(&result).unwrap(), first);
}
