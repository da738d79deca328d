//! What is wrong with a release is said before anything is compiled: everything at once, by name, and nothing is left behind.

use std::path::{Path, PathBuf};

use crate::support::{
    Agent, Compression, Digest, Kind, Member, Ran, ReleaseBuilder, STEMCELL, World, archive,
    require_root, require_tools,
};

/// A script that leaves a mark where no script should have run.
const MARK: &str = "touch $MARK";

/// Compiles what must be refused before any script runs, and checks that nothing has changed.
#[track_caller]
fn refused(world: &World, tarballs: &[&Path]) -> Ran {
    let mark = world.path("mark");
    let before = world.snapshot();
    let ran = world
        .agent()
        .env("MARK", mark.to_str().unwrap())
        .args(tarballs)
        .run()
        .fails();
    assert!(!mark.exists(), "a script ran:\n{}", ran.stderr);
    let after = world.snapshot();
    assert_eq!(after, before, "something was left behind:\n{}", ran.stderr);
    ran
}

#[track_caller]
fn refused_release(release: &ReleaseBuilder) -> Ran {
    let world = World::new();
    let tarball = world.release("release.tgz", release);
    refused(&world, &[&tarball])
}

#[track_caller]
fn refused_bytes(tarball: &[u8]) -> Ran {
    let world = World::new();
    let tarball = world.write("release.tgz", tarball);
    refused(&world, &[&tarball]).says(&tarball.display().to_string())
}

fn marking() -> ReleaseBuilder {
    ReleaseBuilder::of_script(MARK)
}

fn bytes_of(release: &ReleaseBuilder) -> Vec<u8> {
    Compression::Gzip.apply(&archive(&release.members()))
}

#[test]
fn the_mark_of_these_tests_is_made_when_a_script_runs() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    let mark = world.path("mark");
    let agent = world.agent().env("MARK", mark.to_str().unwrap());
    agent.arg(&tarball).run().succeeds();
    assert!(mark.exists());
}

#[test]
fn names_that_are_none_are_refused() {
    let long = "x".repeat(201);
    for (name, reason) in [
        ("..", "would be taken for a directory"),
        (".", "would be taken for a directory"),
        ("-x", "starts with `-`"),
        ("a/b", "has '/'"),
        ("a b", "has ' '"),
        ("é", "has 'é'"),
        (&long, "is 201 bytes long, 200 are allowed"),
        ("", "is empty"),
    ] {
        let quoted = format!("name: {name:?}");
        let what = marking().job("web", &[]).edit("name: demo", &quoted);
        refused_release(&what)
            .says("release.MF: line 1: `name`: ")
            .says(reason);

        let what = marking()
            .job("web", &[])
            .edit("- name: app", &format!("- {quoted}"));
        refused_release(&what).says("package `").says(reason);

        let what = marking()
            .job("web", &[])
            .edit("- name: web", &format!("- {quoted}"));
        refused_release(&what).says("job `").says(reason);

        let what = marking().edit("dependencies: []", &format!("dependencies: [{name:?}]"));
        refused_release(&what).says("`dependencies`: ").says(reason);
    }
}

#[test]
fn versions_that_are_none_are_refused() {
    let long = "1".repeat(201);
    for (version, reason) in [
        ("..", "would be taken for a directory"),
        ("-1", "starts with `-`"),
        ("1/2", "has '/'"),
        ("1\\n", "has '\\n'"),
        (&long, "is 201 bytes long, 200 are allowed"),
        ("", "is empty"),
    ] {
        let quoted = format!("version: \"{version}\"");
        let what = marking().edit("version: \"1.10\"", &quoted);
        refused_release(&what)
            .says("release.MF: line 2: `version`: ")
            .says(reason);

        let what = marking()
            .of_version("abc")
            .edit("  version: abc", &format!("  {quoted}"));
        refused_release(&what)
            .says("package `app`: `version`: ")
            .says(reason);
    }
}

