//! Every form that a release tarball comes in compiles to the same result.

mod formats;
mod packages;

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
