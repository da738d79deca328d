//! Every form that a release tarball comes in compiles to the same result.

use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::{
    Compression, Digest, Kind, Member, Outcome, ReleaseBuilder, World, archive, list,
    require_tools, run_tool, run_tool_with, unpacked,
};

/// What the CLI's own layout compiles to.
fn expected() -> Outcome {
    let world = World::new();
    Outcome::of(&world.compiled(&ReleaseBuilder::demo()))
}

/// Compiles a tarball and compares the result with that of the CLI's layout.
#[track_caller]
fn assert_same(tarball: &[u8]) {
    let outcome = outcome_of(tarball);
    assert_eq!(outcome.without_order(), expected().without_order());
}

#[track_caller]
fn outcome_of(tarball: &[u8]) -> Outcome {
    let world = World::new();
    let input = world.write("release.tgz", tarball);
    world.compile(&[&input]).succeeds();
    Outcome::of(&world.result("demo-1.10"))
}

fn demo() -> Vec<Member> {
    ReleaseBuilder::demo().members()
}

fn gzip(members: &[Member]) -> Vec<u8> {
    Compression::Gzip.apply(&archive(members))
}

/// The release packed by a real tar, from a directory.
fn packed_by(tool: &str, arguments: &[&str]) -> Vec<u8> {
    let world = World::new();
    let tree = world.path("tree");
    ReleaseBuilder::demo().write_tree(&tree);
    let output = world.path("release.tar");
    let mut all = vec!["-c".as_ref(), "-f".as_ref(), output.as_os_str()];
    all.extend(["-C".as_ref(), tree.as_os_str()]);
    all.extend(arguments.iter().map(AsRef::<std::ffi::OsStr>::as_ref));
    run_tool(tool, &all);
    std::fs::read(output).unwrap()
}

#[test]
fn the_layout_of_the_cli_gives_the_expected_packages() {
    let outcome = expected();
    let app = &outcome.packages["app"];
    assert_eq!(app["bin/app"], "100644 lib\nsource of app\n");
    assert_eq!(outcome.packages["lib"]["lib.txt"], "100644 lib\n");
    assert_eq!(
        outcome.entries,
        [
            "./release.MF",
            "./jobs/",
            "./jobs/web.tgz",
            "./compiled_packages/",
            "./compiled_packages/lib.tgz",
            "./compiled_packages/app.tgz",
            "./license.tgz",
            "./LICENSE"
        ]
    );
}

#[test]
fn a_tarball_may_be_compressed_in_any_usual_way_or_not_at_all() {
    for compression in [
        Compression::Plain,
        Compression::Gzip,
        Compression::Bzip2,
        Compression::Xz,
        Compression::Zstd,
    ] {
        if let Some(tool) = compression.tool()
            && !require_tools(&[tool])
        {
            continue;
        }
        assert_same(&compression.apply(&archive(&demo())));
    }
}

#[test]
fn a_tarball_of_several_gzip_members_is_one_tarball() {
    let whole = archive(&demo());
    let (first, second) = whole.split_at(whole.len() / 2);
    let mut tarball = Compression::Gzip.apply(first);
    tarball.extend(Compression::Gzip.apply(second));
    assert_same(&tarball);
}

#[test]
fn names_may_begin_with_a_dot_and_a_slash() {
    let mut members = vec![Member::directory("./")];
    for mut member in demo() {
        member.name.insert_str(0, "./");
        members.push(member);
    }
    assert_same(&gzip(&members));
}

#[test]
fn names_may_have_doubled_slashes_and_dots_in_the_middle() {
    let mut members = demo();
    for member in &mut members {
        member.name = format!("././{}", member.name.replace('/', "//./"));
    }
    assert_same(&gzip(&members));
}

#[test]
fn directories_need_no_entries() {
    let mut members = demo();
    members.retain(|member| member.kind == Kind::File);
    let outcome = outcome_of(&gzip(&members));
    assert!(
        outcome
            .entries
            .contains(&"./compiled_packages/lib.tgz".to_owned())
    );
    assert_eq!(outcome.without_order(), expected().without_order());
}

#[test]
fn directory_entries_need_no_slash_at_their_end() {
    let mut members = demo();
    for member in &mut members {
        if member.kind == Kind::Directory {
            member.name.pop();
        }
    }
    let outcome = outcome_of(&gzip(&members));
    assert!(outcome.entries.contains(&"./compiled_packages/".to_owned()));
    assert_eq!(outcome.without_order(), expected().without_order());
}

