//! Names, versions, digests and dependencies in a manifest.

use super::*;

#[test]
fn invalid_names_are_refused() {
    let long = "x".repeat(201);
    for (name, reason) in [
        ("..", "cannot be a name: it means a directory"),
        (".", "cannot be a name: it means a directory"),
        ("-x", "starts with `-`"),
        ("a/b", "contains '/'"),
        ("a b", "contains ' '"),
        ("é", "contains 'é'"),
        (&long, "has 201 bytes; the limit is 200"),
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
fn invalid_versions_are_refused() {
    let long = "1".repeat(201);
    for (version, reason) in [
        ("..", "cannot be a name: it means a directory"),
        ("-1", "starts with `-`"),
        ("1/2", "contains '/'"),
        ("1\\n", "contains '\\n'"),
        (&long, "has 201 bytes; the limit is 200"),
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
fn names_of_two_hundred_bytes_are_valid() {
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
    // The test's writer limits a name to a hundred bytes, so tar packs this one.
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
fn too_long_file_name_of_a_result_is_refused() {
    let release = ReleaseBuilder::new(&"n".repeat(150), &"1".repeat(150)).package("app", &[], MARK);
    refused_release(&release).says("is longer than 255 bytes");
}

#[test]
fn wrong_digest_is_reported_with_file_and_algorithm() {
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
        // The manifest of one release with the bytes of another.
        let manifest = release(b"one").files()[0].1.clone();
        refused_release(&release(b"other").manifest(&manifest))
            .says("package `app`: `packages/app.tgz` does not match its digest: ")
            .says(&format!("expected the {algorithm} digest "));
    }
}

#[test]
fn digests_of_jobs_and_license_are_checked() {
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
fn all_digests_of_a_blob_are_checked() {
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
fn digest_needs_one_known_algorithm() {
    let release = marking().blob(b"no archive");
    let text = String::from_utf8(release.files()[0].1.clone()).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("  sha1: "))
        .unwrap();
    let manifest = text.replace(line, "md5:d41d8cd98f00b204e9800998ecf8427e");
    refused_release(&release.clone().manifest(manifest.as_bytes())).says(
        "package `app`: `sha1` `md5:d41d8cd98f00b204e9800998ecf8427e` uses only unsupported algorithms (md5)",
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
fn invalid_digest_is_refused() {
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
fn missing_blob_is_reported() {
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
fn equal_digest_of_another_package_does_not_replace_a_blob() {
    let release = ReleaseBuilder::new("demo", "1")
        .package("a", &[], MARK)
        .package("b", &[], MARK)
        .without("packages/b.tgz");
    refused_release(&release).says("package `b`: `packages/b.tgz` is missing from the tarball");
}

#[test]
fn blob_that_is_not_a_file_is_reported() {
    let mut members = marking().members();
    for member in &mut members {
        if member.name == "packages/app.tgz" {
            *member = Member::link(Kind::Symlink, "packages/app.tgz", "elsewhere.tgz");
        }
    }
    refused_bytes(&archive(&members)).says("package `app`: `packages/app.tgz` is not a file");
}

#[test]
fn dangling_link_is_reported() {
    let mut members = marking().members();
    members.push(Member::link(Kind::HardLink, "NOTICE", "NOT-THERE"));
    refused_bytes(&archive(&members)).says("`NOTICE` is a link to `NOT-THERE`");
}

#[test]
fn unknown_dependency_is_reported_with_its_dependent() {
    let release = ReleaseBuilder::new("demo", "1")
        .package("app", &["lib", "gone"], MARK)
        .package("lib", &["lost"], MARK);
    refused_release(&release)
        .says("package `app` depends on `gone`, which is not in the release")
        .says("package `lib` depends on `lost`, which is not in the release");
}

#[test]
fn missing_package_of_a_job_is_reported() {
    refused_release(&marking().job("web", &["app", "gone"]))
        .says("job `web` needs package `gone`, which is not in the release");
}

#[test]
fn cycle_is_reported_as_a_path() {
    let release = ReleaseBuilder::new("demo", "1")
        .package("c", &["a"], MARK)
        .package("b", &["c"], MARK)
        .package("a", &["b"], MARK)
        .package("self", &["self"], MARK);
    refused_release(&release)
        .says("dependency cycle: a -> b -> c -> a")
        .says("dependency cycle: self -> self");
}

#[test]
fn duplicate_package_is_reported_with_its_line() {
    let release = ReleaseBuilder::new("demo", "1")
        .package("app", &[], MARK)
        .package("app", &[], MARK)
        .job("web", &[])
        .job("web", &[]);
    refused_release(&release)
        .says("package `app`: duplicate name; the first is on line ")
        .says("job `web`: duplicate name; the first is on line ");
}

#[test]
fn source_and_compiled_package_of_one_name_is_reported() {
    let release = ReleaseBuilder::new("demo", "1")
        .package("app", &[], MARK)
        .compiled("app", &[], STEMCELL, ("file", b""));
    refused_release(&release).says("package `app`: duplicate name; the first is on line ");
}

#[test]
fn unlisted_package_is_reported() {
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
fn all_problems_of_all_tarballs_are_reported_together() {
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
        .says("dependency cycle: b -> c -> b")
        .says("job `web` needs package `lost`")
        .says("`packages/extra.tgz` is in the tarball")
        .says("package `..`: `name`: ")
        .says("line 2: `version`: ")
        .says("neither a tar archive nor compressed data of a known kind")
        .says("No such file or directory")
        .says("nothing was compiled: 9 problems found");
    for tarball in [&first, &second, &third, &missing] {
        let headings = ran
            .stderr
            .lines()
            .filter(|line| *line == format!("{}:", tarball.display()));
        assert_eq!(headings.count(), 1, "{}", ran.stderr);
    }
    assert!(!ran.stderr.contains(&format!("{}:\n", good.display())));
}
