//! Formats of tar.

use super::*;

#[test]
fn all_formats_of_gnu_tar_are_read() {
    for format in ["v7", "oldgnu", "gnu", "ustar", "posix"] {
        assert_same(&packed_by("tar", &[&format!("--format={format}"), "."]));
    }
}

#[test]
fn all_formats_of_bsdtar_are_read() {
    if !require_tools(&["bsdtar"]) {
        return;
    }
    for format in ["ustar", "pax", "gnutar"] {
        assert_same(&packed_by("bsdtar", &["--format", format, "."]));
    }
}

#[test]
fn extended_headers_with_times_and_unknown_keywords_are_read() {
    let arguments = [
        "--format=posix",
        "--pax-option=comment=unused comment,MADE.by=a tool,globexthdr.name=pax_global_header,gid=7",
        ".",
    ];
    assert_same(&packed_by("tar", &arguments));
}

#[test]
fn global_header_of_git_archive_is_not_an_entry() {
    let record = format!("52 comment={}\n", "8".repeat(40));
    assert_eq!(record.len(), 52);
    let mut members = vec![Member {
        kind: Kind::PaxGlobal,
        ..Member::file("pax_global_header", record.as_bytes())
    }];
    members.extend(demo());
    assert_same(&gzip(&members));
}

#[test]
fn owners_with_large_numbers_are_read_and_kept() {
    let arguments = [
        "--format=gnu",
        "--owner=big:4000000000",
        "--group=big:3000000000",
        ".",
    ];
    let world = World::new();
    let input = world.write("release.tgz", packed_by("tar", &arguments));
    world.compile(&[&input]).succeeds();
    let entries = list(&world.result("demo-1.10"));
    assert_eq!(entries.len(), 8);
    for entry in entries {
        assert_eq!(entry.owner, "4000000000/3000000000", "{}", entry.name);
    }
}

#[test]
fn zeros_after_the_end_of_the_archive_are_ignored() {
    let mut padded = archive(&demo());
    padded.resize(padded.len() + 50_000, 0);
    assert_same(&padded);
    assert_same(&Compression::Gzip.apply(&padded));
    let mut behind_gzip = gzip(&demo());
    behind_gzip.resize(behind_gzip.len() + 10_240, 0);
    assert_same(&behind_gzip);
}

#[test]
fn archive_without_its_end_marker_is_read() {
    let mut cut = archive(&demo());
    cut.truncate(cut.len() - 1024);
    assert_same(&Compression::Gzip.apply(&cut));
}

#[test]
fn last_of_several_entries_for_one_path_counts() {
    let mut members = vec![
        Member::file("release.MF", b"name: wrong\n"),
        Member::file("packages/app.tgz", b"wrong"),
        Member::file("jobs/web.tgz", b"wrong"),
        Member::file("./LICENSE", b"wrong"),
    ];
    members.extend(demo());
    let outcome = outcome_of(&gzip(&members));
    assert_eq!(outcome.without_order(), expected().without_order());
}

#[test]
fn replaced_manifest_may_have_other_digests() {
    let release = |digest| ReleaseBuilder::demo().digests(digest);
    for (first, last) in [
        (Digest::Sha256, Digest::Sha1),
        (Digest::Sha1, Digest::Sha512),
    ] {
        // The format of `tar -r`: blobs come between the two.
        let mut members = release(first).members();
        members.extend(
            release(last)
                .members()
                .into_iter()
                .filter(|it| it.name == "release.MF"),
        );
        let outcome = outcome_of(&gzip(&members));
        // The digests of copied entries stay in the manifest.
        assert_eq!(outcome.packages, expected().packages);
    }
}

#[test]
fn reserved_names_in_other_directories_are_ordinary_files() {
    let mut members = demo();
    let nested = [
        ("docs/release.MF", "not a manifest"),
        ("docs/packages/app.tgz", "not a package"),
        ("packages/sub/app.tgz", "deeper than packages are"),
        ("docs/compiled_packages/app.tgz", "neither"),
        ("jobs/sub/web.tgz", "not a job"),
    ];
    members.insert(0, Member::directory("docs/packages/"));
    for (name, content) in nested {
        members.insert(0, Member::file(name, content.as_bytes()));
    }
    let outcome = outcome_of(&gzip(&members));
    for (name, content) in nested {
        assert!(outcome.files[name].ends_with(content), "{name}");
    }
    assert!(outcome.entries.contains(&"./docs/packages/".to_owned()));
    assert_eq!(outcome.packages, expected().packages);
    assert_eq!(outcome.manifest, expected().manifest);
}

#[test]
fn other_files_among_packages_are_left_out_and_reported() {
    let world = World::new();
    let release = ReleaseBuilder::demo().other("packages/README", b"read me");
    let input = world.release("release.tgz", &release);
    world
        .compile(&[&input])
        .succeeds()
        .says("Warning: `packages/README` in ");
    let outcome = Outcome::of(&world.result("demo-1.10"));
    assert_eq!(outcome.without_order(), expected().without_order());
}

