//! Runs programs, and describes trees for comparison.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::fs;

pub(super) fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests compare with the real programs"
)]
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Runs a program, which must succeed, and returns its output.
pub(super) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Vec<u8> {
    let output = command(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {:?}: {}\n{}",
        arguments
            .iter()
            .map(|a| a.as_ref().to_owned())
            .collect::<Vec<_>>(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Runs a shell script with positional arguments, which must succeed, and returns its output.
pub(super) fn sh(script: &str, arguments: &[&Path]) -> Vec<u8> {
    let mut all: Vec<&OsStr> = ["-euc", script, "sh"].map(OsStr::new).to_vec();
    all.extend(arguments.iter().map(|path| path.as_os_str()));
    run("bash", &all)
}

/// Runs a Python script with arguments, which must succeed, and returns its output.
pub(super) fn python(script: &str, arguments: &[&Path]) -> Vec<u8> {
    let mut all: Vec<&OsStr> = ["-c", script].map(OsStr::new).to_vec();
    all.extend(arguments.iter().map(|path| path.as_os_str()));
    run("python3", &all)
}

/// Whether an optional program is installed. If all are required, a missing one fails the test.
pub(super) fn available(program: &str) -> bool {
    let found = command(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    fs::require(found, &format!("the tool `{program}`"))
}

pub(super) fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Describes all files of a tree, by path: kind, mode, time in whole seconds, content, links.
pub(super) fn describe(tree: &Path) -> BTreeMap<PathBuf, String> {
    let mut description = BTreeMap::new();
    let mut names: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = tree.join(&path);
        let metadata = fs::lookup(&full).unwrap().unwrap();
        let kind = metadata.file_type();
        let mut text = format!("{:o} {}", metadata.mode(), metadata.mtime());
        if kind.is_dir() {
            // In reverse, so that names are popped in order and the first hard link is always the same.
            let entries = fs::list(&full).unwrap();
            todo.extend(
                entries
                    .iter()
                    .rev()
                    .map(|entry| path.join(entry.file_name())),
            );
        } else if kind.is_symlink() {
            write!(text, " -> {:?}", fs::read_link(&full).unwrap()).unwrap();
        } else if kind.is_file() {
            let content = fs::read(&full).unwrap();
            write!(text, " {} bytes, {:x}", content.len(), sum(&content)).unwrap();
        } else if kind.is_char_device() || kind.is_block_device() {
            write!(text, " device {:x}", metadata.rdev()).unwrap();
        }
        if !kind.is_dir() && metadata.nlink() > 1 {
            let first = names
                .entry((metadata.dev(), metadata.ino()))
                .or_insert_with(|| path.clone());
            write!(text, " = {first:?}").unwrap();
        }
        description.insert(path, text);
    }
    description
}

/// Like [`describe`], without the tree's own directory, whose mode and time bsdtar does not set.
pub(super) fn describe_below(tree: &Path) -> BTreeMap<PathBuf, String> {
    let mut description = describe(tree);
    description.remove(Path::new(""));
    description
}

/// A checksum for comparing files.
fn sum(content: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(content);
    crc.sum()
}

/// Creates a directory.
pub(super) fn directory(parent: &Path, name: &str) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir(&path).unwrap();
    path
}

/// Incompressible bytes, the same in each call.
pub(in crate::archive) fn noise(length: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// An error with its sources, as in messages.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        write!(text, ": {source}").unwrap();
        next = source.source();
    }
    text
}

/// The owners with the names that GNU tar uses.
pub(super) fn owners() -> crate::archive::SystemOwners {
    crate::archive::SystemOwners::new()
}

/// Packs a tree in memory.
pub(super) fn packed(tree: &Path) -> Vec<u8> {
    let mut archive = Vec::new();
    crate::archive::pack(tree, &mut archive, &mut owners(), None).unwrap();
    archive
}
