//! The other entries of a result, and the lines on stderr.

use super::*;

#[test]
fn jobs_license_and_other_files_are_copied_unchanged() {
    let world = World::new();
    let big: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let release = ReleaseBuilder::demo()
        .other("NOTICE.md", b"notice\n")
        .other("docs/deep/big.bin", &big)
        .other("empty", b"");
    let result = world.compiled(&release);
    let unpacked = world.path("unpacked");
    crate::support::extract(&result, &unpacked);
    for (path, content) in release.files() {
        if path != "release.MF" && !path.starts_with("packages/") {
            let found = std::fs::read(unpacked.join(&path)).unwrap();
            assert!(found == content, "{path} has changed");
        }
    }
    assert!(!unpacked.join("packages").exists());
}

#[test]
fn long_path_of_a_member_is_copied() {
    let world = World::new();
    let tree = world.path("tree");
    let path = format!("docs/{}/{}.txt", "d".repeat(180), "f".repeat(200));
    ReleaseBuilder::demo()
        .other(&path, b"far away")
        .write_tree(&tree);
    let tarball = world.path("release.tgz");
    let mut arguments = vec!["-czf".as_ref(), tarball.as_os_str(), "-C".as_ref()];
    arguments.extend([tree.as_os_str(), ".".as_ref()]);
    run_tool("tar", &arguments);
    world.compile(&[&tarball]).succeeds();
    let unpacked = world.path("unpacked");
    crate::support::extract(&world.result("demo-1.10"), &unpacked);
    assert_eq!(std::fs::read(unpacked.join(path)).unwrap(), b"far away");
}

#[test]
fn milestone_lines_are_printed_on_stderr() {
    let world = World::new();
    let tarball = world.release("release.tgz", &ReleaseBuilder::demo());
    let ran = world.compile(&[&tarball]).succeeds();
    let version = format!("{}13", "5a".repeat(19));
    let before = [
        "Compiling with stemcell ubuntu-noble/1.406",
        "Reading BOSH Release Manifest from tarball ",
        "Release demo/1.10 has 2 packages",
        "Starting packages compilation",
    ];
    let after = [
        "Finished packages compilation after ",
        "Archiving compiled BOSH Release demo/1.10 with stemcell ubuntu-noble/1.406",
        "Finished archiving compiled tarball ",
    ];
    for package in ["lib", "app"] {
        // `lib` is packed while `app` is compiled.
        let own = [
            &format!("Compiling package {package}/{version}"),
            &format!("Finished compiling release {package}/{version} BlobstoreID="),
        ];
        let own = own.map(String::as_str);
        let mut lines = ran.stderr.lines();
        for beginning in before.into_iter().chain(own).chain(after) {
            assert!(
                lines.any(|line| line.starts_with(beginning)),
                "`{beginning}` is missing or out of order:\n{}",
                ran.stderr
            );
        }
        assert_eq!(lines.next(), None, "the result is named in the last line");
    }
}

#[test]
fn link_in_place_of_a_member_is_not_followed() {
    // Only tar could follow it: the agent reads the source and writes the result entry by entry.
    let mut members = ReleaseBuilder::demo().members();
    members.insert(0, Member::link(Kind::Symlink, "docs", "/etc"));
    members.push(Member::file("docs/passwd", b"not yours"));
    let world = World::new();
    let tarball = world.write("release.tgz", archive(&members));
    let before = std::fs::read("/etc/passwd").unwrap();
    let ran = world.compile(&[&tarball]);
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    assert!(std::fs::read("/etc/passwd").unwrap() == before);
}
