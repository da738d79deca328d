//! Finds files of an installed package that refer to the directory in which packages are compiled. These files do not work on the VM that
//! runs the package, because the directory does not exist there.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use walkdir::WalkDir;

use super::elf;
use crate::fs;

/// How many references are kept. Further references are only counted.
const LIMIT: usize = 10;

/// How many bytes are read from the start of a file. This is the kernel's limit for the first line of a script, and is enough to recognize
/// an ELF file.
const START: usize = 256;

/// The maximum size of a library description, in bytes.
const TEXT_LIMIT: u64 = 64 * 1024;

/// An installed file that refers to the compile directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The file, relative to the install target.
    pub path: PathBuf,
    /// The kind of reference.
    pub kind: ReferenceKind,
    /// The text of the reference.
    pub target: String,
}

/// How a file refers to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceKind {
    /// The first line of a script has the path as the interpreter.
    Interpreter,
    /// A program or a library looks for libraries at the path (RPATH, RUNPATH).
    Libraries,
    /// The file is a symbolic link to the path.
    Link,
    /// A `.pc` or `.la` file contains the path. Such files tell compilers where a library is.
    Description,
}

/// The references of a tree.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct References {
    /// The first references.
    pub(super) shown: Vec<Reference>,
    /// The number of further references.
    pub(super) others: usize,
}

impl References {
    fn add(&mut self, path: &Path, kind: ReferenceKind, target: &[u8]) {
        if self.shown.len() == LIMIT {
            self.others += 1;
            return;
        }
        self.shown.push(Reference {
            path: path.to_owned(),
            kind,
            target: String::from_utf8_lossy(target).into_owned(),
        });
    }
}

/// Finds references in `tree` to one of `directories`. `directories` and `installed`, the path of the tree, are given as the packaging
/// script sees them.
///
/// Reads the beginning of every file, and a few more parts of programs and libraries. Skips unreadable files, because packing reports them.
/// Returns early if `stop` returns `true`.
pub(super) fn find(
    tree: &Path,
    installed: &Path,
    directories: &[PathBuf],
    stop: &dyn Fn() -> bool,
) -> References {
    let mut references = References::default();
    let is_inside = |target: &[u8]| {
        let target = Path::new(std::ffi::OsStr::from_bytes(target));
        directories.iter().any(|it| target.starts_with(it))
    };
    for entry in WalkDir::new(tree).sort_by_file_name().into_iter().flatten() {
        if stop() {
            break;
        }
        let Ok(below) = entry.path().strip_prefix(tree) else {
            continue;
        };
        if entry.file_type().is_symlink() {
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            let target_path = resolved(fs::parent(&installed.join(below)), &target);
            if is_inside(target_path.as_os_str().as_bytes()) {
                references.add(below, ReferenceKind::Link, target.as_os_str().as_bytes());
            }
        } else if entry.file_type().is_file()
            && let Ok(file) = fs::open(entry.path())
            && let Some((kind, target)) = reference_of(&file, below, &is_inside, directories)
        {
            references.add(below, kind, &target);
        }
    }
    references
}

fn reference_of(
    file: &File,
    path: &Path,
    is_inside: &dyn Fn(&[u8]) -> bool,
    directories: &[PathBuf],
) -> Option<(ReferenceKind, Vec<u8>)> {
    let mut start = [0; START];
    let mut reader = file;
    let length = reader.read(&mut start).ok()?;
    let start = &start[..length];
    if start.starts_with(elf::MAGIC) {
        let paths = elf::library_paths(file).ok()?;
        let target = paths.into_iter().find(|target| is_inside(target))?;
        return Some((ReferenceKind::Libraries, target));
    }
    if let Some(line) = start.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        let words = line.split(|byte| byte.is_ascii_whitespace());
        // The interpreter may be the second word, after `env`.
        let target = words.into_iter().find(|word| is_inside(word))?;
        return Some((ReferenceKind::Interpreter, target.to_vec()));
    }
    if path.extension().is_some_and(|it| it == "pc" || it == "la") {
        let mut text = start.to_vec();
        reader.take(TEXT_LIMIT).read_to_end(&mut text).ok()?;
        let contains_directory = |line: &[u8]| {
            directories.iter().any(|directory| {
                let directory = directory.as_os_str().as_bytes();
                line.windows(directory.len()).any(|part| part == directory)
            })
        };
        let mut lines = text.split(|byte| *byte == b'\n');
        let line = lines.find(|line| !line.starts_with(b"#") && contains_directory(line))?;
        return Some((ReferenceKind::Description, line.to_vec()));
    }
    None
}

/// Resolves a path against a directory without file system calls.
fn resolved(directory: &Path, path: &Path) -> PathBuf {
    let mut path_so_far = PathBuf::new();
    for component in directory.join(path).components() {
        match component {
            Component::ParentDir => {
                path_so_far.pop();
            }
            Component::CurDir => {}
            other => path_so_far.push(other),
        }
    }
    path_so_far
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_references_to_the_directory_are_found() {
        let scratch = tempfile::tempdir().unwrap();
        let tree = scratch.path();
        let write = |name: &str, contents: &[u8]| fs::write(&tree.join(name), contents).unwrap();
        let link = |name: &str, target: &str| {
            fs::symlink(Path::new(target), &tree.join(name)).unwrap();
        };
        let rpath = |path| elf::tests::file_with(true, false, &[(15, path)]);
        write("a-tool", &rpath("/opt/lib:/vcap/data/compile/app/lib"));
        write(
            "b-script",
            b"#!/usr/bin/env -S /vcap/data/compile/app/python -E\n",
        );
        link("c-link", "/vcap/data/compile/app/x");
        link("d-link", "../../../compile/app");
        write("e.pc", b"# x\nprefix=/vcap/data/compile/app\n");
        write("good-tool", &rpath("$ORIGIN/../lib:/vcap/packages/app/lib"));
        write("good-script", b"#!/bin/sh\n# /vcap/data/compile/app\n");
        write("good.txt", b"/vcap/data/compile/app\n");
        write("good.la", b"# made in /vcap/data/compile/app\n");
        write("other", &rpath("/vcap/data/compile-time/lib"));
        link("good-link", "../../app/1/good-tool");
        let directories = [PathBuf::from("/vcap/data/compile")];
        let installed = Path::new("/vcap/data/packages/app/1");
        let found = find(tree, installed, &directories, &|| false);
        let shown: Vec<_> = found
            .shown
            .iter()
            .map(|it| (it.path.to_str().unwrap(), it.kind, it.target.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                (
                    "a-tool",
                    ReferenceKind::Libraries,
                    "/vcap/data/compile/app/lib"
                ),
                (
                    "b-script",
                    ReferenceKind::Interpreter,
                    "/vcap/data/compile/app/python"
                ),
                ("c-link", ReferenceKind::Link, "/vcap/data/compile/app/x"),
                ("d-link", ReferenceKind::Link, "../../../compile/app"),
                (
                    "e.pc",
                    ReferenceKind::Description,
                    "prefix=/vcap/data/compile/app"
                ),
            ]
        );
        assert_eq!(found.others, 0);
        for number in 0..8 {
            link(&format!("f{number}"), "/vcap/data/compile/app/x");
        }
        assert_eq!(find(tree, installed, &directories, &|| false).others, 3);
    }
}