#[test]
fn names_of_two_hundred_bytes_are_names() {
    let name = "n".repeat(200);
    let needing = "m".repeat(200);
    let world = World::new();
    let release = ReleaseBuilder::new("demo", "1.10")
        .package(&name, &[], "echo long > $BOSH_INSTALL_TARGET/file")
        .of_version(&"v".repeat(200))
        .package(
            &needing,
            &[&name],
            "cp @packages@/n*/file $BOSH_INSTALL_TARGET/",
        );
    // A member's name has a hundred bytes in this writer: this one is packed by tar.
    let tree = world.path("tree");
    release.write_tree(&tree);
    let tarball = world.path("release.tgz");
    let mut arguments = vec!["-czf".as_ref(), tarball.as_os_str(), "-C".as_ref()];
    arguments.extend([tree.as_os_str(), ".".as_ref()]);
    crate::support::run_tool("tar", &arguments);
    world.compile(&[&tarball]).succeeds();
    let (_scratch, contents) = crate::support::unpacked(&world.result("demo-1.10"), &needing);
    assert_eq!(contents["file"], "100644 long\n");
}

#[test]
fn a_result_whose_file_name_would_be_too_long_is_refused_before_anything_runs() {
    let release = ReleaseBuilder::new(&"n".repeat(150), &"1".repeat(150)).package("app", &[], MARK);
    refused_release(&release).says("longer than the 255 bytes that a file name may have");
}

#[test]
fn a_wrong_digest_is_named_with_its_file_and_its_algorithm() {
    for (form, algorithm) in [
        (Digest::Sha1, "sha1"),
        (Digest::Sha256, "sha256"),
        (Digest::Sha512, "sha512"),
    ] {
        let release = |blob| {
            ReleaseBuilder::new("demo", "1")
                .digests(form)
                .package("app", &[], MARK)
                .blob(blob)
        };
        // The manifest of one, the bytes of another.
        let manifest = release(b"one").files()[0].1.clone();
        refused_release(&release(b"other").manifest(&manifest))
            .says("package `app`: `packages/app.tgz` does not match its digest: ")
            .says(&format!("expected the {algorithm} digest "));
    }
}

#[test]
fn digests_of_jobs_and_of_the_license_are_checked_too() {
    let release = marking().job("web", &["app"]).license();
    let manifest = release.files()[0].1.clone();
    let mut members = release.manifest(&manifest).members();
    for member in &mut members {
        if member.name == "jobs/web.tgz" || member.name == "license.tgz" {
            member.content.push(0);
        }
    }
    refused_bytes(&Compression::Gzip.apply(&archive(&members)))
        .says("job `web`: `jobs/web.tgz` does not match its digest: ")
        .says("license: `license.tgz` does not match its digest: ")
        .says("nothing was compiled: 2 problems");
}

#[test]
fn every_digest_of_several_is_checked() {
    let release = marking().digests(Digest::All);
    let text = String::from_utf8(release.files()[0].1.clone()).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("  sha1: "))
        .unwrap();
    let parts: Vec<&str> = line.split(';').collect();
    for (index, algorithm) in ["sha1", "sha256", "sha512"].into_iter().enumerate() {
        let mut wrong = parts.clone();
        let digits: String = wrong[index]
            .chars()
            .rev()
            .collect::<String>()
            .split(':')
            .next()
            .unwrap()
            .to_owned();
        let prefix = wrong[index].split_once(':').map_or("", |(name, _)| name);
        let changed = match prefix {
            "" => digits,
            prefix => format!("{prefix}:{digits}"),
        };
        wrong[index] = &changed;
        let manifest = text.replace(line, &wrong.join(";"));
        refused_release(&release.clone().manifest(manifest.as_bytes()))
            .says(&format!("expected the {algorithm} digest "));
    }
}

