//! The view of a place's script.

use std::path::{Path, PathBuf};

use super::{MEMORY, NamespacePlace, Namespaces, OVERLAY, ROOT, TEMPORARY, TREE};
use crate::config::Environment;
use crate::fs;
use crate::sandbox::named;
use crate::sandbox::view::{ImageRoot, Mounted, Protection, View};

/// Pairs of a source and a mount point, or of a link and its target.
type Pairs = Vec<(PathBuf, PathBuf)>;

impl Namespaces {
    /// The view of the script in a place, with this environment. Each dependency is a pair of its sealed tree and its install directory.
    pub(in crate::sandbox) fn view(
        &self,
        place: &NamespacePlace,
        dependencies: &[(&Path, &Path)],
        environment: &Environment,
    ) -> View {
        let relative = Self::relative(place);
        let (named, links) = self.named(place, environment);
        let has_image = self.image.is_some();
        // In an image, missing directories are created.
        let existing = |(_, at): &&(&str, &str)| has_image || Path::new(at).is_dir();
        let mut view = View {
            root: self.image_root(&relative),
            work: self.work.clone(),
            dependencies: dependencies
                .iter()
                .filter(|_| !place.copies)
                .map(|(sealed, install)| Mounted {
                    sealed: self.below_work(sealed),
                    at: self.below_work(install),
                })
                .collect(),
            in_user_namespace: self.options.users.is_some(),
            processes: self.processes,
            locked: self.locked,
            network: self.options.network,
            writes: self.writes,
            overlay: relative.join(OVERLAY),
            scratch: place.scratch.clone(),
            hidden: self.hidden(),
            secrets: self.visible_secrets(),
            kept: place.kept.clone(),
            memory: [MEMORY]
                .iter()
                .filter(existing)
                .map(|(name, _)| relative.join(name))
                .collect(),
            named,
            links,
            temporary: TEMPORARY
                .iter()
                .filter(existing)
                // Temporary directories below a covered directory are in `kept`.
                .filter(|(_, at)| self.is_base_covered() || !Path::new(at).starts_with(&self.cover))
                .map(|(name, at)| (relative.join(name), PathBuf::from(at)))
                .collect(),
            tree: (relative.join(TREE), self.cover.clone()),
            protection: None,
        };
        if self.options.protect_host {
            let home = environment.get("HOME").map(Path::new);
            view.protection = Some(Protection::new(&view, home));
        }
        view
    }

    /// The root file system of a place with this relative path, if it is not the host's.
    fn image_root(&self, place: &Path) -> Option<ImageRoot> {
        let image = self.image.as_ref()?;
        Some(ImageRoot {
            lower: image.root.clone(),
            overlay: place.join(ROOT),
            in_memory: image.in_memory,
        })
    }

    /// The files and directories with secrets, if scripts would see them.
    fn visible_secrets(&self) -> Vec<PathBuf> {
        match self.image {
            Some(_) => Vec::new(),
            None => self.secrets.clone(),
        }
    }

    /// The directory of all scratch directories, if scripts would see it.
    fn hidden(&self) -> Option<PathBuf> {
        let is_visible = self.image.is_none() && self.scratch.separable().is_some();
        is_visible.then(|| self.scratch_root.clone())
    }

    /// The files, directories and links below the host's directories for temporary files that environment variables name. Returns the
    /// files and directories with their paths on the host and in the place, and the links with their targets.
    fn named(&self, place: &NamespacePlace, environment: &Environment) -> (Pairs, Pairs) {
        if self.image.is_some() {
            return (Vec::new(), Vec::new());
        }
        let relative = Self::relative(place);
        let private: Vec<(&str, PathBuf)> = TEMPORARY
            .iter()
            // Each of these directories may be a link.
            .filter_map(|(name, at)| Some((*name, fs::canonicalize(Path::new(at)).ok()?)))
            .collect();
        let directories: Vec<PathBuf> = private.iter().map(|(_, at)| at.clone()).collect();
        let base = fs::canonicalize(self.vcap.base()).unwrap_or_else(|_| self.vcap.base().into());
        let mut hidden = vec![self.work.as_path(), self.vcap.base(), &base];
        if directories.iter().any(|at| self.cover.starts_with(at)) {
            hidden.push(&self.cover);
        }
        let named = named::find(environment, &directories, &hidden);
        // If two names lead to one directory, the last one is mounted over the first.
        let place_of = |path: &Path| {
            let mut private = private.iter().rev();
            private
                .find_map(|(name, at)| Some(relative.join(name).join(path.strip_prefix(at).ok()?)))
        };
        let paths = named.paths.into_iter();
        let links = named.links.into_iter();
        (
            paths
                .filter_map(|path| place_of(&path).map(|place| (path, place)))
                .collect(),
            links
                .filter_map(|(link, target)| Some((place_of(&link)?, target)))
                .collect(),
        )
    }
}
