//! Packed archives, read by other programs.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;

use proptest::prelude::*;

use super::support::{
    available, chain, describe, describe_below, directory, noise, owners, packed, python, root,
    run, sh, temporary,
};
use super::trees::{any_tree, make, set_time, simple};
use crate::archive::{Owners, PackError, Packed, pack, unpack};
use crate::fs;

fn gnu_tar(tree: &Path) -> Vec<u8> {
    sh("tar --sort=name --format=gnu -cf - -C \"$1\" .", &[tree])
}

/// Unpacks an archive with another program.
fn unpacked_by(program: &str, archive: &[u8], parent: &Path, name: &str) -> std::path::PathBuf {
    let destination = directory(parent, name);
    let file = parent.join(format!("{name}.tar"));
    fs::write(&file, archive).unwrap();
    sh(
        &format!("{program} --no-same-owner -xpf \"$1\" -C \"$2\""),
        &[&file, &destination],
    );
    destination
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_packed_as_by_gnu_tar_and_unpacked_unchanged(tree in any_tree()) {
        let temp = temporary();
        let source = directory(temp.path(), "source");
        make(&source, &tree);
        let archive = packed(&source);
        prop_assert!(archive == gnu_tar(&source), "the archive is not GNU tar's");

        let ours = directory(temp.path(), "ours");
        unpack(&archive[..], &ours).unwrap();
        let original = describe(&source);
        prop_assert_eq!(&describe(&ours), &original);
        let theirs = unpacked_by("tar", &archive, temp.path(), "theirs");
        prop_assert_eq!(&describe(&theirs), &original);
    }
}

#[test]
fn bsdtar_and_python_unpack_packed_trees() {
    let temp = temporary();
    let source = directory(temp.path(), "source");
    simple(&source);
    fs::write(&source.join("n".repeat(200)), b"long").unwrap();
    fs::set_mode(&source, 0o755).unwrap();
    set_time(&source, 1);
    let archive = packed(&source);
    if available("bsdtar") {
        let theirs = unpacked_by("bsdtar", &archive, temp.path(), "bsdtar");
        assert_eq!(describe_below(&theirs), describe_below(&source));
    }
    let file = temp.path().join("archive.tar");
    fs::write(&file, &archive).unwrap();
    let names = python(
        "import sys, tarfile\nfor e in tarfile.open(sys.argv[1]): print(e.name, oct(e.mode), e.size, e.mtime, e.linkname)",
        &[&file],
    );
    let names = String::from_utf8(names).unwrap();
    assert!(names.starts_with(". 0o755 0 1 \n"), "{names}");
    assert!(
        names.contains("./bin/tool 0o4755 0 1400000000 ./bin/same\n"),
        "{names}"
    );
    assert!(
        names.contains(&format!("./{} ", "n".repeat(200))),
        "{names}"
    );
}

#[test]
fn root_is_first_and_names_are_in_byte_order() {
    let temp = temporary();
    for name in ["b", "a.b", "a", "B"] {
        directory(temp.path(), name);
    }
    fs::write(&temp.path().join("a/z"), b"").unwrap();
    let mut archive = crate::archive::Reader::new(std::io::Cursor::new(packed(temp.path())));
    let mut names = Vec::new();
    while let Some(entry) = archive.next_entry().unwrap() {
        names.push(String::from_utf8(entry.name).unwrap());
    }
    assert_eq!(names, ["./", "./B/", "./a/", "./a/z", "./a.b/", "./b/"]);
}

#[test]
fn times_before_1970_are_kept() {
    let temp = temporary();
    let source = directory(temp.path(), "source");
    fs::write(&source.join("old"), b"").unwrap();
    set_time(&source.join("old"), -1000);
    set_time(&source, -1);
    let archive = packed(&source);
    assert!(archive == gnu_tar(&source), "the archive is not GNU tar's");
    for program in ["tar", "bsdtar"] {
        if available(program) {
            let theirs = unpacked_by(program, &archive, temp.path(), program);
            // bsdtar may change the directory that it unpacks into.
            assert_eq!(
                describe_below(&theirs),
                describe_below(&source),
                "{program}"
            );
        }
    }
    let ours = directory(temp.path(), "ours");
    unpack(&archive[..], &ours).unwrap();
    assert_eq!(describe(&ours), describe(&source));
    let file = temp.path().join("archive.tar");
    fs::write(&file, &archive).unwrap();
    let times = python(
        "import sys, tarfile\nprint([e.mtime for e in tarfile.open(sys.argv[1])])",
        &[&file],
    );
    assert_eq!(String::from_utf8(times).unwrap(), "[-1, -1000]\n");
}

