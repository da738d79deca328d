//! Replaces the links in the path of an entry by their targets. No I/O: the caller reads the links.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::path::{self, Path, PathBuf};

use super::error::{LinkProblem, UnpackError};

/// How many links are followed for one entry, as in the kernel.
const MAX_LINKS: usize = 40;

/// A component of the path that is being resolved.
pub(super) struct Component {
    pub(super) name: OsString,
    /// Whether the component comes from the target of a link.
    pub(super) is_from_link: bool,
}

/// The directory of an entry, resolved component by component. All paths are relative to the destination.
pub(super) struct Resolution<'a> {
    entry: &'a Path,
    /// The components that were resolved. They are directories, not links.
    resolved: PathBuf,
    /// The components that are not resolved yet.
    rest: VecDeque<OsString>,
    /// How many components at the beginning of `rest` come from targets of links.
    from_link: usize,
    /// The last followed link that is a component of the entry's own path, not of the target of a link. Errors name it.
    link: PathBuf,
    /// The number of followed links.
    followed: usize,
}

impl<'a> Resolution<'a> {
    pub(super) fn new(entry: &'a Path) -> Self {
        Self {
            entry,
            resolved: PathBuf::new(),
            rest: components(entry.parent().unwrap_or(Path::new(""))).into(),
            from_link: 0,
            link: PathBuf::new(),
            followed: 0,
        }
    }

    /// Takes the next component that is not resolved yet.
    pub(super) fn next_component(&mut self) -> Option<Component> {
        let name = self.rest.pop_front()?;
        let is_from_link = self.from_link > 0;
        self.from_link = self.from_link.saturating_sub(1);
        Some(Component { name, is_from_link })
    }

    /// The path of the component `name` in the directory that was resolved last.
    pub(super) fn path_of(&self, name: &OsStr) -> PathBuf {
        self.resolved.join(name)
    }

    /// Resolves a component `..`, which occurs only in targets of links. The resolved path has no links, so removing its last component
    /// gives the parent directory.
    pub(super) fn ascend(&mut self) -> Result<(), UnpackError> {
        if self.resolved.pop() {
            Ok(())
        } else {
            Err(self.refused(LinkProblem::Outside))
        }
    }

    /// Resolves a component that is not a link; `path` is from [`Self::path_of`].
    pub(super) fn descend(&mut self, path: PathBuf) {
        self.resolved = path;
    }

    /// Replaces a link at `path` by its target.
    pub(super) fn follow(
        &mut self,
        path: PathBuf,
        target: &Path,
        is_from_link: bool,
    ) -> Result<(), UnpackError> {
        if !is_from_link {
            self.link = path;
        }
        self.followed += 1;
        if self.followed > MAX_LINKS {
            return Err(self.refused(LinkProblem::Circle));
        }
        if target.is_absolute() {
            return Err(self.refused(LinkProblem::Outside));
        }
        let target = components(target);
        self.from_link += target.len();
        for component in target.into_iter().rev() {
            self.rest.push_front(component);
        }
        Ok(())
    }

    pub(super) fn refused(&self, problem: LinkProblem) -> UnpackError {
        UnpackError::ThroughSymlink {
            entry: self.entry.to_owned(),
            link: self.link.clone(),
            problem,
        }
    }

    /// The path of the entry: the resolved components, the remaining ones, and the entry's name.
    pub(super) fn finish(self) -> PathBuf {
        let mut path = self.resolved;
        path.extend(self.rest);
        path.extend(self.entry.file_name());
        path
    }
}

fn components(path: &Path) -> Vec<OsString> {
    path.components()
        .filter(|component| !matches!(component, path::Component::CurDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}