#[test]
fn a_digest_of_an_unknown_algorithm_alone_is_refused_and_beside_a_known_one_it_is_not() {
    let release = marking().blob(b"no archive");
    let text = String::from_utf8(release.files()[0].1.clone()).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("  sha1: "))
        .unwrap();
    let manifest = text.replace(line, "md5:d41d8cd98f00b204e9800998ecf8427e");
    refused_release(&release.clone().manifest(manifest.as_bytes())).says(
        "package `app`: `sha1` `md5:d41d8cd98f00b204e9800998ecf8427e` can only be checked with md5",
    );

    let text = String::from_utf8(marking().files()[0].1.clone()).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("  sha1: "))
        .unwrap();
    let manifest = text.replace(line, &format!("md5:d41d8cd9;{line}"));
    let world = World::new();
    let release = marking().manifest(manifest.as_bytes());
    let tarball = world.release("release.tgz", &release);
    let agent = world
        .agent()
        .env("MARK", world.path("mark").to_str().unwrap());
    agent.arg(tarball).run().succeeds();
}

#[test]
fn a_text_that_is_no_digest_is_refused() {
    for wrong in ["'not a digest'", "'sha256:'", "12;12", "'a:b:c'"] {
        let text = String::from_utf8(marking().files()[0].1.clone()).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("  sha1: "))
            .unwrap();
        let manifest = text.replace(line, wrong);
        refused_release(&marking().manifest(manifest.as_bytes())).says("package `app`: `sha1`");
    }
}

#[test]
fn a_missing_blob_is_named() {
    let release = marking().job("web", &["app"]).license();
    refused_release(
        &release
            .without("packages/app.tgz")
            .without("jobs/web.tgz")
            .without("license.tgz"),
    )
    .says("package `app`: `packages/app.tgz` is missing from the tarball")
    .says("job `web`: `jobs/web.tgz` is missing from the tarball")
    .says("license: `license.tgz` is missing from the tarball")
    .says("nothing was compiled: 3 problems");
}

#[test]
fn another_package_with_the_same_digest_does_not_stand_in_for_a_missing_one() {
    let release = ReleaseBuilder::new("demo", "1")
        .package("a", &[], MARK)
        .package("b", &[], MARK)
        .without("packages/b.tgz");
    refused_release(&release).says("package `b`: `packages/b.tgz` is missing from the tarball");
}

#[test]
fn a_blob_that_is_no_file_is_named() {
    let mut members = marking().members();
    for member in &mut members {
        if member.name == "packages/app.tgz" {
            *member = Member::link(Kind::Symlink, "packages/app.tgz", "elsewhere.tgz");
        }
    }
    refused_bytes(&archive(&members)).says("package `app`: `packages/app.tgz` is not a file");
}

#[test]
fn a_link_to_nothing_is_named() {
    let mut members = marking().members();
    members.push(Member::link(Kind::HardLink, "NOTICE", "NOT-THERE"));
    refused_bytes(&archive(&members)).says("`NOTICE` is a link to `NOT-THERE`");
}

#[test]
fn an_unknown_dependency_is_named_with_who_wants_it() {
    let release = ReleaseBuilder::new("demo", "1")
        .package("app", &["lib", "gone"], MARK)
        .package("lib", &["lost"], MARK);
    refused_release(&release)
        .says("package `app` depends on `gone`, which is not in the release")
        .says("package `lib` depends on `lost`, which is not in the release");
}

#[test]
fn a_package_of_a_job_that_is_not_there_is_named() {
    refused_release(&marking().job("web", &["app", "gone"]))
        .says("job `web` needs package `gone`, which is not in the release");
}

#[test]
fn a_cycle_is_told_as_a_path() {
    let release = ReleaseBuilder::new("demo", "1")
        .package("c", &["a"], MARK)
        .package("b", &["c"], MARK)
        .package("a", &["b"], MARK)
        .package("self", &["self"], MARK);
    refused_release(&release)
        .says("packages depend on each other: a -> b -> c -> a")
        .says("packages depend on each other: self -> self");
}

#[test]
fn a_package_that_is_listed_twice_is_named_with_its_line() {
    let release = ReleaseBuilder::new("demo", "1")
        .package("app", &[], MARK)
        .package("app", &[], MARK)
        .job("web", &[])
        .job("web", &[]);
    refused_release(&release)
        .says("package `app`: the name is already on line ")
        .says("job `web`: the name is already on line ");
}