#[test]
fn blobs_that_are_hard_links_to_each_other_are_read() {
    let release = || {
        ReleaseBuilder::new("demo", "1.10")
            .package("a", &[], "echo same > $BOSH_INSTALL_TARGET/file")
            .package("b", &["a"], "echo same > $BOSH_INSTALL_TARGET/file")
    };
    // Both blobs have the same bytes, as required by tools that link equal files.
    let blob = release().files()[1].1.clone();
    let release = release().blob(&blob);
    let mut members = release.members();
    let b = members
        .iter_mut()
        .find(|member| member.name == "packages/b.tgz")
        .unwrap();
    *b = Member::link(Kind::HardLink, "packages/b.tgz", "./packages/a.tgz");
    let outcome = outcome_of(&gzip(&members));
    assert_eq!(outcome.packages["a"]["file"], "100644 same\n");
    assert_eq!(outcome.packages["b"]["file"], "100644 same\n");
}

#[test]
fn hard_linked_job_is_copied_as_a_file() {
    let mut members = demo();
    let web = members
        .iter()
        .position(|member| member.name == "jobs/web.tgz")
        .unwrap();
    members[web].name = "first".to_owned();
    members.insert(
        web + 1,
        Member::link(Kind::HardLink, "jobs/web.tgz", "first"),
    );
    let outcome = outcome_of(&gzip(&members));
    assert_eq!(
        outcome.files["jobs/web.tgz"],
        expected().files["jobs/web.tgz"]
    );
    assert_eq!(outcome.files["first"], outcome.files["jobs/web.tgz"]);
}

#[test]
fn symbolic_links_of_a_release_are_copied() {
    let mut members = demo();
    members.push(Member::link(Kind::Symlink, "NOTICE", "LICENSE"));
    members.push(Member::link(Kind::Symlink, "COPYING", "/nowhere/at all"));
    let world = World::new();
    let input = world.write("release.tgz", gzip(&members));
    world.compile(&[&input]).succeeds();
    let entries = list(&world.result("demo-1.10"));
    let links: Vec<(&str, &str)> = entries
        .iter()
        .filter(|entry| entry.mode.starts_with('l'))
        .map(|entry| (entry.name.as_str(), entry.link.as_str()))
        .collect();
    assert_eq!(
        links,
        [("./NOTICE", "LICENSE"), ("./COPYING", "/nowhere/at all")]
    );
}

#[test]
fn sparse_entries_are_read_completely() {
    let formats = [
        "--format=gnu",
        "--format=oldgnu",
        "--format=posix",
        "--sparse-version=0.0",
        "--sparse-version=0.1",
    ];
    for format in formats {
        let world = World::new();
        let tree = world.path("tree");
        let mut data = vec![0; 3 << 20];
        data[1_500_000..1_500_004].copy_from_slice(b"data");
        ReleaseBuilder::demo().write_tree(&tree);
        let sparse = std::fs::File::create(tree.join("sparse")).unwrap();
        sparse.set_len(data.len() as u64).unwrap();
        sparse.write_all_at(b"data", 1_500_000).unwrap();
        let tarball = world.path("release.tgz");
        let options = ["-c", "--sparse", format];
        let mut arguments: Vec<&std::ffi::OsStr> = options.iter().map(AsRef::as_ref).collect();
        if format.contains("version") {
            arguments.push("--format=posix".as_ref());
        }
        arguments.extend([
            "-f".as_ref(),
            tarball.as_os_str(),
            "-C".as_ref(),
            tree.as_os_str(),
        ]);
        arguments.push(".".as_ref());
        run_tool("tar", &arguments);
        let size = std::fs::metadata(&tarball).unwrap().len();
        assert!(size < 1 << 20, "tar made no sparse entry: {size} bytes");
        world.compile(&[&tarball]).succeeds();
        let outcome = Outcome::of(&world.result("demo-1.10"));
        assert_eq!(outcome.packages, expected().packages, "{format}");
        let scratch = world.path("unpacked");
        crate::support::extract(&world.result("demo-1.10"), &scratch);
        assert!(
            std::fs::read(scratch.join("sparse")).unwrap() == data,
            "{format}"
        );
    }
}

#[test]
fn sparse_entry_of_bsdtar_is_read_completely() {
    if !require_tools(&["bsdtar", "truncate"]) {
        return;
    }
    let world = World::new();
    let tree = world.path("tree");
    ReleaseBuilder::demo().write_tree(&tree);
    let sparse = tree.join("sparse");
    std::fs::write(&sparse, "data").unwrap();
    run_tool(
        "truncate",
        &["-s".as_ref(), "5M".as_ref(), sparse.as_os_str()],
    );
    let tarball = world.path("release.tgz");
    let mut arguments = vec!["-c".as_ref(), "--format".as_ref(), "pax".as_ref()];
    arguments.extend(["-f".as_ref(), tarball.as_os_str()]);
    arguments.extend(["-C".as_ref(), tree.as_os_str(), ".".as_ref()]);
    run_tool("bsdtar", &arguments);
    world.compile(&[&tarball]).succeeds();
    let scratch = world.path("unpacked");
    crate::support::extract(&world.result("demo-1.10"), &scratch);
    let content = std::fs::read(scratch.join("sparse")).unwrap();
    assert_eq!(content.len(), 5 << 20);
    assert!(content.starts_with(b"data\0"));
    assert!(content[4..].iter().all(|byte| *byte == 0));
}
