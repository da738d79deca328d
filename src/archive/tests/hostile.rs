//! Hostile archives: none changes anything outside the destination.

mod numbers;

use proptest::prelude::*;

use super::raw::Raw;
use super::support::{chain, describe, directory, temporary};
use crate::archive::unpack;
use crate::fs;

fn long(name: &[u8]) -> Raw {
    Raw::default()
        .entry(b'L', b"././@LongLink", b"", name, |_| {})
        .file("short", b"x")
}

/// A description, the archive, and a part of the error; `None` if it is unpacked without an error.
type Case = (&'static str, Raw, Option<&'static str>);

fn names_and_links() -> Vec<Case> {
    vec![
        (
            "dots at the beginning",
            Raw::default().file("../outside/new", b"x"),
            Some("contains `..`"),
        ),
        (
            "dots in the middle",
            Raw::default()
                .directory("a")
                .file("a/../../outside/new", b"x"),
            Some("contains `..`"),
        ),
        (
            "dots in a directory",
            Raw::default().directory("../outside/new"),
            Some("contains `..`"),
        ),
        (
            "dots that stay inside",
            Raw::default().directory("a").file("a/../b", b"x"),
            Some("contains `..`"),
        ),
        (
            "an absolute name",
            Raw::default().file("/tmp/bosh-agent-hostile", b"x"),
            Some("is an absolute path"),
        ),
        (
            "an absolute name of PAX",
            Raw::default()
                .pax(&[("path", b"/tmp/bosh-agent-hostile")])
                .file("a", b"x"),
            Some("is an absolute path"),
        ),
        (
            "dots in a name of PAX",
            Raw::default()
                .pax(&[("path", b"../outside/new")])
                .file("a", b"x"),
            Some("contains `..`"),
        ),
        (
            "dots in a long name",
            long(b"../outside/new\0"),
            Some("contains `..`"),
        ),
        (
            "dots in the name of a sparse file",
            Raw::default()
                .pax(&[("GNU.sparse.name", b"../outside/new")])
                .file("a", b"x"),
            Some("contains `..`"),
        ),
        (
            "an empty name",
            Raw::default().file("", b"x"),
            Some("the name is empty"),
        ),
        (
            "a NUL in a name of PAX",
            Raw::default().pax(&[("path", b"a\0b")]).file("a", b"x"),
            Some("contains a NUL byte"),
        ),
        (
            "a NUL in a long name",
            long(b"a\0b\0"),
            Some("contains a NUL byte"),
        ),
        (
            "the root as a file",
            Raw::default().file("./", b"").file(".", b"x"),
            Some("the archive's root is not a directory"),
        ),
        (
            "a file through a link to a directory",
            Raw::default()
                .symlink("l", "../outside")
                .file("l/new", b"x"),
            Some("`l/new` would be unpacked through the symbolic link `l`"),
        ),
        (
            "a file through a link inside",
            Raw::default()
                .directory("d")
                .symlink("l", "d")
                .file("l/new", b"x"),
            None,
        ),
        (
            "a directory through a link",
            Raw::default().symlink("l", "../outside").directory("l/new"),
            Some("through the symbolic link `l`"),
        ),
        (
            "a link through a link",
            Raw::default()
                .symlink("l", "../outside")
                .symlink("l/new", "x"),
            Some("through the symbolic link `l`"),
        ),
        (
            "a pipe through a link",
            Raw::default()
                .symlink("l", "../outside")
                .entry(b'6', b"l/new", b"", b"", |_| {}),
            Some("through the symbolic link `l`"),
        ),
        (
            "missing parents through a link",
            Raw::default()
                .symlink("l", "../outside")
                .file("l/a/b/c", b"x"),
            Some("through the symbolic link `l`"),
        ),
        (
            "a chain of links",
            Raw::default()
                .symlink("a", "b")
                .symlink("b", "../outside")
                .file("a/new", b"x"),
            Some("through the symbolic link `a`"),
        ),
        (
            "a link that loops",
            Raw::default().symlink("a", "a").file("a/new", b"x"),
            Some("through the symbolic link `a`, which leads in a circle"),
        ),
        (
            "links that lead to each other",
            Raw::default()
                .symlink("a", "b/c")
                .symlink("b", "a")
                .file("a/new", b"x"),
            Some("through the symbolic link `a`, which leads in a circle"),
        ),
        (
            "a link that leads in and then out",
            Raw::default()
                .directory("d")
                .symlink("l", "d/../../outside")
                .file("l/new", b"x"),
            Some("through the symbolic link `l`, which leads out of the archive"),
        ),
        (
            "a link that leads out and then in",
            Raw::default()
                .directory("d")
                .symlink("l", "../inside/d")
                .file("l/new", b"x"),
            Some("through the symbolic link `l`, which leads out of the archive"),
        ),
        (
            "a link to the parent of the root",
            Raw::default().symlink("l", "..").file("l/new", b"x"),
            Some("which leads out of the archive"),
        ),
        (
            "a link outwards after a link inside",
            Raw::default()
                .directory("d")
                .symlink("d/o", "../../outside")
                .symlink("l", "d")
                .file("l/o/new", b"x"),
            Some("which leads out of the archive"),
        ),
        (
            "an absolute link",
            Raw::default()
                .symlink("l", "/tmp")
                .file("l/bosh-agent-hostile", b"x"),
            Some("which leads out of the archive"),
        ),
        (
            "a link inside that is replaced by a link outwards",
            Raw::default()
                .directory("d")
                .symlink("l", "d")
                .file("l/new", b"x")
                .symlink("l", "../outside")
                .file("l/new", b"x"),
            Some("which leads out of the archive"),
        ),
        (
            "a link to a directory that becomes a link out",
            Raw::default()
                .directory("d")
                .symlink("l", "d")
                .directory("l/e")
                .symlink("l/e", "../../outside")
                .file("d/e/new", b"x"),
            Some("which leads out of the archive"),
        ),
        (
            "a dangling link",
            Raw::default().symlink("l", "d").file("l/new", b"x"),
            Some("`l/new` would be unpacked through the symbolic link `l`, which leads to nothing"),
        ),
        (
            "a link to a file",
            Raw::default()
                .file("f", b"x")
                .symlink("l", "f")
                .file("l/new", b"x"),
            Some("which leads to something that is not a directory"),
        ),
        (
            "a hard link through a link inside to a link outwards",
            Raw::default()
                .directory("d")
                .symlink("d/o", "../../outside")
                .symlink("l", "d")
                .hard_link("h", "l/o/secret"),
            Some("which leads out of the archive"),
        ),
        (
            "a link in place of a directory just used",
            Raw::default()
                .directory("d")
                .directory("d/e")
                .file("d/e/x", b"")
                .directory("d/f")
                .symlink("d/f", "../../outside")
                .file("d/f/new", b"x"),
            Some("through the symbolic link `d/f`"),
        ),
        (
            "a link in place of an empty parent",
            Raw::default()
                .file("d/e/x", b"x")
                .directory("e")
                .directory("e/f")
                .entry(b'2', b"e/f", b"../../outside", b"", |_| {})
                .file("e/f/secret", b"x"),
            Some("through the symbolic link `e/f`"),
        ),
        (
            "a file over a link outwards",
            Raw::default()
                .symlink("l", "../outside/secret")
                .file("l", b"x"),
            None,
        ),
        (
            "a sparse file over a link outwards",
            Raw::default()
                .symlink("sparse", "../outside/secret")
                .data(&numbers::sparse(&[(0, 5)], 5, b"hello").unfinished()),
            None,
        ),
        (
            "a directory over a link outwards",
            Raw::default()
                .symlink("l", "../outside")
                .entry(b'5', b"l", b"", b"", |header| header.set_mode(0))
                .file("l/new", b"x"),
            None,
        ),
        (
            "a pipe over a link outwards",
            Raw::default().symlink("l", "../outside/secret").entry(
                b'6',
                b"l",
                b"",
                b"",
                |header| header.set_mode(0o777),
            ),
            None,
        ),
        (
            "a hard link outwards",
            Raw::default().hard_link("h", "../outside/secret"),
            Some("the hard link `h` points out of the archive"),
        ),
        (
            "an absolute hard link",
            Raw::default().hard_link("h", "/etc/passwd"),
            Some("the hard link `h` points out of the archive"),
        ),
        (
            "a hard link through a link",
            Raw::default()
                .symlink("l", "../outside")
                .hard_link("h", "l/secret"),
            Some("`h` would be unpacked through the symbolic link `l`"),
        ),
        (
            "a hard link to a link, then written",
            Raw::default()
                .symlink("l", "../outside/secret")
                .hard_link("h", "l")
                .file("h", b"x"),
            None,
        ),
        (
            "a hard link to a missing file",
            Raw::default().hard_link("h", "nothing"),
            Some("the hard link `h` points to `nothing`, which does not exist"),
        ),
        (
            "a hard link to a file in a missing directory",
            Raw::default().hard_link("h", "no/thing"),
            Some("points to `no/thing`, which does not exist"),
        ),
        (
            "a hard link to a directory",
            Raw::default().directory("d").hard_link("h", "d"),
            Some("failed to create the hard link"),
        ),
        (
            "a hard link to the root",
            Raw::default().hard_link("h", "./"),
            Some("failed to create the hard link"),
        ),
        (
            "a file below a file",
            Raw::default().file("f", b"x").file("f/g", b"x"),
            Some("`f/g` would be unpacked below `f`, which is not a directory"),
        ),
        (
            "a file over a full directory",
            Raw::default().file("d/f", b"x").file("d", b"x"),
            Some("`d` is a directory that is not empty"),
        ),
        (
            "a link over a full directory",
            Raw::default().file("d/f", b"x").symlink("d", "../outside"),
            Some("`d` is a directory that is not empty"),
        ),
        (
            "a link without a target",
            Raw::default().symlink("l", ""),
            Some("the symbolic link `l` has no target"),
        ),
        (
            "a very long name",
            long(&vec![b'n'; 5000]),
            Some("failed to create"),
        ),
        (
            "a name longer than the limit",
            long(&vec![b'n'; 2 << 20]),
            Some("announces 2097152 bytes of names"),
        ),
        (
            "an extended header longer than the limit",
            Raw::default().entry(b'x', b"x", b"", b"", |header| header.set_size(1 << 40)),
            Some("announces 1099511627776 bytes of names"),
        ),
    ]
}