#[test]
fn a_package_that_is_source_and_compiled_is_named() {
    let release = ReleaseBuilder::new("demo", "1")
        .package("app", &[], MARK)
        .compiled("app", &[], STEMCELL, ("file", b""));
    refused_release(&release).says("package `app`: the name is already on line ");
}

#[test]
fn a_package_that_the_manifest_does_not_list_is_named() {
    let release = marking()
        .other("packages/extra.tgz", b"")
        .other("compiled_packages/more.tgz", b"");
    refused_release(&release)
        .says("`packages/extra.tgz` is in the tarball, but release.MF lists no such package")
        .says(
            "`compiled_packages/more.tgz` is in the tarball, but release.MF lists no such package",
        );
}

#[test]
fn all_problems_of_all_tarballs_are_told_in_one_run() {
    let world = World::new();
    let first = ReleaseBuilder::new("first", "1")
        .package("a", &["gone"], MARK)
        .package("b", &["c"], MARK)
        .package("c", &["b"], MARK)
        .package("d", &[], MARK)
        .job("web", &["lost"])
        .without("packages/d.tgz")
        .other("packages/extra.tgz", b"");
    let second = ReleaseBuilder::new("second", "1")
        .package("a", &[], MARK)
        .edit("- name: a", "- name: ..")
        .edit("version: \"1\"", "version: \"1/2\"");
    let good = world.release("good.tgz", &marking());
    let first = world.release("first.tgz", &first);
    let second = world.release("second.tgz", &second);
    let third = world.write("third.tgz", b"no tarball at all");
    let missing = world.path("missing.tgz");
    let ran = refused(&world, &[&good, &first, &second, &third, &missing])
        .says("package `d`: `packages/d.tgz` is missing from the tarball")
        .says("package `a` depends on `gone`")
        .says("packages depend on each other: b -> c -> b")
        .says("job `web` needs package `lost`")
        .says("`packages/extra.tgz` is in the tarball")
        .says("package `..`: `name`: ")
        .says("line 2: `version`: ")
        .says("neither a tar archive nor compressed data of a known kind")
        .says("No such file or directory")
        .says("nothing was compiled: 9 problems found in what was given");
    for tarball in [&first, &second, &third, &missing] {
        let headings = ran
            .stderr
            .lines()
            .filter(|line| *line == format!("{}:", tarball.display()));
        assert_eq!(headings.count(), 1, "{}", ran.stderr);
    }
    assert!(!ran.stderr.contains(&format!("{}:\n", good.display())));
}

#[test]
fn two_tarballs_with_one_result_are_refused() {
    let world = World::new();
    let a = world.release("a.tgz", &marking());
    let b = world.release("b.tgz", &marking());
    refused(&world, &[&a, &b])
        .says(&format!(
            "it would be written to `{}`, and so would `{}`",
            world.result("demo-1.10").display(),
            a.display()
        ))
        .says("Hint: compile them in two calls");
    refused(&world, &[&a, &a]).says(&format!(
        "it is given twice, the first time as `{}`",
        a.display()
    ));
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
fn a_source_release_is_never_overwritten_by_its_result() {
    let world = World::new();
    std::fs::create_dir(world.out()).unwrap();
    let name = "out/demo-1.10-ubuntu-noble-1.406.tgz";
    let tarball = world.release(name, &marking());
    refused(&world, &[&tarball]).says("which is an input of this call");
    // Nor by another name of it.
    let link = world.path("link.tgz");
    std::os::unix::fs::symlink(&tarball, &link).unwrap();
    refused(&world, &[&link]).says("which is an input of this call");
    let hard = world.path("hard.tgz");
    std::fs::hard_link(&tarball, &hard).unwrap();
    refused(&world, &[&hard]).says("which is an input of this call");
}

#[test]
fn a_directory_in_the_place_of_the_result_is_refused() {
    let world = World::new();
    std::fs::create_dir_all(world.result("demo-1.10")).unwrap();
    let tarball = world.release("release.tgz", &marking());
    refused(&world, &[&tarball]).says("which is a directory");
}

#[test]
fn an_output_directory_that_cannot_be_used_is_named() {
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
            .fails()
            .says(&format!("{}:\n", directory.display()))
            .says("the output directory cannot be used")
            .says("Hint: pass an --output-directory that can be written to");
        assert_eq!(world.snapshot(), before);
    }
}

