//! Archives of other programs, unpacked with the same result as with GNU tar.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use proptest::prelude::*;

use super::raw::Raw;
use super::support::{available, chain, describe, directory, noise, sh, temporary};
use super::trees::{any_tree, make, set_time, simple};
use crate::archive::{Compression, unpack, unpack_file};
use crate::fs;

/// Unpacks an archive with GNU tar and with this module, and compares the trees.
fn same_as_gnu_tar(archive: &[u8], parent: &Path, what: &str) {
    let file = parent.join("archive.tar");
    fs::write(&file, archive).unwrap();
    let ours = directory(parent, &format!("ours-{what}"));
    let theirs = directory(parent, &format!("theirs-{what}"));
    // Without the option, GNU tar does not restore the time of a directory that it writes to through a link.
    sh(
        "tar --no-same-owner --delay-directory-restore -xpf \"$1\" -C \"$2\"",
        &[&file, &theirs],
    );
    let (_, compression) =
        unpack_file(&file, &ours).unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
    assert_eq!(compression, Compression::None);
    // Without an entry for the tree itself, its time is that of the unpacking.
    let names = sh("tar -tf \"$1\"", &[&file]);
    let has_tree = |name: &[u8]| matches!(name, b"." | b"./");
    if !names.split(|byte| *byte == b'\n').any(has_tree) {
        for tree in [&ours, &theirs] {
            set_time(tree, 0);
        }
    }
    assert_eq!(describe(&ours), describe(&theirs), "{what}");
}