#[test]
fn the_manifest_may_come_last_and_everything_in_any_order() {
    let members = demo();
    let mut reversed = members.clone();
    reversed.reverse();
    assert_same(&gzip(&reversed));
    for turn in 1..members.len() {
        let mut turned = members.clone();
        turned.rotate_left(turn);
        assert_same(&gzip(&turned));
    }
}

#[test]
fn the_entries_keep_the_order_of_their_source() {
    let mut members = demo();
    members.reverse();
    let outcome = outcome_of(&gzip(&members));
    assert_eq!(
        outcome.entries,
        [
            "./LICENSE",
            "./license.tgz",
            "./compiled_packages/",
            "./compiled_packages/lib.tgz",
            "./compiled_packages/app.tgz",
            "./jobs/web.tgz",
            "./jobs/",
            "./release.MF"
        ]
    );
}

#[test]
fn every_format_of_gnu_tar_is_read() {
    for format in ["v7", "oldgnu", "gnu", "ustar", "posix"] {
        assert_same(&packed_by("tar", &[&format!("--format={format}"), "."]));
    }
}

#[test]
fn bsdtar_is_read_in_every_format() {
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
        "--pax-option=comment=what nobody reads,MADE.by=a tool,globexthdr.name=pax_global_header,gid=7",
        ".",
    ];
    assert_same(&packed_by("tar", &arguments));
}

