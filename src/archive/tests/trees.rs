//! Trees for packing: generated ones, and one with all kinds of files.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::mkfifo;
use proptest::prelude::*;

use super::support::{noise, root};
use crate::fs;

/// A file in a generated tree.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Directory {
        mode: u32,
    },
    File {
        content: Vec<u8>,
        mode: u32,
    },
    Symlink {
        target: Vec<u8>,
    },
    /// A hard link to an earlier file.
    HardLink {
        to: usize,
    },
    Fifo {
        mode: u32,
    },
}

/// Files with their paths and times. [`make`] omits files that cannot be created: below a file, or at the path of another file.
pub(super) type Tree = Vec<(Vec<Vec<u8>>, Node, i64)>;

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop_oneof![Just(b"a".to_vec()), Just(b"b".to_vec()), Just(b"a.b".to_vec()), Just(b"a-b".to_vec())],
        1 => Just(b"\xff\xfe".to_vec()),
        1 => Just(b"new\nline \\ \"quoted\" *".to_vec()),
        1 => Just("\u{fc}n\u{ef}".as_bytes().to_vec()),
        1 => Just(b"-dash".to_vec()),
        1 => (95_usize..110).prop_map(|length| vec![b'l'; length]),
        1 => Just(vec![b'v'; 255]),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let content = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..20),
        prop_oneof![Just(511_usize), Just(512), Just(513), Just(300_000)].prop_map(noise),
    ];
    prop_oneof![
        3 => (0..0o10000_u32).prop_map(|mode| Node::Directory { mode }),
        4 => (content, 0..0o10000_u32).prop_map(|(content, mode)| Node::File { content, mode }),
        2 => prop_oneof![
            proptest::collection::vec(1..=255_u8, 1..150),
            Just(b"/etc/passwd".to_vec()),
            Just(b"../../up".to_vec()),
        ].prop_map(|target| Node::Symlink { target }),
        2 => (0..10_usize).prop_map(|to| Node::HardLink { to }),
        1 => (0..0o10000_u32).prop_map(|mode| Node::Fifo { mode }),
    ]
}

/// Generates trees.
pub(super) fn any_tree() -> impl Strategy<Value = Tree> {
    let path = proptest::collection::vec(name(), 1..5);
    let mtime = prop_oneof![
        -600_000_000..2_000_000_000_i64,
        Just(0),
        Just(8_600_000_000)
    ];
    proptest::collection::vec((path, node(), mtime), 0..25)
}

/// Creates a tree in an existing directory.
pub(super) fn make(directory: &Path, tree: &Tree) {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut directories = Vec::new();
    for (names, node, mtime) in tree {
        let mut path = directory.to_owned();
        path.extend(names.iter().map(|name| OsString::from_vec(name.clone())));
        let parents = names.len() - 1;
        if let Some(parent) = path.parent()
            && parents > 0
            && fs::create_dir_all(parent).is_err()
        {
            continue;
        }
        if fs::lookup(&path).ok().flatten().is_some() {
            continue;
        }
        match node {
            Node::Directory { mode } => {
                fs::create_dir(&path).unwrap();
                directories.push((path, *mode, *mtime));
                continue;
            }
            Node::File { content, mode } => {
                fs::write(&path, content).unwrap();
                fs::set_mode(&path, readable(*mode)).unwrap();
                files.push(path.clone());
            }
            Node::Symlink { target } => {
                fs::symlink(Path::new(&OsString::from_vec(target.clone())), &path).unwrap();
            }
            Node::HardLink { to } => {
                if files.is_empty() {
                    continue;
                }
                std::fs::hard_link(&files[to % files.len()], &path).unwrap();
            }
            Node::Fifo { mode } => {
                mkfifo(&path, Mode::S_IRWXU).unwrap();
                fs::set_mode(&path, *mode).unwrap();
            }
        }
        set_time(&path, *mtime);
    }
    // The times of directories are set last, the deepest first, because creating files changes them.
    directories.reverse();
    for (path, mode, mtime) in directories {
        fs::set_mode(&path, readable(mode) | if root() { 0 } else { 0o700 }).unwrap();
        set_time(&path, mtime);
    }
}

/// The mode for a file. Only root can read files without permissions.
fn readable(mode: u32) -> u32 {
    if root() { mode } else { mode | 0o400 }
}

pub(super) fn set_time(path: &Path, mtime: i64) {
    let mtime = TimeSpec::new(mtime, 0);
    utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &mtime,
        &mtime,
        UtimensatFlags::NoFollowSymlink,
    )
    .unwrap();
}

/// Creates a tree with all kinds of files that all formats support.
pub(super) fn simple(directory: &Path) {
    let file = |content: &[u8], mode| Node::File {
        content: content.to_vec(),
        mode,
    };
    let path = |path: &str| {
        path.split('/')
            .map(|name| name.as_bytes().to_vec())
            .collect::<Vec<_>>()
    };
    let tree = vec![
        (
            path("packaging"),
            file(b"#!/bin/bash\n", 0o644),
            1_600_000_000,
        ),
        (path("bin"), Node::Directory { mode: 0o755 }, 1_500_000_000),
        (
            path("bin/tool"),
            file(&noise(10_000), 0o4755),
            1_400_000_000,
        ),
        (path("bin/same"), Node::HardLink { to: 1 }, 1_400_000_000),
        (
            path("bin/link"),
            Node::Symlink {
                target: b"tool".to_vec(),
            },
            1_300_000_000,
        ),
        (
            path("lib/dangling"),
            Node::Symlink {
                target: b"/nowhere".to_vec(),
            },
            1_300_000_001,
        ),
        (path("lib/empty"), file(b"", 0o600), 0),
        (
            path("read-only"),
            Node::Directory { mode: 0o555 },
            1_200_000_000,
        ),
        (path("read-only/file"), file(b"x", 0o444), 1_100_000_000),
        (
            path("shared"),
            Node::Directory { mode: 0o3777 },
            1_000_000_000,
        ),
    ];
    make(directory, &tree);
    set_time(&directory.join("lib"), 1_234_567_890);
    set_time(directory, 1_234_567_891);
}
