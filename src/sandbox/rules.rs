//! The access rules of a script that runs in a tree with other packages, as plain data, and which paths they close.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

use super::wire;
use crate::fs;

/// The rules for the accesses of a script that has no view of its own. Files and directories outside the guarded and listed directories are
/// accessible. All paths are absolute and without links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Directories that are closed, except for `whole` and `readable`.
    #[serde(with = "wire")]
    pub guarded: Vec<PathBuf>,
    /// Directories above guarded ones whose other entries are closed, except for `whole` and `readable`.
    #[serde(with = "wire")]
    pub listed: Vec<PathBuf>,
    /// Files and directories with full access.
    #[serde(with = "wire")]
    pub whole: Vec<PathBuf>,
    /// Directories that the script can read and execute.
    #[serde(with = "wire")]
    pub readable: Vec<PathBuf>,
}

/// Why a path is closed to a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Closed {
    /// It is an entry of a directory whose entries cannot be created, replaced or removed.
    Entry,
    /// It belongs to a dependency, which is read-only.
    ReadOnly,
    /// It belongs to another package or to the agent.
    Guarded,
}

/// Whether rules close an absolute path, and why. Symbolic links in the path are resolved now, which blocks if a file system does not
/// respond.
pub(super) fn closed(rules: &Rules, path: &Path) -> Option<Closed> {
    let below = |path: &Path, directories: &[PathBuf]| {
        directories
            .iter()
            .any(|directory| path.starts_with(directory))
    };
    let whole = resolved(path);
    let is_own = below(&whole, &rules.whole);
    let is_dependency = below(&whole, &rules.readable);
    let parent = resolved(path.parent()?);
    let leads_to_guarded = |path: &Path| {
        rules
            .guarded
            .iter()
            .any(|directory| directory.starts_with(path))
    };
    if leads_to_guarded(&parent) {
        // If this user cannot read the path anyway, the rules did not deny it.
        let is_readable = access(path, AccessFlags::R_OK) != Err(Errno::EACCES);
        let is_others = below(&parent, &rules.guarded) && !is_own;
        return match is_dependency {
            true => Some(Closed::ReadOnly),
            false if is_others => Some(Closed::Guarded),
            false => is_readable.then_some(Closed::Entry),
        };
    }
    if is_own {
        None
    } else if is_dependency {
        Some(Closed::ReadOnly)
    } else if below(&whole, &rules.guarded)
        || below(&whole, &rules.listed) && !leads_to_guarded(&fs::nearest_existing(&whole))
    {
        Some(Closed::Guarded)
    } else {
        // The path is above a guarded directory, or would be created below a directory that cannot be created.
        let existing = fs::nearest_existing(&whole);
        let is_new_entry = existing != whole && existing != parent && leads_to_guarded(&existing);
        (is_new_entry || leads_to_guarded(&whole)).then_some(Closed::Entry)
    }
}

/// A path without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let existing = fs::nearest_existing(path);
    let rest = path.strip_prefix(&existing).unwrap_or(Path::new(""));
    fs::canonicalize(&existing).map_or_else(|_| path.to_owned(), |real| real.join(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_paths_are_recognized_through_links() {
        let scratch = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(scratch.path()).unwrap();
        let vcap = root.join("real");
        for directory in ["app", "dep", "other"] {
            let installed = vcap.join("data/packages").join(directory);
            fs::create_dir_all(&installed).unwrap();
            fs::create_dir_all(&vcap.join("packages")).unwrap();
            fs::symlink(&installed, &vcap.join("packages").join(directory)).unwrap();
        }
        fs::create_dir_all(&vcap.join("data/compile/app")).unwrap();
        fs::create_dir_all(&vcap.join("bosh/etc")).unwrap();
        for scratch in ["app", "other"] {
            fs::create_dir(&vcap.join("data").join(scratch)).unwrap();
        }
        fs::symlink(Path::new("real"), &root.join("vcap")).unwrap();
        let rules = Rules {
            guarded: ["packages", "data/packages", "data/compile"]
                .map(|it| vcap.join(it))
                .to_vec(),
            listed: vec![vcap.join("data")],
            whole: vec![
                vcap.join("data/packages/app"),
                vcap.join("data/compile/app"),
                vcap.join("data/app"),
            ],
            readable: vec![vcap.join("data/packages/dep")],
        };
        let cases = [
            ("packages/app/file", None),
            ("data/compile/app/a/b", None),
            ("bosh/etc/file", None),
            ("packages/dep/new", Some(Closed::ReadOnly)),
            ("packages/dep", Some(Closed::ReadOnly)),
            ("packages/other/file", Some(Closed::Guarded)),
            ("packages/unknown", Some(Closed::Guarded)),
            ("data/compile/other/packaging", Some(Closed::Guarded)),
            ("packages/app", Some(Closed::Entry)),
            ("data/compile/app", Some(Closed::Entry)),
            ("data/app/file", None),
            ("data/other/file", Some(Closed::Guarded)),
            ("data/other", Some(Closed::Entry)),
            ("data/new/a", Some(Closed::Entry)),
            ("data", Some(Closed::Entry)),
            ("new", Some(Closed::Entry)),
        ];
        for (path, expected) in cases {
            assert_eq!(
                closed(&rules, &root.join("vcap").join(path)),
                expected,
                "{path}"
            );
        }
        assert_eq!(closed(&rules, Path::new("/new")), Some(Closed::Entry));
        assert_eq!(closed(&rules, Path::new("/usr/new")), None);
    }
}
