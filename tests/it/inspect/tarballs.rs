//! Damaged tarballs, and files that are not releases.

use super::*;
use crate::support::Kind;

#[test]
fn truncated_tarball_is_shown_up_to_its_damage() {
    let world = World::new();
    let whole = bytes(&compiled());
    for length in [whole.len() - 1, whole.len() - 9, whole.len() / 2] {
        let tarball = world.write("release.tgz", &whole[..length]);
        let json = inspected(&world, &[], &tarball);
        let found = found(&json);
        assert_eq!(found.len(), 1, "{length}: {found:?}");
        assert_eq!(found[0].1, "unreadable-tarball");
        assert_eq!(json["is_complete"], false);
        assert_eq!(json["sha256"], sha256(&tarball));
    }
    has_problem(&whole[..50], "unreadable-tarball", "ends early");
    let plain = archive(&compiled().members());
    let tarball = world.write("release.tgz", &plain[..plain.len() / 2]);
    let printed = run(&world, &[], &tarball).stdout;
    assert!(printed.contains("not read"), "{printed}");
    assert!(!printed.contains("missing"), "{printed}");
}

#[test]
fn wrong_checksum_is_reported() {
    let mut wrong = bytes(&compiled());
    let at = wrong.len() - 6;
    wrong[at] ^= 0xff;
    has_problem(&wrong, "unreadable-tarball", "gzip data is damaged");
}

#[test]
fn every_truncated_or_changed_tarball_is_inspected() {
    let world = World::new();
    let whole = archive(&compiled().members());
    for part in 0..40 {
        let mut wrong = whole.clone();
        wrong[whole.len() * part / 40] ^= 0x55;
        let tarball = world.write("release.tgz", &wrong);
        inspected(&world, &["--stemcell", STEMCELL], &tarball);
        let tarball = world.write("release.tgz", &whole[..whole.len() * part / 40]);
        inspected(&world, &[], &tarball);
    }
}

#[test]
fn something_else_is_recognized() {
    for (file, code, text) in [
        (&b""[..], "not-a-release", "empty"),
        (
            b"<!DOCTYPE html><html>",
            "not-a-release",
            "it is an HTML page",
        ),
        (b"no archive", "unreadable-tarball", "neither a tar archive"),
        (
            &blob(&[("stemcell.MF", ""), ("image", "")]),
            "manifest-missing",
            "stemcell",
        ),
        (
            &blob(&[("demo/release.MF", "")]),
            "manifest-missing",
            "`demo`",
        ),
    ] {
        has_problem(file, code, text);
    }
}

#[test]
fn entries_that_leave_the_directory_are_reported() {
    for name in ["../x", "/etc/x"] {
        let mut members = compiled().members();
        members.push(Member::file(name, b""));
        has_problem(&packed(&members), "unsafe-path", name);
    }
    let mut members = compiled().members();
    members.push(Member::link(Kind::HardLink, "jobs/x", "jobs/gone"));
    has_problem(
        &packed(&members),
        "dangling-link",
        "is a link to `jobs/gone`",
    );
}

#[test]
fn sparse_files_are_limited() {
    let world = World::new();
    let script = "cd \"$1\" && mkdir jobs && truncate -s 17G jobs/x.tgz && tar -cSf sparse.tar jobs && rm -r jobs";
    let directory = world.path("printed");
    run_tool("mkdir", &["-p".as_ref(), directory.as_os_str()]);
    let arguments = [
        "-c".as_ref(),
        script.as_ref(),
        "bash".as_ref(),
        directory.as_os_str(),
    ];
    run_tool("bash", &arguments);
    let tarball = directory.join("sparse.tar");
    let found = found(&inspected(&world, &[], &tarball));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].1, "too-large");
    assert!(
        found[0]
            .2
            .contains("`jobs/x.tgz` are too large: more than 16.0 GiB"),
        "{found:?}"
    );
}

#[test]
fn hard_links_between_blobs_are_followed() {
    let release = ReleaseBuilder::new("demo", "1")
        .compiled("a", &[], STEMCELL, ("f", b"same\n"))
        .compiled("b", &[], STEMCELL, ("f", b"same\n"));
    let mut members = release.members();
    let last = members
        .iter_mut()
        .find(|it| it.name == "compiled_packages/b.tgz");
    *last.unwrap() = Member::link(
        Kind::HardLink,
        "compiled_packages/b.tgz",
        "compiled_packages/a.tgz",
    );
    let world = World::new();
    let tarball = world.write("release.tgz", packed(&members));
    let json = inspected(&world, &[], &tarball);
    assert_eq!(found(&json), []);
    assert_eq!(json["packages"][1]["is_verified"], true);
}

#[test]
fn odd_entries_are_notes() {
    let with = |path| bytes(&compiled().other(path, b"x"));
    has_note(&with("compiled_packages/._app.tgz"), "clutter", "._app.tgz");
    has_note(
        &with("compiled_packages/README"),
        "stray-file",
        "compiled_packages/README",
    );
    has_note(&with("jobs/old.tgz"), "unlisted-job", "`jobs/old.tgz`");
    has_note(
        &with("LICENSE"),
        "duplicate-entry",
        "the same path: LICENSE",
    );
}

#[test]
fn compression_that_some_programs_do_not_expect_is_a_note() {
    let plain = archive(&compiled().members());
    let xz = Compression::Xz.apply(&plain);
    has_note(&xz, "outer-compression", "compressed with xz");
    has_note(&plain, "no-compression-differs", "`no_compression: false`");
    let flagged = bytes(&compiled().no_compression());
    has_note(&flagged, "no-compression-differs", "is compressed");
}

#[test]
fn names_cannot_control_a_terminal() {
    let world = World::new();
    let release = compiled().other("compiled_packages/\u{1b}[2J\u{9b}\n", b"x");
    let tarball = world.write("release.tgz", bytes(&release));
    for arguments in [&[][..], &["--json"]] {
        let printed = run(&world, arguments, &tarball).stdout;
        let controls = printed.chars().filter(|it| it.is_control() && *it != '\n');
        assert_eq!(controls.count(), 0, "{printed:?}");
    }
}

#[test]
fn large_package_needs_little_memory() {
    let world = World::new();
    // 256 MiB of zeros, compressed twice.
    let mut file = Member::file("zeros", b"");
    file.content = vec![0; 256 << 20];
    let release = ReleaseBuilder::new("demo", "1")
        .compiled("zeros", &[], STEMCELL, ("f", b""))
        .blob(&packed(&[file]));
    let tarball = world.release("release.tgz", &release);
    let limited = ["bash", "-c", "ulimit -v 131072; exec \"$@\"", "bash"];
    let agent = Agent::wrapped(&world.path("printed"), &limited).arg("inspect");
    let ran = agent.arg(&tarball).run();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("sha256 verified"), "{}", ran.stdout);
}
