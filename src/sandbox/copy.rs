//! Copies a tree that a script has chosen, in the process that answers a question.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::wire;
use crate::fs;

/// A tree to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CopyOrder {
    /// The tree.
    #[serde(with = "wire")]
    pub(super) from: PathBuf,
    /// The path of the copy, which does not exist.
    #[serde(with = "wire")]
    pub(super) to: PathBuf,
    /// Directories, without links in their paths, that the tree must not contain.
    #[serde(with = "wire")]
    pub(super) outside: Vec<PathBuf>,
}

/// How a copy has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CopyEnd {
    /// The copy is complete.
    Copied,
    /// Not copied: the tree contains a directory that it must not contain, or the copy.
    Contains,
    /// Not copied: the tree is a file system that has no files of its own, such as `/proc`.
    Kernel,
    /// Not copied, or only in part: something is mounted in the tree.
    Mounted(#[serde(with = "wire")] PathBuf),
}

/// Copies a tree, and reports each path to `enter` before it is copied.
pub(super) fn copy(order: &CopyOrder, enter: &dyn Fn(&Path)) -> fs::Result<CopyEnd> {
    enter(&order.from);
    let from = fs::canonicalize(&order.from)?;
    if order.outside.iter().any(|path| path.starts_with(&from)) {
        return Ok(CopyEnd::Contains);
    }
    if fs::is_of_kernel(&from) {
        return Ok(CopyEnd::Kernel);
    }
    // The mount table shows this without access to the mounts, which may not respond.
    let mut mounts = fs::mount_points().unwrap_or_default().into_iter();
    let inside = mounts.find(|mount| {
        mount.path != from && mount.path.starts_with(&from) && fs::is_mounted_at(mount)
    });
    if let Some(mount) = inside {
        return Ok(CopyEnd::Mounted(mount.path));
    }
    match fs::copy_tree_visiting(&from, &order.to, enter) {
        Ok(()) => Ok(CopyEnd::Copied),
        Err(error) if error.is_mount() => Ok(CopyEnd::Mounted(error.path)),
        Err(error) if error.is_copy_of_itself() => Ok(CopyEnd::Contains),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn order(from: &Path, to: &Path, outside: &[PathBuf]) -> CopyOrder {
        CopyOrder {
            from: from.to_owned(),
            to: to.to_owned(),
            outside: outside.to_vec(),
        }
    }

    #[test]
    fn tree_is_copied_and_each_path_is_reported() {
        let scratch = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(scratch.path()).unwrap();
        let (from, to) = (root.join("from"), root.join("to"));
        fs::create_dir_all(&from.join("a")).unwrap();
        fs::write(&from.join("a/file"), b"text").unwrap();
        let link = root.join("link");
        fs::symlink(&from, &link).unwrap();
        let entered = Cell::new(false);
        let enter = |path: &Path| entered.set(entered.get() || path == from.join("a/file"));
        let copied = copy(&order(&link, &to, &[root.join("other")]), &enter);
        assert_eq!(copied.unwrap(), CopyEnd::Copied);
        assert_eq!(fs::read(&to.join("a/file")).unwrap(), b"text");
        assert!(entered.get());
    }

    #[test]
    fn tree_with_the_agents_directories_is_not_copied() {
        let scratch = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(scratch.path()).unwrap();
        let (from, to) = (root.join("from"), root.join("to"));
        fs::create_dir(&from).unwrap();
        for outside in [&from, &from.join("data/compile")] {
            let order = order(&from, &to, std::slice::from_ref(outside));
            assert_eq!(copy(&order, &|_| ()).unwrap(), CopyEnd::Contains);
            assert_eq!(fs::lookup(&to).unwrap().map(|it| it.len()), None);
        }
        // The copy itself.
        let inside = from.join("copy");
        let into_itself = copy(&order(&from, &inside, &[]), &|_| ());
        assert_eq!(into_itself.unwrap(), CopyEnd::Contains);
        assert!(fs::list(&inside.join("copy")).unwrap().is_empty());
    }

    #[test]
    fn kernel_file_systems_and_mounts_are_not_copied() {
        let scratch = tempfile::tempdir().unwrap();
        let to = scratch.path().join("to");
        let copied = |from: &str| copy(&order(from.as_ref(), &to, &[]), &|_| ());
        assert_eq!(copied("/proc").unwrap(), CopyEnd::Kernel);
        assert_eq!(copied("/proc/sys").unwrap(), CopyEnd::Kernel);
        assert!(matches!(copied("/"), Ok(CopyEnd::Mounted(_))));
        let missing = copied("/no/such/directory").unwrap_err();
        assert!(missing.is_not_found(), "{missing}");
        assert_eq!(fs::lookup(&to).unwrap().map(|it| it.len()), None);
    }
}