#[test]
fn all_formats_are_unpacked_as_by_gnu_tar() {
    let temp = temporary();
    let source = directory(temp.path(), "source");
    simple(&source);
    for format in ["gnu", "oldgnu", "pax", "ustar", "v7"] {
        let archive = sh(
            &format!("tar --format={format} -cf - -C \"$1\" ."),
            &[&source],
        );
        same_as_gnu_tar(&archive, temp.path(), format);
    }
    if available("bsdtar") {
        for format in ["pax", "gnutar", "ustar"] {
            let archive = sh(
                &format!("bsdtar --format={format} -cf - -C \"$1\" ."),
                &[&source],
            );
            // Not compared with GNU tar, which does not restore the times of directories in bsdtar's order.
            let ours = directory(temp.path(), &format!("bsdtar-{format}"));
            unpack(&archive[..], &ours).unwrap();
            assert_eq!(describe(&ours), describe(&source), "{format}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_in_pax_format_is_unpacked_unchanged(tree in any_tree()) {
        let temp = temporary();
        let source = directory(temp.path(), "source");
        make(&source, &tree);
        let archive = sh("tar --format=pax -cf - -C \"$1\" .", &[&source]);
        let ours = directory(temp.path(), "ours");
        unpack(&archive[..], &ours).unwrap();
        prop_assert_eq!(describe(&ours), describe(&source));
    }

    #[test]
    fn damaged_archives_cause_no_panic(seed in proptest::collection::vec((0..4096_usize, any::<u8>()), 0..8)) {
        let mut archive = Raw::default()
            .directory("d/")
            .pax(&[("path", b"d/x"), ("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9000")])
            .file("d/y", &[&b"1\n0\n5\n"[..], &[0; 506], b"hello"].concat())
            .symlink("l", "d")
            .finish();
        for (position, byte) in seed {
            let position = position % archive.len();
            archive[position] = byte;
        }
        let temp = temporary();
        let inside = directory(temp.path(), "inside");
        let _ = unpack(&archive[..], &inside);
        prop_assert_eq!(fs::list(temp.path()).unwrap().len(), 1);
    }
}

#[test]
fn times_before_1970_are_rounded_down() {
    let temp = temporary();
    let source = directory(temp.path(), "source");
    fs::write(&source.join("old"), b"x").unwrap();
    sh("touch -d @-1000.5 \"$1/old\"", &[&source]);
    for format in ["gnu", "pax"] {
        let archive = sh(
            &format!("tar --format={format} -cf - -C \"$1\" ."),
            &[&source],
        );
        let ours = directory(temp.path(), format);
        unpack(&archive[..], &ours).unwrap();
        let mtime = fs::metadata(&ours.join("old")).unwrap().mtime();
        assert_eq!(mtime, -1001, "{format}");
    }
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let temp = temporary();
    // With the usual umask 022, a missing parent has 0755 in any case; the mode 02777 shows whether the umask has an effect.
    let archive = Raw::default()
        .entry(b'0', b"a/b/file", b"", b"x", |header| {
            header.set_mode(0o6777)
        })
        .entry(b'6', b"pipe", b"", b"", |header| header.set_mode(0o666))
        .entry(b'5', b"dir", b"", b"", |header| header.set_mode(0o3777))
        .finish();
    unpack(&archive[..], temp.path()).unwrap();
    for (path, mode) in [
        ("a", 0o755),
        ("a/b", 0o755),
        ("a/b/file", 0o6777),
        ("pipe", 0o666),
        ("dir", 0o3777),
    ] {
        let found = fs::metadata(&temp.path().join(path))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(found & 0o7777, mode, "{path}");
    }
}

#[test]
fn root_entry_sets_the_mode_of_the_destination() {
    let temp = temporary();
    let archive = Raw::default()
        .entry(b'5', b"./", b"", b"", |header| header.set_mode(0o700))
        .file("./f", b"x")
        .finish();
    unpack(&archive[..], temp.path()).unwrap();
    let found = fs::metadata(temp.path()).unwrap();
    assert_eq!(
        (found.mode() & 0o7777, found.mtime()),
        (0o700, 1_000_000_000)
    );
}

#[test]
fn later_entry_replaces_an_earlier_one() {
    let temp = temporary();
    let outside = temp.path().join("outside");
    fs::write(&outside, b"untouched").unwrap();
    let archive = Raw::default()
        .file("file", b"old")
        .file("file", b"new")
        .hard_link("same", "file")
        .file("file", b"newest")
        .symlink("link", outside.to_str().unwrap())
        .file("link", b"no link")
        .file("dir-later", b"")
        .directory("dir-later/")
        .file("dir-later/x", b"x")
        .directory("empty/")
        .file("empty", b"a file")
        .symlink("link-later", "a")
        .directory("link-later")
        .finish();
    let inside = directory(temp.path(), "inside");
    unpack(&archive[..], &inside).unwrap();
    let read = |name: &str| fs::read(&inside.join(name)).unwrap();
    assert_eq!(read("file"), b"newest");
    assert_eq!(read("same"), b"new");
    assert_eq!(read("link"), b"no link");
    assert_eq!(read("dir-later/x"), b"x");
    assert_eq!(read("empty"), b"a file");
    assert!(
        fs::lookup(&inside.join("link-later"))
            .unwrap()
            .unwrap()
            .is_dir()
    );
    assert_eq!(fs::read(&outside).unwrap(), b"untouched");
}

#[test]
fn entries_are_replaced_as_by_gnu_tar() {
    let temp = temporary();
    // All links stay inside, because GNU tar creates links outwards last, over later entries.
    let archive = Raw::default()
        .file("file", b"old")
        .hard_link("same", "file")
        .file("file", b"new")
        .symlink("link", "file")
        .file("link", b"no link")
        .symlink("to-directory", "d")
        .directory("to-directory")
        .file("to-directory/x", b"x")
        .directory("empty/")
        .symlink("empty", "file")
        .entry(b'6', b"file", b"", b"", |_| {})
        .finish();
    same_as_gnu_tar(&archive, temp.path(), "replaced");
}

#[test]
fn mode_of_a_directory_is_set_after_its_entries() {
    let temp = temporary();
    let locked = |archive: Raw, name: &[u8]| {
        archive.entry(b'5', name, b"", b"", |header| header.set_mode(0o400))
    };
    let archive = locked(locked(Raw::default(), b"./"), b"./a");
    let archive = locked(archive, b"./a/b").file("./a/b/file", b"x").finish();
    let inside = directory(temp.path(), "inside");
    unpack(&archive[..], &inside).unwrap();
    for path in ["", "a", "a/b"] {
        let path = inside.join(path);
        let found = fs::metadata(&path).unwrap();
        assert_eq!(
            (found.mode() & 0o7777, found.mtime()),
            (0o400, 1_000_000_000)
        );
        fs::set_mode(&path, 0o700).unwrap();
    }
}

#[test]
fn existing_directories_are_merged() {
    let temp = temporary();
    let kept = directory(temp.path(), "dir");
    fs::write(&kept.join("kept"), b"kept").unwrap();
    fs::set_mode(&kept, 0o700).unwrap();
    let archive = Raw::default()
        .directory("dir")
        .file("dir/new", b"new")
        .finish();
    unpack(&archive[..], temp.path()).unwrap();
    assert_eq!(fs::read(&kept.join("kept")).unwrap(), b"kept");
    assert_eq!(fs::read(&kept.join("new")).unwrap(), b"new");
    assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn hard_link_to_itself_is_ignored() {
    let temp = temporary();
    let archive = Raw::default()
        .file("a", b"x")
        .hard_link("a", "./a")
        .hard_link("b", "a")
        .hard_link("b", "a")
        .finish();
    unpack(&archive[..], temp.path()).unwrap();
    assert_eq!(fs::metadata(&temp.path().join("a")).unwrap().nlink(), 2);
}

#[test]
fn hard_link_with_a_size_has_no_content() {
    let temp = temporary();
    let archive = Raw::default()
        .file("a", b"x")
        .entry(b'1', b"b", b"a", b"", |header| header.set_size(700))
        .file("c", b"y")
        .finish();
    same_as_gnu_tar(&archive, temp.path(), "sized-link");
}

#[test]
fn pax_names_take_precedence_over_gnu_names() {
    let temp = temporary();
    let archive = Raw::default()
        .entry(b'L', b"././@LongLink", b"", b"gnu-name\0", |_| {})
        .pax(&[
            ("path", b"pax\nname\xff"),
            ("mtime", b"12.9"),
            ("comment", b"x\n5 y=z"),
        ])
        .file("short", b"x")
        .entry(b'K', b"././@LongLink", b"", b"gnu-target\0", |_| {})
        .symlink("link", "short-target")
        .finish();
    same_as_gnu_tar(&archive, temp.path(), "names");
}

#[test]
fn global_headers_and_volume_labels_are_skipped() {
    let temp = temporary();
    let archive = Raw::default()
        .entry(
            b'g',
            b"pax_global_header",
            b"",
            b"52 comment=0123456789012345678901234567890123456789\n",
            |_| {},
        )
        .entry(b'V', b"label", b"", b"", |_| {})
        .file("a", b"x")
        .finish();
    let unpacked = unpack(&archive[..], temp.path()).unwrap();
    assert_eq!(unpacked.entries, 1);
    assert_eq!(fs::list(temp.path()).unwrap().len(), 1);
}

#[test]
fn devices_are_skipped_and_reported() {
    let temp = temporary();
    let mut archive = Raw::default();
    for index in 0..30 {
        let kind = if index % 2 == 0 { b'3' } else { b'4' };
        archive = archive.entry(kind, format!("d/{index}").as_bytes(), b"", b"", |_| {});
    }
    let unpacked = unpack(&archive.finish()[..], temp.path()).unwrap();
    assert_eq!((unpacked.entries, unpacked.skipped.count), (0, 30));
    assert_eq!(unpacked.skipped.first.len(), 20);
    assert_eq!(unpacked.skipped.first[1], Path::new("d/1"));
    assert!(fs::list(temp.path()).unwrap().is_empty());
}

#[test]
fn archive_may_lack_its_end_or_entries() {
    let temp = temporary();
    let archive = Raw::default().file("a", b"x").unfinished();
    assert_eq!(unpack(&archive[..], temp.path()).unwrap().entries, 1);
    let empty = Raw::default().finish();
    let file = temp.path().join("empty.tar");
    fs::write(&file, &empty).unwrap();
    assert_eq!(unpack_file(&file, temp.path()).unwrap().0.entries, 0);
}

#[test]
fn full_disk_is_reported() {
    let temp = temporary();
    if !fs::require_root() || !available("mount") {
        return;
    }
    let mounted = sh(
        "mount -t tmpfs -o size=64k none \"$1\" 2>/dev/null && echo yes || true",
        &[temp.path()],
    );
    if !fs::require(!mounted.is_empty(), "the right to mount") {
        return;
    }
    let archive = Raw::default().file("big", &noise(200_000)).finish();
    let error = unpack(&archive[..], temp.path()).unwrap_err();
    sh("umount \"$1\"", &[temp.path()]);
    let crate::archive::UnpackError::File(error) = error else {
        panic!("{error}");
    };
    assert!(error.is_no_space());
    assert!(error.path.ends_with("big"));
}

#[test]
fn truncated_archive_is_reported_with_the_entry() {
    let temp = temporary();
    let archive = Raw::default()
        .file("a", b"x")
        .file("b", &noise(2000))
        .finish();
    for (length, expected) in [
        (0, "the data is not a tar archive"),
        (511, "the data is not a tar archive"),
        (512, "the archive ends early, in the middle of `a`"),
        (1023, "the archive ends early, in the middle of `a`"),
        (1025, "the archive ends early, in a header at byte 1024"),
        (1536, "the archive ends early, in the middle of `b`"),
        (3000, "the archive ends early, in the middle of `b`"),
    ] {
        let error = unpack(&archive[..length], temp.path()).unwrap_err();
        assert_eq!(chain(&error), expected, "{length}");
    }
    set_time(temp.path(), 0);
}

#[test]
fn entries_below_links_are_unpacked_as_by_gnu_tar() {
    let base = || {
        Raw::default()
            .directory("./")
            .directory("d")
            .directory("d/e")
            .symlink("l", "d")
    };
    let cases = [
        ("a file", base().file("l/new", b"x")),
        ("a file further down", base().file("l/e/new", b"x")),
        ("a link", base().symlink("l/new", "e")),
        ("a pipe", base().entry(b'6', b"l/new", b"", b"", |_| {})),
        (
            "a chain of links",
            base()
                .symlink("m", "./l/")
                .symlink("n", "m")
                .file("n/e/new", b"x"),
        ),
        (
            "a link to the same directory",
            base().symlink("d/o", ".").file("l/o/o/new", b"x"),
        ),
        (
            "a hard link",
            base().file("d/f", b"x").hard_link("l/h", "l/f"),
        ),
        (
            "a link that comes before its directory",
            Raw::default()
                .symlink("l", "d")
                .directory("d")
                .file("l/new", b"x"),
        ),
        (
            "a directory in place of the link",
            base().directory("l").file("l/new", b"x"),
        ),
        (
            "an unknown type",
            base().entry(b'Z', b"l/new", b"", b"content", |_| {}),
        ),
        (
            "a long file over a short one",
            base().file("d/f", b"x").file("l/f", b"longer"),
        ),
    ];
    for (what, archive) in cases {
        let temp = temporary();
        same_as_gnu_tar(&archive.finish(), temp.path(), what);
    }
}

#[test]
fn directories_below_links_have_their_mode_and_time() {
    let archive = Raw::default()
        .directory("z")
        .symlink("a", "z")
        .entry(b'5', b"a/sub", b"", b"", |header| {
            header.set_mode(0o500);
            header.set_mtime(1_111_111_111);
        })
        .file("a/sub/f", b"x")
        .file("a/made/f", b"x")
        .finish();
    let temp = temporary();
    let tree = directory(temp.path(), "tree");
    unpack(&archive[..], &tree).unwrap();
    let described = describe(&tree);
    assert_eq!(described[Path::new("z/sub")], "40500 1111111111");
    assert!(described[Path::new("z/made")].starts_with("40755 "));
    assert!(described.contains_key(Path::new("z/made/f")));
    assert!(described[Path::new("a")].ends_with(" -> \"z\""));
}

#[test]
fn links_with_dots_are_followed_inside() {
    let archive = Raw::default()
        .directory("a")
        .directory("b")
        .symlink("a/l", "../b")
        .symlink("b/m", "../a/l/../a")
        .file("a/l/x", b"x")
        .file("b/m/y", b"y")
        .finish();
    let temp = temporary();
    let tree = directory(temp.path(), "tree");
    unpack(&archive[..], &tree).unwrap();
    assert!(describe(&tree).contains_key(Path::new("b/x")));
    // `a/l` is `b`, whose parent is the root.
    assert!(describe(&tree).contains_key(Path::new("a/y")));
}
