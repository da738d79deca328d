//! All layouts of a release tarball give the same result.

mod formats;
mod packages;

use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::{
    Compression, Digest, Kind, Member, Outcome, ReleaseBuilder, World, archive, list,
    require_tools, run_tool, run_tool_with, unpacked,
};

/// The result of the CLI's own layout.
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
fn layout_of_the_cli_gives_the_expected_packages() {
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
fn tarball_may_have_any_common_compression_or_none() {
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
fn tarball_may_have_several_gzip_members() {
    let whole = archive(&demo());
    let (first, second) = whole.split_at(whole.len() / 2);
    let mut tarball = Compression::Gzip.apply(first);
    tarball.extend(Compression::Gzip.apply(second));
    assert_same(&tarball);
}

#[test]
fn names_may_start_with_dot_slash() {
    let mut members = vec![Member::directory("./")];
    for mut member in demo() {
        member.name.insert_str(0, "./");
        members.push(member);
    }
    assert_same(&gzip(&members));
}

#[test]
fn names_may_contain_doubled_slashes_and_dots() {
    let mut members = demo();
    for member in &mut members {
        member.name = format!("././{}", member.name.replace('/', "//./"));
    }
    assert_same(&gzip(&members));
}

#[test]
fn directory_entries_may_be_missing() {
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
fn directory_entries_may_lack_the_trailing_slash() {
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
fn entries_may_have_any_order() {
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
fn entries_keep_the_order_of_their_source() {
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