#[test]
fn a_read_only_output_directory_is_refused_before_anything_runs() {
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
        .fails()
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
        .fails()
}

/// Bytes that no compression makes smaller.
fn random(length: u64) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let source = std::fs::File::open("/dev/urandom").unwrap();
    source.take(length).read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn too_little_space_is_told_with_figures_before_anything_runs() {
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
    .says("not enough space: at least 2.9 MiB to take the tarballs apart, ")
    .says(" MiB free\n")
    .says("Hint: ")
    .says("choose a larger disk by --work-dir")
    .does_not_say("left behind");
    assert!(!world.path("mark").exists());

    let data = world.base().join("data");
    let elsewhere = world.path("elsewhere");
    let more = ["--work-dir", elsewhere.to_str().unwrap()];
    on_small_disk(&world, &data, &tarball, &more)
        .says("not enough space: at least 3.0 MiB for the largest source unpacked")
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
fn a_disk_that_fills_while_the_result_is_written_is_told_and_leaves_nothing() {
    if !require_root() || !require_tools(&["unshare", "mount", "find"]) {
        return;
    }
    let world = World::new();
    let script = "head -c 3M /dev/urandom > $BOSH_INSTALL_TARGET/data";
    let tarball = world.release("release.tgz", &ReleaseBuilder::of_script(script));
    on_small_disk(&world, &world.out(), &tarball, &[])
        .says("failed to write the compiled release `")
        .says("No space left on device")
        .says("Hint: make room, or choose a larger disk by --work-dir")
        .does_not_say("Finished archiving")
        .does_not_say("left behind");
}

#[test]
fn a_disk_that_fills_while_a_script_runs_is_told_as_the_cause() {
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

#[test]
fn a_truncated_tarball_is_refused_wherever_it_ends() {
    let whole = bytes_of(&marking().license());
    for length in [
        1,
        5,
        10,
        18,
        100,
        whole.len() / 2,
        whole.len() - 8,
        whole.len() - 4,
        whole.len() - 1,
    ] {
        let ran = refused_bytes(&whole[..length]);
        let told = [
            "ends early",
            "neither a tar archive",
            "failed to read the tarball",
        ];
        assert!(
            told.iter().any(|text| ran.stderr.contains(text)),
            "{length}: {}",
            ran.stderr
        );
    }
    let whole = archive(&marking().license().members());
    for length in [100, 513, 700, whole.len() - 1100] {
        refused_bytes(&whole[..length]);
    }
}

#[test]
fn a_missing_gzip_trailer_is_told() {
    let whole = bytes_of(&marking());
    refused_bytes(&whole[..whole.len() - 8]).says("gzip data ends early");
    refused_bytes(&whole[..whole.len() - 4]).says("gzip data ends early");
}

#[test]
fn a_wrong_checksum_at_the_end_is_told() {
    let whole = bytes_of(&marking());
    for back in [8, 4] {
        let mut wrong = whole.clone();
        let at = wrong.len() - back;
        wrong[at] ^= 0xff;
        refused_bytes(&wrong).says("gzip data is damaged");
    }
}

#[test]
fn damaged_bytes_are_told() {
    let whole = bytes_of(&marking().license());
    for part in 1..8 {
        let mut wrong = whole.clone();
        wrong[whole.len() * part / 8] ^= 0x55;
        refused_bytes(&wrong);
    }
    for compression in [Compression::Bzip2, Compression::Xz, Compression::Zstd] {
        if !require_tools(&[compression.tool().unwrap()]) {
            continue;
        }
        let mut wrong = compression.apply(&archive(&marking().members()));
        let middle = wrong.len() / 2;
        wrong[middle] ^= 0x55;
        refused_bytes(&wrong).says("failed to read the tarball");
        wrong.truncate(middle);
        refused_bytes(&wrong).says("failed to read the tarball");
    }
}

#[test]
fn bytes_behind_the_compressed_data_are_told() {
    let mut whole = bytes_of(&marking());
    whole.extend(b"more");
    refused_bytes(&whole).says("gzip data is followed by other bytes");
}

#[test]
fn what_is_no_tarball_is_told() {
    refused_bytes(b"").says("the file is empty");
    refused_bytes(b"# a script\n")
        .says("neither a tar archive nor compressed data of a known kind");
    let page = format!("<html>{}</html>", "not found ".repeat(500));
    refused_bytes(page.as_bytes()).says("it is an HTML page");
    refused_bytes(&Compression::Gzip.apply(page.as_bytes())).says("it is an HTML page");
    refused_bytes(&Compression::Gzip.apply(b"# a script\n")).says("not a tar archive");
    refused_bytes(&Compression::Gzip.apply(b"")).says("the file is empty");
}

#[test]
fn a_file_that_is_not_there_and_a_directory_are_told() {
    let world = World::new();
    refused(&world, &[&world.path("missing.tgz")])
        .says("missing.tgz:\n")
        .says("No such file or directory");
    refused(&world, &[&world.path("no/such/directory/release.tgz")])
        .says("No such file or directory");
    refused(&world, &[&world.path("printed")]).says("Is a directory");
}

#[test]
fn a_missing_input_without_an_output_directory_makes_no_directory() {
    let world = World::new();
    let before = world.snapshot();
    world
        .flags(Agent::bare(&world.path("printed")))
        .arg(world.path("no/such/release.tgz"))
        .run()
        .fails()
        .says("No such file or directory");
    assert_eq!(world.snapshot(), before);
}

#[test]
fn a_tarball_without_a_manifest_at_its_top_is_told() {
    let members = [Member::file("release/release.MF", b"name: demo\n")];
    refused_bytes(&archive(&members)).says("there is no release.MF at the top of the tarball");
    let members = [Member::directory("release.MF/")];
    refused_bytes(&archive(&members)).says("release.MF is not a file");
}

#[test]
fn entries_that_lead_out_are_refused() {
    for name in ["../packages/app.tgz", "packages/../../x", "/etc/passwd"] {
        let mut members = marking().members();
        members.push(Member::file(name, b""));
        refused_bytes(&archive(&members)).says(name);
    }
}

#[test]
fn problems_of_a_manifest_are_told_with_their_lines() {
    for (manifest, told) in [
        ("", "the manifest is empty"),
        ("just a text", "not a mapping"),
        ("- a\n- b\n", "not a mapping"),
        ("name: demo\n", "`version` is missing"),
        ("name: [\n", "release.MF: "),
        ("name: a\nname: b\nversion: 1\n", "name"),
        (
            "name: a\nversion: 1\npackages: 7\n",
            "line 3: `packages` must be a list",
        ),
        (
            "name: a\nversion: 1\npackages: [7]\n",
            "line 3: `packages` must be a list of mappings",
        ),
        (
            "name: a\nversion: 1\npackages:\n- version: 1\n",
            "package number 1: `name` is missing",
        ),
        (
            "name: a\nversion: 1\nno_compression: \"maybe\"\n",
            "`no_compression` must be true or false",
        ),
        (
            "name: a\nversion: 1\nlicense: [x]\n",
            "`license` must be a mapping",
        ),
        (
            "name: {a: b}\nversion: 1\n",
            "line 1: `name` must be a text",
        ),
    ] {
        let release = ReleaseBuilder::new("", "").manifest(manifest.as_bytes());
        refused_release(&release).says("release.MF").says(told);
    }
    let release = ReleaseBuilder::new("", "").manifest(b"name: \xff\xfe\n");
    refused_release(&release).says("not UTF-8");
}

#[test]
fn a_compiled_package_without_a_stemcell_is_told() {
    let release = ReleaseBuilder::new("demo", "1").compiled("app", &[], STEMCELL, ("f", b""));
    let with = |stemcell: &str| {
        release
            .clone()
            .edit(&format!("stemcell: {STEMCELL}"), stemcell)
    };
    refused_release(&with("stemcell: noble"))
        .says("`noble` is not a stemcell of the form OS/VERSION");
    refused_release(&with("other: x")).says("`stemcell` is missing");
}

#[test]
fn an_earlier_result_stays_when_a_later_run_is_refused() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    world.compile(&[&tarball]).succeeds();
    let bad = ReleaseBuilder::demo().without("packages/app.tgz");
    let bad = world.release("bad.tgz", &bad);
    refused(&world, &[&bad]);
}

#[test]
fn an_earlier_result_stays_when_a_later_compile_fails() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::of_script("true"));
    world.compile(&[&tarball]).succeeds();
    let before = crate::support::snapshot(&world.out());
    let tarball = world.release("release.tgz", &ReleaseBuilder::of_script("exit 1"));
    world.compile(&[&tarball]).fails();
    assert_eq!(crate::support::snapshot(&world.out()), before);
}