#[test]
fn hostile_archives_change_nothing_outside() {
    for (what, archive, expected) in names_and_links().into_iter().chain(numbers::archives()) {
        let temp = temporary();
        let outside = directory(temp.path(), "outside");
        fs::write(&outside.join("secret"), b"secret").unwrap();
        fs::set_mode(&outside.join("secret"), 0o600).unwrap();
        let inside = directory(temp.path(), "inside");
        let before = describe(&outside);

        let result = unpack(&archive.finish()[..], &inside);
        match (&result, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => {
                let text = chain(error);
                assert!(text.contains(expected), "{what}: {text}");
            }
            _ => panic!("{what}: {result:?}"),
        }
        // The time of the directory would show that a file was created and removed.
        assert_eq!(describe(&outside), before, "{what}");
        let names: Vec<_> = fs::list(temp.path())
            .unwrap()
            .iter()
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(names, ["inside", "outside"], "{what}");
    }
    assert!(
        fs::lookup("/tmp/bosh-agent-hostile".as_ref())
            .unwrap()
            .is_none()
    );
}

#[test]
fn existing_link_is_not_followed() {
    let temp = temporary();
    let outside = directory(temp.path(), "outside");
    let inside = directory(temp.path(), "inside");
    fs::symlink(&outside, &inside.join("l")).unwrap();
    let archive = Raw::default().file("l/new", b"x").finish();
    let error = unpack(&archive[..], &inside).unwrap_err();
    assert!(chain(&error).contains("through the symbolic link `l`"));
    assert!(fs::list(&outside).unwrap().is_empty());
}

