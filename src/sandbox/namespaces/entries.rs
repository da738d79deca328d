//! Detects file systems that are mounted over the host's entries of the covered directory and do not respond. Examining such an entry would
//! block a thread of the agent, which would keep the agent from exiting.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::Namespaces;
use super::directories::OWN;
use crate::config::Visibility;
use crate::fs;
use crate::sandbox::error::SandboxError;
use crate::sandbox::path_lookup::PathLookup;
use crate::sandbox::shared_tree::SharedTree;

impl Namespaces {
    /// Checks that the file systems over the host's entries respond. Must precede [`make_place`](Self::make_place).
    pub(super) fn check_entries(&self, cancel: &CancellationToken) -> Result<(), SandboxError> {
        let mounted = self.mounted_entries()?;
        if mounted.is_empty() {
            return Ok(());
        }
        let lookup = PathLookup::at_mounts(&self.fork_server, cancel);
        let checked = SharedTree::check_others(&mounted, &|it| lookup.responses(it));
        lookup.check_not_stopped()?;
        checked
    }

    /// Those of the entries that a place keeps which are mount points on the host.
    fn mounted_entries(&self) -> fs::Result<Vec<PathBuf>> {
        let Some(cover) = self.covered()? else {
            return Ok(Vec::new());
        };
        let real = fs::canonicalize(&cover)?;
        let is_own =
            |below: &Path| self.is_base_covered() && OWN.iter().any(|own| below.starts_with(own));
        let is_listed = |above: &Path| {
            let seen = self.cover.join(above);
            above == Path::new("") || self.vcap.visibility(&seen) == Visibility::Partial
        };
        let mounts = fs::mount_points().unwrap_or_default().into_iter();
        let entries = mounts.filter(|mount| {
            let below = mount.path.strip_prefix(&real).ok();
            let above = below.and_then(Path::parent);
            above.is_some_and(is_listed) && !below.is_some_and(is_own)
        });
        Ok(entries.map(|mount| mount.path).collect())
    }
}