#[test]
fn a_result_replaces_an_earlier_one() {
    let world = World::new();
    let old = world.result("demo-1.10");
    world.write("elsewhere", "old");
    std::fs::create_dir(world.out()).unwrap();
    std::os::unix::fs::symlink(world.path("elsewhere"), &old).unwrap();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    world.compile(&[&tarball]).succeeds();
    assert!(std::fs::symlink_metadata(&old).unwrap().is_file());
    assert_eq!(world.read("elsewhere"), "old");
}

#[test]
fn a_package_that_is_no_archive_is_named_and_nothing_of_it_stays() {
    for (blob, told) in [
        (b"no archive".to_vec(), "neither a tar archive"),
        (
            Compression::Gzip.apply(b"no archive either"),
            "not a tar archive",
        ),
        (
            archive(&[Member::file("../out", b"")]),
            "the archive has an entry that must not be unpacked",
        ),
    ] {
        let world = World::new();
        let tarball = world.release("release.tgz", &marking().blob(&blob));
        world
            .compile(&[&tarball])
            .fails()
            .says("failed to compile package app/")
            .says(told);
        assert!(!world.out().exists());
        assert!(!world.base().join("data").exists());
        assert!(!world.base().join("packages").exists());
    }
}

#[test]
fn a_work_directory_that_cannot_be_used_is_told_and_nothing_is_left() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    let file = world.write("file", "");
    let before = world.snapshot();
    let agent = world.agent().arg("--work-dir").arg(&file);
    agent.arg(&tarball).run().fails().says("file");
    assert_eq!(world.snapshot(), before);
}