/// A path of few different names, so that entries have the same paths.
fn any_path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..4)
        .prop_map(|parts| parts.join("/"))
}

/// The target of a link: inside, outside, or another link of the archive.
fn any_target() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => Just("a"),
        4 => Just("b"),
        4 => Just("c"),
        5 => Just(".."),
        1 => Just("."),
        1 => Just("outside"),
        1 => Just("inside"),
        1 => Just("secret"),
    ];
    let relative = proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"));
    prop_oneof![9 => relative.clone(), 1 => relative.prop_map(|path| format!("/{path}"))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn archives_with_many_links_change_nothing_outside(
        entries in proptest::collection::vec((0..8, any_path(), any_target()), 1..30)
    ) {
        let temp = temporary();
        let outside = directory(temp.path(), "outside");
        fs::write(&outside.join("secret"), b"secret").unwrap();
        directory(&outside, "a");
        fs::set_mode(&outside.join("a"), 0o700).unwrap();
        let before = describe(&outside);
        // Each entry is in a separate archive, so that a refused one does not affect the others.
        let inside = directory(temp.path(), "inside");
        for (kind, name, target) in &entries {
            let archive = match kind {
                0 | 1 => Raw::default().directory(name),
                2 => Raw::default().file(name, b"x"),
                3 => Raw::default().hard_link(name, target),
                4 => Raw::default().entry(b'6', name.as_bytes(), b"", b"", |header| header.set_mode(0o777)),
                _ => Raw::default().symlink(name, target),
            };
            let _ = unpack(&archive.finish()[..], &inside);
        }
        prop_assert_eq!(&describe(&outside), &before);
        let names: Vec<_> = fs::list(temp.path()).unwrap().iter().map(|entry| entry.file_name()).collect();
        prop_assert_eq!(names, ["inside", "outside"]);
        // All entries are in one archive.
        let again = directory(&inside, "again");
        let mut archive = Raw::default();
        for (kind, name, target) in &entries {
            archive = match kind {
                0 | 1 => archive.directory(name),
                2..=4 => archive.file(name, b"x"),
                _ => archive.symlink(name, target),
            };
        }
        let _ = unpack(&archive.finish()[..], &again);
        prop_assert_eq!(describe(&outside), before);
    }
}
