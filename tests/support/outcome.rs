//! Reads results with the system's tar.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::tools::run_tool;

/// One line of `tar -tv`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    /// `drwxr-xr-x`
    pub(crate) mode: String,
    /// `1001/1002`
    pub(crate) owner: String,
    /// `builder/builders`
    pub(crate) names: String,
    pub(crate) size: u64,
    /// `1970-01-01 00:00:00`
    pub(crate) time: String,
    /// The target of a link.
    pub(crate) link: String,
}

/// The entries of a tarball, in order.
pub(crate) fn list(tarball: &Path) -> Vec<Listed> {
    let listing = |flag: &str| {
        let options = ["-tv", "--full-time", "--quoting-style=escape", flag, "-f"];
        let mut arguments: Vec<&std::ffi::OsStr> = options.iter().map(AsRef::as_ref).collect();
        arguments.push(tarball.as_ref());
        run_tool("tar", &arguments)
    };
    let (named, numeric) = (listing("--no-same-owner"), listing("--numeric-owner"));
    let owners = numeric
        .lines()
        .map(|line| line.split_whitespace().nth(1).unwrap());
    named
        .lines()
        .zip(owners)
        .map(|(line, owner)| {
            let mut rest = line;
            let mut word = || {
                rest = rest.trim_start();
                let (word, after) = rest.split_once(' ').unwrap();
                rest = after;
                word.to_owned()
            };
            let (mode, names, size, day, hour) = (word(), word(), word(), word(), word());
            let separator = match mode.as_bytes()[0] {
                b'l' => " -> ",
                b'h' => " link to ",
                _ => "\0",
            };
            let (name, link) = rest.split_once(separator).unwrap_or((rest, ""));
            Listed {
                name: name.to_owned(),
                mode,
                owner: owner.to_owned(),
                names,
                // A device has its numbers here.
                size: size.parse().unwrap_or(0),
                time: format!("{day} {hour}"),
                link: link.to_owned(),
            }
        })
        .collect()
}

/// Unpacks a tarball with all metadata that tar can restore.
pub(crate) fn extract(tarball: &Path, directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    let options = ["-x", "-p", "--numeric-owner", "-f"];
    let mut arguments: Vec<&std::ffi::OsStr> = options.iter().map(AsRef::as_ref).collect();
    arguments.extend([tarball.as_os_str(), "-C".as_ref(), directory.as_os_str()]);
    run_tool("tar", &arguments);
}

/// Packs the files of a directory.
pub(crate) fn pack(directory: &Path, tarball: &Path) {
    let words = ["-czf".as_ref(), tarball.as_os_str(), "-C".as_ref()];
    let words = words
        .into_iter()
        .chain([directory.as_os_str(), ".".as_ref()]);
    run_tool("tar", &words.collect::<Vec<_>>());
}

/// The `release.MF` of a result.
pub(crate) fn manifest_of(tarball: &Path) -> String {
    let options = ["-xO", "-f"];
    let mut arguments: Vec<&std::ffi::OsStr> = options.iter().map(AsRef::as_ref).collect();
    arguments.extend([tarball.as_os_str(), "./release.MF".as_ref()]);
    run_tool("tar", &arguments)
}

/// The names and digests of the compiled packages in a manifest, in order.
pub(crate) fn compiled_packages(manifest: &str) -> Vec<(String, String)> {
    let mut packages: Vec<(String, String)> = Vec::new();
    let lines = manifest
        .lines()
        .skip_while(|line| *line != "compiled_packages:")
        .skip(1)
        .take_while(|line| line.starts_with(' '));
    for line in lines {
        if let Some(name) = line.strip_prefix("    - name: ") {
            packages.push((name.to_owned(), String::new()));
        } else if let Some(digest) = line.strip_prefix("      sha1: ") {
            digest.clone_into(&mut packages.last_mut().unwrap().1);
        }
    }
    packages
}

/// The digest of a file from `sha1sum`.
pub(crate) fn sha1_of(path: &Path) -> String {
    let printed = run_tool("sha1sum", &[path]);
    printed.split_whitespace().next().unwrap().to_owned()
}

/// The files of a directory with their types, modes and contents.
pub(crate) fn contents(directory: &Path) -> BTreeMap<String, String> {
    super::world::snapshot(directory)
}

/// The contents of a compiled package in a result.
pub(crate) fn unpacked(
    tarball: &Path,
    package: &str,
) -> (tempfile::TempDir, BTreeMap<String, String>) {
    let scratch = tempfile::tempdir().unwrap();
    extract(tarball, &scratch.path().join("release"));
    let blob = scratch
        .path()
        .join(format!("release/compiled_packages/{package}.tgz"));
    let tree = scratch.path().join("tree");
    extract(&blob, &tree);
    let contents = contents(&tree);
    (scratch, contents)
}

/// The parts of a result that are equal in all runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Without the digests of compiled packages.
    pub(crate) manifest: String,
    /// The names of all entries.
    pub(crate) entries: Vec<String>,
    /// The contents of all files except the compiled packages.
    pub(crate) files: BTreeMap<String, String>,
    /// The contents of the compiled packages.
    pub(crate) packages: BTreeMap<String, BTreeMap<String, String>>,
}

impl Outcome {
    /// Reads a result, and compares the digest of each compiled package with its bytes.
    pub(crate) fn of(tarball: &Path) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let release = scratch.path().join("release");
        extract(tarball, &release);
        let mut manifest = std::fs::read_to_string(release.join("release.MF")).unwrap();
        let mut packages = BTreeMap::new();
        for (name, digest) in compiled_packages(&manifest) {
            let blob = release.join(format!("compiled_packages/{name}.tgz"));
            // A digest that looks like a number is quoted.
            let hex = digest.trim_matches('"');
            if hex.len() == 40 {
                assert_eq!(sha1_of(&blob), hex, "the digest of {name}");
            }
            manifest = manifest.replace(&digest, "DIGEST");
            let tree = scratch.path().join(&name);
            extract(&blob, &tree);
            packages.insert(name, contents(&tree));
        }
        let mut files = contents(&release);
        files.retain(|path, _| !path.starts_with("compiled_packages/") && path != "release.MF");
        // Directories without an entry have a mode that tar chose.
        files.retain(|path, _| !std::fs::metadata(release.join(path)).is_ok_and(|it| it.is_dir()));
        Self {
            manifest,
            entries: list(tarball).into_iter().map(|entry| entry.name).collect(),
            files,
            packages,
        }
    }

    /// The same without the order of entries and without directory entries, which some sources lack.
    pub(crate) fn without_order(mut self) -> Self {
        self.entries.retain(|name| !name.ends_with('/'));
        self.entries.sort();
        self
    }
}

/// The mode of a file, with its setuid, setgid and sticky bits.
pub(crate) fn mode_of(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}