#[test]
fn a_base_directory_that_cannot_be_made_is_told() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    world.write("vcap", "a file");
    let before = world.snapshot();
    let ran = world.agent().arg(&tarball).run().fails();
    assert!(ran.stderr.contains("vcap"), "{}", ran.stderr);
    assert!(!world.result("demo-1.10").exists());
    assert_eq!(world.read("vcap"), "a file");
    let after = world.snapshot();
    let left: Vec<_> = after
        .keys()
        .filter(|path| !before.contains_key(*path))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_refusal_for_the_base_directorys_sake_leaves_no_logs() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    world.write("vcap/packages/redis/file", "theirs");
    refused(&world, &[&tarball]).says("holds `redis`");
}

#[test]
fn a_file_in_the_place_of_the_directory_of_packages_is_told_and_nothing_is_left() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    world.write("vcap/packages", "a file");
    refused(&world, &[&tarball]).says("vcap/packages");
}

#[test]
fn a_machine_that_is_no_stemcell_is_told_with_what_to_do() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    let before = world.snapshot();
    Agent::bare(&world.path("printed"))
        .args(&["compile", "--isolation=none", "--base-directory"])
        .args(&[world.base(), tarball])
        .run()
        .fails()
        .says("this does not look like a stemcell")
        .says("Hint: ")
        .says("--stemcell OS/VERSION");
    assert_eq!(world.snapshot(), before);
}

