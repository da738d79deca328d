//! The links among the tree's directories. The script of a killed run may have replaced a directory with a link to a directory of the host,
//! in which the next run must change nothing.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fs;
use crate::sandbox::wire;

/// The prefix of the line with the links, in the marker and in the lock file. It is not a valid package name.
const PREFIX: &str = "#links ";

/// The directories below the base directory that were links at the start of a run: their paths below it, and their targets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Links(#[serde(with = "wire")] Vec<(PathBuf, PathBuf)>);

impl Links {
    /// The present links among some directories.
    pub(super) fn among(base: &Path, directories: &[PathBuf]) -> fs::Result<Self> {
        let mut links = Vec::new();
        for directory in directories {
            if let Ok(below) = directory.strip_prefix(base)
                && let Some(target) = target(directory)?
            {
                links.push((below.to_owned(), target));
            }
        }
        Ok(Self(links))
    }

    /// The line with the links.
    pub(super) fn line(&self) -> String {
        let links = serde_json::to_string(self).unwrap_or_default();
        format!("{PREFIX}{links}")
    }

    /// The links that a text notes. `None` if it notes nothing about links.
    pub(super) fn noted_in(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix(PREFIX))?;
        serde_json::from_str(line).ok()
    }

    /// The target of a directory, if it is a link now, but not one of these links.
    pub(super) fn new_target(&self, base: &Path, directory: &Path) -> fs::Result<Option<PathBuf>> {
        let is_it = |below: &Path| directory.strip_prefix(base).is_ok_and(|it| it == below);
        let noted = self.0.iter().find(|(below, _)| is_it(below));
        let noted = noted.map(|(_, target)| target);
        Ok(target(directory)?.filter(|target| Some(target) != noted))
    }

    /// Removes those of the directories that are links now, but not these links. The targets of the links stay as they are.
    pub(super) fn remove_new(&self, base: &Path, directories: &[PathBuf]) -> fs::Result<()> {
        for directory in directories {
            if let Some(target) = self.new_target(base, directory)? {
                fs::clear_flags(fs::parent(directory))?;
                fs::remove_file(directory)?;
                tracing::warn!(
                    path = %directory.display(),
                    target = %target.display(),
                    "removed a link that the packaging script of a killed run left in the place of a directory"
                );
            }
        }
        Ok(())
    }
}

fn target(directory: &Path) -> fs::Result<Option<PathBuf>> {
    match fs::lookup(directory)? {
        Some(found) if found.is_symlink() => fs::read_link(directory).map(Some),
        _ => Ok(None),
    }
}
