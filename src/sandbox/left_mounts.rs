//! Mounts that a script leaves, found before its mount namespace ends.

use std::collections::HashSet;

use crate::fs::{self, MountPoint};

/// What was mounted before a script started; `None` if unknown.
#[derive(Debug, Default)]
pub(super) struct MountsBefore(Option<HashSet<MountPoint>>);

impl MountsBefore {
    /// The current mounts. They are unknown without `/proc`.
    pub(super) fn now() -> Self {
        let mounts = fs::mount_points().ok();
        Self(mounts.map(|mounts| mounts.into_iter().collect()))
    }

    /// The mount points of mounts that were added since. Bytes that are not UTF-8 are replaced.
    pub(super) fn since(&self) -> Vec<String> {
        let Some(before) = &self.0 else {
            return Vec::new();
        };
        let now = fs::mount_points().unwrap_or_default();
        now.into_iter()
            .filter(|mount| !before.contains(mount))
            .map(|mount| mount.path.to_string_lossy().into_owned())
            .collect()
    }
}
