//! Colliding results, output directories, and free space.

use super::*;

#[test]
fn two_tarballs_with_one_result_are_refused() {
    let world = World::new();
    let a = world.release("a.tgz", &marking());
    let b = world.release("b.tgz", &marking());
    refused(&world, &[&a, &b])
        .says(&format!(
            "its result `{}` would overwrite the result of `{}`",
            world.result("demo-1.10").display(),
            a.display()
        ))
        .says("Hint: compile them in two runs");
    refused(&world, &[&a, &a]).says(&format!("it is given twice, first as `{}`", a.display()));
}

#[test]
fn two_results_in_different_directories_do_not_collide() {
    let world = World::new();
    for directory in ["a", "b"] {
        std::fs::create_dir(world.path(directory)).unwrap();
        world.release(&format!("{directory}/release.tgz"), &marking());
    }
    world
        .flags(Agent::bare(&world.path("printed")))
        .env("MARK", world.path("mark").to_str().unwrap())
        .args(&[world.path("a/release.tgz"), world.path("b/release.tgz")])
        .run()
        .succeeds();
    for directory in ["a", "b"] {
        let result = format!("{directory}/demo-1.10-ubuntu-noble-1.406.tgz");
        assert!(world.path(&result).exists());
    }
}

#[test]
fn result_never_overwrites_its_source_release() {
    let world = World::new();
    std::fs::create_dir(world.out()).unwrap();
    let name = "out/demo-1.10-ubuntu-noble-1.406.tgz";
    let tarball = world.release(name, &marking());
    refused(&world, &[&tarball]).says("which is an input of this run");
    // Also not by another path of it.
    let link = world.path("link.tgz");
    std::os::unix::fs::symlink(&tarball, &link).unwrap();
    refused(&world, &[&link]).says("which is an input of this run");
    let hard = world.path("hard.tgz");
    std::fs::hard_link(&tarball, &hard).unwrap();
    refused(&world, &[&hard]).says("which is an input of this run");
}

#[test]
fn directory_in_place_of_the_result_is_refused() {
    let world = World::new();
    std::fs::create_dir_all(world.result("demo-1.10")).unwrap();
    let tarball = world.release("release.tgz", &marking());
    refused(&world, &[&tarball]).says("which is a directory");
}

#[test]
fn unusable_output_directory_is_reported() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    let file = world.write("file", "");
    for directory in [
        file.clone(),
        file.join("below"),
        PathBuf::from("/proc/none"),
    ] {
        let before = world.snapshot();
        world
            .flags(Agent::bare(&world.path("printed")))
            .arg("--output-directory")
            .arg(&directory)
            .arg(&tarball)
            .run()
            .blames_the_machine()
            .says(&format!("{}:\n", directory.display()))
            .says("the output directory cannot be used")
            .says("Hint: pass a writable --output-directory");
        assert_eq!(world.snapshot(), before);
    }
}

#[test]
fn read_only_output_directory_is_refused_before_scripts_run() {
    if !require_root() || !require_tools(&["unshare", "mount"]) {
        return;
    }
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    std::fs::create_dir(world.out()).unwrap();
    let before = world.snapshot();
    let script =
        "mount --bind \"$OUT\" \"$OUT\" && mount -o remount,bind,ro \"$OUT\" && exec \"$@\"";
    let agent = Agent::wrapped(
        &world.path("printed"),
        &["unshare", "-m", "sh", "-c", script, "sh"],
    );
    world
        .flags(agent)
        .env("OUT", world.out().to_str().unwrap())
        .env("MARK", world.path("mark").to_str().unwrap())
        .arg("--output-directory")
        .args(&[world.out(), tarball])
        .run()
        .blames_the_machine()
        .says("the output directory cannot be used")
        .says("Read-only file system");
    assert_eq!(world.snapshot(), before);
}

/// Runs the agent with a small file system at a directory of the world.
#[track_caller]
fn on_small_disk(world: &World, directory: &Path, tarball: &Path, more: &[&str]) -> Ran {
    std::fs::create_dir_all(directory).unwrap();
    let script = "mount -t tmpfs -o size=1m,mode=755 small \"$SMALL\" && \"$@\"; code=$?; \
                  find \"$SMALL\" -mindepth 1 -name '.bosh-agent*' -printf 'left behind: %p\\n' >&2; exit $code";
    let agent = Agent::wrapped(
        &world.path("printed"),
        &["unshare", "-m", "sh", "-c", script, "sh"],
    );
    world
        .flags(agent)
        .env("SMALL", directory.to_str().unwrap())
        .env("MARK", world.path("mark").to_str().unwrap())
        .arg("--output-directory")
        .arg(world.out())
        .args(more)
        .arg(tarball)
        .run()
        .blames_the_machine()
}

/// Incompressible bytes.
fn random(length: u64) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let source = std::fs::File::open("/dev/urandom").unwrap();
    source.take(length).read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn too_little_space_is_reported_before_scripts_run() {
    if !require_root() || !require_tools(&["unshare", "mount", "find"]) {
        return;
    }
    let world = World::new();
    let tarball = world.release(
        "release.tgz",
        &marking().file("data", 0o644, &random(3 << 20)),
    );

    let work = world.path("work");
    on_small_disk(
        &world,
        &work,
        &tarball,
        &["--work-dir", work.to_str().unwrap()],
    )
    .says("not enough space: at least 2.9 MiB is needed to extract the tarballs, and ")
    .says(" MiB is free\n")
    .says("Hint: ")
    .says("choose a larger disk with --work-dir")
    .does_not_say("left behind");
    assert!(!world.path("mark").exists());

    let data = world.base().join("data");
    let elsewhere = world.path("elsewhere");
    let more = ["--work-dir", elsewhere.to_str().unwrap()];
    on_small_disk(&world, &data, &tarball, &more)
        .says("not enough space: at least 3.0 MiB is needed to unpack the largest source")
        .says("data:\n");
    assert!(!world.path("mark").exists());

    let out = world.out();
    let other = ReleaseBuilder::new("demo", "1.10")
        .package("app", &[], MARK)
        .compiled("big", &[], STEMCELL, ("data", &random(3 << 20)));
    let tarball = world.release("other.tgz", &other);
    on_small_disk(&world, &out, &tarball, &more)
        .says("not enough space: at least 2.9 MiB ")
        .says("out:\n")
        .does_not_say("left behind");
    assert!(!world.path("mark").exists());
}

#[test]
fn full_disk_during_the_result_leaves_no_file() {
    if !require_root() || !require_tools(&["unshare", "mount", "find"]) {
        return;
    }
    let world = World::new();
    let script = "head -c 3M /dev/urandom > $BOSH_INSTALL_TARGET/data";
    let tarball = world.release("release.tgz", &ReleaseBuilder::of_script(script));
    on_small_disk(&world, &world.out(), &tarball, &[])
        .says("failed to write the compiled release `")
        .says("No space left on device")
        .says("Hint: free disk space, or choose a larger disk with --work-dir")
        .does_not_say("Finished archiving")
        .does_not_say("left behind");
}

#[test]
fn full_disk_during_a_script_is_reported_as_the_cause() {
    if !require_root() || !require_tools(&["unshare", "mount", "find"]) {
        return;
    }
    let world = World::new();
    let script = "set -e\nhead -c 3M /dev/zero > $BOSH_INSTALL_TARGET/data";
    let tarball = world.release("release.tgz", &ReleaseBuilder::of_script(script));
    let data = world.base().join("data");
    on_small_disk(&world, &data, &tarball, &[])
        .says("No space left on device")
        .says("no space left on ");
}