#[test]
fn the_stemcells_version_is_read_below_the_base_directory() {
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let has = |key: &str| os_release.lines().any(|line| line.starts_with(key));
    if !crate::support::require(
        has("ID=") && has("VERSION_CODENAME="),
        "a codename in os-release",
    ) {
        return;
    }
    let world = World::new();
    world.write("vcap/bosh/etc/stemcell_version", "77.1\n");
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let ran = Agent::bare(&world.path("printed"))
        .args(&["compile", "--isolation=none", "--output-directory"])
        .arg(world.out())
        .arg("--base-directory")
        .args(&[world.base(), tarball])
        .run()
        .succeeds();
    let first = ran.stderr.lines().next().unwrap();
    let slug = first.strip_prefix("Compiling with stemcell ").unwrap();
    assert!(slug.ends_with("/77.1"), "{first}");
    let name = format!("demo-1.10-{}.tgz", slug.replacen('/', "-", 1));
    let manifest = crate::support::manifest_of(&world.out().join(name));
    assert!(
        manifest.contains(&format!("stemcell: {slug}\n")),
        "{manifest}"
    );
}

#[test]
fn mistakes_in_the_command_line_end_with_two_and_touch_nothing() {
    let world = World::new();
    let tarball = world.release("release.tgz", &marking());
    let tarball = tarball.to_str().unwrap();
    let before = world.snapshot();
    for (arguments, told) in [
        (&[][..], "no command is given"),
        (&["compiel"], "unknown command `compiel`"),
        (&["compile"], "TARBALL"),
        (&["compile", ""], "TARBALL"),
        (&["compile", "--no-such-flag", tarball], "--no-such-flag"),
        (&["compile", "--output-directory"], "--output-directory"),
        (
            &["compile", "--output-directory=", tarball],
            "--output-directory",
        ),
        (&["compile", "--stemcell", "noble", tarball], "noble"),
        (&["compile", "--stemcell", "a/b/c", tarball], "a/b/c"),
        (&["compile", "--isolation=some", tarball], "some"),
        (&["compile", "--base-directory", "vcap", tarball], "vcap"),
        (&["compile", "--compression-level", "0", tarball], "0"),
        (&["compile", "--grace", "soon", tarball], "soon"),
        (&["compile", tarball, "--force"], "--force"),
    ] {
        let ran = Agent::bare(&world.path("printed")).args(arguments).run();
        let ran = ran.ends_with(2).says(told);
        assert!(ran.stderr.starts_with("Error: "), "{}", ran.stderr);
    }
    assert_eq!(world.snapshot(), before);
}

#[test]
fn help_and_version_end_well() {
    let world = World::new();
    for flag in ["-h", "-help", "--help"] {
        let agent = Agent::bare(&world.path("printed"));
        let ran = agent.args(&["compile", flag]).run();
        ran.ends_with(0).says("--output-directory");
        Agent::bare(&world.path("printed"))
            .arg(flag)
            .run()
            .ends_with(0)
            .says("Usage:");
    }
    let version = env!("CARGO_PKG_VERSION");
    let print = |flag: &str| {
        let ran = Agent::bare(&world.path("printed")).arg(flag).run();
        assert_eq!(ran.code, Some(0));
        ran.stdout
    };
    assert_eq!(print("-v"), format!("{version}\n"));
    let (program, built) = (format!("bosh-agent {version} ("), print("--version"));
    assert!(
        built.starts_with(&program) && built.ends_with("-linux-gnu\n"),
        "{built}"
    );
}

#[test]
fn one_dash_does_for_two_and_a_double_dash_ends_the_flags() {
    let world = World::new();
    world.release("-odd.tgz", &ReleaseBuilder::demo());
    world
        .flags(Agent::bare(&world.path("printed")))
        .arg("-output-directory")
        .arg(world.out())
        .args(&["--", "-odd.tgz"])
        .directory(world.path("printed").parent().unwrap())
        .run()
        .succeeds();
    assert!(world.result("demo-1.10").exists());
}
