//! What a script leaves mounted, looked at before its mount namespace ends.

use std::collections::HashSet;

use crate::fs::{self, MountPoint};

/// What was mounted before a script started.
#[derive(Debug, Default)]
pub(super) struct MountsBefore(Option<HashSet<MountPoint>>);

impl MountsBefore {
    /// What is mounted now. Without `/proc` nothing is known then and later.
    pub(super) fn now() -> Self {
        let mounts = fs::mount_points().ok();
        Self(mounts.map(|mounts| mounts.into_iter().collect()))
    }

    /// Where something has been mounted since that still is. Bytes that are no text are replaced.
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