#[test]
fn sockets_are_omitted_and_devices_are_packed() {
    let temp = temporary();
    let source = directory(temp.path(), "source");
    let _socket = UnixListener::bind(source.join("socket")).unwrap();
    let mut expected = 1;
    // In a container, even root may lack the privilege to create devices.
    if root()
        && sh(
            "mknod \"$1/null\" c 1 3 && mknod \"$1/disk\" b 259 70000 || true",
            &[&source],
        )
        .is_empty()
        && fs::lookup(&source.join("disk")).unwrap().is_some()
    {
        expected += 2;
        assert!(
            packed(&source)
                == sh(
                    "tar --sort=name --format=gnu -cf - -C \"$1\" --exclude=socket .",
                    &[&source]
                )
        );
    }
    let mut archive = Vec::new();
    let counted = pack(&source, &mut archive, &mut owners(), None).unwrap();
    assert_eq!(
        counted,
        Packed {
            entries: expected,
            bytes: 0
        }
    );
}

#[test]
fn caller_may_choose_owners() {
    struct Vcap;
    impl Owners for Vcap {
        fn user(&mut self, uid: u32) -> String {
            format!("user-{uid}")
        }
        fn group(&mut self, _: u32) -> String {
            "g".repeat(40)
        }
    }
    let temp = temporary();
    let source = directory(temp.path(), "source");
    let mut archive = Vec::new();
    pack(&source, &mut archive, &mut Vcap, None).unwrap();
    let file = temp.path().join("archive.tar");
    fs::write(&file, &archive).unwrap();
    let listing = String::from_utf8(run("tar", &["-tvf".as_ref(), file.as_os_str()])).unwrap();
    let uid = nix::unistd::geteuid();
    assert!(
        listing.contains(&format!("user-{uid}/{} ", "g".repeat(32))),
        "{listing}"
    );
}

#[test]
fn owner_without_a_name_is_a_number() {
    if !fs::require_root() {
        return;
    }
    let temp = temporary();
    let source = directory(temp.path(), "source");
    fs::write(&source.join("file"), b"").unwrap();
    std::os::unix::fs::chown(source.join("file"), Some(3_000_000_000), Some(2_097_152)).unwrap();
    assert!(packed(&source) == gnu_tar(&source));
}

#[test]
fn deep_trees_are_packed_and_unpacked() {
    const DEPTH: usize = 3000;
    let temp = fs::scratch_for_deep_trees();
    let source = directory(temp.path(), "source");
    fs::make_deep(&source, DEPTH);
    let destination = directory(temp.path(), "destination");
    let archive = packed(&source);
    let unpacked = unpack(&archive[..], &destination).unwrap();
    assert_eq!(unpacked.entries, DEPTH as u64 + 2);
    assert!(
        packed(&destination) == archive,
        "it is packed the same again"
    );
    fs::remove_tree(&source).unwrap();
    fs::remove_tree(&destination).unwrap();
}

#[test]
fn file_that_changes_during_packing_is_reported() {
    /// Changes the file when its header is written.
    struct Meddler<'a>(&'a Path, bool, Vec<u8>);
    impl Write for Meddler<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.2.extend_from_slice(bytes);
            if bytes.starts_with(b"./file\0") {
                if self.1 {
                    let mut options = OpenOptions::new();
                    let file = fs::open_with(options.append(true), self.0);
                    file.unwrap().write_all(b"more").unwrap();
                } else {
                    fs::write(self.0, b"less").unwrap();
                }
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let temp = temporary();
    let path = temp.path().join("file");
    for grows in [true, false] {
        fs::write(&path, &noise(400_000)).unwrap();
        let error = pack(
            temp.path(),
            Meddler(&path, grows, Vec::new()),
            &mut owners(),
            None,
        )
        .unwrap_err();
        assert!(matches!(error, PackError::Changed { .. }));
        assert_eq!(
            chain(&error),
            format!("`{}` changed while it was packed", path.display())
        );
    }
}

#[test]
fn path_that_cannot_be_packed_is_reported() {
    let temp = temporary();
    let missing = temp.path().join("missing");
    let error = pack(&missing, Vec::new(), &mut owners(), None).unwrap_err();
    assert!(chain(&error).contains("missing"), "{}", chain(&error));
    let file = temp.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = pack(&file, Vec::new(), &mut owners(), None).unwrap_err();
    assert!(
        chain(&error).ends_with("is not a directory"),
        "{}",
        chain(&error)
    );
}
