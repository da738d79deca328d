//! Mounts that a script leaves, found before its mount namespace ends.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::fs::{self, MountPoint};

/// The size limit of the list of mount points in a report, in bytes, without the last one. A report must fit into a pipe (64 KiB).
const LIMIT: usize = 40 << 10;

/// The mounts before a script started; `None` if they are unknown.
#[derive(Debug, Default)]
pub(super) struct MountsBefore(Option<HashSet<MountPoint>>);

impl MountsBefore {
    /// The current mounts. They are unknown without `/proc`.
    pub(super) fn now() -> Self {
        let mounts = fs::mount_points().ok();
        Self(mounts.map(|mounts| mounts.into_iter().collect()))
    }

    /// The mount points of mounts that were added since. Bytes that are not UTF-8 are replaced. If there are many, the last path is the
    /// directory with the rest of them.
    pub(super) fn since(&self) -> Vec<String> {
        let Some(before) = &self.0 else {
            return Vec::new();
        };
        let now = fs::mount_points().unwrap_or_default();
        let added = now.into_iter().filter(|mount| !before.contains(mount));
        within_limit(added.map(|mount| mount.path))
    }
}

fn within_limit(paths: impl Iterator<Item = PathBuf>) -> Vec<String> {
    let mut size = 0;
    let mut listed = Vec::new();
    let mut rest: Option<PathBuf> = None;
    for path in paths {
        let shown = path.to_string_lossy();
        size += size_in_report(&shown);
        if size <= LIMIT {
            listed.push(shown.into_owned());
        } else {
            rest = Some(rest.map_or_else(|| path.clone(), |rest| common(&rest, &path)));
        }
    }
    listed.extend(rest.map(|rest| rest.to_string_lossy().into_owned()));
    listed
}

/// The size of a path as a JSON string with a comma, in bytes.
fn size_in_report(path: &str) -> usize {
    let escaped = path.chars().map(|it| match it {
        '"' | '\\' => 2,
        _ if it.is_control() => 6,
        _ => it.len_utf8(),
    });
    escaped.sum::<usize>() + 3
}

/// The deepest directory at or above both paths.
fn common(a: &Path, b: &Path) -> PathBuf {
    let both = a.components().zip(b.components());
    both.take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_of_a_long_list_is_their_common_directory() {
        let paths =
            |count: usize| (0..count).map(|number| format!("/base/app/m{number:04}").into());
        let few = within_limit(paths(100));
        assert_eq!(few.len(), 100);
        let many = within_limit(paths(4000));
        assert_eq!(many[..100], few);
        assert_eq!(many.last().unwrap(), "/base/app");
        assert!(many.concat().len() < LIMIT);
        let escaped = std::iter::repeat_n(PathBuf::from("\u{1b}".repeat(100)), 1000);
        assert_eq!(within_limit(escaped).len(), LIMIT / 603 + 1);
        let other = std::iter::once(PathBuf::from("/base/packages/app/m"));
        let many = within_limit(paths(4000).chain(other));
        assert_eq!(many.last().unwrap(), "/base");
    }
}