#[test]
fn the_global_header_of_git_archive_is_no_entry() {
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
fn zeros_behind_the_end_of_the_archive_are_no_matter() {
    let mut padded = archive(&demo());
    padded.resize(padded.len() + 50_000, 0);
    assert_same(&padded);
    assert_same(&Compression::Gzip.apply(&padded));
    let mut behind_gzip = gzip(&demo());
    behind_gzip.resize(behind_gzip.len() + 10_240, 0);
    assert_same(&behind_gzip);
}

#[test]
fn an_archive_without_its_end_marker_is_read_as_tar_reads_it() {
    let mut cut = archive(&demo());
    cut.truncate(cut.len() - 1024);
    assert_same(&Compression::Gzip.apply(&cut));
}

#[test]
fn of_several_entries_for_one_path_the_last_counts() {
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
fn a_manifest_that_replaces_another_may_name_other_digests() {
    let release = |digest| ReleaseBuilder::demo().digests(digest);
    for (first, last) in [
        (Digest::Sha256, Digest::Sha1),
        (Digest::Sha1, Digest::Sha512),
    ] {
        // As `tar -r` leaves it: blobs come between the two.
        let mut members = release(first).members();
        members.extend(
            release(last)
                .members()
                .into_iter()
                .filter(|it| it.name == "release.MF"),
        );
        let outcome = outcome_of(&gzip(&members));
        // The digests of what is carried over stay in the manifest.
        assert_eq!(outcome.packages, expected().packages);
    }
}

#[test]
fn what_has_the_name_of_the_manifest_or_of_packages_elsewhere_is_just_a_file() {
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
fn what_is_no_package_in_the_directory_of_packages_is_left_out_and_told() {
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
    // Both blobs have the same bytes, as they have for tools that find equal files.
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
fn a_hard_linked_job_is_carried_over_as_the_file_that_it_is() {
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
fn symbolic_links_of_a_release_are_carried_over() {
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
fn sparse_entries_are_read_whole() {
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
fn a_sparse_entry_of_bsdtar_is_read_whole() {
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

#[test]
fn a_package_may_be_compressed_in_any_usual_way_or_not_at_all() {
    for compression in [
        Compression::Plain,
        Compression::Gzip,
        Compression::Bzip2,
        Compression::Xz,
        Compression::Zstd,
    ] {
        if let Some(tool) = compression.tool()
            && !require_tools(&[tool])
        {
            continue;
        }
        let world = World::new();
        let release = ReleaseBuilder::of_script("cp source.txt $BOSH_INSTALL_TARGET/")
            .file("source.txt", 0o640, b"from the source\n")
            .compressed(compression);
        let result = world.compiled(&release);
        let (_scratch, contents) = unpacked(&result, "app");
        assert_eq!(
            contents["source.txt"], "100640 from the source\n",
            "{compression:?}"
        );
    }
}

#[test]
fn a_package_may_be_packed_without_its_dot_and_with_directories_missing() {
    let blob = gzip(&[
        Member::file("src/deep/file.txt", b"deep\n"),
        Member::file("packaging", b"cp -r src $BOSH_INSTALL_TARGET/"),
    ]);
    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::of_script("").blob(&blob));
    let (_scratch, contents) = unpacked(&result, "app");
    assert_eq!(contents["src/deep/file.txt"], "100600 deep\n");
}

#[test]
fn every_form_of_digest_is_understood() {
    for digest in [Digest::Sha1, Digest::Sha256, Digest::Sha512, Digest::All] {
        let world = World::new();
        let result = world.compiled(&ReleaseBuilder::demo().digests(digest));
        let outcome = Outcome::of(&result);
        assert_eq!(outcome.packages, expected().packages, "{digest:?}");
    }
}

#[test]
fn a_manifest_of_the_old_cli_is_understood() {
    let release = ReleaseBuilder::demo().digests(Digest::Sha1);
    let text = String::from_utf8(release.files()[0].1.clone()).unwrap();
    let digest = text
        .lines()
        .find_map(|line| line.strip_prefix("  sha1: "))
        .unwrap();
    let binary = run_tool_with("base64", &["-w0"], digest.as_bytes());
    let binary = format!("!binary |-\n    {}", String::from_utf8(binary).unwrap());
    let text = text
        .replacen(&format!("sha1: {digest}"), &format!("sha1: {binary}"), 1)
        .replace("uncommitted_changes: false", "uncommitted_changes: no")
        .replace("version: \"1.10\"", "version: 1.10");
    let text = format!("---\n{text}some_other_key: [1, 2]\n");
    let outcome = {
        let world = World::new();
        Outcome::of(&world.compiled(&release.manifest(text.as_bytes())))
    };
    let world = World::new();
    let usual = ReleaseBuilder::demo().digests(Digest::Sha1);
    assert_eq!(outcome, Outcome::of(&world.compiled(&usual)));
}

#[test]
fn a_release_without_packages_goes_through() {
    let world = World::new();
    let result = world.compiled(
        &ReleaseBuilder::new("demo", "1.10")
            .job("web", &[])
            .license(),
    );
    let outcome = Outcome::of(&result);
    assert!(
        !outcome.manifest.contains("packages:\n"),
        "{}",
        outcome.manifest
    );
    assert!(outcome.files.contains_key("jobs/web.tgz"));
    assert!(
        outcome
            .entries
            .iter()
            .all(|name| !name.contains("packages"))
    );

    let world = World::new();
    let result = world.compiled(&ReleaseBuilder::new("bare", "1"));
    assert_eq!(Outcome::of(&result).entries, ["./release.MF"]);
}

#[test]
fn a_tarball_behind_a_link_and_a_relative_one_are_read() {
    let world = World::new();
    world.release("release.tgz", &ReleaseBuilder::demo());
    std::os::unix::fs::symlink("release.tgz", world.path("link.tgz")).unwrap();
    let there = world.path("printed").parent().map(Path::to_owned).unwrap();
    let ran = crate::support::Agent::bare(&world.path("printed"))
        .args(&[
            "compile",
            "--isolation=none",
            "--stemcell",
            crate::support::STEMCELL,
        ])
        .arg("--base-directory")
        .arg(world.base())
        .args(&["--output-directory", "results", "link.tgz"])
        .directory(&there)
        .run()
        .succeeds();
    let last = ran.stderr.lines().last().unwrap();
    assert_eq!(
        last,
        "Finished archiving compiled tarball results/demo-1.10-ubuntu-noble-1.406.tgz"
    );
    let result = there.join("results/demo-1.10-ubuntu-noble-1.406.tgz");
    assert_eq!(Outcome::of(&result), expected());
}

#[test]
fn a_tarball_may_come_through_a_pipe() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let pipe = world.path("pipe.tgz");
    run_tool("mkfifo", &[&pipe]);
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::write(pipe, std::fs::read(tarball).unwrap()).unwrap()
    });
    world.compile(&[&pipe]).succeeds();
    writer.join().unwrap();
    assert_eq!(Outcome::of(&world.result("demo-1.10")), expected());
}
